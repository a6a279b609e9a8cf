"""The threads that fill batches, and their memory."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.data.audit.unreadable import ADVICE
from saccade.data.images import decode
from saccade.data.sources import Split
from saccade.errors import DataError, StalledError
from saccade.system import streams

IMAGES_PER_TASK = 32
"""Images per reading task; each thread has up to two tasks in progress or waiting."""

STALL_LIMIT_S = 120.0

Watch = Callable[[Iterable[int]], Iterator[int]]
Work = Callable[[int, int, Watch], None]


class Memory:
    """Memory for batches, used again as soon as no tensor lies in it: the first touch of a page
    costs a microsecond.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()
        self._size_bytes = 0

    def take(self, num_images: int, side: int) -> Tensor:
        """Return room for images: uint8 (B, 3, S, S) in channels_last order, pinned where there
        is a GPU.
        """
        shape, layout = (num_images, 3, side, side), torch.channels_last
        if torch.cuda.is_available():  # torch keeps pinned memory itself
            return torch.empty(shape, dtype=torch.uint8, memory_format=layout, pin_memory=True)
        size_bytes = 3 * side**2 * num_images
        # blocks of another size, such as after a change of the image size, are of no use any more
        if size_bytes != self._size_bytes:
            self._free, self._size_bytes = deque(), size_bytes
        block = self._free.pop() if self._free else np.empty(size_bytes, np.uint8)
        # a view is lent, so that its end tells when no tensor lies in the block any more
        lent = block[:]
        weakref.finalize(lent, self._free.append, block).atexit = False
        return torch.from_numpy(lent).view(num_images, side, side, 3).permute(0, 3, 1, 2)


class Readers:
    """The pool of reading threads.

    Knows what each thread is reading, to report it when nothing moves. The number of compute
    threads stays as the caller had it, whatever happens to the pool.
    """

    def __init__(self, threads: int) -> None:
        # blocks of one size are used again, and small views have another
        self.memory, self.small_memory = Memory(), Memory()
        self._reading: dict[int, tuple[Split, NDArray[np.int64], int]] = {}
        self._start(threads)

    def resize(self, threads: int) -> None:
        """Change the number of threads; no task may be in progress. Batches do not depend on it."""
        self.close()
        self._start(threads)

    def _start(self, threads: int) -> None:
        """Start all threads at once, and leave the number of compute threads as it was.

        torch gives a new thread the number that any thread set last. Readers set one; a reader that
        started later would change what others get in the middle of a training.
        """
        self.threads = threads
        compute_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "saccade-reader", initializer=_one_compute_thread)
        all_here = threading.Barrier(threads)
        try:
            # the barrier keeps one thread from taking two of these tasks: all threads start here
            list(self._pool.map(lambda _: all_here.wait(), range(threads)))
        except BaseException:  # no room for so many threads: let those go that wait for the others
            all_here.abort()
            raise
        finally:
            torch.set_num_threads(compute_threads)

    def submit(
        self,
        split: Split,
        samples: NDArray[np.int64],
        work: Work,
        group: int = 1,
        at_once: int = IMAGES_PER_TASK,
    ) -> list[Future[None]]:
        """Run ``work(first, last, watch)`` over the places of a batch, ``at_once`` or, in whole
        groups, a few more.

        The work goes through its places by way of ``watch``, so that an error can name the image.
        """

        def task(first: int, last: int) -> None:
            me = threading.get_ident()

            def watch(places: Iterable[int]) -> Iterator[int]:
                for place in places:
                    # noted before the read, to name the image if it never comes back
                    self._reading[me] = split, samples, place
                    yield place

            try:
                work(first, last, watch)
            except decode.BadImage as error:
                raise DataError(
                    f"an image cannot be decoded: {error}",
                    where=_named(self._reading[me]),
                    fix=ADVICE,
                    finding="unreadable-image",
                ) from error
            self._reading.pop(me, None)

        # copies of an image stay in one task, which decodes it once
        size = -(-at_once // group) * group
        return [
            self._pool.submit(task, s, min(s + size, len(samples)))
            for s in range(0, len(samples), size)
        ]

    def wait(self, tasks: list[Future[None]]) -> None:
        """Wait for the tasks of a batch.

        Raises what a task raised, or StalledError after two minutes of silence.
        """
        for task in tasks:
            try:
                task.result(timeout=STALL_LIMIT_S)
            except FutureTimeout as error:
                streams.show_threads("no image arrives; the threads of this process:")
                raise StalledError(
                    f"no image arrived for {STALL_LIMIT_S:.0f} s",
                    where=", ".join(sorted(map(_named, list(self._reading.values())))[:4]),
                    fix="check the disk or the network drive",
                ) from error

    def close(self) -> None:
        """Stop the threads without waiting for work that was not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _named(reading: tuple[Split, NDArray[np.int64], int]) -> str:
    split, samples, place = reading
    return split.describe(int(samples[place]))


def _one_compute_thread() -> None:
    torch.set_num_threads(1)  # or every reader starts an OpenMP team of its own
    torch.get_num_threads()  # now: torch looks the number up at a thread's first use, and keeps it
