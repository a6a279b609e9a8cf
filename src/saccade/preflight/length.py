"""How long a run may be to end within a given time: ``--within 3m``.

It is measured once, before the first step, and turned into a number of steps. The schedule is made
for that number, and a resumed run keeps it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from saccade import files, units
from saccade.distributed.world import ALONE
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.passes import CELL
from saccade.findings import Finding, refuse
from saccade.preflight.speed import Poll, Speed, copy_of, estimate, padded
from saccade.training import checkpoint, judging
from saccade.training.choices import Choice
from saccade.training.run import Plan, Run
from saccade.training.state import State

MARGIN = 0.05
"""Share of the time that is left free: the machine may become slower."""

END_S = 3.0
"""Seconds for what comes after the last evaluation: the digest and the page of the run.

An estimate; two runs on digits took about two: docs/LOG.md, 2026-11-29.
"""

LEAST_S = 10.0
"""The shortest time that is advised."""

MOST_STEPS = 99_999_999
"""Names of checkpoints have eight digits."""


def measure_rest(run: Run, speed: Speed, poll: Poll) -> Speed:
    """Return a speed with what an evaluation and a checkpoint take besides, measured on a copy."""
    state, _ = copy_of(run)

    def save() -> None:
        with files.scratch_folder() as scratch:
            checkpoint.save(Path(scratch) / "checkpoints", state, {})

    return replace(speed, judge_s=_judging_s(run, state, poll), save_s=_seconds(save))


def _judging_s(run: Run, state: State, poll: Poll) -> float:
    """Return the seconds that an image of an evaluation takes, the last cell being filled up."""
    # the other ranks take no part in the trial
    alone = replace(run, plan=replace(run.plan, world=ALONE))
    plan, split = run.plan, run.plan.data.chosen_on
    if not plan.objective.answers:
        look_s = _seconds(lambda: judging.look(alone, state.model, lambda _done: poll()))
        return look_s / padded(plan.looked_at.bank)

    places = np.unique(np.linspace(0, len(split) - 1, CELL).round().astype(np.int64))
    some = split.subset(places, split.name)
    classifier = Classifier(state.model, replace(plan.recipe, eval_views=1))

    def judge() -> None:
        judging.score(alone, classifier, some, lambda _done: poll())

    # the first evaluation opens files and warms up kernels, which later ones find done
    cold_s = _seconds(judge)
    return (min(cold_s, _seconds(judge)) if cold_s < 1 else cold_s) / CELL


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def fit(plan: Plan, speed: Speed, spent_s: float) -> tuple[Choice[str], list[Finding]]:
    """Return the longest duration that ends in time, in samples, and a doubt about a short one.

    ``spent_s`` are the seconds since the run was started. Raises ConfigError where not even a step
    fits.
    """
    within = plan.config.within
    left_s = (1 - MARGIN) * units.seconds(within) - spent_s - END_S
    steps = _most_steps(plan, speed, left_s)
    epoch = -(-plan.epoch_size // plan.global_batch)
    short = [_too_short(plan, speed, spent_s, steps)] if steps < epoch else []
    refuse(short)

    cost = estimate(of_length(plan, steps), speed)
    reason = (
        f"fits within {within}: {units.human_time(spent_s)} for the start, "
        f"{units.human_time(cost.total_s)} for {steps:,} steps and their evaluations, "
        f"{units.human_time(END_S)} for the end"
    )
    return Choice(f"{steps * plan.global_batch}sample", reason), short


def of_length(plan: Plan, steps: int) -> Plan:
    """Return a plan of so many steps."""
    return replace(plan, total_steps=steps, view=replace(plan.view, total_steps=steps))


def _most_steps(plan: Plan, speed: Speed, left_s: float) -> int:
    """Return the largest number of steps that takes no longer than ``left_s``, 0 where none is."""

    def fits(steps: int) -> bool:
        return estimate(of_length(plan, steps), speed).total_s <= left_s

    # doubled until it is too long, then halved between what fits and what does not
    low, high = 0, 1
    while high < MOST_STEPS and fits(high):
        low, high = high, min(2 * high, MOST_STEPS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _too_short(plan: Plan, speed: Speed, spent_s: float, steps: int) -> Finding:
    """Say that not one epoch fits: an error where nothing does, else a warning."""
    epoch = -(-plan.epoch_size // plan.global_batch)
    whole_s = estimate(of_length(plan, epoch), speed).total_s + spent_s + END_S
    # what is advised has to work, on a machine that is not always equally fast
    advised = _round_time(max(1.25 * whole_s / (1 - MARGIN), LEAST_S))
    what = f"only {steps / epoch:.2g} epochs fit" if steps else "not a single step fits"
    return Finding(
        "within-too-short",
        "warning" if steps else "error",
        f"{what} within {plan.config.within}: the start took {units.human_time(spent_s)}, and with "
        f"one epoch, its evaluation and the end it takes {units.human_time(whole_s)}",
        where="--within",
        fix=f"--within {advised} has room for an epoch; smaller images (--image-size) or a smaller "
        "network take less",
        status=78,
    )


def _round_time(duration_s: float) -> str:
    """Write a time as a setting, rounded up."""
    if duration_s <= 90:
        return f"{math.ceil(duration_s / 5) * 5}s"
    return f"{math.ceil(duration_s / 60)}m" if duration_s <= 5400 else f"{duration_s / 3600:.1f}h"


def describe(plan: Plan, choice: Choice[str]) -> str:
    """Return the fitted length of a plan in words."""
    epochs = plan.total_steps * plan.global_batch / plan.epoch_size
    return f"{plan.total_steps:,} steps = {epochs:.3g} epochs: {choice.reason}"
