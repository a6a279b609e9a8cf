"""SimCLR: a view of an image is to be told from all other images of its cell.

Chen et al. 2020, *A Simple Framework for Contrastive Learning of Visual Representations*, arXiv
2002.05709. For every network; convolutional ones learn most in little time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import ConfigError
from saccade.models.parts.contrastive import ContrastiveLearner
from saccade.models.parts.learner import Learner, draw, headless
from saccade.objectives.joint_embedding import JointEmbedding
from saccade.objectives.joint_losses import contrast
from saccade.objectives.objective import Cell


@dataclass(frozen=True)
class SimClr(JointEmbedding):
    """The contrastive loss of a projector's outputs; negatives are the other images of a cell."""

    name: ClassVar[str] = "simclr"
    normed: ClassVar[bool] = True

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective; raises ConfigError also where a cell (micro-batch) is one image."""
        if config.cell <= config.augment.repeats:
            raise ConfigError(
                "simclr compares an image with the others of its cell (micro-batch), but a cell "
                f"of {config.cell} views has only one image",
                where="batch.cell",
                fix=f"use larger cells (--set batch.cell=64), more than these {len(train):,} "
                "images, or another method (mae)",
            )
        return super().of(config, train)

    def wrap(self, network: nn.Module) -> Learner:
        """Return the network without its head, and a projector behind it.

        Raises ConfigError where the network does not end in a linear layer.
        """
        encoder, width = headless(network)
        learner = ContrastiveLearner(encoder, width, self.config.pretrain.projector)
        draw(learner.projector, self.config.seed, "projector")
        return learner

    def prepare(self, cell: Cell) -> tuple[Tensor, None]:
        """Return the normalised views (B, 3, S, S); they are their own targets."""
        return self.present(cell)[0], None

    def total_of_heads(self, answer: Any, targets: Any, auxiliary_weight: float) -> Tensor:
        """Return the contrastive loss of projections (B, p), summed over the views."""
        return contrast(answer, self.views, self.config.pretrain.temperature)

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """The loss where all views of a cell look alike: ln(cell - 1)."""
        others = self.config.cell - 1
        return math.log(others), f"ln({others})"

    def announced(self) -> list[tuple[str, str]]:
        """Say which images a view is told from: a cell is where they all are."""
        count, cell, batch = self.negatives, self.config.cell, self.config.batch.global_
        text = f"each view is compared with {count:,} others of its cell (micro-batch)"
        if cell < batch:
            text += f"; a larger batch.cell uses more of the {batch:,} views in a batch"
        return [("negatives", text)]

    @property
    def negatives(self) -> int:
        """How many views of other images each view is told from."""
        return self.config.cell - self.views

    def facts(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it: how many views each is told from."""
        return {**super().facts(), "negatives": self.negatives}
