"""``saccade bench``: where the time goes on the user's own data."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show


@app.command(epilog="Example: saccade bench loader --data photos.zip --model resnet18")
def bench(
    what: Annotated[
        Literal["loader"],
        typer.Argument(help="loader: time to read, decode and resize images into batches."),
    ],
    data: options.Data = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    holdout: options.Holdout = None,
    split_names: options.SplitNames = None,
    json_out: options.Json = False,
) -> None:
    """Show where loading time goes on your own data, and what would make it faster."""
    with explained(json_out):
        from saccade.log import Log
        from saccade.preflight import bench_loader
        from saccade.setup.compose import Request, compose
        from saccade.setup.flags import flag_settings

        flags = flag_settings(
            data=data, model=model, image_size=image_size, holdout=holdout, split_names=split_names
        )
        found = bench_loader.diagnose(compose(Request(flags=flags)), Log())
        if json_out:
            print_json(found.to_json())
        else:
            show(bench_loader.show(found))
