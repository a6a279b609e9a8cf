"""What an objective shows in a report, as data: the report room draws it and knows no objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """The answers that a page is about.

    ``logits`` is float32 (n, C), ``labels`` (n,) or (n, C), both in the order of the validation
    images; ``titles`` are the outputs as people call them.
    """

    logits: Tensor
    labels: Tensor
    titles: Sequence[str]


def percent(fraction: float) -> str:
    """Format a fraction for people: percent with two decimals."""
    return f"{100 * fraction:.2f} %"


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure from 0 to 1: its ``name`` among the figures, and the ``label`` that people read."""

    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Course:
    """A figure of any size whose course over a run is drawn: its ``name``, ``label`` and a note."""

    name: str
    label: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A number from 0 to 1 in a table, shown in percent, with a ``bar`` behind it if wanted."""

    value: float
    bar: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head; the columns in ``numbers`` stand at the right.

    Rows after the first ``open_rows`` are folded away, under the words ``the other 12 classes``.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Share]]
    numbers: Sequence[int] = ()
    open_rows: int = 30
    noun: str = "rows"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts, int64 (C, C), with true classes as rows and predicted ones as columns."""

    counts: NDArray[np.int64]
    names: Sequence[str]
    alt: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One validation image by its place, with what was ``said`` of it and what is ``true``."""

    place: int
    said: str
    true: str
    alt: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Validation images beside each other, such as the worst mistakes."""

    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Part:
    """A titled part of the page: a note, then blocks; two blocks may stand ``beside`` each other.

    It is left out when it has neither.
    """

    title: str
    note: str = ""
    blocks: Sequence[Table | Matrix | Pictures] = field(default_factory=tuple)
