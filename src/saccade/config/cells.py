"""Which cells (micro-batches) a global batch falls into: equal ones, so the divisors decide."""

from __future__ import annotations

LEAST_CELL, LARGEST_CELL = 16, 128
"""Images in an automatically chosen cell: fewer make batch statistics noisy, and more are not
faster.
"""


def largest_cell(batch: int, repeats: int = 1) -> int:
    """Return the largest divisor of a batch up to 128.

    Where images have several views, a divisor that keeps the views of an image together comes
    first.
    """
    fitting = [d for d in divisors(batch) if d <= LARGEST_CELL]
    return max((d for d in fitting if d % repeats == 0), default=fitting[-1])


def nearest_batches(batch: int, repeats: int = 1) -> list[int]:
    """Return the batches nearest to one, from below and from above, whose cells hold 16 images
    or more.
    """
    found = []
    for step in (-1, 1):
        near = batch + step
        while near >= LEAST_CELL and (near % repeats or largest_cell(near, repeats) < LEAST_CELL):
            near += step
        found += [near] if near >= LEAST_CELL else []
    return found or [repeats * -(-LEAST_CELL // repeats)]


def divisors(number: int) -> list[int]:
    """Return all divisors of a positive integer in rising order."""
    return (
        [d for d in range(1, number + 1) if number % d == 0]
        if number < 4096
        else _large_divisors(number)
    )


def _large_divisors(number: int) -> list[int]:
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})
