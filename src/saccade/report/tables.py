"""Tables for the terminal: models and recipes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from saccade import recipes
from saccade.models import find, meta_model
from saccade.models.cost import cost


def model_rows(names: list[str], num_classes: int, image_size: int | None) -> list[dict[str, Any]]:
    """Return one row per model: parameters, MACs and activations for one image of ``image_size`` pixels."""
    rows = []
    for name in names:
        entry = find(name)
        side = image_size or entry.image_size
        counts = cost(meta_model(name, num_classes=num_classes, image_size=side), side)
        rows.append(
            {
                "model": name,
                "image_size": side,
                "params": counts.params,
                "macs": counts.macs,
                "activations": counts.activations,
                "last_map": f"{counts.last_map[0]}x{counts.last_map[1]}",
                "source": entry.source,
            }
        )
    return rows


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


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows that share their keys as a table on stdout; large numbers in millions."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_form(value) for value in row.values()))
    Console().print(table, markup=False)


def _form(value: Any) -> str:
    if isinstance(value, int) and value >= 10_000:
        return f"{value / 1e6:,.2f} M"
    return str(value)
