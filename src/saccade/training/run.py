"""A run that is ready to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saccade.config.schema import Config
from saccade.data.decoded_cache import Decoded
from saccade.data.loader import Readers, TrainingView
from saccade.data.sources import Split
from saccade.distributed.world import ALONE, World
from saccade.errors import DiskError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import meta_model
from saccade.models.parts.cost import cost
from saccade.objectives.objective import Objective
from saccade.training.datasets import Data
from saccade.training.state import State
from saccade.training.step import StepRunner

NAMED: Mapping[str, str] = {}
"""The identity of a network that is known by its name."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to step."""

    config: Config
    data: Data
    folder: Path
    resolved: dict[str, dict[str, Any]]
    state: State
    stepper: StepRunner
    view: TrainingView
    readers: Readers
    recipe: Recipe
    total_steps: int
    device: torch.device
    world: World = ALONE
    findings: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    init: dict[str, Any] = field(default_factory=dict)
    failed_saves: list[DiskError] = field(default_factory=list)
    decoded: dict[Split, Decoded | None] = field(default_factory=dict)
    network: dict[str, str] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """The number format of the forward pass."""
        return str(self.resolved["precision"]["value"])

    @property
    def objective(self) -> Objective:
        """What is learned, and how it is measured."""
        return self.stepper.objective

    @property
    def global_batch(self) -> int:
        """Images per optimiser step."""
        return self.config.batch.global_

    def position(self, step: int) -> int:
        """Return how many samples were consumed after ``step`` steps."""
        return self.view.order.offset + step * self.global_batch

    def epochs_done(self, step: int) -> float:
        """Return how many epochs were consumed after ``step`` steps."""
        return self.position(step) / self.view.order.epoch_size

    @property
    def final_is_candidate(self) -> bool:
        """Tell whether the figure at the end is made like those on the way: same images, one view.

        Only then may the best be chosen among all of them.
        """
        return self.data.chosen_on is self.data.val and self.recipe.eval_views == 1

    def evaluation_is_due(self, step: int) -> bool:
        """Tell whether an epoch ended in the last step, or the run.

        There the final figure may do.
        """
        if step == self.total_steps:
            return not self.final_is_candidate
        return step > 0 and int(self.epochs_done(step)) > int(self.epochs_done(step - 1))

    def held(self, split: Split) -> Decoded | None:
        """Return what holds the images of a split that is judged after every epoch, if they are
        small.
        """
        if split not in self.decoded:
            self.decoded[split] = Decoded.of(split, self.config.data.exif)
        return self.decoded[split]

    def classifier(self) -> Classifier:
        """Return the model as it would be saved now."""
        return Classifier(self.state.final_model, self.recipe)


def image_macs(config: Config, num_classes: int = 10) -> int:
    """Return the multiply-accumulates of one image's forward pass through a network that is
    known by its name.
    """
    side = config.data.image_size
    return cost(
        meta_model(config.model.name, num_classes=num_classes, image_size=side, **config.shape),
        side,
    ).macs
