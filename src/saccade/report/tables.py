"""Tables for the terminal."""

from __future__ import annotations

import os
import re
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from saccade import recipes, units
from saccade.recipes import receipts
from saccade.system import consoles

PIPED_WIDTH = 160
WIDE = 110
"""Width of a terminal, in columns, from which a table also shows descriptions."""

SHORTEST_TEXT = 12
"""Smallest width of the description column; a narrower terminal wraps lines."""

SHELVES = ("measured", "changed since measured", "untested", "ported")
"""The statuses of recipes, in order of evidence."""

RECIPES_LEGEND = (
    "top1 in brackets: the result that the source reports; not run by us. Details: saccade "
    "recipes NAME"
)


def recipe_rows(names: list[str]) -> list[dict[str, Any]]:
    """Return one row per recipe: its status, its measured or claimed result, its purpose."""
    rows = []
    for name in names:
        recipe, stored = recipes.find(name), receipts.read(name)
        reached = "; ".join(f"{receipt.summary} on {receipt.data}" for receipt in stored)
        rows.append(
            {
                "recipe": name,
                "status": receipts.status(recipe),
                "top1": reached or recipe.claims,
                "time": units.human_time(stored[0].seconds) if stored else "",
                "machine": stored[0].runs[0].machine if stored else "",
                "about": recipe.about,
                "source": recipe.source,
            }
        )
    return rows


def shown_recipes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of recipes for people: one line each, measured ones first."""
    ordered = sorted(rows, key=lambda row: SHELVES.index(row["status"]))
    wide = console().width >= WIDE
    return [
        {
            "recipe": row["recipe"],
            "status": row["status"].split()[0],
            "top1": _in_short(row["top1"], row["status"]),
            "time": row["time"],
        }
        | ({"machine": row["machine"]} if wide else {})
        | {"about": row["about"]}
        for row in ordered
    ]


def _in_short(reached: str, status: str) -> str:
    """Return the first percentage of a sentence, in brackets if it was not measured by us."""
    found = re.match(r"[\d.]+ %", reached)
    if not found:
        return ""
    return f"({found[0]})" if status == "ported" else found[0]


def print_table(rows: list[dict[str, Any]], title: str, legend: str = "") -> None:
    """Print rows that share their keys as a table on stdout, one line each.

    Large numbers in millions and billions. Where the terminal is narrow, long texts of the last
    column end in an ellipsis; names and figures are never cut.
    """
    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        caption=legend or None,
        caption_justify="left",
    )
    out = console()
    names, lines = list(rows[0]), [[form(value) for value in row.values()] for row in rows]
    widths = [
        max(map(cell_len, (name, *(line[place] for line in lines))))
        for place, name in enumerate(names)
    ]
    if not isinstance(rows[0][names[-1]], int | float):
        # what is left of the line beside the other columns and the two spaces between each
        room = max(out.width - sum(widths[:-1]) - 2 * len(widths[:-1]), SHORTEST_TEXT)
        widths[-1] = min(widths[-1], room)
        lines = [[*line[:-1], _cut(line[-1], room)] for line in lines]

    for name, value, width in zip(names, rows[0].values(), widths, strict=True):
        justify = "right" if isinstance(value, int | float) else "left"
        table.add_column(name, justify=justify, no_wrap=True, min_width=width)  # type: ignore[arg-type]
    for line in lines:
        table.add_row(*line)
    # a terminal that is narrower still folds the lines itself, and nothing is lost
    out.width = max(out.width, sum(widths) + 2 * len(widths[:-1]))
    out.print(table, markup=False)


def _cut(text: str, room: int) -> str:
    return text if cell_len(text) <= room else f"{set_cell_size(text, room - 1).rstrip()}…"


def console() -> Console:
    """Return a console for stdout: as wide as the terminal, or wide enough for a table if a program
    reads it.
    """
    found = consoles.console()
    return (
        found
        if found.is_terminal or "COLUMNS" in os.environ
        else consoles.console(width=PIPED_WIDTH)
    )


def form(value: Any) -> str:
    """Write a number for people: 25.56 M, 4.09 G, 85.9; anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and value >= 10_000:
        return f"{value / 1e9:,.2f} G" if value >= 1e9 else f"{value / 1e6:,.2f} M"
    return str(value)
