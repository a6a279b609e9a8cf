"""What exported files return: a classifier's logits, or an encoder's features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.data.sources import Split
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.views import mean_logits
from saccade.models.parts.embedding import embed
from saccade.objectives.objective import Objective, Result


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a network with an objective: logits, or features if it has no head."""

    objective: Objective

    @classmethod
    def of(cls, recipe: Recipe) -> Outputs:
        """Return the outputs of a network with this recipe."""
        return cls(recipe.learned)

    @property
    def are_features(self) -> bool:
        """Whether the network is an encoder without a head."""
        return not self.objective.answers

    @property
    def name(self) -> str:
        """The name of the output in a file."""
        return "features" if self.are_features else "logits"

    @property
    def noun(self) -> str:
        """The name of the network for people."""
        return "encoder" if self.are_features else "classifier"

    def asked(self, network: nn.Module, images: Tensor, views: int) -> Tensor:
        """Return the outputs, float32 (B, k), of normalised images, float32 (B, 3, S, S).

        Logits are the mean over ``views`` of each image. Features are those of ``saccade embed``.
        """
        if self.are_features:
            return embed(network, images).float()
        return mean_logits(network, images, views)

    def matched(self, split: Split) -> Split:
        """Return the same images with labels in the order of the outputs, if labels are needed.

        Raises DataError on a label that is not among them.
        """
        return split if self.are_features else self.objective.matched(split)

    def judged(self, outputs: Tensor, split: Split) -> Result:
        """Return outputs, float32 (n, k), of a matched split with their figures.

        Without labels the number of images is the only figure. Raises DivergedError and DataError.
        """
        if self.are_features:
            return Result({"n": len(outputs)}, outputs, torch.empty(0))
        return self.objective.judge(outputs, self.objective.truth(split))
