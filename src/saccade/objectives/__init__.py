"""Objectives by name, and the choice of one by the labels of a data set.

An objective is one file here and one entry below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import CheckpointError, UsageError
from saccade.objectives.classification import Classification
from saccade.objectives.dino import Dino
from saccade.objectives.mae import Mae
from saccade.objectives.multi_label import MultiLabel
from saccade.objectives.objective import Objective, Primary
from saccade.objectives.pretraining import Pretraining
from saccade.objectives.simclr import SimClr
from saccade.objectives.simmim import SimMim

OBJECTIVES: tuple[type[Objective], ...] = (MultiLabel, Classification)
"""The first one that fits the labels is used."""

METHODS: dict[str, type[Pretraining]] = {kind.name: kind for kind in (Mae, SimMim, SimClr, Dino)}
"""Values of `pretrain.method` that learn without labels."""

_HANDED: dict[str, type[Objective]] = {}
"""Objectives passed from Python in this process, the latest of each name."""


def know(kind: type[Objective]) -> None:
    """Register the user's own objective, so that model files of this process can name it.

    Raises UsageError for an invalid or incomplete objective.
    """
    where = "objective"
    if isinstance(kind, Objective):
        what = f"objective={type(kind).__name__}(...) is an instance; each run makes its own"
        fix = f"pass the class: objective={type(kind).__name__}"
        raise UsageError(what, where=where, fix=fix)
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        what = (
            f"objective={getattr(kind, '__name__', repr(kind))} is not a subclass of "
            "saccade.Objective"
        )
        raise UsageError(
            what, where=where, fix="derive it from saccade.Objective: class Mine(saccade.Objective)"
        )

    named = isinstance(getattr(kind, "name", None), str) and bool(kind.name)
    decided = isinstance(getattr(kind, "primary", None), Primary)
    missing = [
        *sorted(getattr(kind, "__abstractmethods__", ())),
        *["name (a text)"] * (not named),
        *["primary (a saccade.Primary)"] * (not decided),
    ]
    if missing:
        raise UsageError(
            f"the objective {kind.__name__} does not define {', '.join(missing)}",
            where=where,
            fix=f"define them in {kind.__name__}; docs/objectives.md explains each",
        )
    if any(kind.name == one.name and kind is not one for one in OBJECTIVES):
        what = (
            f"the objective {kind.__name__} has the name '{kind.name}', which one of "
            "Saccade's objectives has"
        )
        raise UsageError(what, where=where, fix="give it another name")
    if kind not in OBJECTIVES:
        _HANDED[kind.name] = kind


def build(config: Config, train: Split) -> Objective:
    """Return the objective of a run on these training images."""
    if config.pretrain.method != "none":
        return METHODS[config.pretrain.method].of(config, train)
    return next(kind for kind in OBJECTIVES if kind.fits(train)).of(config, train)


def named(name: str, outputs: Sequence[str]) -> Objective:
    """Return an objective by its name in a model file, for evaluation and prediction.

    Raises CheckpointError for an unknown one.
    """
    for kind in (*OBJECTIVES, *METHODS.values(), *_HANDED.values()):
        if kind.name == name:
            return kind(tuple(outputs))
    raise CheckpointError(
        f"these weights were trained for '{name}', which is not a known objective",
        fix="for your own objective, use saccade.load(RUN, objective=ITS_CLASS) from Python; "
        "otherwise install the version that trained them (this one knows "
        f"{', '.join(kind.name for kind in OBJECTIVES)})",
    )


def primary(name: str = Classification.name) -> Primary:
    """Return the primary figure of an objective; raises CheckpointError as :func:`named`."""
    return named(name, ()).primary


def of_facts(facts: Mapping[str, Any]) -> Objective:
    """Return the objective that a ``run.json`` names.

    Runs without a name are classification, which was once the only objective.
    """
    dataset = facts.get("dataset")
    classes = dataset.get("classes") if isinstance(dataset, dict) else ()
    known = classes if isinstance(classes, list | tuple) else ()
    return named(str(facts.get("objective", Classification.name)), [str(name) for name in known])
