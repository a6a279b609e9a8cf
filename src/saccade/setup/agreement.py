"""Checks before several ranks train together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from saccade import units
from saccade._version import __version__
from saccade.config import schema as configuration
from saccade.config.cells import LARGEST_CELL, divisors
from saccade.config.schema import Config, RanksSection
from saccade.device import choose, determinism
from saccade.distributed.world import Devices, Start, World, joined
from saccade.errors import ConfigError, SaccadeError
from saccade.setup import choosing
from saccade.setup.compose import Request, preview
from saccade.training.checkpoint import Saved
from saccade.training.choices import Choices
from saccade.training.datasets import Data
from saccade.training.run import NAMED, Run
from saccade.training.state import State


def settings_of(request: Request) -> Config:
    """Return the settings known before any data is opened; raises ConfigError.

    A rank with wrong settings joins the others first, so that they end with its error instead of
    waiting.
    """
    try:
        return preview(request)
    except SaccadeError:
        if Start.read().size > 1:
            with joined(units.seconds(RanksSection().start_limit)):
                raise
        raise


def check_number(config: Config, world: World) -> None:
    """Raise ConfigError when there are more or fewer ranks than asked for, or when they cannot
    share the cells.
    """
    count, cells = Devices.parse(config.device).count, config.batch.global_ // config.cell
    if count and count != world.local_size:
        raise ConfigError(
            f"--devices {config.device} asks for {count} ranks per machine, but "
            f"{world.local_size} were started here",
            where="device",
            fix=(
                "use either --devices with `saccade train`, or torchrun or srun, or give both "
                "the same number; start a Python script with torchrun or srun"
            ),
        )

    # BatchNorm statistics and mixing belong to a cell, so cells are handed out whole
    if cells % world.size:
        repeats, batch = config.augment.repeats, config.batch.global_
        # the advice has to work: a cell must divide the batch and hold whole groups of repeats
        fitting = [d for d in divisors(batch) if 1 < d <= LARGEST_CELL and d % repeats == 0]
        smaller = max((d for d in fitting if (batch // d) % world.size == 0), default=0)
        cell = (
            f", or --set batch.cell={smaller} (this changes the results: batch statistics and "
            "mixing belong to a cell)"
        )

        numbers = ", ".join(map(str, divisors(cells)))
        raise ConfigError(
            f"{units.human_count(cells, 'cell')} of {units.human_count(config.cell, 'image')} "
            f"cannot be shared equally by {world.size} ranks",
            where="batch.cell",
            fix=f"use {numbers} rank{'s' * (cells > 1)}{cell if smaller else ''}",
        )


def check_same(
    config: Config, data: Data, world: World, network: Mapping[str, str] = NAMED
) -> None:
    """Raise ConfigError on all ranks when one of them has other settings, images or versions than
    the first.

    The user's own network must be the same on all ranks, except its initial values, which come from
    the first rank.
    """
    # settings of the kind "run" change no number, and may differ between ranks
    settings = {
        n: v
        for n, v in configuration.flatten(config.dump()).items()
        if configuration.kinds()[n] != "run"
    }

    facts = {
        "images": data.fingerprint,
        "saccade": __version__,
        "torch": torch.__version__,
        **settings,
    }
    facts |= {
        f"the network's {part}": digest[:12] for part, digest in network.items() if part != "values"
    }

    # the first rank is the measure, being the one that people look at
    first, *others = world.exchange(facts)
    for rank, theirs in enumerate(others, 1):
        wrong = [
            f"{n}: {first.get(n)} -> {theirs.get(n)}"
            for n in first | theirs
            if first.get(n) != theirs.get(n)
        ]
        if wrong:
            raise ConfigError(
                f"rank {rank} differs from rank 0: {'; '.join(wrong)}",
                where="the ranks",
                fix="start all ranks with the same command on the same images",
                finding="ranks-differ",
            )


def decide(config: Config, saved: Saved | None, world: World) -> Choices:
    """Share the first rank's automatic choices with all ranks, and connect the ranks on the chosen
    device.
    """
    decided = world.broadcast(lambda: choosing.decide(config, saved, world.local_rank).to_json())
    choices = Choices.parse(decided)

    if world.size > 1:
        # the kind was settled by the first rank; which GPU of it is each rank's own
        kind = choices.device.value
        choose.pick_device(config.device if kind == "cuda" else kind, world.local_rank)
        place = torch.device(kind)
        if kind == "cuda":
            place = torch.device("cuda", torch.cuda.current_device())
        world.connect(place, units.seconds(config.ranks.step_limit))
    return choices


def copy_state(state: State, world: World) -> None:
    """Give every rank the tensors of the first one, bit for bit."""
    if world.size > 1:
        world.wait()  # building and restoring do not count as a step
        world.copy_from_first_([t for group in state.tensors().values() for t in group.values()])
        world.copy_from_first_(list(state.model.buffers()))  # those that are not saved, too


def share_trial(run: Run, choices: Choices) -> Run:
    """Share the choices of the first rank's trial: the number of reading threads, and what works
    and is fast on its device.

    ``choices`` are those after its trial; the run is returned with them.
    """
    plan = run.plan
    # only the first rank has tried anything: the others learn the result from it
    choices = Choices.parse(plan.world.broadcast(choices.to_json))
    if run.readers.threads != choices.reader_threads.value:
        run.readers.resize(choices.reader_threads.value)

    # the trial may have found an operation without an exact kernel
    if plan.device.type == "cuda":
        determinism.switch_on(strict=choices.deterministic.value)
    return replace(run, plan=replace(plan, choices=choices))
