"""``state.json`` of a checkpoint, read as a stranger's: its version, its form, its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade import files, objectives, rng
from saccade._version import UPDATE, __version__
from saccade.errors import OtherVersionError
from saccade.objectives.objective import Primary

FORMAT = 1
"""The format of the checkpoints that this version writes and reads."""


class _Evaluation(BaseModel):
    """The fields of an evaluation that are used again."""

    step: int = Field(ge=0)
    epoch: float = 0.0
    split: str = ""
    views: int = 1


class _Choice(BaseModel):
    """One automatic choice."""

    value: str | int | bool | None
    reason: str = ""


class _Threads(_Choice):
    value: int = Field(ge=1, le=1024)


class _Choices(BaseModel):
    """The automatic choices that a resumed run takes over."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Choice]
    device: _Choice
    precision: _Choice
    optimizer: _Choice
    compute_threads: _Threads
    reader_threads: _Threads


class _Meta(BaseModel):
    """``state.json``, which is not trusted. Optional fields are checked if they are present."""

    format: int
    draws_version: int
    step: int = Field(ge=0, lt=100_000_000)
    layout: dict[str, dict[str, list[Annotated[int, Field(ge=0)]]]]
    evaluations: list[_Evaluation]
    skipped: list[int] = []
    position: int = 0
    attempt: int = Field(0, ge=0)
    seconds: float = Field(0, ge=0)
    dataset: str = ""
    config: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    lineage: list[Any] = []
    init: dict[str, Any] = {}
    untrained: dict[str, float] = {}
    sizes: list[dict[str, Any]] = []
    optimizer: dict[str, Any] = {}
    resolved: _Choices | None = None


def read(file: Path) -> dict[str, Any]:
    """Return ``state.json`` after checking its form; raises ValueError with the name of the
    field."""
    facts = files.read_json(file)
    # first: another format may have other fields
    if isinstance(facts, Mapping):
        _require_known(facts, file)
    try:
        _Meta.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(
            f"{file.name}, {'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
        ) from error
    _require_figures(facts, file)
    return dict(facts)


def _require_known(facts: Mapping[str, Any], file: Path) -> None:
    """Raise OtherVersionError unless format and random draws are those of this version."""
    for name, ours in (("format", FORMAT), ("draws_version", rng.DRAWS_VERSION)):
        theirs = facts.get(name)
        if not isinstance(theirs, int) or theirs == ours:
            continue
        if theirs > ours:
            age, fix = "a newer", UPDATE
        else:
            age = "an older"
            fix = (
                "finish the run with the version that began it; or copy ema.safetensors, or "
                "model.safetensors where there is none, to another folder, and start another run "
                "from it with --init"
            )
        raise OtherVersionError(
            f"{age} version of Saccade wrote this checkpoint: its {name} is {theirs}, and "
            f"{__version__} reads {ours}",
            where=str(file.parent),
            fix=fix,
        )


def primary_of(meta: Mapping[str, Any]) -> Primary:
    """Return the primary figure of a run, from the facts of one of its checkpoints.

    Raises CheckpointError if this version does not know the objective.
    """
    recipe = meta.get("recipe")
    known = recipe.get("objective") if isinstance(recipe, Mapping) else None
    return objectives.primary(str(known)) if known else objectives.primary()


def _require_figures(facts: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError if an evaluation lacks the primary figure."""
    name = primary_of(facts).name
    for place, entry in enumerate(facts["evaluations"]):
        value = entry.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{file.name}, evaluations.{place}.{name}: must be a number")
