"""What is learned: the seam between an objective and everything that trains, judges and shows it.

Loop, step, resume, ranks, guard, checkpoints and report know an :class:`Objective` and never ask
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

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Primary:
    """The figure that decides which evaluation is the best, and that people see first.

    ``name`` is its key among the figures, ``title`` what people read, ``long`` the same in words;
    ``show`` is a format such as ``.2%``.
    """

    name: str
    title: str
    long: str
    higher_is_better: bool = True
    show: str = ".2%"

    def score(self, figures: Mapping[str, Any]) -> float:
        """Return the figure with the sign that makes higher better."""
        value = float(figures[self.name])
        return value if self.higher_is_better else -value

    def shown(self, figures: Mapping[str, Any]) -> str:
        """Return the figure for people: ``98.06%``."""
        return format(float(figures[self.name]), self.show)

    def parted(self, figures: Mapping[str, Any]) -> tuple[str, str]:
        """Return the figure and its unit apart: ``("98.06", "%")``."""
        shown = self.shown(figures)
        return shown.removesuffix("%"), "%" * shown.endswith("%")


TOP1 = Primary("top1", "top-1", "top-1 accuracy")
"""The primary figure of runs from before there were other objectives."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell (micro-batch) as the loader gives it, on the device of the run.

    ``images`` is uint8 (B, 3, S, S), or features that are held, float32 (B, d), of a backbone at
    rest; ``labels`` is int64 (B,). ``epochs`` and ``samples``, int64 (B,)
    on the CPU, say which views these are; ``step`` and ``number`` are the place of the cell in the
    run. These four and the seed are the counter keys of every draw. ``small`` holds the small views
    of these images, uint8 (images x local views, 3, s, s), where there are any.
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
    """An evaluation of a whole split, with everything needed to look into it.

    ``figures`` are the numbers of the objective, ``loss`` and the number of images ``n`` among
    them; each is an attribute, too: ``result.top1``. ``logits`` float32 (n, C) and ``labels``
    (n,) or (n, C) are on the CPU in the order of the split.
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
    """What a network learns, how that is measured, and what people see of it.

    ``outputs`` names what the head answers, in order. ``config`` decides the loss and what happens
    to a cell on the device; to judge finished weights the default one does.
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
        """Tell whether this is what the labels of a training split ask for.

        Never by itself, where it is handed over from Python.
        """
        return False

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run on these training images: an output for each class."""
        return cls(train.classes, config)

    @property
    def head(self) -> int:
        """How many numbers the network answers for one image."""
        return len(self.outputs)

    def inspect(self, train: Split, val: Split, *, held_out: bool) -> list[Finding]:
        """Return what is wrong with the labels of both sides.

        ``held_out`` says that ``val`` was taken out of the training images.
        """
        return []

    def prevalence(self, split: Split) -> tuple[Sequence[str], Numbers]:
        """Return the C labels that people count and how many images have each, int64 (C,)."""
        return split.classes, np.bincount(split.labels, minlength=len(split.classes))

    def to(self, device: torch.device) -> Self:
        """Return the objective with the tensors among its fields on a device."""
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def announced(self) -> list[tuple[str, str]]:
        """Return what people should know of it at the start: lines of a name and a text."""
        return []

    def facts(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it, as JSON."""
        return {"class_weights": None}

    def over(self, total_steps: int, epoch_steps: float) -> Self:
        """Return the objective of a run of so many steps, an epoch being so many of them."""
        return self

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return what is trained: the network, or a ``Learner`` around it.

        Raises ConfigError where this network cannot learn it.
        """
        return network

    def encoder(self, model: nn.Module) -> nn.Module:
        """Return the part of what was trained that is kept at the end: all of it."""
        return model

    # ------------------------------------------------------------------ the step

    def present(self, cell: Cell) -> tuple[Tensor, float]:
        """Normalise, erase and mix a cell as the settings say: float32 (B, 3, S, S), and ``lam``.

        Where ``lam`` is below 1, the inputs are ``lam * images + (1 - lam) * images.flip(0)``.
        Features that are held, float32 (B, d), come as they are.
        """
        if cell.images.is_floating_point():
            return cell.images, 1.0
        return present(
            cell.images, cell.epochs, cell.samples, self.config, step=cell.step, cell=cell.number
        )

    @abstractmethod
    def prepare(self, cell: Cell) -> tuple[Any, Any]:
        """Return what the network sees, float32 (B, 3, S, S), and the targets in any form.

        Computed on the device. Every draw is a function of the seed and the counter keys. What a
        ``Learner`` sees may have any form.
        """

    def rows(self, inputs: Any) -> int:
        """Return how many images pass through the network at once, which have draws of their
        own there.
        """
        return len(inputs)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the mean loss of a cell, a float32 scalar.

        ``outputs`` is one answer of the network, (B, C) in the precision of the run; ``targets``
        is what ``prepare`` returned.
        """

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the loss summed over the images of a cell, a float32 scalar.

        An objective that sums by itself overrides it, and saves the rounding of a division.
        """
        return self.loss(outputs, targets) * len(outputs)

    def total_of_heads(self, answer: Any, targets: Any, auxiliary_weight: float) -> Tensor:
        """Return the summed loss of a network's answer, auxiliary heads included, a scalar."""
        main, *auxiliary = heads(answer)
        loss = self.total(main, targets)
        for other in auxiliary:
            loss = loss + auxiliary_weight * self.total(other, targets)
        return loss

    def after_update(self, model: nn.Module, step: int, good: Tensor) -> None:
        """Change what follows the weights, such as a teacher, once they were updated.

        ``step`` counts from 0. Where ``good``, a bool scalar on the device, is False the step left
        no trace, and neither must this; nothing waits for the flag.
        """
        return

    @abstractmethod
    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss without mixing, smoothing or weights, a float32 scalar.

        ``outputs`` is (B, C), ``labels`` int64 (B,) as the loader gives them.
        """

    def pictures(self, model: nn.Module, cell: Cell) -> Tensor | None:
        """Return what a learner makes of images: uint8 (B, columns, 3, S, S); None for nothing.

        In evaluation mode.
        """
        return None

    def constant(self, cell: Cell) -> Tensor | None:
        """Return the loss of the best constant answer, summed over a cell, a scalar.

        None where a constant is no yardstick.
        """
        return None

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """The plain loss of a network that knows nothing and is sure of nothing, and its formula.

        Such as ``(2.303, "ln(10)")``; NaN and the name of the loss where that is not known.
        """
        return math.nan, f"of {self.name}"

    # ------------------------------------------------------------------ evaluation and prediction

    def matched(self, split: Split) -> Split:
        """Return the same images labelled in terms of ``outputs``, compared by name.

        Raises DataError on a label that is not among them.
        """
        return split

    def truth(self, split: Split) -> Tensor:
        """Return the labels of a matched split as figures need them: (n,) or (n, C)."""
        return torch.from_numpy(split.labels)

    @abstractmethod
    def judge(self, logits: Tensor, truth: Tensor) -> Result:
        """Return the figures of a whole split from logits, float32 (n, C), and its truth.

        Among them are the primary one, ``loss``, and ``n``, the number of images.
        Raises DivergedError when a logit is not finite, DataError when there is no image.
        """

    def shown(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the main figures for people: ``["top-1 98.06%", "top-5 99.90%"]``."""
        return [f"{self.primary.title} {self.primary.shown(figures)}"]

    def counted(self, figures: Mapping[str, Any]) -> str:
        """Say what the figures were counted over: ``353 of 360 images``."""
        return f"{figures['n']} images"

    def interval(self, figures: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return the 95 % interval of the primary figure, None where none is known."""
        return None

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits, float32 (B, C), into probabilities of the same shape."""

    @abstractmethod
    def answer(self, probabilities: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
        """Return what is said of each image: at most ``top`` (name, probability), best first.

        ``probabilities`` is (B, C) on the CPU.
        """

    # ------------------------------------------------------------------ the report

    def details(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return names and values of the figures that stand beside the primary one."""
        return [(name, f"{figures[name]:,.4g}") for name in ("n", "loss") if name in figures]

    @property
    def curves(self) -> tuple[Measure, ...]:
        """The measures that say something here: their course over the run is drawn."""
        return self.measures

    def columns(self) -> dict[str, str]:
        """Return the columns of ``metrics.csv``, each with its figure, empty for one left out."""
        first = {self.primary.name: self.primary.name}
        others = {course.name: course.name for course in self.courses}
        return first | {m.name: m.name if m in self.curves else "" for m in self.measures} | others

    def page(self, seen: Seen) -> list[Part]:
        """Return what the report shows of the answers on the validation images."""
        return []


def heads(output: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """Return the logits (B, C) that a network gave: the main head's, then those of auxiliary heads.

    Raises ConfigError when it gave something else in training.
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
    """Raise DivergedError where one of the logits (n, C) is NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError(
            "the network's output holds NaN or Infinity, so it cannot be scored",
            fix="lower the learning rate (--lr), or evaluate an earlier checkpoint",
        )
