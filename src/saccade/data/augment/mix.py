"""Operations on a whole cell on the device: normalisation, mixup and cutmix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from saccade import rng
from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Augmentation
from saccade.rng import Purpose


@dataclass(frozen=True, slots=True)
class Mix(Augmentation):
    """How a cell (micro-batch) is mixed with itself in reverse order.

    ``lam`` (lambda) is the weight of the image itself. ``box`` is the pasted part, if any: (left,
    top, width, height) as fractions of the side.
    """

    switches = ("mixup", "cutmix")

    lam: float = 1.0
    box: tuple[float, float, float, float] | None = None


def draw_mix(augment: AugmentSection, seed: int, step: int, cell: int) -> Mix:
    """Draw the one mix of a cell, a pure function of (seed, step, cell).

    Where both kinds are on, each is taken half of the time.

    *Source:* mixup: Zhang et al. 2018, equation 1; cutmix: Yun et al. 2019, equations 1 and 2.
    """
    if augment.mixup == 0 and augment.cutmix == 0:
        return Mix()
    # all four are drawn whatever is on: switching one kind off leaves the draws of the other
    which, lam, x, y = rng.uniform(rng.key(seed, Purpose.MIX, step, cell), 4).tolist()
    if augment.cutmix == 0 or (augment.mixup > 0 and which < 0.5):
        return Mix(rng.beta(lam, augment.mixup))

    # the area of the box is 1 - lambda, so its side is the root
    side = math.sqrt(1 - rng.beta(lam, augment.cutmix))
    left, top = max(x - side / 2, 0.0), max(y - side / 2, 0.0)
    return Mix(box=(left, top, min(x + side / 2, 1.0) - left, min(y + side / 2, 1.0) - top))


def normalise(
    images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], channels: str = "rgb"
) -> Tensor:
    """Turn uint8 RGB images (B, 3, H, W), 0..255, into float32 ones: (value / 255 - mean) / std,
    layout kept.

    ``mean`` and ``std`` are those of red, green and blue whatever ``channels`` says: with ``bgr``
    the result has blue first.
    """
    if channels == "bgr":
        # of bytes, which are a quarter of the result
        images, mean, std = images.flip(1), mean[::-1], std[::-1]
    scale, shift = scale_and_shift(mean, std, images.device)
    # one pass over the images, and no copy for dividing by 255
    return torch.addcmul(shift, images.float(), scale)


def pixels(
    images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], channels: str = "rgb"
) -> Tensor:
    """Convert the result of `normalise`, float32 (B, 3, H, W), back to uint8 RGB images."""
    shift, scale = (images.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    seen = images.flip(1) if channels == "bgr" else images
    return ((seen * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8)


@cache
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the factor and the summand that normalise an image, (1, 3, 1, 1) each.

    They are sent to the device only once, because each transfer waits for a GPU.
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
        # lambda of the box as it was cut: borders and rounding make it smaller than drawn
        return images, 1 - (bottom - top) * (right - left) / size**2
    if mix.lam == 1.0:
        return images, 1.0
    return images * mix.lam + images.flip(0) * (1 - mix.lam), mix.lam
