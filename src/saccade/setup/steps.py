"""The parts of an optimiser step: the state of a network and the stepper, made from the
settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from saccade import units
from saccade.config.fields import AUTO
from saccade.config.schema import Config
from saccade.device import choose, precision
from saccade.device.loss_scale import LossScale
from saccade.device.placing import placed
from saccade.device.step_timer import Clock
from saccade.distributed.all_reduce import GradientSum
from saccade.distributed.world import ALONE, World
from saccade.objectives.classification import of_settings
from saccade.objectives.objective import Objective, Primary
from saccade.optim import optimizers as optim
from saccade.optim import schedule
from saccade.optim.ema import Ema
from saccade.optim.schedule import Schedule
from saccade.training import freezing
from saccade.training.bad_steps import Archive
from saccade.training.behaviour import AS_SET, Behaviour
from saccade.training.guard import Guard
from saccade.training.loss_spike import LossRecord
from saccade.training.state import State
from saccade.training.step import StepRunner

IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""

UNFITTED = "100ep"
"""Stands for a length that is not known before the trial: long enough for images of every size."""

GENTLE_STEPS = 10
"""The shortest warm-up, in steps, where the head starts as a probe and the warm-up is a share."""


@dataclass(frozen=True, slots=True)
class Length:
    """The length of a run.

    It has ``steps`` steps of this batch and begins at step ``ahead``, which is above 0, and perhaps
    a fraction, if the batch has changed. An epoch has ``epoch_size`` images.
    """

    epoch_size: int
    steps: int
    ahead: float = 0


def total_steps(config: Config, epoch_size: int, fitted: str = "") -> int:
    """Return the length of a run in optimiser steps, where an epoch has ``epoch_size`` images.

    ``fitted`` is the duration that was fitted to ``within``, empty before the trial.
    """
    length = fitted or UNFITTED if config.epochs == AUTO else config.epochs
    return max(units.Duration.parse(length).steps(epoch_size, config.batch.global_), 1)


def make_step(
    config: Config,
    model: nn.Module,
    *,
    objective: Objective | None = None,
    epoch_size: int = IMAGENET,
    world: World = ALONE,
) -> tuple[State, StepRunner]:
    """Return the state of a network before its first step, and what steps it.

    It is a run without data, folder and files: for benchmarks, tests and your own loops. ``model``
    maps float images (B, 3, S, S) to logits (B, C); it is moved to the device of ``config`` and
    trained in place. Without ``objective`` it learns to classify. Durations in epochs, such as
    those of the schedule, use ``epoch_size`` images. Raises ConfigError for devices that this
    machine does not have.
    """
    kind, _ = choose.pick_device(config.device, world.local_rank)
    device = torch.device(kind)
    number_format, _ = precision.choose(config.precision, device)
    flavour, _ = optim.flavour(config.optimizer, device)
    length = Length(epoch_size, total_steps(config, epoch_size))

    # the layout comes before the optimiser, whose state takes over that of its parameters
    model = placed(model.train(), number_format, device)
    objective = (objective or of_settings(config)).to(device)
    state = make_state(
        config,
        model,
        length,
        precision=number_format,
        flavour=flavour,
        primary=objective.primary,
    )
    stepper = make_stepper(
        config,
        state,
        length,
        precision=number_format,
        world=world,
        objective=objective,
    )
    return state, stepper


def make_state(
    config: Config,
    model: nn.Module,
    length: Length,
    *,
    precision: str,
    flavour: str,
    primary: Primary,
    behaviour: Behaviour = AS_SET,
) -> State:
    """Return the state of a network that is already on its device."""
    device = next(model.parameters()).device
    rest = freezing.plan(model, config.finetune, _wake_steps(config, length))
    # before the optimiser, which has nothing to do with what never wakes
    resting = freezing.Freezing(model, rest) if rest else None
    return State(
        model,
        behaviour.optimizers(model, config, device, flavour),
        _average(model, config, length),
        scale=LossScale(device) if precision == "fp16" else None,
        losses=LossRecord(config.guard.spike, device) if config.guard.spike else None,
        freezing=resting,
        primary=primary,
    )


def make_stepper(
    config: Config,
    state: State,
    length: Length,
    *,
    precision: str,
    world: World = ALONE,
    archive: Archive | None = None,
    objective: Objective,
) -> StepRunner:
    """Return what steps a state; with several ranks it sums their gradients.

    ``archive`` keeps the batches of bad steps.
    """
    device = next(state.model.parameters()).device
    return StepRunner(
        config=config,
        schedule=_rates(config, length),
        precision=precision,
        device=device,
        guard=Guard(f"lr {state.optimizers.formula}", config.guard, archive),
        world=world,
        gradients=GradientSum(state.model, world) if world.size > 1 else None,
        clock=Clock(device),
        objective=objective,
    )


def lengthened(state: State, stepper: StepRunner, length: Length) -> StepRunner:
    """Change the length of a state before its first step, and of its stepper.

    Everything relative to the run follows: rates, the half-life of the average, and the steps of
    unfreezing.
    """
    config = stepper.config
    if state.ema:
        state.ema.slow_to(_half_life(config, length))
    if config.finetune.unfreeze:
        rest = freezing.plan(state.model, config.finetune, _wake_steps(config, length))
        state.freezing = freezing.Freezing(state.model, rest)
    return replace(stepper, schedule=replace(_rates(config, length), scale=stepper.schedule.scale))


def _rates(config: Config, length: Length) -> Schedule:
    rates = schedule.build(
        config.schedule,
        epoch_samples=length.epoch_size,
        global_batch=config.batch.global_,
        total=length.steps,
        ahead=length.ahead,
    )
    # a tenth of five steps is none, and one step at the full rate undoes the probe
    if config.finetune.head_start == "probe" and config.schedule.warmup.endswith("%"):
        return replace(rates, warmup=max(rates.warmup, GENTLE_STEPS))
    return rates


def _wake_steps(config: Config, length: Length) -> float | None:
    """Return the step before which everything is unfrozen, None if nothing is unfrozen."""
    if not config.finetune.unfreeze:
        return None
    duration = units.Duration.parse(config.finetune.unfreeze)
    steps = duration.steps(length.epoch_size, config.batch.global_, length.steps)
    return max(steps - length.ahead, 0)


def _average(model: nn.Module, config: Config, length: Length) -> Ema | None:
    """Return the average of the weights if it is requested."""
    return Ema(model, _half_life(config, length)) if config.ema.half_life else None


def _half_life(config: Config, length: Length) -> float:
    """Return the half-life of the average in steps; durations are counted in samples."""
    batch = config.batch.global_
    half_life = units.Duration.parse(config.ema.half_life).samples(
        length.epoch_size, batch, length.steps
    )
    # a half-life of nought would divide by it
    return max(float(half_life) / batch, 1e-3)
