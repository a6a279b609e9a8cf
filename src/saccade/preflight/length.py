"""Choosing the length of a run that ends within a given time: ``--within 3m``.

It is measured once, before the first step, and turned into a number of steps. The schedule is made
for that number, and a resumed run keeps it.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from saccade import units
from saccade.findings import Finding, refuse
from saccade.log import Log
from saccade.preflight.pace import Pace, measure
from saccade.preflight.speed import Poll, evaluations
from saccade.setup import agreement, build
from saccade.training.choices import Choice
from saccade.training.run import Plan, Run
from saccade.training.saving import Cadence

MARGIN = 0.05
"""Fraction of the time kept in reserve, because the machine may become slower."""

END_S = 3.0
"""Seconds for what comes after the last evaluation: the digest and the page of the run.

An estimate; two runs on digits took about two: docs/LOG.md, 2026-11-29.
"""

LEAST_S = 10.0
"""The shortest time that the advice names."""

MOST_STEPS = 99_999_999
"""Names of checkpoints have eight digits."""


def settle(
    run: Run, log: Log, poll: Poll, *, begun: float, look_s: float = 0.0
) -> tuple[Run, list[Finding]]:
    """Return a run before its first step with a length that ends in time, and findings.

    All ranks take part, the first one decides. The time counts from ``begun``, in seconds of the
    monotonic clock. ``look_s`` and ``poll`` are as in `pace.measure`.
    """
    pace = measure(run, poll, look_s)
    choices = run.plan.choices
    short: list[Finding] = []
    if run.plan.world.leads:
        fitted, short = fit(run.plan, pace, time.monotonic() - begun)
        choices = replace(choices, length=fitted)
    run = build.fitted(agreement.share_trial(run, choices))

    plan, length = run.plan, run.plan.choices.length
    epochs = plan.total_steps * plan.global_batch / plan.epoch_size
    text = f"{plan.total_steps:,} steps = {epochs:.3g} epochs: {length.reason}"
    log.fact("length", text)
    return run, [*short, Finding("time", "note", text)]


def fit(plan: Plan, pace: Pace, spent_s: float) -> tuple[Choice[str], list[Finding]]:
    """Return the longest duration that ends in time, in samples, and a warning about a short one.

    ``spent_s`` are the seconds since the start. Raises ConfigError if not even one step fits.
    """
    within = plan.config.within
    left_s = (1 - MARGIN) * units.seconds(within) - spent_s - END_S
    steps = _most_steps(plan, pace, left_s)
    epoch = -(-plan.epoch_size // plan.global_batch)
    short = [_too_short(plan, pace, spent_s, steps)] if steps < epoch else []
    refuse(short)

    training_s = total_s(of_length(plan, steps), pace) - pace.end_s
    reason = (
        f"fits within {within}: {units.human_time(spent_s)} for the start, "
        f"{units.human_time(training_s)} for steps, their evaluations and checkpoints, "
        f"{units.human_time(pace.end_s + END_S)} for the end"
    )
    return Choice(f"{steps * plan.global_batch}sample", reason), short


def total_s(plan: Plan, pace: Pace) -> float:
    """Return how long a run takes from before its first step to its final figure, in seconds."""
    steps, parts = plan.total_steps, len(plan.view.sides)
    # of each size of images the whole steps that begin in its part of the run
    ends = [-(-steps * part // parts) for part in range(parts + 1)]
    training_s = sum(
        (end - start) * pace.step_s(side)
        for side, start, end in zip(plan.view.sides, ends, ends[1:], strict=False)
    )

    # each evaluation may be the best so far, which is saved at once
    judged = evaluations(plan)
    before_saves_s = pace.once_s + training_s + judged * pace.judge_s
    cadence = Cadence(plan.config.checkpoint.every, plan.epoch_size, plan.global_batch, steps)
    epoch = plan.epoch_size / plan.global_batch
    saves = judged + cadence.most(steps, before_saves_s, judged_every=epoch)
    return before_saves_s + saves * pace.save_s + pace.end_s


def of_length(plan: Plan, steps: int) -> Plan:
    """Return a plan with this many steps."""
    return replace(plan, total_steps=steps, view=replace(plan.view, total_steps=steps))


def _most_steps(plan: Plan, pace: Pace, left_s: float) -> int:
    """Return the largest number of steps that takes at most ``left_s``, 0 if there is none."""

    def fits(steps: int) -> bool:
        return total_s(of_length(plan, steps), pace) <= left_s

    # doubled until it is too long, then halved between what fits and what does not
    low, high = 0, 1
    while high < MOST_STEPS and fits(high):
        low, high = high, min(2 * high, MOST_STEPS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _too_short(plan: Plan, pace: Pace, spent_s: float, steps: int) -> Finding:
    """Say that not even one epoch fits: an error if no step fits, else a warning."""
    epoch = -(-plan.epoch_size // plan.global_batch)
    whole_s = total_s(of_length(plan, epoch), pace) + spent_s + END_S
    # what is advised has to work, on a machine that is not always equally fast
    advised = _round_time(max(1.25 * whole_s / (1 - MARGIN), LEAST_S))
    what = f"only {steps / epoch:.2g} epochs fit" if steps else "not even one step fits"
    return Finding(
        "within-too-short",
        "warning" if steps else "error",
        f"{what} within {plan.config.within}: the start took {units.human_time(spent_s)}, and "
        f"one epoch with its evaluation and the end of the run needs {units.human_time(whole_s)} "
        "in total",
        where="--within",
        fix=f"use --within {advised} for one epoch, or smaller images (--image-size) or a "
        "smaller network",
        status=78,
    )


def _round_time(duration_s: float) -> str:
    """Write a time as a setting, rounded up."""
    if duration_s <= 90:
        return f"{math.ceil(duration_s / 5) * 5}s"
    return f"{math.ceil(duration_s / 60)}m" if duration_s <= 5400 else f"{duration_s / 3600:.1f}h"


def overran(within: str, seconds: float) -> str:
    """Say how much longer a run took than requested; empty if it did not."""
    asked_s = units.seconds(within) if within else math.inf
    if seconds <= asked_s:
        return ""
    return (
        f"the run took {units.human_time(seconds - asked_s)} longer than --within {within}: the "
        "machine became slower after the length was chosen"
    )
