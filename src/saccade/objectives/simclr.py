"""SimCLR: a view of an image must be distinguished from all other images of its cell.

Chen et al. 2020, *A Simple Framework for Contrastive Learning of Visual Representations*, arXiv
2002.05709. For every network; convolutional ones learn most in little time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import ConfigError
from saccade.models.parts.contrastive import ContrastiveLearner
from saccade.models.parts.learner import Learner, draw, headless
from saccade.objectives.joint_embedding import JointEmbedding
from saccade.objectives.joint_losses import constant_contrast, contrast
from saccade.objectives.objective import Cell


@dataclass(frozen=True)
class SimClr(JointEmbedding):
    """The contrastive loss of a projector's outputs; negatives are the other images of a cell."""

    name: ClassVar[str] = "simclr"
    normed: ClassVar[bool] = True

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective; raises ConfigError also if a cell (micro-batch) is one image."""
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

    def constant(self, cell: Cell) -> Tensor | None:
        """Return the loss if all views of a cell have the same embedding, a scalar."""
        return torch.tensor(constant_contrast(len(cell.images)), device=cell.images.device)

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """The loss if all views of a cell have the same embedding: ln(cell - 1)."""
        others = self.config.cell - 1
        return math.log(others), f"ln({others})"

    def announced(self) -> list[tuple[str, str]]:
        """Say how many views a view is compared with: those of its cell."""
        count, cell, batch = self.negatives, self.config.cell, self.config.batch.global_
        text = f"each view is compared with {count:,} others of its cell (micro-batch)"
        if cell < batch:
            text += f"; a larger batch.cell uses more of the {batch:,} views in a batch"
        return [("negatives", text)]

    @property
    def negatives(self) -> int:
        """Number of views of other images that each view is compared with."""
        return self.config.cell - self.views

    def facts(self) -> dict[str, Any]:
        """Return its facts for ``run.json``: the number of views that each is compared with."""
        return {**super().facts(), "negatives": self.negatives}
