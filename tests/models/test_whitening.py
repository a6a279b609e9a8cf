"""The first layer that is fitted to the images: what it gives, and that training leaves it
alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade.models import Network, create_model
from saccade.models.parts.whitening import Whitening

SIDE = 64


def correlated(count: int, side: int = SIDE) -> Tensor:
    """Return images whose neighbouring pixels and colours are alike, as in photographs.

    13 does not divide the side, so that places which a stride leaves out are like those that it
    takes.
    """
    coarse = torch.randn(count, 1, 13, 13, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return smooth + 0.3 * torch.randn(
        count, 3, side, side, generator=torch.Generator().manual_seed(1)
    )


def network(name: str) -> tuple[Network, Whitening]:
    model = create_model(name, num_classes=10, image_size=SIDE, seed=3)
    assert isinstance(model, Network)
    (layer,) = (m for m in model.modules() if isinstance(m, Whitening))
    return model, layer


@torch.no_grad()
def distance(layer: Whitening, images: Tensor) -> float:
    """Return how far the second moments of what the first half of the filters gives are from
    those of white noise.
    """
    inside = layer(images)[:, : layer.values, 1:-1, 1:-1]  # beyond the edge there are zeros
    rows = inside.transpose(0, 1).flatten(1)
    return float((rows @ rows.T / rows.shape[1] - torch.eye(layer.values)).abs().max())


NAMES = pytest.mark.parametrize(
    "name", ["airbench94", "airbench_photo_s", "resnet18_d_white", "resnet18_c_white_silu"]
)


@NAMES
def test_whitened_patches_are_uncorrelated_and_of_unit_size(name: str) -> None:
    _, layer = network(name)
    images = correlated(256)
    before = distance(layer, images)
    layer.fit(images)
    assert before > 0.5, "random filters should not do it"
    assert (after := distance(layer, images)) < 0.15, after


@NAMES
def test_every_filter_has_its_negative_and_is_not_trained(name: str) -> None:
    model, layer = network(name)
    layer.fit(correlated(16))
    assert torch.equal(layer.weight[: layer.values], -layer.weight[layer.values :])
    model(correlated(4)).sum().backward()
    assert layer.weight.grad is None and layer.bias is not None and layer.bias.grad is not None


def test_networks_without_such_a_layer_ask_for_no_images() -> None:
    model = create_model("resnet18_d", num_classes=10, image_size=SIDE)
    assert isinstance(model, Network) and not any(isinstance(m, Whitening) for m in model.modules())
