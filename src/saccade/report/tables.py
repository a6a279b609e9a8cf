"""Tables for the terminal."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.table import Table

from saccade import recipes

PIPED_WIDTH = 160


def recipe_rows(names: list[str]) -> list[dict[str, Any]]:
    """Return one row per recipe: what it is for and what its receipt says."""
    found = (recipes.find(name) for name in names)
    return [
        {
            "recipe": r.name,
            "status": r.receipt["status"],
            "reached": r.receipt.get("reached", ""),
            "hardware": r.receipt.get("hardware", ""),
            "about": " ".join(r.about.split()),
        }
        for r in found
    ]


def print_table(rows: list[dict[str, Any]], title: str, legend: str = "") -> None:
    """Print rows that share their keys as a table on stdout; large numbers in millions and billions."""
    table = Table(
        title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, caption=legend or None,
        caption_justify="left",
    )  # fmt: skip
    for place, (name, value) in enumerate(rows[0].items()):
        is_number = isinstance(value, int | float)  # only other text is folded where the terminal is narrow
        table.add_column(
            name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number or not place
        )
    for row in rows:
        table.add_row(*(form(value) for value in row.values()))
    console().print(table, markup=False)


def console() -> Console:
    """Return the way to stdout: as wide as the terminal, or wide enough for a table when it goes to a program."""
    found = Console(highlight=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=PIPED_WIDTH)


def form(value: Any) -> str:
    """Write a number for people: 25.56 M, 4.09 G, 85.9; anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and value >= 10_000:
        return f"{value / 1e9:,.2f} G" if value >= 1e9 else f"{value / 1e6:,.2f} M"
    return str(value)
