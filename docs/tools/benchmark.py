"""Draw the table of the README that compares Saccade with others.

python docs/tools/benchmark.py [FILE.svg]
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs" / "images" / "benchmark.svg"
FIGURES = re.compile(r"\**([\d.]+)\** \((?:([\d.]+) to ([\d.]+), )?n = (\d+)\)")
LESS_IS_BETTER = {"s", "ms"}
OURS, THEIRS = "#22577a", "#8a8a8a"
CENTRED: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8}


@dataclass(frozen=True)
class Measured:
    """Middle, smallest and largest of n runs, in the unit of its row."""

    middle: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """One line of the table; ``peer`` is empty where nothing comparable was measured."""

    what: str
    unit: str
    ours: Measured
    peer: str
    theirs: Measured | None


def table() -> str:
    """Return the lines of the table, without its head."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = page.split("<!-- benchmark -->\n")[1].split("<!-- end -->")[0].splitlines()
    return "\n".join(lines[2:])


def measured(cell: str) -> Measured:
    """Read ``81.01 (80.70 to 81.32, n = 3)``; one run has no spread."""
    found = FIGURES.search(cell)
    assert found, f"no figure in '{cell}'"
    middle, low, high, n = found.groups()
    return Measured(float(middle), float(low or middle), float(high or middle), int(n))


def rows(lines: str) -> list[Row]:
    """Return the rows of the table."""
    found = []
    for line in lines.splitlines():
        what, unit, ours, beside = (cell.strip() for cell in line.strip("|").split("|"))
        peer, _, theirs = beside.rpartition(": ")
        name = re.sub(r" \[\d\]|`", "", what)
        found.append(
            Row(
                name,
                unit,
                measured(ours),
                peer.replace("`", ""),
                measured(theirs) if peer else None,
            )
        )
    return found


def ratio(row: Row) -> tuple[float, float, float]:
    """Return how many times better ours is: middle, smallest, largest."""
    assert row.theirs
    ours, theirs = row.ours, row.theirs
    if row.unit in LESS_IS_BETTER:
        ours, theirs = theirs, ours
    return ours.middle / theirs.middle, ours.low / theirs.high, ours.high / theirs.low


def draw(lines: str, place: Path) -> None:
    """Draw accuracies as they are, and below them speeds as ratios to the peer's."""
    found = rows(lines)
    right = [row for row in found if row.unit == "top-1 %"]
    fast = [row for row in found if row.theirs and row not in right]
    plt.rcParams |= {"svg.hashsalt": "saccade", "svg.fonttype": "none", "font.size": 9}
    heights = {"height_ratios": [len(right), len(fast)]}
    figure, (above, below) = plt.subplots(
        2, figsize=(7.2, 0.5 * len(found) + 1.4), gridspec_kw=heights
    )

    for height, row in enumerate(reversed(right)):
        dot(above, (row.ours.middle, row.ours.low, row.ours.high), height, OURS)
        if row.theirs:
            bar(above, (row.theirs.middle, row.theirs.low, row.theirs.high), height, THEIRS)
            # below: above, two near figures would cover each other
            named = f"{row.peer}: {row.theirs.middle:.2f}"
            above.annotate(named, (row.theirs.middle, height), (0, -14), **CENTRED)
    above.set_xlim(50, 101)
    finish(above, right, "top-1 in %; bars from the smallest to the largest of n runs")

    for height, row in enumerate(reversed(fast)):
        dot(below, ratio(row), height, OURS)
    below.axvline(1, color=THEIRS, linewidth=1)
    below.set_xlim(0, 2.4)
    finish(below, fast, "times as fast as the peer (1 = level)")

    figure.tight_layout()
    about = {"Date": None, "Creator": None, "Description": digest(lines)}
    figure.savefig(place, metadata=about, bbox_inches="tight", facecolor="white")


def dot(axes: Axes, figures: tuple[float, float, float], height: int, colour: str) -> None:
    """Draw a middle with its figure, and a bar from the smallest to the largest."""
    bar(axes, figures, height, colour)
    axes.annotate(f"{figures[0]:.2f}", (figures[0], height), (0, 7), **CENTRED)


def bar(axes: Axes, figures: tuple[float, float, float], height: int, colour: str) -> None:
    """Draw a middle, and a bar from the smallest to the largest."""
    middle, low, high = figures
    axes.plot([low, high], [height, height], color=colour, linewidth=6, alpha=0.35)
    axes.plot([middle], [height], "o", color=colour, markersize=6)


def finish(axes: Axes, shown: list[Row], label: str) -> None:
    """Name the rows and the axis of a panel."""
    names = [
        row.what if row.unit == "top-1 %" else f"{row.what}\nbeside {row.peer}" for row in shown
    ]
    axes.set_yticks(range(len(shown)), names[::-1], fontsize=8)
    axes.set_ylim(-0.6, len(shown) - 0.3)
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def digest(lines: str) -> str:
    """Return what the figure keeps of the table that it was drawn from."""
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


if __name__ == "__main__":
    draw(table(), Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURE)
