"""MobileNetV3: published sizes, torchvision's logits, and the variant without hard-swish and
gates.
"""

from __future__ import annotations

import pytest
import torchvision
from mobile_parity import parity
from torch import nn
from torchvision.models.mobilenetv3 import _mobilenet_v3_conf

from saccade.models import find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import SqueezeExcitation

TABLE = {
    "mobilenet_v3_small": (2_542_856, 0.0565),
    "mobilenet_v3_large": (5_483_032, 0.2166),
    "mobilenetv3_lite_small_x1": (2_081_216, 0.0561),
    "mobilenetv3_lite_large_x1": (3_970_752, 0.2151),
}


@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-4)
    assert counts.last_map == (7, 7)


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", ["small", "large"])
def test_logits_equal_torchvision_with_the_same_weights(size: str, training: bool) -> None:
    theirs = getattr(torchvision.models, f"mobilenet_v3_{size}")(num_classes=7)
    assert parity(f"mobilenet_v3_{size}", theirs, "torchvision", training=training) <= 1e-4


@pytest.mark.models
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(
    ("suffix", "width", "reduced_tail"), [("_xp75", 0.75, False), ("_xp5r", 0.5, True)]
)
def test_suffixes_equal_torchvision_with_the_same_weights(
    size: str, suffix: str, width: float, reduced_tail: bool
) -> None:
    rows, last = _mobilenet_v3_conf(
        f"mobilenet_v3_{size}", width_mult=width, reduced_tail=reduced_tail
    )
    theirs = torchvision.models.MobileNetV3(rows, last, num_classes=7)
    assert parity(f"mobilenet_v3_{size}{suffix}", theirs, "torchvision", training=True) <= 1e-4


@pytest.mark.spec(16)
def test_lite_has_neither_hard_swish_nor_gates() -> None:
    lite = meta_model("mobilenetv3_lite_large_x1", num_classes=2)
    assert not [m for m in lite.modules() if isinstance(m, nn.Hardswish | SqueezeExcitation)]
    full = meta_model("mobilenet_v3_large", num_classes=2)
    assert sum(isinstance(m, SqueezeExcitation) for m in full.modules()) == 8
    for model in (lite, full):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
        assert model.dropout.p == 0.2


def test_a_reduced_tail_halves_the_last_stage_and_what_follows() -> None:
    model = meta_model("mobilenetv3_lite_large_x2r", num_classes=2)
    assert [level.channels for level in model.levels] == [32, 48, 80, 224, 160]
    assert (model.last[0].out_channels, model.head.in_features) == (960, 1280)


@pytest.mark.spec(9)
def test_names_of_other_systems_resolve() -> None:
    assert find("MobileNetV3-Large").name == "mobilenet_v3_large"
    assert find("mobilenetv3_lite_small").name == "mobilenetv3_lite_small_x1"
    assert (
        find("mobilenet_v3_small_xp75").family
        == find("mobilenetv3_lite_small_x2r").family
        == "mobilenet_v3"
    )


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
@pytest.mark.parametrize(("size", "last"), [(8, 2), (64, 4)])
def test_small_images_keep_a_map_worth_looking_at(name: str, size: int, last: int) -> None:
    assert cost(meta_model(name, num_classes=10, image_size=size), size).last_map == (last, last)
