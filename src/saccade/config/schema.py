"""The configuration: one frozen, typed schema; YAML files and flags merged into it in order.

Every field is marked with what it decides: ``results`` (the numbers of the run), ``data`` (what is
seen) or ``run`` (where and how it runs). At a resume only ``run`` fields may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from saccade.config import length
from saccade.config.augment import FORMER_CROPS
from saccade.config.augment import AugmentSection as AugmentSection
from saccade.config.cells import divisors, largest_cell, nearest_batches
from saccade.config.fields import (
    Amount,
    CadenceText,
    DurationText,
    Fraction,
    LengthText,
    PositiveTriple,
    Section,
    TimeText,
    Triple,
)
from saccade.config.fields import data as _data
from saccade.config.fields import results as _results
from saccade.config.fields import run as _run
from saccade.config.finetune import FinetuneSection
from saccade.config.optim import OptimizerSection, ScheduleSection
from saccade.config.pretrain import PretrainSection, unset

DeviceText = Annotated[
    str,
    Field(
        coerce_numbers_to_str=True,
        pattern=r"^(auto|cpu|cuda|mps|cpu:[1-9]\d*|[1-9]\d*|\d+(,\d+)*,?)$",
    ),
]


class ModelSection(Section):
    """The network."""

    name: str = _results("resnet18", "a name from `saccade models`")
    num_classes: int = _results(0, "width of the head; 0 = the classes of the data", ge=0)
    dropout: float | None = _results(
        None, "fraction of the features dropped before the head; null = the paper's", ge=0, lt=1
    )
    drop_path: float | None = _results(
        None,
        "stochastic depth: drop probability of the last residual branch; null = the paper's",
        ge=0,
        lt=1,
    )
    strides: Annotated[tuple[int, ...], Field(max_length=5)] = _results(
        (), "five strides: stem, pool, three stages; empty = chosen by the image size"
    )
    patch_size: int = _results(
        0, "side of a transformer's patch in pixels; 0 = chosen by the image size", ge=0, le=64
    )
    checkpointing: bool = _run(
        False, "recompute blocks in the backward pass: slower, but less memory"
    )
    init: str = _run(
        "",
        "start from weights: a run folder, a .safetensors, .pth or .pt file, or timm:NAME; "
        "empty = from scratch",
    )
    init_digest: str = _results(
        "", "SHA-256 of these weights, computed at the start; identifies them in the run"
    )


class DataSection(Section):
    """The images."""

    train: str = _run("digits", "a known name, a folder, a tar or a zip, or shards")
    val: str = _run("", "validation data, when it is not inside `train`")
    labels: str = _data(
        "",
        "a CSV with the columns path, label and perhaps split, for images not in class folders; "
        "`none` = no image has a label",
    )
    split_names: str = _data(
        "",
        "which folders are the splits, `train=Alpha,val=Beta`, or `none` if all are classes; "
        "empty = recognised by name",
    )
    split: str = _data(
        "", "the validation split; empty = the first of val, validation, valid, test"
    )
    holdout: Fraction = _data(
        0.0, "stratified fraction of the training images held out as validation"
    )
    minival: Fraction = _data(
        0.0, "stratified fraction of the training images on which the best checkpoint is chosen"
    )
    image_size: int = _data(
        224, "side of the square that the network sees, in pixels", ge=4, le=4096
    )
    eval_size: int = _data(0, "side at evaluation, in pixels; 0 = image_size", ge=0, le=4096)
    fit: Literal["crop", "squash", "pad"] = _data(
        "crop", "how an image becomes a square: crop the centre, squash all of it, or pad all of it"
    )
    eval_crop: float = _data(
        0.875, "side of the central crop at evaluation, as a fraction of the short side", gt=0, le=1
    )
    eval_views: Literal[1, 2, 6] = _data(
        1, "averaged views: 1 = the image alone, 2 = horizontal-flip TTA, 6 = with shifts, too"
    )
    epoch_size: Amount = _data(
        0.0, "images per epoch, drawn anew each time: a fraction below 1 or a count; 0 = all"
    )
    eval_images: Amount = _data(
        0.0,
        "validation images to evaluate during training: a fraction below 1 or a count; 0 = all; "
        "the final evaluation always uses all",
    )
    exif: Literal["ignore", "apply"] = _data(
        "ignore", "EXIF orientation: ignore (as in published results) or apply"
    )
    unreadable: Literal["refuse", "drop"] = _data(
        "refuse", "unreadable training images: end the run, or skip up to 1 % (drop)"
    )
    mean: Triple = _data((0.485, 0.456, 0.406), "mean of the RGB values, in 0..1")
    std: PositiveTriple = _data((0.229, 0.224, 0.225), "standard deviation of the RGB values")
    channels: Literal["rgb", "bgr"] = _data(
        "rgb", "channel order for the network; mean and std are always in the order RGB"
    )
    threads: int = _run(0, "threads that read and decode; 0 = by the number of cores", ge=0, le=256)
    processes: int = _run(
        0,
        "number of reading processes, if one interpreter cannot feed the device; 0 = threads only",
        ge=0,
        le=64,
    )


class BatchSection(Section):
    """The batch: one optimiser step sees `global` images, `cell` of them in each forward pass."""

    global_: int = _results(
        256, "images per optimiser step, over all ranks", alias="global", ge=1, le=1 << 20
    )
    cell: int = _results(
        0, "images per forward pass; 0 = the largest divisor of `global` up to 128", ge=0
    )


class LossSection(Section):
    """What is minimised."""

    name: Literal["ce", "bce"] = _results(
        "ce", "softmax cross-entropy, or binary cross-entropy of every class"
    )
    bce_threshold: float | None = _results(
        0.2,
        "mixed images: a class above this fraction is a full target; null = fractions are targets",
        ge=0,
        lt=1,
    )
    class_weights: Literal["none", "balanced"] = _results(
        "none", "balanced: weights that give every class the same share of the loss"
    )
    label_smoothing: float = _results(
        0.1, "label smoothing: fraction of the target spread over all classes", ge=0, lt=1
    )


class EmaSection(Section):
    """An exponential moving average of the weights; when it is on, it is the model."""

    half_life: DurationText = _results(
        "", "half-life of the average: epochs, steps, samples or % of the run; empty = off"
    )


class GuardSection(Section):
    """Bad steps: the loss or a gradient is not finite, or the loss jumps.

    They never leave a trace in the weights.
    """

    bad_steps: Literal["stop", "skip"] = _run(
        "stop", "on a bad step: end the run (76), or skip the step"
    )
    spike: float = _results(
        0.0,
        "a step is also bad if its loss is more than this many standard deviations above the "
        "recent mean; 0 = off, 6 = rare",
        ge=0,
    )
    allowed: int = _run(
        10, "largest number of skipped steps in a run; one more ends it (76)", ge=0, le=1 << 20
    )


class CheckpointSection(Section):
    """Checkpoints."""

    every: CadenceText = _run("1ep or 5min", "how often to save; whichever comes first")
    keep: int = _run(
        2, "newest verified checkpoints to keep; the best one is always kept", ge=1, le=1000
    )


class RanksSection(Section):
    """Several devices at once: one process, called a rank, for each."""

    sync_norms: bool = _results(
        False, "SyncBatchNorm: BatchNorm statistics over the cells of all ranks; slower"
    )
    start_limit: TimeText = _run("60s", "how long ranks wait for a rank that has not started")
    step_limit: TimeText = _run("5m", "how long ranks wait in a step for a rank that is silent")


class LogSection(Section):
    """Records."""

    every: int = _run(0, "steps between two step events; 0 = at most 2,000 in a run", ge=0)
    tensorboard: bool = _run(
        False, "also write TensorBoard events (needs `pip install tensorboard`)"
    )


class Config(Section):
    """A whole run."""

    recipe: str = _run("", "the recipe or file that these settings came from")
    seed: int = _results(0, "seed of all random draws", ge=0, lt=1 << 63)
    epochs: LengthText = _results(
        "90ep", "length of the run: 90ep, 5000step; auto: what fits `within`"
    )
    within: TimeText = _results("", "total time for a run with `epochs: auto`, from start to end")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _results(
        "auto", "number format: auto = bf16 where the processor supports it"
    )
    device: DeviceText = _run(
        "auto", "device: auto, cpu, cuda, mps, 8 (GPUs), 0,2 (these GPUs), cpu:2 (processes)"
    )
    max_time: TimeText = _run("", "save and stop (75) after this time; the schedule stays")
    patience: int = _results(
        0, "evaluations without improvement before the run ends; 0 = never", ge=0, le=1 << 20
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    augment: AugmentSection = AugmentSection()
    loss: LossSection = LossSection()
    pretrain: PretrainSection = PretrainSection()
    ema: EmaSection = EmaSection()
    finetune: FinetuneSection = FinetuneSection()
    guard: GuardSection = GuardSection()
    checkpoint: CheckpointSection = CheckpointSection()
    ranks: RanksSection = RanksSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.batch.cell and self.batch.global_ % self.batch.cell:
            raise ValueError(
                f"batch.cell: {self.batch.cell} does not divide batch.global {self.batch.global_}; "
                f"divisors are {', '.join(map(str, divisors(self.batch.global_)))}"
            )

        if self.pretrain.method != "none" and self.finetune.rests:
            raise ValueError(
                "finetune.freeze: pretraining trains the backbone, so nothing can be frozen; use "
                "--freeze later, in the training that starts from these weights"
            )

        if self.cell % self.augment.repeats:
            raise ValueError(
                f"augment.repeats: {self.augment.repeats} does not divide the cell of "
                f"{self.cell}; the views of an "
                "image belong in one cell (micro-batch); divisors are "
                f"{', '.join(map(str, divisors(self.cell)))}"
            )

        if self.cell == 1 and self.augment.mixes:
            near = " or ".join(map(str, nearest_batches(self.batch.global_, self.augment.repeats)))
            raise ValueError(
                "batch.cell: mixup and cutmix need two images in a cell (micro-batch), and this "
                f"cell has one; use --batch-size {near} or set augment.mixup and augment.cutmix "
                "to 0"
            )

        length.check(self.epochs, self.within)
        return self

    @property
    def cell(self) -> int:
        """Images per forward pass: as set, or the largest part of the global batch up to 128."""
        return self.batch.cell or largest_cell(self.batch.global_, self.augment.repeats)

    @property
    def shape(self) -> dict[str, Any]:
        """What changes the shape of a model besides its name and the sizes of images and head."""
        return {"strides": self.model.strides, "patch_size": self.model.patch_size}

    def dump(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as written to ``config.yaml``."""
        return self.model_dump(by_alias=True, mode="json")


def fields(
    section: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, str, str, Any]]:
    """Yield (dotted name, kind, description, default) of every field of the schema."""
    for name, info in section.model_fields.items():
        dotted = prefix + (info.alias or name)
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, dotted + ".")
        else:
            extra = info.json_schema_extra
            kind = str(extra["kind"]) if isinstance(extra, dict) else "run"
            yield dotted, kind, info.description or "", info.default


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested dictionaries into one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


LATER: dict[str, Any] = {
    "patience": 0,
    "within": "",
    "data.channels": "rgb",
    "data.eval_images": 0.0,
    "finetune.freeze": "none",
    "finetune.unfreeze": "",
    "finetune.norms": "train",
    "finetune.head_lr": 1.0,
    "finetune.head_start": "zero",
    "finetune.views": 1,
    "optimizer.weight_decay_end": None,
    "augment.local_views": 0,
    "augment.local_side": 3 / 7,
    "augment.local_area": [0.05, 0.4],
    "augment.jitter_chance": 1.0,
    "augment.blur": [0.0],
    "augment.solarize": [0.0],
    **unset(),
}
"""Settings that earlier versions did not have, with the values those versions used."""


def fingerprint(config: Config, *facts: str) -> str:
    """Return the SHA-256, in hexadecimal, of everything that decides the numbers of the run."""
    settings = flatten(config.dump()).items()
    # a setting that is new and off leaves the folders of earlier runs where they are
    decisive = {k: v for k, v in settings if kinds()[k] != "run" and (k, v) not in LATER.items()}
    # sorted, because the order of the fields is no part of a run
    return hashlib.sha256(json.dumps([decisive, facts], sort_keys=True).encode()).hexdigest()


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """Return (dotted name, kind, old value, new value) of every field that differs between two
    dumps.
    """
    before, after, known = LATER | flatten(old), LATER | flatten(new), kinds()
    crop = before.get("augment.crop")
    if isinstance(crop, str) and crop in FORMER_CROPS:
        # the name of that time, so that an old run is not taken for a changed one
        before["augment.crop"] = FORMER_CROPS[crop]
    names = sorted(set(before) | set(after))
    return [
        (n, known.get(n, "results"), before.get(n), after.get(n))
        for n in names
        if before.get(n) != after.get(n)
    ]


def kinds() -> dict[str, str]:
    """Return the kind (``results``, ``data``, ``run``) of every field by its dotted name."""
    return {name: kind for name, kind, _, _ in fields()}
