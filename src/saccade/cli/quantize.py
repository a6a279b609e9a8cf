"""``saccade quantize``: training of a finished run in simulated 8-bit arithmetic."""

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
    str, typer.Option("--epochs", help="Length: 2, 2ep or 500step. Ranges freeze half way.")
]
Rate = Annotated[float, typer.Option("--lr", help="Effective learning rate, never scaled.")]


@app.command(epilog="Example: saccade quantize runs/resnet18-photos-1a2b3c4d --epochs 2")
def quantize(
    run: options.Run,
    scheme: Scheme = "int8",
    epochs: Epochs = "2",
    lr: Rate = 1e-4,
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
    """Continue the training of a run in simulated 8 bits; `export` then writes it as int8.

    It is a run like any other, with the images and the augmentation of the first run. The same
    command continues it after a stop.
    """

    def wanted() -> Request:
        from saccade.runs import quantizing
        from saccade.setup.flags import flag_settings

        flags = flag_settings(epochs=epochs, lr=lr, seed=seed, devices=devices, max_time=max_time)
        return quantizing.request(run, scheme, flags, sets or (), best=best, out=out)

    start(wanted, resume, resume_changed, json_out=json_out)
