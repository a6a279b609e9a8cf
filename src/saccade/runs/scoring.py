"""Evaluating a trained model again: the images and the conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from saccade import files
from saccade.config.schema import Config
from saccade.data.sources import (
    Source,
    Split,
    handed,
    ilsvrc,
    open_source,
    open_unlabelled,
    train_split,
    validation_split,
)
from saccade.errors import SaccadeError, UsageError
from saccade.evaluation import evaluator
from saccade.evaluation.classifier import Classifier
from saccade.log import Log
from saccade.objectives.objective import Result
from saccade.runs import foreign
from saccade.runs.foreign import Expected
from saccade.runs.subject import Conditions, Subject
from saccade.training import datasets


@dataclass(frozen=True, slots=True)
class Opened:
    """A classifier and the images to evaluate it on.

    ``path`` is where its weights lie, ``phrase`` which ones these are for people, empty for the
    final ones; ``folder`` is that of its run and ``resolved`` how that computed, None and empty
    where there is none.
    """

    classifier: Classifier
    split: Split
    path: str
    resolved: Mapping[str, Any] = field(default_factory=dict)
    phrase: str = ""
    folder: Path | None = None


def opened(
    weights: Classifier | str | Path,
    expected: Expected,
    best: bool = False,
    *,
    data: Any = None,
    split: str = "",
    labels: str | Path = "",
    split_names: str = "",
) -> Opened:
    """Open a path, own or foreign, and the images to evaluate it on.

    A classifier is used unchanged. ``expected`` are the facts about foreign weights. Raises as
    `judged_split` does, and UsageError if foreign weights come without images.
    """
    if isinstance(weights, Classifier):
        chosen = judged_split(weights, data, split, labels=labels, split_names=split_names)
        return Opened(weights, known_by_wnid(weights, chosen), "")

    if not foreign.is_foreign(weights, expected):
        subject = Subject.of(Path(weights), best)
        module = expected.network if isinstance(expected.network, nn.Module) else None
        classifier = subject.classifier(module)
        chosen = judged_split(
            subject,
            data,
            split,
            labels=labels,
            split_names=split_names,
            labelled=classifier.recipe.learned.needs_labels,
        )
        phrase = subject.phrase if subject.saved else ""
        chosen = known_by_wnid(classifier, chosen)
        return Opened(
            classifier,
            chosen,
            str(subject.path),
            resolved=subject.resolved,
            phrase=phrase,
            folder=subject.folder,
        )

    if data is None or best:
        flag = "--best" if best else "--data"
        raise UsageError(
            (
                "weights from another program do not say which images to score, and have no best "
                "checkpoint"
            ),
            where=flag,
            fix="remove it" if best else "add --data with the images",
        )
    chosen = data if isinstance(data, Split) else _chosen(data, split, str(labels), split_names)
    classifier = foreign.classifier(weights, expected, chosen, Log())
    return Opened(classifier, known_by_wnid(classifier, chosen), str(weights))


def _chosen(data: Any, name: str, labels: str, split_names: str) -> Split:
    source = handed.opened(data, "data", "val", Log())
    return find_split(source or str(data), name, labels, split_names)


def known_by_wnid(classifier: Classifier, split: Split) -> Split:
    """Return the images with wnids as class names if the classifier has ImageNet's classes and the
    images have some of these under other names.
    """
    if classifier.recipe.classes != ilsvrc.wnids():
        return split
    return ilsvrc.by_wnid(split) or split


def judged_split(
    model: Classifier | Subject,
    data: Any = None,
    name: str = "",
    labels: str | Path = "",
    split_names: str = "",
    *,
    labelled: bool = True,
) -> Split:
    """Return the images to evaluate on: those of ``data``, or the validation images of a run.

    Without ``labelled``, or for an encoder, images of ``data`` do not need labels.
    Raises DataError if there is no such split, CheckpointError if the images are unknown,
    UsageError.
    """
    if isinstance(data, Split):
        return data
    name = str(name)
    if data is not None:
        source = handed.opened(data, "data", "val", Log())
        if source and not name and isinstance(model, Subject):
            own = _handed_again(model, source)
            if own is not None:
                return own

        # features need no labels
        if isinstance(model, Classifier):
            labelled = model.recipe.learned.needs_labels
        if source is None and not labelled and not labels:
            source = open_unlabelled(str(data), str(split_names))[0]
        return find_split(source or str(data), name, str(labels), split_names)
    only_with_data(labels=labels, split_names=split_names)
    if isinstance(model, Classifier):
        raise UsageError(
            "a classifier does not say which images to score", where="data", fix="give data="
        )
    return own_split(model.config, name)


def _handed_again(model: Subject, source: Source) -> Split | None:
    """Return the validation split of a run if the data of its training is passed again; None for
    other data.

    The validation images can have been held out of it.
    """
    try:
        config = model.config
        facts = files.read_json(model.folder / "run.json") if model.folder else {}
        if config.data.val or not handed.is_handed(config.data.train):
            return None
        data = datasets.open_data(config, source)
        known = facts["dataset"]["fingerprint"]
    except (SaccadeError, OSError, ValueError, KeyError, TypeError):
        return None
    if data.fingerprint != known:
        return None
    Log().say(f"this is the data of the run: scored on '{data.val.name}', its validation images")
    return data.val


def find_split(
    data: str | Source, name: str = "", labels: str = "", split_names: str = ""
) -> Split:
    """Return a split of a source by name, or its validation split.

    Raises DataError when there is none.
    """
    source = data if isinstance(data, Source) else open_source(data, labels, split_names)
    if name:
        return _split_of(source, name)
    found = validation_split(source, named=True)
    if found is None:
        raise datasets.no_validation(source)
    return found


def own_split(config: Config, name: str = "") -> Split:
    """Return the split that a run validated on, or another of the same source, rebuilt from its
    configuration.
    """
    data = datasets.open_data(config, datasets.open_any_training(config))
    for split in (data.val, data.chosen_on):
        if name in ("", split.name):
            return split
    return data.train if name == "train" else _split_of(data.val_source, name)


def training_split(
    model: Classifier | str | Path, data: Any = None, labels: str = "", split_names: str = ""
) -> Split:
    """Return the training images of ``data``, or those of a run.

    Raises UsageError if they are unknown, DataError.
    """
    if data is not None and not isinstance(data, Split):
        source = handed.opened(data, "data", "val", Log()) or open_source(
            str(data), labels, split_names
        )
        if any(name.lower() == "train" for name in source.splits):
            return train_split(source)
    if not isinstance(model, Classifier):
        config = _recorded(Path(model))
        if config is not None:
            return datasets.open_data(config, datasets.open_training(config)).train
    raise UsageError(
        "the training images of the network are not known",
        where="--data",
        fix="add --data with a training split and a validation split",
    )


def _recorded(path: Path) -> Config | None:
    """Return the settings of the run that a path belongs to; None if there is none."""
    try:
        return Subject.of(path).config
    except SaccadeError:
        return None


def _split_of(source: Source, name: str) -> Split:
    found = train_split(source) if name == "train" else validation_split(source, name)
    assert found is not None, "a split that is asked for by its name is found, or the call raises"
    return found


def only_with_data(**flags: Any) -> None:
    """Raise UsageError for the first flag that needs --data."""
    for name, value in flags.items():
        if value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} needs --data", where=flag, fix="add --data with the images")


def score(
    classifier: Classifier,
    split: Split,
    resolved: Mapping[str, Any],
    devices: str = "auto",
    precision: str = "auto",
) -> tuple[Result, Conditions]:
    """Evaluate a classifier on a split; ``resolved`` has the choices of its run.

    Returns the figures and the conditions.
    """
    how = Conditions.of(classifier.recipe, resolved, devices, precision)
    classifier.network.to(how.device)
    with how.computing() as readers:
        return evaluator.evaluate(
            classifier, split, readers, precision=how.precision, device=how.device
        ), how
