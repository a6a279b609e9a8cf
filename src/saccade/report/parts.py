"""The part of a page that an objective describes as data, as HTML and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from saccade.objectives.page import Matrix, Part, Pictures, Share, Table, percent
from saccade.report import canvas, grids, tiles
from saccade.report.canvas import Theme
from saccade.report.html import Html, element, image, join, table
from saccade.report.record import Record
from saccade.report.sections import section
from saccade.report.tiles import Tile

_NOTHING = Html("")


@dataclass(frozen=True)
class Plot:
    """A plot for both colour schemes; ``alt`` says in words what it shows."""

    title: str
    alt: str
    light: bytes
    dark: bytes
    note: str = ""

    @property
    def html(self) -> Html:
        """The plot as an embedded picture."""
        return image(self.light, self.alt, dark=self.dark, scale=canvas.SCALE)


@dataclass(frozen=True)
class DrawnPart:
    """One part of the page, with the plots by file name and the pictures that are in it."""

    html: Html
    plots: dict[str, Plot] = field(default_factory=dict)
    tiles: tuple[Tile, ...] = ()


def both_themes(title: str, alt: str, draw: Callable[[Theme], bytes], note: str = "") -> Plot:
    """Draw a plot for light and for dark screens."""
    return Plot(title, alt, light=draw(canvas.LIGHT), dark=draw(canvas.DARK), note=note)


def drawn(record: Record) -> list[DrawnPart]:
    """Return the objective's sections about the predictions of a run; nothing without
    predictions."""
    return [_drawn(part, record) for part in record.parts]


def _drawn(part: Part, record: Record) -> DrawnPart:
    note = element("p", part.note, class_="note") if part.note else _NOTHING
    matrix = next((block for block in part.blocks if isinstance(block, Matrix)), None)
    listed = [_table(block) for block in part.blocks if isinstance(block, Table)]
    shown = [
        tile
        for block in part.blocks
        if isinstance(block, Pictures)
        for tile in tiles.of(block, record)
    ]

    # a matrix has its table beside it; other tables fold away what is behind their first rows
    plots, blocks = {}, []
    if matrix is not None:
        counts, names = matrix.counts, matrix.names
        plot = both_themes("", matrix.alt, lambda t: grids.confusion(counts, names, t))
        plots["confusion"] = plot
        beside = [opened for opened, _ in listed]
        blocks = [element("div", plot.html, beside, class_="card matrix beside")]
    else:
        for opened, rest in listed:
            blocks += [element("div", opened, class_="card"), rest]
    if shown:
        blocks.append(element("div", [tiles.figure(tile) for tile in shown], class_="mistakes"))

    return DrawnPart(section(part.title, note, *blocks), plots, tuple(shown))


def _table(block: Table) -> tuple[Html, Html]:
    """Return the open rows of a table, and the others folded away."""
    if not block.rows:
        return _NOTHING, _NOTHING

    rows = [tuple(_cell(value) for value in row) for row in block.rows]
    opened = table(block.head, rows[: block.open_rows], numbers=block.numbers)
    rest = rows[block.open_rows :]
    if not rest:
        return opened, _NOTHING

    more = element("summary", f"the other {len(rest)} {block.noun}")
    hidden = table(block.head, rest, numbers=block.numbers)
    return opened, element("details", more, hidden, class_="card")


def _cell(value: str | Share) -> str:
    if isinstance(value, str):
        return value
    if not value.bar:
        return percent(value.value)
    width = f"width:{100 * value.value:.1f}%"
    return join([percent(value.value), element("span", element("i", style=width), class_="bar")])
