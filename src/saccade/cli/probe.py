"""``saccade probe``: the accuracy of frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.units import human_count

if TYPE_CHECKING:
    from saccade.runs.probing import Comparison

Several = Annotated[
    list[str],
    typer.Argument(
        help="Runs, weights files (from another program: --model, or NAME=FILE), or timm:NAME."
    ),
]


@app.command(epilog="Example: saccade probe runs/pre timm:resnet50 --data photos.zip --json")
def probe(
    weights: Several,
    data: options.Data = None,
    val: options.Val = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    best: options.Best = False,
    model: options.Architecture = None,
    mean: options.Mean = None,
    std: options.Std = None,
    bgr: options.Bgr = None,
    image_size: options.ImageSize = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=0, help="Number of images to learn from; default 10000, 0 = all."
        ),
    ] = None,
    devices: options.DevicesAsRun = "auto",
    precision: options.PrecisionAsRun = "auto",
    json_out: options.Json = False,
) -> None:
    """Evaluate frozen features on your images: nearest neighbours (kNN) and a linear probe.

    Several networks are compared, each also with its untrained self. Only the probe is trained.
    """
    with explained(json_out):
        from saccade import frozen

        found = frozen.probe(
            weights,
            data,
            val=val,
            labels=labels or "",
            split_names=split_names or "",
            best=best,
            module=model,
            mean=mean,
            std=std,
            bgr=bgr,
            image_size=image_size,
            limit=limit,
            devices=devices,
            precision=precision,
        )
        if json_out:
            print_json(found.to_json())
        else:
            show(_table(found))


def _table(found: Comparison) -> str:
    """Return the figures for people, in a table and a sentence."""
    from saccade.runs.probing import NEIGHBOURS

    # the same network is drawn for each size
    names = [row.name for row in found.rows]
    labels = [
        row.name if names.count(row.name) == 1 else f"{row.name}, {row.image_size} px"
        for row in found.rows
    ]
    width = max(map(len, labels))
    titles = [f"kNN {k}" for k in NEIGHBOURS] + ["probe"]
    lines = [
        f"top-1 of {human_count(found.judged, 'image')} of '{found.judge}'; learned from "
        f"{found.learned:,}",
        "",
        " " * width + "".join(f"{title:>9}" for title in titles),
    ]
    for row, label in zip(found.rows, labels, strict=True):
        figures = [*row.knn.values(), row.probe]
        lines.append(f"{label:<{width}}" + "".join(f"{figure:>9.1%}" for figure in figures))

    first, *others = found.trained
    error = found.error(first.best)
    close = [row.name for row in others if first.best - row.best < 2 * error]
    lines += ["", f"best: {first.name}, {first.best:.1%} (standard error {error:.1%})"]
    if close:
        lines.append(f"not clearly worse: {', '.join(close)}")
    if alike := found.like_untrained():
        lines.append(f"not clearly better than untrained: {', '.join(alike)}")
    return "\n".join(lines)
