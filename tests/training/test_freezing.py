"""Parts of a network that rest: which, that nothing touches them, and when they wake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saccade.config.layers import Layers
from saccade.data.loader import Batch
from saccade.errors import ConfigError
from saccade.models import create_model
from saccade.optim.methods import METHODS
from saccade.preflight import network
from saccade.setup.steps import make_step
from saccade.training import checkpoint, freezing
from saccade.training.freezing import Rest
from saccade.training.state import State
from saccade.training.step import StepRunner

PIXELS = torch.Generator().manual_seed(7)
IMAGES = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=PIXELS).contiguous(
    memory_format=torch.channels_last
)
NUMBERS = np.arange(16)
BATCH = Batch(IMAGES, torch.arange(16) % 4, NUMBERS, NUMBERS * 0)
SETTINGS = {
    "schedule.warmup": "0step",
    "schedule.name": "constant",
    "device": "cpu",
    "precision": "fp32",
    "batch.global": 16,
    "batch.cell": 8,
    "epochs": "10step",
    "optimizer.weight_decay": 0.1,
    "optimizer.lr": 0.01,
}


def make(model: nn.Module | None = None, **settings: Any) -> tuple[State, StepRunner]:
    layers = Layers()
    named = {name.replace("__", "."): value for name, value in settings.items()}
    for name, value in (SETTINGS | named).items():
        layers.set(f"{name}={value}")
    model = model or create_model("resnet8", num_classes=4, image_size=16, seed=5)
    return make_step(layers.resolve(), model)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    """Name what has other bits: +0 and -0 are two numbers here."""
    return {
        name
        for name, tensor in model.state_dict().items()
        if tensor.numpy().tobytes() != before[name].numpy().tobytes()
    }


def resting(part: str, model: nn.Module | None = None) -> set[str]:
    model = model or create_model("resnet8", num_classes=4, image_size=16, seed=5)
    section = Layers()
    section.set(f"finetune.freeze={part}")
    return set(freezing.plan(model, section.resolve().finetune).until)


@pytest.mark.parametrize("method", METHODS)
def test_what_rests_keeps_its_bits_and_so_do_its_statistics_and_its_average(method: str) -> None:
    state, runner = make(finetune__freeze="layer2", ema__half_life="3step", optimizer__name=method)
    with torch.no_grad():
        # a step of the average from -0 to -0 would end at +0
        state.model.get_parameter("layer1.0.conv1.weight")[0, 0] = -0.0
    assert state.ema
    state.ema.model.load_state_dict(state.model.state_dict())
    before = values(state.model)
    # the average moves less than half of the way from step 9 on
    for _ in range(12):
        runner.step(state, BATCH)

    rested = ("conv1.", "bn1.", "layer1.", "layer2.")
    for model in (state.model, state.ema.model):
        moved = changed(before, model)
        assert not {name for name in moved if name.startswith(rested)}
        assert {"layer3.0.conv1.weight", "layer3.0.bn1.running_var", "fc.bias"} <= moved
    assert not any(name.startswith(rested) for name in state.optimizers.tensors())


def test_a_step_is_that_of_plain_torch_with_the_lower_part_in_evaluation_mode() -> None:
    state, runner = make(
        finetune__freeze="layer2", optimizer__momentum=0.9, batch__cell=16, augment__flip=0
    )
    twin = create_model("resnet8", num_classes=4, image_size=16, seed=5).train()
    twin.load_state_dict(state.model.state_dict())
    lower = [twin.get_submodule(name) for name in ("conv1", "bn1", "layer1", "layer2")]
    for module in lower:
        module.requires_grad_(False).eval()
    awake = dict(twin.get_submodule("layer3").named_parameters(prefix="layer3"))
    awake |= dict(twin.get_submodule("fc").named_parameters(prefix="fc"))
    judge = torch.optim.SGD(
        [
            {"params": [p for p in awake.values() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in awake.values() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
        momentum=0.9,
        nesterov=True,
    )

    section = runner.config.data
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (section.mean, section.std))
    for _ in range(5):
        runner.step(state, BATCH)
        judge.zero_grad()
        loss = nn.functional.cross_entropy(
            twin((IMAGES / 255 - mean) / std), BATCH.labels, label_smoothing=0.1
        )
        loss.backward()
        judge.step()
    for name, tensor in state.model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_norms_that_are_frozen_keep_their_statistics_while_all_weights_train() -> None:
    state, runner = make(finetune__norms="frozen", ema__half_life="3step")
    before = values(state.model)
    for _ in range(3):
        runner.step(state, BATCH)
        # an evaluation gives the whole network back in training mode
        state.model.eval()
        state.model.train()
    moved = changed(before, state.model)
    assert not {name for name in moved if "running_" in name or "num_batches" in name}
    assert {"conv1.weight", "layer3.0.bn2.weight", "fc.weight"} <= moved


@pytest.mark.parametrize(
    ("part", "last", "first_awake"),
    [
        ("stem", "bn1.bias", "layer1.0.conv1.weight"),
        ("conv1", "bn1.bias", "layer1.0.conv1.weight"),
        ("layer2", "layer2.0.bn2.bias", "layer3.0.conv1.weight"),
        ("0.5", "layer1.0.bn2.bias", "layer2.0.conv1.weight"),
        ("75%", "layer2.0.bn2.bias", "layer3.0.conv1.weight"),
        ("backbone", "layer3.0.bn2.bias", "fc.weight"),
    ],
)
def test_a_part_rests_from_the_input_up_to_and_including_it(
    part: str, last: str, first_awake: str
) -> None:
    model = create_model("resnet8", num_classes=4, image_size=16)
    names = [name for name, _ in model.named_parameters()]
    found = resting(part, model)
    assert {"conv1.weight", "bn1.weight", last} <= found and first_awake not in found
    assert found <= set(names[: names.index("fc.weight")])


def test_fixres_leaves_the_head_and_the_last_norm_awake() -> None:
    model = create_model("resnet8", num_classes=4, image_size=16)
    awake = {n for n, _ in model.named_parameters()} - resting("backbone-but-last-norm", model)
    assert awake == {"fc.weight", "fc.bias", "layer3.0.bn2.weight", "layer3.0.bn2.bias"}

    state, runner = make(finetune__freeze="backbone-but-last-norm")
    before = values(state.model)
    for _ in range(3):
        runner.step(state, BATCH)
    statistics = {f"layer3.0.bn2.{n}" for n in ("running_mean", "running_var")}
    assert changed(before, state.model) == {
        *awake,
        *statistics,
        "layer3.0.bn2.num_batches_tracked",
    }


@pytest.mark.parametrize(
    "name", ["vit_ti_16", "swin_t", "mobilenet_v2", "efficientnet_b0", "convnext_t"]
)
def test_every_family_has_a_stem_halves_and_a_backbone(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=4, image_size=64)
    sizes = [len(resting(part, model)) for part in ("stem", "0.5", "backbone")]
    assert 0 < sizes[0] < sizes[1] < sizes[2] == len(list(model.parameters())) - 2


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("layer9", "no module 'layer9'(?s:.*)did you mean layer"),
        ("fc", "'fc' contains no layer before the head"),
        ("layer3.0.conv1", "part of the layer 'layer3.0'"),
    ],
)
def test_a_part_that_cannot_rest_is_refused_in_words(part: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resting(part)


def test_layers_wake_one_after_the_other_from_the_head_and_all_in_time() -> None:
    state, runner = make(finetune__freeze="backbone", finetune__unfreeze="8step")
    parts = ("fc", "layer3", "layer2", "layer1", "conv1")
    first = dict.fromkeys(parts, -1)
    for step in range(10):
        before = values(state.model)
        runner.step(state, BATCH)
        moved = changed(before, state.model)
        for part in parts:
            if first[part] < 0 and any(name.startswith(part) for name in moved):
                first[part] = step
    assert list(first.values()) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("stopped_at", [1, 2, 3])
def test_a_resume_is_exact_on_both_sides_of_waking(stopped_at: int) -> None:
    """The moments are steps 2 and 3 here; the second network begins as a resumed one would."""
    settings: dict[str, Any] = {
        "finetune__freeze": "0.5",
        "finetune__unfreeze": "3step",
        "optimizer__name": "adamw",
        "ema__half_life": "3step",
    }
    (state, runner), (other, second) = make(**settings), make(**settings)
    for _ in range(stopped_at):
        runner.step(state, BATCH)
    checkpoint.through_memory(state, other)
    for _ in range(4):
        runner.step(state, BATCH)
        second.step(other, BATCH)
        assert state.digest() == other.digest()


def test_the_head_learns_at_a_rate_of_its_own() -> None:
    state, _ = make(finetune__head_lr=20, optimizer__layer_decay=0.5)
    rates = {
        state.optimizers.names[p]: group["peak_lr"]
        for part in state.optimizers.parts
        for group in part.param_groups
        for p in group["params"]
    }
    assert rates["fc.weight"] == rates["fc.bias"] == pytest.approx(20 * 0.01)
    assert rates["layer3.0.conv1.weight"] == pytest.approx(0.5 * 0.01)
    assert rates["conv1.weight"] == pytest.approx(0.5**4 * 0.01)
    # the rate that people see is that of the settings
    state.optimizers.follow(make()[1].schedule, 3)
    assert state.optimizers.lr == pytest.approx(0.01)


def test_a_copy_for_a_trial_is_as_large_as_the_network_will_be() -> None:
    state, runner = make(finetune__freeze="backbone", finetune__unfreeze="8step")
    runner.step(state, BATCH)
    assert state.freezing
    assert not state.model.get_parameter("conv1.weight").requires_grad
    copy = create_model("resnet8", num_classes=4, image_size=16)
    state.freezing.on(copy).settle(0)
    assert all(p.requires_grad for p in copy.parameters())


def test_a_dropout_inside_what_rests_draws_nothing() -> None:
    inner = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), inner, nn.Dropout(0.5), nn.Linear(8, 4))
    names = ("1.weight", "1.bias", "2.0.weight", "2.0.bias")
    rests = freezing.Freezing(net, Rest(dict.fromkeys(names)))
    rests.settle(0)
    assert not inner[1].training and net[3].training


def test_resting_without_weights_to_start_from_is_a_warning() -> None:
    def found(*assignments: str) -> list[str]:
        layers = Layers()
        for assignment in assignments:
            layers.set(assignment)
        config = layers.resolve()
        return [finding.id for finding in network.rest_untrained(config, None)]

    assert (
        found("finetune.freeze=backbone") == found("finetune.norms=frozen") == ["rests-untrained"]
    )
    assert found("finetune.freeze=backbone", "model.init=timm:resnet18") == found() == []


def test_a_network_without_a_head_cannot_rest_on_it() -> None:
    with pytest.raises(ConfigError, match="head of Sequential cannot be found"):
        resting("backbone", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
