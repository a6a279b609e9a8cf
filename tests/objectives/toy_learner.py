"""A method of pretraining that is quick to run: features that tell the mean colour of an image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saccade.models.parts.learner import Learner, draw, headless
from saccade.objectives.objective import Cell
from saccade.objectives.pretraining import Pretraining


class ToyLearner(Learner):
    """An encoder, a linear layer, a teacher that follows it, and a statistic of what that says."""

    running_centre: Tensor

    def __init__(self, encoder: nn.Module, width: int, seed: int) -> None:
        super().__init__(encoder)
        self.colours = nn.Linear(width, 3)
        self.teacher = nn.Linear(width, 3).requires_grad_(False)
        self.register_buffer("running_centre", torch.zeros(3))
        for name in ("colours", "teacher"):
            draw(self.get_submodule(name), seed, name)

    def start(self) -> None:
        self.teacher.load_state_dict(self.colours.state_dict())

    def project(self, features: Tensor) -> Tensor:
        return self.colours(features)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if self.training:
            with torch.no_grad():
                self.running_centre.lerp_(self.teacher(features).float().mean(0), 0.1)
        return self.project(features)


class Toy(Pretraining):
    """Squared error of the mean colour of the normalised image."""

    name: ClassVar[str] = "simclr"

    def wrap(self, network: nn.Module) -> Learner:
        return ToyLearner(*headless(network), self.config.seed)

    def prepare(self, cell: Cell) -> tuple[Tensor, Tensor]:
        images, _ = self.present(cell)
        return images, images.mean((2, 3))

    def total_of_heads(self, answer: Any, targets: Any, auxiliary_weight: float) -> Tensor:
        return ((answer.float() - targets) ** 2).mean(1).sum()

    def constant(self, cell: Cell) -> Tensor:
        _, colours = self.prepare(cell)
        return ((colours - colours.mean(0)) ** 2).mean(1).sum()

    def after_update(self, model: nn.Module, step: int, good: Tensor) -> None:
        assert isinstance(model, ToyLearner)
        pairs = zip(model.teacher.parameters(), model.colours.parameters(), strict=True)
        with torch.no_grad():
            for theirs, ours in pairs:
                theirs.lerp_(ours, 0.1 * good.float())
