"""Comparing the frozen features of several weights on a set of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saccade.data.sources import Source, Split, hold_out, train_split, validation_split
from saccade.data.sources.label_sets import are_sets
from saccade.errors import DataError
from saccade.evaluation import neighbours, probe, untrained
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import Features, sample
from saccade.evaluation.kept_features import Look
from saccade.log import Log
from saccade.models.weights.loading import FEW
from saccade.models.weights.readings import listed
from saccade.rng import Purpose
from saccade.runs.backbone import Backbone

NEIGHBOURS = (10, 20, 100)
LEARNED, JUDGED = 10_000, 5_000
"""Largest number of images to learn from, and of images to evaluate on."""

HELD_OUT = 0.2
"""Fraction of the images to evaluate on if there is no validation split."""

UNTRAINED = "untrained"

Sides = tuple[Split, Split]
"""The images to learn from and the images to evaluate."""


@dataclass(frozen=True, slots=True)
class Probed:
    """The accuracy of the frozen features of one network: top-1, 0..1, of the evaluated images.

    ``knn`` is that of weighted nearest neighbours, by their number. ``strength`` is the penalty of
    the linear probe, chosen on held-out training images, with accuracy ``held_out``. ``width`` is
    the dimension of a feature, ``image_size`` the side in pixels. ``untrained`` marks the same
    network with random weights.
    """

    name: str
    model: str
    image_size: int
    width: int
    knn: dict[int, float]
    probe: float
    strength: float
    held_out: float
    untrained: bool = False

    @property
    def best(self) -> float:
        """The best of its figures."""
        return max(self.probe, *self.knn.values())

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "weights": self.name,
            "model": self.model,
            "untrained": self.untrained,
            "image_size": self.image_size,
            "width": self.width,
            "knn": {str(k): value for k, value in self.knn.items()},
            "probe": self.probe,
            "strength": self.strength,
            "held_out": self.held_out,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several networks on the same images: the number ``learned`` from and the number ``judged``
    (evaluated).

    ``judge`` is the name of the evaluated split.
    """

    rows: tuple[Probed, ...]
    learned: int
    judged: int
    judge: str

    @property
    def trained(self) -> tuple[Probed, ...]:
        """The rows of trained weights, the best first."""
        return tuple(sorted((r for r in self.rows if not r.untrained), key=lambda r: -r.best))

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "judge": self.judge,
            "learned": self.learned,
            "judged": self.judged,
            "rows": [row.to_json() for row in self.rows],
        }

    def like_untrained(self) -> list[str]:
        """Return the names of weights whose best figure is not clearly above that of the same
        network untrained.
        """
        floors = {(row.model, row.image_size): row.best for row in self.rows if row.untrained}
        found = []
        for row in self.trained:
            floor = floors.get((row.model, row.image_size))
            if floor is None:
                continue
            if row.best - floor < 2 * math.hypot(self.error(row.best), self.error(floor)):
                found.append(row.name)
        return found

    def error(self, share: float) -> float:
        """Return one standard error of a proportion, 0..1, of the evaluated images.

        All or none of a few images right is not certain: half an image is assumed otherwise.
        """
        half = 0.5 / max(self.judged, 1)
        share = min(max(share, half), 1 - half)
        return math.sqrt(share * (1 - share) / max(self.judged, 1))


def sides(source: Source, val_source: Source | None = None, limit: int | None = None) -> Sides:
    """Return the images to learn from and those to evaluate, with the same classes.

    Without a validation split, a fifth of the images of each class is evaluated. ``limit`` limits
    the former, 0 means all. Raises DataError if a probe cannot learn from the labels.
    """
    train = train_split(source)
    val = validation_split(val_source or source, named=val_source is not None)
    if val is None:
        train, val = hold_out(train, HELD_OUT, 0, Purpose.HOLDOUT)

    if are_sets(train.classes):
        raise DataError(
            "these images have several labels each, but a probe needs one class per image",
            where=source.where,
            fix="use a data set with one class per image",
        )
    if len(train.classes) < 2:
        raise DataError(
            "there is only one class: every answer would be right",
            where=source.where,
            fix="use images of at least two classes: train/<class>/<image>",
        )

    val = val.with_classes(train.classes)
    _warn_of_unjudged(val)
    if limit != 0:
        train, val = sample(train, limit or LEARNED), sample(val, JUDGED)
    return train, val


def _warn_of_unjudged(val: Split) -> None:
    """Warn of classes without evaluation images: a network that never predicts them looks
    better."""
    counts = np.bincount(val.labels, minlength=len(val.classes))
    if none := [name for name, count in zip(val.classes, counts, strict=True) if not count]:
        count = f"{len(none)} class" + "es" * (len(none) > 1)
        text = f"'{val.name}' has no image of {count}: {listed(none, FEW)}"
        Log().warn(f"{text}; these classes are not evaluated")


def compare(
    backbones: Sequence[Backbone], both: Sides, *, devices: str, precision: str
) -> Comparison:
    """Probe several networks on the same images, each also untrained."""
    rows: list[Probed] = []
    kinds: set[tuple[Any, ...]] = set()
    for backbone in backbones:
        rows.append(_probed(backbone, both, devices, precision))
        recipe = backbone.classifier.recipe
        # two sets of weights of one network have the same floor
        kind = (recipe.model, recipe.eval_side, recipe.strides, recipe.patch_size)
        if kind in kinds or recipe.model.startswith("custom:"):
            continue
        kinds.add(kind)
        rows.append(_probed(backbone, both, devices, precision, drawn=True))
    return Comparison(tuple(rows), len(both[0]), len(both[1]), both[1].name)


def _probed(
    backbone: Backbone, both: Sides, devices: str, precision: str, *, drawn: bool = False
) -> Probed:
    """Return the figures of a backbone, or of the best of the same network untrained."""
    how, network = backbone.conditions(devices, precision), backbone.classifier.network
    recipe = backbone.classifier.recipe
    name = f"{recipe.model} {UNTRAINED}" if drawn else backbone.name
    total = sum(map(len, both)) * (untrained.count(network) if drawn else 1)
    with how.computing() as readers, Log().progress("features", total) as bar:
        networks = [network.to(how.device)]
        if drawn:
            networks = untrained.networks(recipe, both[0], readers, device=how.device)

        look = Look(readers, how.precision, how.device, lambda done: bar.update(done, name))
        rows = []
        for one in networks:
            learned, judged = (look(one, recipe, split) for split in both)
            rows.append(_row(name, recipe, learned, judged, classes=len(both[0].classes)))
    return replace(max(rows, key=lambda row: row.best), untrained=drawn)


def _row(name: str, recipe: Recipe, learned: Features, judged: Features, *, classes: int) -> Probed:
    head = probe.fit(learned, classes)
    votes = {k: neighbours.top1(learned, judged, k=k, num_classes=classes) for k in NEIGHBOURS}
    return Probed(
        name,
        recipe.model,
        recipe.eval_side,
        width=learned.vectors.shape[1],
        knn=votes,
        probe=head.top1(judged),
        strength=head.strength,
        held_out=head.held_out_top1,
    )
