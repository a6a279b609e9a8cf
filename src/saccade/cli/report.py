"""``saccade report``: pages about runs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, complain, explained, print_json, show
from saccade.errors import UsageError


class Table(enum.StrEnum):
    """The forms of a table of runs."""

    MD = "md"
    CSV = "csv"


@app.command(epilog="Example: saccade report runs/resnet18-photos-1a2b3c4d")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder or a checkpoint in it; several runs are compared on one page."
        ),
    ],
    best: options.Best = False,
    table: Annotated[
        Table | None,
        typer.Option("--table", help="Print a table of the runs instead: for Markdown or as CSV."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File for the comparison (comparison.html) or the table (stdout)."
        ),
    ] = None,
    notebook: Annotated[
        bool, typer.Option("--notebook", help="Also write notebook.ipynb, unless it was changed.")
    ] = False,
    json_out: options.Json = False,
) -> None:
    """Write the page and the plots of a run, one page that compares several, or a table of runs."""
    with explained(json_out):
        if best and (table or len(runs) > 1):
            raise UsageError(
                "a table and a comparison show the results of runs, not of their checkpoints",
                where="--best",
                fix="remove --best, or name one run without --table",
            )
        if notebook and (table or len(runs) > 1):
            raise UsageError(
                "a notebook is about one run", where="--notebook", fix="name one run alone"
            )
        if table:
            _tabulate(runs, table, out, json_out)
            return

        from saccade import api
        from saccade.report import compare_runs

        if len(runs) == 1:
            page = api.write_page(runs[0], best)
        else:
            page = compare_runs(runs, out or Path("comparison.html"))
        written = {"report": str(page)}
        if notebook:
            written["notebook"] = _notebook(runs[0])

        if json_out:
            print_json(written)
        else:
            show("\n".join(written.values()))


def _notebook(run: Path) -> str:
    from saccade import api

    path, is_new = api.write_notebook(run)
    if not is_new:
        complain(
            f"{path} was changed since it was written, and is kept; rename it to get a new one"
        )
    return str(path)


def _tabulate(runs: list[Path], kind: Table, out: Path | None, json_out: bool) -> None:
    from saccade import files
    from saccade.report.run_table import RunTable

    found = RunTable.of(runs)
    beside = out.parent if out else Path()
    text = found.markdown(beside) if kind is Table.MD else found.csv(beside)
    if out:
        files.write_bytes(out, text.encode())
    if json_out:
        print_json({"runs": found.rows})
    else:
        show(str(out) if out else text, nl=bool(out))
