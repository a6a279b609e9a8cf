"""Small images stay in memory once they are decoded: to decode 32 pixels again takes longer than to cut them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from saccade.data import images
from saccade.data.images import Exif
from saccade.data.sources import Split

MOST_PIXELS = 64 * 64
"""Of an image that is held."""

MOST_BYTES = 1 << 30
"""Of all images of a split together."""


class Decoded:
    """The pixels of a split whose images are all of one small size, decoded when they are first asked for.

    ``is_even`` turns False when an image of another size turns up; then nothing more is held.
    """

    def __init__(self, split: Split, height: int, width: int, exif: Exif) -> None:
        self._split, self._exif = split, exif
        self._pixels = np.empty((len(split), height, width, 3), np.uint8)
        self._known = np.zeros(len(split), np.bool_)
        self.is_even = True

    @classmethod
    def of(cls, split: Split, exif: Exif) -> Decoded | None:
        """Return the memory for a split, nothing decoded yet; None where the images are too large or too many."""
        try:
            height, width, _ = images.decode(split.read(0), exif=exif).shape
        except (images.BadImage, OSError):
            return None
        if height * width > MOST_PIXELS or 3 * height * width * len(split) > MOST_BYTES:
            return None
        return cls(split, height, width, exif)

    def add(self, samples: Iterable[int]) -> None:
        """Decode the images with these numbers that are not held yet; raises BadImage at one that is none."""
        for sample in samples:
            if self._known[sample]:
                continue
            pixels = images.decode(self._split.read(sample), exif=self._exif)
            if pixels.shape != self._pixels.shape[1:]:
                self.is_even = False
                return
            self._pixels[sample] = pixels
            self._known[sample] = True

    def take(self, samples: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of the images with these numbers, uint8 (k, height, width, 3); all must have been added."""
        return self._pixels.take(samples, axis=0)
