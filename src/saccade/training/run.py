"""A run that is ready to step: its plan, its tools, and its changing state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from saccade.config.schema import Config
from saccade.data.decoded_cache import Decoded
from saccade.data.loader import TrainingView
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.distributed.world import ALONE, World
from saccade.errors import DiskError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.evaluation.representation import Means, Sample
from saccade.models import meta_model
from saccade.models.parts.cost import cost
from saccade.objectives.objective import Objective
from saccade.training.behaviour import AS_SET, Behaviour
from saccade.training.choices import Choices
from saccade.training.datasets import Data
from saccade.training.held_features import HeldFeatures
from saccade.training.pending_save import PendingSave
from saccade.training.state import State
from saccade.training.step import StepRunner

NAMED: Mapping[str, str] = {}
"""The identity of a network that is known by its name."""


@dataclass(frozen=True)
class Plan:
    """The decisions about a run before its first step.

    ``view`` is the order and preprocessing of the training images, ``recipe`` the preprocessing of
    the classifier, ``objective`` what is learned and how it is evaluated. ``total_steps`` is the
    length of the run in optimiser steps. ``behaviour`` holds the user's own functions from Python.
    """

    config: Config
    data: Data
    folder: Path
    choices: Choices
    view: TrainingView
    recipe: Recipe
    objective: Objective
    total_steps: int
    world: World = ALONE
    behaviour: Behaviour = AS_SET

    @cached_property
    def device(self) -> torch.device:
        """The device that computes."""
        return torch.device(self.choices.device.value)

    @cached_property
    def looked_at(self) -> Sample:
        """The images on which an encoder without labels is checked."""
        return Sample.of(self.data.train, self.data.chosen_on, self.config)

    @property
    def precision(self) -> str:
        """The number format of the forward pass."""
        return self.choices.precision.value

    @property
    def global_batch(self) -> int:
        """Images per optimiser step."""
        return self.config.batch.global_

    @property
    def epoch_size(self) -> int:
        """Training images in an epoch."""
        return self.view.order.epoch_size

    @property
    def holds_features(self) -> bool:
        """Tell whether features are computed once; this is impossible with mixed images."""
        section = self.config.finetune
        return section.holds and not self.config.augment.mixes and self.objective.answers

    def position(self, step: int) -> int:
        """Return how many samples were consumed after ``step`` steps."""
        return self.view.order.offset + step * self.global_batch

    def epochs_done(self, step: int) -> float:
        """Return how many epochs were consumed after ``step`` steps."""
        return self.position(step) / self.epoch_size

    @property
    def final_is_candidate(self) -> bool:
        """Tell whether the final evaluation is like those during training: same images, one view.

        Only then can the best be chosen among all of them.
        """
        return self.data.chosen_on is self.data.val and self.recipe.eval_views == 1

    def evaluation_is_due(self, step: int) -> bool:
        """Tell whether a round, a part of pretraining, or the run ended in the last step."""
        # else the same weights would be judged twice on the same images
        if step == self.total_steps:
            return not self.final_is_candidate
        if not self.objective.answers:
            looks = self.config.pretrain.evaluations
            return step > 0 and step * looks // self.total_steps > (
                (step - 1) * looks // self.total_steps
            )
        return step > 0 and self.rounds_done(step) > self.rounds_done(step - 1)

    def rounds_done(self, step: int) -> int:
        """Return how many rounds were completed after ``step`` steps: an evaluation follows each.

        A round is one epoch. In a set with fewer training images than an evaluation has, it is as
        many epochs as show the network that many images, unless ``data.epoch_size`` asks otherwise.
        """
        # else evaluations would take most of the time of a small set judged on a large one
        is_asked = self.config.data.epoch_size != 0
        epochs = 1 if is_asked else max(-(-len(self.data.chosen_on) // self.epoch_size), 1)
        return int(self.epochs_done(step)) // epochs


@dataclass(slots=True)
class History:
    """The history of a run over all its attempts; it is stored in its folder and checkpoints.

    ``attempts`` are the numbers of the attempts of this process, ``lineage`` the changes of
    settings in mid-run, ``init`` the weights that the run began with. ``network`` is the identity
    of the user's own network, empty for a registered one. ``untrained`` are the figures of an
    encoder before pretraining. ``pending_save`` is the checkpoint that is being written beside the
    steps; ``failed_saves`` are those since the last successful one. ``sizes`` are figures at
    several image sizes, before and after.
    """

    network: dict[str, str] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    untrained: dict[str, Any] = field(default_factory=dict)
    sizes: list[dict[str, Any]] = field(default_factory=list)
    pending_save: PendingSave | None = None
    failed_saves: list[DiskError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to step.

    ``plan`` has the decisions. ``stepper`` and ``readers`` do the work, ``decoded`` caches small
    images of splits that are evaluated often; ``features`` replace the images if the backbone is
    frozen. ``state`` and ``history`` change.
    """

    plan: Plan
    stepper: StepRunner
    readers: Readers
    state: State
    history: History = field(default_factory=History)
    decoded: dict[Split, Decoded | None] = field(default_factory=dict)
    features: HeldFeatures | None = None

    def held(self, split: Split) -> Decoded | None:
        """Return the cache for images of a split that is evaluated after every epoch, None if they
        are large.
        """
        # None is kept, too: whether images are small is found out by reading one
        if split not in self.decoded:
            self.decoded[split] = Decoded.of(split, self.plan.config.data.exif)
        return self.decoded[split]

    def means(self) -> Means:
        """Return the tools for a check of a learner."""
        plan = self.plan
        return Means(
            plan.objective,
            plan.recipe,
            plan.config,
            self.readers,
            precision=plan.precision,
            device=plan.device,
            world=plan.world,
        )

    def classifier(self) -> Classifier:
        """Return the model as it would be saved now."""
        return Classifier(self.plan.objective.encoder(self.state.final_model), self.plan.recipe)


def image_macs(config: Config, num_classes: int = 10) -> int:
    """Return the multiply-accumulates of one image's forward pass through a registered network."""
    side = config.data.image_size
    model = meta_model(config.model.name, num_classes=num_classes, image_size=side, **config.shape)
    return cost(model, side).macs
