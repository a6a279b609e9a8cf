"""What is wrong with the images of a dataset, counted and named: every file read, hashed and decoded.

Sets under 2 GB are read completely. Above that a sample is decoded; the validation part of the sample is still compared
with the whole training set, since equal files have equal sizes and the sizes of all files are known.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade import cache, files, rng
from saccade.data.look import ERRORS, Images, Integers, Part, Tick, first_equal, survey
from saccade.rng import Purpose

VERSION = 1
COMPLETE_BYTES = 2_000_000_000
SAMPLED = 1000
"""Images of each split that are decoded of a larger set."""

CANDIDATES = 4000
"""Training images of a larger set that are read because a sampled validation image has the same size."""

OVERLAP_LIMIT = 0.001
"""Share of the validation images that may also be training images before the figure is refused."""

LIMIT_S = 40.0
LISTED = 50


@dataclass(frozen=True, slots=True)
class Named:
    """How many there are, and the first of them by name."""

    count: int = 0
    first: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.count > 0

    @classmethod
    def of(cls, names: Sequence[str]) -> Named:
        """Count names and keep the first of them, sorted."""
        return cls(len(names), tuple(sorted(names)[:LISTED]))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was found in the contents.

    ``read`` of ``total`` images were read, ``compared`` of ``num_val`` validation images were compared with the
    training images by SHA-256. ``conflicts`` are equal training images with different labels, ``turned`` counts images
    with an EXIF orientation, ``short_side`` is the median in pixels (0 if nothing could be read).
    """

    read: int
    total: int
    compared: int
    num_val: int
    unreadable: Named
    overlap: Named
    conflicts: Named
    turned: int
    short_side: int
    seconds: float
    cached: bool = False

    @property
    def scope(self) -> str:
        """What the figures are based on, as a phrase."""
        if self.read == self.total:
            return f"all {self.total:,} images"
        return f"{self.read:,} of {self.total:,} images sampled"


def audit(train: Images, val: Images, progress: Tick = lambda _done: None) -> Ledger:
    """Look into the images of both splits, at most ``LIMIT_S`` seconds; ``progress`` is told how many are done.

    A clean result is kept in the user's cache folder and found again by the same data. One with errors is not: the
    images may be repaired without changing their size.
    """
    kept = cache.within("preflight", f"{_identity(train, val)}.json")
    known = _recall(kept)
    if known is not None:
        return known
    begun = time.monotonic()
    train_places, val_places = choose(train, val)
    parts = (Part(val, val_places), Part(train, train_places))
    survey(parts, progress, shuffled=True, deadline=begun + LIMIT_S)
    ledger = replace(_summary(*parts), seconds=round(time.monotonic() - begun, 3))
    if not ledger.unreadable and not ledger.overlap:
        cache.remember(kept, asdict(ledger))
    return ledger


def choose(train: Images, val: Images) -> tuple[Integers, Integers]:
    """Return the places to read in each split, int64 of shape (k,) in rising order: all, or a sample.

    Of a larger set, the training images with the size of a sampled validation image are added, for as many validation
    images as ``CANDIDATES`` allows.
    """
    if int(train.sizes.sum()) + int(val.sizes.sum()) < COMPLETE_BYTES:
        return np.arange(len(train)), np.arange(len(val))
    val_places = _sample(len(val), 1)
    order = np.argsort(train.sizes, kind="stable")
    ordered = train.sizes[order]
    first, last = (np.searchsorted(ordered, val.sizes[val_places], side) for side in ("left", "right"))
    val_places = val_places[: int(np.searchsorted(np.cumsum(last - first), CANDIDATES, "right"))]
    twins = [order[a:b] for a, b in zip(first, last, strict=True)][: len(val_places)]
    return np.unique(np.concatenate([_sample(len(train), 0), *twins])), np.sort(val_places)


def _sample(num: int, word: int) -> Integers:
    keys = rng.key(Purpose.SAMPLE, word, np.arange(num))
    return np.argsort(keys, kind="stable")[:SAMPLED]


def _summary(val: Part[Images], train: Part[Images]) -> Ledger:
    rows = np.concatenate([train.rows, val.rows])
    firsts = first_equal(train, val)
    labels = train.split.labels[train.places]
    own, theirs = np.split(firsts, [len(train.rows)])
    conflicts = np.flatnonzero(labels[own] != labels).tolist()
    overlap = np.flatnonzero(theirs < len(own)).tolist()
    sides = np.minimum(rows["width"], rows["height"])[rows["sound"]]
    return Ledger(
        read=int(rows["seen"].sum()),
        total=len(train.split) + len(val.split),
        compared=int(val.rows["seen"].sum()),
        num_val=len(val.split),
        unreadable=Named.of([name for part in (train, val) for kind in ERRORS for name in part.named(kind)]),
        overlap=Named.of([f"{val.describe(i)} = {train.describe(theirs[i])}" for i in overlap]),
        conflicts=Named.of([f"{train.describe(i)} = {train.describe(own[i])}" for i in conflicts]),
        turned=int((rows["turn"] > 1).sum()),
        short_side=int(np.median(sides)) if len(sides) else 0,
        seconds=0.0,
    )


def _identity(train: Images, val: Images) -> str:
    """Return what names the cached result: both indices, and the files they come from as they are now."""
    sha = hashlib.sha256(f"saccade preflight {VERSION}\n".encode())
    for split in (train, val):
        sha.update(f"{split.fingerprint}\0{Path(split.where).absolute()}\0".encode())
        try:
            facts = os.stat(split.where)
            sha.update(f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ino}\n".encode())
        except OSError:
            sha.update(b"not a file\n")
    return sha.hexdigest()


def _recall(kept: Path) -> Ledger | None:
    try:
        facts: dict[str, Any] = files.read_json(kept)
        for name in ("unreadable", "overlap", "conflicts"):
            facts[name] = Named(int(facts[name]["count"]), tuple(facts[name]["first"]))
        return Ledger(**facts | {"cached": True})
    except (OSError, ValueError, TypeError, KeyError):
        return None
