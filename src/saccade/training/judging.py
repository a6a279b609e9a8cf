"""Evaluating a run: after its epochs, and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from saccade.data.sources import Split
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.evaluator import evaluate
from saccade.evaluation.representation import held_out_loss, qualities
from saccade.log import Bar
from saccade.objectives.objective import Result
from saccade.training.held_features import HeldFeatures
from saccade.training.meter import Meter
from saccade.training.run import Run
from saccade.training.stop import Stop


def evaluate_if_due(run: Run, meter: Meter, stop: Stop, bar: Bar) -> bool:
    """Evaluate if an epoch has just ended, and say whether this is the best evaluation so far.

    After a resume, an interrupted evaluation is repeated. During training, one view of each image
    is used; `data.eval_views` is for the final evaluation.
    """
    plan, state, split = run.plan, run.state, run.plan.data.chosen_on
    is_done = any(e.step == state.step for e in state.evaluations)
    if is_done or not plan.evaluation_is_due(state.step):
        return False

    # the last step may have been a bad one: nothing is judged before that is known
    run.stepper.guard.settle()

    def poll(done: int) -> None:
        # a look at an encoder takes other images, too: of it no total is said
        total = f"/{len(split)}" if plan.objective.answers else ""
        bar.update(state.step, f"evaluating {done}{total}")
        stop.check()

    begun = time.perf_counter()
    if run.features:
        result = head_alone(run, run.features)
    elif plan.objective.answers:
        classifier = Classifier(state.final_model, replace(plan.recipe, eval_views=1))
        result = score(run, classifier, split, poll)
    else:
        result = look(run, state.final_model, poll)

    # appended after it was measured, so that a signal in between leaves no half evaluation
    entry = meter.evaluation(result, split.name, 1, time.perf_counter() - begun)
    state.evaluations.append(entry)
    return state.best is entry


def head_alone(run: Run, features: HeldFeatures) -> Result:
    """Evaluate the head on cached features; all ranks get the figures of the first."""
    plan, world = run.plan, run.plan.world
    if not world.leads:
        return Result(world.broadcast(dict), torch.empty(0), torch.empty(0))
    result = features.judge(
        run.state.final_model, plan.objective, precision=plan.precision, device=plan.device
    )
    world.broadcast(result.to_json)
    return result


def score(run: Run, classifier: Classifier, split: Split, poll: Callable[[int], None]) -> Result:
    """Evaluate a classifier on a split as this run computes; all ranks share the images."""
    plan = run.plan
    return evaluate(
        classifier,
        split,
        run.readers,
        plan.precision,
        device=plan.device,
        poll=poll,
        world=plan.world,
        decoded=run.held(split),
    )


def look(run: Run, model: nn.Module, poll: Callable[[int], None]) -> Result:
    """Return the figures of a learner without labels; all ranks share the images."""
    plan, means = run.plan, run.means()
    figures = held_out_loss(model, plan.data.chosen_on, means, poll)
    figures |= qualities(model, plan.looked_at, means, poll)
    nothing = torch.empty(0)
    return Result(figures, nothing, nothing)
