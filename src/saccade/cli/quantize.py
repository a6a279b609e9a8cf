"""``saccade quantize``: training that lets a finished run compute in 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app
from saccade.cli.train import Out, Resume, ResumeChanged, start

if TYPE_CHECKING:
    from saccade.setup.compose import Request

Scheme = Annotated[
    str,
    typer.Option(
        "--scheme",
        help="int8 (a scale for each channel), or power-of-two (one for each layer, for devices "
        "that only shift).",
    ),
]
Epochs = Annotated[
    str, typer.Option("--epochs", help="Length: 2, 2ep or 500step. Ranges rest after half of it.")
]
Rate = Annotated[float, typer.Option("--lr", help="Effective learning rate, never scaled.")]


@app.command(epilog="Example: saccade quantize runs/resnet18-photos-1a2b3c4d --epochs 2")
def quantize(
    run: options.Run,
    scheme: Scheme = "int8",
    epochs: Epochs = "2",
    lr: Rate = 1e-5,
    seed: options.Seed = None,
    devices: options.Devices = None,
    max_time: options.MaxTime = None,
    best: options.Best = False,
    sets: options.Sets = None,
    out: Out = "",
    resume: Resume = "auto",
    resume_changed: ResumeChanged = False,
    json_out: options.Json = False,
) -> None:
    """Train a finished run on, computing as in 8 bits; `export` then writes it as int8.

    It is a run like any other, on the images and with the augmentation of the one that it begins
    with. The same command goes on where it stopped.
    """

    def wanted() -> Request:
        from saccade.runs import quantizing
        from saccade.setup.flags import flag_settings

        flags = flag_settings(epochs=epochs, lr=lr, seed=seed, devices=devices, max_time=max_time)
        return quantizing.request(run, scheme, flags, sets or (), best=best, out=out)

    start(wanted, resume, resume_changed, json_out=json_out)
