"""How fast a run loads and computes, measured on a copy of its model, and how long it will take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from saccade import units
from saccade.data.augment.mix import normalise
from saccade.data.loader import Batch, batches
from saccade.data.order import EVERYTHING
from saccade.device import determinism
from saccade.device.loss_scale import LossScale
from saccade.device.precision import autocast
from saccade.device.step_timer import Clock
from saccade.distributed.world import ALONE
from saccade.evaluation.representation import cell_loss
from saccade.models.parts.duplicate import duplicate
from saccade.objectives.objective import heads
from saccade.optim.ema import Ema
from saccade.preflight import rehearsal
from saccade.preflight.out_of_memory import is_out_of_memory, smaller_cells, too_large
from saccade.training.choices import Choice
from saccade.training.guard import Guard
from saccade.training.run import Plan, Run
from saccade.training.state import State
from saccade.training.step import StepRunner

BUDGET_SHARE = 0.02
BUDGET_LEAST_S, BUDGET_MOST_S = 1.0, 20.0
LOADER_S = 1.0
LOADED_CELLS = 3
TIMED_STEPS = 5
HEAD_STEP_S = 2e-3
"""A step of a head alone with its share of the evaluations (docs/LOG.md, 2026-11-29)."""

FORWARD_SHARE = 1 / 3
"""Forward over forward and backward.

*Source:* Kaplan et al. 2020, section 2.1: backward costs twice as much.
"""
Poll = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for loading one image, for the first cell of a step, and for each further cell.

    ``side`` is the side in pixels of the images that were used, the largest of the run.
    """

    load_s: float
    first_cell_s: float
    next_cell_s: float
    side: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run will take, in seconds: all of it, a step, and loading and computing alone."""

    total_s: float
    step_s: float
    load_s: float
    compute_s: float

    @property
    def limit(self) -> str:
        """The slower one of the two: loading or training."""
        return "loading" if self.load_s > self.compute_s else "compute"


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of the first steps of a run: the first loss, in nats per image, its speed, and
    whether all operations are deterministic.
    """

    loss: float
    speed: Speed
    deterministic: Choice[bool]


def measure(run: Run, poll: Poll) -> Measured:
    """Take the first steps of a run on a copy of it.

    Raises ConfigError when a cell does not fit into memory.
    """
    with global_state_kept(run.plan.device):
        cells, load_s = load_cells(run, largest_step(run.plan), poll)
        with rehearsal.explained(run.plan):
            return _compute(run, cells, load_s, poll)


def estimate(plan: Plan, speed: Speed) -> Estimate:
    """Return how long the run will take, evaluations included.

    On a CPU loading and computing share the cores, so their times add up; elsewhere they overlap.
    """
    if plan.holds_features:
        return _with_held_features(plan, speed)
    batch = plan.global_batch // plan.world.size
    cells = batch // plan.config.cell
    full = speed.first_cell_s + (cells - 1) * speed.next_cell_s

    # Computing grows with the area of the images, which progressive resizing changes in parts.
    parts = part_starts(plan)
    relative = sum((plan.view.size_at(step) / speed.side) ** 2 for step in parts) / len(parts)
    compute, load = full * relative, speed.load_s * batch
    shared = plan.device.type == "cpu"
    step = compute + load if shared else max(compute, load)

    on_the_way, at_the_end = plan.data.chosen_on, plan.data.val
    if not plan.objective.answers:
        on_the_way = at_the_end = plan.looked_at.bank
    judged = evaluations(plan) * len(on_the_way) + plan.recipe.eval_views * len(at_the_end)
    forward = (
        FORWARD_SHARE
        * speed.next_cell_s
        / plan.config.cell
        * (plan.recipe.eval_side / speed.side) ** 2
    )
    each = forward + speed.load_s if shared else max(forward, speed.load_s)
    total_s = plan.total_steps * step + judged * each / plan.world.size
    return Estimate(total_s, step, load, compute)


def evaluations(plan: Plan) -> int:
    """Return the number of evaluations during training, without the final one."""
    # one after each round, or each part of pretraining; that of the last step is the final one
    steps, looks = plan.total_steps, plan.config.pretrain.evaluations
    count = min(plan.rounds_done(steps - 1), steps - 1)
    if not plan.objective.answers:
        count = min(looks, steps) - 1
    return count + (not plan.final_is_candidate)


def _with_held_features(plan: Plan, speed: Speed) -> Estimate:
    """Return the time to compute all features once and then train only the head."""
    count = plan.config.finetune.views * len(plan.data.train)
    count += len(plan.data.chosen_on) + plan.recipe.eval_views * len(plan.data.val)
    # what was measured is hardly more than a forward pass: the backward pass ends in the head
    forward_s = speed.next_cell_s / plan.config.cell + speed.load_s
    total_s = count * forward_s / plan.world.size + plan.total_steps * HEAD_STEP_S
    return Estimate(total_s, HEAD_STEP_S, load_s=0.0, compute_s=HEAD_STEP_S)


def part_starts(plan: Plan) -> list[int]:
    """Return the first step of each part of the run with its own image size."""
    parts, total = len(plan.config.augment.sizes), plan.total_steps
    return [min(-(-total * part // parts), total - 1) for part in range(parts)]


def largest_step(plan: Plan) -> int:
    """Return a step with the largest images of the run."""
    return max(part_starts(plan), key=plan.view.size_at)


@contextmanager
def global_state_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's random generators."""
    devices = [device] if device.type == "cuda" else []
    # the caller may have switched gradients off
    with torch.random.fork_rng(devices), torch.enable_grad():
        yield


def load_cells(run: Run, first: int, poll: Poll) -> tuple[list[Batch], float]:
    """Load up to three cells, for at most a second. Return them and the seconds per image."""
    cell = run.plan.config.cell
    loaded: list[Batch] = []
    begun = time.perf_counter()
    view = replace(run.plan.view, rank_slice=EVERYTHING)  # other ranks take no part in the trial
    for batch in batches(view, run.readers, cell, first_step=first, last_step=first + LOADED_CELLS):
        loaded.append(batch)
        poll()
        if time.perf_counter() - begun > LOADER_S:
            break
    return loaded, (time.perf_counter() - begun) / (cell * len(loaded))


def _compute(run: Run, cells: list[Batch], load_s: float, poll: Poll) -> Measured:
    """Measure on a copy, and again without determinism if an operation does not support it.

    Raises ConfigError when memory is too small.
    """
    try:
        loss, speed = _loss_and_speed(run, cells, load_s, poll)
        return Measured(loss, speed, run.plan.choices.deterministic)
    except Exception as error:
        operation = determinism.refused(error)
        if not operation and not is_out_of_memory(error):
            raise

    if operation:
        determinism.switch_on(strict=False)
        lax = Choice(False, f"{operation} has no deterministic kernel")
        return replace(_compute(run, cells, load_s, poll), deterministic=lax)

    # The error is gone here, and with it the frames that held the memory.
    side = run.plan.view.size_at(largest_step(run.plan))
    raise too_large(run.plan, side, _largest_that_fits(run, cells[0], poll))


def _loss_and_speed(run: Run, cells: list[Batch], load_s: float, poll: Poll) -> tuple[float, Speed]:
    begun = time.perf_counter()
    state, stepper = copy_of(run)
    loss = first_loss(state, run.plan, cells[0])
    if not math.isfinite(loss):
        return loss, Speed(load_s, 0.0, 0.0, 1)

    warm_s = timed(stepper, state, cells[0])
    poll()

    # The budget is a part of the whole run, of which the first step gives a rough idea.
    several = run.plan.global_batch > run.plan.config.cell and len(cells) > 1
    side = cells[0].images.shape[-1]
    within = run.plan.config.within
    rough = (
        units.seconds(within)
        if within
        else estimate(run.plan, Speed(load_s, warm_s, warm_s, side)).total_s
    )
    deadline = begun + min(max(BUDGET_SHARE * rough, BUDGET_LEAST_S), BUDGET_MOST_S)
    # started only where it can end in time: a step cannot be broken off
    times = _repeat(
        stepper, state, cells[0], last_start=deadline - warm_s * (3 if several else 1), poll=poll
    )

    first_s = statistics.median(times or [warm_s])
    next_s = first_s
    if several and time.perf_counter() + 2 * first_s < deadline:
        # what two cells take more than one; noise must not make a cell free
        next_s = max(timed(stepper, state, _joined(cells[0], cells[1])) - first_s, 0.5 * first_s)
    return loss, Speed(load_s, first_s, next_s, side)


def _repeat(
    stepper: StepRunner, state: State, cell: Batch, last_start: float, poll: Poll
) -> list[float]:
    times: list[float] = []
    while len(times) < TIMED_STEPS and time.perf_counter() < last_start:
        times.append(timed(stepper, state, cell))
        poll()
    return times


def copy_of(run: Run) -> tuple[State, StepRunner]:
    """Return a state and a stepper that share no changing state with the run."""
    model = duplicate(run.state.model).train()
    # the half-life does not matter: only its cost is measured
    average = Ema(model, 1.0) if run.state.ema else None
    flavour = run.plan.choices.optimizer.value
    plan = run.plan
    resting = run.state.freezing
    # as it will be once all that wakes has woken, when a step takes most memory and time
    freezing = resting.on(model) if resting else None
    optimizers = plan.behaviour.optimizers(model, plan.config, plan.device, flavour)
    state = State(
        model,
        optimizers,
        average,
        scale=LossScale(run.plan.device) if run.state.scale else None,
        freezing=freezing,
    )
    if freezing:
        freezing.settle(state.step)
    guard = Guard(f"lr {state.optimizers.formula}, in the trial before training")
    return state, replace(run.stepper, guard=guard, world=ALONE, gradients=None, clock=Clock())


def first_loss(state: State, plan: Plan, cell: Batch) -> float:
    """Return the plain loss, in nats per image, of a cell in train mode.

    No mixing, no label smoothing. Without labels it is the training loss.
    """
    section = plan.config.data
    if not plan.objective.answers:
        with torch.no_grad():
            loaded = cell.to(plan.device).cell(step=0, number=0)
            total = cell_loss(state.model, loaded, plan.objective, plan.precision)
        return float(total) / len(cell.images)

    with torch.no_grad(), autocast(plan.precision, plan.device):
        pixels = cell.images.to(plan.device)
        answer = state.model(normalise(pixels, section.mean, section.std, section.channels))
    rehearsal.require_logits(answer, len(cell.labels), plan)
    return float(plan.objective.plain_loss(heads(answer)[0], cell.labels.to(plan.device)))


def timed(stepper: StepRunner, state: State, batch: Batch) -> float:
    """Run a step and return the seconds that it took, device included."""
    begun = time.perf_counter()
    float(stepper.step(state, batch))  # waits for the device
    stepper.guard.settle()
    return time.perf_counter() - begun


def _joined(one: Batch, other: Batch) -> Batch:
    images = torch.cat([one.images, other.images]).contiguous(memory_format=torch.channels_last)
    samples, epochs = (
        np.concatenate([one.samples, other.samples]),
        np.concatenate([one.epochs, other.epochs]),
    )
    small = None
    if one.small is not None and other.small is not None:
        small = torch.cat([one.small, other.small]).contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.cat([one.labels, other.labels]), samples, epochs, small=small)


def _largest_that_fits(run: Run, batch: Batch, poll: Poll) -> int:
    """Return the largest smaller cell, in images, that fits into memory. 0 if none was found."""
    deadline = time.perf_counter() + BUDGET_MOST_S
    for cell in smaller_cells(run.plan.config):
        config = run.plan.config.model_copy(
            update={"batch": run.plan.config.batch.model_copy(update={"cell": cell})}
        )

        part = batch.part(0, cell)
        try:
            state, stepper = copy_of(run)
            timed(replace(stepper, config=config), state, part)
            return cell
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        poll()
        if time.perf_counter() > deadline:
            break
    return 0
