"""Inception V3: torchvision's logits and sizes, small images, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from trials import randomised, runs_at_half_size, steps_to_leave_chance, transplanted

from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost


@pytest.mark.spec(12)
def test_parameters_and_macs_are_the_published_ones() -> None:
    counts = cost(meta_model("inception_v3", num_classes=1000), 299)
    assert counts.params == 27_161_264
    assert counts.macs / 1e9 == pytest.approx(5.713, abs=1e-3)
    assert counts.last_map == (8, 8)
    assert find("Inception-V3").name == find("inception3").name == "inception_v3"


@pytest.mark.parametrize("side", [8, 150])
def test_the_smallest_image_goes_through_and_half_of_it_padded_or_not(side: int) -> None:
    assert runs_at_half_size("inception_v3", side)


@pytest.mark.models
def test_every_size_goes_through_and_half_of_it() -> None:
    assert runs_at_half_size("inception_v3", 31, 32, 47, 48, 64, 95, 96, 128, 149, 151, 224, 299)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return randomised(
        torchvision.models.inception_v3(num_classes=7, init_weights=False, dropout=0.0)
    )


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.std() > 0.05
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.models
@pytest.mark.spec(12)
def test_logits_equal_torchvision_with_the_same_weights(theirs: nn.Module) -> None:
    ours = transplanted("inception_v3", theirs, "torchvision", dropout=0.0)
    images = torch.randn(4, 3, 299, 299)
    with torch.no_grad():
        pairs = [*zip(ours.train()(images), theirs.train()(images), strict=True)]
        pairs += [(ours.eval()(images), theirs.eval()(images))]
        small = torch.randn(2, 3, 96, 96)
        pairs += [(ours(small), theirs(small))]
    assert len(pairs) == 4 and all(difference(got, expected) < 1e-4 for got, expected in pairs)


@pytest.mark.models
def test_it_leaves_chance_level_with_dropout() -> None:
    model = create_model("inception_v3", num_classes=2, image_size=8, seed=1)
    assert steps_to_leave_chance(model, 8, lr=0.01) is not None
