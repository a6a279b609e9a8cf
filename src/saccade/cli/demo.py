"""``saccade demo``: a page on this machine that asks a classifier about pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, complain, explained, print_json, show

if TYPE_CHECKING:
    from saccade.demo.server import Server


@app.command(epilog="Example: saccade demo runs/resnet18-photos-1a2b3c4d")
def demo(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run, a checkpoint in it, or an ONNX file of `saccade export`."
        ),
    ],
    best: options.Best = False,
    data: options.Data = None,
    port: Annotated[
        int, typer.Option("--port", help="Where on this machine; 0 takes a free one.", min=0)
    ] = 7860,
    json_out: options.Json = False,
) -> None:
    """Show a page that classifies pictures: your files, your camera, validation images.

    Only this machine can open it, and no picture leaves it. Ctrl-C ends it.
    """
    with explained(json_out):
        server = _server(model, best, data, port)
        if json_out:
            print_json({"address": server.address})
        else:
            show(f"{server.address}   (open it in a browser; Ctrl-C ends it)")
        server.serve()
        complain("the page is closed")


def _server(model: Path, best: bool, data: str | None, port: int) -> Server:
    """Load what answers, choose examples and take the port."""
    from saccade.demo import examples, opening
    from saccade.demo.conversation import Conversation
    from saccade.demo.server import Server

    answerer, split = opening.opened(model, best, data)
    shown = examples.of(split, answerer.recipe.exif) if split is not None else []
    return Server(Conversation(answerer, shown), port)
