"""An exponential moving average of the weights; when it is on, it is the model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A copy of the model whose floating parameters and buffers follow the original slowly."""

    def __init__(self, model: nn.Module, half_life_steps: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = 2.0 ** (-1.0 / half_life_steps)
        self._pairs = [(a, b) for a, b in zip(_tensors(self.model), _tensors(model), strict=True)]

    @torch.no_grad()
    def update(self, step: int, mask: Tensor | None = None) -> None:
        """Move towards the model after optimiser step ``step`` (from 0); not at all where ``mask`` is False.

        The mask is a bool scalar on the device; nothing waits for it.

        The first steps use the smaller decay (1 + t) / (10 + t), so that the start is forgotten. *Source:* TensorFlow's
        ExponentialMovingAverage.
        """
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        floats = [(a, b) for a, b in self._pairs if a.is_floating_point()]
        shadows, originals = [a for a, _ in floats], [b for _, b in floats]
        if mask is None:
            torch._foreach_lerp_(shadows, originals, weight)
        else:
            ways = torch._foreach_sub(originals, shadows)
            torch._foreach_mul_(ways, mask * weight)
            torch._foreach_add_(shadows, ways)
        for shadow, original in self._pairs:
            if not shadow.is_floating_point():
                shadow.copy_(original)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
