"""The contents of a file of weights, a run folder or a checkpoint: tables of tensors."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade import files
from saccade.errors import CheckpointError
from saccade.models.weights import stored

MODEL_FILE = "model.safetensors"
AVERAGE_FILE = "ema.safetensors"
_SCALAR = np.float64(0).__reduce__()[0]
PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    *(
        (pure, f"pathlib{inner}.{name}")
        for inner in ("", "._local")
        for name, pure in (
            ("PosixPath", pathlib.PurePosixPath),
            ("WindowsPath", pathlib.PureWindowsPath),
        )
    ),
]
"""Types that many files hold besides tensors: options, numpy numbers, paths. Reading them runs no
code, and a path is read as one that touches no file.
"""


def tensors_of(path: Path) -> Any:
    """Return the contents of a file of weights, a run folder or a checkpoint: tables of tensors of
    any shape ``(...)``, nested as in the file.

    Raises CheckpointError where it cannot be read.
    """
    return tables_and_classes(path)[0]


def tables_and_classes(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the contents of a file and, if Saccade wrote it, the names of its classes."""
    file = path / MODEL_FILE if path.is_dir() else path
    if file.name == MODEL_FILE and file.with_name("manifest.json").is_file():
        return _checkpoint(file.parent)
    if not file.is_file():
        fix = "give a run folder, a .safetensors, a .pth or a .pt file"
        raise CheckpointError("there are no weights at this path", where=str(file), fix=fix)
    stored.refuse_list_of_parts(file)
    if file.suffix == ".safetensors":
        remarks = stored.header(file).remarks
        return stored.read(file), _classes(remarks, file)
    try:
        with torch.serialization.safe_globals(PLAIN_VALUES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read raises
            # A mapped file gives no tensor more bytes than it has; torch's other reader trusts what
            # the file claims.
            mapped = stored.is_honest_zip(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped), ()
    except Exception as error:  # a damaged or hostile file can break its reader in any way
        raise _unreadable(file, error) from error


def _checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Return the weights of a checkpoint and their average, tensors of any shape ``(...)``, once it
    is verified.

    The names of its classes are in ``run.json`` of the run around it; empty where there is none.
    """
    try:
        names = files.verify_folder(folder)
    except ValueError as error:
        fix = "name another checkpoint, or the run folder"
        raise CheckpointError(
            f"this checkpoint is damaged: {error}", where=str(folder), fix=fix
        ) from error
    tables = {"model": MODEL_FILE, "ema": AVERAGE_FILE}
    found = {table: stored.read(folder / name) for table, name in tables.items() if name in names}
    try:
        classes = files.read_json(folder.parent.parent / "run.json")["dataset"]["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        return found, ()
    return found, tuple(map(str, classes)) if isinstance(classes, list) else ()


def _classes(remarks: Mapping[str, str], file: Path) -> tuple[str, ...]:
    """Return the class names in the remarks of one of our files.

    Raises CheckpointError when they are none.
    """
    try:
        names = json.loads(remarks.get("saccade", "{}")).get("classes", ())
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return tuple(names)
        reason = "its classes are not a list of names"
    except (ValueError, AttributeError, RecursionError) as error:
        reason = f"its facts are not a JSON object ({type(error).__name__})"
    raise CheckpointError(
        f"this file is not a valid saccade model: {reason}",
        where=f"{file}, metadata 'saccade'",
        fix="use the original file, or a file with the tensors only",
    )


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    text = str(error)
    code = re.search(r"GLOBAL ([\w.]+)", text)
    if type(error).__name__ == "UnpicklingError" or "TorchScript" in text:
        return CheckpointError(
            "this file contains more than tensors, perhaps a "
            f"program{f' ({code[1]})' if code else ''}, so it is not read",
            where=str(file),
            fix=(
                "load it in the program that made it, then write "
                'torch.save(model.state_dict(), "weights.pth") and use that file'
            ),
        )

    if isinstance(error, zipfile.BadZipFile):
        return CheckpointError(
            "this file is cut off or damaged: it begins as torch.save writes files, and its end "
            "is missing",
            where=str(file),
            fix="copy or download it again",
        )

    reason = text.strip().split("\n")[0]
    return CheckpointError(
        f"this is not a weights file: {type(error).__name__} {reason}",
        where=str(file),
        fix="use a .safetensors file, or a .pth or .pt that torch.save wrote",
    )
