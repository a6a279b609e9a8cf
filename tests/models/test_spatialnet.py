"""SpatialNet and its EfficientNet: the described arithmetic, exact sizes, any input size."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models import Network, Options, create_model, find, load_weights, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import initialise
from saccade.models.spatialnet import LearnedPooling, SpatialAttention, spread

TABLE = {
    "SpatialNet:0": (5_503_768, 0.4291),
    "SpatialNet:1": (8_124_397, 0.6443),
    "SpatialNet:2": (9_259_207, 0.7464),
    "SpatialNet:3": (12_212_566, 1.0874),
    "SpatialNet:4": (18_957_607, 1.7085),
    "SpatialNet:5": (29_665_438, 2.6976),
    "SpatialNet:6": (41_860_130, 3.8553),
    "SpatialNet:7": (64_739_386, 5.9673),
    "EfficientNet:0": (5_206_957, 0.4237),
    "EfficientNet:1": (7_689_486, 0.6362),
    "EfficientNet:2": (8_823_096, 0.7379),
    "EfficientNet:3": (11_721_730, 1.0762),
    "EfficientNet:4": (18_354_041, 1.6931),
    "EfficientNet:5": (28_917_572, 2.6759),
    "EfficientNet:6": (40_996_350, 3.8273),
    "EfficientNet:7": (63_672_117, 5.9290),
}
BOTH = ["spatialnet_0", "efficientnet_spec_0"]
STRIDES_OF_STAGES = (1, 2, 2, 2, 1, 2, 1)


@pytest.mark.parametrize(
    "name", ["SpatialNet:0", *(pytest.param(n, marks=pytest.mark.models) for n in [*TABLE][1:])]
)
@pytest.mark.spec(14, 15)
def test_parameters_and_macs_are_those_of_the_description(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], rel=0.01)
    assert counts.last_map == (8, 8)


def in_steps(model: Network, x: Tensor, spatial: bool, training: bool) -> Tensor:
    """Compute the logits (B, classes) of a network for 224 px, step by step as the block is
    described.
    """
    state = model.state_dict()

    def conv(x: Tensor, place: str, **options: int) -> Tensor:
        x = F.conv2d(x, state[f"{place}.0.weight"], state[f"{place}.0.bias"], **options)
        mean, var = (
            state[f"{place}.1.running_mean"].clone(),
            state[f"{place}.1.running_var"].clone(),
        )
        return F.batch_norm(
            x, mean, var, state[f"{place}.1.weight"], state[f"{place}.1.bias"], training=training
        )

    def linear(x: Tensor, place: str) -> Tensor:
        return F.linear(x, state[f"{place}.weight"].flatten(1), state[f"{place}.bias"])

    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def squeeze_excitation(r: Tensor, place: str) -> Tensor:
        squeezed = swish(linear(r.mean((2, 3)), f"{place}.fc1"))
        return r * torch.sigmoid(linear(squeezed, f"{place}.fc2"))[:, :, None, None]

    def both_gates(r: Tensor, place: str) -> Tensor:
        w = state[f"{place}.pool.place_weights"] / r.shape[-1]  # as it is stored
        q = (r.flatten(2) * w).sum(2)
        q = linear(swish(linear(q, f"{place}.channel_gate.0")), f"{place}.channel_gate.2")
        by_channel = torch.sigmoid(q)[:, :, None, None] * r
        m = F.conv2d(r, state[f"{place}.merge.weight"], state[f"{place}.merge.bias"])
        m = F.adaptive_avg_pool2d(m, 8).flatten(1)
        m = torch.sigmoid(
            linear(swish(linear(m, f"{place}.place_gate.0")), f"{place}.place_gate.2")
        )
        by_place = F.interpolate(m.view(-1, 1, 8, 8), r.shape[-2:], mode="nearest") * r
        return F.relu6(by_channel + by_place + r)

    x = swish(conv(x, "stem", stride=2, padding=1))
    for number, stage in enumerate(model.stages):
        for index in range(len(stage)):
            place, stride = (
                f"stages.{number}.{index}",
                STRIDES_OF_STAGES[number] if index == 0 else 1,
            )
            u = swish(conv(x, f"{place}.expand")) if number else x
            r = swish(conv(u, f"{place}.depthwise", stride=stride, padding=1, groups=u.shape[1]))
            y = (both_gates if spatial else squeeze_excitation)(r, f"{place}.attention")
            z = conv(y, f"{place}.project")
            x = z + x if stride == 1 and z.shape[1] == x.shape[1] else z
    return linear(swish(conv(x, "last")).mean((2, 3)), "fc")


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.models
@pytest.mark.spec(15)
def test_logits_are_those_of_the_described_steps(name: str, training: bool) -> None:
    model = randomised(create_model(name, num_classes=7, image_size=224)).double().train(training)
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = in_steps(model, images, name.startswith("spatial"), training)
        torch.testing.assert_close(
            model(images), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max())
        )


def randomised(model: Network) -> Network:
    """Give a network scales, shifts and statistics that hide nothing."""
    torch.manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.dim() < 2:
            nn.init.uniform_(tensor.data, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, LearnedPooling):
            nn.init.normal_(module.place_weights)
    return model


def test_the_learned_pooling_starts_as_the_mean() -> None:
    pool = LearnedPooling(9)
    initialise(pool, 0, None)
    x = torch.randn(2, 5, 9, 9)
    torch.testing.assert_close(pool(x), x.mean((2, 3)))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 4), (15, 15), (3, 9)])
def test_resized_pooling_gives_a_constant_map_the_same_value(height: int, width: int) -> None:
    pool = LearnedPooling(8)
    nn.init.normal_(pool.place_weights)
    wanted = float(pool(torch.full((1, 1, 8, 8), 3.0)).detach())
    assert float(pool(torch.full((1, 1, height, width), 3.0)).detach()) == pytest.approx(
        wanted, abs=1e-4
    )


def test_resized_pooling_still_looks_at_the_same_place() -> None:
    pool = LearnedPooling(8)
    nn.init.zeros_(pool.place_weights)
    pool.place_weights.data[0] = 1  # the upper left corner
    doubled = pool.weight_for(16, 16).detach()
    assert doubled.argmax() == 0
    assert float(doubled[8:, 8:].abs().max()) < 0.01 * float(doubled.max())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (5, 7), (3, 3)])
def test_the_attention_takes_other_sizes_than_it_was_built_for(height: int, width: int) -> None:
    attention = SpatialAttention(24, 16)
    initialise(attention, 0, None)
    with torch.no_grad():
        gated = attention(torch.randn(2, 24, height, width))
    assert gated.shape == (2, 24, height, width)
    assert torch.isfinite(gated).all() and float(gated.min()) == 0 and float(gated.max()) <= 6


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (13, 9), (4, 4), (5, 3), (1, 1)])
def test_every_cell_of_the_grid_gates_its_part_of_the_map(height: int, width: int) -> None:
    cells = torch.rand(1, 1, 8, 8, requires_grad=True)
    places = spread(cells, height, width)
    assert places.shape == (1, 1, height, width)
    if height % 8 == width % 8 == 0:
        repeated = cells.repeat_interleave(height // 8, 2).repeat_interleave(width // 8, 3)
        assert torch.equal(places, repeated)
    places.sum().backward()
    assert cells.grad is not None and cells.grad.gt(0).all()


@pytest.mark.parametrize(("before", "after"), [(224, 128), (32, 64), (64, 8)])
@pytest.mark.spec(15)
def test_weights_of_one_image_size_load_at_another(before: int, after: int) -> None:
    old = randomised(create_model("spatialnet_0", num_classes=3, image_size=before, seed=1)).eval()
    new = create_model("spatialnet_0", num_classes=3, image_size=after, seed=2).eval()
    report = load_weights(new, old.state_dict())
    assert report.share == 1 and not (
        report.missing or report.unused or report.misshaped or report.head
    )
    assert [n for n, _ in report.fitted] == [
        n for n, _ in new.named_parameters() if n.endswith("pool.place_weights")
    ]
    assert len(report.fitted) == 16 and "places, bilinear" in str(report)
    for ours, theirs in zip(_pools(new), _pools(old), strict=True):
        torch.testing.assert_close(
            ours.weight_for(ours.side, ours.side), theirs.weight_for(ours.side, ours.side)
        )
    if before == 224:  # both have the published strides
        images = torch.randn(2, 3, after, after, generator=torch.Generator().manual_seed(0))
        # logits around 3; the fitted weights are rounded to float32 once more
        with torch.no_grad():
            torch.testing.assert_close(new(images), old(images), rtol=0, atol=1e-3)


def _pools(model: nn.Module) -> list[LearnedPooling]:
    return [m for m in model.modules() if isinstance(m, LearnedPooling)]


def test_the_number_of_parameters_depends_on_the_size_through_the_pooling_alone() -> None:
    counts = set()
    for size in (8, 32, 64, 128, 224):
        model = meta_model("SpatialNet:0", num_classes=1000, image_size=size)
        counts.add(
            sum(p.numel() for p in model.parameters())
            - sum(p.place_weights.numel() for p in _pools(model))
        )
    assert len(counts) == 1


@pytest.mark.models
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 48), (24, 40), (8, 8)])
def test_a_network_takes_other_sizes_than_it_was_built_for(
    name: str, height: int, width: int
) -> None:
    model = create_model(name, num_classes=5, image_size=32).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(2, 3, height, width))).all()


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (8, [8, 8, 8, 4, 2]),
        (32, [32, 32, 32, 16, 8]),
        (64, [33, 33, 17, 9, 5]),
        (224, [113, 57, 29, 15, 8]),
    ],
)
def test_small_images_keep_a_map_worth_looking_at(size: int, sides: list[int]) -> None:
    model = meta_model("EfficientNet:0", num_classes=5, image_size=size)
    maps = model.features(torch.empty(1, 3, size, size, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, s, s) for c, s in zip([16, 24, 40, 112, 320], sides, strict=True)
    ]


def test_the_stem_reads_every_second_row_and_column() -> None:
    stem = find("EfficientNet:0").build(Options(num_classes=5)).get_submodule("stem").eval()
    images = torch.randn(1, 3, 16, 16, requires_grad=True)
    stem(images).sum().backward()
    assert images.grad is not None
    read = images.grad.abs().sum((0, 1)) > 0
    assert read[1::2, 1::2].all() and int(read.sum()) == 64


@pytest.mark.parametrize(
    "name", ["spatialnet_0", pytest.param("efficientnet_spec_0", marks=pytest.mark.models)]
)
def test_the_first_loss_is_that_of_guessing_and_backward_reaches_every_parameter(name: str) -> None:
    model = create_model(name, num_classes=10, image_size=32, seed=1)
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and getattr(norm, "ends_branch", False):
            nn.init.ones_(norm.weight)  # a zero scale would hide the branch behind it
    loss = F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8))
    loss.backward()
    assert abs(float(loss.detach()) / math.log(10) - 1) < 0.1
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    # A bias before a norm is taken out again: its gradient is nothing but rounding.
    taken_out = {
        f"{n}.0.bias"
        for n, m in model.named_modules()
        if isinstance(m, nn.Sequential) and _normed(m)
    }
    moved = {
        n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert set(dict(model.named_parameters())) - moved - taken_out == set()


def _normed(layers: nn.Sequential) -> bool:
    return len(layers) > 1 and isinstance(layers[1], nn.BatchNorm2d)


@pytest.mark.spec(9)
def test_every_spelling_finds_the_network() -> None:
    assert {
        find(n).name for n in ("SpatialNet:3", "spatialnet3", "SPATIALNET-3", "spatialnet_3")
    } == {"spatialnet_3"}
    assert {find(n).name for n in ("EfficientNet:7", "efficientnet_spec_7")} == {
        "efficientnet_spec_7"
    }


def test_many_steps_of_the_wide_gate_in_bfloat16_leave_the_memory_whole() -> None:
    """In a process of its own: the fault that this guards against ends it (seen on processors
    with AMX).
    """
    code = """
import torch
from saccade.models.parts.layers import initialise
from saccade.models.spatialnet import SpatialAttention
gate = SpatialAttention(2304, 2)
initialise(gate, 0, None)
for _ in range(60):
    x = torch.randn(8, 2304, 2, 2).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        gate(x).float().square().mean().backward()
    [torch.randn(7 * n + 3) for n in (10, 100, 1000, 5000)]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
