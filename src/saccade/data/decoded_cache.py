"""A cache of small decoded images: decoding takes longer than cropping."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from saccade.data.images import decode
from saccade.data.images.crops import SHARPNESS
from saccade.data.images.decode import Exif
from saccade.data.sources import Split

MOST_SIDE = 64
"""Largest side of a cached image, in pixels."""

MOST_BYTES = 1 << 30
"""Largest size of all cached images of a split together, in bytes."""


class Decoded:
    """The pixels of a split whose images all have the same small size, decoded when first needed.

    After an image of another size, no more images are cached.
    """

    def __init__(self, split: Split, height: int, width: int, exif: Exif) -> None:
        self._split, self._exif = split, exif
        self._pixels = np.empty((len(split), height, width, 3), np.uint8)
        self._known = np.zeros(len(split), np.bool_)
        self._is_even = True

    @classmethod
    def of(cls, split: Split, exif: Exif, side: int = MOST_SIDE) -> Decoded | None:
        """Return the cache of a split, with nothing decoded yet.

        None if the images are too large or too many, or if squares of ``side`` pixels would be cut
        from images that the decoder halves (see `crops`).
        """
        try:
            height, width, _ = decode.decode(split.read(0), exif=exif).shape
        except (decode.BadImage, OSError):
            return None
        if (
            # an image that the decoder would halve has other pixels when it is held whole
            max(height, width) > min(MOST_SIDE, 2 * SHARPNESS * side - 1)
            or 3 * height * width * len(split) > MOST_BYTES
        ):
            return None
        return cls(split, height, width, exif)

    def take(self, samples: NDArray[np.int64], places: Iterable[int]) -> NDArray[np.uint8] | None:
        """Return a copy of the images with these numbers, uint8 (k, height, width, 3).

        None if their sizes differ. Images that are not in the cache yet are decoded, one for each
        step through ``places``. Raises BadImage at one that cannot be decoded.
        """
        for _, sample in zip(places, samples.tolist(), strict=True):
            if self._known[sample] or not self._is_even:
                continue
            pixels = decode.decode(self._split.read(sample), exif=self._exif)
            # the first image stood for all, and was no fair sample
            if pixels.shape != self._pixels.shape[1:]:
                self._is_even = False
                continue
            # the pixels first, then the mark: other threads may look at it in between
            self._pixels[sample] = pixels
            self._known[sample] = True
        return self._pixels.take(samples, axis=0) if self._is_even else None
