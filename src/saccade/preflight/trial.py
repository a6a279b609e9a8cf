"""The last check before training: a few real steps on a copy of the model.

They show the first loss, the duration of the run, the number of reading threads, and whether
compiling is faster.
"""

from __future__ import annotations

import math
import os
import statistics
from dataclasses import replace

import numpy as np
import torch

from saccade import files, units
from saccade.data.loader import Batch
from saccade.device import compile
from saccade.errors import ConfigError
from saccade.findings import Finding, refuse, tell
from saccade.log import Log
from saccade.preflight import first_loss, rehearsal
from saccade.preflight.speed import (
    TIMED_STEPS,
    Estimate,
    Poll,
    Speed,
    copy_of,
    estimate,
    global_state_kept,
    largest_step,
    load_cells,
    measure,
    timed,
)
from saccade.training.choices import Choice, Choices
from saccade.training.run import Plan, Run
from saccade.training.state import State

RESERVE = 1.5
LEAST_READERS = 2

DISK_MARGIN = 1.2
SHORT_RUN_S = 120.0


def trial(run: Run, log: Log, poll: Poll) -> tuple[list[Finding], Choices]:
    """Run a few cells through a copy of the model and estimate the duration of the run.

    Returns findings, and the choices of the run with those of the trial: reading threads,
    compilation, determinism. The length of a run with ``within`` is not known yet. Stays within 2 %
    of the run's time (at least a second, at most twenty, and one cell whatever it takes). Raises
    DivergedError on an impossible first loss, ConfigError if a cell does not fit into memory,
    DiskError if the checkpoints would not fit on the disk.
    """
    plan = run.plan
    findings = _disk_space(plan, run.state)
    refuse(findings)

    # The trial must leave no trace: the weights that training starts from are those of the seed.
    before = run.state.checksum()
    measured = measure(run, poll)
    if not torch.equal(run.state.checksum(), before):
        raise _shared(plan)

    exact = measured.deterministic
    findings += first_loss.judge(measured.loss, run, poll) + _exactness(exact, plan)
    refuse(findings)
    if rehearsal.is_foreign(plan) or plan.behaviour.optimizer is not None:
        findings += _rehearse(run, poll)
    findings += _changing_itself(run)

    readers, load_s = _fit_readers(run, measured.speed, log, poll)
    speed = replace(measured.speed, load_s=load_s)
    within = plan.config.within
    run_s = units.seconds(within) if within else estimate(plan, speed).total_s
    compiled, speed = _try_compiling(run, speed, run_s)
    choices = replace(plan.choices, deterministic=exact, reader_threads=readers, compile=compiled)

    if not within:
        findings += _describe(plan, estimate(plan, speed), log, threads=run.readers.threads)
    tell((f for f in findings if f.id != "time"), log)
    return findings, choices


def _shared(plan: Plan) -> ConfigError:
    return ConfigError(
        "training a copy of the network changed the network itself",
        where=plan.recipe.model,
        fix=(
            "a copy must not share tensors: check that __deepcopy__ copies every parameter "
            "and buffer"
        ),
        finding="not-copied",
    )


def _rehearse(run: Run, poll: Poll) -> list[Finding]:
    with global_state_kept(run.plan.device), rehearsal.explained(run.plan):
        cells, _ = load_cells(run, largest_step(run.plan), poll)
        return rehearsal.rehearse(run, lambda: copy_of(run), cells[0])


def _try_compiling(run: Run, speed: Speed, run_s: float) -> tuple[Choice[bool], Speed]:
    """Decide once, by a trial on a copy, whether the network is compiled.

    Also returns the resulting speed.
    """
    pays, reason = compile.worth_trying(run.plan.device.type, run_s, len(set(run.plan.view.sides)))
    if pays:
        cell, side = run.plan.config.cell, speed.side
        pixels = torch.zeros((cell, 3, side, side), dtype=torch.uint8).contiguous(
            memory_format=torch.channels_last
        )
        places = np.zeros(cell, dtype=np.int64)
        # zeros will do: how long a step takes does not depend on what is in the images
        blank = Batch(pixels, torch.zeros(cell, dtype=torch.int64), places, places)
        try:
            state, stepper = copy_of(run)
            compile.compile_in_place(state.model)
            timed(stepper, state, blank)
            # the first step compiled, and is not counted
            compiled_s = statistics.median(timed(stepper, state, blank) for _ in range(TIMED_STEPS))
            pays, reason = compile.worth_keeping(speed.first_cell_s, compiled_s)
            if pays:
                gain = compiled_s / speed.first_cell_s
                speed = replace(
                    speed, first_cell_s=compiled_s, next_cell_s=gain * speed.next_cell_s
                )
        # the compiler has many ways to fail, and none of them is the user's fault
        except Exception as error:
            pays, reason = False, f"it failed: {type(error).__name__}"
    return Choice(pays, reason), speed


def _fit_readers(run: Run, speed: Speed, log: Log, poll: Poll) -> tuple[Choice[int], float]:
    """Choose as many reading threads as this training needs, plus half in reserve.

    If all cores are too slow, two threads are tried: threads that read tiny images mostly wait for
    Python's lock, and waiting costs time. Returns the choice and the loader's seconds per image.
    """
    plan, choices = run.plan, run.plan.choices
    if plan.config.data.threads:
        return choices.reader_threads, speed.load_s

    before, load_s = run.readers.threads, speed.load_s
    # threads times seconds to load a cell, over the seconds to compute one
    busy = load_s * before * plan.config.cell / speed.next_cell_s
    wanted = min(
        max(math.ceil(RESERVE * busy), LEAST_READERS),
        max((os.cpu_count() or 1) // plan.world.local_size, 1),
    )
    reason = f"{RESERVE} x the {busy:.2g} that training needs"

    if wanted > LEAST_READERS and busy > before:
        run.readers.resize(LEAST_READERS)
        few_s = load_cells(run, largest_step(plan), poll)[1]
        if few_s < load_s:
            load_s, wanted, reason = few_s, LEAST_READERS, f"faster than {before}"

    if wanted != run.readers.threads:
        run.readers.resize(wanted)
    if wanted != before:
        log.fact("readers", f"{wanted} reading threads: {reason}")
    return Choice(wanted, reason), load_s


def _changing_itself(run: Run) -> list[Finding]:
    """Warn of the user's own functions that change their state when called."""
    now = run.plan.behaviour.identity()
    changed = [name for name, digest in now.items() if digest != run.history.network[name]]
    if not changed:
        return []
    text = (
        f"{' and '.join(changed)} changes its own state when it is called; a resumed run cannot "
        "restore that state"
    )
    fix = "draw random numbers only from the generator argument, and keep nothing between calls"
    return [Finding("changes-itself", "warning", text, where=changed[0], fix=fix)]


def _exactness(choice: Choice[bool], plan: Plan) -> list[Finding]:
    """Warn if two runs of the same command will differ in their last bits."""
    if choice.value:
        return []
    text = (
        "not deterministic: two runs of this command, or a resumed run, will differ in their "
        f"last bits: {choice.reason}"
    )
    fix = "if that matters, use another operation in the network, or train on a CPU"
    return [Finding("not-deterministic", "warning", text, where=plan.recipe.model, fix=fix)]


def _disk_space(plan: Plan, state: State) -> list[Finding]:
    tensors = [t for group in state.tensors().values() for t in group.values()]
    one = sum(t.numel() * t.element_size() for t in tensors)
    # the best one is kept besides, and a new one lies beside the old ones until it is verified
    count = plan.config.checkpoint.keep + 2
    needed, free = DISK_MARGIN * count * one, files.free_bytes(plan.folder.absolute())
    if free >= needed:
        return []
    return [
        Finding(
            "disk-space",
            "error",
            f"{count} checkpoints of {units.human_size(one)} need {units.human_size(needed)}, but "
            f"only {units.human_size(free)} are free",
            where=str(plan.folder.absolute()),
            fix="free some space, choose another disk with --out, or keep fewer checkpoints "
            "with --set checkpoint.keep=1",
            status=74,
        )
    ]


def _describe(plan: Plan, spent: Estimate, log: Log, *, threads: int) -> list[Finding]:
    """Print the estimate; it is a finding too, so that `check --json` has it."""
    load, compute = (plan.global_batch / max(t, 1e-9) for t in (spent.load_s, spent.compute_s))
    most, aside = (
        ("at most", ", without its processes") if plan.config.data.processes else ("about", "")
    )
    text = (
        f"{most} {units.human_time(spent.total_s)}: {plan.total_steps:,} steps x "
        f"{_short(spent.step_s)} ({spent.limit} "
        f"limits; loader alone {load:,.0f} img/s{aside}, training {compute:,.0f} img/s) + "
        "evaluations"
    )
    if plan.holds_features:
        text = (
            f"about {units.human_time(spent.total_s)}: features are computed once, then "
            f"{plan.total_steps:,} steps train only the head"
        )

    log.fact("time", text)
    findings = [Finding("time", "note", text)]

    if spent.limit == "loading" and spent.total_s > SHORT_RUN_S and not aside:
        findings.append(
            Finding(
                "slow-loader",
                "note",
                f"reading and decoding ({load:,.0f} img/s) is slower than training ({compute:,.0f} "
                f"img/s) with {threads} threads",
                where="data.threads",
                fix="store smaller images (saccade pack), or use more processor cores",
            )
        )
    return findings


def _short(duration_s: float) -> str:
    return f"{1000 * duration_s:.0f} ms" if duration_s < 1 else f"{duration_s:.2f} s"
