"""A test of weights on a set of images before training: their frozen features, beside those of the
same network untrained.

Without the untrained network the figure misleads: random filters on fitted patches reach far more
than chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.evaluation import neighbours, probe
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import Features, sample
from saccade.evaluation.kept_features import Look
from saccade.evaluation.probe import Probe
from saccade.models.weights.preprocessing import HALVES, IMAGENET

LEARNED, JUDGED = 1000, 500
"""Images that are learned from, and that are judged, at most: what this costs is bounded, and is
never more than two epochs of the training that follows.
"""

CHECKED = 100
"""Images of each side that normalisations are compared on, at most."""

UNEVEN = 3
"""Times as many training images of one class as of another, from which on classes are uneven."""

SURE = 2.5
"""Standard errors by which one result must be better than another."""

Poll = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracy of frozen features: top-1, 0..1, on images that were not used for learning.

    ``knn`` is that of weighted nearest neighbours, ``probe`` that of a linear probe.
    """

    knn: float
    probe: float

    @property
    def best(self) -> float:
        """The better of both."""
        return max(self.knn, self.probe)


@dataclass(frozen=True, slots=True)
class Worth:
    """The test result of weights on a set of images.

    ``frozen`` is the network's score, ``untrained`` that of the same network with random weights,
    None if there is none. ``balanced`` are the mean recalls of both linear probes, with the same
    weight for each class, if the classes are uneven: else the most frequent one hides the others.
    ``learned`` and ``judged`` are the numbers of images to learn from and to evaluate on. ``probe``
    and ``features`` are those of the training images. ``pixels`` has the top-1 of nearest
    neighbours for each way to normalise, on fewer images, and ``better`` names the one that is
    significantly better than the recipe's own, empty if none is.
    """

    frozen: Score
    untrained: Score | None
    learned: int
    judged: int
    probe: Probe
    features: Features
    pixels: dict[str, float]
    better: str = ""
    balanced: tuple[float, float] | None = None

    @property
    def helps(self) -> bool | None:
        """Whether the weights are significantly better than the untrained network; None if
        unknown."""
        if self.untrained is None:
            return None
        pairs = [
            (self.frozen.best, self.untrained.best),
            *([self.balanced] if self.balanced else []),
        ]
        return any(self._is_above(high, low) for high, low in pairs)

    def _is_above(self, high: float, low: float) -> bool:
        error = math.sqrt((high * (1 - high) + low * (1 - low)) / max(self.judged, 1))
        return high - low > max(SURE * error, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        other = self.untrained
        return {
            "frozen": {"knn": self.frozen.knn, "probe": self.frozen.probe},
            "untrained": {"knn": other.knn, "probe": other.probe} if other else None,
            "balanced": list(self.balanced) if self.balanced else None,
            "learned": self.learned,
            "judged": self.judged,
            "pixels": self.pixels,
            "better_pixels": self.better,
        }


def worth(
    network: nn.Module,
    drawn: Sequence[nn.Module],
    recipe: Recipe,
    sides: tuple[Split, Split],
    readers: Readers,
    *,
    seed: int = 0,
    precision: str,
    device: torch.device,
    poll: Poll = lambda _done: None,
) -> Worth:
    """Test the weights of a network, beside the best of ``drawn``: the same network untrained.

    ``sides`` are the images to learn from and to evaluate on, with the same classes; limited
    samples of them are used, always the same ones. ``poll`` is called with the number of images
    done of ``total`` and may raise to stop.
    """
    train, val = sample(sides[0], LEARNED), sample(sides[1], JUDGED)
    classes = len(train.classes)
    look = Look(readers, precision, device, poll)

    learned, judged = look(network, recipe, train), look(network, recipe, val)
    head = probe.fit(learned, classes, seed)
    floors, recalls = [], []
    for other in drawn:
        theirs = look(other, recipe, train), look(other, recipe, val)
        floor = probe.fit(theirs[0], classes, seed)
        floors.append(_score(*theirs, floor, classes))
        if is_uneven(learned.labels, classes):
            recalls.append(mean_recall(floor, *theirs))

    # of images in the order of their classes, every k-th are some of every class
    few, known = [], []
    for split, features in ((train, learned), (val, judged)):
        places = _every(len(split), CHECKED)
        few.append(split.at(places))
        known.append(features.at(torch.from_numpy(places)))
    (first, _), *others = ways(recipe).items()
    answers = {first: _right(known[0], known[1], classes)}
    for name, how in others:
        answers[name] = _right(look(network, how, few[0]), look(network, how, few[1]), classes)

    return Worth(
        _score(learned, judged, head, classes),
        max(floors, key=lambda score: score.best, default=None),
        learned=len(learned),
        judged=len(judged),
        probe=head,
        features=learned,
        pixels={name: float(found.double().mean()) for name, found in answers.items()},
        better=_better(answers),
        balanced=(mean_recall(head, learned, judged), max(recalls)) if recalls else None,
    )


def _every(count: int, most: int) -> NDArray[np.int64]:
    return np.arange(0, count, -(-count // most))


def total(recipe: Recipe, sides: tuple[Split, Split], *, beside: int) -> int:
    """Return the number of images used beside so many untrained networks."""
    learned, judged = (len(sample(*side)) for side in zip(sides, (LEARNED, JUDGED), strict=True))
    checked = len(_every(learned, CHECKED)) + len(_every(judged, CHECKED))
    return (learned + judged) * (1 + beside) + checked * (len(ways(recipe)) - 1)


def ways(recipe: Recipe) -> dict[str, Recipe]:
    """Return common normalisations of trained weights, by name: the recipe's first."""
    found = {"as set": recipe}
    for name, (mean, std) in (("ImageNet's mean and deviation", IMAGENET), ("0.5", HALVES)):
        found[name] = replace(recipe, mean=mean, std=std)
    if recipe.channels == "rgb":
        found["BGR"] = replace(recipe, channels="bgr")
    else:
        found["RGB"] = replace(recipe, channels="rgb")

    distinct: dict[tuple[Any, ...], str] = {}
    for name, how in found.items():
        distinct.setdefault((how.mean, how.std, how.channels), name)
    return {name: found[name] for name in distinct.values()}


def _score(learned: Features, judged: Features, head: Probe, classes: int) -> Score:
    return Score(neighbours.top1(learned, judged, num_classes=classes), head.top1(judged))


def is_uneven(labels: Tensor, classes: int) -> bool:
    """Tell whether one class has many more of the labels, int64 (n,), than another."""
    counts = torch.bincount(labels, minlength=classes)
    return int(counts.max()) > UNEVEN * max(int(counts.min()), 1)


def mean_recall(head: Probe, learned: Features, judged: Features) -> float:
    """Return the mean over the classes of the share, 0..1, that a probe finds, each class with the
    same weight: how often it was learned from is taken out of its logits.

    *Source:* Menon et al. 2021, arXiv 2007.07314, section 4.2 (post-hoc logit adjustment).
    """
    counts = torch.bincount(learned.labels, minlength=len(head.bias)).clamp(min=1)
    answers = (head.logits(judged.vectors) - counts.log()).argmax(1)
    right = (answers == judged.labels).double()
    there = sorted({*judged.labels.tolist()})
    return float(torch.stack([right[judged.labels == label].mean() for label in there]).mean())


def _right(bank: Features, judged: Features, classes: int) -> Tensor:
    """Return which evaluated images their nearest neighbours classify correctly, bool (n,)."""
    votes = neighbours.vote(bank, judged.vectors, num_classes=classes)
    return votes.argmax(1) == judged.labels


def _better(answers: dict[str, Tensor]) -> str:
    """Return the normalisation that is significantly better than the first one, empty if none is.

    ``answers`` says for each which evaluated images, bool (n,), were classified correctly.
    """
    first, *others = answers
    best = max(others, key=lambda name: int(answers[name].sum()), default=first)
    won = int((answers[best] & ~answers[first]).sum())
    lost = int((answers[first] & ~answers[best]).sum())
    # the same images: only those that one of both names rightly tell them apart (McNemar)
    return best if won - lost > SURE * math.sqrt(won + lost) else ""
