"""MobileNetV1: the paper's sizes, timm's logits, honest suffixes."""

from __future__ import annotations

import pytest
import torch
from mobile_parity import parity
from torch import nn

from saccade.errors import ConfigError
from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("mobilenet_v1", 4_231_976, 0.5687),
        ("mobilenet_v1_xp5", 1_331_592, 0.149),
        ("mobilenet_v1_xp25", 470_072, 0.041),
    ],
)
@pytest.mark.spec(16)
def test_parameters_and_macs_are_the_published_ones(name: str, params: int, gmacs: float) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == params
    assert counts.macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert counts.last_map == (7, 7)


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
def test_logits_equal_timm_with_the_same_weights(training: bool) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv1_100", num_classes=7)
    assert parity("mobilenetv1_100", theirs, "timm", training=training) <= 1e-4


def test_the_paper_has_relu_and_timm_relu6() -> None:
    for name, act in (("mobilenet_v1", nn.ReLU), ("mobilenetv1_100", nn.ReLU6)):
        found = {
            type(m)
            for m in meta_model(name, num_classes=2).modules()
            if isinstance(m, nn.ReLU | nn.ReLU6)
        }
        assert found == {act}


@pytest.mark.spec(16)
def test_a_suffix_multiplies_the_channels_to_multiples_of_eight() -> None:
    for width in ("p25", "p5", "p75", "1p4", "2", "p33"):
        levels = meta_model(f"mobilenetv1_x{width}", num_classes=2).levels
        wanted = float(width.replace("p", ".")) * 1024
        assert levels[-1].channels == pytest.approx(wanted, rel=0.1)
        assert all(level.channels % 8 == 0 for level in levels)


@pytest.mark.spec(9)
def test_names_of_other_systems_resolve() -> None:
    for name in ("mobilenet1", "MobileNetV1", "mobilenetv1_x1", "MobileNet-V1"):
        assert find(name).name == "mobilenet_v1"
    with pytest.raises(ConfigError, match="mobilenet_v1"):
        find("mobilenet_v1_x0")


@pytest.mark.parametrize(("size", "last"), [(8, 2), (32, 8), (64, 4), (96, 3)])
def test_small_images_keep_a_map_worth_looking_at(size: int, last: int) -> None:
    model = meta_model("mobilenet_v1", num_classes=10, image_size=size)
    assert cost(model, size).last_map == (last, last)


def test_drop_path_without_a_shortcut_is_refused() -> None:
    with pytest.raises(ConfigError, match="no residual branches"):
        create_model("mobilenet_v1_xp25", num_classes=2, drop_path=0.1)


def test_levels_are_those_of_the_maps() -> None:
    model = create_model("mobilenet_v1_xp25", num_classes=2, image_size=96)
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 96, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (level.channels, 96 // level.stride, 96 // level.stride) for level in model.levels
    ]
