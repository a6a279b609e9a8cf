"""RegNets: the paper's line gives the published widths, torchvision's and timm's weights the
same logits.
"""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

from saccade.models import Network, create_model, find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.regnet import X_DESIGNS, Y_DESIGNS

TABLE = {
    "regnet_x_400mf": (5_157_512, 0.3977),
    "regnet_x_800mf": (7_259_656, 0.7997),
    "regnet_x_1_6gf": (9_190_136, 1.6028),
    "regnet_x_3_2gf": (15_296_552, 3.1766),
    "regnet_x_8gf": (39_572_648, 7.995),
    "regnet_x_16gf": (54_278_536, 15.941),
    "regnet_x_32gf": (107_811_560, 31.736),
    "regnet_x_400mf_tv": (5_495_976, 0.414),
    "regnet_y_400mf": (4_344_144, 0.402),
    "regnet_y_800mf": (6_263_168, 0.797),
    "regnet_y_1_6gf": (11_202_430, 1.612),
    "regnet_y_3_2gf": (19_436_338, 3.176),
    "regnet_y_8gf": (39_180_068, 7.963),
    "regnet_y_16gf": (83_590_140, 15.912),
    "regnet_y_32gf": (145_046_770, 32.28),
    "regnet_y_800mf_tv": (6_432_512, 0.834),
    "regnet_y_8gf_tv": (39_381_472, 8.473),
}
ROUNDED_OTHERWISE = {"regnet_x_400mf", "regnet_y_800mf", "regnet_y_8gf"}
"""Torchvision's networks of these names are wider than the paper's.

Ours with ``_tv`` are equal to them.
"""
AS_IN_TORCHVISION = [n for n in TABLE if n not in ROUNDED_OTHERWISE]
CODES = {
    "400mf": "004",
    "800mf": "008",
    "1_6gf": "016",
    "3_2gf": "032",
    "8gf": "080",
    "16gf": "160",
    "32gf": "320",
}


QUICK = ("regnet_x_400mf", "regnet_y_800mf")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.models) for n in TABLE]
)
@pytest.mark.spec(18)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], rel=2e-3)
    assert counts.last_map == (7, 7)


def test_the_line_gives_the_widths_and_depths_of_the_paper() -> None:
    assert X_DESIGNS["400mf"].stages() == [(32, 1), (64, 2), (160, 7), (384, 12)]
    assert X_DESIGNS["800mf"].stages() == [(64, 1), (128, 3), (288, 7), (672, 5)]
    assert X_DESIGNS["1_6gf"].stages() == [(72, 2), (168, 4), (408, 10), (912, 2)]
    assert X_DESIGNS["3_2gf"].stages() == [(96, 2), (192, 6), (432, 15), (1008, 2)]
    assert Y_DESIGNS["400mf"].stages() == [(48, 1), (104, 3), (208, 6), (440, 6)]
    assert X_DESIGNS["400mf_tv"].stages()[-1] == (400, 12)


def randomise(model: nn.Module) -> None:
    """Give a network weights, scales and statistics that hide nothing."""
    torch.manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(
                tensor.data, 0.2, 0.6
            ) if tensor.dim() < 2 else nn.init.kaiming_normal_(tensor.data)


def logits(model: nn.Module, images: Tensor, training: bool) -> Tensor:
    """Return the logits (B, classes) of images (B, 3, H, W)."""
    with torch.no_grad():
        return model.train(training)(images)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n == "regnet_y_400mf" else pytest.mark.models)
        for n in AS_IN_TORCHVISION
    ],
)
def test_logits_equal_torchvision_with_the_same_weights(name: str) -> None:
    theirs = getattr(torchvision.models, name.removesuffix("_tv"))(num_classes=7)
    randomise(theirs)
    ours = create_model(name, num_classes=7, image_size=224)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for training in (False, True):
        expected = logits(theirs, images, training)
        assert torch.isfinite(expected).all() and torch.equal(
            logits(ours, images, training), expected
        )


def translated(ours: Network, state: dict[str, Tensor], dialect: str) -> dict[str, Tensor]:
    """Bring foreign tensors of any shapes under our names."""
    names = ours.foreign_names(dialect)
    return {n: state[names.get(n, n)].view_as(t) for n, t in ours.state_dict().items()}


@pytest.mark.models
@pytest.mark.parametrize("name", [n for n in TABLE if not n.endswith("_tv") and TABLE[n][0] < 4e7])
def test_logits_equal_timm_with_the_same_weights(name: str) -> None:
    timm = pytest.importorskip("timm")
    kind, size = name.split("_", 2)[1:]
    theirs = timm.create_model(f"regnet{kind}_{CODES[size]}", num_classes=7)
    randomise(theirs)
    ours = create_model(name, num_classes=7, image_size=224)
    ours.load_state_dict(translated(ours, theirs.state_dict(), "timm"))
    assert len(theirs.state_dict()) == len(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for training in (False, True):
        expected = logits(theirs, images, training)
        assert float((logits(ours, images, training) - expected).abs().max()) <= 1e-4 * float(
            expected.abs().max()
        )


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_800mf"])
@pytest.mark.spec(18)
def test_state_names_translate_to_those_of_pycls(name: str) -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted = {"stem.conv.weight", "head.fc.weight", "head.fc.bias"} | {f"stem.bn.{n}" for n in norm}
    kind, size = name.split("_", 2)[1:]
    for stage, (_, depth) in enumerate({"x": X_DESIGNS, "y": Y_DESIGNS}[kind][size].stages(), 1):
        wanted |= {f"s{stage}.b1.proj.weight"} | {f"s{stage}.b1.bn.{n}" for n in norm}
        for place in (f"s{stage}.b{block}.f" for block in range(1, depth + 1)):
            wanted |= {f"{place}.{layer}.weight" for layer in "abc"}
            wanted |= {f"{place}.{layer}_bn.{n}" for layer in "abc" for n in norm}
            if kind == "y":
                wanted |= {
                    f"{place}.se.f_ex.{layer}.{n}" for layer in (0, 2) for n in ("weight", "bias")
                }
    model = meta_model(name, num_classes=10, image_size=224)
    names = model.foreign_names("pycls")
    assert sorted(names.get(n, n) for n in model.state_dict()) == sorted(wanted)
    assert model.foreign_names("torchvision") == {}


@pytest.mark.parametrize(
    "name", ["regnet_y_400mf", pytest.param("regnet_x_400mf", marks=pytest.mark.models)]
)
def test_the_first_loss_is_that_of_guessing_and_backward_reaches_every_parameter(name: str) -> None:
    model = create_model(name, num_classes=1000, image_size=32, seed=1)
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    with torch.no_grad():
        assert (
            abs(float(nn.functional.cross_entropy(model(images), labels)) / math.log(1000) - 1)
            < 0.1
        )
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.ones_(norm.weight)  # a zero scale would hide the branch behind it
    nn.functional.cross_entropy(model(images), labels).backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_small_images_keep_a_map_worth_looking_at_and_given_strides_win() -> None:
    assert cost(meta_model("regnet_x_800mf", num_classes=100, image_size=32), 32).last_map == (8, 8)
    counts = cost(
        meta_model("regnet_x_800mf", num_classes=100, image_size=32, strides=(1, 2, 1, 2, 2)), 32
    )
    assert (counts.params, round(counts.macs / 1e9, 4), counts.last_map) == (
        6_653_956,
        0.2339,
        (4, 4),
    )


def test_maps_are_those_of_the_four_stages() -> None:
    model = meta_model("regnet_x_400mf", num_classes=5, image_size=128)
    maps = model.features(torch.empty(1, 3, 128, 128, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (32, 32, 32),
        (64, 16, 16),
        (160, 8, 8),
        (384, 4, 4),
    ]
    assert [(level.channels, level.stride) for level in model.levels] == [
        (32, 4),
        (64, 8),
        (160, 16),
        (384, 32),
    ]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("regnetx400mf_x1", "regnet_x_400mf"),
        ("regnetx_400mf", "regnet_x_400mf"),
        ("RegNetX-800MF", "regnet_x_800mf"),
        ("regnetx800mf_bgr", "regnet_x_800mf"),
        ("regnetx800mf_x1_bgr", "regnet_x_800mf"),
        ("regnetx1p6gf_x1", "regnet_x_1_6gf"),
        ("regnetx1p6gf_bgr", "regnet_x_1_6gf"),
        ("RegNetX-3.2GF", "regnet_x_3_2gf"),
        ("regnetx3p2gf_x1", "regnet_x_3_2gf"),
        ("regnety_400mf", "regnet_y_400mf"),
        ("regnet_y_1_6gf", "regnet_y_1_6gf"),
        ("regnety_32gf", "regnet_y_32gf"),
    ],
)
@pytest.mark.spec(8, 9)
def test_every_spelling_finds_the_network(spelling: str, name: str) -> None:
    assert find(spelling).name == name
