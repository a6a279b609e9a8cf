"""Objectives by name, and which one the labels of a set ask for.

An objective is one file here and one entry below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import CheckpointError
from saccade.objectives.classification import Classification
from saccade.objectives.multi_label import MultiLabel
from saccade.objectives.objective import Objective, Primary

OBJECTIVES: tuple[type[Objective], ...] = (MultiLabel, Classification)
"""The first that fits the labels is taken."""


def build(config: Config, train: Split) -> Objective:
    """Return what a run on these training images learns."""
    return next(kind for kind in OBJECTIVES if kind.fits(train)).of(config, train)


def named(name: str, outputs: Sequence[str]) -> Objective:
    """Return an objective by its name in a model file, to judge and to answer.

    Raises CheckpointError for one that is not known here.
    """
    for kind in OBJECTIVES:
        if kind.name == name:
            return kind(tuple(outputs))
    raise CheckpointError(
        f"these weights were trained for '{name}', which this version does not know",
        fix=f"it knows {', '.join(kind.name for kind in OBJECTIVES)}; install the version that "
        "trained them",
    )


def primary(name: str = Classification.name) -> Primary:
    """Return the figure that decides for an objective; raises CheckpointError as :func:`named`."""
    return named(name, ()).primary


def of_facts(facts: Mapping[str, Any]) -> Objective:
    """Return the objective that a ``run.json`` names.

    Runs that say nothing are of classification, the only one there was.
    """
    dataset = facts.get("dataset")
    classes = dataset.get("classes") if isinstance(dataset, dict) else ()
    known = classes if isinstance(classes, list | tuple) else ()
    return named(str(facts.get("objective", Classification.name)), [str(name) for name in known])
