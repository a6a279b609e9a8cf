"""The start time of the program: time limits count from there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "SACCADE_BEGUN"
"""Environment variable: when the program that starts the ranks was started itself."""

_marked: list[float] = []


def mark() -> None:
    """Take now for the start of the program, or what whoever started it as a rank says."""
    # taken away: what this process starts is no rank of that program
    _marked[:] = [float(os.environ.pop(VARIABLE, time.monotonic()))]


def begun() -> float:
    """Return when the program was started, in seconds of the monotonic clock.

    The current time if this is a part of another program.
    """
    return _marked[0] if _marked else time.monotonic()


@contextmanager
def told_to_ranks() -> Iterator[None]:
    """Let processes that are started inside know when this one was started."""
    # the clock is that of the machine, and so the same for all of its processes
    os.environ[VARIABLE] = repr(begun())
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
