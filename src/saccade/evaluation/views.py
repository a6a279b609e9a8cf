"""Test-time augmentation: the output of a network as the mean over several views of each image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

SHIFT = 1 / 32
"""How far the shifted views move, as a share of the side.

*Source:* Jordan 2024, "94% on CIFAR-10 in 3.29 seconds".
"""


def views(images: Tensor, count: int) -> Iterator[Tensor]:
    """Yield 1, 2 or 6 views of images, float32 (B, 3, S, S), each of the same shape.

    1 is the images alone; 2 adds their horizontal flips; 6 adds both shifted to the upper left and
    to the lower right, with a mirrored border.
    """
    assert count in (1, 2, 6)
    yield images
    if count >= 2:
        yield images.flip(3)
    if count == 6:
        side = images.shape[-1]
        by = max(round(SHIFT * side), 1)
        padded = functional.pad(images, (by, by, by, by), "reflect")
        for start in (0, 2 * by):
            moved = padded[:, :, start : start + side, start : start + side]
            yield moved
            yield moved.flip(3)


def mean_logits(network: nn.Module, images: Tensor, count: int) -> Tensor:
    """Return the logits of images (B, 3, S, S), float32 (B, C), averaged over the views of each."""
    laid_out = (view.contiguous(memory_format=torch.channels_last) for view in views(images, count))
    return reduce(torch.add, (network(view).float() for view in laid_out)) / count


def phrase(count: int) -> str:
    """Return the note for a figure of several views; empty for one view."""
    return f", mean of {count} views of each" if count > 1 else ""
