"""Draw the figures of the pages on Swin's windows, from the functions that the network itself uses.

python docs/tools/windows.py [FOLDER]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from saccade.models.swin import Windows, relative_positions

matplotlib.use("Agg")

GRAY = "#7d8590"  # text outside of the cells: legible on white and on black paper
INK = "#16202b"  # text inside of them
OFF = "#c9ced6"
WINDOWS = ListedColormap(["#8ec5f4", "#f6bd7c", "#93d3a2", "#cdb4f0"])
MARK = "#e8590c"
Text = Callable[[int, int], str]


def grid(
    axes: Axes, colours: np.ndarray, title: str, text: Text | None = None, size: float = 8
) -> None:
    """Paint one cell for each row and column of ``colours``, shape (H, W, 4), with a text in it."""
    height, width = colours.shape[:2]
    axes.imshow(colours, interpolation="nearest")
    for y in range(height):
        for x in range(width):
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=0.8)
            )
            if text:
                axes.text(x, y, text(y, x), ha="center", va="center", fontsize=size, color=INK)
    axes.set_title(title, fontsize=9.5, color=GRAY)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def shades(name: str, values: np.ndarray, white: float = 0.0) -> np.ndarray:
    """Return the colours (..., 4) of values from 0 to 1 in a map of matplotlib's, mixed with a
    share of white.
    """
    return matplotlib.colormaps[name](values) * (1 - white) + white


def frame(axes: Axes, y: float, x: float, height: float, width: float, colour: str = INK) -> None:
    """Put a strong line around some cells."""
    corner = (x - 0.5, y - 0.5)
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=2.2, clip_on=False)
    )


def figure(
    panels: int, width: float, height: float, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with panels side by side; sizes in inches."""
    canvas = Figure(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(
        1, panels, squeeze=False, gridspec_kw={"width_ratios": ratios} if ratios else None
    )
    return canvas, list(axes[0])


def table_of_positions() -> Figure:
    """Tokens of a window of 3 x 3, the index of their pairs, and the table that it points into."""
    side = 3
    canvas, (left, middle, right) = figure(3, 10, 4.4, [3, 9, 5])
    index = relative_positions(side).numpy()
    rows = (2 * side - 1) ** 2
    plain = np.tile(matplotlib.colors.to_rgba(OFF), (side, side, 1))
    grid(left, plain, "the window", lambda y, x: str(side * y + x), 11)
    frame(left, 1, 2, 1, 1)
    grid(
        middle,
        shades("Spectral", index / (rows - 1), 0.4),
        "index: query (down), key (across)",
        lambda y, x: str(index[y, x]),
        10,
    )
    middle.set_xticks(range(side * side), range(side * side), fontsize=8, color=GRAY)
    middle.set_yticks(range(side * side), range(side * side), fontsize=8, color=GRAY)
    middle.tick_params(length=0)
    frame(middle, 5, 0, 1, side * side)
    table = np.arange(rows).reshape(2 * side - 1, 2 * side - 1)
    grid(
        right,
        shades("Spectral", table / (rows - 1), 0.4),
        "bias table: dy (down), dx (across)",
        lambda y, x: str(table[y, x]),
        10,
    )
    signed = [f"{step:+d}" if step else "0" for step in range(1 - side, side)]
    right.set_xticks(range(2 * side - 1), signed, fontsize=8, color=GRAY)
    right.set_yticks(range(2 * side - 1), signed, fontsize=8, color=GRAY)
    right.tick_params(length=0)
    y, x = divmod(5, side)
    frame(right, y, x, side, side)
    return canvas


def biases_of_queries() -> Figure:
    """What a head that likes the token below adds to the keys of three queries of a window of 7
    x 7.
    """
    side = 7
    away = np.arange(1 - side, side)
    table = np.exp(-((away[:, None] + 1) ** 2 + (away[None, :] / 1.5) ** 2) / 8)  # made up
    index = relative_positions(side).numpy()
    canvas, axes = figure(4, 10, 3, [13, 9, 9, 9])
    grid(axes[0], shades("YlGnBu", table), "table of one head: dy (down), dx (across)")
    steps = [f"{step:+d}" if step else "0" for step in away.tolist()]
    axes[0].set_xticks(range(len(away)), steps, fontsize=7, color=GRAY)
    axes[0].set_yticks(range(len(away)), steps, fontsize=7, color=GRAY)
    axes[0].tick_params(length=0, pad=1)
    for panel, query in zip(axes[1:], (0, 24, 40), strict=True):
        biases = table.reshape(-1)[index[query]].reshape(side, side)
        y, x = divmod(query, side)
        grid(panel, shades("YlGnBu", biases), f"bias of the query at ({y}, {x})")
        frame(panel, y, x, 1, 1, MARK)
    return canvas


def colours_of(windows: Windows) -> np.ndarray:
    """Return the number of the window of every token of the map that is not rolled, (H, W)."""
    count = windows.padded[0] * windows.padded[1] // windows.side**2
    numbers = torch.arange(count).view(1, count, 1, 1).expand(1, count, windows.side**2, 1)
    return windows.join(numbers)[0, :, :, 0].numpy()


def shift() -> Figure:
    """Windows, shifted windows, and the map after it was rolled: pieces from two sides share a
    window.
    """
    plain, shifted = Windows(8, 8, 4), Windows(8, 8, 4, shifted=True)
    number = torch.arange(64).view(1, 8, 8, 1)
    down, right = shifted.shifts
    rolled = number.roll((-down, -right), (1, 2))[0, :, :, 0].numpy()
    assert torch.equal(
        shifted.cut(number)[0, 1, :, 0].reshape(4, 4), torch.from_numpy(rolled[:4, 4:])
    )
    canvas, axes = figure(3, 10, 3.7)
    place: Text = lambda y, x: f"{y}{x}"  # noqa: E731
    grid(axes[0], WINDOWS(colours_of(plain)), "a block: windows of 4 x 4", place)
    grid(axes[1], WINDOWS(colours_of(shifted)), "the next block: shifted by 2", place)
    at = WINDOWS(colours_of(shifted))[rolled // 8, rolled % 8]
    grid(
        axes[2],
        at,
        "the same, rolled up and left by 2",
        lambda y, x: f"{rolled[y, x] // 8}{rolled[y, x] % 8}",
    )
    for y in (0, 4):
        for x in (0, 4):
            frame(axes[0], y, x, 4, 4)
            frame(axes[2], y, x, 4, 4)
    for start_y, stop_y in ((0, 2), (2, 6), (6, 8)):
        for start_x, stop_x in ((0, 2), (2, 6), (6, 8)):
            frame(axes[1], start_y, start_x, stop_y - start_y, stop_x - start_x)
    return canvas


def masks() -> Figure:
    """The masks of the four windows: queries down, keys across."""
    windows = Windows(8, 8, 4, shifted=True)
    mask = windows.mask(torch.zeros(()))
    assert mask is not None
    places = windows.cut(torch.arange(64).view(1, 8, 8, 1))[0, :, :, 0]
    canvas = Figure(figsize=(8, 8.5), layout="constrained")
    for number, panel in enumerate(canvas.subplots(2, 2).flat):
        open_ = mask[number, 0].numpy() == 0
        colour = np.where(open_[..., None], WINDOWS(number), matplotlib.colors.to_rgba("#3c444d"))
        grid(panel, colour, f"window {number + 1}")
        names = [f"{place // 8}{place % 8}" for place in places[number].tolist()]
        panel.set_yticks(range(16), names, fontsize=8, color=GRAY)
        panel.set_xticks(range(16), names, fontsize=8, color=GRAY)
        panel.tick_params(length=0, pad=1)
    return canvas


def meets(windows: Windows) -> np.ndarray:
    """Return which tokens a token attends to, booleans (H W, H W)."""
    count = windows.height * windows.width
    places = windows.cut(torch.arange(count).view(1, windows.height, windows.width, 1))[0, :, :, 0]
    mask = windows.mask(torch.zeros(()))
    found = np.zeros((count, count), bool)
    for number, tokens in enumerate(places.numpy()):
        found[np.ix_(tokens, tokens)] = True if mask is None else mask[number, 0].numpy() == 0
    return found


def reach() -> Figure:
    """From where a token has heard after a few blocks, with and without shifts."""
    plain, shifted = meets(Windows(16, 16, 4)), meets(Windows(16, 16, 4, shifted=True))
    token = 16 * 6 + 9
    panels = {
        "after one block": plain[token],
        "two blocks, none shifted": (plain @ plain)[token],
        "two blocks, one shifted": (shifted @ plain)[token],
        "four blocks, two shifted": (shifted @ plain @ shifted @ plain)[token],
    }
    canvas, axes = figure(4, 10, 3)
    on, off = np.array(WINDOWS(0)), np.array(matplotlib.colors.to_rgba(OFF))
    for panel, (title, heard) in zip(axes, panels.items(), strict=True):
        grid(panel, np.where(heard.reshape(16, 16)[..., None], on, off), title)
        frame(panel, 6, 9, 1, 1, MARK)
    return canvas


FIGURES = {
    "relative-positions.png": table_of_positions,
    "relative-biases.png": biases_of_queries,
    "shifted-windows.png": shift,
    "shifted-masks.png": masks,
    "shifted-reach.png": reach,
}


def main(folder: Path) -> None:
    """Write every figure into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        drawn = io.BytesIO()
        draw().savefig(drawn, dpi=110, transparent=True)
        Image.open(drawn).quantize(200).save(folder / name, optimize=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "explain" / "images"
    )
