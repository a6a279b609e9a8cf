"""Filling the places of one batch: read, decode as little as needed, crop, augment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.data.augment.augmentation import Views
from saccade.data.augment.chain import Chain
from saccade.data.augment.local_views import LocalViews
from saccade.data.augment.own_augment import OwnAugment
from saccade.data.decoded_cache import Decoded
from saccade.data.images import crops
from saccade.data.images.decode import Exif
from saccade.data.readers import Watch
from saccade.data.sources import Split

BYTES_PER_TASK = 64_000_000
"""Files that are read before the first of them is decoded, in bytes: those inside archives may
be unpacked copies.
"""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """One batch whose places are filled by several threads, each a run of whole images.

    ``views`` says what lies at each of B places, the ``copies`` of an image side by side; they go
    to ``room``, uint8 (B, 3, S, S), and the ``local`` views of the images to ``small``.
    """

    split: Split
    views: Views
    copies: int
    chain: Chain
    room: Tensor
    exif: Exif
    local: LocalViews | None = None
    small: Tensor | None = None
    decoded: Decoded | None = None
    own: OwnAugment | None = None

    def fill(self, first: int, last: int, watch: Watch) -> None:
        """Fill the places from ``first`` to ``last``, whose images go by way of ``watch``."""
        samples = self.views.samples[first:last]
        held = self.decoded.take(samples, watch(range(first, last))) if self.decoded else None
        if held is not None:
            self.chain.crops.cut_all_into(self.room[first:last], held, np.arange(first, last))
        else:
            sizes = self.split.sizes[samples[:: self.copies]]
            for begin, end in runs(sizes, BYTES_PER_TASK):
                self._cut(first + self.copies * begin, first + self.copies * end, watch)

        if self.own is not None:
            places = watch(range(first, last))
            self._change(self.own, self.room, self.views, places)
            if self.local is not None and self.small is not None:
                count = self.local.count
                there = iter(range(first // self.copies * count, last // self.copies * count))
                self._change(self.own, self.small, self.local.views, there)

    def _cut(self, first: int, last: int, watch: Watch) -> None:
        """Read and decode the images at these places, and write their views."""
        places, copies = range(first, last, self.copies), self.copies
        files = [self.split.read(int(self.views.samples[place])) for place in watch(places)]

        def choose(which: list[int], sizes: Numbers) -> Numbers:
            return self._choose(first // copies + np.array(which), sizes)

        whole = self.chain.needs_whole_image
        seen = crops.decode(files, choose, self._sides(), self.exif, whole=whole)
        for place, (pixels, chosen) in zip(watch(places), seen, strict=True):
            for copy, box in enumerate(chosen[:copies], place):
                self.chain.render(self.room[copy : copy + 1], pixels, box, copy)
            if self.local is not None and self.small is not None:
                self.local.render(self.small, pixels, chosen[copies:], place // copies)

    def _choose(self, images: Numbers, sizes: Numbers) -> Numbers:
        """Return the boxes of all views of k images of the batch, int64 (k, views, 4)."""
        places = (images[:, None] * self.copies + np.arange(self.copies)).reshape(-1)
        boxes = self.chain.crops.choose(places, np.repeat(sizes, self.copies, axis=0))
        boxes = boxes.reshape(-1, self.copies, 4)
        if self.local is None:
            return boxes
        return np.concatenate([boxes, self.local.choose(images, sizes)], axis=1)

    def _sides(self) -> int | Numbers:
        side = self.room.shape[-1]
        if self.local is None:
            return side
        return np.array([side] * self.copies + [self.local.side] * self.local.count)

    def _change(
        self, own: OwnAugment, squares: Tensor, views: Views, places: Iterator[int]
    ) -> None:
        """Let the user's function change views."""
        drawn = np.stack([views.epochs, views.samples])
        own.change_all(torch.split(squares, 1), drawn, places, self.split.describe)


def runs(sizes: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Split files of these sizes, int64 (k,), into ranges [first, last) of at most this many bytes,
    or of one file.
    """
    first, total = 0, 0
    for i, size in enumerate(sizes.tolist()):
        if i > first and total + size > most:
            yield first, i
            first, total = i, 0
        total += size
    yield first, len(sizes)
