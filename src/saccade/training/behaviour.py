"""The user's own loss, optimiser, augmentation or objective, passed from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from saccade import objectives
from saccade.config.schema import Config
from saccade.data.augment.own_augment import Augment, OwnAugment
from saccade.data.sources import Split
from saccade.errors import ConfigError, UsageError
from saccade.findings import Finding
from saccade.listeners import name_of
from saccade.objectives.classification import Classification
from saccade.objectives.objective import Objective
from saccade.objectives.own_loss import Loss, OwnLoss
from saccade.optim import optimizers as optim
from saccade.optim import own_optimizer
from saccade.optim.optimizers import Optimizers
from saccade.optim.own_optimizer import Factory
from saccade.training import identity
from saccade.training.choices import Choice, Choices

_FORMS = {
    "loss": "loss(logits, targets), which returns the mean over the images, a scalar",
    "optimizer": "optimizer(parameters), which returns a torch.optim.Optimizer",
    "augment": "augment(image, generator), which returns an image like the one it gets",
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The user's own functions and objective; None where the settings decide.

    ``loss`` gets logits, float32 (B, C), and targets, int64 (B,), of a cell (micro-batch).
    ``optimizer`` gets the list of the trained parameters, ``augment`` an image, uint8 (H, W, 3),
    and a generator of numpy. ``objective`` is a class; each run makes its own instance.
    """

    loss: Loss | None = None
    optimizer: Factory | None = None
    augment: Augment | None = None
    objective: type[Objective] | None = None

    def check(self, lr: float | None = None) -> None:
        """Raise UsageError for arguments of a wrong kind; nothing is called.

        ``lr`` is the learning rate of the same call, if any.
        """
        if self.optimizer is not None and lr is not None:
            raise UsageError(
                "lr= has no effect on your own optimizer: it sets its own rate",
                where="lr",
                fix="set the rate in your function, and remove lr=",
            )
        if self.objective is not None:
            objectives.know(self.objective)
            if self.loss is not None:
                raise UsageError(
                    "loss= has no effect beside objective=: an objective has its own loss",
                    where="loss",
                    fix=f"remove loss=, or call it in {self.objective.__name__}.loss",
                )

        # what is handed over is not called here: a call could draw random numbers or count
        # something
        for name, value in self._given().items():
            if name == "objective":
                continue
            example = f"pass a function {_FORMS[name]}"
            # training works on a copy of the network, and this one would go on updating the
            # original
            if isinstance(value, torch.optim.Optimizer):
                kind = type(value).__name__
                raise UsageError(
                    f"{name}= is an optimizer instance: its parameters belong to your network, "
                    "but the run trains a copy",
                    where=name,
                    fix=(
                        "pass a function that makes it: lambda parameters: "
                        f"{kind}(parameters, lr=...)"
                    ),
                )
            # a class of optimisers is fine: calling it with the parameters makes one
            if isinstance(value, type) and name != "optimizer":
                what = f"{name}={value.__name__} is a class, not a function"
                raise UsageError(
                    what, where=name, fix=f"pass an instance: {name}={value.__name__}(...)"
                )
            if not callable(value):
                what = f"{name}={value!r} is not a function"
                raise UsageError(what, where=name, fix=example)

        # the optimiser gets the parameters of the network only
        if isinstance(self.loss, nn.Module) and any(
            p.requires_grad for p in self.loss.parameters()
        ):
            raise UsageError(
                "the loss has its own parameters, and nothing would train them",
                where="loss",
                fix="move them into the network, or call loss.requires_grad_(False)",
            )

    def unused(self, chosen: Sequence[str]) -> list[Finding]:
        """Warn of settings that the user has chosen but that have no effect on the user's own
        functions."""
        aside = [
            name
            for name in chosen
            if (self.loss is not None and name.startswith("loss."))
            or (
                self.optimizer is not None
                and (name.startswith("optimizer.") or name == "finetune.head_lr")
                and name != "optimizer.clip"
            )
        ]
        if not aside:
            return []
        beside = " and ".join(
            dict.fromkeys("loss=" if name.startswith("loss.") else "optimizer=" for name in aside)
        )
        text = f"{', '.join(aside)}: no effect together with your own {beside}"
        fix = "remove these settings, or do the same in your function"
        return [Finding("not-applied", "warning", text, where=aside[0], fix=fix)]

    def identity(self) -> dict[str, str]:
        """Return a digest of the content of each function and objective."""
        return {n: identity.identify_function(value) for n, value in self._given().items()}

    def names(self) -> dict[str, str]:
        """Return the name of each function and objective, for people."""
        return {n: name_of(value) for n, value in self._given().items()}

    def learned(self, config: Config, train: Split) -> Objective:
        """Return the objective for these training images, if the user has passed one or a loss.

        Raises ConfigError if a loss does not fit the labels.
        """
        if self.objective is not None:
            return _made(self.objective, config, train)
        # the labels decide what is learned; a loss of one's own only replaces how it is measured
        usual = objectives.build(config, train)
        if self.loss is None:
            return usual
        if not isinstance(usual, Classification):
            raise ConfigError(
                f"a loss of your own learns one class per image; these labels are for {usual.name}",
                where="loss",
                fix="remove loss=, or give each image one label",
            )
        return OwnLoss.handed(config, train, self.loss, name_of(self.loss))

    def optimizers(
        self, model: nn.Module, config: Config, device: torch.device, chosen: str = ""
    ) -> Optimizers:
        """Return the optimisers of a model, or the user's own optimiser."""
        if self.optimizer is None:
            return optim.build(model, config, device, chosen)
        return own_optimizer.build(model, self.optimizer, name_of(self.optimizer))

    def noted_in(self, choices: Choices) -> Choices:
        """Return the automatic choices; the user's own optimiser decides its own."""
        if self.optimizer is None:
            return choices
        return replace(choices, optimizer=Choice("own", "passed from Python"))

    def own_augment(self, seed: int) -> OwnAugment | None:
        """Return the augmentation with the seed of the run, or None."""
        if self.augment is None:
            return None
        return OwnAugment(self.augment, name_of(self.augment), seed)

    def _given(self) -> dict[str, Any]:
        pairs = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in pairs.items() if value is not None}


def _made(kind: type[Objective], config: Config, train: Split) -> Objective:
    """Make the user's own objective; raises ConfigError if it names no outputs."""
    made = kind.of(config, train)
    names = getattr(made, "outputs", None)
    texts = isinstance(names, tuple) and all(isinstance(one, str) and one for one in names)
    if not (isinstance(made, Objective) and texts and names and len(set(names)) == len(names)):
        raise ConfigError(
            (
                f"{kind.__name__}.of() must return an objective whose outputs are different names; "
                f"it returned: {names!r}"
            ),
            where="objective",
            fix="return cls(outputs, config), with outputs a tuple of different names, one for "
            "each number that the network answers",
        )
    return made


AS_SET = Behaviour()
"""Nothing was passed from Python: the settings decide everything."""
