"""From positions to batches: threads that read, decode, crop and resize straight into the batch.

The loader has no state: a batch is a pure function of its position, so the number of threads cannot
change it and a resume needs one integer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Views
from saccade.data.augment.chain import Chain
from saccade.data.augment.local_views import LocalViews, local_side
from saccade.data.augment.own_augment import OwnAugment
from saccade.data.decoded_cache import Decoded
from saccade.data.filling import Filling
from saccade.data.images import decode
from saccade.data.images.fit import CENTRAL, Fit
from saccade.data.order import EVERYTHING, Order, RankSlice
from saccade.data.readers import IMAGES_PER_TASK, Readers, Watch
from saccade.data.sources import Split
from saccade.objectives.objective import Cell

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
    ``epochs``, int64 (B,), identify the images of the split and their epochs; ``waited_s`` is how
    long the caller waited. ``small`` holds the small views, uint8 (images x local views, 3, s, s),
    where there are any.
    """

    images: Tensor
    labels: Tensor
    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]
    waited_s: float = 0.0
    small: Tensor | None = None

    def cell(self, *, step: int, number: int) -> Cell:
        """Return all of it as one cell (micro-batch), the one of this number in a step."""
        return Cell(
            images=self.images,
            labels=self.labels,
            epochs=self.epochs,
            samples=self.samples,
            step=step,
            number=number,
            small=self.small,
        )

    def part(self, start: int, stop: int) -> Batch:
        """Return the places from ``start`` to ``stop``, whole images, with their small views."""
        place = slice(start, stop)
        small = self.small
        if small is not None:
            # so many for each place: less than one where an image has more large views
            share = Fraction(len(small), len(self.images))
            small = small[int(start * share) : int(stop * share)]
        return Batch(
            self.images[place],
            self.labels[place],
            self.samples[place],
            epochs=self.epochs[place],
            small=small,
        )

    def to(self, device: torch.device) -> Batch:
        """Return it with pixels and labels on a device; nothing waits for the copy."""
        small = self.small
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            small=small if small is None else small.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class TrainingView:
    """The training view of a split: the order of the images, and their crops, flips and operations.

    The run is ``total_steps`` long; if the batch changed during the run, ``ahead`` is added to the
    step number, so that it matches the consumed samples.
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

    def small_room(self, num_views: int, step: int) -> tuple[int, int]:
        """Return the number of small views for this many large ones, and their side in pixels."""
        count = num_views // self.order.repeats * self.augment.local_views
        return count, local_side(self.augment, self.size_at(step)) if count else 0

    def start(
        self,
        readers: Readers,
        step: int,
        global_batch: int,
        slots: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Batch, list[Future[None]]]:
        """Begin to fill the rank's part of the batch of a step.

        It is complete when the returned tasks are.

        Copies of one image lie side by side and are decoded once. ``slots`` is where the images and
        their small views go, uint8 (B, 3, S, S) in channels_last order; new memory without it.
        """
        places = self.rank_slice.places(global_batch)
        drawn = np.stack(self.order.at(step * global_batch, (step + 1) * global_batch))[:, places]
        epochs, samples = drawn
        side = self.size_at(step)
        views = Views(self.order.seed, epochs, samples)
        room, small = slots or self._room(readers, len(samples), step)

        filling = Filling(
            split=self.split,
            views=views,
            copies=self.order.repeats,
            chain=Chain(self.augment, views, side, self.fit),
            room=room,
            local=None if small is None else LocalViews(self.augment, views, side, self.fit),
            small=small,
            exif=self.exif,
            decoded=self.decoded,
            own=self.own,
        )
        labels = torch.from_numpy(self.split.labels[samples])
        at_once = DECODED_PER_TASK if self.decoded else IMAGES_PER_TASK
        return Batch(room, labels, samples, epochs, small=small), readers.submit(
            self.split, samples, filling.fill, group=self.order.repeats, at_once=at_once
        )

    def _room(self, readers: Readers, num_views: int, step: int) -> tuple[Tensor, Tensor | None]:
        """Return new memory for this many images of a step, and for their small views."""
        room = readers.memory.take(num_views, self.size_at(step))
        count, side = self.small_room(num_views, step)
        return room, readers.small_memory.take(count, side) if count else None


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """The evaluation view of a split: all images once, in order, each fitted into the square.

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


class View(Protocol):
    """An object that can begin to fill the batch of a step."""

    def start(
        self, readers: Readers, step: int, batch_size: int, /
    ) -> tuple[Batch, list[Future[None]]]:
        """Return the batch, images (B, 3, S, S), and the tasks after which it is complete."""


def batches_ahead(threads: int, num_images: int) -> int:
    """Return the number of batches to prepare ahead: enough for two tasks per thread."""
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
                begun_batch = ahead[-1][0]
                images, small = begun_batch.images, begun_batch.small
                size_bytes = images.nbytes + (0 if small is None else small.nbytes)
                # known only now: the size of images may grow during the run, and with it what fits
                # into memory
                room = (
                    min(batches_ahead(readers.threads, len(images)), AHEAD_BYTES // size_bytes) + 1
                )
            batch, tasks = ahead.popleft()
            begun = time.perf_counter()
            readers.wait(tasks)
            waited_s = time.perf_counter() - begun
            images, small = batch.images, batch.small
            # shared memory of a reading process
            if torch.cuda.is_available() and not images.is_pinned():
                images = images.pin_memory()
                small = small if small is None else small.pin_memory()
            yield Batch(
                images,
                batch.labels,
                batch.samples,
                epochs=batch.epochs,
                waited_s=waited_s,
                small=small,
            )
    finally:
        # the caller has left: what is not begun need not be read
        for _, tasks in ahead:
            for task in tasks:
                task.cancel()
