"""Evaluating predictions in files without a network: a softmax and labels as NumPy arrays.

``saccade embed`` and other programs write them: ``resnet50_softmax.npy`` beside ``labels.npy``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saccade import files
from saccade.data.sources.layout import SPLIT_FOLDERS
from saccade.errors import DataError, UsageError
from saccade.objectives.classification import Classification
from saccade.objectives.metrics import Score
from saccade.objectives.objective import Result
from saccade.runs import foreign
from saccade.runs.embedding import FACTS, LABELS, NAMES, SOFTMAX

AT_ONCE = 4096
"""Number of rows in memory as float64 at once."""

OFF = 0.01
"""Tolerance of the sum of a row: the rounding of 1,000 float16 values."""


def file_of(weights: str | Path) -> Path | None:
    """Return the file of predictions that a path names: a ``*softmax.npy``, or a folder with
    ``softmax.npy``; None for anything else, such as a run.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        return path / SOFTMAX if (path / SOFTMAX).is_file() and not foreign.is_ours(path) else None
    return path if path.name.endswith(SOFTMAX) and path.is_file() else None


def score(file: Path, split: str = "") -> tuple[Result, Classification, str]:
    """Evaluate predictions, float (n, C) of probabilities, with ``labels.npy`` beside them, int
    (n,).

    Returns the figures, the objective, and the name of the images: those of ``split``, else of the
    validation split if ``names.csv`` has several. Labels are indices of columns. Raises DataError
    for invalid arrays, UsageError for the split.
    """
    softmax, labels = _array(file), _array(file.with_name(LABELS))
    _refuse_misfits(softmax, labels, file)
    rows, name = _rows(file, len(labels), split)

    counted = Score()
    for part in np.array_split(rows, -(-len(rows) // AT_ONCE)):
        shares = torch.from_numpy(softmax[part].astype(np.float64))
        _refuse_no_shares(shares, part, file)
        truth = torch.from_numpy(labels[part].astype(np.int64))
        counted.add(shares.clamp_min(torch.finfo(torch.float64).tiny).log(), truth)

    chosen = torch.from_numpy(softmax[rows].astype(np.float32))
    logits = chosen.clamp_min(torch.finfo(torch.float32).tiny).log()
    result = Result(counted.to_json(), logits, torch.from_numpy(labels[rows].astype(np.int64)))
    return result, Classification(tuple(map(str, range(softmax.shape[1])))), name


def refuse_flags(**given: Any) -> None:
    """Raise UsageError for the first flag that has no effect on predictions in files."""
    for name, value in given.items():
        if value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"this file holds predictions, not weights: {flag} has no effect on it",
                where=flag,
                fix="remove it; the labels are in labels.npy beside the predictions",
            )


def _array(file: Path) -> np.ndarray[Any, Any]:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"this array cannot be read: {error}",
            where=str(file),
            fix=f"predictions are in *{SOFTMAX}, and their labels beside them in {LABELS}",
        ) from error
    if not isinstance(found, np.ndarray):
        raise DataError(
            "this file does not hold a single array",
            where=str(file),
            fix="write it with numpy.save",
        )
    return found


def _refuse_misfits(
    softmax: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], file: Path
) -> None:
    """Raise DataError unless there is one label, the index of a column, for each row."""
    numbers = softmax.dtype.kind == "f" and labels.dtype.kind in "iu"
    if softmax.ndim != 2 or labels.shape != softmax.shape[:1] or not numbers or not softmax.size:
        raise DataError(
            f"predictions of {softmax.dtype} {softmax.shape} do not fit labels of {labels.dtype} "
            f"{labels.shape}",
            where=str(file),
            fix="predictions must be floats (n, C), labels integers (n,)",
        )

    try:
        facts = files.read_json(file.with_name(FACTS))
    except (OSError, ValueError):
        facts = {}  # others write none
    other = isinstance(facts, dict) and facts.get("labels_are_columns") is False
    if other or not 0 <= int(labels.min()) <= int(labels.max()) < softmax.shape[1]:
        raise DataError(
            "the labels have other classes than the predictions",
            where=str(file.with_name(LABELS)),
            fix="embed images of the classes that the network knows; for other classes, "
            "`saccade probe` evaluates the features",
        )


def _refuse_no_shares(shares: torch.Tensor, rows: np.ndarray[Any, Any], file: Path) -> None:
    """Raise DataError unless all rows, float64 (n, C), are probabilities of one class each."""
    sums = shares.sum(1)
    wrong = ~(((sums - 1).abs() <= OFF) & (shares >= 0).all(1))  # NaN is wrong, too
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise DataError(
            f"row {rows[first]} is not a softmax: its numbers sum to {float(sums[first]):.4g}, "
            "or some are negative",
            where=str(file),
            fix="write the softmax of the logits; one class per image",
        )


def _rows(file: Path, count: int, split: str) -> tuple[np.ndarray[Any, Any], str]:
    """Return the places of the rows to score, int64 (k,), and what these images are called."""
    names = _splits(file.with_name(NAMES), count)
    known = list(dict.fromkeys(names))
    if not split:
        usual = [name for name in SPLIT_FOLDERS[1:] if name in known]
        split = (usual or known[:1])[0] if usual or len(known) == 1 else ""
    if not known and not split:
        return np.arange(count), file.parent.name
    if split not in known:
        said = f"there is no split '{split}'" if split else "no split is a validation split"
        raise UsageError(
            f"{said}; found: {', '.join(known) or 'no names.csv with splits'}",
            where=str(file.with_name(NAMES)),
            fix="name one of these with --split" if known else "remove --split",
        )
    return np.flatnonzero(np.array(names) == split), split


def _splits(file: Path, count: int) -> Sequence[str]:
    """Return the split of each row; empty if there is no table."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            names = [str(row["split"]) for row in csv.DictReader(lines)]
    except (OSError, KeyError, ValueError, csv.Error):
        return []
    if len(names) != count:
        raise DataError(
            f"the table has {len(names):,} rows, but there are {count:,} labels",
            where=str(file),
            fix="embed the images again, into another folder",
        )
    return names
