"""Tables for the terminal: models and recipes."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from saccade import recipes, units
from saccade.models import find, meta_model
from saccade.models.cost import cost
from saccade.recipes import receipts


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
    """Return one row per recipe: its status, what it reached here or is claimed to have reached, what it is for."""
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
