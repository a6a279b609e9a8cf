"""Building a run: data, automatic choices, model, optimiser, folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from saccade import files
from saccade.config import schema as configuration
from saccade.config.schema import Config
from saccade.data.loader import TrainingView
from saccade.data.order import Order, RankSlice
from saccade.data.readers import Readers
from saccade.device import allocator, compile, determinism
from saccade.device.placing import placed
from saccade.distributed import sync_batchnorm
from saccade.distributed.world import ALONE, World
from saccade.evaluation.classifier import Recipe
from saccade.models import create_model, is_registered
from saccade.models.parts.duplicate import duplicate
from saccade.objectives.objective import Objective
from saccade.setup.cells import shrink_batch as shrink_batch
from saccade.setup.steps import Length, lengthened, make_state, make_stepper, total_steps
from saccade.training.bad_steps import Archive
from saccade.training.behaviour import AS_SET, Behaviour
from saccade.training.choices import Choices
from saccade.training.datasets import Data, offset_in_steps, training_order, training_view
from saccade.training.run import NAMED, History, Plan, Run


def folder_for(
    config: Config,
    data: Data,
    model_name: str,
    out: str,
    *,
    fresh: bool,
    network: Mapping[str, str] = NAMED,
) -> Path:
    """Return the run folder: ``out``, or one named after the settings that change the results.

    The same command finds the same folder. ``network`` is the identity of the user's own network.
    With ``fresh`` it is the first of ``...``, ``...-2``, ``...-3`` that does not exist.
    """
    # all that decides numbers goes into the name: the same command finds its run, another does not
    identity = configuration.fingerprint(config, data.fingerprint, model_name, *network.values())
    name = files.safe_name(f"{model_name}-{data.source.name}-{identity[:8]}")
    folder = first = Path(out) if out else Path("runs") / name

    number = 1
    while fresh and folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def build(
    config: Config,
    data: Data,
    folder: Path,
    choices: Choices,
    *,
    module: nn.Module | None = None,
    behaviour: Behaviour = AS_SET,
    network: Mapping[str, str] = NAMED,
    world: World = ALONE,
    offset: int = 0,
) -> Run:
    """Build model, optimisers and readers for a new run.

    ``module`` and ``behaviour`` are the user's own, ``network`` is their identity. ``offset`` is
    the number of samples consumed beyond the steps of this batch, after a change of the batch.
    """
    _switch_on(choices)
    order = training_order(config, len(data.train), offset)
    steps = total_steps(config, order.epoch_size, choices.length.value)
    length = Length(order.epoch_size, steps, offset_in_steps(offset, config))
    # what an earlier batch size consumed already is not trained again
    total = math.ceil(length.steps - length.ahead)
    learned = behaviour.learned(config, data.train).to(torch.device(choices.device.value))
    objective = learned.over(total, order.epoch_size / config.batch.global_)
    plan = Plan(
        config=config,
        data=data,
        folder=folder,
        choices=choices,
        view=_view(config, data, order, length, world=world, behaviour=behaviour),
        recipe=_recipe(config, objective, model_name(config, module), choices.precision.value),
        objective=objective,
        total_steps=total,
        world=world,
        behaviour=behaviour,
    )

    state = make_state(
        config,
        _network(plan, module),
        length,
        precision=plan.precision,
        flavour=choices.optimizer.value,
        primary=objective.primary,
        behaviour=behaviour,
    )
    archive = Archive(folder, data.train.describe, config.seed, world)
    stepper = make_stepper(
        config,
        state,
        length,
        precision=plan.precision,
        world=world,
        archive=archive,
        objective=objective,
    )
    readers = Readers(choices.reader_threads.value)
    return Run(plan, stepper, readers, state=state, history=History(network=dict(network)))


def _view(
    config: Config,
    data: Data,
    order: Order,
    length: Length,
    *,
    world: World,
    behaviour: Behaviour,
) -> TrainingView:
    """Return the order and preprocessing of a rank's images: every n-th cell of the global
    batch."""
    mine = RankSlice(config.cell, world.rank, world.size)
    own = behaviour.own_augment(config.seed)
    return training_view(config, data.train, order, length.steps, rank_slice=mine, own=own)


def fitted(run: Run) -> Run:
    """Return a run before its first step with the length of its choices.

    With ``within``, the length is known only after the trial.
    """
    plan = run.plan
    steps = total_steps(plan.config, plan.epoch_size, plan.choices.length.value)
    if steps == plan.total_steps:
        return run
    objective = plan.objective.over(steps, plan.epoch_size / plan.global_batch)
    view = replace(plan.view, total_steps=steps)
    plan = replace(plan, view=view, objective=objective, total_steps=steps)

    stepper = lengthened(run.state, run.stepper, Length(plan.epoch_size, steps))
    return replace(run, plan=plan, stepper=replace(stepper, objective=objective))


def join(model: nn.Module, plan: Plan) -> None:
    """Prepare a network for training on all ranks: synchronised norms if requested, compiled if
    that is faster.
    """
    if plan.config.ranks.sync_norms and plan.world.size > 1:
        sync_batchnorm.convert(model, plan.world)
    if plan.choices.compile.value:
        compile.compile_in_place(model)


def _switch_on(choices: Choices) -> None:
    """Set the global state of the process: compute threads, deterministic kernels, the
    allocator."""
    # the last bits of sums on a CPU depend on their number, so a resumed run sets it again
    torch.set_num_threads(choices.compute_threads.value)
    allocator.keep_freed_memory(torch.device(choices.device.value))
    if choices.device.value == "cuda":
        determinism.switch_on(strict=choices.deterministic.value)


def _network(plan: Plan, module: nn.Module | None) -> nn.Module:
    """Return the network that is trained, on its device.

    The user's own network is changed only at the end of the run: after an interruption it is
    unchanged.
    """
    if module is None:
        model = registered(plan.config, plan.objective.head)
    else:
        model = duplicate(module).train()
    return placed(plan.objective.wrap(model).train(), plan.precision, plan.device)


def of_others(config: Config, data: Data, behaviour: Behaviour) -> nn.Module | None:
    """Return the initial network of a name that the user or a plug-in registered; None for built-in
    ones.

    Such a name can mean another network later, so the network itself is part of the run.
    """
    if not is_registered(config.model.name):
        return None
    return registered(config, behaviour.learned(config, data.train).head)


def registered(config: Config, head: int) -> nn.Module:
    """Return a registered network with random weights and a head of this many outputs."""
    section = config.model
    return create_model(
        section.name,
        num_classes=head,
        image_size=config.data.image_size,
        dropout=section.dropout,
        drop_path=section.drop_path,
        strides=section.strides,
        patch_size=section.patch_size,
        checkpointing=section.checkpointing,
        seed=config.seed,
    )


def _recipe(config: Config, objective: Objective, name: str, precision: str) -> Recipe:
    """Return what is needed to use the weights of this run."""
    section = config.data
    return Recipe(
        model=name,
        classes=objective.outputs,
        image_size=section.image_size,
        eval_crop=section.eval_crop,
        mean=section.mean,
        std=section.std,
        exif=section.exif,
        strides=config.model.strides,
        patch_size=config.model.patch_size,
        eval_size=section.eval_size,
        eval_views=section.eval_views,
        precision=precision,
        fit=section.fit,
        objective=objective.name,
        channels=section.channels,
    )


def model_name(config: Config, module: nn.Module | None) -> str:
    """Return the name of a run's model: registered, or ``custom:ClassName``."""
    return config.model.name if module is None else f"custom:{type(module).__name__}"
