"""The interface between an objective and the code that trains, evaluates and shows it.

Loop, step, resume, ranks, guard, checkpoints and report use an :class:`Objective` and do not know
which one it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.augment.chain import present
from saccade.data.sources import Split
from saccade.errors import ConfigError, DivergedError
from saccade.findings import Finding
from saccade.objectives.page import Course, Measure, Part, Seen
from saccade.units import human_count

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Primary:
    """The primary figure: it chooses the best evaluation and is shown first.

    ``name`` is its key among the figures, ``title`` its short name for people, ``long`` its full
    name; ``show`` is a format such as ``.2%``.
    """

    name: str
    title: str
    long: str
    higher_is_better: bool = True
    show: str = ".2%"

    def score(self, figures: Mapping[str, Any]) -> float:
        """Return the figure, with a sign so that higher is better."""
        value = float(figures[self.name])
        return value if self.higher_is_better else -value

    def shown(self, figures: Mapping[str, Any]) -> str:
        """Return the figure for people: ``98.06%``."""
        return format(float(figures[self.name]), self.show)

    def parted(self, figures: Mapping[str, Any]) -> tuple[str, str]:
        """Return the figure and its unit separately: ``("98.06", "%")``."""
        shown = self.shown(figures)
        return shown.removesuffix("%"), "%" * shown.endswith("%")


TOP1 = Primary("top1", "top-1", "top-1 accuracy")
"""The primary figure of runs from before there were other objectives."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell (micro-batch) as the loader gives it, on the device of the run.

    ``images`` is uint8 (B, 3, S, S), or cached features, float32 (B, d), of a frozen backbone;
    ``labels`` is int64 (B,). ``epochs`` and ``samples``, int64 (B,) on the CPU, identify the views;
    ``step`` and ``number`` are the place of the cell in the run. These four and the seed are the
    counter keys of every draw. ``small`` holds the small views of these images, uint8 (images x
    local views, 3, s, s), if there are any.
    """

    images: Tensor
    labels: Tensor
    epochs: Numbers
    samples: Numbers
    step: int
    number: int
    small: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """An evaluation of a whole split, with its logits and labels for further analysis.

    ``figures`` are the numbers of the objective, ``loss`` and the number of images ``n`` among
    them; each is an attribute, too: ``result.top1``. ``logits`` float32 (n, C) and ``labels`` (n,)
    or (n, C) are on the CPU in the order of the split.
    """

    figures: Mapping[str, Any]
    logits: Tensor
    labels: Tensor

    def __getattr__(self, name: str) -> Any:
        # not self.figures: while it is being unpickled or copied there is none, and this would not
        # end
        figures = self.__dict__.get("figures", {})
        if name in figures:
            return figures[name]
        raise AttributeError(f"this result has no figure '{name}'; it has {', '.join(figures)}")

    def to_json(self) -> dict[str, Any]:
        """Return the figures and counts, without the logits."""
        return dict(self.figures)


@dataclass(frozen=True)
class Objective(ABC):
    """What a network learns, how it is evaluated, and what people see of it.

    ``outputs`` are the names of the head's outputs, in order. ``config`` decides the loss and the
    processing of a cell on the device; for evaluation, the default one is enough.
    """

    outputs: tuple[str, ...]
    config: Config = field(default_factory=Config)

    name: ClassVar[str]
    """Its name in model files."""
    needs_labels: ClassVar[bool] = True
    answers: ClassVar[bool] = True
    """Whether the network predicts for single images and is evaluated by its predictions."""
    noun: ClassVar[str] = "classes"
    """Name of the outputs in texts."""
    primary: ClassVar[Primary]
    measures: ClassVar[tuple[Measure, ...]] = ()
    """Its figures from 0 to 1 that tables and curves show, the primary one first if it is one of
    them."""
    curves_title: ClassVar[str] = "Accuracy"
    courses: ClassVar[tuple[Course, ...]] = ()
    """Other figures that are plotted over the run."""
    columns_of_pictures: ClassVar[tuple[str, ...]] = ()
    """Titles of the columns in the images of a check; empty if there are none."""

    # ------------------------------------------------------------------ before the first step

    @classmethod
    def fits(cls, train: Split) -> bool:
        """Tell whether this objective fits the labels of a training split.

        False for one that is only passed from Python.
        """
        return False

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run on these training images: an output for each class."""
        return cls(train.classes, config)

    @property
    def head(self) -> int:
        """Number of outputs of the network per image."""
        return len(self.outputs)

    def inspect(self, train: Split, val: Split, *, held_out: bool) -> list[Finding]:
        """Return the problems of the labels of both sides.

        ``held_out`` says that ``val`` was held out of the training images.
        """
        return []

    def prevalence(self, split: Split) -> tuple[Sequence[str], Numbers]:
        """Return the C labels for people, and the number of images with each, int64 (C,)."""
        return split.classes, np.bincount(split.labels, minlength=len(split.classes))

    def to(self, device: torch.device) -> Self:
        """Return the objective with the tensors among its fields on a device."""
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def announced(self) -> list[tuple[str, str]]:
        """Return lines for the start of a run: a name and a text each."""
        return []

    def facts(self) -> dict[str, Any]:
        """Return its facts for ``run.json``, as JSON."""
        return {"class_weights": None}

    def over(self, total_steps: int, epoch_steps: float) -> Self:
        """Return the objective for a run of this many steps, with this many steps per epoch."""
        return self

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the trained module: the network, or a ``Learner`` around it.

        Raises ConfigError if this network cannot learn it.
        """
        return network

    def encoder(self, model: nn.Module) -> nn.Module:
        """Return the part of the trained module that is saved at the end: all of it."""
        return model

    # ------------------------------------------------------------------ the step

    def present(self, cell: Cell) -> tuple[Tensor, float]:
        """Normalise, erase and mix a cell as the settings say: float32 (B, 3, S, S), and ``lam``.

        Where ``lam`` is below 1, the inputs are ``lam * images + (1 - lam) * images.flip(0)``.
        Cached features, float32 (B, d), stay unchanged.
        """
        if cell.images.is_floating_point():
            return cell.images, 1.0
        return present(
            cell.images, cell.epochs, cell.samples, self.config, step=cell.step, cell=cell.number
        )

    @abstractmethod
    def prepare(self, cell: Cell) -> tuple[Any, Any]:
        """Return what the network sees, float32 (B, 3, S, S), and the targets in any form.

        Computed on the device. Every draw is a function of the seed and the counter keys. The input
        of a ``Learner`` can have any form.
        """

    def rows(self, inputs: Any) -> int:
        """Return the number of images that pass through the network at once, each with its own
        draws.
        """
        return len(inputs)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the mean loss of a cell, a float32 scalar.

        ``outputs`` is one output of the network, (B, C) in the precision of the run; ``targets`` is
        what ``prepare`` returned.
        """

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the loss summed over the images of a cell, a float32 scalar.

        An objective that computes a sum overrides it, which avoids the rounding of a division.
        """
        return self.loss(outputs, targets) * len(outputs)

    def total_of_heads(self, answer: Any, targets: Any, auxiliary_weight: float) -> Tensor:
        """Return the summed loss of a network's output, including auxiliary heads, a scalar."""
        main, *auxiliary = heads(answer)
        loss = self.total(main, targets)
        for other in auxiliary:
            loss = loss + auxiliary_weight * self.total(other, targets)
        return loss

    def after_update(self, model: nn.Module, step: int, good: Tensor) -> None:
        """Update what follows the weights, such as a teacher, after an update.

        ``step`` counts from 0. If ``good``, a bool scalar on the device, is False, the step was
        skipped, and nothing must change here; nothing waits for the flag.
        """
        return

    @abstractmethod
    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss without mixing, smoothing or weights, a float32 scalar.

        ``outputs`` is (B, C), ``labels`` int64 (B,) as the loader gives them.
        """

    def pictures(self, model: nn.Module, cell: Cell) -> Tensor | None:
        """Return a learner's pictures of images, uint8 (B, columns, 3, S, S); None if there are
        none.

        In evaluation mode.
        """
        return None

    def constant(self, cell: Cell) -> Tensor | None:
        """Return the loss of the best constant answer, summed over a cell, a scalar.

        None if a constant is not a useful baseline.
        """
        return None

    def constant_beside(self, cell: Cell, answer: Any) -> Tensor | None:
        """Return the same, a scalar, for a loss whose targets are in the network's output for the
        cell, ``answer`` in any form.
        """
        return self.constant(cell)

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """The plain loss of a network that guesses, and its formula, such as ``(2.303, "ln(10)")``;
        NaN and the name of the loss if unknown.
        """
        return math.nan, f"of {self.name}"

    # ------------------------------------------------------------------ evaluation and prediction

    def matched(self, split: Split) -> Split:
        """Return the same images with labels in the order of ``outputs``, matched by name.

        Raises DataError on a label that is not among them.
        """
        return split

    def truth(self, split: Split) -> Tensor:
        """Return the labels of a matched split for evaluation: (n,) or (n, C)."""
        return torch.from_numpy(split.labels)

    @abstractmethod
    def judge(self, logits: Tensor, truth: Tensor) -> Result:
        """Return the figures of a whole split from logits, float32 (n, C), and its labels.

        Among them are the primary one, ``loss``, and ``n``, the number of images. Raises
        DivergedError when a logit is not finite, DataError when there is no image.
        """

    def shown(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the main figures for people: ``["top-1 98.06%", "top-5 99.90%"]``."""
        return [f"{self.primary.title} {self.primary.shown(figures)}"]

    def counted(self, figures: Mapping[str, Any]) -> str:
        """Say the counts behind the figures: ``353 of 360 images``."""
        return human_count(figures["n"], "image")

    def interval(self, figures: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return the 95 % interval of the primary figure, None if there is none."""
        return None

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits, float32 (B, C), into probabilities of the same shape."""

    @abstractmethod
    def answer(self, probabilities: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
        """Return the predictions for each image: at most ``top`` (name, probability), best first.

        ``probabilities`` is (B, C) on the CPU.
        """

    # ------------------------------------------------------------------ the report

    def details(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return names and values of the figures that are shown beside the primary one."""
        return [(name, f"{figures[name]:,.4g}") for name in ("n", "loss") if name in figures]

    @property
    def curves(self) -> tuple[Measure, ...]:
        """The measures that are plotted over the run."""
        return self.measures

    def columns(self) -> dict[str, str]:
        """Return the columns of ``metrics.csv``, each with its figure, empty for a missing one."""
        first = {self.primary.name: self.primary.name}
        others = {course.name: course.name for course in self.courses}
        return first | {m.name: m.name if m in self.curves else "" for m in self.measures} | others

    def page(self, seen: Seen) -> list[Part]:
        """Return the report's sections about the predictions on the validation images."""
        return []


def heads(output: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """Return the logits (B, C) of a network: the main head's, then those of auxiliary heads.

    Raises ConfigError for any other output in training.
    """
    found = tuple(output) if isinstance(output, tuple | list) else (output,)
    if found and all(isinstance(logits, Tensor) for logits in found):
        return found

    raise ConfigError(
        f"the network returns {type(output).__name__} in training mode instead of logits (B, "
        "classes)",
        where="its forward pass",
        finding="head-width",
        fix=(
            "return one row of logits per image, or a tuple of them: main head, then "
            "auxiliary heads"
        ),
    )


def require_finite(logits: Tensor) -> None:
    """Raise DivergedError if one of the logits (n, C) is NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError(
            "the network's output holds NaN or Infinity, so it cannot be scored",
            fix="lower the learning rate (--lr), or evaluate an earlier checkpoint",
        )
