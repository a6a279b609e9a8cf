"""The Python face of the command line: the same verbs, typed, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade import units
from saccade.data.loader import Readers
from saccade.data.sources import Source, Split, open_source, train_split, validation_split
from saccade.dist import joined
from saccade.errors import DataError
from saccade.evaluation import evaluator, predictor
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.metrics import Result
from saccade.evaluation.predictor import Prediction
from saccade.log import Log
from saccade.training import launch, precision, trainer
from saccade.training.request import Request, compose, preview
from saccade.training.trainer import Outcome


def train(
    recipe: str | None = None,
    *,
    data: str | Path | None = None,
    val: str | Path | None = None,
    labels: str | Path | None = None,
    model: str | nn.Module | None = None,
    epochs: int | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    out: str | Path = "",
    resume: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> Outcome:
    """Train a classifier as ``saccade train`` does and return its folder and figures.

    ``model`` is a name or your own ``nn.Module`` that maps float images (B, 3, S, S) to logits (B, classes).
    ``batch_size`` is global. ``lr`` is the effective learning rate. Other settings go by their dotted names with
    ``__`` for the dot, e.g. ``augment__mixup=0.2``. Raises a SaccadeError with the reason and what to do.
    """
    module = model if isinstance(model, nn.Module) else None
    name = f"custom:{type(model).__name__}" if module is not None else model
    flags = flag_settings(
        data=data, val=val, labels=labels, model=name, epochs=epochs, batch_size=batch_size, lr=lr,
        image_size=image_size, seed=seed,
    )  # fmt: skip
    flags |= {key.replace("__", "."): value for key, value in settings.items()}
    request = Request(words=[recipe] if recipe else [], flags=flags)
    with joined(units.seconds(preview(request).ranks.start_limit)) as world:
        log = Log(rank=world.rank, quiet=quiet)
        return trainer.train(compose(request), module=module, out=str(out), resume=resume, log=log, world=world)


def flag_settings(**flags: Any) -> dict[str, Any]:
    """Translate the flags of the command line into dotted settings; None means not given."""
    places = {
        "data": "data.train", "val": "data.val", "labels": "data.labels", "model": "model.name",
        "init": "model.init", "epochs": "epochs",
        "batch_size": "batch.global", "lr": "lr", "image_size": "data.image_size", "seed": "seed",
        "devices": "device", "precision": "precision", "max_time": "max_time", "holdout": "data.holdout",
        "minival": "data.minival",
    }  # fmt: skip
    settings = {places[name]: value for name, value in flags.items() if value is not None}
    for name in ("data.train", "data.val", "data.labels"):
        if name in settings:
            settings[name] = str(settings[name])
    if str(settings.get("epochs", "")).isdecimal():
        settings["epochs"] = f"{settings['epochs']}ep"
    return settings


def load(run: str | Path, module: nn.Module | None = None) -> Classifier:
    """Load the classifier of a run folder or a ``.safetensors`` file; ``module`` for a network of your own."""
    return Classifier.load(Path(run), module)


def evaluate(
    model: Classifier | str | Path, data: str | Path | Split, *, split: str = "", device: str = "auto"
) -> Result:
    """Score a classifier on the validation split of a source, or on a split, every image exactly once.

    Computed in the precision that this device trains in. Raises DataError when there is no such split.
    """
    classifier = model if isinstance(model, Classifier) else load(model)
    chosen = data if isinstance(data, Split) else find_split(str(data), split)
    place = launch.pick_device(device)[0]
    number_format = precision.choose("auto", torch.device(place))[0]
    classifier.network.to(place)
    readers = Readers(max(2, torch.get_num_threads()))
    try:
        return evaluator.evaluate(classifier, chosen, readers, number_format, torch.device(place))
    finally:
        readers.close()


def find_split(data: str, name: str = "", labels: str = "") -> Split:
    """Return a split of a source by name, or its validation split; raises DataError when there is none."""
    source = open_source(data, labels)
    if name in source.splits:
        return source.splits[name]
    found = train_split(source) if name == "train" else validation_split(source, name, named=True)
    if found is None:
        raise (
            launch.no_validation(source)
            if not name
            else DataError(f"there is no split '{name}'", where=source.where, fix=f"it has {', '.join(source.splits)}")
        )
    return found


def predict(
    model: Classifier | str | Path, images: str | Path | Iterable[str | Path], *, top: int = 5
) -> Iterator[Prediction]:
    """Yield the most probable classes of each image file, or of every image in a folder."""
    classifier = model if isinstance(model, Classifier) else load(model)
    paths = [images] if isinstance(images, str | Path) else list(images)
    return predictor.predict(classifier, [Path(p) for p in paths], top)


__all__ = ["Classifier", "Outcome", "Prediction", "Result", "Source", "Split", "evaluate", "load", "open_source",
           "predict", "train"]  # fmt: skip
