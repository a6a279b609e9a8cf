"""The records of a run folder, read without trust: ``run.json`` and ``config.yaml``, checked field
by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade import files, objectives
from saccade._version import UPDATE, __version__, is_newer
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.errors import CheckpointError, ConfigError, OtherVersionError


class _Open(BaseModel):
    """A group of facts; newer versions add fields."""

    model_config = ConfigDict(extra="allow")


class _Dataset(_Open):
    name: str
    train: int = Field(ge=0)
    val: int = Field(ge=0)
    classes: list[str]
    fingerprint: str


class _Result(_Open):
    n: int = Field(ge=0)
    split: str


class _Best(_Open):
    step: int = Field(ge=0)
    epoch: float = Field(ge=0)
    note: str = ""


class _Facts(_Open):
    """The part of ``run.json`` that is used again."""

    status: str
    dataset: _Dataset
    findings: list[dict[str, Any]] = []
    lineage: list[dict[str, Any]] = []
    seconds: float = Field(0, ge=0)
    result: _Result | None = None
    best: _Best | None = None


def facts(folder: Path) -> dict[str, Any] | None:
    """Return ``run.json`` after checking its form, None if there is none.

    Raises CheckpointError with the name of an invalid field: to continue could overwrite results.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        found = files.read_json(path)
        checked = _Facts.model_validate(found)
        if checked.status == "done" and checked.result is None:
            raise ValueError("result: a finished run has one")
        _require_figures(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise _odd(path, f"{place}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise _odd(path, str(error)) from error
    # as it was read, with what other versions added: writing it again must not lose that
    return dict(found)


def _require_figures(found: Mapping[str, Any]) -> None:
    """Raise ValueError if the result or the best evaluation lacks the primary figure."""
    name = objectives.of_facts(found).primary.name
    for part in ("result", "best"):
        figures = found.get(part)
        if figures is not None and not isinstance(figures.get(name), int | float):
            raise ValueError(f"{part}.{name}: must be a number")


def settings(folder: Path) -> Config | None:
    """Return the settings in ``config.yaml``, None where there is none.

    Raises CheckpointError naming the field.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return None
    layers = Layers()
    try:
        layers.add_file(path)
        return layers.resolve()
    except ConfigError as error:
        raise _odd(path, error.what) from error


def resolved(tree: Mapping[str, Any], path: Path) -> Config:
    """Return the settings that a checkpoint holds in its file ``path``.

    Raises CheckpointError naming the field.
    """
    layers = Layers()
    try:
        layers.add(tree, str(path))
        return layers.resolve()
    except ConfigError as error:
        raise _odd(path, f"config: {error.what}") from error


def _odd(path: Path, reason: str) -> CheckpointError:
    if writer := _newer_writer(path.parent):
        return OtherVersionError(
            f"Saccade {writer} wrote this run, and {__version__} cannot read it: {reason}",
            where=str(path),
            fix=UPDATE,
        )
    return CheckpointError(
        f"this file was changed or damaged: {reason}",
        where=str(path),
        fix=(
            "restore it from a backup; or delete it: the same `saccade train` command then "
            "continues from the newest checkpoint"
        ),
    )


def _newer_writer(folder: Path) -> str:
    """Return the version that wrote a run, where it is newer than this one; else nothing."""
    try:
        facts = files.read_json(folder / "run.json")
    except (OSError, ValueError):
        return ""
    writer = facts.get("saccade") if isinstance(facts, Mapping) else None
    return writer if isinstance(writer, str) and is_newer(writer) else ""
