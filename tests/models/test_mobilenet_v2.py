"""MobileNetV2: published sizes, torchvision's logits, the two activations under their two
spellings.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from mobile_parity import parity
from torch import nn

from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import DropPath

TABLE = {
    "mobilenet_v2": (3_504_872, 0.3008),
    "mobilenetv2_tv_x1": (3_504_872, 0.3008),
    "mobilenetv2_tv_x2_t2": (6_562_792, 0.4708),
}


@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-4)


@pytest.mark.spec(7, "A9")
def test_cifar_sizes_are_those_of_edgeai_torchvision() -> None:
    counts = cost(meta_model("mobilenetv2_tv_x1", num_classes=100, image_size=32), 32)
    assert counts.params == 2_351_972
    assert counts.macs / 1e9 == pytest.approx(0.2966, abs=1e-4)
    assert counts.last_map == (8, 8)


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "width"),
    [("mobilenet_v2", 1.0), ("mobilenet_v2_xp25", 0.25), ("mobilenet_v2_x1p4", 1.4)],
)
def test_logits_equal_torchvision_with_the_same_weights(
    name: str, width: float, training: bool
) -> None:
    theirs = torchvision.models.mobilenet_v2(num_classes=7, width_mult=width)
    assert parity(name, theirs, "torchvision", training=training) == 0


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
def test_logits_equal_timm_with_the_same_weights(training: bool) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv2_100", num_classes=7)
    assert parity("mobilenet_v2", theirs, "timm", training=training) <= 1e-4


def test_the_paper_has_relu6_and_dropout_and_edgeai_torchvision_relu_without() -> None:
    expected = {
        "mobilenet_v2": (nn.ReLU6, 0.2),
        "mobilenetv2": (nn.ReLU6, 0.2),
        "mobilenet_v2_x1p4": (nn.ReLU6, 0.2),
        "mobilenetv2_x1": (nn.ReLU, 0.0),
        "mobilenetv2_tv_x1": (nn.ReLU, 0.0),
        "mobilenetv2_xp5": (nn.ReLU, 0.0),
    }
    for name, (act, dropout) in expected.items():
        model = meta_model(name, num_classes=2)
        assert {type(m) for m in model.modules() if isinstance(m, nn.ReLU | nn.ReLU6)} == {act}
        assert model.dropout.p == dropout


@pytest.mark.spec(16, 17)
def test_suffixes_multiply_the_channels_and_set_the_expansion() -> None:
    for width in ("p25", "p5", "p75", "1p4", "2"):
        levels = meta_model(f"mobilenet_v2_x{width}", num_classes=2).levels
        assert levels[-1].channels == pytest.approx(float(width.replace("p", ".")) * 320, rel=0.1)
        assert all(level.channels % 8 == 0 for level in levels)
    assert meta_model("mobilenet_v2_xp5", num_classes=2).head.in_features == 1280
    assert (
        meta_model("mobilenet_v2_x1_t3", num_classes=2).stages[2][1].block[0][0].out_channels
        == 3 * 32
    )
    assert find("mobilenetv2_x2_t2").name == "mobilenetv2_tv_x2_t2"


def test_drop_path_is_only_where_a_shortcut_is() -> None:
    model = meta_model("mobilenet_v2", num_classes=2)
    assert not [m for m in model.modules() if isinstance(m, DropPath)]
    model = create_model("mobilenet_v2", num_classes=2, drop_path=0.2)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert len(rates) == 10 and rates == sorted(rates) and rates[0] > 0 and rates[-1] < 0.2


def test_levels_are_those_of_the_maps_and_strides_can_be_set() -> None:
    model = create_model("mobilenet_v2_xp25", num_classes=2, image_size=32, strides=(1, 1, 2, 1, 2))
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 32, 32))
    assert [m.shape[1] for m in maps] == [level.channels for level in model.levels]
    assert (
        [m.shape[2] for m in maps]
        == [32, 32, 16, 16, 8]
        == [32 // level.stride for level in model.levels]
    )
