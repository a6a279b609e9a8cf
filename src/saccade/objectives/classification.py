"""Classification: each image has one class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.findings import Finding
from saccade.objectives import metrics
from saccade.objectives.class_maps import class_maps
from saccade.objectives.confusions import confusions
from saccade.objectives.losses import balanced_weights, mixed_loss
from saccade.objectives.metrics import Score
from saccade.objectives.objective import TOP1, Cell, Objective, Primary, Result
from saccade.objectives.page import Measure, Part, Seen, percent

TOP5_ABOVE = 5
"""With this many classes or fewer, top-5 is always 1 and is not shown. JSON still has it.
"""


class Mixed(NamedTuple):
    """The targets of a cell that was mixed with its mirror image.

    ``labels`` is int64 (B,); ``lam`` (lambda) is the weight of each own label, the rest is the
    mirrored one's.
    """

    labels: Tensor
    lam: float


@dataclass(frozen=True)
class Classification(Objective):
    """Softmax or binary cross-entropy with one class per image; top-1 is the primary figure.

    ``class_weights`` is float32 (C,), None if all classes have the same weight.
    """

    class_weights: Tensor | None = None

    name: ClassVar[str] = "classification"
    primary: ClassVar[Primary] = TOP1
    measures: ClassVar[tuple[Measure, ...]] = (Measure("top1", "top-1"), Measure("top5", "top-5"))

    @classmethod
    def fits(cls, train: Split) -> bool:
        """All labels fit: each different label is a class."""
        return True

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run, its class weights taken from the training images."""
        weights = None
        if config.loss.class_weights == "balanced":
            balanced = balanced_weights(train.labels, len(train.classes))
            weights = torch.from_numpy(balanced).float()
        return cls(train.classes, config, weights)

    def inspect(self, train: Split, val: Split, *, held_out: bool) -> list[Finding]:
        """Compare the classes of both sides by name."""
        return class_maps(train, val, held_out=held_out)

    def facts(self) -> dict[str, Any]:
        """Return the weight of each class, or null if all are the same."""
        weights = self.class_weights
        return {
            "class_weights": None if weights is None else [round(w, 6) for w in weights.tolist()]
        }

    def prepare(self, cell: Cell) -> tuple[Tensor, Mixed]:
        """Normalise, erase and mix on the device: float32 (B, 3, S, S) and its targets."""
        inputs, lam = self.present(cell)
        return inputs, Mixed(cell.labels, lam)

    def loss(self, outputs: Tensor, targets: Mixed) -> Tensor:
        """Return the mean over a cell of what :meth:`total` sums, a float32 scalar."""
        return self.total(outputs, targets) / len(outputs)

    def total(self, outputs: Tensor, targets: Mixed) -> Tensor:
        """Return the loss of the settings, summed over a cell, a float32 scalar."""
        return mixed_loss(
            outputs,
            targets.labels,
            targets.lam,
            section=self.config.loss,
            weights=self.class_weights,
        )

    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the plain cross-entropy, a float32 scalar in nats per image."""
        return F.cross_entropy(outputs.float(), labels)

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """Return ln C."""
        return math.log(self.head), f"ln({self.head})"

    def matched(self, split: Split) -> Split:
        """Return the split with the indices of these classes as labels."""
        return split.with_classes(self.outputs)

    def judge(self, logits: Tensor, truth: Tensor) -> Result:
        """Return top-1, top-5 and the cross-entropy of logits (n, C), and the counts behind."""
        score = Score()
        score.add(logits, truth)
        return Result(score.to_json(), logits.cpu(), truth.cpu())

    def shown(self, figures: Mapping[str, Any]) -> list[str]:
        """Return top-1 and, with more than five classes, top-5."""
        found = [f"top-1 {figures['top1']:.2%}"]
        return found + [f"top-5 {figures['top5']:.2%}"] * self._has_top5

    def counted(self, figures: Mapping[str, Any]) -> str:
        """Say how many images are right."""
        return f"{figures['correct']} of {figures['n']} images"

    def interval(self, figures: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return the 95 % interval of top-1."""
        correct, n = int(figures.get("correct", -1)), int(figures.get("n", 0))
        return metrics.wilson_interval(correct, n) if 0 <= correct <= n and n else None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax of logits (B, C)."""
        return logits.softmax(1)

    def answer(self, probabilities: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
        """Return the ``top`` most probable classes of each image, probabilities being (B, C)."""
        best = probabilities.topk(min(top, self.head))
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [
            tuple((self.outputs[i], value) for i, value in zip(places, values, strict=True))
            for values, places in rows
        ]

    def details(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the numbers of images and of correct ones, top-5 with more than five classes, and
        the loss."""
        forms: list[tuple[str, str, Callable[[float], str]]] = [
            ("n", "images", "{:,.0f}".format),
            ("correct", "correct", "{:,.0f}".format),
            ("top5", "top-5", percent),
            ("loss", "loss", "{:.4f}".format),
        ]
        return [
            (title, form(figures[name]))
            for name, title, form in forms
            if name in figures and (name != "top5" or self._has_top5)
        ]

    @property
    def curves(self) -> tuple[Measure, ...]:
        """Return top-1 and, with more than five classes, top-5."""
        return self.measures if self._has_top5 else self.measures[:1]

    def page(self, seen: Seen) -> list[Part]:
        """Return the confusions, the accuracy of each class, and the most confident mistakes."""
        return confusions(seen)

    @property
    def _has_top5(self) -> bool:
        return self.head > TOP5_ABOVE


def of_settings(config: Config, num_classes: int = 0) -> Classification:
    """Return classification without data, for a manual step."""
    return replace(Classification(tuple(map(str, range(num_classes)))), config=config)
