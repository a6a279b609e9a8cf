"""From positions to batches: threads that read, decode, crop and resize straight into the batch.

The loader has no state: a batch is a pure function of its position, so the number of threads cannot
change it and a resume needs one integer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Views
from saccade.data.augment.chain import Chain
from saccade.data.augment.own_augment import OwnAugment
from saccade.data.decoded_cache import Decoded
from saccade.data.images import crops, decode
from saccade.data.images.fit import CENTRAL, Fit
from saccade.data.order import EVERYTHING, Order, RankSlice
from saccade.data.readers import IMAGES_PER_TASK, Readers, Watch
from saccade.data.sources import Split

BYTES_PER_TASK = 64_000_000
"""Files that are read before the first of them is decoded, in bytes: those inside archives may
be unpacked copies.
"""

DECODED_PER_TASK = 512
"""The same where images need not be decoded any more: many that are cut alike are cut in one
call.
"""

BATCHES_AHEAD = 2
AHEAD_BYTES = 1 << 30
"""Bound on the images that wait in memory; one batch ahead is prepared whatever its size."""

Exif = Literal["ignore", "apply"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images as the network's input before normalisation.

    ``images`` is uint8 (B, 3, S, S) in channels_last order, ``labels`` int64 (B,); ``samples`` and
    ``epochs``, int64 (B,), tell which images of the split these are and in which epoch;
    ``waited_s`` is how long the caller waited.
    """

    images: Tensor
    labels: Tensor
    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingView:
    """How training images are seen: which, when, and through which crop, flip and operations.

    The run is ``total_steps`` long; where the batch changed in mid-run, ``ahead`` is added to the
    number of a step, so that it says how much was consumed.
    """

    split: Split
    order: Order
    augment: AugmentSection
    image_size: int
    total_steps: int
    exif: Exif
    rank_slice: RankSlice = EVERYTHING
    decoded: Decoded | None = None
    fit: Fit = CENTRAL
    ahead: float = 0
    own: OwnAugment | None = None

    @property
    def sides(self) -> list[int]:
        """The sides of the training images, in pixels, in equal parts of the run: multiples of
        8, or the image size.
        """
        scaled = [self.image_size * factor for factor in self.augment.sizes]
        return [
            max(round(side / 8) * 8, 8) if side != self.image_size else self.image_size
            for side in scaled
        ]

    def size_at(self, step: int) -> int:
        """Return the side of the training images, in pixels, at a step."""
        sides = self.sides
        return sides[min(int((step + self.ahead) * len(sides) // self.total_steps), len(sides) - 1)]

    def start(
        self, readers: Readers, step: int, global_batch: int, slots: Tensor | None = None
    ) -> tuple[Batch, list[Future[None]]]:
        """Begin to fill the rank's part of the batch of a step.

        It is complete when the returned tasks are.

        Copies of one image lie side by side and are decoded once. ``slots``, uint8 (B, 3, S, S) in
        channels_last order, is where the images go; new memory without it.
        """
        places = self.rank_slice.places(global_batch)
        drawn = np.stack(self.order.at(step * global_batch, (step + 1) * global_batch))[:, places]
        epochs, samples = drawn
        copies = self.order.repeats
        chain = Chain(
            self.augment, Views(self.order.seed, epochs, samples), self.size_at(step), self.fit
        )
        if slots is None:
            slots = readers.memory.take(len(samples), self.size_at(step))
        squares, side = torch.split(slots, 1), slots.shape[-1]

        def fill(first: int, last: int, watch: Watch) -> None:
            held = (
                self.decoded.take(samples[first:last], watch(range(first, last)))
                if self.decoded
                else None
            )
            if held is not None:
                chain.crops.cut_all_into(slots[first:last], held, np.arange(first, last))
            else:
                sizes = self.split.sizes[samples[first:last:copies]]
                for begin, end in runs(sizes, BYTES_PER_TASK):
                    cut(first + copies * begin, first + copies * end, watch)

            if self.own is not None:
                self.own.change_all(squares, drawn, watch(range(first, last)), self.split.describe)

        def cut(first: int, last: int, watch: Watch) -> None:
            def choose(which: list[int], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
                places = (
                    first
                    + copies * np.repeat(which, copies)
                    + np.tile(np.arange(copies), len(which))
                )
                boxes = chain.crops.choose(places, np.repeat(sizes, copies, axis=0))
                return boxes.reshape(-1, copies, 4)

            places = range(first, last, copies)
            files = [self.split.read(int(samples[place])) for place in watch(places)]
            seen = crops.decode(files, choose, side, self.exif, whole=chain.needs_whole_image)
            for place, (pixels, chosen) in zip(watch(places), seen, strict=True):
                for copy, box in enumerate(chosen, place):
                    chain.render(squares[copy], pixels, box, copy)

        labels = torch.from_numpy(self.split.labels[samples])
        at_once = DECODED_PER_TASK if self.decoded else IMAGES_PER_TASK
        return Batch(slots, labels, samples, epochs), readers.submit(
            self.split, samples, fill, group=copies, at_once=at_once
        )


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """How images are seen at evaluation: all of them once, in order, each fitted into the square.

    Of every ``ranks`` cells in a row, ``rank`` takes one.
    """

    split: Split
    image_size: int
    fit: Fit
    exif: Exif
    rank: int = 0
    ranks: int = 1
    decoded: Decoded | None = None

    def start(self, readers: Readers, step: int, cell: int) -> tuple[Batch, list[Future[None]]]:
        """Begin to fill one cell.

        The last one is padded with the last image, whose place repeats in ``samples``.
        """
        # cells lie in turns on the ranks, as in training
        first = (step * self.ranks + self.rank) * cell
        # padded, as every forward pass has the same size: kernels may round differently for another
        samples = np.minimum(np.arange(first, first + cell), len(self.split) - 1)
        slots = readers.memory.take(cell, self.image_size)

        def fill(first: int, last: int, watch: Watch) -> None:
            held = (
                self.decoded.take(samples[first:last], watch(range(first, last)))
                if self.decoded
                else None
            )
            if held is not None:
                slots[first:last].copy_(self.fit.squares(held, self.image_size))
                return
            for place in watch(range(first, last)):
                pixels = decode.decode(self.split.read(int(samples[place])), exif=self.exif)
                slots[place].copy_(self.fit.square(pixels, self.image_size))

        labels = torch.from_numpy(self.split.labels[samples])
        return Batch(slots, labels, samples, np.zeros_like(samples)), readers.submit(
            self.split, samples, fill
        )


def runs(sizes: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Cut files of these sizes, int64 (k,), into runs [first, last) of at most so many bytes, or
    of one file.
    """
    first, total = 0, 0
    for i, size in enumerate(sizes.tolist()):
        if i > first and total + size > most:
            yield first, i
            first, total = i, 0
        total += size
    yield first, len(sizes)


class View(Protocol):
    """What can begin to fill the batch of a step."""

    def start(
        self, readers: Readers, step: int, batch_size: int, /
    ) -> tuple[Batch, list[Future[None]]]:
        """Return the batch, images (B, 3, S, S), and the tasks after which it is complete."""


def batches_ahead(threads: int, num_images: int) -> int:
    """Return how many batches of so many images are prepared ahead: enough for two tasks of each
    thread.
    """
    return max(BATCHES_AHEAD, -(-2 * threads * IMAGES_PER_TASK // num_images))


def batches(
    view: View, readers: Readers, batch_size: int, first_step: int, last_step: int
) -> Iterator[Batch]:
    """Yield the batches of the steps [first_step, last_step), preparing a few ahead.

    A batch is valid until the next one is asked for. Raises DataError for an image that cannot be
    read and StalledError when no image arrives.
    """
    ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
    next_step, room = first_step, 1
    try:
        while ahead or next_step < last_step:
            while next_step < last_step and len(ahead) < room:
                ahead.append(view.start(readers, next_step, batch_size))
                next_step += 1
                images = ahead[-1][0].images
                # known only now: the size of images may grow during the run, and with it what fits
                # into memory
                room = (
                    min(batches_ahead(readers.threads, len(images)), AHEAD_BYTES // images.nbytes)
                    + 1
                )
            batch, tasks = ahead.popleft()
            begun = time.perf_counter()
            readers.wait(tasks)
            waited_s = time.perf_counter() - begun
            images = batch.images
            # shared memory of a reading process
            if torch.cuda.is_available() and not images.is_pinned():
                images = images.pin_memory()
            yield Batch(images, batch.labels, batch.samples, epochs=batch.epochs, waited_s=waited_s)
    finally:
        # the caller has left: what is not begun need not be read
        for _, tasks in ahead:
            for task in tasks:
                task.cancel()
