"""The pictures of a run besides curves: the confusion matrix, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saccade.report.canvas import DPI, FONT_SIZE, Theme, drawable, png

LABEL_CHARS = 18
COUNTED_CLASSES = 16
"""Up to so many classes the cells of the matrix show their counts."""

Floats = NDArray[np.float64]


def confusion(counts: NDArray[np.int64], classes: Sequence[str], theme: Theme) -> bytes:
    """Draw a confusion matrix, int64 (C, C) with true classes as rows.

    The colour is the fraction of the row: blue if right, orange if wrong, with separate scales so
    that rare mistakes are visible, too.
    """
    n = len(classes)
    side = max(3.2, 0.44 * n) if n <= COUNTED_CLASSES else 0.27 * n
    figure = Figure(figsize=(side, side), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(n))
    colours = _blend(theme, theme.right, np.eye(n) * shares * 0.9)
    strength = 0.05 + 0.85 * wrong / max(0.02, float(wrong.max()))
    colours = np.where((wrong > 0)[..., None], _blend(theme, theme.wrong, strength), colours)
    axes.imshow(colours, interpolation="nearest")

    if n <= COUNTED_CLASSES:
        _write_counts(axes, counts, colours)
    _name_sides(axes, [drawable(name, LABEL_CHARS) for name in classes], theme)
    return png(figure, theme, tight=True)


def _write_counts(axes: Axes, counts: NDArray[np.int64], colours: Floats) -> None:
    """Write each count that is not zero into its cell, white on dark ones."""
    for row, column in zip(*np.nonzero(counts), strict=True):
        dark = colours[row, column] @ (0.299, 0.587, 0.114) < 0.55
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}",
            ha="center",
            va="center",
            fontsize=FONT_SIZE - 0.4,
            color="#ffffff" if dark else "#11151c",
            fontweight="bold" if row == column else "normal",
        )


def _name_sides(axes: Axes, names: Sequence[str], theme: Theme) -> None:
    """Write the classes at the left and at the top, and draw lines between the cells."""
    n = len(names)
    size = FONT_SIZE if n <= COUNTED_CLASSES else FONT_SIZE - 1.5
    axes.set_xticks(
        range(n), names, rotation=90 if max(map(len, names)) > 3 else 0, parse_math=False
    )
    axes.set_yticks(range(n), names, parse_math=False)
    axes.tick_params(
        length=0, labelsize=size, labelcolor=theme.ink, top=True, labeltop=True, labelbottom=False
    )

    axes.set_xticks(np.arange(1, n) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, n) - 0.5, minor=True)
    axes.grid(which="minor", color=theme.card, linewidth=1.2)
    axes.tick_params(which="minor", length=0, top=False)
    axes.spines[:].set_visible(False)

    axes.set_ylabel("true class", color=theme.muted, fontsize=FONT_SIZE)
    axes.set_xlabel("predicted class", color=theme.muted, fontsize=FONT_SIZE)
    axes.xaxis.set_label_position("top")


def pictures(shown: Sequence[tuple[NDArray[np.uint8], str, str]], theme: Theme) -> bytes:
    """Draw pictures, each uint8 (height, width, 3) with prediction and true label below it, as a
    grid.
    """
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.9 * rows), dpi=150)
    for place, (pixels, predicted, true) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 64 else "antialiased")
        axes.set_axis_off()

        below: dict[str, Any] = {
            "ha": "center",
            "va": "top",
            "fontsize": FONT_SIZE,
            "parse_math": False,
        }
        place_of = axes.transAxes
        said, fact = drawable(predicted, 30), drawable(true, 30)
        axes.text(
            0.5, -0.04, said, transform=place_of, color=theme.wrong, fontweight="bold", **below
        )
        axes.text(0.5, -0.15, fact, transform=place_of, color=theme.ink, **below)
    return png(figure, theme, tight=True)


def _blend(theme: Theme, colour: str, strength: Floats) -> Floats:
    """Mix a colour over the card by ``strength`` (rows, columns) in 0..1.

    Returns (rows, columns, 3) in 0..1.
    """
    card, ink = np.asarray(to_rgb(theme.card)), np.asarray(to_rgb(colour))
    return np.asarray(card + (ink - card) * strength[..., None])
