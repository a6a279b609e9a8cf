"""``saccade export``: a trained network as files for other programs, proved on real images."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.units import human_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from saccade.objectives.objective import Primary

Given = Annotated[
    str,
    typer.Option(
        "--input",
        help=(
            "Input of the files: uint8 (pixels of the final size), image (one image of any size) "
            "or float (normalised)."
        ),
    ),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Also model-int8.onnx: weights and activations in 8 bits.")
]
Calibration = Annotated[
    int, typer.Option(help="For --int8: number of training images to calibrate on.", min=1)
]
MaxDrop = Annotated[
    float, typer.Option(help="For --int8: percentage points that top-1 may lose.", min=0)
]
PerTensor = Annotated[
    bool,
    typer.Option(
        "--per-tensor",
        help="For --int8: one scale per layer instead of per channel; less accurate.",
    ),
]
Views = Annotated[
    int,
    typer.Option(
        "--views",
        help="Views averaged by the files: 1, 2 or 6. Default: as many as the run's evaluation.",
    ),
]


@app.command(epilog="Example: saccade export runs/resnet18-photos-1a2b3c4d --format onnx,pt2")
def export(
    run: options.Run,
    formats: Annotated[
        str, typer.Option("--format", help="Comma-separated formats: onnx, pt2, pt, timm, pickle.")
    ] = "onnx",
    given: Given = "uint8",
    int8: Int8 = False,
    calibration: Calibration = 512,
    max_drop: MaxDrop = 1.0,
    per_tensor: PerTensor = False,
    data: options.Data = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    split: Annotated[
        str, typer.Option("--split", help="The split to check with; default: validation.")
    ] = "",
    best: options.Best = False,
    views: Views = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder. Default: export/ in the run folder.")
    ] = None,
    json_out: options.Json = False,
) -> None:
    """Write a classifier or encoder as files for other programs, each checked on real images.

    Each file is evaluated on validation images in a separate process without this program. If its
    outputs differ from the network's, nothing is written.
    """
    with explained(json_out):
        from saccade import leaving, objectives

        receipt = leaving.export(
            run,
            formats=formats,
            given=given,
            data=data,
            labels=labels or "",
            split_names=split_names or "",
            split=split,
            best=best,
            views=views,
            int8=int8,
            calibration=calibration,
            max_drop=max_drop,
            per_tensor=per_tensor,
            out=out,
        )
        if json_out:
            print_json(receipt)
            return
        primary = objectives.primary(receipt["objective"]) if "classes" in receipt else None
        for fact in receipt["files"].values():
            show(_line(fact, primary, receipt["threads"]))
        show(f"folder: {receipt['folder']}")
        if "pixels" in receipt:
            show(_program(Path(receipt["folder"]), is_encoder=primary is None))
            show("the same in a program of your own:\n\n" + indent(receipt["snippet"], "    "))


def _program(folder: Path, *, is_encoder: bool) -> str:
    """Return how the program beside the ONNX file is called, for people."""
    if is_encoder:
        return f"features of images: python {folder / 'embed.py'} OUT.npy IMAGE ..."
    return f"classify an image: python {folder / 'classify.py'} IMAGE"


def _line(fact: Mapping[str, Any], primary: Primary | None, threads: int) -> str:
    """Return what one file proved, for people; an encoder has no ``primary`` figure."""
    from saccade.exporting.card import judges

    milliseconds = ", ".join(
        f"batch {size}: {took['exported']:.2f} ms (torch {took['torch']:.2f})"
        for size, took in fact["milliseconds"].items()
    )
    rounds = min(took["n"] for took in fact["milliseconds"].values())

    outputs, figures = "features", ""
    if primary is not None:
        own, exported = primary.shown(fact["classifier"]), primary.shown(fact["exported"])
        outputs, figures = "logits", f"{primary.title} {own} -> {exported}  "
    apart = (
        f"{outputs} differ by at most {fact['largest_difference_of_std']:.1g} of their standard "
        "deviation"
    )
    if "drop_points" in fact:
        apart = _lost(fact)
    elif "needs" in fact:
        apart += f"; needs {fact['needs']}"
    elif "scheme" in fact:
        apart += f", {fact['other_best_class']} images with another best class"
    return (
        f"{fact['file']}  {fact['bytes'] / 1e6:.1f} MB  {figures}"
        f"({judges(fact)}; {apart}; {milliseconds}; n = {rounds}, {human_count(threads, 'thread')})"
    )


def _lost(fact: Mapping[str, Any]) -> str:
    """Return the loss of accuracy in 8 bits, for people."""
    interval = fact["drop_interval_95"]
    sure = f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    named = "".join(
        f"; '{one['class']}' {one['before']} -> {one['after']} of {one['images']}"
        for one in fact["classes_that_lose"]
    )
    return f"{fact['drop_points']:.2f} points lost{sure}{named}"
