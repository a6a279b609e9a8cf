"""Rounding to 8 bits inside a network that still computes in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.models.quantized.rounding import rounded
from saccade.models.quantized.schemes import Scheme

MOMENTUM = 0.01
"""Weight of a new step in the running ranges. *Source:* the averaging constant of torch's
MovingAverageMinMaxObserver; Jacob et al. 2018, section 3.1, asks for a small one.
"""

LEVELS = 255
"""Steps of an activation: uint8, 0 to 255."""

MIDDLE = 128
"""Zero point of a power-of-two range with negative numbers: the same as int8 around zero."""

BEYOND = 33 / 32
"""How far the largest weight may lie beyond the last power-of-two step, and is clipped, before all
steps double: a weight on the last step would double them by its first move in training.
"""

LEAST_SHARE = 1e-4
"""Smallest scale of a channel as a share of the largest one: the bias of a channel whose weights
are all zero would not fit into 32 bits.
"""

TINY = 1e-12


class Activations(nn.Module):
    """Rounds activations to 8 bits, within ranges that follow the batches in training.

    ``running_low`` and ``running_high``, scalars, are averaged over the cells (micro-batches) of a
    step like the statistics of BatchNorm. After ``until`` steps they are frozen; ``steps`` counts
    the steps. While it is ``watching``, the ranges grow to hold every value, and nothing is
    rounded.
    """

    running_low: Tensor
    running_high: Tensor
    steps: Tensor
    until: Tensor

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.watching = False
        self.register_buffer("running_low", torch.zeros(()))
        self.register_buffer("running_high", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("until", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of any shape ``(...)``, float32, rounded."""
        # torch's kernels know no tensors without memory
        if x.is_meta:
            return x
        if self.watching:
            low, high = x.detach().amin(), x.detach().amax()
            torch.minimum(self.running_low, low, out=self.running_low)
            torch.maximum(self.running_high, high, out=self.running_high)
            return x

        if self.training:
            with torch.no_grad():
                # the decision stays on the device: nothing waits for it
                share = (self.steps < self.until) * MOMENTUM
                # torch.aminmax would copy maps whose channels lie last
                self.running_low.lerp_(x.amin(), share)
                self.running_high.lerp_(x.amax(), share)
                self.steps += 1
        scale, zero = self.scale_and_zero()
        return rounded(x, scale, zero, (0, LEVELS))

    @torch.no_grad()
    def scale_and_zero(self) -> tuple[Tensor, Tensor]:
        """Return the size of a step, a float32 scalar, and the number of the step that means zero,
        an int32 scalar.
        """
        low, high = self.running_low.clamp(max=0), self.running_high.clamp(min=0)
        if self.scheme.power_of_two:
            signed = low < 0
            largest = torch.maximum(-low / MIDDLE, high / (LEVELS - MIDDLE))
            scale = power_of_two_above(torch.where(signed, largest, high / LEVELS))
            return scale, (signed * MIDDLE).to(torch.int32)
        zero = (-low * LEVELS / (high - low).clamp(min=TINY)).round().clamp(0, LEVELS)
        # Both ends become whole steps: an image has many pixels of the smallest value, and half a
        # step would be rounded up by one program and down by another.
        below = torch.where(zero > 0, -low / zero.clamp(min=1), 0.0)
        above = torch.where(zero < LEVELS, high / (LEVELS - zero).clamp(min=1), 0.0)
        return torch.maximum(below, above).clamp(min=TINY), zero.to(torch.int32)


class Weights(nn.Module):
    """Rounds weights to 8 bits, around zero, by their present largest magnitude."""

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def forward(self, weight: Tensor) -> Tensor:
        """Return weights (outputs, ...), float32, rounded."""
        if weight.is_meta:
            return weight
        scale = self.scale(weight)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return rounded(weight, scale, zero, (-self.scheme.most_weight, self.scheme.most_weight))

    @torch.no_grad()
    def scale(self, weight: Tensor) -> Tensor:
        """Return the size of a step: float32 (outputs,), or a scalar."""
        largest = (
            weight.abs().flatten(1).amax(1) if self.scheme.per_channel else weight.abs().amax()
        )
        scale = torch.maximum(largest, LEAST_SHARE * largest.amax()).clamp(min=TINY)
        scale = scale / self.scheme.most_weight
        return power_of_two_above(scale / BEYOND) if self.scheme.power_of_two else scale


class Bias(nn.Module):
    """Rounds a bias to 32 bits: whole multiples of (step of the layer's inputs x step of its
    weights).

    Integer kernels add the bias in this form; without the rounding, their results would sometimes
    differ.
    """

    def __init__(self, given: Activations, weights: Weights) -> None:
        super().__init__()
        # beside, not within: each is a part of the network once
        self._beside = given, weights

    def forward(self, bias: Tensor, weight: Tensor) -> Tensor:
        """Return a bias, float32 (outputs,), of a layer with weights (outputs, ...), rounded."""
        if bias.is_meta:
            return bias
        with torch.no_grad():
            scale = self.scale(weight)
            lost = (bias.double() / scale).round() * scale - bias
        return bias + lost.float()

    @torch.no_grad()
    def scale(self, weight: Tensor) -> Tensor:
        """Return the size of a step: float64 (outputs,), or a scalar."""
        given, weights = self._beside
        return given.scale_and_zero()[0].double() * weights.scale(weight).double()


def power_of_two_above(numbers: Tensor) -> Tensor:
    """Return for each positive number the smallest power of two that is not below it, in any shape.

    It uses the bits of the numbers, because exp2 can be wrong in the last one; numbers below 2^-126
    become 2^-126.
    """
    bits = numbers.float().contiguous().view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    exponent = exponent + ((bits & 0x7FFFFF) > 0).to(torch.int32)
    return (exponent.clamp(1, 254) << 23).view(torch.float32)
