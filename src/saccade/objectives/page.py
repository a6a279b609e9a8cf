"""The content of an objective's report, as data: the report draws it without knowing the
objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """The predictions of a page.

    ``logits`` is float32 (n, C), ``labels`` (n,) or (n, C), both in the order of the validation
    images; ``titles`` are the names of the outputs for people.
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
    """A figure that is plotted over a run: its ``name``, ``label`` and a note."""

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
    """A table with a head; the columns in ``numbers`` are right-aligned.

    Rows after the first ``open_rows`` are folded, under the title ``the other 12 classes``.
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
    """One validation image by its index, with its prediction (``said``) and its true label
    (``true``)."""

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
    """A section of the page: a note, then blocks; two blocks can be ``beside`` each other.

    An empty section is omitted.
    """

    title: str
    note: str = ""
    blocks: Sequence[Table | Matrix | Pictures] = field(default_factory=tuple)
