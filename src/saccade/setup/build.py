"""Everything that is decided before the first step: data, automatic choices, model, optimiser,
folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade import files, objectives, units
from saccade.config import schema as configuration
from saccade.config.schema import Config
from saccade.data.loader import Readers
from saccade.data.order import RankSlice
from saccade.device import allocator, choose, determinism, precision
from saccade.device.loss_scale import LossScale
from saccade.device.small_map_conv import use_strips
from saccade.device.step_timer import Clock
from saccade.distributed.all_reduce import GradientSum
from saccade.distributed.world import ALONE, World
from saccade.evaluation.classifier import Recipe
from saccade.models import create_model, is_registered
from saccade.models.parts.duplicate import duplicate
from saccade.optim import optimizers as optim
from saccade.optim import schedule
from saccade.optim.ema import Ema
from saccade.setup.cells import shrink_batch as shrink_batch
from saccade.training.bad_steps import Archive
from saccade.training.checkpoint import Saved
from saccade.training.datasets import Data, offset_in_steps, training_order, training_view
from saccade.training.guard import Guard
from saccade.training.loss_spike import LossRecord
from saccade.training.run import NAMED, Run, image_macs
from saccade.training.state import State
from saccade.training.step import StepRunner

TINY_CELL_MACS = 1e9


def resolve(config: Config, saved: Saved | None, local_rank: int = 0) -> dict[str, dict[str, Any]]:
    """Make every automatic choice once, each with its reason.

    An earlier attempt's choices are kept.

    Only the device may change between attempts: what depends on it is chosen anew then.
    """
    device, device_reason = choose.pick_device(config.device, local_rank)
    earlier = saved.meta["resolved"] if saved else None
    flavour, flavour_reason = optim.flavour(config.optimizer, torch.device(device))
    exact_reason = (
        "costs less than 1 % on a GPU"
        if device == "cuda"
        else f"a {device.upper()} needs no switch"
    )
    chosen: dict[str, dict[str, Any]] = {
        "optimizer": {"value": flavour, "reason": flavour_reason},
        "deterministic": {"value": True, "reason": exact_reason},
    }
    if earlier and earlier["device"]["value"] == device:
        return chosen | {name: dict(choice) for name, choice in earlier.items()}
    number_format, format_reason = precision.choose(config.precision, torch.device(device))
    threads, threads_reason = _compute_threads(config, device)
    readers = config.data.threads or max(2, min(torch.get_num_threads(), 16))
    return {
        "device": {"value": device, "reason": device_reason},
        "precision": {"value": number_format, "reason": format_reason},
        **chosen,
        "compute_threads": {"value": threads, "reason": threads_reason},
        "reader_threads": {
            "value": readers,
            "reason": "as set" if config.data.threads else "one per core, 2 to 16",
        },
        "layout": {"value": "channels_last", "reason": "fastest for convolutions"},
        "compile": {
            "value": False,
            "reason": "does not pay on a CPU" if device == "cpu" else "not tried",
        },
    }


def _compute_threads(config: Config, device: str) -> tuple[int, str]:
    """Return how many threads compute: work that takes milliseconds is faster on one than handed
    around.
    """
    threads = torch.get_num_threads()
    name = config.model.name
    if device != "cpu" or name.startswith("custom:") or is_registered(name):
        return threads, "one per physical core"
    macs = image_macs(config) * config.cell
    if macs < TINY_CELL_MACS:
        return 1, f"a cell takes only {macs / 1e9:.2g} GMAC"
    return threads, "one per physical core"


def run_folder(
    config: Config,
    data: Data,
    model_name: str,
    out: str,
    *,
    fresh: bool,
    network: Mapping[str, str] = NAMED,
) -> Path:
    """Return the run folder: ``out``, or one named after what decides the numbers, so that the same
    command finds it.

    ``network`` is the identity of a network that was handed over. With ``fresh`` it is the first of
    ``...``, ``...-2``, ``...-3`` that does not exist.
    """
    identity = configuration.fingerprint(config, data.fingerprint, model_name, *network.values())[
        :8
    ]
    name = files.safe_name(f"{model_name}-{data.source.name}-{identity}")
    folder = first = Path(out) if out else Path("runs") / name
    number = 1
    while fresh and folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def total_steps(config: Config, epoch_size: int) -> int:
    """Return the length of the run in optimiser steps, where an epoch has ``epoch_size`` images."""
    return max(units.Duration.parse(config.epochs).steps(epoch_size, config.batch.global_), 1)


def build(
    config: Config,
    data: Data,
    folder: Path,
    resolved: dict[str, dict[str, Any]],
    module: nn.Module | None,
    world: World = ALONE,
    offset: int = 0,
) -> Run:
    """Build model, optimisers and loader for a run from scratch.

    Nothing is read from earlier attempts.

    ``offset`` is how many samples more were consumed than steps of this batch would have: the batch
    was another one.
    """
    section = config.data
    torch.set_num_threads(int(resolved["compute_threads"]["value"]))
    device = torch.device(resolved["device"]["value"])
    if device.type == "cuda":
        determinism.switch_on(strict=bool(resolved["deterministic"]["value"]))
    elif device.type == "cpu":
        allocator.keep_freed_memory()
    readers = Readers(int(resolved["reader_threads"]["value"]))
    # the readers set theirs to one
    torch.set_num_threads(int(resolved["compute_threads"]["value"]))
    # the user's own network is changed only when the run is done: after an interruption it is still
    # the same one
    objective = objectives.build(config, data.train).to(device)
    model = _registered(config, objective.head) if module is None else duplicate(module).train()
    model = model.to(device).to(memory_format=torch.channels_last)
    number_format = str(resolved["precision"]["value"])
    use_strips(model, number_format, device)
    order = training_order(config, len(data.train), offset)
    steps = total_steps(config, order.epoch_size)
    ahead = offset_in_steps(offset, config)
    optimizers = optim.build(model, config, device, str(resolved["optimizer"]["value"]))
    scale = LossScale(device) if number_format == "fp16" else None
    losses = LossRecord(config.guard.spike, device) if config.guard.spike else None
    average = _average(model, config, order.epoch_size, steps)
    state = State(
        model,
        optimizers,
        average,
        scale=scale,
        losses=losses,
        primary=objective.primary,
    )
    rates = schedule.build(config.schedule, order.epoch_size, config.batch.global_, steps, ahead)
    archive = Archive(folder, data.train.describe, config.seed, world)
    guard = Guard(f"lr {optimizers.formula}", config.guard, archive)
    gradients = GradientSum(model, world) if world.size > 1 else None
    rank_slice = RankSlice(config.cell, world.rank, world.size)
    recipe = Recipe(
        model_name(config, module),
        objective.outputs,
        section.image_size,
        section.eval_crop,
        section.mean,
        section.std,
        section.exif,
        config.model.strides,
        config.model.patch_size,
        section.eval_size,
        section.eval_views,
        number_format,
        section.fit,
        objective.name,
    )
    return Run(
        config=config,
        data=data,
        folder=folder,
        resolved=resolved,
        state=state,
        stepper=StepRunner(
            config=config,
            schedule=rates,
            precision=number_format,
            device=device,
            guard=guard,
            world=world,
            gradients=gradients,
            clock=Clock(device),
            objective=objective,
        ),
        view=training_view(config, data.train, order, steps, rank_slice),
        readers=readers,
        recipe=recipe,
        total_steps=math.ceil(steps - ahead),
        device=device,
        world=world,
    )


def model_name(config: Config, module: nn.Module | None) -> str:
    """Return the name under which a run's model goes: registered, or ``custom:ClassName``."""
    return config.model.name if module is None else f"custom:{type(module).__name__}"


def of_others(config: Config, data: Data) -> nn.Module | None:
    """Return a network that others made known by a name, as the run begins with it; None of ours.

    The name may mean another network tomorrow, so the network itself is part of the run.
    """
    if not is_registered(config.model.name):
        return None
    return _registered(config, objectives.build(config, data.train).head)


def _registered(config: Config, head: int) -> nn.Module:
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


def _average(model: nn.Module, config: Config, epoch_size: int, steps: int) -> Ema | None:
    if not config.ema.half_life:
        return None
    length = units.Duration.parse(config.ema.half_life).samples(
        epoch_size, config.batch.global_, steps
    )
    return Ema(model, max(float(length) / config.batch.global_, 1e-3))
