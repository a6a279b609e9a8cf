"""Where a picture decides: how the answer changes when a part is covered.

Only the network's answers are used, so every network has such a map, and every exported file.
*Source:* Zeiler & Fergus 2014, section 4.2, "Occlusion sensitivity".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from saccade.demo.answerer import Answerer

CELLS = 8
"""Cells along a side. A cover is two cells wide and moves by one."""

BATCH = 7
LEAST_FALL = 0.005
"""A smaller fall of the probability, wherever the picture is covered, counts as no map at all."""


class Abandoned(Exception):
    """The program ends, and nobody waits for the map."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """How much covering each part lowers the probability of a class.

    ``place`` is the class, ``before`` its probability for the whole picture and ``after`` that with
    the most important part covered; ``falls`` is float32 (CELLS, CELLS): for each cell the mean
    over the covers that lie on it.
    """

    place: int
    before: float
    after: float
    falls: Tensor

    @property
    def says_something(self) -> bool:
        """Whether any part matters."""
        return self.before - self.after >= LEAST_FALL

    def strength(self, side: int) -> Tensor:
        """Return the importance of each pixel, float32 (side, side) in 0..1."""
        smooth = functional.interpolate(
            self.falls[None, None], (side, side), mode="bicubic", align_corners=False
        )[0, 0]
        return (smooth / self.falls.max().clamp(min=1e-9)).clamp(0, 1)


def heat_map(answerer: Answerer, square: Tensor, stop: threading.Event) -> HeatMap:
    """Cover the parts of a square, uint8 (3, S, S), one after another, and measure the fall of the
    best class.

    Raises Abandoned as soon as ``stop`` is set.
    """
    shares = answerer.of_squares(square[None])[0]
    place = int(shares.argmax())
    boxes = list(covers(square.shape[-1]))
    # the colour that the network takes for nothing: its input is zero there
    colour = torch.tensor(answerer.recipe.framing.fill, dtype=torch.uint8)[:, None, None]

    left = []
    for first in range(0, len(boxes), BATCH):
        if stop.is_set():
            raise Abandoned
        some = boxes[first : first + BATCH]
        covered = square.repeat(len(some), 1, 1, 1)
        for image, (rows, columns) in zip(covered, some, strict=True):
            image[:, rows, columns] = colour
        left += answerer.of_squares(covered)[:, place].tolist()

    before, after = float(shares[place]), min(left)
    falls = _by_cell(torch.tensor([before - share for share in left]))
    return HeatMap(place, before, after, falls)


def covers(side: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns that each cover hides, for squares of ``side`` pixels."""
    edges = np.rint(np.linspace(0, side, CELLS + 1)).astype(int).tolist()
    spans = [slice(edges[i], edges[i + 2]) for i in range(CELLS - 1)]
    for rows in spans:
        for columns in spans:
            yield rows, columns


def _by_cell(falls: Tensor) -> Tensor:
    """Return the falls of all covers, ((CELLS - 1)**2,), as one mean per cell, (CELLS, CELLS)."""
    grid = falls.view(1, 1, CELLS - 1, CELLS - 1)
    both = torch.cat([grid, torch.ones_like(grid)])
    total, count = functional.conv2d(both, torch.ones(1, 1, 2, 2), padding=1)[:, 0]
    return total / count
