"""Frozen features: the output of a network before its head for every image of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from saccade import rng
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.data.sources.split import hold_out
from saccade.distributed.world import ALONE, World
from saccade.errors import DivergedError
from saccade.evaluation import passes
from saccade.evaluation.classifier import Recipe
from saccade.models.parts.embedding import embed
from saccade.rng import Purpose

SAMPLE_SEED = 0
"""The images behind a figure are the same ones in every run, so that figures can be compared."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of images in the order of their split, on the CPU.

    ``vectors`` is float32 (n, d), ``labels`` int64 (n,).
    """

    vectors: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: Tensor) -> Features:
        """Return the features at ``places``, int64 (k,) or bool (n,)."""
        return Features(self.vectors[places], self.labels[places])


def features_of(
    network: nn.Module,
    recipe: Recipe,
    split: Split,
    readers: Readers,
    *,
    precision: str,
    device: torch.device,
    poll: Callable[[int], None] = lambda _done: None,
    world: World = ALONE,
    limit: int | None = None,
) -> Features:
    """Return the features of a split, seen through the evaluation's preprocessing.

    Labels are those of the split. ``limit`` selects about this many images, from each class in
    proportion, always the same ones. The modes of the network are restored afterwards. Each rank
    computes a part of the cells; the first one gets all features, the others none. ``poll`` is
    called with the number of images done and may raise to stop. Raises DivergedError where a
    feature is NaN or infinite.
    """
    split = sample(split, limit)
    vectors = passes.rows(
        network,
        recipe,
        split,
        readers,
        ask=lambda images: embed(network, images),
        precision=precision,
        device=device,
        poll=poll,
        world=world,
    )
    if not bool(torch.isfinite(vectors).all()):
        raise DivergedError(
            "the network's features contain NaN or infinity",
            fix="use an earlier checkpoint, or --precision fp32",
        )
    return Features(vectors, torch.from_numpy(split.labels)[: len(vectors)])


def sample(split: Split, limit: int | None) -> Split:
    """Return about ``limit`` images of a split, all of them if there are not more.

    They are of each class in proportion, and at least one. A class with a single image has none,
    unless all classes are such.
    """
    if limit is None or limit >= len(split):
        return split
    _, drawn = hold_out(split, limit / len(split), SAMPLE_SEED, Purpose.PROBED)
    if len(drawn):
        return drawn

    keys = rng.key(SAMPLE_SEED, int(Purpose.PROBED), np.arange(len(split)))
    return split.subset(np.sort(np.argsort(keys, kind="stable")[:limit]), drawn.name)
