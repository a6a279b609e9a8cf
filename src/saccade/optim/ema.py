"""An exponential moving average of the weights; if it is on, it is the model."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn

from saccade.models.parts.duplicate import duplicate
from saccade.models.parts.running_statistics import running_statistics


class Ema:
    """A copy of the model whose parameters and running statistics follow the original slowly.

    Every other buffer is the original's: masks, counters and queues have no average.
    """

    def __init__(self, model: nn.Module, half_life_steps: float) -> None:
        self.model = duplicate(model).requires_grad_(False)
        self.slow_to(half_life_steps)

        pairs: list[tuple[Tensor, Tensor]] = [
            *zip(self.model.parameters(), model.parameters(), strict=True)
        ]
        pairs += zip(self.model.buffers(), model.buffers(), strict=True)

        # everything else, such as masks and counters, is copied as it is
        slow = running_statistics(model) | {
            id(b) for b in model.parameters() if b.is_floating_point() or b.is_complex()
        }
        self._followed = [(a, b) for a, b in pairs if id(b) in slow]
        self._copied = [(a, b) for a, b in pairs if id(b) not in slow]

    def slow_to(self, half_life_steps: float) -> None:
        """Change the half-life, in optimiser steps."""
        self._decay = 2.0 ** (-1.0 / half_life_steps)

    @torch.no_grad()
    def update(self, step: int, mask: Tensor | None = None, still: Container[int] = ()) -> None:
        """Move towards the model after optimiser step ``step`` (from 0).

        It does not move where ``mask``, a bool scalar on the device, is False; nothing waits for
        the mask. Tensors of the model whose ``id`` is in ``still`` are frozen, and so is their
        average. The first steps use the smaller decay (1 + t) / (10 + t), so that the start is
        forgotten.

        *Source:* TensorFlow's ExponentialMovingAverage.
        """
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        # a step from -0.0 to -0.0 would end at 0.0
        moving = [pair for pair in self._followed if id(pair[1]) not in still]
        shadows, originals = [a for a, _ in moving], [b for _, b in moving]
        if mask is None:
            torch._foreach_lerp_(shadows, originals, weight)
        else:
            ways = torch._foreach_sub(originals, shadows)
            # a weight of zero keeps the average where the step was bad; the mask is never read by
            # the host
            torch._foreach_mul_(ways, mask * weight)
            torch._foreach_add_(shadows, ways)
        for shadow, original in self._copied:
            shadow.copy_(original)
