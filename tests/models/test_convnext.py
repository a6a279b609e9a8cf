"""ConvNeXt: the logits of torchvision and timm, published sizes, small images, learning."""

from __future__ import annotations

import pytest
import torch
import torchvision
from trials import first_loss, gap, loss_after, randomised, transplanted

from saccade.models import create_model, find, meta_model
from saccade.models.convnext import ConvNeXt, Design
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import strides_for
from saccade.models.parts.network import undecayed
from saccade.models.parts.registry import Options

TABLE = {
    "convnext_tiny": (28_589_128, 4.4555),
    "convnext_small": (50_223_688, 8.6837),
    "convnext_base": (88_591_464, 15.3547),
}


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-3)
    assert counts.last_map == (7, 7)


@pytest.mark.models
def test_logits_equal_torchvision_with_the_same_weights() -> None:
    theirs = randomised(torchvision.models.convnext_tiny(num_classes=7))
    ours = transplanted("convnext_tiny", theirs, "torchvision", image_size=224)
    assert gap(ours, theirs, torch.randn(2, 3, 64, 80)) < 1e-5


@pytest.mark.models
def test_logits_equal_timm_with_the_same_weights() -> None:
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model("convnext_tiny", num_classes=7))
    ours = transplanted("convnext_tiny", theirs, "timm", image_size=224)
    assert gap(ours, theirs, torch.randn(2, 3, 64, 80)) < 1e-5


@pytest.mark.parametrize(
    ("size", "strides"), [(8, [1, 1, 2, 4]), (32, [1, 1, 2, 4]), (64, [2, 4, 8, 16])]
)
def test_small_images_keep_their_resolution_longer(size: int, strides: list[int]) -> None:
    stem, pool, *halvings = strides_for(size)
    model = ConvNeXt(
        Design((4, 8, 8, 16), (1, 1, 1, 1), 0.0), (stem * pool, *halvings), Options(3, size)
    ).eval()
    assert [level.stride for level in model.levels] == strides
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, size, size))
    assert [m.shape[2] for m in maps] == [size // stride for stride in strides]


def test_branches_start_near_nothing_and_take_no_weight_decay() -> None:
    model = meta_model("convnext_tiny", num_classes=3)
    scales = {n for n, _ in model.named_parameters() if n.endswith("layer_scale")}
    assert len(scales) == 18 and scales <= undecayed(model)
    assert model.stages[1][0].starts["layer_scale"] == (1e-6, 0.0)
    assert find("ConvNeXt-T").name == "convnext_tiny"


@pytest.mark.models
@pytest.mark.parametrize("classes", [10, 1000])
def test_the_first_loss_is_that_of_guessing(classes: int) -> None:
    assert first_loss("convnext_tiny", classes, 64) == pytest.approx(1, abs=0.1)


@pytest.mark.models
def test_two_classes_are_learned_from_the_start() -> None:
    model = create_model("convnext_tiny", num_classes=2, image_size=64, drop_path=0.0)
    assert loss_after(model, 64, 5, 5e-4) < 0.3
