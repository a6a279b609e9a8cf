"""A network for features: from a run or another program, with or without a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from saccade.evaluation.classifier import Classifier
from saccade.log import Log
from saccade.models.parts.embedding import NoHead
from saccade.runs import foreign
from saccade.runs.foreign import Expected
from saccade.runs.subject import Conditions, Subject


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network with trained weights and its preprocessing.

    ``name`` is for people, ``resolved`` has the automatic choices of its run, empty if there is
    none.
    """

    name: str
    classifier: Classifier
    resolved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_head(self) -> bool:
        """Whether it also has a head for predictions."""
        return not any(isinstance(part, NoHead) for part in self.classifier.network.modules())

    @classmethod
    def find(
        cls,
        weights: str | Path,
        expected: Expected,
        best: bool = False,
        *,
        log: Log,
        others: bool = False,
    ) -> Backbone:
        """Open a path or a library's name; ``NAME=FILE`` names the network of a file.

        ``expected`` is for weights from another program; with ``others`` beside it, it need not
        agree with own weights. Raises CheckpointError if there are no trained weights, or too few.
        """
        name, sep, file = str(weights).partition("=")
        if sep and not Path(str(weights)).exists() and Path(file).expanduser().exists():
            weights, expected = file, replace(expected, network=name)

        if others and foreign.is_ours(Path(weights).expanduser()):
            expected = Expected()
        if foreign.is_foreign(weights, expected):
            return cls(str(weights), foreign.encoder(weights, expected, log))
        subject = Subject.of(Path(weights).expanduser(), best)
        module = expected.network if isinstance(expected.network, nn.Module) else None
        return cls(str(weights), subject.classifier(module), subject.resolved)

    def conditions(self, devices: str = "auto", precision: str = "auto") -> Conditions:
        """Return how it computes: as its run did, unless something else is requested."""
        return Conditions.of(self.classifier.recipe, self.resolved, devices, precision)
