"""Weights that are rounded together keep the answers of their layer, where the nearest do not."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from saccade.models import register_model, registered
from saccade.models.quantized.building import in_8_bits, take_weights, watch
from saccade.models.quantized.compensating import NARROW, compensate, rounded
from saccade.models.quantized.quantizers import Weights
from saccade.models.quantized.schemes import SCHEMES

SIDE = 16
SHIFTS = SCHEMES["power-of-two"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers, float64, of a shape."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def lost(made: Tensor, weights: Tensor, seen: Tensor) -> Tensor:
    """Return the mean squared error of the outputs (outputs,), of inputs (n, inputs)."""
    return (seen @ (made - weights).T).square().mean(0)


def test_of_inputs_without_relation_it_takes_the_nearest_steps() -> None:
    weights = 3 * numbers(1, 5, 6)
    moments = torch.diag(numbers(6).square() + 0.1)[None]
    made = rounded(weights, moments, torch.tensor(0.25).double(), 127)
    assert torch.equal(made, (weights / 0.25).round() * 0.25)


@pytest.mark.parametrize("seed", range(4))
def test_of_related_inputs_it_comes_close_to_the_best_of_all_roundings(seed: int) -> None:
    # brightness is common to neighbouring pixels
    seen = 3 * numbers(500, 1, seed=seed) + 0.3 * numbers(500, 6, seed=seed + 10)
    weights = numbers(4, 6, seed=seed + 20)
    step = 0.25
    made = rounded(weights[None], (seen.T @ seen)[None], torch.tensor(step).double(), 127)[0]
    assert torch.equal((made / step).round() * step, made)

    nearest = (weights / step).round() * step
    below = (weights / step).floor()
    ways = itertools.product((-1, 0, 1, 2), repeat=6)
    moves = torch.tensor(list(ways), dtype=torch.float64)
    best = torch.stack(
        [
            lost((row + moves) * step, row_w, seen).min()
            for row, row_w in zip(below, weights, strict=True)
        ]
    )
    found = lost(made, weights, seen)
    assert bool((found < 0.5 * lost(nearest, weights, seen)).all() | (found < 2 * best).all())
    assert found.sum() < 3 * best.sum()


class Grouped(nn.Module):
    """A first layer with filters of very different size, one of pairs of channels, and a head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pairs = nn.Conv2d(8, 8, 3, dilation=2, groups=4)
        self.wide = nn.Conv2d(8, NARROW, 1)
        self.next = nn.Conv2d(NARROW, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, 3, H, W)."""
        x = functional.gelu(self.pairs(functional.gelu(self.first(x))))
        x = functional.gelu(self.next(functional.gelu(self.wide(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.spec(40)
def test_a_network_with_one_scale_for_small_and_large_filters_keeps_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registered, "_OWN", dict(registered._OWN))
    register_model("grouped_in_8_bits", Grouped)
    torch.manual_seed(1)
    network = Grouped(4).eval()
    with torch.no_grad():
        # as whitening has it: few levels are left for the filters of what is common
        network.first.weight[:4].mul_(0.03)
        network.pairs.weight.div_(0.3)
        network.pairs.weight[:, 0].mul_(5)
    images = numbers(24, 3, 4, 4).float()
    images = functional.interpolate(images, SIDE, mode="bilinear")

    made = in_8_bits(copy.deepcopy(network), SHIFTS, SIDE, "grouped_in_8_bits")
    take_weights(made, network, SHIFTS, SIDE)
    watch(made, [images], 0)
    # 27, 18, 8 and 4 inputs, but not 9 * NARROW
    assert compensate(made, images.split(8)) == 4
    assert sum(isinstance(part, Weights) for part in made.modules()) == 5

    step, most = Weights(SHIFTS), {"first": 0.5, "pairs": 0.9}
    with torch.no_grad():
        seen = {"first": images, "pairs": functional.gelu(network.first(images))}
        for name, x in seen.items():
            layer = network.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            expected, errors = layer(x), []
            found, scale = made.get_parameter(f"{name}.weight"), step.scale(layer.weight)
            assert torch.equal((found / scale).round() * scale, found), "whole steps"
            for weight in (found, (layer.weight / scale).round() * scale):
                layer.weight.copy_(weight)
                errors.append(float((layer(x) - expected).square().mean()))
            assert errors[0] < most[name] * errors[1]
