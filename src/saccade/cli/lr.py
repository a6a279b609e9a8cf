"""``saccade lr``: a plot of the learning rate over a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.errors import UsageError


@app.command(epilog="Example: saccade lr photos photos-small --out rates.svg")
def lr(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE",
            help="Recipes, YAML files or run folders; several are drawn in one plot.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The plot to write: a .png or .svg file.")
    ] = Path("lr.png"),
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    num_images: Annotated[
        int,
        typer.Option(
            "--images", min=0, help="Number of training images; default: ImageNet's, or the run's."
        ),
    ] = 0,
    sets: options.Sets = None,
    json_out: options.Json = False,
) -> None:
    """Plot the learning rate over the run for one or several recipes. Opens no data."""
    with explained(json_out):
        form = out.suffix.lower().removeprefix(".")
        if form not in ("png", "svg"):
            raise UsageError(
                f"'{out}' does not end in .png or .svg", where="--out", fix="write --out lr.png"
            )

        from saccade import files
        from saccade.report import rates
        from saccade.setup.flags import flag_settings

        flags = flag_settings(epochs=epochs, batch_size=batch_size)
        curves = [rates.follow(word, flags, sets or [], num_images) for word in words]
        files.write_bytes(out, rates.draw(curves, form))

        if json_out:
            print_json({"picture": str(out), "rates": [curve.to_json() for curve in curves]})
            return

        for curve in curves:
            show(curve.text)
        show(str(out))
