"""``saccade verify``: every image of a source, read once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json
from saccade.errors import DataError


@app.command(epilog="Example: saccade verify photos.zip --out ledger.json")
def verify(
    source: options.Source,
    md5: Annotated[
        bool,
        typer.Option("--md5", help="Also check the MD5 of the ILSVRC2012 archives."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the full result, with all file names, as JSON."),
    ] = None,
    split_names: options.SplitNames = None,
    json_out: options.Json = False,
) -> None:
    """Read every image once: count, compare, and list all problems.

    Exits with 65 if there are any.
    """
    with explained(json_out):
        from saccade import files
        from saccade.data.audit import verify as ledger
        from saccade.data.sources import open_source
        from saccade.log import Log

        archives = ledger.known_archives(Path(source)) if md5 else []
        found = open_source(source, split_names=split_names or "")
        verdict = ledger.verify(found, Log(), archives=archives)

        if out is not None:
            files.write_json(out, verdict.to_json())
        if json_out:
            print_json(verdict.to_json())
        else:
            ledger.show(verdict)
        if verdict.failed:
            raise typer.Exit(DataError.status)
