"""Optimisers: their formulas, their groups, their state, and how they go on after a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.loader import Batch
from saccade.models import create_model
from saccade.objectives.classification import of_settings
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import TOP1
from saccade.optim import optimizers as optim
from saccade.optim.ema import Ema
from saccade.optim.layer_decay import layer_numbers
from saccade.optim.methods import METHODS
from saccade.optim.muon import BLOCK_ROWS, Muon, muon_names, orthogonalise
from saccade.optim.optimizers import Optimizers
from saccade.optim.schedule import Schedule
from saccade.training import checkpoint
from saccade.training.guard import Guard
from saccade.training.state import State
from saccade.training.step import StepRunner

CPU = torch.device("cpu")
NAMES = tuple(METHODS)
Reference = Callable[[nn.Module, Config], Callable[[], None]]


def settings(**values: Any) -> Config:
    layers = Layers()
    for name, value in {
        "batch__global": 16,
        "batch__cell": 8,
        "optimizer__lr": 0.01,
        **values,
    }.items():
        layers.set(f"{name.replace('__', '.')}={value}")
    return layers.resolve()


def small_net() -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 4)
    )
    return net.to(memory_format=torch.channels_last)


def set_gradients(net: nn.Module, step: int) -> None:
    """Give every parameter a random gradient, the same for every network of these shapes."""
    torch.manual_seed(100 + step)
    for param in net.parameters():
        param.grad = torch.randn(param.shape).to(param).contiguous() * torch.randn(()).exp()
        if param.dim() == 4:
            param.grad = param.grad.to(memory_format=torch.channels_last)


def groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    params = list(net.parameters())
    return [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]


def torchs(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> Reference:
    return lambda net, config: make(groups(net, config.optimizer.weight_decay)).step


def loop(update: Callable[[Tensor, Tensor, dict[str, Any], float, Config], None]) -> Reference:
    """Turn a formula for one tensor into a step over a network; 1-D tensors do not decay."""

    def prepare(net: nn.Module, config: Config) -> Callable[[], None]:
        memory: dict[str, dict[str, Any]] = {name: {} for name, _ in net.named_parameters()}

        @torch.no_grad()
        def step() -> None:
            for name, param in net.named_parameters():
                decay = config.optimizer.weight_decay if param.dim() > 1 else 0.0
                update(param, param.grad.double(), memory[name], decay, config)

        return step

    return prepare


def tensorflow_rmsprop(
    w: Tensor, g: Tensor, memory: dict[str, Any], decay: float, config: Config
) -> None:
    """ms <- rho ms + (1 - rho) g^2; mom <- momentum mom + lr g / sqrt(ms + eps); w <- w - mom."""
    section = config.optimizer
    g = g + decay * w.double()
    ms = section.beta2 * memory.get("ms", torch.ones_like(g)) + (1 - section.beta2) * g**2
    mom = (
        section.momentum * memory.get("mom", torch.zeros_like(g))
        + 0.01 * g / (ms + section.eps) ** 0.5
    )
    memory.update(ms=ms, mom=mom)
    w.sub_(mom)


def lamb(w: Tensor, g: Tensor, memory: dict[str, Any], decay: float, config: Config) -> None:
    """You et al. 2020, algorithm 2, with phi(z) = z."""
    section = config.optimizer
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = section.momentum * memory.get("m", 0) + (1 - section.momentum) * g
    v = memory["v"] = section.beta2 * memory.get("v", 0) + (1 - section.beta2) * g**2
    r = (m / (1 - section.momentum**t)) / ((v / (1 - section.beta2**t)).sqrt() + section.eps)
    if w.dim() > 1:
        r = r + decay * w.double()
        r = r * w.double().norm() / r.norm()
    w.sub_(0.01 * r)


def muon(w: Tensor, g: Tensor, memory: dict[str, Any], decay: float, config: Config) -> None:
    """Jordan et al. 2024 on the hidden filter (8 inputs).

    SGD with Nesterov momentum and coupled decay elsewhere.
    """
    section = config.optimizer
    if w.dim() == 4 and w.shape[1] == 8:
        memory["v"] = torch.lerp(
            memory.get("v", torch.zeros_like(w)), g.float(), 1 - section.momentum
        )
        update = torch.lerp(g.float(), memory["v"], section.momentum).permute(0, 2, 3, 1)
        w.mul_(1 - 0.01 * decay)
        w.sub_(
            0.01
            * orthogonalise([update.flatten(1)])[0].view(update.shape).permute(0, 3, 1, 2).float()
        )
        return
    g = g + decay * w.double()
    memory["v"] = section.rest_momentum * memory.get("v", 0) + g
    w.sub_(0.02 * (g + section.rest_momentum * memory["v"]))


CASES: list[tuple[str, dict[str, Any], Reference]] = [
    ("sgd", {}, torchs(lambda g: torch.optim.SGD(g, 0.01, 0.9, nesterov=True))),
    ("sgd", {"nesterov": False}, torchs(lambda g: torch.optim.SGD(g, 0.01, 0.9))),
    ("sgd", {"momentum": 0.0}, torchs(lambda g: torch.optim.SGD(g, 0.01))),
    ("adam", {"eps": 1e-6}, torchs(lambda g: torch.optim.Adam(g, 0.01, (0.9, 0.99), 1e-6))),
    ("adamw", {"momentum": 0.8}, torchs(lambda g: torch.optim.AdamW(g, 0.01, (0.8, 0.99)))),
    (
        "rmsprop",
        {"beta2": 0.9, "eps": 1.0},
        torchs(lambda g: torch.optim.RMSprop(g, 0.01, 0.9, 1.0, momentum=0.9)),
    ),
    ("rmsprop", {"momentum": 0.0}, torchs(lambda g: torch.optim.RMSprop(g, 0.01))),
    ("rmsprop-tf", {"beta2": 0.9, "eps": 1e-3}, loop(tensorflow_rmsprop)),
    ("rmsprop-tf", {"momentum": 0.0}, loop(tensorflow_rmsprop)),
    ("lamb", {"eps": 1e-6}, loop(lamb)),
    ("muon", {"rest_lr": 0.02}, loop(muon)),
]


@pytest.mark.parametrize(
    ("name", "more", "reference"), CASES, ids=lambda v: str(v) if isinstance(v, str | dict) else ""
)
@pytest.mark.spec(24)
def test_a_method_follows_its_formula(
    name: str, more: dict[str, Any], reference: Reference
) -> None:
    values = {"name": name, "weight_decay": 0.1, "beta2": 0.99, **more}
    config = settings(**{f"optimizer__{k}": v for k, v in values.items()})
    ours, theirs = small_net(), small_net()
    optimizers, their_step = optim.build(ours, config, CPU), reference(theirs, config)
    for step in range(6):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizers.step()
        their_step()
    for (where, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            a, b, rtol=2e-5, atol=2e-6, msg=lambda text, where=where: f"{where}: {text}"
        )


def test_the_rest_of_muon_can_be_adamw() -> None:
    config = settings(
        optimizer__name="muon", optimizer__rest="adamw", optimizer__rest_lr="0.001 per 64"
    )
    optimizers = optim.build(small_net(), config, CPU)
    muon_part, rest = optimizers.parts
    assert [tuple(p.shape) for p in muon_part.param_groups[0]["params"]] == [(6, 8, 3, 3)]
    assert isinstance(rest, torch.optim.AdamW) and rest.param_groups[0]["lr"] == pytest.approx(
        0.0005
    )
    assert "0.0005 = 0.001 x sqrt(16/64) (sqrt) for AdamW on the rest" in optimizers.formula


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


class Transformer(nn.Module):
    """The shape of a vision transformer, some of it in an encoder of its own; it is never run."""

    no_decay = ("position",)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 9, 16))
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.encoder.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)


def test_muon_takes_the_hidden_matrices_of_a_transformer_and_nothing_else() -> None:
    taken = muon_names(Transformer())
    inner = ("qkv.weight", "mlp.0.weight", "mlp.2.weight")
    assert taken == {f"encoder.blocks.{i}.{name}" for i in range(3) for name in inner}
    resnet = create_model("resnet8", num_classes=4, image_size=16)
    assert "fc.weight" not in muon_names(resnet) and "conv1.weight" not in muon_names(resnet)
    assert {"layer2.0.conv1.weight", "layer2.0.downsample.0.weight"} < muon_names(resnet)
    assert all(resnet.get_parameter(n).dim() == 4 for n in muon_names(resnet))


def test_a_matrix_of_many_rows_is_orthogonalised_in_blocks() -> None:
    net = nn.Sequential(nn.Linear(32, 3 * BLOCK_ROWS), nn.Linear(3 * BLOCK_ROWS, 4))
    before = net[0].weight.detach().clone()
    optimizers = optim.build(
        net, settings(optimizer__name="muon", optimizer__weight_decay=0.0), CPU
    )
    set_gradients(net, 0)
    optimizers.step()
    moved = (before - net[0].weight.detach()) / 0.01 / (3 * BLOCK_ROWS / 32) ** 0.5
    for block in moved.split(BLOCK_ROWS):
        values = torch.linalg.svdvals(block)
        assert float(values.min()) > 0.5 and float(values.max()) < 1.4


def test_a_fixed_norm_keeps_each_filter_as_large_as_its_rows_ask_for() -> None:
    norms = {}
    for fixed in (True, False):
        filters = nn.Parameter(
            0.01 * torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        )
        muon = Muon([{"params": [filters]}], 0.2, 0.6, True, 0.0, fixed)
        muon.state[filters]["momentum_buffer"] = torch.zeros_like(filters)
        draws = torch.Generator().manual_seed(1)
        for _ in range(100):
            filters.grad = torch.randn(16, 8, 3, 3, generator=draws)
            muon.step()
        norms[fixed] = float(filters.detach().norm())
    assert abs(norms[True] / 16**0.5 - 1) < 0.2 and norms[False] > 1.5 * norms[True]


@pytest.mark.spec(24)
def test_decay_spares_vectors_and_tables_unless_all_is_asked_for() -> None:
    for wanted in ("weights", "all"):
        net = Transformer()
        config = settings(
            optimizer__name="lamb", optimizer__weight_decay=0.1, optimizer__decay=wanted
        )
        for group in optim.build(net, config, CPU).parts[0].param_groups:
            names = {n for n, p in net.named_parameters() for q in group["params"] if p is q}
            plain = {n for n in names if n == "position" or net.get_parameter(n).dim() == 1}
            assert plain in (names, set())
            assert group["weight_decay"] == (0.0 if plain and wanted == "weights" else 0.1)
            assert group["adapt"] == (not plain), "the trust ratio is for weights, whatever decays"


def test_layers_are_counted_from_the_input_to_the_head() -> None:
    numbers = layer_numbers(Transformer())
    assert numbers["position"] == numbers["patches.weight"] == numbers["patches.bias"] == 0
    assert [
        numbers[f"encoder.blocks.{i}.{name}"]
        for i in range(3)
        for name in ("norm.weight", "mlp.2.bias")
    ] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert (
        numbers["encoder.norm.weight"] == 3 and numbers["head.weight"] == numbers["head.bias"] == 4
    )
    resnet = layer_numbers(create_model("resnet14", num_classes=4, image_size=16))
    assert (
        resnet["conv1.weight"] == resnet["bn1.weight"] == 0
        and resnet["fc.bias"] == max(resnet.values()) == 7
    )
    assert resnet["layer1.0.conv1.weight"] == resnet["layer1.0.bn2.bias"] == 1
    assert resnet["layer3.1.conv2.weight"] == 6


@pytest.mark.parametrize(
    ("name", "last", "place", "number"),
    [
        # a convolution with its norm is a part of a block: 17 blocks, a stem, a last one, a head
        ("mobilenet_v2", 19, "stages.1.0.block.2.0.weight", 2),
        ("googlenet", 14, "inception3a.branch2.1.conv.weight", 3),
        ("torchvision:vit_b_16", 13, "encoder.pos_embedding", 0),
        ("timm:convnext_atto", 16, "head.norm.weight", 16),
    ],
)
def test_layers_of_other_families_are_blocks_too(
    name: str, last: int, place: str, number: int
) -> None:
    with torch.device("meta"):
        numbers = layer_numbers(create_model(name, num_classes=4, image_size=224))
    assert max(numbers.values()) == last and numbers[place] == number


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_rates_fall_from_layer_to_layer_towards_the_input(name: str) -> None:
    net = Transformer()
    config = settings(optimizer__name=name, optimizer__layer_decay=0.5, optimizer__rest_lr=0.01)
    optimizers = optim.build(net, config, CPU)
    optimizers.follow(Schedule("linear", 10, 0, 0.0), 9)
    numbers, seen = layer_numbers(net), 0
    for part in optimizers.parts:
        for group in part.param_groups:
            for param in group["params"]:
                expected = 0.01 * 0.1 * 0.5 ** (4 - numbers[optimizers.names[param]])
                assert group["lr"] == pytest.approx(expected)
                seen += 1
    assert seen == len(numbers) and optimizers.lr == pytest.approx(0.001)


@pytest.mark.parametrize("name", NAMES)
def test_state_exists_from_step_0_in_the_layout_of_its_parameter(name: str) -> None:
    net = small_net()
    optimizers = optim.build(net, settings(optimizer__name=name), CPU)
    at_start = {n: (t.shape, t.stride(), t.dtype) for n, t in optimizers.tensors().items()}
    set_gradients(net, 0)
    optimizers.step()
    after = optimizers.tensors()
    assert at_start == {n: (t.shape, t.stride(), t.dtype) for n, t in after.items()}
    for place, param in net.named_parameters():
        state = [t for n, t in after.items() if n.rpartition("/")[0] == place and t.dim()]
        assert state and all(t.stride() == param.stride() for t in state)
    assert not net[0].weight.is_contiguous(), (
        "the network must have filters whose layout can go wrong"
    )


@pytest.mark.spec(28, "A2")
def test_a_rate_follows_the_batch_as_suits_its_method() -> None:
    for name in NAMES:
        lr, formula = optim.peak(
            settings(optimizer__name=name, optimizer__lr="0.4 per 4").optimizer, 16
        )
        rule = "sqrt" if name in ("adam", "adamw", "lamb") else "linear"
        assert lr == pytest.approx({"sqrt": 0.8, "linear": 1.6}[rule]) and rule in formula


def test_the_flavour_is_chosen_by_method_and_device_and_an_earlier_choice_holds() -> None:
    def flavour(name: str, device: torch.device = CPU, rest: str = "sgd") -> str:
        section = settings(optimizer__name=name, optimizer__rest=rest).optimizer
        return optim.flavour(section, device)[0]

    assert flavour("sgd") == flavour("muon") == "fused"
    assert flavour("lamb") == flavour("sgd", torch.device("mps")) == "foreach"
    assert flavour("muon", rest="lamb") == "foreach"
    part = optim.build(small_net(), settings(optimizer__name="adamw"), CPU, "foreach").parts[0]
    assert not part.defaults["fused"] and part.defaults["foreach"]


def make_state(name: str, more: dict[str, Any]) -> tuple[State, StepRunner]:
    config = settings(optimizer__name=name, precision="fp32", **more)
    model = small_net()
    curve = Schedule("plateau", 100, 3, 0.0, patience=0, gamma=0.5)
    state = State(model, optim.build(model, config, CPU), Ema(model, 3.0))
    return state, StepRunner(
        config=config,
        schedule=curve,
        precision="fp32",
        device=CPU,
        guard=Guard("lr"),
        objective=of_settings(config),
    )


def advance(state: State, runner: StepRunner, until: int) -> None:
    """Step on generated images.

    After every second step comes an evaluation that is no better than the first.
    """
    while state.step < until:
        torch.manual_seed(state.step)
        pixels = torch.randint(0, 256, (16, 3, 6, 6), dtype=torch.uint8).contiguous(
            memory_format=torch.channels_last
        )
        numbers = np.arange(16)
        runner.step(state, Batch(pixels, torch.arange(16) % 4, numbers, numbers * 0))
        if state.step % 2 == 0:
            figures = {"top1": 0.25, "loss": 1.4}
            entry = Evaluation(state.step, 0.0, "val", 1, figures=figures, primary=TOP1)
            state.evaluations.append(entry)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_bit_for_bit_after_a_checkpoint(name: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "optimizer__clip": 0.5,
        "optimizer__layer_decay": 0.8,
        "optimizer__rest": "adamw",
    }
    whole, runner = make_state(name, more)
    advance(whole, runner, 8)
    first, runner = make_state(name, more)
    advance(first, runner, 5)
    contents = checkpoint.packed(first, {})
    saved = checkpoint.read(checkpoint.publish(tmp_path, first.step, contents))
    second, runner = make_state(name, more)
    checkpoint.restore(saved, second)
    advance(second, runner, 8)
    assert second.digest() == whole.digest()
    assert second.optimizers.lr == whole.optimizers.lr == pytest.approx(0.01 * 0.5**2), (
        "plateau dropped twice"
    )


@pytest.mark.spec(28)
def test_clipping_bounds_the_gradients_of_the_whole_batch_and_leaves_small_ones_alone() -> None:
    moves = []
    for clip in (0.0, 0.1, 1e6):
        more = {"optimizer__momentum": 0.0, "optimizer__weight_decay": 0.0, "optimizer__clip": clip}
        state, runner = make_state("sgd", more)
        before = copy.deepcopy(state.model)
        advance(state, runner, 1)
        pairs = zip(state.model.parameters(), before.parameters(), strict=True)
        moves.append(torch.cat([(a - b).detach().flatten() for a, b in pairs]))
    lr = 0.01 / 3  # the first of three warm-up steps
    assert float(moves[0].norm()) > float(moves[1].norm()) == pytest.approx(lr * 0.1, rel=1e-3)
    torch.testing.assert_close(
        moves[1] / moves[1].norm(), moves[0] / moves[0].norm(), rtol=0, atol=1e-3
    )
    assert torch.equal(moves[0], moves[2])


def test_parameters_without_a_gradient_are_left_alone() -> None:
    for name in NAMES:
        net = small_net()
        optimizers: Optimizers = optim.build(
            net, settings(optimizer__name=name, optimizer__weight_decay=0.1), CPU
        )
        set_gradients(net, 0)
        net[2].weight.grad = None
        before = net[2].weight.detach().clone()
        optimizers.step()
        assert torch.equal(net[2].weight, before) and not torch.equal(
            net[0].weight, small_net()[0].weight
        )
