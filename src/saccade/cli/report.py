"""``saccade report``: pages about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.errors import UsageError


@app.command(epilog="Example: saccade report runs/resnet18-photos-1a2b3c4d")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder or a checkpoint in one; several runs are compared on one page."
        ),
    ],
    best: options.Best = False,
    out: Annotated[
        Path, typer.Option("--out", help="Where the comparison of several runs goes.")
    ] = Path("comparison.html"),
    json_out: options.Json = False,
) -> None:
    """Write the page and the plots of a run, or one page that compares several."""
    with explained(json_out):
        from saccade import api
        from saccade.report import compare_runs

        if len(runs) == 1:
            page = api.write_page(runs[0], best)
        elif best:
            raise UsageError(
                "several runs are compared by their results", where="--best", fix="name one run"
            )
        else:
            page = compare_runs(runs, out)

        if json_out:
            print_json({"report": str(page)})
        else:
            show(str(page))
