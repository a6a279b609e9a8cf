"""``saccade train``, and how it starts or joins the other ranks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli.app import app, explained, print_json, show
from saccade.cli.options import Asked, Json, asking
from saccade.system import startup

if TYPE_CHECKING:
    from saccade.config.schema import Config
    from saccade.distributed.world import World
    from saccade.setup.compose import Request


Out = Annotated[
    str,
    typer.Option("--out", help="The run folder. Default: runs/<model>-<data>-<fingerprint>."),
]
Resume = Annotated[
    str,
    typer.Option("--resume", help="auto, never, a run folder or one of its checkpoints."),
]
ResumeChanged = Annotated[
    bool, typer.Option("--resume-changed", help="Continue although settings or images changed.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")
]


@app.command(epilog="Example: saccade train --data photos.zip --holdout 10% --epochs 20")
@asking
def train(
    asked: Asked,
    out: Out = "",
    resume: Resume = "auto",
    resume_changed: ResumeChanged = False,
    dry_run: DryRun = False,
    json_out: Json = False,
) -> None:
    """Train a classifier, or continue exactly where the same command stopped.

    Without arguments: the built-in digits.
    """
    start(
        lambda: asked.request(out, pretrains=False),
        resume,
        resume_changed,
        dry_run=dry_run,
        json_out=json_out,
    )


def start(
    wanted: Callable[[], Request],
    resume: str,
    resume_changed: bool,
    *,
    dry_run: bool = False,
    json_out: bool,
) -> None:
    """Run the verbs ``train``, ``pretrain`` and ``quantize``."""
    begun = startup.begun()
    with explained(json_out):
        # imported here: torch takes seconds, and `--help` and typing errors should not
        from saccade.runs import resuming
        from saccade.setup.agreement import settings_of
        from saccade.setup.compose import compose
        from saccade.setup.compose import dry_run as settled

        request = resuming.based(wanted(), resume)
        if dry_run:
            _print_config(settled(request), json_out)
            return

        from saccade import trainer
        from saccade.log import Log
        from saccade.runs import run_folder

        with ranks(settings_of(request)) as world:
            log = Log(rank=world.rank)
            outcome = trainer.train(
                compose(request),
                out=request.out,
                resume=resume,
                resume_changed=resume_changed,
                log=log,
                world=world,
                begun=begun,
            )

        if not outcome.fresh and (learned := outcome.objective) is not None:
            log.say(f"this run is finished: {outcome.folder} (`--resume never` starts another run)")
            run_folder.conclude(
                outcome.result, outcome.folder, outcome.seconds, log, objective=learned
            )
        if json_out and world.leads:
            print_json({"run": str(outcome.folder), "seconds": outcome.seconds, **outcome.result})


def _print_config(config: Config, json_out: bool) -> None:
    import yaml

    if json_out:
        print_json(config.dump())
        return

    show(yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True), nl=False)


@contextlib.contextmanager
def ranks(config: Config) -> Iterator[World]:
    """Join the other ranks, or start them if several devices are requested and they are not
    running.

    If they are started here, the body of the ``with`` does not run in this process, which ends with
    the exit status of the ranks.
    """
    from saccade import units
    from saccade.distributed.world import Devices, Start, joined

    devices = Devices.parse(config.device)
    if devices.count > 1 and not Start.read().by:
        from saccade.device.choose import pick_device
        from saccade.distributed import launcher

        # a device that is not there is refused here, once, not by every rank
        for place in range(devices.count):
            pick_device(config.device, place)
        raise typer.Exit(launcher.start_ranks(sys.argv[1:], devices.count))

    with joined(units.seconds(config.ranks.start_limit)) as world:
        yield world
