"""``saccade download``: public sets by name, and files behind addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import CONTINUES, app, explained, print_json, show


@app.command(epilog="Example: saccade download cifar10")
def download(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|URL...",
            help="Known sets, or addresses of files; URL#sha256=DIGITS is checked. "
            "Without any: list the known sets.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="The folder that gets <name>/<files>, or the files.")
    ] = Path("data"),
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=16, help="Connections for a large file.")
    ] = 4,
    json_out: options.Json = False,
) -> None:
    """Download public sets or files, checked.

    If it is stopped, the same command continues it.
    """
    with explained(json_out, again=CONTINUES):
        from saccade.data import published
        from saccade.log import Log
        from saccade.units import human_size

        if not what:
            _list(json_out)
            return
        done = published.download(what, out, Log(), connections)
        if json_out:
            print_json(done)
            return
        for file in done["files"]:
            kind = file["checked"].upper()
            said = f"its {kind} is right" if kind else "no checksum is known to compare with"
            size = human_size(file["size_bytes"])
            show(f"{file['path']}: {size}; {said}; SHA-256 {file['sha256']}")
        for next_step in done["use"]:
            show(f"next: {next_step}")


def _list(json_out: bool) -> None:
    from saccade.data.published import PUBLISHED
    from saccade.report.tables import print_table
    from saccade.units import human_size

    rows = []
    for name, one in PUBLISHED.items():
        sizes = [remote.size_bytes for remote in one.files]
        known = human_size(sum(size or 0 for size in sizes)) if None not in sizes else "unknown"
        checked = all(any(remote.checksum) for remote in one.files)
        rows.append(
            {
                "set": name,
                "size": known,
                "checksum": "MD5" if checked else "unknown",
                "page": one.page,
            }
        )
    if json_out:
        print_json(rows)
    else:
        print_table(rows, "sets that can be downloaded", "ImageNet: saccade download imagenet")
