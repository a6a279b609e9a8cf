"""``saccade prepare``: any data set as a folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import CONTINUES, app, explained, print_json, show


@app.command(epilog="Example: saccade prepare photos.zip photos/")
def prepare(
    source: options.Source,
    target: Annotated[
        Path,
        typer.Argument(help="The folder to fill with train/<class>/<image>, val/<class>/<image>."),
    ],
    split_names: options.SplitNames = None,
    json_out: options.Json = False,
) -> None:
    """Write any data set as an ordinary folder of image files.

    If it is stopped, the same command continues it.
    """
    with explained(json_out, again=CONTINUES):
        from saccade.data import prepare as tree
        from saccade.data.sources import open_source
        from saccade.log import Log

        done = tree.prepare(open_source(source, split_names=split_names or ""), target, Log())
        if json_out:
            print_json(done)
        else:
            counts = ", ".join(f"{count:,} in '{name}'" for name, count in done["splits"].items())
            show(f"{target}: {counts}; {done['written']:,} written now")
