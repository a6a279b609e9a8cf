"""``saccade export``: a trained classifier as files for other programs, proved on real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show

if TYPE_CHECKING:
    from collections.abc import Mapping


@app.command(epilog="Example: saccade export runs/resnet18-photos-1a2b3c4d --format onnx,pt2")
def export(
    run: options.Run,
    formats: Annotated[
        str,
        typer.Option(
            "--format", help="Kinds of files, comma between: onnx, pt2, pt, timm, pickle."
        ),
    ] = "onnx",
    given: Annotated[
        str,
        typer.Option(
            "--input",
            help=(
                "What the files take: uint8 (pixels of the final size), image (one image of any "
                "size) or float (normalised)."
            ),
        ),
    ] = "uint8",
    data: options.Data = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    split: Annotated[
        str, typer.Option("--split", help="Which split proves them; default: the validation split.")
    ] = "",
    best: options.Best = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder. Default: export/ in the run folder.")
    ] = None,
    json_out: options.Json = False,
) -> None:
    """Write a classifier as files that other programs load, each proved on real images.

    Every file answers the validation images in a process without this program. One that does not
    answer as the classifier does is refused, and nothing is written.
    """
    with explained(json_out):
        from saccade import leaving

        receipt = leaving.export(
            run,
            formats=formats,
            given=given,
            data=data,
            labels=labels or "",
            split_names=split_names or "",
            split=split,
            best=best,
            out=out,
        )
        if json_out:
            print_json(receipt)
            return
        for fact in receipt["files"].values():
            show(_line(fact))
        show(f"folder: {receipt['folder']}")


def _line(fact: Mapping[str, Any]) -> str:
    """Return what one file proved, for people."""
    own, exported = fact["classifier"], fact["exported"]
    some = "" if fact["images"] == fact["of_images"] else f" of {fact['of_images']:,}"
    milliseconds = "; ".join(
        f"batch {size}: {took['exported']:.2f} ms (torch {took['torch']:.2f})"
        for size, took in fact["milliseconds"].items()
    )
    figures = "  ".join(
        f"{name} {own[name]:.2%} -> {exported[name]:.2%}" for name in ("top1",) if name in own
    )
    judged = f"{fact['images']:,}{some} images of '{fact['split']}'"
    apart = f"logits differ by at most {fact['largest_difference_of_std']:.1g} of their deviation"
    size = f"{fact['bytes'] / 1e6:.1f} MB"
    return f"{fact['file']}  {size}  {figures}  ({judged}; {apart}; {milliseconds})"
