"""What happens to a cell on the device: normalisation, erasing, mixup and cutmix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade import rng
from saccade.config.schema import AugmentSection, Config
from saccade.rng import Keys, Purpose

ERASE_AREA, ERASE_RATIO, ERASE_ATTEMPTS = (0.02, 0.33), (0.3, 3.3), 10
"""*Source:* torchvision's RandomErasing; the method: Zhong et al.

2020, "Random Erasing", algorithm 1.
"""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mix:
    """How a cell (micro-batch) is mixed with itself in reverse order.

    ``lam`` (lambda) is the weight of the image itself. ``box`` is the pasted part, if any: (left,
    top, width, height) as fractions of the side.
    """

    lam: float = 1.0
    box: tuple[float, float, float, float] | None = None


def draw_mix(augment: AugmentSection, seed: int, step: int, cell: int) -> Mix:
    """Draw the one mix of a cell, a pure function of (seed, step, cell).

    With both kinds on, each half of the time.

    *Source:* mixup: Zhang et al. 2018, equation 1; cutmix: Yun et al. 2019, equations 1 and 2.
    """
    if augment.mixup == 0 and augment.cutmix == 0:
        return Mix()
    which, lam, x, y = rng.uniform(rng.key(seed, Purpose.MIX, step, cell), 4).tolist()
    if augment.cutmix == 0 or (augment.mixup > 0 and which < 0.5):
        return Mix(rng.beta(lam, augment.mixup))
    side = math.sqrt(1 - rng.beta(lam, augment.cutmix))
    left, top = max(x - side / 2, 0.0), max(y - side / 2, 0.0)
    return Mix(box=(left, top, min(x + side / 2, 1.0) - left, min(y + side / 2, 1.0) - top))


def present(
    images: Tensor, epochs: Numbers, samples: Numbers, config: Config, step: int, cell: int
) -> tuple[Tensor, float]:
    """Turn a cell as loaded into what the network is trained on.

    Return it with lambda, the weight of each image's own label.

    ``images`` is uint8 (B, 3, S, S), the result float32 of the same shape; ``epochs`` and
    ``samples``, of shape ``(B,)``, say which views these are. Normalised first, so that what is
    erased has the mean colour; mixed last.
    """
    augment, seed, side = config.augment, config.seed, images.shape[-1]
    inputs = normalise(images, config.data.mean, config.data.std)
    if augment.erase > 0:
        keys = (
            rng.key(seed, Purpose.NOISE, epochs, samples) if augment.erase_fill == "noise" else None
        )
        inputs = erase(inputs, erased_boxes(augment.erase, seed, epochs, samples, side), keys)
    if augment.cutout > 0:
        inputs = erase(inputs, cutout_boxes(augment.cutout, seed, epochs, samples, side))
    return apply_mix(inputs, draw_mix(augment, seed, step, cell))


def erased_boxes(chance: float, seed: int, epochs: Numbers, samples: Numbers, side: int) -> Numbers:
    """Return the box that random erasing takes out of each image: (left, top, right, bottom), int64
    (n, 4), in pixels.

    It is empty where nothing is erased. Ten draws of area and ratio; the first that fits strictly
    inside counts.
    """
    keys = rng.key(seed, Purpose.ERASE, epochs, samples)
    draws = rng.uniform(keys, 3 + 2 * ERASE_ATTEMPTS)
    areas, shapes = draws[:, 3::2], draws[:, 4::2]
    pixels = side**2 * (ERASE_AREA[0] + areas * (ERASE_AREA[1] - ERASE_AREA[0]))
    low, high = math.log(ERASE_RATIO[0]), math.log(ERASE_RATIO[1])
    ratio = np.exp(low + shapes * (high - low))
    heights, widths = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
    fits = (heights < side) & (widths < side)
    rows, first = np.arange(len(keys)), fits.argmax(1)
    happens = (draws[:, 0] < chance) & fits.any(1)
    width, height = widths[rows, first] * happens, heights[rows, first] * happens
    left, top = (
        np.floor(draws[:, 1] * (side - width + 1)),
        np.floor(draws[:, 2] * (side - height + 1)),
    )
    return np.stack([left, top, left + width, top + height], 1).astype(np.int64)


def cutout_boxes(
    fraction: float, seed: int, epochs: Numbers, samples: Numbers, side: int
) -> Numbers:
    """Return the square that cutout takes out of each image: (left, top, right, bottom), int64 (n,
    4), in pixels.

    Its centre is any pixel, so that part of it may lie outside. *Source:* DeVries and Taylor 2017,
    section 3.2.
    """
    length = round(fraction * side)
    centres = np.floor(rng.uniform(rng.key(seed, Purpose.CUTOUT, epochs, samples), 2) * side)
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
    words = counters * _signed(0x9E3779B97F4A7C15) + first[:, None]
    words = (words ^ _shift(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shift(words, 27)) * _signed(0x94D049BB133111EB)
    words = words ^ _shift(words, 31)
    uniform = (_shift(words, 40).float() + 0.5) * 2.0**-24
    return torch.special.ndtri(uniform).view(len(keys), *shape)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, which torch's signed numbers do not do by themselves."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn uint8 images (B, 3, H, W), 0..255, into float32 ones: (value / 255 - mean) / std,
    layout kept.
    """
    scale, shift = _scale_and_shift(mean, std, images.device)
    return torch.addcmul(shift, images.float(), scale)


@cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what an image is multiplied by and what is added, (1, 3, 1, 1) each: sent to the
    device only once.

    A GPU would be waited for each time.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


def apply_mix(images: Tensor, mix: Mix) -> tuple[Tensor, float]:
    """Mix a cell of float images (B, 3, H, W) with itself in reverse order.

    Return it and lambda, the weight of the image's own label.
    """
    if mix.box is not None:
        size = images.shape[-1]
        left, top = round(mix.box[0] * size), round(mix.box[1] * size)
        right, bottom = (
            round((mix.box[0] + mix.box[2]) * size),
            round((mix.box[1] + mix.box[3]) * size),
        )
        images = images.clone()
        images[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        return images, 1 - (bottom - top) * (right - left) / size**2
    if mix.lam == 1.0:
        return images, 1.0
    return images * mix.lam + images.flip(0) * (1 - mix.lam), mix.lam
