"""Multi-label classification: an image has any number of labels, including none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.data.sources.label_sets import are_sets, labels_in
from saccade.errors import ConfigError, DataError
from saccade.findings import Finding, listed
from saccade.objectives import per_label
from saccade.objectives.class_maps import doubles
from saccade.objectives.objective import Cell, Numbers, Objective, Primary, Result
from saccade.objectives.page import Measure, Part, Seen, percent

THRESHOLD = per_label.THRESHOLD


@dataclass(frozen=True)
class MultiLabel(Objective):
    """Binary cross-entropy of every label; mean average precision (mAP) is the primary figure.

    ``table`` is float32 (K, C): the labels of each of the K label sets of training images, as zeros
    and ones. A class of the split is a label set, see ``saccade.data.sources.label_sets``.
    """

    table: Tensor | None = None

    name: ClassVar[str] = "multi-label"
    noun: ClassVar[str] = "labels"
    primary: ClassVar[Primary] = Primary("map", "mAP", "mean average precision")
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("map", "mAP"),
        Measure("f1_macro", "macro F1"),
        Measure("f1_micro", "micro F1"),
    )
    curves_title: ClassVar[str] = "Scores"

    @classmethod
    def fits(cls, train: Split) -> bool:
        """Tell whether the classes of the split are sets of labels."""
        return are_sets(train.classes)

    @classmethod
    def of(cls, config: Config, train: Split) -> Self:
        """Return the objective of a run; raises ConfigError for settings that do not apply."""
        if config.loss.class_weights != "none":
            raise ConfigError(
                "class weights need one class per image; here each label is a separate decision",
                where="loss.class_weights",
                fix="remove it: mean average precision gives all labels the same weight",
            )
        labels = sorted({label for name in train.classes for label in labels_in(name)})
        table = torch.from_numpy(_table(train.classes, labels)).float()
        return cls(tuple(labels), config, table)

    def inspect(self, train: Split, val: Split, *, held_out: bool) -> list[Finding]:
        """Compare the labels of both sides, and say how many labels an image has."""
        return [*_sides(self, train, val), *_labels(self, train)]

    def prevalence(self, split: Split) -> tuple[Sequence[str], Numbers]:
        """Return the labels and the number of images of a split with each, int64 (C,)."""
        return self.outputs, self._marks(split).sum(0, dtype=np.int64)

    def prepare(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Return what the network sees, float32 (B, 3, S, S), and a target per label (B, C).

        A mixed image has the labels of both, each with its weight in the mix; with ``loss=bce``
        those above ``loss.bce_threshold`` are full targets. Label smoothing moves every target
        towards one half. *Source:* mixup: Zhang et al. 2018, equation 1.
        """
        assert self.table is not None
        section = self.config.loss
        inputs, lam = self.present(cell)

        targets = self.table[cell.labels]
        if lam != 1.0:
            targets = lam * targets + (1 - lam) * targets.flip(0)
        if section.name == "bce" and section.bce_threshold is not None:
            targets = (targets > section.bce_threshold).float()
        smoothing = section.label_smoothing
        return inputs, targets * (1 - smoothing) + smoothing / 2

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over a cell of what :meth:`total` sums, a float32 scalar."""
        return self.total(outputs, targets) / len(outputs)

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over a cell of the mean over the labels, a float32 scalar."""
        losses = F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none")
        return losses.mean(1).sum()

    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the plain binary cross-entropy of a label, a float32 scalar in nats."""
        assert self.table is not None
        return F.binary_cross_entropy_with_logits(outputs.float(), self.table[labels])

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """Return ln 2: a guess of one half for every label."""
        return math.log(2), "ln(2)"

    def matched(self, split: Split) -> Split:
        """Return the split; raises DataError if it has labels that the network does not know."""
        known = set(self.outputs)
        foreign = sorted({name for one in split.classes for name in labels_in(one)} - known)
        if foreign:
            raise DataError(
                f"{len(foreign)} labels of the {split.name} split are unknown: "
                f"{', '.join(foreign[:5])}",
                where=split.where,
                fix="use the labels that the network was trained on in all splits",
                finding="class-unknown",
            )
        return split

    def truth(self, split: Split) -> Tensor:
        """Return the labels of each image as zeros and ones, uint8 (n, C)."""
        return torch.from_numpy(self._marks(split))

    def judge(self, logits: Tensor, truth: Tensor) -> Result:
        """Return mAP, macro and micro F1 at one half, and the loss, of logits (n, C)."""
        return Result(per_label.figures(logits, truth), logits.cpu(), truth.cpu())

    def shown(self, figures: Mapping[str, Any]) -> list[str]:
        """Return mAP and both F1, and the number of evaluated labels if some have no image."""
        found = [f"{one.label} {figures[one.name]:.2%}" for one in self.measures]
        some = figures["judged"] < self.head
        return found + [f"of {figures['judged']} of {self.head} labels"] * some

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the sigmoid of logits (B, C): each label separately."""
        return logits.sigmoid()

    def answer(self, probabilities: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
        """Return the labels with a probability of at least one half, the most probable first.

        ``probabilities`` is (B, C); an image can have none.
        """
        rows = []
        for row in probabilities.tolist():
            order = sorted(range(self.head), key=lambda i, row=row: -row[i])  # type: ignore[misc]
            held = [i for i in order if row[i] >= THRESHOLD][:top]
            rows.append(tuple((self.outputs[i], row[i]) for i in held))
        return rows

    def details(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the figures beside mAP."""
        found = [("images", f"{figures['n']:,.0f}")] if "n" in figures else []
        found += [(m.label, percent(figures[m.name])) for m in self.curves[1:] if m.name in figures]
        found += [("loss", f"{figures['loss']:.4f}")] if "loss" in figures else []
        return found

    def page(self, seen: Seen) -> list[Part]:
        """Return the results of each label, and the most confident mistakes."""
        return per_label.page(seen)

    def _marks(self, split: Split) -> Any:
        """Return the labels of each image, uint8 (n, C); unknown labels are skipped."""
        return _table(split.classes, self.outputs)[split.labels]


def _table(classes: Sequence[str], labels: Sequence[str]) -> Any:
    """Return the labels (C) of each label set (K), as zeros and ones, uint8 (K, C)."""
    place = {label: i for i, label in enumerate(labels)}
    table = np.zeros((len(classes), len(labels)), np.uint8)
    for row, name in enumerate(classes):
        for label in labels_in(name):
            if label in place:
                table[row, place[label]] = 1
    return table


def _sides(objective: MultiLabel, train: Split, val: Split) -> list[Finding]:
    """List the labels that one side never has."""
    learned = {name for name, count in zip(*objective.prevalence(train), strict=True) if count}
    used = {val.classes[i] for i in np.unique(val.labels)}
    judged = {label for name in used for label in labels_in(name)}

    findings = []
    if extra := sorted(judged - learned):
        findings.append(
            Finding(
                "class-missing-in-train",
                "error",
                f"'{val.name}' has {len(extra)} label(s) without training images: "
                f"{listed(extra, len(extra))}",
                where=val.where,
                fix=f"add training images with them, or remove these labels from '{val.name}'",
                items=tuple(extra),
                status=65,
            )
        )
    if missing := sorted(learned - judged):
        findings.append(
            Finding(
                "class-missing-in-val",
                "warning",
                f"no image of '{val.name}' has {len(missing)} of the labels, so they are not "
                f"evaluated: {listed(missing, len(missing))}",
                val.where,
                items=tuple(missing),
            )
        )
    return findings


def _labels(objective: MultiLabel, train: Split) -> list[Finding]:
    """Say how many labels an image has, and list those that cannot be learned."""
    names, counts = objective.prevalence(train)
    findings = []
    if always := [name for name, count in zip(names, counts, strict=True) if count == len(train)]:
        findings.append(
            Finding(
                "label-always-there",
                "warning",
                f"every training image has {listed(always, len(always))}: there are no negative "
                "examples",
                train.where,
                items=tuple(always),
            )
        )
    if twice := doubles(set(names)):
        findings.append(
            Finding(
                "class-case-differs",
                "warning",
                f"labels of {train.name} differ only in upper and lower case: "
                f"{listed(twice, len(twice))}",
                train.where,
                items=tuple(twice),
            )
        )
    if not objective.head:
        findings.append(
            Finding(
                "one-class",
                "error",
                "no training image has a label: there is nothing to learn",
                train.where,
                status=65,
            )
        )

    if len(train) and _table(train.classes, names)[train.labels].sum(1).max(initial=0) == 1:
        findings.append(
            Finding(
                "label-alone",
                "warning",
                "no training image has more than one label",
                train.where,
                fix="if cells contain several labels, write cat|dog; if each image has one "
                "class, name the column `label`",
            )
        )

    sets = Counter(train.classes[i] for i in train.labels.tolist())
    mean = counts.sum() / max(len(train), 1)
    text = (
        f"an image has any number of {objective.head:,} labels: {mean:.2f} on average, "
        f"{sets['{}']:,} of {len(train):,} training images have none"
    )
    return [*findings, Finding("multi-label", "note", text, train.where)]
