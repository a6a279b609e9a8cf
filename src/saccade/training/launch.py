"""Everything that is decided before the first step: data, automatic choices, model, optimiser, folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade import config as configuration
from saccade import files, units
from saccade.config import Config
from saccade.data import ledger
from saccade.data.decoded import Decoded
from saccade.data.fit import Fit
from saccade.data.loader import Readers, TrainingView
from saccade.data.order import EVERYTHING, Order, Share
from saccade.data.policies import paints
from saccade.data.sound import without_unreadable
from saccade.data.sources import Source, Split, hold_out, open_source, train_split, validation_split
from saccade.data.sources.split_names import shared
from saccade.dist import ALONE, World
from saccade.errors import ConfigError, DataError, DiskError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.log import Log
from saccade.models import create_model, meta_model
from saccade.models.cost import cost
from saccade.rng import Purpose
from saccade.training import allocator, determinism, devices, optim, precision, schedule
from saccade.training.bad_steps import Archive
from saccade.training.cells import shrink_batch as shrink_batch
from saccade.training.checkpoint import Saved
from saccade.training.clock import Clock
from saccade.training.duplicate import duplicate
from saccade.training.ema import Ema
from saccade.training.gradients import GradientSum
from saccade.training.guard import Finite
from saccade.training.losses import balanced_weights
from saccade.training.scale import LossScale
from saccade.training.spikes import LossRecord
from saccade.training.state import State
from saccade.training.step import StepRunner

TINY_CELL_MACS = 1e9
NAMED: Mapping[str, str] = {}
"""The identity of a network that is known by its name."""


@dataclass(frozen=True)
class Data:
    """The splits of a run: ``train`` is learned from, ``val`` is the final judge, ``chosen_on`` picks the best.

    ``dropped`` names the training images that cannot be read and are left out, with the reasons.
    """

    source: Source
    train: Split
    val: Split
    chosen_on: Split
    val_source: Source
    dropped: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """One digest over both sets."""
        return f"{self.train.fingerprint[:16]}-{self.val.fingerprint[:16]}"

    @cached_property
    def contents(self) -> str:
        """A digest of the bytes of some images of both sets, read when it is first asked for."""
        return ledger.contents(self.train, self.val)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to step."""

    config: Config
    data: Data
    folder: Path
    resolved: dict[str, dict[str, Any]]
    state: State
    runner: StepRunner
    view: TrainingView
    readers: Readers
    recipe: Recipe
    total_steps: int
    device: torch.device
    world: World = ALONE
    findings: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    init: dict[str, Any] = field(default_factory=dict)
    failed_saves: list[DiskError] = field(default_factory=list)
    decoded: dict[Split, Decoded | None] = field(default_factory=dict)
    network: dict[str, str] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """The number format of the forward pass."""
        return str(self.resolved["precision"]["value"])

    @property
    def global_batch(self) -> int:
        """Images per optimiser step."""
        return self.config.batch.global_

    def position(self, step: int) -> int:
        """Return how many samples were consumed after ``step`` steps."""
        return self.view.order.offset + step * self.global_batch

    def epochs_done(self, step: int) -> float:
        """Return how many epochs were consumed after ``step`` steps."""
        return self.position(step) / self.view.order.epoch_size

    @property
    def final_is_candidate(self) -> bool:
        """Tell whether the figure at the end is made like those on the way: same images, one view.

        Only then may the best be chosen among all of them.
        """
        return self.data.chosen_on is self.data.val and self.recipe.eval_views == 1

    def evaluation_is_due(self, step: int) -> bool:
        """Tell whether an epoch ended in the last step, or the run; there the final figure may do."""
        if step == self.total_steps:
            return not self.final_is_candidate
        return step > 0 and int(self.epochs_done(step)) > int(self.epochs_done(step - 1))

    def held(self, split: Split) -> Decoded | None:
        """Return what holds the images of a split that is judged after every epoch, if they are small."""
        if split not in self.decoded:
            self.decoded[split] = Decoded.of(split, self.config.data.exif)
        return self.decoded[split]

    def classifier(self) -> Classifier:
        """Return the model as it would be saved now."""
        return Classifier(self.state.final_model, self.recipe)


def open_training(config: Config) -> Source:
    """Open the source that a configuration trains on; raises DataError and ConfigError."""
    section = config.data
    return open_source(section.train, section.labels, shared(section.split_names, apart=bool(section.val))[0])


def open_data(config: Config, source: Source, val_source: Source | None = None) -> Data:
    """Find the training and validation splits; raises DataError when there is no honest validation set.

    ``val_source`` is one that was handed over open; without it the configuration says where the validation data is.
    """
    section = config.data
    if val_source is None:
        said = shared(section.split_names, apart=True)[1]
        val_source = open_source(section.val, split_names=said) if section.val else source
    train = train_split(source)
    dropped: tuple[str, ...] = ()
    if section.unreadable == "drop":
        with Log().progress("looking for unreadable images", len(train)) as bar:
            train, dropped = without_unreadable(train, lambda done: bar.update(done, "read, decoded"))
    val = validation_split(val_source, section.split, named=bool(section.val))
    if section.holdout:
        if val is not None and val_source is not source:
            raise ConfigError("both --val and --holdout are given", where="data.holdout", fix="give one of them")
        train, val = hold_out(train, section.holdout, config.seed, Purpose.HOLDOUT)
    if val is None:
        raise no_validation(source)
    val = val.called_as(train.classes)
    chosen_on = val
    if section.minival:
        train, chosen_on = hold_out(train, section.minival, config.seed, Purpose.MINIVAL)
    return Data(source, train, val, chosen_on, val_source, dropped)


def no_validation(source: Source) -> DataError:
    """Return the refusal to train without a validation set: accuracy on training images means nothing."""
    held = [f"'{name}' with {_classes_of(split)}" for name, split in source.splits.items()]
    found = "; ".join([*held, *source.notes])
    return DataError(
        f"there is no validation split: looked for val/, validation/, valid/ and test/, found {found}",
        where=source.where,
        fix="add one, give --val PATH, or hold out a share of the training images with --holdout 10%",
        finding="no-val-split",
    )


def _classes_of(split: Split) -> str:
    """Name the first classes, where a folder that was misread would be seen."""
    first, count = ", ".join(split.classes[:4]), len(split.classes)
    return f"the class{'es' * (count > 1)} {first}" + f" and {count - 4:,} more" * (count > 4)


def resolve(config: Config, saved: Saved | None, local_rank: int = 0) -> dict[str, dict[str, Any]]:
    """Make every automatic choice once, each with its reason; an earlier attempt's choices are kept.

    Only the device may change between attempts: what depends on it is chosen anew then.
    """
    device, device_reason = devices.pick_device(config.device, local_rank)
    earlier = saved.meta["resolved"] if saved else None
    flavour, flavour_reason = optim.flavour(config.optimizer.name, torch.device(device))
    exact_reason = "costs less than 1 % on a GPU" if device == "cuda" else f"a {device.upper()} needs no switch"
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
        "reader_threads": {"value": readers, "reason": "as set" if config.data.threads else "one per core, 2 to 16"},
        "layout": {"value": "channels_last", "reason": "fastest for convolutions"},
        "compile": {"value": False, "reason": "does not pay on a CPU" if device == "cpu" else "not tried"},
    }


def _compute_threads(config: Config, device: str) -> tuple[int, str]:
    """Return how many threads compute: work that takes milliseconds is faster on one than handed around."""
    threads = torch.get_num_threads()
    if device != "cpu" or config.model.name.startswith("custom:"):
        return threads, "one per physical core"
    macs = image_macs(config) * config.cell
    if macs < TINY_CELL_MACS:
        return 1, f"a cell takes only {macs / 1e9:.2g} GMAC"
    return threads, "one per physical core"


def image_macs(config: Config, num_classes: int = 10) -> int:
    """Return the multiply-accumulates of one image's forward pass through a network that is known by its name."""
    side = config.data.image_size
    return cost(meta_model(config.model.name, num_classes=num_classes, image_size=side, **config.shape), side).macs


def run_folder(
    config: Config, data: Data, model_name: str, out: str, *, fresh: bool, network: Mapping[str, str] = NAMED
) -> Path:
    """Return the run folder: ``out``, or one named after what decides the numbers, so that the same command finds it.

    ``network`` is the identity of a network that was handed over. With ``fresh`` it is the first of ``...``,
    ``...-2``, ``...-3`` that does not exist.
    """
    identity = configuration.fingerprint(config, data.fingerprint, model_name, *network.values())[:8]
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
    """Build model, optimisers and loader for a run from scratch; nothing is read from earlier attempts.

    ``offset`` is how many samples more were consumed than steps of this batch would have: the batch was another one.
    """
    section = config.data
    torch.set_num_threads(int(resolved["compute_threads"]["value"]))
    device = torch.device(resolved["device"]["value"])
    if device.type == "cuda":
        determinism.switch_on(strict=bool(resolved["deterministic"]["value"]))
    elif device.type == "cpu":
        allocator.keep_freed_memory()
    readers = Readers(int(resolved["reader_threads"]["value"]))
    torch.set_num_threads(int(resolved["compute_threads"]["value"]))  # the readers set theirs to one
    # the user's own network is changed only when the run is done: after an interruption it is still the same one
    model = _registered(config, data) if module is None else duplicate(module).train()
    model = model.to(device).to(memory_format=torch.channels_last)
    order = training_order(config, len(data.train), offset)
    steps = total_steps(config, order.epoch_size)
    ahead = _in_steps(offset, config)
    optimizers = optim.build(model, config, device, str(resolved["optimizer"]["value"]))
    number_format = str(resolved["precision"]["value"])
    scale = LossScale(device) if number_format == "fp16" else None
    losses = LossRecord(config.guard.spike, device) if config.guard.spike else None
    average = _average(model, config, order.epoch_size, steps)
    state = State(model, optimizers, average, scale=scale, losses=losses)
    rates = schedule.build(config.schedule, order.epoch_size, config.batch.global_, steps, ahead)
    archive = Archive(folder, data.train.describe, config.seed, world)
    finite = Finite(f"lr {optimizers.formula}", config.guard, archive)
    weights = class_weights(config, data.train, device)
    gradients = GradientSum(model, world) if world.size > 1 else None
    share = Share(config.cell, world.rank, world.size)
    recipe = Recipe(
        model_name(config, module), data.train.classes, section.image_size, section.eval_crop,
        section.mean, section.std, section.exif, config.model.strides, config.model.patch_size,
        section.eval_size, section.eval_views, number_format, section.fit,
    )  # fmt: skip
    return Run(
        config=config,
        data=data,
        folder=folder,
        resolved=resolved,
        state=state,
        runner=StepRunner(config, rates, number_format, device, finite, world, gradients, weights, Clock(device)),
        view=training_view(config, data.train, order, steps, share),
        readers=readers,
        recipe=recipe,
        total_steps=math.ceil(steps - ahead),
        device=device,
        world=world,
    )


def _in_steps(offset: int, config: Config) -> float:
    batch = config.batch.global_
    return offset / batch if offset % batch else offset // batch


def training_order(config: Config, num_train: int, offset: int = 0) -> Order:
    """Say which of so many training images come when."""
    size = config.data.epoch_size
    wanted = max(round(size * num_train), 1) if 0 < size < 1 else int(size)
    return Order(num_train, config.seed, config.augment.repeats, wanted, offset)


def class_weights(config: Config, train: Split, device: torch.device) -> Tensor | None:
    """Return the weight of each class in the loss, float32 (C,), or None where all count the same."""
    if config.loss.class_weights == "none":
        return None
    return torch.from_numpy(balanced_weights(train.labels, len(train.classes))).float().to(device)


def training_view(config: Config, split: Split, order: Order, steps: int, share: Share = EVERYTHING) -> TrainingView:
    """Say how the images of a split are seen in a training of so many steps; ``share`` is a rank's part of them."""
    section, augmentation = config.data, config.augment
    fit = Fit.of(section.fit, section.eval_crop, section.mean)
    ahead = _in_steps(order.offset, config)
    view = TrainingView(
        split, order, augmentation, section.image_size, steps, section.exif, share, fit=fit, ahead=ahead
    )
    if augmentation.crop != "padded" or augmentation.rotate or paints(augmentation):
        return view
    return replace(view, decoded=Decoded.of(split, section.exif, min(view.sides)))


def model_name(config: Config, module: nn.Module | None) -> str:
    """Return the name under which a run's model goes: registered, or ``custom:ClassName``."""
    return config.model.name if module is None else f"custom:{type(module).__name__}"


def _registered(config: Config, data: Data) -> nn.Module:
    section = config.model
    return create_model(
        section.name, num_classes=len(data.train.classes), image_size=config.data.image_size,
        dropout=section.dropout, drop_path=section.drop_path, strides=section.strides, patch_size=section.patch_size,
        checkpointing=section.checkpointing, seed=config.seed,
    )  # fmt: skip


def _average(model: nn.Module, config: Config, epoch_size: int, steps: int) -> Ema | None:
    if not config.ema.half_life:
        return None
    length = units.Duration.parse(config.ema.half_life).samples(epoch_size, config.batch.global_, steps)
    return Ema(model, max(float(length) / config.batch.global_, 1e-3))
