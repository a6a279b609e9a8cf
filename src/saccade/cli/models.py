"""``saccade models``: the architectures and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show


@app.command(epilog="Example: saccade models 'resnet*' --image-size 128")
def models(
    pattern: Annotated[
        str, typer.Argument(help="A name (shown stage by stage) or a pattern such as 'resnet*'.")
    ] = "*",
    image_size: options.ImageSize = None,
    num_classes: Annotated[
        int, typer.Option("--classes", min=1, help="Number of outputs of the head.")
    ] = 1000,
    json_out: options.Json = False,
) -> None:
    """List the architectures with their cost, or show one stage by stage."""
    with explained(json_out):
        from saccade.log import Log
        from saccade.models import find, list_models
        from saccade.report import architectures
        from saccade.report.tables import print_table

        several = any(c in pattern for c in "*?[")
        found = (list_models(pattern) if several else []) or [find(pattern).name]
        rows, left_out = architectures.rows(
            found, num_classes, image_size, Log(), with_stages=not several
        )

        if json_out:
            print_json(rows)
        elif several:
            print_table(architectures.shown(rows), "models", architectures.LEGEND)
        else:
            architectures.draw(rows[0])
        for reason in left_out:
            show(f"skipped: {reason}", err=True)
