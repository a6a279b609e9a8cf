"""``saccade embed``: features of images as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.units import human_count


@app.command(epilog="Example: saccade embed runs/resnet18-photos-1a2b3c4d --data new/ --out new")
def embed(
    weights: options.Weights,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")],
    data: options.Data = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    split: Annotated[
        str, typer.Option("--split", help="The split to embed; default: all splits.")
    ] = "",
    best: options.Best = False,
    model: options.Architecture = None,
    mean: options.Mean = None,
    std: options.Std = None,
    bgr: options.Bgr = None,
    image_size: options.ImageSize = None,
    devices: options.DevicesAsRun = "auto",
    precision: options.PrecisionAsRun = "auto",
    json_out: options.Json = False,
) -> None:
    """Write the features of your images: features, softmax and labels as .npy, names as CSV.

    Images need no labels.
    """
    with explained(json_out):
        from saccade import frozen

        facts = frozen.embed(
            weights,
            data,
            out=out,
            labels=labels or "",
            split_names=split_names or "",
            split=split,
            best=best,
            module=model,
            mean=mean,
            std=std,
            bgr=bgr,
            image_size=image_size,
            devices=devices,
            precision=precision,
        )
        if json_out:
            print_json({"out": str(out), **facts})
        else:
            softmax = f", softmax {len(facts['softmax'])} wide" if facts["softmax"] else ""
            images = human_count(facts["images"], "image")
            show(f"{images}, features {facts['width']:,} wide{softmax}: {out}")
