"""A network whose features are wanted: of a run of ours, of others, with a head or without."""

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
    """A network with trained weights and what must be known to give it images.

    ``name`` is what people call it, ``resolved`` how its run computed, empty where there is none.
    """

    name: str
    classifier: Classifier
    resolved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_head(self) -> bool:
        """Whether it answers, too, and not only with features."""
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
        """Find what a path or a library's name means; ``NAME=FILE`` names the network of a file.

        ``expected`` is for weights of others; with ``others`` beside it, those of ours need not
        agree with it. Raises CheckpointError where there are no trained weights, or too few.
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
        """Say how it computes: as its run did, unless something else is asked for."""
        return Conditions.of(self.classifier.recipe, self.resolved, devices, precision)
