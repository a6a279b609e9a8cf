"""The base of all plots: colours for light and dark screens, axes, fonts, and PNG bytes.

Nothing here touches the global state of matplotlib. A curve is as wide as a phone, so three stand
beside each other on a large screen and their text keeps its size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, ScalarFormatter

SCALE = 2.5
"""Pixels of a plot to a pixel of the page."""

DPI = 100 * SCALE
FONT_SIZE = 8.6


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
    card="#ffffff",
    ink="#1d2430",
    muted="#667085",
    grid="#e7eaef",
    right="#2b6cb0",
    wrong="#d1491f",
    series=("#2b6cb0", "#d1491f", "#2f855a", "#805ad5", "#b7791f", "#b83280", "#2c7a7b", "#4a5568"),
    transparent=False,
)
DARK = Theme(
    card="#171b22",
    ink="#e8ebf0",
    muted="#98a2b3",
    grid="#2a303a",
    right="#63a4f4",
    wrong="#ff8a5c",
    series=("#63a4f4", "#ff8a5c", "#5fcf9a", "#b794f6", "#ecc35c", "#f687b3", "#5bc8c8", "#a9b4c4"),
    transparent=True,
)


def new_axes(
    theme: Theme, axis: str, *, width: float = 3.6, height: float = 2.7, right: float = 0.79
) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches and its axes, which end at ``right``, a fraction of
    the width."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    left = 0.46 / width
    axes = figure.add_axes((left, 0.44 / height, right - left, 1 - (0.44 + 0.14) / height))
    axes.set_facecolor("none")
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.tick_params(axis="both", length=0, labelsize=FONT_SIZE, labelcolor=theme.muted, pad=5)
    axes.set_xlabel(axis, color=theme.muted, fontsize=FONT_SIZE, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(plain_numbers())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.01)
    return figure, axes


def drawable(text: str, limit: int) -> str:
    """Shorten a text to ``limit`` characters and replace what the plot font cannot draw."""
    kept = "".join(c if ord(c) in glyphs() else "\u25a1" for c in text)
    return kept if len(kept) <= limit else kept[: limit - 1] + "\u2026"


@lru_cache(maxsize=1)
def glyphs() -> frozenset[int]:
    """Return the code points that the font of the plots can draw."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def plain_numbers() -> ScalarFormatter:
    """Return a formatter without offsets and powers of ten."""
    numbers = ScalarFormatter(useOffset=False, useMathText=False)
    numbers.set_scientific(False)
    return numbers


def svg(figure: Figure, theme: Theme) -> bytes:
    """Return a figure as SVG, the same bytes every time."""
    out = io.BytesIO()
    # small, and the same bytes every time
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "saccade"}):
        figure.savefig(out, format="svg", facecolor=theme.card, metadata={"Date": None})
    return out.getvalue()


def png(figure: Figure, theme: Theme, *, tight: bool = False) -> bytes:
    """Return a figure as PNG, cut to what is drawn where ``tight``."""
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
