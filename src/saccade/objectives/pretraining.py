"""Learning without labels: the common part of all methods of self-supervised pretraining."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn, Self

from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import UsageError
from saccade.models.parts.learner import Learner
from saccade.objectives.objective import Cell, Objective, Primary, Result
from saccade.objectives.page import Course, Measure
from saccade.units import human_count


@dataclass(frozen=True)
class Pretraining(Objective):
    """An encoder that learns from images only; the loss on held-out images is the primary figure.

    A method defines the learner (``wrap``), the processing of a cell (``prepare``) and the loss
    (``total_of_heads``). ``total_steps`` is the length of the run and ``epoch_steps`` that of an
    epoch, in optimiser steps.
    """

    total_steps: int = 1
    epoch_steps: float = 1.0

    needs_labels: ClassVar[bool] = False
    answers: ClassVar[bool] = False
    joins: ClassVar[bool] = False
    """Whether views of an image are pulled together, so that the representation can collapse."""
    normed: ClassVar[bool] = False
    """Whether what the loss sees comes out of a BatchNorm, which keeps its spread in a collapse."""
    noun: ClassVar[str] = "features"
    primary: ClassVar[Primary] = Primary(
        "loss", "loss", "loss on held-out images", higher_is_better=False, show=".4f"
    )
    measures: ClassVar[tuple[Measure, ...]] = (Measure("knn", "kNN top-1"),)
    curves_title: ClassVar[str] = "kNN of the frozen features"
    courses: ClassVar[tuple[Course, ...]] = (
        Course("rank", "Effective rank", "Number of directions that the features use."),
        Course(
            "spread",
            "Spread",
            "0 if all images get the same features, 1 if all directions are used evenly.",
        ),
    )

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run on these training images, whose labels it never sees."""
        return cls(("features",), config)

    def over(self, total_steps: int, epoch_steps: float) -> Self:
        """Return the objective of a run of so many steps, an epoch being so many of them."""
        return replace(self, total_steps=total_steps, epoch_steps=epoch_steps)

    # ------------------------------------------------------------------ what a method says

    @abstractmethod
    def wrap(self, network: nn.Module) -> Learner:
        """Return the learner around a network, with its own modules initialised from the seed.

        Raises ConfigError if this network cannot use the method.
        """

    def encoder(self, model: nn.Module) -> nn.Module:
        """Return the part of the learner that is saved at the end, under its own names."""
        assert isinstance(model, Learner)
        return model.encoder

    @abstractmethod
    def prepare(self, cell: Cell) -> tuple[Any, Any]:
        """Return the input of the learner's ``forward``, in any form, and the targets.

        Computed on the device. Every draw is a function of the seed and the counter keys.
        """

    @abstractmethod
    def total_of_heads(self, answer: Any, targets: Any, auxiliary_weight: float) -> Tensor:
        """Return the loss of the learner's output, summed over the images of a cell, a float32
        scalar.
        """

    # ------------------------------------------------------------------ what there is not

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the mean loss of a cell, a float32 scalar."""
        return self.total_of_heads(outputs, targets, 0.0) / len(outputs)

    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Raise UsageError: there are no logits (B, C)."""
        no_answers(self.name)

    def matched(self, split: Split) -> Split:
        """Raise UsageError: there are no classes to match."""
        no_answers(self.name)

    def judge(self, logits: Tensor, truth: Tensor) -> Result:
        """Raise UsageError: there are no logits (n, C)."""
        no_answers(self.name)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Raise UsageError: there are no logits (B, C)."""
        no_answers(self.name)

    def answer(self, probabilities: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
        """Raise UsageError: there are no probabilities (B, C)."""
        no_answers(self.name)

    # ------------------------------------------------------------------ what people read

    def shown(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the figures of a check for people: loss, kNN, rank and spread.

        Beside the loss is that of the best constant prediction, if it is a useful baseline.
        """
        beside = f" (a constant {figures['constant']:.4f})" if "constant" in figures else ""
        return [f"loss {figures['loss']:.4f}{beside}", *phrases(figures)]

    def details(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return names and values of the figures that are shown beside the loss."""
        found = [("images", f"{figures['n']:,.0f}")] if "n" in figures else []
        if "constant" in figures:
            found.append(("loss of the best constant answer", f"{figures['constant']:.4f}"))
        for phrase in phrases(figures):
            name, value = phrase.split(" ")
            found.append((name, value))
        return found

    def counted(self, figures: Mapping[str, Any]) -> str:
        """Say what the loss was measured on."""
        return human_count(figures["n"], "image")


def phrases(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures of an encoder for people: ``["kNN 46.20%", "rank 201", ...]``."""
    forms = {"knn": "kNN {:.2%}", "rank": "rank {:.1f}", "spread": "spread {:.2f}"}
    return [form.format(figures[name]) for name, form in forms.items() if name in figures]


def no_answers(method: str) -> NoReturn:
    """Raise UsageError: a pretrained encoder has no classes."""
    raise UsageError(
        f"this encoder was pretrained without labels ({method}): it returns features, not classes",
        fix="use `saccade probe RUN --data LABELLED` to evaluate the features, `saccade "
        "train --init RUN --data LABELLED` to train a classifier",
    )
