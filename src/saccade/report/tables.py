"""Tables for the terminal."""

from __future__ import annotations

import os
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from saccade import recipes, units
from saccade.recipes import receipts
from saccade.system import consoles

PIPED_WIDTH = 160


def recipe_rows(names: list[str]) -> list[dict[str, Any]]:
    """Return one row per recipe: its status, what it reached here or is claimed to have reached,
    what it is for.
    """
    rows = []
    for name in names:
        recipe, receipt = recipes.find(name), receipts.read(name)
        seconds = statistics.median(run.seconds for run in receipt.runs) if receipt else 0.0
        rows.append(
            {
                "recipe": name,
                "status": receipts.status(recipe),
                "top1": receipt.summary if receipt else recipe.claims,
                "time": units.human_time(seconds) if receipt else "",
                "machine": receipt.runs[0].machine if receipt else "",
                "about": recipe.about,
                "source": recipe.source,
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]], title: str, legend: str = "") -> None:
    """Print rows that share their keys as a table on stdout.

    Large numbers in millions and billions.
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
    for place, (name, value) in enumerate(rows[0].items()):
        # only other text is folded where the terminal is narrow
        is_number = isinstance(value, int | float)
        table.add_column(
            name,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number or not place,
        )
    for row in rows:
        table.add_row(*(form(value) for value in row.values()))
    console().print(table, markup=False)


def console() -> Console:
    """Return the way to stdout: as wide as the terminal, or wide enough for a table when it goes
    to a program.
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
