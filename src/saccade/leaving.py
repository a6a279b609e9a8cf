"""The Python interface for exported files: ``export``, and ``quantize`` before it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from saccade import files
from saccade.api import started
from saccade.data.sources import Split
from saccade.errors import UsageError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import trained_int8, writing
from saccade.exporting.formats import chosen
from saccade.exporting.int8 import CALIBRATION, MAX_DROP, Int8, refuse
from saccade.exporting.outputs import Outputs
from saccade.exporting.whole import INPUTS, Input
from saccade.listeners import Callback, require_callable
from saccade.runs import quantizing, scoring
from saccade.runs.foreign import Expected
from saccade.setup import keywords
from saccade.setup.flags import FLAGS
from saccade.trainer import Outcome
from saccade.training import recorded
from saccade.training.behaviour import AS_SET

VIEWS = (0, 1, 2, 6)
"""What can be asked for; 0 is as many as the classifier is evaluated with."""


def export(
    model: Classifier | str | Path,
    *,
    out: str | Path | None = None,
    formats: str = "onnx",
    given: str = "uint8",
    data: Any = None,
    labels: str | Path = "",
    split_names: str = "",
    split: str = "",
    best: bool = False,
    views: int = 0,
    int8: bool = False,
    calibration: int = CALIBRATION,
    max_drop: float = MAX_DROP,
    per_tensor: bool = False,
    module: nn.Module | None = None,
) -> dict[str, Any]:
    """Write a trained classifier or encoder as files for other programs; return the receipt.

    ``model`` is what ``load`` returns or takes; a run of ``pretrain`` is an encoder, and its files
    return the features of ``embed``. ``formats`` names file formats, separated by
    commas: ``onnx``; ``pt2`` (torch alone loads it); ``pt`` (weights alone); ``timm`` (a folder for
    timm and transformers); ``pickle``. ``given`` is their input: ``uint8`` (RGB pixels of the final
    size), ``image`` (one image of any size) or ``float`` (normalised). ``out`` is the folder, by
    default ``export`` in the run folder. Each file is evaluated on the images of ``data``, or on
    the validation images of the run, in a separate process. The receipt, also ``export.json`` in
    the folder, has both figures and the largest difference. ``views`` are averaged, by default as
    many as in its evaluation. ``int8`` writes ``model-int8.onnx``, too: its ranges are those of
    ``calibration`` training images, and it may lose ``max_drop`` percentage points; ``per_tensor``
    gives weights one scale. Raises ExportError where a file is not the classifier, and other
    SaccadeErrors with the reason and what to do.
    """
    kinds, takes = _wanted(formats, given, int8, views)
    found = scoring.opened(
        model,
        Expected.of(module),
        best,
        data=data,
        split=split,
        labels=labels,
        split_names=split_names,
    )
    classifier = _of_views(found.classifier, views, int8=int8)
    trained_int8.refuse(classifier, kinds, int8=int8)
    folder = Path(out) if out is not None else _beside(found)
    train = scoring.training_split(model, data, str(labels), split_names) if int8 else None

    receipt = writing.export(
        classifier,
        found.split,
        folder,
        formats=kinds,
        given=takes,
        origin=_origin(found.path),
        run=recorded.facts(found.folder) or {} if found.folder else {},
        in_8_bits=_in_8_bits(train, calibration, max_drop, per_tensor),
    )
    return {"folder": str(folder), **receipt}


def _in_8_bits(train: Split | None, images: int, max_drop: float, per_tensor: bool) -> Int8 | None:
    if train is None:
        return None
    return Int8(train, images, max_drop=max_drop, per_channel=not per_tensor)


def quantize(
    run: str | Path,
    *,
    scheme: str = "int8",
    epochs: int | float | str = quantizing.EPOCHS,
    lr: float = quantizing.RATE,
    data: Any = None,
    val: Any = None,
    best: bool = False,
    out: str | Path = "",
    resume: str | Path = "auto",
    resume_changed: bool = False,
    set: str | Sequence[str] = (),
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Outcome:
    """Continue the training of a run in simulated 8-bit arithmetic, as ``saccade quantize`` does.

    ``scheme`` is ``"int8"``: weights with one scale per output channel; or ``"power-of-two"``: one
    per layer, each a power of two. ``data`` and ``val`` are needed if those of the run came from
    Python. Other settings go by their dotted names with ``__`` for the dot. Returns the folder and
    figures of the new run, which ``evaluate``, ``predict`` and ``export`` accept like any other.
    Raises a SaccadeError with the reason and what to do.
    """
    begun = time.monotonic()
    require_callable(callbacks)
    given = {"epochs": epochs, "lr": lr, "data": data, "val": val}
    flags = {name: given[name] if name in given else settings.pop(name, None) for name in FLAGS}
    asked = keywords.request((), flags, set, settings)

    request = quantizing.request(
        Path(run), scheme, asked.flags, asked.sets, best=best, out=str(out)
    )
    return started(
        request,
        (data, val),
        None,
        AS_SET,
        resume=resume,
        resume_changed=resume_changed,
        dry_run=False,
        quiet=quiet,
        callbacks=callbacks,
        begun=begun,
    )


def _of_views(classifier: Classifier, views: int, *, int8: bool) -> Classifier:
    """Return a classifier that averages so many views of an image; 0 changes nothing.

    Raises UsageError for what an encoder does not have.
    """
    recipe = classifier.recipe
    if Outputs.of(recipe).are_features:
        views = _of_encoder(views, int8=int8)
    return Classifier(
        classifier.network, replace(recipe, eval_views=cast(Any, views or recipe.eval_views))
    )


def _wanted(formats: str, given: str, int8: bool, views: int) -> tuple[list[str], Input]:
    """Return the formats and their input; raises UsageError for unknown ones."""
    if views not in VIEWS:
        raise UsageError(
            f"{views} views are not possible", where="--views", fix="give 1, 2 or 6 views"
        )
    if given not in INPUTS:
        raise UsageError(
            f"unknown input '{given}'", where="--input", fix=f"choose one of {', '.join(INPUTS)}"
        )
    kinds = chosen(formats)
    if int8:
        refuse(kinds, given)
    return kinds, given


def _of_encoder(views: int, *, int8: bool) -> int:
    """Return the number of views of an encoder; raises UsageError for what it does not have."""
    if int8:
        raise UsageError(
            "an encoder has no 8-bit file: its loss of accuracy is measured with classes",
            where="--int8",
            fix="remove it; or train a classifier first: saccade train --init RUN --data IMAGES",
        )
    if views > 1:
        raise UsageError(
            "an encoder returns the features of a single view", where="--views", fix="remove it"
        )
    return 1


def _origin(path: str) -> dict[str, str]:
    """Return where weights come from, and their digest if that is a file.

    The receipt is published: of the folders of this machine only the last one is named.
    """
    is_file = path != "" and Path(path).is_file()
    digest = {"sha256": files.digest(Path(path))} if is_file else {}
    return {"weights": "/".join(Path(path).parts[-2:]), **digest}


def _beside(found: scoring.Opened) -> Path:
    """Return the folder for what is exported: in the run folder, or beside the weights."""
    if not found.path or not Path(found.path).exists():
        raise UsageError(
            "these weights lie in no folder", where="--out", fix="name the folder with --out"
        )
    return (found.folder or Path(found.path).parent) / "export"


__all__ = ["Classifier", "Outcome", "export", "quantize"]
