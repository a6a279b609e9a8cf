"""What weights are worth on a set of images before anything is trained: frozen features, beside
those of the same network untrained.

Without the untrained network a figure misleads: random filters on fitted patches reach far more
than chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.evaluation import neighbours, passes, probe
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import Features, sample
from saccade.evaluation.kept_features import features_once
from saccade.evaluation.probe import Probe
from saccade.models import create_model
from saccade.models.parts.embedding import embed
from saccade.models.parts.running_statistics import averaged_anew
from saccade.models.parts.whitening import Whitening
from saccade.models.weights.preprocessing import HALVES, IMAGENET

LEARNED, JUDGED = 1000, 500
"""Images that are learned from, and that are judged, at most: what this costs is bounded, and is
never more than two epochs of the training that follows.
"""

CHECKED = 100
"""Images of each side that normalisations are compared on, at most."""

FITTED = 200
"""Images that an untrained network is fitted to, where parts of it are."""

SURE = 2.5
"""Standard errors by which one result must be better than another."""

Poll = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Score:
    """What frozen features are good for: top-1, 0..1, of images that were not learned from.

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
    """What weights are worth on a set of images.

    ``frozen`` is the network's score, ``untrained`` that of the same network as it would be drawn,
    None where there is none. ``learned`` and ``judged`` count the images behind it. ``probe`` and
    ``features`` are those of the training images that were learned from. ``pixels`` has the top-1
    of nearest neighbours for each way to normalise, on fewer images, and ``better`` names the one
    that beats the recipe's own beyond doubt, empty where none does.
    """

    frozen: Score
    untrained: Score | None
    learned: int
    judged: int
    probe: Probe
    features: Features
    pixels: dict[str, float]
    better: str = ""

    @property
    def helps(self) -> bool | None:
        """Whether the weights beat the untrained network beyond doubt; None where nothing tells."""
        if self.untrained is None:
            return None
        high, low = self.frozen.best, self.untrained.best
        error = math.sqrt((high * (1 - high) + low * (1 - low)) / max(self.judged, 1))
        return high - low > max(SURE * error, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        other = self.untrained
        return {
            "frozen": {"knn": self.frozen.knn, "probe": self.frozen.probe},
            "untrained": {"knn": other.knn, "probe": other.probe} if other else None,
            "learned": self.learned,
            "judged": self.judged,
            "pixels": self.pixels,
            "better_pixels": self.better,
        }


def worth(
    network: nn.Module,
    other: nn.Module | None,
    recipe: Recipe,
    sides: tuple[Split, Split],
    readers: Readers,
    *,
    seed: int = 0,
    precision: str,
    device: torch.device,
    poll: Poll = lambda _done: None,
) -> Worth:
    """Say what the weights of a network are worth, beside ``other``, the same network untrained.

    ``sides`` are the images to learn from and to judge on, labelled by the same classes; bounded
    samples of them are looked at, always the same ones. ``poll`` is called with the number of
    images done of ``total`` and may raise to stop.
    """
    train, val = sample(sides[0], LEARNED), sample(sides[1], JUDGED)
    classes = len(train.classes)
    look = _Look(readers, precision, device, poll)

    learned, judged = look(network, recipe, train), look(network, recipe, val)
    head = probe.fit(learned, classes, seed)
    beside = None
    if other is not None:
        theirs = look(other, recipe, train), look(other, recipe, val)
        beside = _score(*theirs, probe.fit(theirs[0], classes, seed), classes)

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
        beside,
        learned=len(learned),
        judged=len(judged),
        probe=head,
        features=learned,
        pixels={name: float(found.double().mean()) for name, found in answers.items()},
        better=_better(answers),
    )


def _every(count: int, most: int) -> NDArray[np.int64]:
    return np.arange(0, count, -(-count // most))


def total(recipe: Recipe, sides: tuple[Split, Split], *, beside: bool) -> int:
    """Return how many images are looked at; ``beside`` counts an untrained network, too."""
    learned, judged = (len(sample(*side)) for side in zip(sides, (LEARNED, JUDGED), strict=True))
    checked = len(_every(learned, CHECKED)) + len(_every(judged, CHECKED))
    return (learned + judged) * (1 + beside) + checked * (len(ways(recipe)) - 1)


def ways(recipe: Recipe) -> dict[str, Recipe]:
    """Return the ways to normalise that weights may have been trained with, by name: the recipe's
    first.
    """
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


def untrained(recipe: Recipe, train: Split, readers: Readers, *, device: torch.device) -> nn.Module:
    """Return the network of a recipe as it is drawn, in evaluation mode.

    What is fitted to images and not trained, is fitted to some of ``train``: a whitening layer, and
    the statistics of BatchNorm. Without that it would look worse than it is. Raises ConfigError for
    a network that has no name.
    """
    network = create_model(
        recipe.model,
        num_classes=len(train.classes),
        image_size=recipe.image_size,
        strides=recipe.strides,
        patch_size=recipe.patch_size,
    )
    network = network.eval().to(device)
    few = sample(train, FITTED)

    def show(ask: Callable[[Tensor], Tensor]) -> None:
        passes.rows(network, recipe, few, readers, ask=ask, precision="fp32", device=device)

    if layers := [layer for layer in network.modules() if isinstance(layer, Whitening)]:
        seen: list[Tensor] = []

        def keep(images: Tensor) -> Tensor:
            seen.append(images)
            return images[:, 0, 0, :1]

        show(keep)
        for layer in layers:
            layer.fit(torch.cat(seen)[: len(few)])

    with averaged_anew(network) as norms:

        def follow(images: Tensor) -> Tensor:
            # these alone: dropout would draw
            for norm in norms:
                norm.train()
            return embed(network, images)

        if norms:
            show(follow)
    return network


def _score(learned: Features, judged: Features, head: Probe, classes: int) -> Score:
    return Score(neighbours.top1(learned, judged, num_classes=classes), head.top1(judged))


def _right(bank: Features, judged: Features, classes: int) -> Tensor:
    """Return which judged images their nearest neighbours name rightly, bool (n,)."""
    votes = neighbours.vote(bank, judged.vectors, num_classes=classes)
    return votes.argmax(1) == judged.labels


def _better(answers: dict[str, Tensor]) -> str:
    """Return which way of normalising beats the first one beyond doubt, empty where none does.

    ``answers`` says for each which judged images, bool (n,), were named rightly.
    """
    first, *others = answers
    best = max(others, key=lambda name: int(answers[name].sum()), default=first)
    won = int((answers[best] & ~answers[first]).sum())
    lost = int((answers[first] & ~answers[best]).sum())
    # the same images: only those that one of both names rightly tell them apart (McNemar)
    return best if won - lost > SURE * math.sqrt(won + lost) else ""


class _Look:
    """Features of one split after the other, and how many images are done by then."""

    def __init__(self, readers: Readers, precision: str, device: torch.device, poll: Poll) -> None:
        self.readers, self.precision, self.device = readers, precision, device
        self.poll, self.before = poll, 0

    def __call__(self, network: nn.Module, recipe: Recipe, split: Split) -> Features:
        """Return the features of a split."""
        found = features_once(
            network,
            recipe,
            split,
            self.readers,
            precision=self.precision,
            device=self.device,
            poll=lambda done: self.poll(self.before + done),
        )
        self.before += len(found)
        return found
