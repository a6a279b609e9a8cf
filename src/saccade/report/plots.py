"""The curves of a run, returned as PNG bytes that are sharp on any screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from saccade.report.canvas import FONT_SIZE, Theme, drawable, new_axes, plain_numbers, png, svg

_LABEL_GAP = 0.07  # of the axes' height, between two labels at the ends of lines

Floats = NDArray[np.float64]


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
    figure, axes = new_axes(theme, axis)
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
    return png(figure, theme)


def accuracy(axis: str, lines: Sequence[Line], theme: Theme) -> bytes:
    """Draw validation accuracies, given as fractions, in percent."""
    figure, axes = new_axes(theme, axis)
    ends: list[_End] = []
    for line, colour in zip(lines, theme.series, strict=False):
        percent = [100 * v for v in line.y]
        _line(axes, Line(line.label, line.x, percent, True), colour)
        ends.append(_End(f"{line.label}\n{percent[-1]:.2f} %", line.x[-1], percent[-1], colour))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(high, 101.0))
    _label_ends(axes, ends)
    return png(figure, theme)


def course(axis: str, line: Line, theme: Theme) -> bytes:
    """Draw one figure over the run and write where it ends."""
    figure, axes = new_axes(theme, axis)
    _line(axes, line, theme.series[0])
    axes.set_ylim(0, max(line.y) * 1.08 or 1.0)
    axes.yaxis.set_major_formatter(plain_numbers())
    _label_ends(axes, [_End(f"{line.y[-1]:.3g}", line.x[-1], line.y[-1], theme.series[0])])
    return png(figure, theme)


def learning_rate(axis: str, line: Line, theme: Theme) -> bytes:
    """Draw the learning rate and name its peak."""
    figure, axes = new_axes(theme, axis, right=0.97)
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
        fontsize=FONT_SIZE,
        fontweight="bold",
        annotation_clip=False,
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(line.y) * 1.16 or 1.0)
    axes.yaxis.set_major_formatter(plain_numbers())
    return png(figure, theme)


def rates(title: str, lines: Sequence[Line], theme: Theme, form: str) -> bytes:
    """Draw learning rates over epochs, as ``png`` or ``svg``.

    Several are named beside the axes, top to bottom.
    """
    alone = len(lines) == 1
    width, height = (4.2, 2.4) if alone else (7.4, 3.4)
    figure, axes = new_axes(
        theme, "epoch", width=width, height=height, right=0.97 if alone else 0.72
    )
    place = axes.get_position()
    axes.set_position((place.x0, place.y0, place.width, place.height - 0.12 / height))
    axes.set_title(title, loc="left", color=theme.muted, fontsize=FONT_SIZE, pad=4)

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
                fontsize=FONT_SIZE,
                fontweight="bold",
            )

    axes.set_xlim(left=0)
    axes.set_ylim(0, (max(max(line.y) for line in lines) or 1.0) * 1.04)
    axes.yaxis.set_major_formatter(plain_numbers())
    return png(figure, theme) if form == "png" else svg(figure, theme)


def overlay(axis: str, lines: Sequence[Line], theme: Theme, *, percent: bool) -> bytes:
    """Draw the same curve of several runs over each other.

    Fractions are shown in percent if ``percent``.
    """
    figure, axes = new_axes(theme, axis, width=10.6, height=4.0, right=0.80)
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
    return png(figure, theme)


def running_mean(values: Floats) -> Floats:
    """Return a centred mean over about 4 % of the values, float64 (n,).

    At the two ends over what there is.
    """
    half = len(values) // 50
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move numbers apart until neighbours differ by at least ``gap``, keeping their order and
    their mean.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    groups: list[list[int]] = []
    centres: list[float] = []

    # neighbours that are too close become one group, which keeps its centre
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
            fontsize=FONT_SIZE,
            fontweight="bold",
            linespacing=1.25,
        )
