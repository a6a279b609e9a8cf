"""One evaluation of a run: stored, compared and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from saccade.objectives.objective import Primary

_PLACE = ("step", "epoch", "split", "views")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one split after ``step`` optimiser steps, with ``views`` of each image.

    ``figures`` are numbers by name; ``primary`` is the one that chooses the best. ``final`` is the
    evaluation of the saved weights.
    """

    step: int
    epoch: float
    split: str
    views: int
    figures: Mapping[str, Any]
    primary: Primary
    final: bool = False

    @property
    def value(self) -> float:
        """The primary figure."""
        return float(self.figures[self.primary.name])

    @property
    def shown(self) -> str:
        """The primary figure for people: ``98.06%``."""
        return self.primary.shown(self.figures)

    def score(self, watch: str = "") -> float:
        """Return a number that is higher for a better evaluation.

        It is from the primary figure, or from the loss if that is watched.
        """
        if watch == "loss":
            return -float(self.figures["loss"])
        return self.primary.score(self.figures)

    def to_json(self) -> dict[str, Any]:
        """Return the form in checkpoints, ``run.json`` and ``log.jsonl``."""
        return {name: getattr(self, name) for name in _PLACE} | dict(self.figures)

    @classmethod
    def parse(cls, entry: Mapping[str, Any], primary: Primary) -> Self:
        """Read the form of :meth:`to_json`; earlier versions have fewer fields."""
        figures = {name: value for name, value in entry.items() if name not in _PLACE}
        return cls(
            int(entry["step"]),
            float(entry.get("epoch", 0.0)),
            str(entry.get("split", "")),
            int(entry.get("views", 1)),
            figures=figures,
            primary=primary,
        )


def best_of(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """Return the evaluation with the best primary figure, the earliest of equals.

    None where there is none.
    """
    return max(evaluations, key=lambda e: (e.score(), -e.step), default=None)
