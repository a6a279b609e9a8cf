"""DarkNet-53: timm's logits, the published sizes, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trials import gap, randomised, runs_at_half_size, steps_to_leave_chance, transplanted

from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost


@pytest.mark.spec(20)
def test_parameters_and_macs_are_the_published_ones() -> None:
    counts = cost(meta_model("darknet53", num_classes=1000), 256)
    assert counts.params == 41_609_928
    # 18.57 billion operations, two for each
    assert counts.macs / 1e9 == pytest.approx(18.57 / 2, rel=0.01)
    assert counts.last_map == (8, 8)
    assert find("DarkNet-53").name == "darknet53"


def test_the_smallest_image_goes_through_and_half_of_it() -> None:
    assert runs_at_half_size("darknet53", 8)


@pytest.mark.models
def test_every_size_goes_through_and_half_of_it() -> None:
    assert runs_at_half_size("darknet53", 31, 32, 47, 48, 95, 96, 128, 256)


@pytest.mark.models
def test_logits_equal_timm_with_the_same_weights_and_the_slope_of_the_paper() -> None:
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model("darknet53", num_classes=7))
    slopes = [module for module in theirs.modules() if isinstance(module, nn.LeakyReLU)]
    assert len(slopes) == 52
    for module in slopes:
        module.negative_slope = 0.1
    ours = transplanted("darknet53", theirs, "timm")
    assert gap(ours, theirs, torch.randn(4, 3, 64, 64)) < 1e-4


@pytest.mark.models
def test_it_leaves_chance_level() -> None:
    assert (
        steps_to_leave_chance(
            create_model("darknet53", num_classes=2, image_size=8, seed=1), 8, lr=0.01
        )
        is not None
    )
