"""Distinguishing a loss spike from noise."""

from __future__ import annotations

import torch
from torch import Tensor

HORIZON = 100
"""Steps over which the past is forgotten."""

FEWEST = 50
"""Steps before the first check: the fall of the loss at the start says nothing about its spread."""

LEAST_RISE = 2.0
"""A spike is at least this many times the mean: for a loss near zero, the spread says little.
"""


class LossRecord:
    """Number, mean and variance of the losses of recent good steps.

    A part of the state, kept on the device.
    """

    def __init__(self, limit: float, device: torch.device) -> None:
        self._limit = limit
        self._steps, self._mean, self._variance = (torch.zeros((), device=device) for _ in range(3))

    def tensors(self) -> dict[str, Tensor]:
        """Return the three scalars by name."""
        return {"steps": self._steps, "mean": self._mean, "variance": self._variance}

    def is_spike(self, loss: Tensor) -> Tensor:
        """Tell, as a bool scalar, whether a loss is more than ``limit`` standard deviations above
        the mean.
        """
        # with a floor: a spread near nought would call ordinary noise a spike
        high = self._mean + self._limit * self._variance.sqrt()
        return (self._steps >= FEWEST) & (loss > high.maximum(LEAST_RISE * self._mean))

    def update(self, loss: Tensor, good: Tensor) -> None:
        """Record a loss, a scalar, unless ``good``, a bool scalar, is False.

        *Source:* West 1979, updated mean and variance; the weight is 1 / n at first and never below
        1 / ``HORIZON``.
        """
        # an ordinary mean for the first steps, then one that forgets
        weight = 1 / (self._steps + 1).clamp(max=HORIZON)
        apart = loss - self._mean
        following = (
            self._steps + 1,
            self._mean + weight * apart,
            (1 - weight) * (self._variance + weight * apart.square()),
        )
        # chosen on the device: to ask here whether the step was good would wait for the GPU
        for tensor, value in zip(self.tensors().values(), following, strict=True):
            tensor.copy_(torch.where(good, value, tensor))
