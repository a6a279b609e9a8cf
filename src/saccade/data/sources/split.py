"""A split: labelled image files in canonical order, whatever holds them; a source: the splits of one dataset."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saccade import files, rng
from saccade.data.names import Names
from saccade.data.sources.layout import SPLIT_FOLDERS, WHOLE, Layout, Part, arrange
from saccade.errors import ConfigError, DataError

INDEX_VERSION = 1
"""Counted up when the canonical order or the fingerprint changes its meaning."""

Read = Callable[[int], bytes | memoryview]
Integers = NDArray[np.int64]
_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled image files, sorted by the code points of (class, name); the place in this order is the sample number.

    ``names`` are paths inside the class folder; ``sizes`` (bytes) and ``labels`` (indices into ``classes``) are int64
    of shape (n,); ``read`` returns an encoded image and may be called from many threads; ``empty_classes`` are class
    folders without an image; ``where`` names the source for messages and ``folder`` the split's folder in it;
    ``known`` is the fingerprint of exactly these images where it was computed before.
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
    known: InitVar[str] = ""

    def __post_init__(self, known: str) -> None:
        if known:
            self.__dict__["fingerprint"] = known  # where the cached property keeps it; ``replace`` leaves it behind

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, i: int) -> str:
        """Name image ``i`` for a person: ``train/n01440764/x.JPEG in imagenette224.tar``."""
        prefix = f"{self.folder}/" if self.folder else ""
        return f"{prefix}{self.classes[self.labels[i]]}/{self.names[i]} in {Path(self.where).name}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) of the index: version, classes, and (class, name, size) of every image."""
        return fingerprint(self.classes, self.labels, self.names, self.sizes)

    def at(self, places: Integers) -> Split:
        """Return the images at ``places``, int64 of shape (k,), in that order."""
        names = self.names
        chosen = names.take(places) if isinstance(names, Names) else tuple(names[i] for i in places)
        sizes, labels = self.sizes[places], self.labels[places]
        return replace(self, names=chosen, sizes=sizes, labels=labels, read=_through(self.read, places))

    def subset(self, indices: Integers, name: str) -> Split:
        """Return the images at ``indices``, int64 of shape (k,), in ascending order, under another split name."""
        return replace(self.at(np.sort(np.asarray(indices, np.int64))), name=name)

    def with_classes(self, classes: Sequence[str]) -> Split:
        """Return the same images labelled by the places in ``classes``; raises DataError if a class is not there."""
        number = {name: label for label, name in enumerate(classes)}
        foreign = [name for name in self.classes if name not in number]
        if foreign:
            raise DataError(
                f"{len(foreign)} classes of the {self.name} split are not known: {', '.join(foreign[:5])}",
                where=self.where,
                fix="rename the class folders so that all splits have the same ones",
                finding="class-unknown",
            )
        table = np.array([number[name] for name in self.classes], np.int64)
        return replace(self, classes=tuple(classes), labels=table[self.labels])


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset: its splits by name; what was ignored, counted by reason, and the first such paths; remarks.

    ``class_titles`` says what classes mean to people, where the data says so: ``n01440764`` is ``tench, Tinca tinca``.
    """

    name: str
    where: str
    splits: dict[str, Split]
    ignored: Counter[str] = field(default_factory=Counter)
    ignored_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    class_titles: Mapping[str, str] = field(default_factory=dict)


def fingerprint(classes: Sequence[str], labels: Integers, names: Sequence[str], sizes: Integers) -> str:
    """Return the SHA-256 of an index in canonical order; ``labels`` and ``sizes`` (bytes) of shape (n,)."""
    sha = hashlib.sha256(f"saccade index {INDEX_VERSION}\n".encode())
    sha.update("".join(f"{name}\0\n" for name in classes).encode())
    for first in range(0, len(names), _BLOCK):
        block = slice(first, first + _BLOCK)
        rows = zip(labels[block].tolist(), names[block], sizes[block].tolist(), strict=True)
        sha.update("".join([f"{classes[label]}\0{name}\0{size}\n" for label, name, size in rows]).encode())
    return sha.hexdigest()


def assemble(
    path: Path, paths: Sequence[str], sizes: Integers, folders: Sequence[str], read: Read, ignored: Counter[str]
) -> Source:
    """Make a source of a listing: clean paths, their sizes in bytes (n,), folders, and how to read the i-th path.

    Raises DataError if no image lies in a class folder or the layout is ambiguous.
    """
    return source_of(path, arranged(path, paths, folders, ignored), sizes, read)


def arranged(path: Path, paths: Sequence[str], folders: Sequence[str], ignored: Counter[str]) -> Layout:
    """Arrange a listing, ``ignored`` being what it left out already; raises DataError as ``assemble``."""
    try:
        layout = arrange(paths, folders)
    except ValueError as error:
        raise DataError(
            str(error), where=str(path), fix="arrange the images as train/<class>/<image> and val/<class>/<image>"
        ) from error
    layout = replace(layout, ignored=ignored + layout.ignored)
    if not layout.parts:
        seen = ", ".join(f"{count} x {reason}" for reason, count in sorted(layout.ignored.items())) or "nothing at all"
        raise DataError(
            "there are no images in class folders",
            where=f"{path} (found {seen})",
            fix="arrange the images as train/<class>/<image> and val/<class>/<image>, or as <class>/<image>",
        )
    return layout


def source_of(path: Path, layout: Layout, sizes: Integers, read: Read) -> Source:
    """Make a source of an arranged listing; ``sizes`` (bytes) of shape (n,) and ``read`` are those of the listing."""

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
            known=part.fingerprint,
        )

    splits = {name: split(name, part) for name, part in layout.parts.items()}
    facts = layout.ignored, layout.ignored_names, layout.notes, layout.titles
    return Source(short_name(path), str(path), splits, *facts)


def short_name(path: Path) -> str:
    """Return the name of a dataset for run folders: the file or folder name without archive suffixes."""
    name = Path(os.path.abspath(path)).name
    for suffix in (".gz", ".xz", ".tgz", ".tar", ".zip"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return files.safe_name(name)


def train_split(source: Source) -> Split:
    """Return the split to train on: ``train``, or everything of a set without split folders; raises DataError."""
    found = _find(source, "train") or _find(source, WHOLE)
    if found is None:
        raise DataError(
            f"there is no training split; found: {', '.join(source.splits)}",
            where=source.where,
            fix="put the training images under train/<class>/",
        )
    return found


def validation_split(source: Source, wanted: str = "", *, named: bool = False) -> Split | None:
    """Return the split called ``wanted``, or the first of val, validation, valid and test; None if there is none.

    Where the user ``named`` this source as validation data, one without splits is taken whole. Never falls back on
    training data. Raises DataError if ``wanted`` is not there.
    """
    if wanted:
        found = _find(source, wanted)
        if found is None:
            raise DataError(
                f"there is no split called '{wanted}'; found: {', '.join(source.splits)}",
                where=source.where,
                fix="name one of these with --split",
            )
        return found
    places = (*SPLIT_FOLDERS[1:], WHOLE) if named else SPLIT_FOLDERS[1:]
    return next((found for name in places if (found := _find(source, name))), None)


def hold_out(split: Split, share: float, seed: int, purpose: rng.Purpose = rng.Purpose.HOLDOUT) -> tuple[Split, Split]:
    """Part a split into the rest and a stratified ``share`` (above 0, below 1), a pure function of the seed.

    Of each class with two or more images at least one lies on each side; a single image stays with the rest. The held
    split is called after the purpose. Raises ConfigError on another share.
    """
    if not 0 < share < 1:
        raise ConfigError(f"a share of {share:g} cannot be held out", fix="write a share between 0 and 1, such as 10%")
    keys = rng.key(seed, int(purpose), np.arange(len(split)))
    held = np.zeros(len(split), np.bool_)
    for label in range(len(split.classes)):
        members = np.flatnonzero(split.labels == label)
        if len(members) > 1:
            num = min(max(1, int(share * len(members) + 0.5)), len(members) - 1)
            held[members[np.argsort(keys[members], kind="stable")[:num]]] = True
    return split.subset(np.flatnonzero(~held), split.name), split.subset(np.flatnonzero(held), purpose.name.lower())


def _find(source: Source, name: str) -> Split | None:
    return next((split for found, split in source.splits.items() if found.lower() == name.lower()), None)


def _through(read: Read, places: Integers) -> Read:
    return lambda i: read(int(places[i]))
