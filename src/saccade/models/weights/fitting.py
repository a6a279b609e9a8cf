"""Tensors of other sizes made to fit: image sizes, windows, colours, 1x1 convolutions.

Shapes: n positions, C channels, H and W height and width of a kernel.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from saccade.models.parts.layers import resized_sum

LARGEST_RESIZED = 1 << 26


def squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor ``(...)`` without the sides of length 1."""
    return tuple(side for side in tensor.shape if side != 1)


def form(tensor: Tensor) -> str:
    """Write the shape of a tensor ``(...)`` for people: 64x3x7x7."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def fit(last: str, theirs: Tensor, ours: Tensor, is_first: bool) -> tuple[Tensor, str] | None:
    """Return a tensor in the shape of ours, any ``(...)``, and a description of the change.

    None if it means something else.
    """
    if theirs.is_complex() != ours.is_complex():
        return None
    # quantised weights: their integers mean other numbers
    if ours.is_floating_point() and not theirs.is_floating_point():
        return None
    if theirs.shape == ours.shape:
        return theirs, ""

    # A linear layer and a 1x1 convolution hold the same numbers.
    if squeezed(theirs) == squeezed(ours):
        return theirs.reshape(ours.shape), f"{form(theirs)} -> {form(ours)}"

    # A file may claim a table of any size; only real ones are interpolated.
    if not 0 < theirs.numel() <= LARGEST_RESIZED:
        return None
    if is_first and theirs.dim() == 4:
        return _recoloured(theirs, ours)
    if last == "relative_position_bias_table":
        return _resized_windows(theirs, ours)
    if last == "place_weights":
        return _resized_pooling(theirs, ours)
    if "pos" in last:
        return _resized_positions(theirs, ours)
    return None


def _recoloured(theirs: Tensor, ours: Tensor) -> tuple[Tensor, str] | None:
    """Sum a first convolution (C, colours, H, W) for gray, or repeat and scale its colours."""
    before, after = theirs.shape[1], ours.shape[1]
    if theirs.shape[0] != ours.shape[0] or theirs.shape[2:] != ours.shape[2:]:
        return None
    if after == 1:
        return theirs.sum(1, keepdim=True), f"{before} -> 1 channels, summed"

    # Scaled so that the first layer answers about as strongly as before.
    places = [i % before for i in range(after)]
    return theirs[:, places] * (
        before / after
    ), f"{before} -> {after} channels, repeated and scaled"


def _resized_windows(theirs: Tensor, ours: Tensor) -> tuple[Tensor, str] | None:
    """Resize a table (n, heads) of relative positions, n = (2 window - 1)^2.

    *Source:* Liu et al. 2021, section 4.4; antialiased where it shrinks.
    """
    before, after = math.isqrt(theirs.shape[0]), math.isqrt(ours.shape[0])
    square = before**2 == theirs.shape[0] and after**2 == ours.shape[0]
    if theirs.dim() != 2 or theirs.shape[1:] != ours.shape[1:] or not square:
        return None
    return (
        _resized_grid(theirs, before, after, antialias=after < before),
        f"windows {(before + 1) // 2} -> {(after + 1) // 2}, bicubic",
    )


def _resized_grid(table: Tensor, before: int, after: int, *, antialias: bool) -> Tensor:
    """Resize a table (before^2, C), which is a square grid in rows, to (after^2, C): bicubic."""
    grid = table.float().T.reshape(1, -1, before, before)
    # antialiasing also takes another kernel (a = -0.5, not -0.75), so it matters where it grows
    grid = F.interpolate(grid, (after, after), mode="bicubic", antialias=antialias)
    return grid.reshape(-1, after**2).T


def _resized_pooling(theirs: Tensor, ours: Tensor) -> tuple[Tensor, str] | None:
    """Resize SpatialNet's pooling weights (side^2,), stored times ``side``, as it would itself."""
    before, after = math.isqrt(len(theirs)), math.isqrt(len(ours))
    if theirs.dim() != 1 or before**2 != len(theirs):
        return None
    weights = resized_sum(theirs.float().view(before, before) / before, after, after) * after
    return weights.flatten(), f"{before}x{before} -> {after}x{after} places, bilinear"


def _resized_positions(theirs: Tensor, ours: Tensor) -> tuple[Tensor, str] | None:
    """Resize a position table (1, tokens + n, C), n = side^2.

    Tokens that are missing in it keep our values. *Source:* Dosovitskiy et al. 2021, section 3.2;
    antialiased, as timm does it.
    """
    if min(theirs.dim(), ours.dim()) < 2 or theirs.shape[-1] != ours.shape[-1]:
        return None
    old, new = (
        theirs.float().reshape(-1, theirs.shape[-1]),
        ours.float().reshape(-1, ours.shape[-1]).clone(),
    )
    # a table does not say how many of its rows are tokens: the square that is left does
    (extra, before), (tokens, after) = _grid(len(old)), _grid(len(new))
    if not before or not after:
        return None
    new[tokens:] = _resized_grid(old[extra:], before, after, antialias=True)

    # Class tokens have no place in the grid: they are copied.
    shared = min(tokens, extra)
    new[:shared] = old[:shared]
    return new.reshape(ours.shape), f"{before}x{before} -> {after}x{after} positions, bicubic"


def _grid(length: int) -> tuple[int, int]:
    """Return how many class (and distillation) tokens precede a square grid, and its side.

    0 when there is none.
    """
    for tokens in range(3):
        side = math.isqrt(max(length - tokens, 0))
        if side and side**2 == length - tokens:
            return tokens, side
    return 0, 0
