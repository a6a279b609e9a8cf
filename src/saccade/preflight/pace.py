"""The time of the parts of a run, measured before its first step on all ranks together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from saccade import units
from saccade.data.loader import View, batches
from saccade.data.sources import Split
from saccade.distributed.all_reduce import GradientSum
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.passes import CELL, cells_of
from saccade.models.parts.embedding import head_name
from saccade.preflight.speed import Poll, copy_of, global_state_kept, part_starts
from saccade.setup import build, sizes
from saccade.training import checkpoint, judging
from saccade.training.held_features import HeldFeatures
from saccade.training.holding import obstacle
from saccade.training.reader_processes import feed
from saccade.training.run import Run
from saccade.training.state import State
from saccade.training.step import StepRunner

SHARE = 0.03
"""Share of the time of a run that steps of one image size are measured for, ..."""

LEAST_S, MOST_S = 0.5, 10.0
"""... at least and at most so many seconds, ..."""

MOST_STEPS = 100
"""... but no more steps than this, and at least one."""

WARMING_S = 1.0
"""A step that takes longer than this, in seconds, is measured once: its first call costs little
extra."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The time of the parts of a run, in seconds.

    ``steps_s`` has the time of a step by the side of its images, in pixels; ``once_s`` is the extra
    time of the first step and of everything before it; ``judge_s`` is an evaluation during
    training, ``save_s`` a checkpoint, ``end_s`` everything after the last step.
    """

    steps_s: Mapping[int, float]
    once_s: float
    judge_s: float
    save_s: float
    end_s: float

    def step_s(self, side: int) -> float:
        """Return the seconds of a step with images of a side, interpolated by area."""
        areas, seconds = zip(
            *sorted((s * s, each) for s, each in self.steps_s.items()), strict=True
        )
        return float(np.interp(side * side, areas, seconds))


def measure(run: Run, poll: Poll, look_s: float = 0.0) -> Pace:
    """Take real steps on a copy, evaluate some images and save the copy; all ranks take part.

    Small and large images are both measured, because small ones cost more than their area suggests,
    and ranks wait for each other. ``look_s`` is the time of a check of an encoder without labels;
    it is measured here if unknown. ``poll`` is called by all ranks.
    """
    plan = run.plan
    with global_state_kept(plan.device):
        state, stepper = _copy_as_it_trains(run)
        run = replace(run, state=state, decoded={})
        holds = plan.config.finetune.holds and not plan.world.broadcast(lambda: obstacle(run))
        if holds:
            run = replace(run, features=_no_features(run))
        steps_s, once_s = _steps(run, stepper, poll)
        judge_s, final_s, ahead_s = _judging(run, poll, look_s)

    # disks take now more and now less; the other ranks wait for the first one
    save_s = plan.world.broadcast(lambda: _saving_s(run))
    # the weights are written, and read again, besides the last checkpoint
    return Pace(steps_s, once_s + ahead_s, judge_s, save_s=save_s, end_s=final_s + 2 * save_s)


def _copy_as_it_trains(run: Run) -> tuple[State, StepRunner]:
    """Return a copy of the state, and its stepper together with the other ranks."""
    state, stepper = copy_of(run)
    world = run.plan.world
    build.join(state.model, run.plan)
    summing = GradientSum(state.model, world) if world.size > 1 else None
    return state, replace(stepper, world=world, gradients=summing)


def _no_features(run: Run) -> HeldFeatures:
    """Return zeros instead of features, and let only the head compute: it takes the same time."""
    plan, model = run.plan, run.state.model
    name = head_name(model)
    head = model.get_submodule(name)
    run.state.compute_with(head)
    assert isinstance(head, nn.Linear)
    train, judged, width = plan.data.train, plan.data.chosen_on, head.in_features
    return HeldFeatures(
        plan.view,
        name,
        views=torch.zeros(plan.config.finetune.views, len(train), width),
        split=judged,
        judged=torch.zeros(len(judged), width),
    )


def _steps(run: Run, stepper: StepRunner, poll: Poll) -> tuple[dict[int, float], float]:
    """Return the seconds of a step with the largest and with the smallest images, by their side,
    and the extra time of the first step.
    """
    plan, parts = run.plan, sorted(part_starts(run.plan), key=run.plan.view.size_at)
    firsts = {plan.view.size_at(step): step for step in (parts[-1], parts[0])}
    room = max(plan.total_steps // len(parts) - 1, 1)
    wanted_s = min(max(SHARE * units.seconds(plan.config.within), LEAST_S), MOST_S)
    steps_s, once_s = {}, 0.0

    begun = time.perf_counter()
    source = nullcontext(run.features) if run.features else feed(plan, run.readers, 0)
    with source as view:
        for side, first in firsts.items():
            # the first one warms up kernels, and is not counted
            _take(run, stepper, view, first=first, count=1, poll=poll)
            warm_s = time.perf_counter() - begun
            asked = min(max(int(wanted_s / warm_s), 1), room, MOST_STEPS)
            count = plan.world.broadcast(lambda asked=asked: asked)  # type: ignore[misc]

            begun = time.perf_counter()
            _take(run, stepper, view, first=first + 1, count=count, poll=poll)
            steps_s[side] = (time.perf_counter() - begun) / count
            once_s += max(warm_s - steps_s[side], 0.0)
            begun = time.perf_counter()
    return steps_s, once_s


def _take(run: Run, stepper: StepRunner, view: View, *, first: int, count: int, poll: Poll) -> None:
    """Take some steps like the loop of a run."""
    plan = run.plan
    loss = None
    for batch in batches(
        view, run.readers, plan.global_batch, first_step=first, last_step=first + count
    ):
        loss = stepper.step(run.state, batch)
        poll()
    # only now: a device works on while nobody asks it
    assert loss is not None
    float(loss)
    stepper.guard.settle()


def _judging(run: Run, poll: Poll, look_s: float) -> tuple[float, float, float]:
    """Return the seconds of an evaluation during training, and of the final one; and the extra time
    of the first one.
    """
    plan, world = run.plan, run.plan.world
    own = plan.recipe.eval_side
    sides = sum(max(side / own, 1) ** 2 for side in sizes.sides(run))
    if not plan.objective.answers:
        look_s = look_s or _seconds(
            lambda: judging.look(run, run.state.final_model, lambda _done: poll())
        )
        return look_s, look_s, 0.0

    split = plan.data.chosen_on
    first_s, later_s = _cell_s(run, split, poll)
    final_s = first_s * cells_of(plan.data.val, world) * plan.recipe.eval_views * sides
    if run.features is None:
        count = cells_of(split, world)
        return later_s * count, final_s, (first_s - later_s) * count

    features = run.features
    head_s = _seconds(lambda: judging.head_alone(run, features))
    count = plan.config.finetune.views * cells_of(plan.data.train, world) + cells_of(split, world)
    return head_s, final_s, first_s * count


def _cell_s(run: Run, split: Split, poll: Poll) -> tuple[float, float]:
    """Return the seconds of a cell of an evaluation on each rank, for the first pass over its
    images and for later ones.
    """
    world = run.plan.world
    classifier = Classifier(run.state.final_model, replace(run.plan.recipe, eval_views=1))
    spread = np.linspace(0, len(split) - 1, CELL * world.size).round().astype(np.int64)
    # other images than those that warm up kernels: small ones are kept once they are decoded
    warming, some = (
        split.subset(np.unique((spread + shift) % len(split)), split.name) for shift in (0, 1)
    )

    def judge(part: Split) -> float:
        return _seconds(lambda: judging.score(run, classifier, part, lambda _done: poll()))

    warming_s = judge(warming)
    if world.broadcast(lambda: warming_s) > WARMING_S:
        return warming_s, warming_s
    first_s = judge(some)
    return first_s, min(judge(some), first_s)


def _saving_s(run: Run) -> float:
    """Return the seconds for which a checkpoint keeps the steps waiting: those of its copy."""

    def copy() -> None:
        checkpoint.packed(run.state, {})

    first_s = _seconds(copy)
    return first_s if first_s > WARMING_S else (first_s + _seconds(copy) + _seconds(copy)) / 3


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
