"""WebDataset samples in a tar: ``key.jpg`` beside ``key.cls``, or beside ``key.json`` with a
``label``.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from saccade.data.images.decode import IMAGE_SUFFIXES
from saccade.data.sources.labels import refuse_odd_labels
from saccade.data.sources.layout import WHOLE, Layout, is_image, layout_of_rows
from saccade.data.sources.listing import SideFile, class_name
from saccade.data.sources.peek import suffix_of
from saccade.data.sources.split import Read
from saccade.data.sources.split_names import words
from saccade.errors import DataError

CLASS_FILES = ("classes.txt", "classnames.txt")
"""File beside the shards: line i, from 0, is the name of class i."""

LABEL_LIMIT_BYTES = 1 << 20
NO_IMAGE = "label without an image"
HIDDEN = "hidden or system file"
OTHER = "other part of a sample"


@dataclass(frozen=True, eq=False)
class Shard:
    """The samples of the tar at ``path``: (label, image name, place in the listing)."""

    path: Path
    rows: list[tuple[str, str, int]]
    ignored: Counter[str]


def is_shard(names: Sequence[str]) -> bool:
    """Tell whether files are samples: images with a ``.cls``, or with a ``.json`` where no image
    lies in a folder.

    In a tree of class folders a ``.json`` beside an image is just a note.
    """
    noted = {name[:-4] for name in names if name[-4:].lower() == ".cls"}
    if not any("/" in name and is_image(name) for name in names):
        noted |= {name[:-5] for name in names if name[-5:].lower() == ".json"}
    return bool(noted) and any(is_image(name) and _owner(_parse(name)[0], noted) for name in names)


def read_shard(path: Path, names: Sequence[str], read: Read) -> Shard:
    """Pair the images of a tar with their labels.

    Raises DataError naming the key of an image without a label or with two, and of a sample with
    two images.
    """
    where = str(path)
    ignored: Counter[str] = Counter()
    pictures: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {".cls": {}, ".json": {}}
    for place, member in enumerate(names):
        key, suffix = _parse(member)
        if member.rpartition("/")[2].startswith("."):
            ignored[HIDDEN] += 1
        elif suffix in labels:
            labels[suffix][key] = place
        elif suffix not in IMAGE_SUFFIXES:
            ignored[OTHER] += 1
        else:
            pictures[member] = place

    images, others = _images(pictures, labels[".cls"].keys() | labels[".json"].keys(), where)
    ignored[OTHER] += others

    rows = []
    for key, place in images.items():
        label = ""
        for kind, found in labels.items():
            try:
                text = _label(kind, bytes(read(found[key]))) if key in found else ""
            except ValueError as error:
                raise DataError(
                    f"the label of '{key}' cannot be used: {error}", where=where
                ) from error
            if label and text and label != text and label.isdecimal() == text.isdecimal():
                raise DataError(
                    f"'{key}' is '{label}' in its .cls but '{text}' in its .json",
                    where=where,
                    fix=(
                        "find out which is right, and pack the shards again with the right one only"
                    ),
                )
            label = label or text
        if not label:
            raise DataError(
                f"the image '{names[place]}' has no label",
                where=where,
                fix=(
                    "give it a .cls, or a .json with 'label'; images without a label belong in "
                    "other shards"
                ),
            )
        rows.append((label, names[place], place))

    orphans = len(labels[".cls"].keys() - images.keys())
    return Shard(path, rows, ignored + Counter({NO_IMAGE: orphans}))


def _images(pictures: dict[str, int], keys: Set[str], where: str) -> tuple[dict[str, int], int]:
    """Return the place of each sample's image by key, and how many images are other parts of
    samples.

    A key may hold dots: ``img_22.05_1.jpg`` belongs to ``img_22.05_1.cls``, ``img.seg.png`` to
    ``img.cls``.
    """
    images: dict[str, int] = {}
    parts: dict[str, list[int]] = defaultdict(list)
    for member, place in pictures.items():
        stem, _ = _parse(member)
        key = _owner(stem, keys) or stem
        if key != stem:
            parts[key].append(place)
        elif images.setdefault(key, place) != place:
            raise DataError(
                f"the sample '{key}' has two images",
                where=where,
                fix="pack one image per sample",
            )

    for key, places in parts.items():
        if key in images:
            continue
        if len(places) > 1:
            raise DataError(
                f"the sample '{key}' has {len(places)} images, and none is named exactly '{key}'",
                where=where,
                fix="pack one image per sample, as key.jpg",
            )
        images[key] = places.pop()
    return images, sum(map(len, parts.values()))


def _owner(stem: str, keys: Set[str]) -> str:
    """Return the longest key that a name without its ending starts with, up to a dot; empty if
    none.
    """
    while stem not in keys:
        shorter, dot, rest = stem.rpartition(".")
        if not dot or "/" in rest:
            return ""
        stem = shorter
    return stem


def splits_of(tars: Sequence[Path]) -> list[str]:
    """Return the split of each tar, by the words of its name, or else of its folder's name.

    ``imagenet-train-00.tar`` is ``train``; all are ``all`` if no name tells a split. Raises
    DataError if only some names tell one, or one name tells two.
    """
    found = []
    for tar in tars:
        told = next(filter(None, map(words, (tar.name, tar.parent.name))), set())
        if len(told) > 1:
            raise DataError(
                f"the file name contains {len(told)} names of splits: {', '.join(sorted(told))}",
                where=str(tar),
            )
        found.append("".join(told))
    if any(found) and not all(found):
        raise DataError(
            "this file name contains no name of a split, but others do",
            where=str(tars[found.index("")]),
            fix="start the file name with train-, val- or test-",
        )
    return [split or WHOLE for split in found]


def title_file(folder: Path) -> SideFile | None:
    """Return the file beside the shards that says what the classes are called, if there is one."""
    return next(
        (SideFile.opened(folder / name) for name in CLASS_FILES if (folder / name).is_file()), None
    )


def shards_layout(shards: Sequence[Shard], where: str, titles: SideFile | None) -> Layout:
    """Arrange the samples of shards, whose places are those of one listing of all of them.

    Integer labels become classes of equal width, ``007``, so that they sort as numbers. Raises
    DataError if a split has the same image name twice.
    """
    lines = titles.text.splitlines() if titles else []
    named = _class_names(
        Counter(label for shard in shards for label, _, _ in shard.rows), len(lines), where
    )

    rows: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    owner: dict[tuple[str, str], Path] = {}
    for shard, split in zip(shards, splits_of([shard.path for shard in shards]), strict=True):
        for label, name, place in shard.rows:
            first = owner.setdefault((split, name), shard.path)
            if first != shard.path:
                raise DataError(
                    f"'{name}' is in '{first.name}' and in '{shard.path.name}'",
                    where=where,
                    fix="pack the shards again so that each sample has a unique key",
                )
            rows[split].append((named[label], name, place))

    if not rows:
        raise DataError("the shards contain no images", where=where)
    layout = layout_of_rows(rows, sum((shard.ignored for shard in shards), Counter()))

    called = {
        name: lines[int(label)].strip()
        for label, name in named.items()
        if lines and label.isdecimal()
    }
    return replace(layout, titles=called)


def _class_names(labels: Mapping[str, int], num_titles: int, where: str) -> dict[str, str]:
    """Return the class of each label: the label itself, or integers of equal width if all are
    integers.

    ``labels`` says how many images each has.
    """
    if not all(label.isdecimal() for label in labels):
        refuse_odd_labels(labels, where)
        return {label: label for label in labels}
    last = max(map(int, labels), default=0)
    if num_titles and last >= num_titles:
        raise DataError(
            f"the label {last} has no name: {' or '.join(CLASS_FILES)} has {num_titles} "
            "lines, the first for label 0",
            where=where,
            fix="complete the file, or remove it",
        )
    width = len(str(max(last, num_titles - 1)))
    return {label: str(int(label)).zfill(width) for label in labels}


def _parse(name: str) -> tuple[str, str]:
    """Return (path without its ending, ending in lower case)."""
    suffix = suffix_of(name)
    return name[: len(name) - len(suffix)], suffix


def _label(kind: str, data: bytes) -> str:
    """Return the label in a ``.cls`` or ``.json``, empty for none or a negative number.

    Raises ValueError.
    """
    if len(data) > LABEL_LIMIT_BYTES:
        raise ValueError(f"it has {len(data)} bytes")
    text = data.decode()
    if kind == ".json":
        try:
            facts = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        value = facts.get("label", facts.get("cls")) if isinstance(facts, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | str | None):
            raise ValueError(f"{str(value)[:100]} is neither an integer nor text")
        text = "" if value is None else str(value)
    text = text.strip()
    if not text or re.fullmatch(r"-\d+", text):
        return ""
    return str(int(text)) if text.isascii() and text.isdecimal() else class_name(text)
