"""Classification with the user's own loss; everything else is unchanged."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.data.sources.label_sets import are_sets
from saccade.errors import ConfigError
from saccade.objectives.classification import Classification, Mixed
from saccade.objectives.objective import Objective

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OwnLoss(Classification):
    """Minimises ``own(logits, targets)``, which is ``called`` so: the mean loss of a cell.

    The function gets logits, float32 (B, C), and targets, int64 (B,). If a cell is mixed (mixup,
    cutmix), it is called for both sets of targets, and the results are weighted like the images.
    The settings ``loss.*`` do not apply.
    """

    own: Loss | None = None
    called: str = ""

    @classmethod
    def fits(cls, train: Split) -> bool:
        """Never chosen automatically: the user passes it."""
        return False

    @classmethod
    def handed(cls, config: Config, train: Split, own: Loss, called: str) -> OwnLoss:
        """Return the objective of a run on these images with the user's own loss of logits (B, C)
        and targets (B,).

        Raises ConfigError if images have several labels.
        """
        if are_sets(train.classes):
            raise ConfigError(
                (
                    f"the loss {called} is for one class per image, but these images have several "
                    "labels"
                ),
                where="loss",
                fix="remove loss=: binary cross-entropy is used",
            )
        return cls(train.classes, config, None, own, called)

    def loss(self, outputs: Tensor, targets: Mixed) -> Tensor:
        """Return the user's mean loss of a cell, a float32 scalar; raises ConfigError."""
        logits, labels, lam = outputs.float(), targets.labels, targets.lam
        own = self._checked(logits, labels)
        if lam == 1.0:
            return own
        return lam * own + (1 - lam) * self._checked(logits, labels.flip(0))

    def total(self, outputs: Tensor, targets: Mixed) -> Tensor:
        """Return the same, summed over the images of a cell, a float32 scalar."""
        return Objective.total(self, outputs, targets)

    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the user's loss without mixing, a float32 scalar.

        Raises ConfigError if it is not finite before training, or depends on parameters that no
        step changes: its own, or those of a network of which the run trains a copy.
        """
        with torch.enable_grad():
            loss = self._checked(outputs.float().detach(), labels)
        if loss.requires_grad:
            raise self._error(
                "depends on parameters that are not trained",
                fix="the run trains a copy of the network: move parameters of the loss into "
                "the network, and regularise in optimizer=; or call "
                "requires_grad_(False) on them",
            )
        if not bool(torch.isfinite(loss)):
            raise self._error(f"returned {float(loss)} for the first images")
        return loss

    def _checked(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Call the function, and refuse an unusable result."""
        assert self.own is not None, "made by handed() alone"
        try:
            # copies, which it may change: a mixed cell needs both a second time
            loss = self.own(logits.clone(), labels.clone())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any code may run here
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            raise self._error(f"failed: {type(error).__name__}: {error}", place) from error

        if not isinstance(loss, Tensor):
            raise self._error(f"returned a {type(loss).__name__} instead of a tensor")
        # one number in a vector of length one is taken, as torch's own .backward() does
        if loss.dim() and loss.numel() > 1:
            shape = tuple(loss.shape)
            raise self._error(f"returned {shape} numbers instead of one; a .mean() may be missing")
        if not loss.is_floating_point():
            raise self._error(f"returned {loss.dtype}, but a loss must be a floating-point number")
        if loss.device != logits.device:
            raise self._error(
                f"returned a tensor on {loss.device}, but the logits are on {logits.device}"
            )
        if torch.is_grad_enabled() and logits.requires_grad and not loss.requires_grad:
            what = "returned a number without gradients; check for .detach() and .item()"
            raise self._error(what)
        return loss.float().reshape(())

    def _error(self, what: str, place: str = "", fix: str = "") -> ConfigError:
        return ConfigError(
            f"the loss {self.called} {what}",
            where=place or "loss",
            fix=fix
            or "it gets logits, float32 (B, C), and targets, int64 (B,), on one device, and "
            "returns the mean over the images, a scalar with gradients",
            finding="loss-fails",
        )

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """Unknown: NaN, and the name of the function."""
        return float("nan"), self.called
