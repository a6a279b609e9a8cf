"""``saccade recipes``: recipes and their receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.errors import UsageError

Words = Annotated[
    list[str] | None, typer.Argument(help="A recipe to show, or `record RUN...`, or `records`.")
]


@app.command(
    epilog=(
        "Example: saccade recipes photos-small; saccade recipes record "
        "runs/resnet18-photos-1a2b3c4d"
    )
)
def recipes(words: Words = None, json_out: options.Json = False) -> None:
    """List the recipes, measured ones first, or print one with its receipt.

    `record` writes receipts from run folders.
    """
    with explained(json_out):
        from saccade import recipes as shelf
        from saccade.recipes import receipts
        from saccade.report import tables

        first, *rest = words or [""]
        if first == "record":
            if not rest:
                raise UsageError(
                    "no run was given",
                    where="saccade recipes record",
                    fix="give finished run folders",
                )
            written = receipts.record([Path(run) for run in rest])
            rows = tables.recipe_rows(list(dict.fromkeys(one.recipe for one in written)))
        elif first == "records":
            show(receipts.table(), nl=False)
            return
        elif first and not json_out:
            show(
                shelf.find(first).path.read_text(encoding="utf-8") + receipts.comment(first),
                nl=False,
            )
            return
        else:
            rows = tables.recipe_rows([first] if first else shelf.names())

        if json_out:
            print_json(rows)
        else:
            tables.print_table(tables.shown_recipes(rows), "recipes", tables.RECIPES_LEGEND)
