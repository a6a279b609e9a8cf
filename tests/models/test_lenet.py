"""LeNet-5: the table of the paper, the same network written down by hand, learning."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trials import runs_at_half_size, steps_to_leave_chance

from saccade.errors import ConfigError
from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost


@pytest.mark.spec(20)
def test_parameters_and_maps_are_those_of_the_paper() -> None:
    counts = cost(meta_model("LeNet-5", num_classes=10), 32)
    assert counts.params == 62_006 and counts.last_map == (10, 10)
    assert (
        sum(p.numel() for p in create_model("lenet", num_classes=10, in_channels=1).parameters())
        == 61_706
    )
    assert find("LeNet").name == find("lenet_5").name == "lenet5"


@pytest.mark.parametrize(("side", "padding"), [(32, 0), (28, 2)])
def test_logits_equal_those_of_the_network_written_down_by_hand(side: int, padding: int) -> None:
    theirs = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=padding),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Tanh(),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Tanh(),
        nn.Conv2d(16, 120, 5),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )
    ours = create_model("lenet5", num_classes=10, image_size=side, in_channels=1)
    weights = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict({name: theirs_.reshape(mine.shape) for (name, mine), theirs_ in weights})
    images = torch.randn(4, 1, side, side)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.spec(20)
def test_it_learns_pictures_by_heart() -> None:
    assert (
        steps_to_leave_chance(create_model("lenet5", num_classes=2, seed=1), 32, lr=0.1) is not None
    )


def test_every_size_goes_through_and_half_of_it() -> None:
    assert runs_at_half_size("lenet5", 8, 12, 16, 27, 28, 31, 32, 64, 224)


def test_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match="LeNet has no strides"):
        create_model("lenet5", num_classes=10, strides=(1, 1, 1, 2, 2))
