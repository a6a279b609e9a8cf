"""The flags that are settings: the name of each setting, and how its value is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from saccade import units
from saccade.config.fields import AUTO
from saccade.errors import ConfigError, UsageError

FLAGS = {
    "data": "data.train",
    "val": "data.val",
    "labels": "data.labels",
    "split_names": "data.split_names",
    "model": "model.name",
    "init": "model.init",
    "epochs": "epochs",
    "within": "within",
    "batch_size": "batch.global",
    "lr": "lr",
    "image_size": "data.image_size",
    "mean": "data.mean",
    "std": "data.std",
    "bgr": "data.channels",
    "seed": "seed",
    "devices": "device",
    "precision": "precision",
    "max_time": "max_time",
    "patience": "patience",
    "holdout": "data.holdout",
    "minival": "data.minival",
    "freeze": "finetune.freeze",
}
"""The setting behind each flag of the command line, which is also a keyword of the same name in
Python.
"""

LARGEST_MEAN = 2.0
"""Means of pixel values in 0 to 1 are below this limit, means of values in 0 to 255 above it."""


def flag_settings(**flags: Any) -> dict[str, Any]:
    """Translate flags, by the names in ``FLAGS``, into dotted settings; None means not given.

    Raises UsageError or ConfigError with the flag's name for an invalid value.
    """
    given = {name: _plain(value) for name, value in flags.items() if value is not None}
    # the two say the same thing, so a flag for one takes the place of the other in a recipe
    if "within" in given:
        given.setdefault("epochs", AUTO)
    elif given.get("epochs", AUTO) != AUTO:
        given["within"] = ""
    return {
        FLAGS[name]: _READERS.get(name, _as_it_is)(name, value) for name, value in given.items()
    }


def _plain(value: Any) -> Any:
    """Turn numbers of numpy into Python's, and paths into text."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _as_it_is(name: str, value: Any) -> Any:
    return value


def _read_fraction(name: str, value: Any) -> float:
    try:
        return units.fraction(value)
    except ValueError as error:
        raise UsageError(str(error), where=f"--{name}") from error


def _read_rate(name: str, value: Any) -> float:
    try:
        rate = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise ConfigError(
            f"{value!r} is not a learning rate",
            where=f"--{name}",
            fix=(
                "write 0 or a positive number, such as 0.1; it is the effective rate and is "
                "never scaled"
            ),
        )
    return rate


def read_colours(name: str, value: Any) -> tuple[float, float, float]:
    """Read a flag for red, green and blue: ``0.485,0.456,0.406``, three numbers, or one for all.

    Raises ConfigError for others, and for levels from 0 to 255.
    """
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        numbers = [float(part) for part in (parts if isinstance(parts, Iterable) else [parts])]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise ConfigError(
            f"{value!r} is not three numbers (red, green, blue)",
            where=f"--{name}",
            fix=f"write --{name} 0.5,0.5,0.5, or one number for all three",
        )

    red, green, blue = numbers if len(numbers) == 3 else numbers * 3
    if name == "mean" and max(numbers) > LARGEST_MEAN:
        scaled = ",".join(f"{number / 255:.4g}" for number in (red, green, blue))
        raise ConfigError(
            f"{value!r} is for pixel values from 0 to 255, but Saccade uses 0 to 1",
            where="--mean",
            fix=f"write --mean {scaled}, and also divide --std by 255",
        )
    return red, green, blue


def _read_order(name: str, value: Any) -> str:
    return "bgr" if value else "rgb"


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "mean": read_colours,
    "std": read_colours,
    "bgr": _read_order,
    "holdout": _read_fraction,
    "minival": _read_fraction,
    "lr": _read_rate,
}
