"""Masked images: some patches are hidden, and a network predicts them from the others.

This is what MAE (`mae.py`) and SimMIM (`simmim.py`) share: the hidden patches of a cell, a loss
over hidden pixels alone, and the pictures. Each image has the same number of hidden patches, so the
loss is a sum over images and does not depend on the split of a batch into cells.

Shapes: B batch, n visible patches of an image, S side of an image in pixels, h and w of the map of
patches.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.augment.mix import pixels
from saccade.data.sources import Split
from saccade.errors import ConfigError
from saccade.models import meta_model
from saccade.models.parts.network import Level
from saccade.models.parts.registry import is_known
from saccade.objectives.masks import Masking, masking
from saccade.objectives.objective import Cell
from saccade.objectives.pretraining import Pretraining


class Masked(NamedTuple):
    """Images and their hidden patches.

    ``images`` is float32 (B, 3, S, S), normalised; ``hidden`` bool (B, h, w); ``visible`` int64 (B,
    n), the places of the visible patches, row by row.
    """

    images: Tensor
    hidden: Tensor
    visible: Tensor


class Target(NamedTuple):
    """The target of hidden pixels, float32 (B, 3, S, S), and their mask, bool (B, 1, S, S)."""

    pixels: Tensor
    hidden: Tensor


@runtime_checkable
class Patched(Protocol):
    """A network whose input can be patches instead of images."""

    levels: tuple[Level, ...]

    def patches(self, images: Tensor) -> Tensor:
        """Return the embedded patches (B, h, w, C) of images (B, 3, S, S)."""
        ...

    def last_map(self, patches: Tensor) -> Tensor:
        """Return the last map (B, C', h', w'), normalised, for patches (B, h, w, C)."""
        ...


@dataclass(frozen=True)
class MaskedImages(Pretraining):
    """Learn to predict hidden patches from visible ones.

    ``patch`` is the side of the network's patches in pixels, 0 if unknown.
    """

    patch: int = 0

    joins: ClassVar[bool] = False
    columns_of_pictures: ClassVar[tuple[str, ...]] = ("original", "masked", "filled", "predicted")
    ratio: ClassVar[float]
    """Default fraction of hidden patches."""

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run with the network that the settings name."""
        # a network that was handed over has no name here: its patch is that of the settings
        patch = config.model.patch_size
        if is_known(config.model.name):
            network = meta_model(
                config.model.name, num_classes=1, image_size=config.data.image_size, **config.shape
            )
            patch = network.levels[0].stride if isinstance(network, Patched) else patch
        return cls(("features",), config, patch=patch)

    @abstractmethod
    def usual_unit(self) -> int:
        """Return the default side of a unit of the mask, in pixels."""

    @abstractmethod
    def target(self, images: Tensor) -> Tensor:
        """Return the target pixels of normalised images, both (B, 3, S, S)."""

    @abstractmethod
    def distance(self, difference: Tensor) -> Tensor:
        """Return the error of each pixel for differences from the target, of any shape (...)."""

    @abstractmethod
    def best_constant(self, target: Target) -> Tensor:
        """Return the one colour (3, 1, 1) that is the best guess for all hidden pixels."""

    @abstractmethod
    def as_pixels(self, predicted: Tensor, images: Tensor) -> Tensor:
        """Turn predictions into normalised pixels, all (B, 3, S, S), for a picture."""

    # ------------------------------------------------------------------ the step

    @property
    def masking(self) -> Masking:
        """How images are masked; raises ConfigError where units do not fill them."""
        section, side = self.config.pretrain, self.config.data.image_size
        unit = section.mask_unit or self.usual_unit()
        return masking(side, self.patch, unit, section.mask or self.ratio)

    def require_patches(self, network: nn.Module) -> tuple[Level, ...]:
        """Return the levels of a network; raises ConfigError unless it has these patches."""
        if not isinstance(network, Patched):
            raise ConfigError(
                f"{self.name} hides patches, but {type(network).__name__} of "
                f"{self.config.model.name} needs whole images",
                where="pretrain.method",
                fix="use a ViT or Swin of Saccade (vit_s_16, swin_t), or `simclr` for any network",
            )
        if network.levels[0].stride != self.patch:
            stride = network.levels[0].stride
            raise ConfigError(
                f"the patches of this network have {stride} px, but the settings say {self.patch}",
                where="model.patch_size",
                fix=f"--set model.patch_size={stride} (Python: model__patch_size={stride})",
            )
        self._require_single_images()
        # units that do not fit are known before the first step
        assert self.masking
        return network.levels

    def _require_single_images(self) -> None:
        """Raise ConfigError if images are mixed or their size changes: masks do not support this.

        A mixed image would depend on the others of its cell.
        """
        if set(self.config.augment.sizes) != {1.0}:
            what, where = (
                "masked methods need images of one size, but augment.sizes changes the size",
                "augment.sizes",
            )
            raise ConfigError(what, where=where, fix="--set augment.sizes=[1]")
        if self.config.augment.mixes:
            what, where = "masked methods cannot use mixed images", "augment.mixup"
            fix = "--set augment.mixup=0 --set augment.cutmix=0"
            raise ConfigError(what, where=where, fix=fix)

    def prepare(self, cell: Cell) -> tuple[Masked, Target]:
        """Hide patches of a cell, and return their content as the target."""
        images, _ = self.present(cell)
        hidden = self.masking.draw(self.config.seed, cell.epochs, cell.samples)
        visible = np.nonzero(~hidden.reshape(len(hidden), -1))[1].reshape(len(hidden), -1)

        seen = Masked(images, _on(images, hidden), _on(images, visible))
        return seen, Target(self.target(images), self._pixels_of(seen.hidden))

    def rows(self, inputs: Masked) -> int:
        """Return the number of images."""
        return len(inputs.images)

    def total_of_heads(self, answer: Tensor, targets: Target, auxiliary_weight: float) -> Tensor:
        """Return the sum over images of the mean over their hidden values, a float32 scalar.

        ``answer`` is (B, 3, S, S), what the learner predicts.
        """
        wrong = self.distance(answer.float() - targets.pixels)
        return (wrong * targets.hidden).sum() / self._hidden_values

    @property
    def _hidden_values(self) -> int:
        """Number of hidden values per image: three per pixel."""
        form = self.masking
        return 3 * form.hidden * (form.patches * self.patch) ** 2

    def _pixels_of(self, hidden: Tensor) -> Tensor:
        """Turn hidden patches (B, h, w) into hidden pixels (B, 1, S, S)."""
        rows = hidden.repeat_interleave(self.patch, 1)
        return rows.repeat_interleave(self.patch, 2)[:, None]

    # ------------------------------------------------------------------ evaluation

    def constant(self, cell: Cell) -> Tensor | None:
        """Return the loss of the best constant prediction, summed over a cell, a scalar."""
        _, target = self.prepare(cell)
        guess = self.best_constant(target).expand_as(target.pixels)
        return self.total_of_heads(guess, target, 0.0)

    def pictures(self, model: nn.Module, cell: Cell) -> Tensor | None:
        """Return the columns of a picture of each image, uint8 (n, 4, 3, S, S).

        They are the image, its visible part, that part with predicted patches, and the full
        prediction.
        """
        seen, target = self.prepare(cell)
        section = self.config.data
        predicted, original = (
            pixels(images, section.mean, section.std, section.channels)
            for images in (self.as_pixels(model(seen).float(), seen.images), seen.images)
        )

        # grey is no colour that anybody takes for a guess
        masked = torch.where(target.hidden, torch.full_like(original, 128), original)
        filled = torch.where(target.hidden, predicted, original)
        return torch.stack([original, masked, filled, predicted], 1)


def _on(images: Tensor, values: Any) -> Tensor:
    """Return an array of any shape (...) on the device of the images."""
    return torch.from_numpy(values).to(images.device, non_blocking=True)
