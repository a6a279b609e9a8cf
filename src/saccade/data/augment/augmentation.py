"""The definition of an augmentation: one class with its settings, its draws and its operation.

There are two kinds. An ``ImageAugmentation`` works in the reading threads, on one image of 8-bit
pixels. A ``CellAugmentation`` works on the device, on the normalised images of a cell
(micro-batch). `chain.ORDER` lists all of them in the order in which they are applied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as Picture
from torch import Tensor

from saccade import rng
from saccade.config.schema import AugmentSection
from saccade.rng import Floats, Keys, Purpose


@dataclass(frozen=True, slots=True)
class Views:
    """The views that a batch or a cell holds: one (epoch, sample) pair, int64 ``(n,)``, for each
    place.

    Every draw depends only on the seed, its purpose, and these two numbers.
    """

    seed: int
    epochs: NDArray[np.int64]
    samples: NDArray[np.int64]

    def keys(self, purpose: Purpose) -> Keys:
        """Return one key for each place, uint64 ``(n,)``."""
        return rng.key(self.seed, purpose, self.epochs, self.samples)

    def uniform(self, purpose: Purpose, num: int) -> Floats:
        """Return ``num`` uniform draws in [0, 1) for each place, float64 ``(n, num)``."""
        return rng.uniform(self.keys(purpose), num)

    def in_turn(self, values: Sequence[float], repeats: int) -> Floats:
        """Return a setting for each place, float64 ``(n,)``, where it differs between the views.

        Each view of an image has its own value; the last value holds for all further ones.
        """
        # copies of an image are numbered as epochs: `data.order.Order`
        turns = np.minimum(self.epochs % repeats, len(values) - 1)
        return np.asarray(values, np.float64)[turns]


class Augmentation(ABC):
    """One augmentation; ``switches`` are the settings of `augment` that turn it on."""

    switches: ClassVar[tuple[str, ...]]

    @classmethod
    def is_on(cls, section: AugmentSection) -> bool:
        """Tell whether these settings turn it on: one of its switches is neither 0 nor "none"."""
        return any(_is_set(getattr(section, name)) for name in cls.switches)


class ImageAugmentation(Augmentation):
    """An augmentation of single images in the reading threads, made once for each batch."""

    @abstractmethod
    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Take the settings, and make the draws of all places of the batch at once."""

    @abstractmethod
    def apply(self, image: Picture, place: int) -> Picture:
        """Return the RGB image at a place of the batch, changed by the draws of that place.

        Several threads call this at the same time. An unchanged image is returned itself.
        """


class CellAugmentation(Augmentation):
    """An augmentation of a cell on the device, made once for each cell."""

    @abstractmethod
    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Take the settings and the views that the cell holds."""

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Return normalised images, float32 (B, 3, S, S), changed by their draws."""


def _is_set(value: Any) -> bool:
    # jitter is a tuple of strengths, on where one of them is
    return any(value) if isinstance(value, tuple) else value not in (0, "none")
