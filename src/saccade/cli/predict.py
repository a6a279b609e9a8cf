"""``saccade predict``: the classes of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli import options
from saccade.cli.app import app, complain, explained, print_json, show
from saccade.errors import DataError
from saccade.printable import cell, printable


@app.command(
    epilog="Example: saccade predict runs/resnet18-photos-1a2b3c4d cat.jpg holiday/ --top 3"
)
def predict(
    run: options.Weights,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[
        int, typer.Option("--top", min=1, help="Number of classes to list per image.")
    ] = 5,
    best: options.Best = False,
    model: options.Architecture = None,
    mean: options.Mean = None,
    std: options.Std = None,
    bgr: options.Bgr = None,
    image_size: options.ImageSize = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Also write a CSV: path, rank, class, probability.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")
    ] = False,
    json_out: options.Json = False,
) -> None:
    """Predict the classes of images, with probabilities (computed in float32 on every machine).

    Images that cannot be read are listed on stderr, and all others are predicted. The exit status
    is then 65.
    """
    with explained(json_out):
        from saccade import api, files

        rows: list[dict[str, Any]] = []
        classifier = api.load(
            run, model, best=best, mean=mean, std=std, bgr=bgr, image_size=image_size
        )
        for prediction in api.predict(classifier, images, top=top, strict=strict):
            answers = [{"class": name, "probability": share} for name, share in prediction.top]
            row: dict[str, Any] = {"path": prediction.path, "top": answers}
            if prediction.error:
                row["error"] = prediction.error
            rows.append(row)
            _tell(row, aloud=not json_out)

        if csv is not None:
            files.write_bytes(csv, _csv(rows))
        if json_out:
            print_json(rows)

        bad = sum("error" in row for row in rows)
        # last, so that the answers about the other images are written in any case
        if bad:
            complain(
                f"{bad:,} of {len(rows):,} images could not be read; they are listed above", "red"
            )
            raise typer.Exit(DataError.status)


def _tell(row: dict[str, Any], aloud: bool) -> None:
    """Print one prediction as soon as it is known: errors on stderr, classes on stdout."""
    from saccade.data.sources.ilsvrc import class_name

    path = printable(str(row["path"]), keep="")
    if "error" in row:
        complain(f"{row['error']}\n  where: {path}")
    elif aloud:
        named = (f"{class_name(a['class'])} {a['probability']:.1%}" for a in row["top"])
        show(f"{path}: {'  '.join(named) or '(none)'}")


def _csv(rows: list[dict[str, Any]]) -> bytes:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for row in rows:
        for rank, answer in enumerate(row["top"], 1):
            share = f"{answer['probability']:.6f}"
            writer.writerow([cell(row["path"], path=True), rank, cell(answer["class"]), share])
        if not row["top"] and "error" not in row:
            # read, and nothing is said of it: the image has its line all the same
            writer.writerow([cell(row["path"], path=True), "", "", ""])
    return out.getvalue().encode()
