"""A split: labelled image files in canonical order, whatever holds them.

A source: the splits of one dataset.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from saccade import files, rng
from saccade.data.archives.paths import Names
from saccade.data.sources.foreign import advice
from saccade.data.sources.layout import NO_CLASS_FOLDER, SPLIT_FOLDERS, WHOLE, Layout, Part, arrange
from saccade.data.sources.split_names import Unclear
from saccade.errors import ConfigError, DataError
from saccade.printable import printable

NO_IMAGES = "there are no images in class folders"
INDEX_VERSION = 1
"""Counted up when the canonical order or the fingerprint changes its meaning."""

Read = Callable[[int], bytes | memoryview]
Integers = NDArray[np.int64]
_BLOCK = 1 << 16
_MISSED = ("image ", "broken link", "hard link", "symbolic link")


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled image files, sorted by the code points of (class, name).

    The place in this order is the sample number.

    ``names`` are paths inside the class folder; ``sizes`` (bytes) and ``labels`` (indices into
    ``classes``) are int64 of shape (n,); ``read`` returns an encoded image and may be called from
    many threads; ``empty_classes`` are class folders without an image, ``left_out`` those of them
    that hold other files; ``where`` names the source for messages and ``folder`` the split's folder
    in it; ``stamp`` tells whether the files that hold the images are still the same
    (:mod:`saccade.data.archives.stamps`), empty where nothing tells it; ``origins`` says what a
    person calls each image where its name does not; ``known`` is the fingerprint of exactly these
    images where it was computed before.
    """

    name: str
    classes: tuple[str, ...]
    names: Sequence[str]
    sizes: Integers
    labels: Integers
    read: Read
    where: str
    folder: str = ""
    empty_classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    stamp: str = ""
    origins: Sequence[str] = ()
    known: InitVar[str] = ""

    def __post_init__(self, known: str) -> None:
        outside = self.labels[(self.labels < 0) | (self.labels >= len(self.classes))]
        if len(outside):
            raise DataError(
                f"{len(outside):,} labels of the {self.name} split are not among its "
                f"{len(self.classes)} classes, such as {outside[0]}",
                where=self.where,
                fix=(f"use labels from 0 to {len(self.classes) - 1}, the indices of the classes"),
            )
        if known:
            # where the cached property keeps it; ``replace`` leaves it behind
            self.__dict__["fingerprint"] = known

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, i: int) -> str:
        """Name image ``i`` for a person: ``train/n01440764/x.JPEG in imagenette224.tar``."""
        if self.origins:
            return printable(f"{self.origins[i]} ({self.classes[self.labels[i]]})", keep="")
        prefix = f"{self.folder}/" if self.folder else ""
        place = Path(self.where).name or self.where  # "." has no name
        name = f"{prefix}{self.classes[self.labels[i]]}/{self.names[i]} in {place}"
        return printable(name, keep="")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) of the index: version, classes, and (class, name,
        size) of every image.
        """
        return fingerprint(self.classes, self.labels, self.names, self.sizes)

    def at(self, places: Integers) -> Split:
        """Return the images at ``places``, int64 of shape (k,), in that order."""
        names = self.names
        chosen = names.take(places) if isinstance(names, Names) else tuple(names[i] for i in places)
        return replace(
            self,
            names=chosen,
            sizes=self.sizes[places],
            labels=self.labels[places],
            read=_through(self.read, places),
            origins=tuple(self.origins[i] for i in places) if self.origins else (),
        )

    def subset(self, indices: Integers, name: str) -> Split:
        """Return the images at ``indices``, int64 of shape (k,), in ascending order, under
        another split name.
        """
        return replace(self.at(np.sort(np.asarray(indices, np.int64))), name=name)

    def called_as(self, classes: Sequence[str]) -> Split:
        """Return the split with the class names of another one where both are integers: ``7``
        becomes ``007``.

        Each source pads integers to the width of its own largest one, so two sources may differ.
        """
        names = {int(name): name for name in classes if name.isdecimal()}
        own = [int(name) for name in self.classes if name.isdecimal()]
        if len(names) < len(classes) or len(own) < len(self.classes) or len(set(own)) < len(own):
            return self
        width = max(map(len, classes), default=0)
        renamed = [names.get(number, str(number).zfill(width)) for number in own]
        if tuple(renamed) == self.classes:
            return self
        # other names sort otherwise, and classes are numbered in the order of their names
        order = np.argsort(np.array(renamed))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        named = replace(self, classes=tuple(renamed[i] for i in order), labels=rank[self.labels])
        return named.at(np.argsort(named.labels, kind="stable"))

    def with_classes(self, classes: Sequence[str]) -> Split:
        """Return the same images labelled by the places in ``classes``, integers compared as
        numbers.

        Raises DataError if a class is not there.
        """
        if (renamed := self.called_as(classes)) is not self:
            return renamed.with_classes(classes)
        number = {name: label for label, name in enumerate(classes)}
        foreign = [name for name in self.classes if name not in number]
        if foreign:
            raise DataError(
                f"unknown classes in the split '{self.name}': {_first(foreign)}",
                where=self.where,
                fix=f"the known classes are {_first(classes)}: use images of these, or rename the "
                "class folders or labels",
                finding="class-unknown",
            )
        table = np.array([number[name] for name in self.classes], np.int64)
        return replace(self, classes=tuple(classes), labels=table[self.labels])


def _first(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset: its splits by name, and what is known about the rest.

    ``ignored`` counts skipped files by reason, ``ignored_names`` are the first such paths and
    ``notes`` are remarks for people. ``class_titles`` says what classes mean to people, where the
    data says so: ``n01440764`` is ``tench, Tinca tinca``. ``read_as`` says how a table of several
    labels was read.
    """

    name: str
    where: str
    splits: dict[str, Split]
    ignored: Counter[str] = field(default_factory=Counter)
    ignored_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    class_titles: Mapping[str, str] = field(default_factory=dict)
    read_as: str = ""

    @property
    def lacks_images(self) -> bool:
        """Whether something that is an image, or may lead to one, was skipped."""
        return any(reason.startswith(_MISSED) for reason in self.ignored)

    def ignored_text(self) -> str:
        """Say how much was skipped, and why: ``3 file(s) are skipped (2 x broken link, 1 x
        ...)``."""
        reasons = ", ".join(
            f"{count:,} x {reason}" for reason, count in sorted(self.ignored.items())
        )
        return f"{self.ignored.total():,} file(s) are skipped ({reasons})"


def fingerprint(
    classes: Sequence[str], labels: Integers, names: Sequence[str], sizes: Integers
) -> str:
    """Return the SHA-256 of an index in canonical order.

    ``labels`` and ``sizes`` (bytes) of shape (n,).
    """
    sha = hashlib.sha256(f"saccade index {INDEX_VERSION}\n".encode())
    sha.update("".join(f"{name}\0\n" for name in classes).encode())
    for first in range(0, len(names), _BLOCK):
        block = slice(first, first + _BLOCK)
        rows = zip(labels[block].tolist(), names[block], sizes[block].tolist(), strict=True)
        sha.update(
            "".join([f"{classes[label]}\0{name}\0{size}\n" for label, name, size in rows]).encode()
        )
    return sha.hexdigest()


def assemble(
    path: Path,
    paths: Sequence[str],
    sizes: Integers,
    folders: Sequence[str],
    read: Read,
    ignored: Counter[str],
    stamp: str = "",
) -> Source:
    """Make a source of a listing: clean paths, their sizes in bytes (n,), folders, and how to read
    the i-th path.

    Raises DataError if no image lies in a class folder or the layout is ambiguous.
    """
    return source_of(path, arranged(path, paths, folders, ignored), sizes, read=read, stamp=stamp)


def arranged(
    path: Path,
    paths: Sequence[str],
    folders: Sequence[str],
    ignored: Counter[str],
    named: Mapping[str, str] | None = None,
    *,
    peeked: Collection[int] = (),
    lost: Mapping[str, str] = MappingProxyType({}),
) -> Layout:
    """Sort a listing into splits and classes.

    ``ignored`` counts what the listing has already skipped. Raises DataError as ``assemble`` does.
    """
    try:
        layout = arrange(paths, folders, named, peeked=peeked, lost=lost)
    except Unclear as error:
        raise DataError(
            str(error), where=str(path), fix=error.fix, finding="splits-unclear"
        ) from error

    layout = replace(layout, ignored=ignored + layout.ignored)
    if not layout.parts:
        seen = (
            ", ".join(f"{count} x {reason}" for reason, count in sorted(layout.ignored.items()))
            or "no files"
        )
        raise DataError(
            NO_IMAGES,
            where=f"{path} (found {seen})",
            fix=(not layout.ignored[NO_CLASS_FOLDER] and advice(paths, packed_up=path.is_file()))
            or (
                "arrange the images as train/<class>/<image> and val/<class>/<image>, or as "
                "<class>/<image>"
            ),
        )
    return layout


def source_of(path: Path, layout: Layout, sizes: Integers, read: Read, stamp: str = "") -> Source:
    """Make a source of an arranged listing.

    ``sizes`` (bytes) of shape (n,) and ``read`` belong to the listing. ``stamp`` tells whether the
    files that hold the images are still the same.
    """

    def split(name: str, part: Part) -> Split:
        return Split(
            name=name,
            classes=part.classes,
            names=part.names,
            sizes=sizes[part.places],
            labels=part.labels,
            read=_through(read, part.places),
            where=str(path),
            folder=part.folder,
            empty_classes=part.empty_classes,
            left_out=part.left_out,
            stamp=stamp,
            known=part.fingerprint,
        )

    splits = {name: split(name, part) for name, part in layout.parts.items()}
    facts = layout.ignored, layout.ignored_names, layout.notes, layout.titles, layout.read_as
    return Source(short_name(path), str(path), splits, *facts)


def stamped(source: Source, stamp: str) -> Source:
    """Return a source whose images come from files of this stamp."""
    return replace(
        source, splits={name: replace(split, stamp=stamp) for name, split in source.splits.items()}
    )


def short_name(path: Path) -> str:
    """Return the name of a dataset for run folders: the file or folder name without archive
    suffixes.
    """
    name = Path(os.path.abspath(path)).name
    for suffix in (".gz", ".xz", ".tgz", ".tar", ".zip"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return files.safe_name(name)


def train_split(source: Source) -> Split:
    """Return the split to train on: ``train``, or everything of a set without split folders.

    Raises DataError.
    """
    found = _find(source, "train") or _find(source, WHOLE)
    if found is None:
        raise DataError(
            f"there is no training split; found: {', '.join(source.splits)}",
            where=source.where,
            fix="put the training images under train/<class>/",
        )
    return found


def validation_split(source: Source, wanted: str = "", *, named: bool = False) -> Split | None:
    """Return the split called ``wanted``, or else the first of val, validation, valid and test.

    Returns None if there is none; training data is never taken instead. Where the user ``named``
    this source as validation data, a source without splits is taken whole. Raises DataError if
    ``wanted`` is not there.
    """
    if wanted:
        found = _find(source, wanted)
        if found is None:
            raise DataError(
                f"there is no split '{wanted}'; found: {', '.join(source.splits)}",
                where=source.where,
                fix="name one of these with --split",
            )
        return found
    places = (*SPLIT_FOLDERS[1:], WHOLE) if named else SPLIT_FOLDERS[1:]
    return next((found for name in places if (found := _find(source, name))), None)


def hold_out(
    split: Split, fraction: float, seed: int, purpose: rng.Purpose = rng.Purpose.HOLDOUT
) -> tuple[Split, Split]:
    """Split off a stratified ``fraction``, above 0 and below 1, as a pure function of the seed.

    A class with two or more images has at least one on each side; a single image stays with the
    rest. The split-off part is called after the purpose. Raises ConfigError for another fraction.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            f"a fraction of {fraction:g} cannot be held out",
            fix="write a fraction between 0 and 1, such as 10%",
        )
    # another purpose draws other images: the holdout and the minival do not depend on each other
    keys = rng.key(seed, int(purpose), np.arange(len(split)))
    held = np.zeros(len(split), np.bool_)
    for label in range(len(split.classes)):
        members = np.flatnonzero(split.labels == label)
        if len(members) > 1:
            # rounded half up; Python's round would go to the even number
            num = min(max(1, int(fraction * len(members) + 0.5)), len(members) - 1)
            held[members[np.argsort(keys[members], kind="stable")[:num]]] = True
    return split.subset(np.flatnonzero(~held), split.name), split.subset(
        np.flatnonzero(held), purpose.name.lower()
    )


def _find(source: Source, name: str) -> Split | None:
    return next(
        (split for found, split in source.splits.items() if found.lower() == name.lower()), None
    )


def _through(read: Read, places: Integers) -> Read:
    return lambda i: read(int(places[i]))
