"""Work for all cores whose results come in order, with few of them waiting."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

WINDOW = 8
"""Largest number of items per thread that are in progress or waiting: this limits the memory."""

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work(item)`` for every item, in order.

    The first error is raised and nothing new is begun.
    """
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, "saccade-data")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= WINDOW * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # what has begun is waited for: it may be writing
        pool.shutdown(wait=True, cancel_futures=True)
