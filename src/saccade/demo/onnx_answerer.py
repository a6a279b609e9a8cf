"""The demo of an exported ONNX file: its metadata is all that is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from saccade.data.images.decode import Pixels
from saccade.demo.answerer import Answerer
from saccade.errors import CheckpointError, UsageError
from saccade.evaluation.classifier import Recipe
from saccade.exporting.facts import METADATA

SUFFIX = ".onnx"
_QUIET = 3
"""onnxruntime's log level for errors only."""


def open_file(path: Path) -> Answerer:
    """Open an ONNX file that `saccade export` wrote, with onnxruntime on the CPU.

    Raises CheckpointError if it is another file or damaged, UsageError without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "an ONNX file needs a package that is not installed: onnxruntime",
            where=str(path),
            fix="pip install onnxruntime, or name the run instead of the file",
        ) from error

    if not path.is_file():
        raise CheckpointError("this file does not exist", where=str(path), fix="name an ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no class of their own
        raise _strange(path, f"onnxruntime cannot read it: {str(error).splitlines()[0]}") from error

    given = session.get_inputs()[0]
    recipe = _recipe(path, session.get_modelmeta().custom_metadata_map)

    def run(images: Any) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: np.ascontiguousarray(images)})[0])

    if given.type != "tensor(uint8)":
        return Answerer(str(path), recipe, lambda squares: run(recipe.normalised(squares).numpy()))
    # the sides of a file that makes the square itself are free, and have a name each
    if any(isinstance(side, str) for side in given.shape[1:3]):
        return Answerer(str(path), recipe, _one_by_one(run, recipe), lambda p: run(p[None]))
    return Answerer(str(path), recipe, lambda squares: run(_channels_last(squares)))


def _recipe(path: Path, remarks: Mapping[str, str]) -> Recipe:
    """Return the classes and the preprocessing of a file, checked as for a model file.

    Raises CheckpointError.
    """
    try:
        about = json.loads(remarks[METADATA])
        way = about["preprocessing"]
        size, short = way["size"], way["short_side"]
        facts = {
            "model": about["network"],
            "classes": about["classes"],
            "image_size": size,
            "eval_crop": size / short if short else 1.0,
            "eval_views": about["views"],
            "objective": about["objective"],
            **{name: way[name] for name in ("mean", "std", "exif", "fit", "channels")},
            "interpolation": way.get("interpolation", "bilinear"),
        }
        return Recipe.parse(json.dumps(facts), str(path))
    except KeyError as error:
        raise _strange(path, f"its metadata has no {error}") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise _strange(path, f"its metadata is invalid: {error}") from error


def _one_by_one(run: Callable[[Any], Tensor], recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a file with its own resizing on squares, uint8 (B, 3, S, S)."""
    side, fit = recipe.eval_side, recipe.framing
    around = fit.short_side(side) - side if fit.how == "crop" else 0
    # with what the file cuts off around it: then it changes nothing
    before = round(around / 2)
    border = (before, around - before, before, around - before)

    def ask(squares: Tensor) -> Tensor:
        framed = _channels_last(functional.pad(squares, border))
        return torch.cat([run(one[None]) for one in framed])

    return ask


def _channels_last(squares: Tensor) -> Pixels:
    """Return images, uint8 (B, 3, S, S), as (B, S, S, 3)."""
    return squares.permute(0, 2, 3, 1).numpy()


def _strange(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"this is not an ONNX file of saccade: {what}",
        where=str(path),
        fix="name a run folder, or a file that `saccade export` wrote",
    )
