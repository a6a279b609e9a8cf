"""``saccade pack``: a data set as a few files that load fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from saccade.cli import options
from saccade.cli.app import CONTINUES, app, explained, print_json, show


@app.command(epilog="Example: saccade pack photos.zip packs/photos --max-side 400")
def pack(
    source: options.Source,
    target: Annotated[
        Path, typer.Argument(help="The folder of the pack; train on it with --data.")
    ],
    max_side: Annotated[
        int,
        typer.Option(
            "--max-side", help="Reduce the longer side to at most this many pixels; 0: never."
        ),
    ] = 500,
    quality: Annotated[
        int, typer.Option("--quality", help="JPEG quality (libjpeg), 1 to 100.")
    ] = 90,
    tile: Annotated[int, typer.Option("--tile", help="Width of a tile in pixels.")] = 32,
    chroma: Annotated[
        Literal["source", "4:2:0", "4:4:4"],
        typer.Option("--chroma", help="Chroma subsampling of the JPEG files."),
    ] = "source",
    original: Annotated[
        bool, typer.Option("--original", help="Store the original bytes of every image.")
    ] = False,
    split_names: options.SplitNames = None,
    json_out: options.Json = False,
) -> None:
    """Pack a dataset for fast training: few files, tiled JPEGs, checksums.

    If it is stopped, the same command continues it.
    """
    with explained(json_out, again=CONTINUES):
        from saccade.data import packing
        from saccade.data.sources import open_source
        from saccade.log import Log

        found = open_source(source, split_names=split_names or "")
        settings = packing.Settings(
            max_side=max_side, quality=quality, tile=tile, original=original, chroma=chroma
        )
        with Log().progress("packing", sum(map(len, found.splits.values()))) as bar:
            done = packing.pack(
                found,
                target,
                settings,
                lambda count: bar.update(count, "decoded, reduced, encoded"),
            )

        if json_out:
            print_json(done.to_json())
        else:
            show(done.text)
