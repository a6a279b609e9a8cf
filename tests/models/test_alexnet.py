"""AlexNet: torchvision's logits, the published sizes, the published order of layers, and that it
learns.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from trials import gap, randomised, runs_at_half_size, steps_to_leave_chance, transplanted

from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost

TABLE = {
    "alexnet_v1": (62_378_344, 1.1353),
    "alexnet_v2": (61_838_248, 0.8388),
    "alexnet": (61_100_840, 0.7142),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(10)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], rel=1e-3)
    assert counts.last_map == (13, 13)


@pytest.mark.spec(9)
def test_the_names_of_others_mean_the_same() -> None:
    assert find("alexnet1").name == find("AlexNet-V1").name == "alexnet_v1"
    assert find("alexnet2").name == find("alexnetv2").name == "alexnet_v2"


@pytest.mark.parametrize("side", [16, 31, 32, 47, 48, 64, 95, 96, 100, 128, 224])
def test_every_size_goes_through_and_half_of_it(side: int) -> None:
    assert runs_at_half_size("alexnet_v1", side)


@pytest.mark.models
@pytest.mark.parametrize("side", [96, 224])
def test_logits_equal_torchvision_with_the_same_weights(side: int) -> None:
    theirs = randomised(torchvision.models.alexnet(num_classes=7, dropout=0.0))
    ours = transplanted("alexnet", theirs, "torchvision", image_size=224, dropout=0.0)
    assert gap(ours, theirs, torch.randn(2, 3, side, side)) < (1e-5 if side < 224 else 1e-7)


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "widths"), [("alexnet_v1", (96, 256, 384)), ("alexnet_v2", (64, 192, 384))]
)
@pytest.mark.spec(10)
def test_logits_equal_those_of_the_layers_of_the_paper(
    name: str, widths: tuple[int, int, int]
) -> None:
    first, second, third = widths
    norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    theirs = nn.Sequential(
        nn.Conv2d(3, first, 11, 4, 2),
        nn.ReLU(),
        norm,
        nn.MaxPool2d(3, 2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        norm,
        nn.MaxPool2d(3, 2),
        nn.Conv2d(second, third, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(third, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 7),
    )
    randomised(theirs)
    ours = create_model(name, num_classes=7, dropout=0.0)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    assert gap(ours, theirs, 20 * torch.randn(2, 3, 224, 224)) < 1e-5


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(10, "A7")
def test_it_leaves_chance_level_with_dropout(name: str) -> None:
    assert (
        steps_to_leave_chance(create_model(name, num_classes=2, image_size=16, seed=1), 16, lr=0.01)
        is not None
    )
