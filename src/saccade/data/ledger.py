"""What is wrong with the images of a dataset, counted and named: every file read, hashed and decoded.

Sets under 2 GB are read completely. Above that a sample is decoded; the validation part of the sample is still compared
with the whole training set, since equal files have equal sizes and the sizes of all files are known.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from saccade import files, rng
from saccade.data import images
from saccade.errors import DataError, SaccadeError
from saccade.rng import Purpose

VERSION = 1
COMPLETE_BYTES = 2_000_000_000
SAMPLED = 1000
"""Images of each split that are decoded of a larger set."""

CANDIDATES = 4000
"""Training images of a larger set that are read because a sampled validation image has the same size."""

LIMIT_S = 40.0
LISTED = 50
_BLOCK = 64

Integers = NDArray[np.int64]
Tick = Callable[[int], None]


class Images(Protocol):
    """A split as far as it matters here."""

    @property
    def sizes(self) -> Integers:
        """Bytes of each image file, int64 of shape (n,)."""

    @property
    def labels(self) -> Integers:
        """Class of each image, int64 of shape (n,)."""

    @property
    def read(self) -> Callable[[int], bytes | memoryview]:
        """What returns the file of image i; it may be called from many threads."""

    @property
    def where(self) -> str:
        """The folder or archive that holds the images."""

    @property
    def fingerprint(self) -> str:
        """A digest of all names, sizes and classes."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """Name image i for a person."""


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


class _Seen(NamedTuple):
    """One image: its place, short side in pixels, whether it is turned, and what is wrong.

    ``digest`` is the first half of its SHA-256, empty for what is no image: two empty files are no copies.
    """

    place: int
    digest: bytes
    side: int
    turned: bool
    problem: str


@dataclass(slots=True)
class _Part:
    """One split, the places that are to be looked at, and what was seen there."""

    split: Images
    places: Integers
    seen: list[_Seen] = field(default_factory=list)


def audit(train: Images, val: Images, progress: Tick = lambda _done: None) -> Ledger:
    """Look into the images of both splits, at most ``LIMIT_S`` seconds; ``progress`` is told how many are done.

    A clean result is kept in the user's cache folder and found again by the same data. One with errors is not: the
    images may be repaired without changing their size.
    """
    cache = files.cache_folder() / "preflight" / f"{_identity(train, val)}.json"
    known = _recall(cache)
    if known is not None:
        return known
    begun = time.monotonic()
    train_places, val_places = choose(train, val)
    parts = (_Part(val, val_places), _Part(train, train_places))
    _look(parts, begun + LIMIT_S, progress)
    ledger = replace(_summary(*parts), seconds=round(time.monotonic() - begun, 3))
    if not ledger.unreadable and not ledger.overlap:
        _remember(cache, ledger)
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


def _look(parts: Sequence[_Part], deadline: float, progress: Tick) -> None:
    """Read all chosen images in threads: blocks of neighbours, in shuffled order, so that a cut is a fair sample."""
    blocks = [(part, part.places[i : i + _BLOCK]) for part in parts for i in range(0, len(part.places), _BLOCK)]
    order = np.argsort(rng.key(Purpose.SAMPLE, 2, np.arange(len(blocks))), kind="stable")
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "saccade-preflight")
    try:
        tasks = [(blocks[i][0], pool.submit(_see, blocks[i][0], blocks[i][1], deadline)) for i in order]
        done = 0
        for part, task in tasks:
            seen = task.result()
            part.seen += seen
            done += len(seen)
            progress(done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _see(part: _Part, places: Integers, deadline: float) -> list[_Seen]:
    seen = []
    for place in places.tolist():
        if time.monotonic() > deadline:
            break
        digest, side, turned, problem = b"", 0, False, ""
        try:
            data = part.split.read(place)
            digest = hashlib.sha256(data).digest()[:16]
            side = min(images.decode(data).shape[:2])
            turned = images.orientation(data) != 1
        except (images.BadImage, DataError) as error:
            digest, problem = b"", error.what if isinstance(error, DataError) else str(error)
        seen.append(_Seen(place, digest, side, turned, problem))
    return seen


def _summary(val: _Part, train: _Part) -> Ledger:
    seen = [*val.seen, *train.seen]
    places: dict[bytes, int] = {}
    conflicts = []
    for one in sorted(train.seen):
        first = places.setdefault(one.digest, one.place) if one.digest else one.place
        if train.split.labels[first] != train.split.labels[one.place]:
            conflicts.append(f"{train.split.describe(one.place)} = {train.split.describe(first)}")
    overlap = [
        f"{val.split.describe(one.place)} = {train.split.describe(places[one.digest])}"
        for one in val.seen
        if one.digest in places
    ]
    bad = [f"{p.split.describe(one.place)}: {one.problem}" for p in (train, val) for one in p.seen if one.problem]
    sides = [one.side for one in seen if one.side]
    return Ledger(
        read=len(seen),
        total=len(train.split) + len(val.split),
        compared=len(val.seen),
        num_val=len(val.split),
        unreadable=Named.of(bad),
        overlap=Named.of(overlap),
        conflicts=Named.of(conflicts),
        turned=sum(one.turned for one in seen),
        short_side=int(statistics.median(sides)) if sides else 0,
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


def _recall(cache: Path) -> Ledger | None:
    try:
        facts: dict[str, Any] = files.read_json(cache)
        for name in ("unreadable", "overlap", "conflicts"):
            facts[name] = Named(int(facts[name]["count"]), tuple(facts[name]["first"]))
        return Ledger(**facts | {"cached": True})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(cache: Path, ledger: Ledger) -> None:
    try:
        files.write_json(cache, asdict(ledger))
    except (SaccadeError, OSError):  # a home that cannot be written costs the next start a few seconds, nothing else
        return
