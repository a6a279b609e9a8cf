"""Joint embedding: the common part of methods that learn the same embedding for views of an
image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.augment.mix import pixels
from saccade.data.sources import Split
from saccade.errors import ConfigError
from saccade.objectives.objective import Cell
from saccade.objectives.pretraining import Pretraining


@dataclass(frozen=True)
class JointEmbedding(Pretraining):
    """Views of an image are side by side in a cell (micro-batch), among those of other images."""

    joins: ClassVar[bool] = True
    columns_of_pictures: ClassVar[tuple[str, ...]] = ("the large views, which are compared",)

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run on these training images, whose labels it never sees.

        Raises ConfigError if an image has only one view, or if views are mixed with other images.
        """
        section = config.augment
        if section.repeats < 2:
            raise ConfigError(
                f"{cls.name} compares views of an image, but augment.repeats={section.repeats} "
                "gives only one",
                where="augment.repeats",
                fix="set augment.repeats=2, as the recipe of the method does",
            )
        if section.mixes:
            raise ConfigError(
                f"{cls.name} compares views of one image, but mixup and cutmix mix two images",
                where="augment.mixup, augment.cutmix",
                fix="set both to 0",
            )
        return super().of(config, train)

    def pictures(self, model: nn.Module, cell: Cell) -> Tensor | None:
        """Return the large views of each image, uint8 (B / views, views, 3, S, S)."""
        images, section = self.present(cell)[0], self.config.data
        shown = pixels(images, section.mean, section.std, section.channels)
        return shown.view(-1, self.views, *shown.shape[1:])

    @property
    def views(self) -> int:
        """Number of views of an image side by side."""
        return self.config.augment.repeats
