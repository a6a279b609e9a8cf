"""Any network becomes one that computes as in 8 bits, by its structure alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import MovingAverageMinMaxObserver

from saccade.models import create_model, meta_model, register_model, registered
from saccade.models.quantized import equalising
from saccade.models.quantized.building import in_8_bits, take_weights, watch
from saccade.models.quantized.capturing import captured, nodes_of
from saccade.models.quantized.folding import folded
from saccade.models.quantized.naming import base_of, parsed
from saccade.models.quantized.placing import QUANTIZERS
from saccade.models.quantized.quantizers import Activations, Weights, power_of_two_above
from saccade.models.quantized.schemes import SCHEMES

SIDE = 32
INT8, SHIFTS = SCHEMES["int8"], SCHEMES["power-of-two"]


def drawn(name: str, side: int = SIDE) -> nn.Module:
    """Return a network whose norms have statistics, gains and shifts of their own."""
    torch.manual_seed(5)
    network = create_model(name, num_classes=4, image_size=side)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.uniform_(-0.3, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            if isinstance(part.weight, nn.Parameter):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.3, 0.3)
    return network.eval()


def images(count: int = 8, side: int = SIDE) -> Tensor:
    """Return normalised images, float32 (n, 3, side, side)."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(7))


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of logits (n, C), as a share of their deviation."""
    return float((one - other).abs().max() / one.std())


MOBILE = pytest.param("mobilenet_v2_xp25", marks=pytest.mark.full)


@pytest.mark.parametrize("name", ["resnet8", "airbench94", MOBILE])
def test_a_folded_graph_answers_as_the_network_at_any_size(name: str) -> None:
    network = drawn(name)
    graph = folded(captured(network, SIDE, name))
    with torch.no_grad():
        for side in (SIDE, SIDE + 16):
            assert apart(network(images(3, side)), graph(images(3, side))) < 1e-4
    left = [node for node in nodes_of(graph.graph) if "batch_norm" in str(node.target)]
    # airbench has norms behind its pools, which do not fold
    assert len(left) == (3 if name == "airbench94" else 0)


def test_folding_leaves_the_network_as_it_was() -> None:
    network = drawn("resnet8")
    before = copy.deepcopy(network.state_dict())
    folded(captured(network, SIDE, "resnet8"))
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["resnet8", MOBILE])
def test_the_structure_is_the_same_without_memory(name: str, scheme: str) -> None:
    name = f"quantized:{scheme}:{name}"
    real = create_model(name, num_classes=4, image_size=SIDE).state_dict()
    empty = meta_model(name, num_classes=4, image_size=SIDE).state_dict()
    assert {n: t.shape for n, t in real.items()} == {n: t.shape for n, t in empty.items()}
    assert all(t.is_meta for t in empty.values())
    assert "conv1.weight" in real or "stem.0.weight" in real, "names are those of the network"


def test_names_say_scheme_and_network() -> None:
    assert parsed("quantized:power-of-two:timm:resnet10t") == (SHIFTS, "timm:resnet10t")
    assert parsed("resnet8") == (None, "resnet8")
    assert base_of("quantized:int4:resnet8") == "quantized:int4:resnet8"


class Mine(nn.Module):
    """A network of a user's own, with a sum in place."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, 3, H, W)."""
        first = self.act(self.norm(self.one(x)))
        out = self.two(first)
        out += first
        return self.head(self.act(out).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_network_that_a_user_registered_is_quantised_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # other tests look at all names
    monkeypatch.setattr(registered, "_OWN", dict(registered._OWN))
    register_model("mine_in_8_bits", Mine)
    made = create_model("quantized:int8:mine_in_8_bits", num_classes=4, image_size=SIDE)
    watch(made, [images()], 0)
    assert made(images(2)).shape == (2, 4)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_rounding_moves_answers_a_little_and_every_weight_learns(scheme: object) -> None:
    assert scheme in (INT8, SHIFTS)
    network = drawn("resnet8")
    made = in_8_bits(network, scheme, SIDE, "resnet8")  # type: ignore[arg-type]
    watch(made, [images()], 4)
    with torch.no_grad():
        moved = apart(network(images()), made.eval()(images()))
    assert 0 < moved < 0.2
    made.train()(images()).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().any()) for p in made.parameters())


@pytest.mark.full
def test_every_layer_takes_rounded_numbers_and_rounded_weights() -> None:
    made = in_8_bits(drawn("mobilenet_v2_xp25"), INT8, SIDE, "mobilenet_v2_xp25")
    watch(made, [images()], 0)
    taken: list[tuple[int, int]] = []

    class Watched(fx.Interpreter):
        def call_function(self, target: object, args: object, kwargs: object) -> object:
            if "conv2d" in str(target) or "linear" in str(target):
                x, weight = args[0], args[1]  # type: ignore[index]
                most = max(len(row.unique()) for row in weight.flatten(1))
                taken.append((len(x.unique()), most))
            return super().call_function(target, args, kwargs)  # type: ignore[arg-type,no-untyped-call]

    with torch.no_grad():
        Watched(made.eval()).run(images())  # type: ignore[no-untyped-call]
    assert len(taken) == 53
    assert all(steps <= 256 and levels <= 255 for steps, levels in taken)


def test_ranges_follow_the_batches_as_torch_has_it_and_rest_after_half() -> None:
    quantizer = Activations(INT8).train()
    judge = MovingAverageMinMaxObserver(averaging_constant=0.01)
    quantizer.until.fill_(5)
    batches = [torch.randn(64, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    quantizer.running_low.copy_(batches[0].min())
    quantizer.running_high.copy_(batches[0].max())
    judge(batches[0])
    for batch in batches[:5]:
        quantizer(batch)
        judge(batch)
    assert torch.allclose(quantizer.running_low, judge.min_val)
    assert torch.allclose(quantizer.running_high, judge.max_val)
    before = quantizer.running_high.clone()
    for batch in batches[5:]:
        quantizer(batch)
    assert torch.equal(quantizer.running_high, before)
    assert int(quantizer.steps) == 10


@pytest.mark.parametrize("low", [0.0, -3.0])
@pytest.mark.spec(40)
def test_scales_of_two_are_the_smallest_that_hold_the_range(low: float) -> None:
    quantizer = Activations(SHIFTS).eval()
    quantizer.running_low.fill_(low)
    quantizer.running_high.fill_(5.0)
    scale, zero = (float(one) for one in quantizer.scale_and_zero())
    assert math.log2(scale) == int(math.log2(scale))
    assert zero == (128 if low else 0)
    assert (255 - zero) * scale >= 5.0 > (255 - zero) * scale / 2


def test_both_ends_of_a_range_are_whole_steps() -> None:
    quantizer = Activations(INT8).eval()
    for low, high in ((-1.0, 1.0), (-0.3, 2.0), (0.0, 7.0), (-5.0, 0.0)):
        quantizer.running_low.fill_(low)
        quantizer.running_high.fill_(high)
        scale, zero = (float(one) for one in quantizer.scale_and_zero())
        ends = torch.tensor([low, high])
        assert torch.allclose(quantizer(ends), ends, atol=0.51 * scale)
        # no half step, which two programs may round to different sides
        assert min(abs(end / scale % 1 - 0.5) for end in (low, high)) > 1e-3
        assert zero + low / scale + 0.5 >= 0 and zero + high / scale <= 255.5


def test_powers_of_two_are_exact() -> None:
    numbers = torch.tensor([1.0, 1.0000001, 0.75, 2**-20, 3e-39, 2.0**100 * 1.5])
    expected = [1.0, 2.0, 1.0, 2**-20, 2.0**-126, 2.0**101]
    assert power_of_two_above(numbers).tolist() == expected


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.spec(40)
def test_weights_are_rounded_by_hand_the_same(per_channel: bool) -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    scheme = INT8 if per_channel else SHIFTS
    found = Weights(scheme)(weight)
    for row, expected in zip(weight.tolist(), found.tolist(), strict=True):
        largest = max(map(abs, row)) if per_channel else float(weight.abs().max())
        scale = largest / scheme.most_weight
        # the largest may lie a little beyond the last step
        scale = scale if per_channel else 2 ** math.ceil(math.log2(scale * 32 / 33))
        assert expected == pytest.approx([round(one / scale) * scale for one in row], abs=1e-6)


@pytest.mark.full
def test_equalising_changes_no_answer_and_evens_out_the_channels() -> None:
    network = drawn("mobilenet_v2_xp25")
    graph = folded(captured(network, SIDE, "x"))
    equalising.unclip(graph)
    with torch.no_grad():
        before = graph(images())
        spread = widest(graph)
        assert equalising.equalise(graph) == 34
        assert apart(before, graph(images())) < 1e-4
        assert widest(graph) < 0.7 * spread


def widest(graph: nn.Module) -> float:
    """Return the mean ratio of the largest to the median channel of depthwise weights."""
    found = [
        w.abs().flatten(1).amax(1)
        for n, w in graph.named_parameters()
        if w.dim() == 4 and w.shape[1] == 1
    ]
    return sum(float(one.max() / one.median()) for one in found) / len(found)


def test_taken_weights_answer_as_the_network_but_for_rounding() -> None:
    made = in_8_bits(drawn("resnet8"), INT8, SIDE, "resnet8")
    other = drawn("resnet8")
    with torch.no_grad():
        other.get_parameter("fc.weight").mul_(-2)
    take_weights(made, other, INT8, SIDE)
    watch(made, [images()], 0)
    with torch.no_grad():
        assert apart(other(images()), made.eval()(images())) < 0.2
    assert any(name.startswith(QUANTIZERS) for name in made.state_dict())
