"""VGG: torchvision's logits and sizes, widths, and that the deep ones learn without norms."""

from __future__ import annotations

import pytest
import torch
import torchvision
from trials import (
    as_torch_starts_it,
    gap,
    randomised,
    runs_at_half_size,
    steps_to_leave_chance,
    transplanted,
)

from saccade.models import Network, create_model, find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.registry import is_known

TABLE = {
    "vgg11": (132_863_336, 7.6091),
    "vgg11_bn": (132_868_840, 7.6091),
    "vgg13": (133_047_848, 11.3085),
    "vgg13_bn": (133_053_736, 11.3085),
    "vgg16": (138_357_544, 15.4703),
    "vgg16_bn": (138_365_992, 15.4703),
    "vgg19": (143_667_240, 19.6321),
    "vgg19_bn": (143_678_248, 19.6321),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(11)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-3)
    assert counts.last_map == (14, 14)


@pytest.mark.spec(17)
def test_suffixes_multiply_the_widths() -> None:
    assert find("VGG16_x1").name == "vgg16" and find("vgg-19-bn").name == "vgg19_bn"
    half = meta_model("vgg16_bn_xp5", num_classes=1000)
    assert [
        p.shape[0] for n, p in half.named_parameters() if "classifier" in n and p.dim() > 1
    ] == [2048, 2048, 1000]
    assert isinstance(half, Network) and half.levels[-1].channels == 256
    assert not is_known("vgg17_x2") and not is_known("vgg16_xp001")


@pytest.mark.parametrize("side", [8, 31, 32, 47, 48, 64, 95, 96, 128, 224])
def test_every_size_goes_through_and_half_of_it(side: int) -> None:
    assert runs_at_half_size("vgg11_xp25", side)


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
def test_logits_equal_torchvision_with_the_same_weights(name: str) -> None:
    theirs = randomised(getattr(torchvision.models, name)(num_classes=7, dropout=0.0))
    ours = transplanted(name, theirs, "torchvision", image_size=224, dropout=0.0)
    assert gap(ours, theirs, torch.randn(2, 3, 64, 64)) < 1e-4


@pytest.mark.models
def test_logits_equal_torchvision_at_the_full_image() -> None:
    theirs = randomised(torchvision.models.vgg11(num_classes=7, dropout=0.0))
    ours = transplanted("vgg11", theirs, "torchvision", image_size=224, dropout=0.0)
    assert gap(ours, theirs, torch.randn(2, 3, 224, 224)) == 0


@pytest.mark.models
@pytest.mark.parametrize("name", ["vgg11", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn"])
@pytest.mark.spec(11, "A7")
def test_it_leaves_chance_level_at_full_depth_with_dropout(name: str) -> None:
    model = create_model(f"{name}_xp25", num_classes=2, image_size=8, seed=1)
    assert steps_to_leave_chance(model, 8, lr=0.01) is not None


@pytest.mark.models
def test_control_from_the_start_of_torch_it_does_not() -> None:
    model = as_torch_starts_it(create_model("vgg19_xp25", num_classes=2, image_size=8))
    assert steps_to_leave_chance(model, 8, lr=0.01) is None
