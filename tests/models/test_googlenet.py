"""GoogLeNet: torchvision's logits with norms, those of the paper without, auxiliary heads, and
that it learns.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.googlenet import GoogLeNet, Inception, InceptionAux
from trials import (
    as_torch_starts_it,
    randomised,
    runs_at_half_size,
    steps_to_leave_chance,
    transplanted,
)

from saccade.models import Network, create_model, find, meta_model
from saccade.models.googlenet import window_means
from saccade.models.parts.cost import cost

TABLE = {"inception_v1": (13_378_280, 1.5827), "googlenet": (13_004_888, 1.4984)}


@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-3)
    assert counts.last_map == (7, 7)
    assert find("Inception1").name == find("inception-v1").name == "inception_v1"


def test_the_smallest_image_goes_through_and_half_of_it() -> None:
    assert runs_at_half_size("inception_v1", 8, 48)


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
def test_every_size_goes_through_and_half_of_it(name: str) -> None:
    assert runs_at_half_size(name, 8, 31, 32, 47, 48, 64, 95, 96, 128, 224)


def test_windows_of_the_auxiliary_heads_are_five_wide_as_published() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 14, 14)
    assert torch.equal(window_means(x, 4), F.avg_pool2d(x, 5, 3))
    assert [window_means(x[..., :side, :side], 4).shape[-1] for side in (2, 3, 4, 7, 13)] == [4] * 5


@pytest.mark.spec(12)
def test_auxiliary_logits_come_in_training_only() -> None:
    model = create_model("inception_v1", num_classes=5, image_size=8)
    assert isinstance(model, Network) and model.aux_weight == 0.3
    images = torch.randn(2, 3, 8, 8)
    assert [logits.shape for logits in model.train()(images)] == [(2, 5)] * 3
    assert isinstance(model.eval()(images), Tensor)


def largest_gap(ours: nn.Module, theirs: nn.Module, images: Tensor) -> float:
    """Return the largest difference of any logits, auxiliary ones too, over the largest logit."""
    found = 0.0
    with torch.no_grad():
        mine, (main, second, first) = ours.train()(images), theirs.train()(images)
        pairs = [
            *zip(mine, (main, first, second), strict=True),
            (ours.eval()(images), theirs.eval()(images)),
        ]
    for got, expected in pairs:
        assert expected.std() > 0.05
        found = max(found, float((got - expected).abs().max() / expected.abs().max()))
    return found


@pytest.mark.models
@pytest.mark.parametrize("side", [64, 224])
def test_logits_equal_torchvision_with_the_same_weights(side: int) -> None:
    theirs = randomised(
        torchvision.models.googlenet(
            num_classes=7, aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0
        )
    )
    ours = transplanted("googlenet", theirs, "torchvision", image_size=224, dropout=0.0)
    assert largest_gap(ours, theirs, torch.randn(4, 3, side, side)) < 1e-4


class PlainConv(nn.Module):
    """A convolution with bias and its activation, in place of torchvision's batch-normed one."""

    def __init__(self, c_in: int, c_out: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return F.relu(self.conv(x))


class PublishedModule(Inception):  # type: ignore[misc]
    """torchvision's module with the 5x5 convolution of the paper."""

    def __init__(self, *widths: int, conv_block: object = None) -> None:
        super().__init__(*widths, conv_block=PlainConv)
        self.branch3[1] = PlainConv(widths[4], widths[5], kernel_size=5, padding=2)


class PublishedAux(InceptionAux):  # type: ignore[misc]
    """torchvision's auxiliary head with the pool of the paper: 5x5 every 3."""

    def __init__(self, *widths: int, dropout: float) -> None:
        super().__init__(*widths, conv_block=PlainConv, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 14, 14) to logits (B, classes)."""
        hidden = F.relu(self.fc1(self.conv(F.avg_pool2d(x, 5, 3)).flatten(1)))
        return self.fc2(self.dropout(hidden))


@pytest.mark.models
def test_logits_equal_those_of_the_layers_of_the_paper() -> None:
    theirs = GoogLeNet(
        num_classes=7,
        init_weights=False,
        blocks=[PlainConv, PublishedModule, PublishedAux],
        dropout=0.0,
        dropout_aux=0.0,
    )
    norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    theirs.maxpool1 = nn.Sequential(theirs.maxpool1, norm)
    theirs.maxpool2 = nn.Sequential(norm, theirs.maxpool2)
    theirs.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    randomised(theirs)
    ours = transplanted("inception_v1", theirs, "torchvision", image_size=224, dropout=0.0)
    assert largest_gap(ours, theirs, 20 * torch.randn(4, 3, 224, 224)) < 1e-4


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(12)
def test_it_leaves_chance_level_with_dropout(name: str) -> None:
    assert (
        steps_to_leave_chance(create_model(name, num_classes=2, image_size=8, seed=1), 8, lr=0.01)
        is not None
    )


@pytest.mark.models
def test_control_from_the_start_of_torch_it_does_not() -> None:
    model = as_torch_starts_it(create_model("inception_v1", num_classes=2, image_size=8))
    assert steps_to_leave_chance(model, 8, lr=0.01) is None
