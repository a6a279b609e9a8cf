"""Data from Python: images and labels in objects of other libraries.
:mod:`saccade.data.sources.recognise` finds out what they are; here they become splits.

An image's name is its number and a digest of its content, so the fingerprint of such a set is that
of what is in it: the same images again are the same set, in another process and in an object of
another library, and other ones are another set.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade import rng
from saccade.data.sources.encode import NoImage, encoded
from saccade.data.sources.given_labels import class_names
from saccade.data.sources.layout import WHOLE
from saccade.data.sources.listing import counted
from saccade.data.sources.recognise import UNLABELLED, Items, recognise
from saccade.data.sources.split import Integers, Read, Source, Split, short_name
from saccade.errors import DataError
from saccade.log import Log
from saccade.units import human_count

PREFIX = "python:"
"""Prefix of the names of such data in settings and messages; it is not a path."""

HASHED_BYTES = 2_000_000_000
"""Up to this size every image is part of the fingerprint with all its bytes; above, a sample."""

HASHED_IMAGES = 10_000
"""Images of that sample; names, labels and sizes of all others count, too."""

_DIGEST_DIGITS = 32
_PROBES = 16


def is_handed(where: str) -> bool:
    """Tell whether the place of a set says that it came from Python."""
    return where.startswith(PREFIX)


def gone(where: str) -> DataError:
    """Return the error for data that only a Python program can open."""
    return DataError(
        "this data was passed from Python, so it is not on disk for another program",
        where=where,
        fix=(
            "pass it again: saccade.train(data=...) continues the run, saccade.evaluate(run, "
            "data=...) evaluates it; or use the same images as files: --data"
        ),
    )


def place(given: Any, name: str) -> Any:
    """Return what settings call the data of the keyword ``name``: a name or path as it is."""
    if given is None or isinstance(given, str | Path):
        return given
    return given.where or name if isinstance(given, Source | Split) else f"{PREFIX}{name}"


def opened(given: Any, name: str, split: str, log: Log) -> Source | None:
    """Return the source of an object from Python, None for a name or a path.

    A split alone becomes the one called ``split``. Raises as ``open_handed``.
    """
    if given is None or isinstance(given, str | Path):
        return None
    if isinstance(given, Source):
        return given
    if isinstance(given, Split):
        where = given.where or name
        return Source(short_name(Path(where)), where, {split: given})
    return open_handed(given, name, log)


def open_handed(given: Any, name: str, log: Log) -> Source:
    """Make a source of images and labels in an object, which ``docs/data.md`` lists.

    ``name`` is the keyword that it was given by; messages call it so. Every image that is not a
    file or in one large array is fetched once. Raises UsageError where the object is none of these,
    DataError where an image or a label in it cannot be used.
    """
    where = f"{PREFIX}{name}"
    splits, ignored = {}, Counter[str]()
    sampled = False
    for split, items in recognise(given, name).items():
        labels = items.labels or ()
        if labels and all(map(is_unlabelled, labels)) and split != "train":
            ignored[f"image of the split '{split}', which has no labels"] += items.num
            continue
        splits[split], partly = _Reading(items, split, where, log).split()
        sampled |= partly

    num = sum(map(len, splits.values()))
    if not num:
        raise DataError("no image has a label", where=where, fix="add images with labels")
    told = f"the bytes of {HASHED_IMAGES:,} of them, all labels and sizes" * sampled
    images = human_count(num, "image")
    log.say(f"{name}: {images} from Python; identified by {told or 'their contents'}")
    return Source("python", where, splits, ignored)


def is_unlabelled(label: Any) -> bool:
    """Tell whether a label is the number by which data sets say that there is none."""
    return isinstance(label, int | np.integer) and label == UNLABELLED


@dataclass(frozen=True, slots=True)
class _Reading:
    """The reading of one split's images and labels; ``where`` is for messages."""

    items: Items
    name: str
    where: str
    log: Log

    def split(self) -> tuple[Split, bool]:
        """Read everything once; tell, too, whether only a sample of the contents was read."""
        items = self.items
        if not items.num:
            raise DataError(f"{items.what}: it contains no images", where=self.where)
        if items.labels is not None and len(items.labels) != items.num:
            raise DataError(
                f"{items.what}: {human_count(items.num, 'image')}, but "
                f"{human_count(len(items.labels), 'label')}",
                where=self.where,
                fix="pass one label per image, in the same order",
            )

        guard = threading.Lock() if items.one_by_one else None
        read = _reader(self, guard)
        paths = self._paths()
        if paths is None:
            sizes, names, labels, sampled = self._fetched(read)
        else:
            sizes, names, sampled = self._on_disk(paths, read)
            labels = list(items.labels or ())
        classes, numbers = self._classes(labels)
        self._probe(read, names, labels)
        return self._sorted(
            classes, numbers, sizes, names=names, read=read, sampled=sampled
        ), sampled

    def item(self, i: int) -> tuple[bytes | Path, Any]:
        """Return image ``i`` and its label, None where labels are apart; raises DataError."""
        try:
            image, label = self.items.item(i)
            return encoded(image), label
        except NoImage as error:
            raise DataError(
                f"{self.items.what}: {error}", where=self.at(i), fix=error.fix
            ) from error
        except DataError:
            raise
        except Exception as error:  # any code may run here
            raise DataError(
                f"{self.items.what}: an item cannot be read: {type(error).__name__}: {error}",
                where=self.at(i),
                fix="repair the item, or remove it from the data",
            ) from error

    def at(self, i: int) -> str:
        """Name an item for a person."""
        split = f" of the split '{self.name}'" if self.name != WHOLE else ""
        origin = self.items.origin(i)
        return f"{self.where}, item {i}{split}{f' ({origin})' * (not origin.startswith('item '))}"

    def _paths(self) -> list[Path] | None:
        """Return the files of all images where they are files; None where they are something
        else.
        """
        if not self.items.listed:
            return None
        found: list[Path] = []
        for i in range(self.items.num):
            image, _ = self.item(i)
            if not isinstance(image, Path):
                return None
            found.append(image)
        return found

    def _on_disk(self, paths: Sequence[Path], read: Read) -> tuple[Integers, list[str], bool]:
        """Return the sizes of files in bytes and a name for each image; raises DataError where
        files are missing.
        """
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{self.items.what}: {counted(missing, 'missing file')}",
                where=self.where,
                fix="use absolute paths, or paths relative to the working directory",
            )
        sizes = np.array([path.stat().st_size for path in paths], np.int64)
        chosen = _sample(sizes)
        names = [f"{i:08d}-{path.name}" for i, path in enumerate(paths)]
        with self.log.progress("reading the files", len(chosen)) as bar:
            for done, i in enumerate(chosen):
                names[i] = _name(i, read(i))
                bar.update(done + 1, "to compute their digests")
        return sizes, names, len(chosen) < len(paths)

    def _fetched(self, read: Read) -> tuple[Integers, list[str], list[Any], bool]:
        """Return the sizes of the images in bytes, a name and a label for each.

        A large array is sampled, and the rest of it is not touched: it may lie in a file. What is
        fetched item by item is hashed as it comes.
        """
        items = self.items
        large = items.num_bytes > HASHED_BYTES
        chosen = _first(items.num) if large else range(items.num)
        sizes = np.full(items.num, len(read(0)), np.int64)
        names = [f"{i:08d}" for i in range(items.num)]
        labels = list(items.labels or ())
        with self.log.progress("reading the images", len(chosen)) as bar:
            for done, i in enumerate(chosen):
                content, label = self.item(i)
                data = content if isinstance(content, bytes) else read(i)
                names[i], sizes[i] = _name(i, data), len(data)
                if items.labels is None:
                    labels.append(label)
                bar.update(done + 1, "once, to compute their digests")
        return sizes, names, labels, large

    def _classes(self, labels: Sequence[Any]) -> tuple[tuple[str, ...], Integers]:
        """Return the classes in order, and the place of each image's among them; raises
        DataError.
        """
        texts = class_names(labels, self.items.classes, self)
        classes = tuple(sorted(set(texts)))
        place = {name: label for label, name in enumerate(classes)}
        return classes, np.array([place[text] for text in texts], np.int64)

    def _probe(self, read: Read, names: Sequence[str], labels: Sequence[Any]) -> None:
        """Raise DataError if an image or its label differs when it is read again.

        A transform that mirrors half of the images passes unseen with a chance of one in 65,536.
        """
        if not self.items.one_by_one:
            return
        for i in sorted({k * (len(names) - 1) // (_PROBES - 1) for k in range(_PROBES)}):
            content, label = self.item(i)
            again = _name(i, content if isinstance(content, bytes) else read(i))
            what = "is another image" * ("-" in names[i] and again != names[i])
            if self.items.labels is None and str(label) != str(labels[i]):
                what = what or "has another label"
            if what:
                raise DataError(
                    f"{self.items.what}: the same item {what} each time",
                    where=self.at(i),
                    fix=(
                        "pass images without a random transform: training augments them itself, "
                        "in a repeatable way"
                    ),
                )

    def _sorted(
        self,
        classes: tuple[str, ...],
        labels: Integers,
        sizes: Integers,
        names: Sequence[str],
        read: Read,
        sampled: bool,
    ) -> Split:
        """Return the split in canonical order: by class, then by number."""
        split = Split(
            name=self.name,
            classes=classes,
            names=tuple(names),
            sizes=sizes,
            labels=labels,
            read=read,
            where=self.where,
            empty_classes=tuple(sorted(set(self.items.classes) - set(classes))),
            origins=tuple(self.items.origin(i) for i in range(self.items.num)),
        ).at(np.argsort(labels, kind="stable"))
        # files may change between two readings, what was read whole has this very content
        return split if sampled else replace(split, stamp=f"{PREFIX}{split.fingerprint}")


def _reader(reading: _Reading, guard: threading.Lock | None) -> Read:
    """Return what reads image ``i`` as a file.

    Many threads call it. The objects of others are not made for that: they are asked by one thread
    at a time.
    """

    def read(i: int) -> bytes:
        if guard is None:
            content = reading.item(i)[0]
        else:
            with guard:
                content = reading.item(i)[0]
        if isinstance(content, bytes):
            return content
        try:
            return content.read_bytes()
        except OSError as error:
            raise DataError(
                f"{reading.items.what}: the file cannot be read: {error.strerror or error}",
                where=str(content),
                fix="use absolute paths, or paths relative to the working directory",
            ) from error

    return read


def _name(i: int, data: bytes | memoryview) -> str:
    return f"{i:08d}-{hashlib.sha256(data).hexdigest()[:_DIGEST_DIGITS]}"


def _sample(sizes: Integers) -> list[int]:
    """Return which files are read for the fingerprint: all, or always the same ones of a set."""
    if int(sizes.sum()) <= HASHED_BYTES:
        return list(range(len(sizes)))
    return _first(len(sizes))


def _first(num: int) -> list[int]:
    keys = rng.key(rng.Purpose.SAMPLE, 5, np.arange(num))
    return sorted(np.argsort(keys, kind="stable")[:HASHED_IMAGES].tolist())
