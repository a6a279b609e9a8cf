"""The pictures of a run, drawn without any global state and returned as PNG bytes, sharp on any
screen.

A curve is as wide as a phone, so three stand beside each other on a large screen and their text
keeps its size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter
from numpy.typing import NDArray

SCALE = 2.5
"""Pixels of a plot to a pixel of the page."""

_DPI = 100 * SCALE
_FONT_SIZE = 8.6
_LABEL_CHARS = 18
_LABEL_GAP = 0.07  # of the axes' height, between two labels at the ends of lines

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Theme:
    """Colours of a plot.

    ``card`` is what it lies on and fades into, ``series`` the colours of lines in order.
    """

    card: str
    ink: str
    muted: str
    grid: str
    right: str
    wrong: str
    series: tuple[str, ...]
    transparent: bool


LIGHT = Theme(
    "#ffffff",
    "#1d2430",
    "#667085",
    "#e7eaef",
    "#2b6cb0",
    "#d1491f",
    ("#2b6cb0", "#d1491f", "#2f855a", "#805ad5", "#b7791f", "#b83280", "#2c7a7b", "#4a5568"),
    False,
)
DARK = Theme(
    "#171b22",
    "#e8ebf0",
    "#98a2b3",
    "#2a303a",
    "#63a4f4",
    "#ff8a5c",
    ("#63a4f4", "#ff8a5c", "#5fcf9a", "#b794f6", "#ecc35c", "#f687b3", "#5bc8c8", "#a9b4c4"),
    True,
)


@dataclass(frozen=True)
class Line:
    """One curve: its label at the right end, and its points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    markers: bool = False


@dataclass(frozen=True)
class _End:
    """Where a line ends and what is written there."""

    text: str
    x: float
    y: float
    colour: str


def loss(axis: str, train: Line, validation: Line, theme: Theme) -> bytes:
    """Draw the training loss, single steps faint and their running mean strong, and the
    validation loss.
    """
    figure, axes = _axes(theme, axis)
    ends: list[_End] = []
    if train.x:
        axes.plot(train.x, train.y, color=theme.series[0], linewidth=0.8, alpha=0.28)
        mean = running_mean(np.asarray(train.y, float))
        _line(axes, Line(train.label, train.x, mean.tolist()), theme.series[0])
        ends.append(
            _End(f"{train.label}\n{mean[-1]:.3f}", train.x[-1], float(mean[-1]), theme.series[0])
        )
        top = float(np.quantile(np.r_[train.y, validation.y], 0.995))
        axes.set_ylim(0, top * 1.08 if top > 0 else None)
    if validation.x:
        _line(axes, validation, theme.series[1])
        text = f"{validation.label}\n{validation.y[-1]:.3f}"
        ends.append(_End(text, validation.x[-1], validation.y[-1], theme.series[1]))
    _label_ends(axes, ends)
    return _png(figure, theme)


def accuracy(axis: str, lines: Sequence[Line], theme: Theme) -> bytes:
    """Draw validation accuracies, given as fractions, in percent."""
    figure, axes = _axes(theme, axis)
    ends: list[_End] = []
    for line, colour in zip(lines, theme.series, strict=False):
        percent = [100 * v for v in line.y]
        _line(axes, Line(line.label, line.x, percent, True), colour)
        ends.append(_End(f"{line.label}\n{percent[-1]:.2f} %", line.x[-1], percent[-1], colour))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(high, 101.0))
    _label_ends(axes, ends)
    return _png(figure, theme)


def learning_rate(axis: str, line: Line, theme: Theme) -> bytes:
    """Draw the learning rate and name its peak."""
    figure, axes = _axes(theme, axis, right=0.97)
    _line(axes, line, theme.series[0])
    axes.fill_between(line.x, line.y, color=theme.series[0], alpha=0.10, linewidth=0)
    peak = int(np.argmax(line.y))
    axes.annotate(
        f"peak {line.y[peak]:.4g}",
        (line.x[peak], line.y[peak]),
        (0, 6),
        textcoords="offset points",
        ha="center",
        color=theme.series[0],
        fontsize=_FONT_SIZE,
        fontweight="bold",
        annotation_clip=False,
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(line.y) * 1.16 or 1.0)
    axes.yaxis.set_major_formatter(_plain_numbers())
    return _png(figure, theme)


def rates(title: str, lines: Sequence[Line], theme: Theme, form: str) -> bytes:
    """Draw learning rates over epochs, as ``png`` or ``svg``.

    Several are named beside the axes, top to bottom.
    """
    alone = len(lines) == 1
    width, height = (4.2, 2.4) if alone else (7.4, 3.4)
    figure, axes = _axes(theme, "epoch", width=width, height=height, right=0.97 if alone else 0.72)
    place = axes.get_position()
    axes.set_position((place.x0, place.y0, place.width, place.height - 0.12 / height))
    axes.set_title(title, loc="left", color=theme.muted, fontsize=_FONT_SIZE, pad=4)
    for row, line in enumerate(lines):
        colour = theme.series[row % len(theme.series)]
        _line(axes, line, colour)
        if not alone:
            axes.text(
                1.03,
                1 - min(_LABEL_GAP, 1 / len(lines)) * row,
                drawable(line.label, 30),
                transform=axes.transAxes,
                color=colour,
                va="top",
                parse_math=False,
                fontsize=_FONT_SIZE,
                fontweight="bold",
            )
    axes.set_xlim(left=0)
    axes.set_ylim(0, (max(max(line.y) for line in lines) or 1.0) * 1.04)
    axes.yaxis.set_major_formatter(_plain_numbers())
    return _png(figure, theme) if form == "png" else _svg(figure, theme)


def overlay(axis: str, lines: Sequence[Line], theme: Theme, *, percent: bool) -> bytes:
    """Draw the same curve of several runs over each other.

    Fractions are shown in percent if ``percent``.
    """
    figure, axes = _axes(theme, axis, width=10.6, height=4.0, right=0.80)
    ends: list[_End] = []
    for place, line in enumerate(lines):
        colour = theme.series[place % len(theme.series)]
        y = (
            [100 * v for v in line.y]
            if percent
            else running_mean(np.asarray(line.y, float)).tolist()
        )
        _line(axes, Line(line.label, line.x, y, line.markers), colour)
        text = f"{drawable(line.label, 22)}  {y[-1]:.2f}{' %' if percent else ''}"
        ends.append(_End(text, line.x[-1], y[-1], colour))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        low, high = axes.get_ylim()
        axes.set_ylim(max(0.0, low), min(high, 101.0))
    _label_ends(axes, ends)
    return _png(figure, theme)


def confusion(counts: NDArray[np.int64], classes: Sequence[str], theme: Theme) -> bytes:
    """Draw a confusion matrix, int64 (C, C) with true classes as rows.

    The colour is the share of the row: blue where right, orange where wrong, on a scale of its own
    so that rare mistakes are seen too.
    """
    n = len(classes)
    side = max(3.2, 0.44 * n) if n <= 16 else 0.27 * n
    figure = Figure(figsize=(side, side), dpi=_DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(n))
    colours = _blend(theme, theme.right, np.eye(n) * shares * 0.9)
    strength = 0.05 + 0.85 * wrong / max(0.02, float(wrong.max()))
    colours = np.where((wrong > 0)[..., None], _blend(theme, theme.wrong, strength), colours)
    axes.imshow(colours, interpolation="nearest")
    if n <= 16:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = colours[row, column] @ (0.299, 0.587, 0.114) < 0.55
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                fontsize=_FONT_SIZE - 0.4,
                color="#ffffff" if dark else "#11151c",
                fontweight="bold" if row == column else "normal",
            )
    names = [drawable(name, _LABEL_CHARS) for name in classes]
    size = _FONT_SIZE if n <= 16 else _FONT_SIZE - 1.5
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
    axes.set_ylabel("true class", color=theme.muted, fontsize=_FONT_SIZE)
    axes.set_xlabel("predicted class", color=theme.muted, fontsize=_FONT_SIZE)
    axes.xaxis.set_label_position("top")
    return _png(figure, theme, tight=True)


def mistakes(pictures: Sequence[tuple[NDArray[np.uint8], str, str]], theme: Theme) -> bytes:
    """Draw pictures, each uint8 (height, width, 3) with a predicted and a true line below it, as
    a grid.
    """
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.9 * rows), dpi=150)
    for place, (pixels, predicted, true) in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 64 else "antialiased")
        axes.set_axis_off()
        axes.text(
            0.5,
            -0.04,
            drawable(predicted, 30),
            transform=axes.transAxes,
            ha="center",
            va="top",
            parse_math=False,
            color=theme.wrong,
            fontsize=_FONT_SIZE,
            fontweight="bold",
        )
        axes.text(
            0.5,
            -0.15,
            drawable(true, 30),
            transform=axes.transAxes,
            ha="center",
            va="top",
            parse_math=False,
            color=theme.ink,
            fontsize=_FONT_SIZE,
        )
    return _png(figure, theme, tight=True)


def running_mean(values: Floats) -> Floats:
    """Return a centred mean over about 4 % of the values, float64 (n,).

    At the two ends over what there is.
    """
    half = len(values) // 50
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def drawable(text: str, limit: int) -> str:
    """Shorten a text to ``limit`` characters and replace what the plot font cannot draw."""
    kept = "".join(c if ord(c) in _glyphs() else "\u25a1" for c in text)
    return kept if len(kept) <= limit else kept[: limit - 1] + "\u2026"


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move numbers apart until neighbours differ by at least ``gap``, keeping their order and
    their mean.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    groups: list[list[int]] = []
    centres: list[float] = []
    for place in order:
        groups.append([place])
        centres.append(values[place])
        while (
            len(groups) > 1
            and centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            last, previous = groups.pop(), groups.pop()
            centre = (centres[-1] * len(last) + centres[-2] * len(previous)) / (
                len(last) + len(previous)
            )
            centres[-2:] = [centre]
            groups.append(previous + last)
    out = [0.0] * len(values)
    for group, centre in zip(groups, centres, strict=True):
        for place, member in enumerate(group):
            out[member] = centre + (place - (len(group) - 1) / 2) * gap
    return out


def _axes(
    theme: Theme, axis: str, *, width: float = 3.6, height: float = 2.7, right: float = 0.79
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DPI)
    left = 0.46 / width
    axes = figure.add_axes((left, 0.44 / height, right - left, 1 - (0.44 + 0.14) / height))
    axes.set_facecolor("none")
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.tick_params(axis="both", length=0, labelsize=_FONT_SIZE, labelcolor=theme.muted, pad=5)
    axes.set_xlabel(axis, color=theme.muted, fontsize=_FONT_SIZE, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(_plain_numbers())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.01)
    return figure, axes


def _line(axes: Axes, line: Line, colour: str) -> None:
    dots = len(line.x) == 1 or (line.markers and len(line.x) <= 60)
    axes.plot(
        line.x, line.y, color=colour, linewidth=1.7, marker="o" if dots else "", markersize=3.6
    )


def _label_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Let the curves begin at zero and write labels right of the axes, where their lines end but
    never touching.

    From a line that ends early, a dotted one leads to its label.
    """
    axes.set_xlim(left=0)
    low, high = axes.get_ylim()
    right = max(end.x for end in ends)
    lines = max(end.text.count("\n") + 1 for end in ends)
    inside = [(min(max(end.y, low), high) - low) / (high - low) for end in ends]
    for end, height in zip(ends, spread(inside, _LABEL_GAP * lines), strict=True):
        if end.x < 0.95 * right:
            axes.plot(
                [end.x, right], [end.y, end.y], ":", color=end.colour, linewidth=1.2, alpha=0.7
            )
        axes.text(
            1.03,
            height,
            end.text,
            transform=axes.transAxes,
            color=end.colour,
            va="center",
            ha="left",
            parse_math=False,
            fontsize=_FONT_SIZE,
            fontweight="bold",
            linespacing=1.25,
        )


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _plain_numbers() -> ScalarFormatter:
    numbers = ScalarFormatter(useOffset=False, useMathText=False)
    numbers.set_scientific(False)
    return numbers


def _blend(theme: Theme, colour: str, strength: Floats) -> Floats:
    """Mix a colour over the card by ``strength`` (rows, columns) in 0..1.

    Returns (rows, columns, 3) in 0..1.
    """
    card, ink = np.asarray(to_rgb(theme.card)), np.asarray(to_rgb(colour))
    return np.asarray(card + (ink - card) * strength[..., None])


def _svg(figure: Figure, theme: Theme) -> bytes:
    out = io.BytesIO()
    # small, and the same bytes every time
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "saccade"}):
        figure.savefig(out, format="svg", facecolor=theme.card, metadata={"Date": None})
    return out.getvalue()


def _png(figure: Figure, theme: Theme, *, tight: bool = False) -> bytes:
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(
        out,
        format="png",
        dpi=figure.dpi,
        facecolor="none" if theme.transparent else theme.card,
        bbox_inches="tight" if tight else None,
        pad_inches=0.08,
        metadata={"Software": None},
        pil_kwargs={"compress_level": 3},  # half the time of the default, for a tenth more bytes
    )
    return out.getvalue()
