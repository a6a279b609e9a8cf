"""The hidden patches of an image: masks from counter keys, the same number for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saccade import rng
from saccade.errors import ConfigError
from saccade.rng import Purpose

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

UNITS_A_SIDE = 6
"""Units along a side where nothing else is asked for. *Source:* Xie et al. 2022, section 3.1: 32 px
of 192.
"""


@dataclass(frozen=True, slots=True)
class Masking:
    """The masking of images: in square units, of which the same number is hidden in each image.

    An image has ``side`` x ``side`` units, each of ``patches`` x ``patches`` patches; ``hidden`` of
    the units are masked.
    """

    side: int
    patches: int
    hidden: int

    @property
    def visible_patches(self) -> int:
        """Number of visible patches per image."""
        return (self.side**2 - self.hidden) * self.patches**2

    def draw(self, seed: int, epochs: Numbers, samples: Numbers) -> Mask:
        """Return the masks of training views, True where a patch is hidden: (B, h, w).

        ``epochs`` and ``samples``, int64 (B,), identify the views. A mask depends only on these two
        and the seed: it is the same in any cell, on any rank.
        """
        draws = rng.uniform(rng.key(seed, Purpose.MASK, epochs, samples), self.side**2)
        # the places of the smallest draws: exactly so many, and every choice is equally likely
        chosen = np.argsort(draws, axis=1, kind="stable")[:, : self.hidden]
        units = np.zeros(draws.shape, np.bool_)
        np.put_along_axis(units, chosen, True, axis=1)
        grid = units.reshape(-1, self.side, self.side)
        return grid.repeat(self.patches, axis=1).repeat(self.patches, axis=2)


def masking(image_size: int, patch: int, unit: int, ratio: float) -> Masking:
    """Return how images of ``image_size`` pixels a side are masked, where patches have ``patch``.

    ``unit`` is the side of a unit in pixels, ``ratio`` the fraction that is hidden, rounded up to
    whole units. Raises ConfigError where units do not fill the image, or patches a unit.
    """
    if unit % patch or image_size % unit:
        fitting = [n for n in range(patch, image_size, patch) if image_size % n == 0]
        listed = ", ".join(map(str, fitting)) or f"none; use images of at least {2 * patch} px"
        raise ConfigError(
            f"squares of {unit} px do not fit images of {image_size} px with patches of {patch} px",
            where="pretrain.mask_unit",
            fix=(
                "pretrain.mask_unit must be a multiple of the patch size and divide the "
                f"image size: {listed}"
            ),
        )
    side = image_size // unit
    # the small number keeps 0.6 * 35, which is 21.000000000000004, from being 22
    hidden = math.ceil(ratio * side**2 - 1e-9)
    if not 0 < hidden < side**2:
        raise ConfigError(
            f"a mask of {ratio:g} hides {hidden} of {side**2} squares",
            where="pretrain.mask",
            fix=(
                "some squares must be hidden and some visible: use a smaller "
                "pretrain.mask_unit, or another fraction"
            ),
        )
    return Masking(side, unit // patch, hidden)


def usual_unit(image_size: int, patch: int) -> int:
    """Return the side of a unit, in pixels: about a sixth of an image, in whole patches."""
    fitting = [n for n in range(patch, image_size, patch) if image_size % n == 0]
    smaller = [n for n in fitting if n <= image_size / UNITS_A_SIDE]
    return max(smaller, default=min(fitting, default=patch))
