"""The settings of a run that lets a finished one compute in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.config.finetune import FinetuneSection
from saccade.config.optim import OptimizerSection, ScheduleSection
from saccade.config.schema import Config, EmaSection, flatten
from saccade.errors import CheckpointError, UsageError
from saccade.models.quantized.naming import name_of, parsed
from saccade.models.quantized.schemes import SCHEMES
from saccade.runs.subject import SETTINGS_FILE, Subject
from saccade.setup.compose import Request

EPOCHS, RATE = "2ep", 1e-4


def request(
    run: Path,
    scheme: str,
    flags: Mapping[str, Any],
    sets: Sequence[str] = (),
    *,
    best: bool = False,
    out: str = "",
) -> Request:
    """Return what asks for a run in 8 bits that begins with the weights of ``run``.

    It is trained as that one was: the same images, augmentation, loss and batch; but for the
    optimiser, without an average of the weights, in float32, on images of one size. ``flags`` and
    ``sets`` go over all of it. Raises UsageError, CheckpointError.
    """
    if scheme not in SCHEMES:
        raise UsageError(
            f"there is no scheme '{scheme}'", where="--scheme", fix=f"give {' or '.join(SCHEMES)}"
        )
    subject = Subject.of(run, best)
    if subject.folder is None:
        raise CheckpointError(
            "this is not a run, so the settings of its training are unknown"
            if Path(run).exists()
            else "there is no run at this path",
            where=str(run),
            fix="give a run folder, or one of its checkpoints",
        )
    config = subject.config
    _require_floats(config, run)
    wanted = changes(config, str(subject.path if subject.saved else run), scheme) | dict(flags)
    words = [str(subject.folder / SETTINGS_FILE)]
    return Request(words, wanted, sets, out=out, pretrains=False)


def _require_floats(config: Config, run: Path) -> None:
    """Raise UsageError for a run that is no classifier in floats, known by its name."""
    if parsed(config.model.name)[0] is not None:
        raise UsageError(
            "this run computes in 8 bits already",
            where=str(run),
            fix="name the run that it began with; this one is exported as any: saccade export RUN",
        )
    if config.pretrain.method != "none":
        raise UsageError(
            "this run has no head, and 8 bits are for classifiers",
            where=str(run),
            fix="train it on labelled images first: saccade train --init RUN --data IMAGES",
        )

    if "swin" in config.model.name.lower():
        raise UsageError(
            "training in 8 bits has not been measured for Swin",
            where=str(run),
            fix="use saccade export RUN --int8, which measures what its file loses",
        )
    if config.model.name.startswith("custom:"):
        raise UsageError(
            "this is your own network, which was passed from Python",
            where=str(run),
            fix="give it a name (saccade.register_model), and train and quantise it by that name",
        )


def changes(config: Config, weights: str, scheme: str) -> dict[str, Any]:
    """Return what is set otherwise than in the run that begins it, by dotted name."""
    changed: dict[str, Any] = {}
    for section, values in (
        ("optimizer", OptimizerSection(name="adamw", lr=f"{RATE:g}", weight_decay=0.0)),
        ("schedule", ScheduleSection(name="cosine", warmup="")),
        ("ema", EmaSection()),
        ("finetune", FinetuneSection()),
    ):
        changed |= flatten(values.model_dump(by_alias=True, mode="json"), f"{section}.")
    return changed | {
        "recipe": "quantize",
        "epochs": EPOCHS,
        "within": "",
        "patience": 0,
        "max_time": "",
        "precision": "fp32",
        "model.name": name_of(scheme, config.model.name),
        "model.init": weights,
        "model.dropout": None,
        "model.drop_path": None,
        "model.checkpointing": False,
        # of the size that it ended with
        "augment.sizes": [config.augment.sizes[-1]],
    }
