"""Problems of the images of a data set, counted and named.

Every file is read, hashed and decoded.

Sets under 2 GB are read completely. Above that a sample is decoded; the validation part of the
sample is still compared with the whole training set, since equal files have equal sizes and the
sizes of all files are known.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade import cache, files, rng
from saccade.data.audit.image import ERRORS, Images, Integers, Part, Tick, first_equal, survey
from saccade.errors import DataError
from saccade.rng import Purpose

VERSION = 2
COMPLETE_BYTES = 2_000_000_000
SAMPLED = 1000
"""Images of each split that are decoded of a larger set."""

CANDIDATES = 4000
"""Training images of a larger set that are read because a sampled validation image has the same
size.
"""

OVERLAP_LIMIT = 0.001
"""Largest share of the validation images that may also be training images; above it the run is
refused.
"""

REREAD = 64
"""Images of each split that are read again where the rest is taken as found before: others at
every start.
"""

REMEMBERED = 4096
"""Images of each split whose digests are kept for that."""

FIXED = 128
"""Images of each split, always the same, whose bytes are part of what a run was trained on."""

SAMPLE_BYTES = 256_000_000
"""A sample of huge files ends here."""

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

    ``read`` of ``total`` images were read, ``compared`` of ``num_val`` validation images were
    compared with the training images by SHA-256. ``conflicts`` are equal training images with
    different labels, ``turned`` counts images with an EXIF orientation, ``short_side`` is the
    median in pixels, ``shape`` that of the short side over the long one (both 0 if nothing could be
    read). ``changed`` are images that changed since the last check of the same files.
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
    shape: float
    seconds: float
    cached: bool = False
    changed: Named = Named()

    @property
    def scope(self) -> str:
        """The scope of the check, as a phrase."""
        if self.read == self.total:
            return f"all {self.total:,} images"
        return f"{self.read:,} of {self.total:,} images sampled"


def audit(train: Images, val: Images, progress: Tick = lambda _done: None) -> Ledger:
    """Check the images of both splits, for at most ``LIMIT_S`` seconds.

    ``progress`` gets the number of finished images. A clean result is cached while every file has
    the same size, times and inode. Even then a few images are read again: if one has changed,
    everything is checked again.
    """
    begun = time.monotonic()
    place = (
        cache.within("preflight", f"{_identity(train, val)}.json")
        if train.stamp and val.stamp
        else None
    )

    # Taken as found before only if a few images, read again just now, have not changed.
    known, changed = _recall(place, train, val) if place else (None, Named())
    if known is not None and not changed:
        return known

    train_places, val_places = choose(train, val)
    parts = (Part(val, val_places), Part(train, train_places))
    survey(parts, progress, shuffled=True, deadline=begun + LIMIT_S)

    ledger = replace(_summary(*parts), seconds=round(time.monotonic() - begun, 3), changed=changed)
    if place and not ledger.unreadable and not ledger.overlap:
        cache.remember(
            place, {"ledger": asdict(ledger), "bytes": [_digests(part) for part in parts]}
        )
    # the result that was kept is no longer true
    elif place and changed:
        cache.forget(place)
    return ledger


def choose(train: Images, val: Images) -> tuple[Integers, Integers]:
    """Return the places to read in each split, all or a sample: int64 (k,) in rising order.

    Of a larger set, the training images with the size of a sampled validation image are added, for
    as many validation images as ``CANDIDATES`` allows.
    """
    if int(train.sizes.sum()) + int(val.sizes.sum()) < COMPLETE_BYTES:
        return np.arange(len(train)), np.arange(len(val))

    val_places = _sample(len(val), 1)
    order = np.argsort(train.sizes, kind="stable")
    ordered = train.sizes[order]
    first, last = (
        np.searchsorted(ordered, val.sizes[val_places], side) for side in ("left", "right")
    )
    # as many as the budget for their possible twins allows
    val_places = val_places[: int(np.searchsorted(np.cumsum(last - first), CANDIDATES, "right"))]
    twins = [order[a:b] for a, b in zip(first, last, strict=True)][: len(val_places)]
    return np.unique(np.concatenate([_sample(len(train), 0), *twins])), np.sort(val_places)


def _sample(num: int, word: int) -> Integers:
    keys = rng.key(Purpose.SAMPLE, word, np.arange(num))
    return np.argsort(keys, kind="stable")[:SAMPLED]


def _summary(val: Part[Images], train: Part[Images]) -> Ledger:
    rows = np.concatenate([train.rows, val.rows])
    firsts = first_equal(train, val)

    # Equal images have the same first one; those of training come first.
    labels = train.split.labels[train.places]
    own, theirs = np.split(firsts, [len(train.rows)])
    conflicts = np.flatnonzero(labels[own] != labels).tolist()
    overlap = np.flatnonzero(theirs < len(own)).tolist()

    sides, long = (
        side(rows["width"], rows["height"])[rows["sound"]] for side in (np.minimum, np.maximum)
    )

    return Ledger(
        read=int(rows["seen"].sum()),
        total=len(train.split) + len(val.split),
        compared=int(val.rows["seen"].sum()),
        num_val=len(val.split),
        unreadable=Named.of(
            [name for part in (train, val) for kind in ERRORS for name in part.named(kind)]
        ),
        overlap=Named.of([f"{val.describe(i)} = {train.describe(theirs[i])}" for i in overlap]),
        conflicts=Named.of([f"{train.describe(i)} = {train.describe(own[i])}" for i in conflicts]),
        turned=int((rows["turn"] > 1).sum()),
        short_side=int(np.median(sides)) if len(sides) else 0,
        shape=float(np.median(sides / long)) if len(sides) else 0.0,
        seconds=0.0,
    )


def _identity(train: Images, val: Images) -> str:
    """Return the name of a kept result: a digest of both indices and their files' stamps."""
    sha = hashlib.sha256(f"saccade preflight {VERSION}\n".encode())
    for split in (train, val):
        sha.update(f"{split.fingerprint}\0{split.stamp}\0".encode())
    return sha.hexdigest()


def _digests(part: Part[Images]) -> list[list[Any]]:
    """Return (place, first half of the SHA-256) of at most ``REMEMBERED`` images that were read."""
    seen = np.flatnonzero(part.rows["seen"])
    spread = seen[np.linspace(0, len(seen) - 1, min(REMEMBERED, len(seen))).astype(np.int64)]
    return [
        [int(part.places[row]), part.rows["digest"][row].ljust(32, bytes(1))[:16].hex()]
        for row in spread
    ]


def _recall(place: Path, train: Images, val: Images) -> tuple[Ledger | None, Named]:
    """Return the cached result, if any, and which of a few images have changed since."""
    try:
        facts: dict[str, Any] = files.read_json(place)
        fields = facts["ledger"]
        for name in ("unreadable", "overlap", "conflicts", "changed"):
            fields[name] = Named(int(fields[name]["count"]), tuple(fields[name]["first"]))
        known = Ledger(**fields | {"cached": True, "changed": Named()})
        before = [
            {int(i): bytes.fromhex(digest) for i, digest in entries} for entries in facts["bytes"]
        ]
        changed = [
            name
            for split, then in zip((val, train), before, strict=True)
            for name in _changed(split, then)
        ]
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None, Named()
    return known, Named.of(changed)


def _changed(split: Images, before: dict[int, bytes]) -> list[str]:
    """Read some images again, others at every call, and name those whose bytes have changed."""
    places = np.array(sorted(before), np.int64)
    # the clock is meant: other images at every start, and no number of the run follows from them
    keys = rng.key(Purpose.SAMPLE, 3, time.time_ns(), np.arange(len(places)))
    chosen = _bounded(split, places[np.argsort(keys, kind="stable")[:REREAD]])
    return [split.describe(i) for i in chosen.tolist() if _digest(split, i)[:16] != before[i]]


def contents(*splits: Images) -> str:
    """Return a digest, 32 hexadecimal digits, of the bytes of a fixed sample of each split.

    Names and sizes, which the fingerprint holds, stay the same when a set is exchanged for another
    of equal sizes.
    """
    sha = hashlib.sha256(f"saccade contents {VERSION}\n".encode())
    for split in splits:
        keys = rng.key(Purpose.SAMPLE, 4, np.arange(len(split)))
        for i in _bounded(split, np.argsort(keys, kind="stable")[:FIXED]).tolist():
            sha.update(_digest(split, i))
    return sha.hexdigest()[:32]


def _bounded(split: Images, places: Integers) -> Integers:
    """Limit a sample to ``SAMPLE_BYTES``, but keep at least one file."""
    within = np.cumsum(split.sizes[places]) <= SAMPLE_BYTES
    within[:1] = True
    return places[within]


def _digest(split: Images, i: int) -> bytes:
    """Return the SHA-256 of an image file, 32 bytes; zeros where it cannot be read."""
    try:
        return hashlib.sha256(split.read(i)).digest()
    except DataError:
        return bytes(32)
