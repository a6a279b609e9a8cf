"""Erasing on the device: a random box, or a square, of each image of a cell."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import CellAugmentation, Views
from saccade.rng import Keys, Purpose

ERASE_AREA, ERASE_RATIO, ERASE_ATTEMPTS = (0.02, 0.33), (0.3, 3.3), 10
"""*Source:* torchvision's RandomErasing; the method: Zhong et al. 2020, algorithm 1."""

Numbers = NDArray[np.int64]


class Erase(CellAugmentation):
    """A random box of some images becomes the mean colour, or noise."""

    switches = ("erase",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Take the chance of erasing and what fills the box."""
        self._chance, self._views = section.erase, views
        self._keys = views.keys(Purpose.NOISE) if section.erase_fill == "noise" else None

    def apply(self, images: Tensor) -> Tensor:
        """Erase a box of each image (B, 3, S, S) that is drawn."""
        boxes = erased_boxes(self._chance, self._views, images.shape[-1])
        return erase(images, boxes, self._keys)


class Cutout(CellAugmentation):
    """A square of every image becomes the mean colour."""

    switches = ("cutout",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Take the side of the square as a fraction of the image's."""
        self._fraction, self._views = section.cutout, views

    def apply(self, images: Tensor) -> Tensor:
        """Cut a square out of each image (B, 3, S, S)."""
        return erase(images, cutout_boxes(self._fraction, self._views, images.shape[-1]))


def erased_boxes(chance: float, views: Views, side: int) -> Numbers:
    """Return the box that random erasing takes out of each image: (left, top, right, bottom), int64
    (n, 4), in pixels.

    It is empty where nothing is erased. Ten draws of area and ratio; the first that fits strictly
    inside counts.
    """
    # all tries of all images in one call; unused ones cost less than a loop
    draws = views.uniform(Purpose.ERASE, 3 + 2 * ERASE_ATTEMPTS)
    areas, shapes = draws[:, 3::2], draws[:, 4::2]
    pixels = side**2 * (ERASE_AREA[0] + areas * (ERASE_AREA[1] - ERASE_AREA[0]))

    low, high = math.log(ERASE_RATIO[0]), math.log(ERASE_RATIO[1])
    ratio = np.exp(low + shapes * (high - low))
    heights, widths = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))

    fits = (heights < side) & (widths < side)
    rows, first = np.arange(len(draws)), fits.argmax(1)

    # an image without a fitting box is left whole, as in torchvision
    happens = (draws[:, 0] < chance) & fits.any(1)
    width, height = widths[rows, first] * happens, heights[rows, first] * happens
    left, top = (
        np.floor(draws[:, 1] * (side - width + 1)),
        np.floor(draws[:, 2] * (side - height + 1)),
    )
    return np.stack([left, top, left + width, top + height], 1).astype(np.int64)


def cutout_boxes(fraction: float, views: Views, side: int) -> Numbers:
    """Return the square that cutout takes out of each image: (left, top, right, bottom), int64 (n,
    4), in pixels.

    Its centre is any pixel, so that part of it may lie outside. *Source:* DeVries and Taylor 2017,
    section 3.2.
    """
    length = round(fraction * side)
    centres = np.floor(views.uniform(Purpose.CUTOUT, 2) * side)
    start = centres - length // 2
    return np.clip(np.concatenate([start, start + length], 1), 0, side).astype(np.int64)


def erase(images: Tensor, boxes: Numbers, keys: Keys | None = None) -> Tensor:
    """Set a box (left, top, right, bottom) of each float image (B, 3, S, S) to zero, or to standard
    normal noise.

    ``boxes`` is int64 (B, 4) in pixels, empty ones included; the noise follows from one key for
    each image.
    """
    chosen = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    if not len(chosen):
        return images

    places = torch.from_numpy(chosen).to(images.device, non_blocking=True)
    edges = torch.from_numpy(boxes[chosen]).to(images.device, non_blocking=True)
    left, top, right, bottom = edges.view(-1, 4, 1, 1).unbind(1)
    x = torch.arange(images.shape[-1], device=images.device)
    y = x.view(-1, 1)
    # a mask and not slices: one kernel for all images of the cell
    inside = ((x >= left) & (x < right) & (y >= top) & (y < bottom)).unsqueeze(1)

    parts = images[places]
    filled = (
        torch.zeros_like(parts)
        if keys is None
        else noise(keys[chosen], parts[0].shape, images.device)
    )
    return images.index_copy(0, places, torch.where(inside, filled, parts))


def noise(keys: Keys, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return standard normal numbers, float32 of shape ``(n, *shape)``, computed on the device from
    n keys.

    The same mixing of counters as in ``rng.uniform``, with 64-bit words that are signed here; 24
    bits are used.
    """
    first = torch.from_numpy(keys.astype(np.int64)).to(device, non_blocking=True)
    counters = torch.arange(1, math.prod(shape) + 1, device=device)
    # *Source:* the constants of splitmix64, as in `rng.py`
    words = counters * _signed(0x9E3779B97F4A7C15) + first[:, None]
    words = (words ^ _shift(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shift(words, 27)) * _signed(0x94D049BB133111EB)
    words = words ^ _shift(words, 31)
    # half a step away from 0 and 1, where the inverse of the normal is infinite
    uniform = (_shift(words, 40).float() + 0.5) * 2.0**-24
    return torch.special.ndtri(uniform).view(len(keys), *shape)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, which torch's signed numbers do not do by themselves."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
