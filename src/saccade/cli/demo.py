"""``saccade demo``: a page on this machine that asks a classifier about pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, complain, explained, print_json, show

if TYPE_CHECKING:
    from saccade.demo.server import Server
    from saccade.runs.foreign import Expected


@app.command(epilog="Example: saccade demo runs/resnet18-photos-1a2b3c4d")
def demo(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run, a checkpoint in it, an ONNX file of `saccade export`, or a weights file "
            "from another program."
        ),
    ],
    best: options.Best = False,
    data: options.Data = None,
    model: options.Architecture = None,
    mean: options.Mean = None,
    std: options.Std = None,
    bgr: options.Bgr = None,
    image_size: options.ImageSize = None,
    port: Annotated[
        int, typer.Option("--port", help="Where on this machine; 0 takes a free one.", min=0)
    ] = 7860,
    json_out: options.Json = False,
) -> None:
    """Show a page that classifies pictures: your files, your camera, validation images.

    Only this machine can open it, and no picture leaves it. Ctrl-C ends it.
    """
    with explained(json_out):
        from saccade.runs.foreign import Expected

        expected = Expected.of(model, mean=mean, std=std, bgr=bgr, image_size=image_size)
        server = _server(run, expected, best, data=data, port=port)
        if json_out:
            print_json({"address": server.address})
        else:
            show(f"{server.address}   (open it in a browser; Ctrl-C ends it)")
        server.serve()
        complain("the page is closed")


def _server(run: Path, expected: Expected, best: bool, *, data: str | None, port: int) -> Server:
    """Load what answers, choose examples and take the port."""
    from saccade.demo import examples, opening
    from saccade.demo.conversation import Conversation
    from saccade.demo.server import Server

    answerer, split = opening.opened(run, best, data, expected)
    shown = examples.of(split, answerer.recipe.exif) if split is not None else []
    return Server(Conversation(answerer, shown), port)
