"""``saccade verify-resume``: the proof that a set-up resumes exactly."""

from __future__ import annotations

from typing import Annotated

import typer

from saccade.cli.app import app, explained, print_json, require_arguments_of, show
from saccade.cli.options import Json


@app.command(
    name="verify-resume",
    epilog="Example: saccade verify-resume --data photos.zip --holdout 10%",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def verify_resume(
    context: typer.Context,
    kills: Annotated[
        int, typer.Option("--kills", min=1, help="How many times to kill the run (kill -9).")
    ] = 3,
    steps: Annotated[
        int, typer.Option("--steps", min=10, help="Length of the run in optimiser steps.")
    ] = 60,
    json_out: Json = False,
) -> None:
    """Kill and resume a short run of your own set-up (arguments as for train).

    Compare all weights bit by bit.
    """
    with explained(json_out):
        from saccade.log import Log
        from saccade.preflight.verify_resume import prove_resume

        require_arguments_of("train", context.args)
        proof = prove_resume(list(context.args), kills=kills, steps=steps, log=Log())
        if json_out:
            print_json(proof)
        else:
            show(
                f"identical: {proof['kills']} kills, resumed at steps {proof['resumed_at']}, "
                f"digest {proof['digest'][:16]}"
            )
