"""ImageNet as published (ILSVRC2012): a tar of 1,000 class tars, and a flat tar with labels beside
it.

*Source:* Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", and the
readme of its development kit.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from saccade.data.archives.tars import Members, index_tar
from saccade.data.sources.kaggle import SOLUTION as SOLUTION
from saccade.data.sources.split import Source, Split
from saccade.errors import DataError
from saccade.units import human_count

TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}

KNOWN_COUNTS = {"train": 1_281_167, "val": 50_000, "classes": 1000}
"""Images in each split, and classes. *Source:* Russakovsky et al. 2015, table 2."""

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
LABEL_FILE_LIMIT_BYTES = 64_000_000

# the class of images whose labels lie elsewhere: no clean path holds a backslash
_UNLABELLED = "\\"
_WNID = re.compile(r"n[0-9]{8}")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_[0-9]{8}\.JPEG")
_OFFICIAL = re.compile(r"ILSVRC2012_img_(train|val)")
_MAT_WNID = re.compile(rb"n(?:\0?[0-9]){8}")  # MATLAB writes text in one byte a letter, or in two
_MAT_HEADER_BYTES, _MAT_COMPRESSED = 128, 15

Labels = dict[str, str]


def class_name(wnid: str) -> str:
    """Return the English name of one of the 1,000 classes, such as ``tench`` for ``n01440764``,
    or the wnid itself.
    """
    return _class_names().get(wnid, wnid)


@cache
def _class_names() -> dict[str, str]:
    text = resources.files("saccade.data").joinpath("imagenet_classes.txt").read_text("utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def prefix(path: Path, members: Members) -> str:
    """Return what to put before the paths in one of ImageNet's tars to make it a tree of splits and
    classes.

    The flat tar is recognised by its content, the tar of class folders by its name. The result is
    empty for every other archive.
    """
    # without the hidden files that macOS adds
    seen = [name for name in members.names if not name.rpartition("/")[2].startswith(".")]
    if seen and all(map(_VAL_IMAGE.fullmatch, seen)):
        return f"val/{_UNLABELLED}/"
    classes = {name.partition("/")[0] for name in seen}
    if not 1 <= len(classes) <= KNOWN_COUNTS["classes"] or not all(map(_WNID.fullmatch, classes)):
        return ""
    if official := _OFFICIAL.match(path.name):
        return f"{official[1]}/"
    return "train/" if classes <= set(members.tars) else ""


def labelled(source: Source, path: Path) -> Source:
    """Return a source with the validation labels beside the flat tar at ``path``.

    Any other source is returned unchanged. Raises DataError if there are no labels, if two files
    contradict each other, and if they do not label exactly the images of the tar.
    """
    split = source.splits.get("val")
    if split is None or split.classes != (_UNLABELLED,):
        return source
    labels = _labels_beside(path, split.names)
    classes, numbers = np.unique(
        np.array([labels[name] for name in split.names]), return_inverse=True
    )
    numbered: Split = replace(
        split, classes=tuple(classes.tolist()), labels=numbers.astype(np.int64)
    )
    return replace(source, splits={"val": numbered.at(np.argsort(numbers, kind="stable"))})


def _labels_beside(path: Path, names: Sequence[str]) -> Labels:
    folder = path.absolute().parent
    readers: dict[Path, Callable[[Path, Sequence[str]], Labels]] = {
        folder / DEVKIT: _devkit_labels,
        folder / SOLUTION: _solution_labels,
        folder / "val": _folder_labels,
    }
    try:
        read = {place: reader(place, names) for place, reader in readers.items() if place.exists()}
    except OSError as error:
        raise DataError(
            f"the labels cannot be read: {error.strerror}", where=str(error.filename)
        ) from error

    found = {place: labels for place, labels in read.items() if labels}
    if not found:
        raise DataError(
            f"{path.name} contains images without labels, and there are no labels beside it",
            where=str(folder),
            fix=f"put {DEVKIT} (the development kit, from the ILSVRC2012 page of image-net.org) "
            f"or {SOLUTION} (from "
            "Kaggle's ImageNet Object Localization Challenge) into this folder, or the "
            "arranged images as "
            "val/<wnid>/<image>",
        )

    # each must be complete, and where two say something of an image they must agree
    (first, labels), *others = found.items()
    for place, more in found.items():
        _check_complete(place, more, names)
    for place, more in others:
        if name := next((name for name in names if labels[name] != more[name]), ""):
            raise DataError(
                f"{first.name} and {place.name} disagree: '{name}' is {labels[name]} in one "
                f"and {more[name]} in the "
                "other",
                where=str(folder),
                fix="find out which is right, and move the other file away",
            )
    return labels


def _check_complete(place: Path, labels: Labels, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in labels]
    foreign = sorted(labels.keys() - set(names))
    if missing or foreign:
        first = f"'{missing[0]}' has no label" if missing else f"'{foreign[0]}' is not there"
        raise DataError(
            f"{place.name} has labels for {len(labels):,} images, but the tar has "
            f"{len(names):,}: {human_count(len(missing), 'image')} without a label, "
            f"{human_count(len(foreign), 'label')} without an image ({first})",
            where=str(place),
            fix="copy or download both again",
        )


def _folder_labels(folder: Path, _names: Sequence[str]) -> Labels:
    """Take the labels of an arranged folder from its class folders; empty if it has none."""
    labels: Labels = {}
    for wnid in sorted(entry.name for entry in os.scandir(folder) if _WNID.fullmatch(entry.name)):
        for name in filter(_VAL_IMAGE.fullmatch, sorted(os.listdir(folder / wnid))):
            if name in labels:
                raise DataError(
                    f"'{name}' is in two classes, {labels[name]} and {wnid}", where=str(folder)
                )
            labels[name] = wnid
    return labels


def _solution_labels(path: Path, _names: Sequence[str]) -> Labels:
    """Read Kaggle's table.

    The first word of the second column is the class; boxes and further objects follow it.
    """
    try:
        rows = list(csv.reader(_bounded(path).decode("utf-8-sig").splitlines()))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"this file is not a text table: {error}", where=str(path), fix="download it again"
        ) from error

    if not rows or rows[0] != ["ImageId", "PredictionString"]:
        raise DataError(
            "its first line is not ImageId,PredictionString",
            where=str(path),
            fix="download it again",
        )

    labels: Labels = {}
    for number, row in enumerate(rows[1:], 2):
        wnid = row[1].partition(" ")[0] if len(row) == 2 else ""
        name = f"{row[0]}.JPEG" if row else ""
        if not _WNID.fullmatch(wnid) or name in labels:
            raise DataError(
                f"line {number} is not an image and its class, or its image is repeated: "
                f"{','.join(row)[:100]!r}",
                where=str(path),
                fix="download it again",
            )
        labels[name] = wnid
    return labels


def _devkit_labels(path: Path, names: Sequence[str]) -> Labels:
    """Read the class number of each image, in the order of the names, and the class of each
    number.
    """
    try:
        with gzip.open(path) as file:
            kit = file.read(LABEL_FILE_LIMIT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"it cannot be decompressed: {error}", where=str(path), fix="download it again"
        ) from error
    # one byte more was read than allowed, to tell
    if len(kit) > LABEL_FILE_LIMIT_BYTES:
        raise DataError(
            f"it decompresses to more than {LABEL_FILE_LIMIT_BYTES} bytes", where=str(path)
        )

    members = index_tar(kit, str(path))
    try:
        wnids = _wnids(_member(kit, members, "data/meta.mat"))
        lines = (
            _member(kit, members, "data/ILSVRC2012_validation_ground_truth.txt")
            .decode("ascii")
            .split()
        )
        numbers = [int(line) for line in lines]
        if wrong := [number for number in numbers if not 1 <= number <= len(wnids)]:
            raise ValueError(
                f"an image has class {wrong[0]}, but meta.mat has {len(wnids)} classes"
            )
    except (ValueError, zlib.error) as error:
        raise DataError(
            f"this development kit is damaged or incomplete: {error}",
            where=str(path),
            fix="download it again",
        ) from error

    if len(numbers) != len(names):
        raise DataError(
            f"{path.name} has labels for {len(numbers):,} images, but the tar has {len(names):,}",
            where=str(path),
            fix="copy or download both again",
        )
    # the kit counts classes from 1, in the order of the names of the images
    return dict(zip(names, (wnids[number - 1] for number in numbers), strict=True))


def _member(tar: bytes, members: Members, ending: str) -> bytes:
    for name, offset, size in zip(
        members.names, members.offsets.tolist(), members.sizes.tolist(), strict=True
    ):
        if f"/{name}".endswith(f"/{ending}"):
            return tar[offset : offset + size]
    raise ValueError(f"it has no {ending}")


def _wnids(mat: bytes) -> list[str]:
    """Return the classes in the order of their numbers, from 1: the first that a MATLAB 5 file of
    the kit names.

    *Source:* MathWorks, "MAT-File Format", level 5; the kit's readme: the 1,000 classes come before
    their ancestors.
    """
    if mat[_MAT_HEADER_BYTES - 2 : _MAT_HEADER_BYTES] != b"IM":
        raise ValueError("meta.mat is not a MATLAB 5 file")

    found: list[bytes] = []
    place = _MAT_HEADER_BYTES
    while place < len(mat):
        if len(mat) - place < 8:
            raise ValueError("meta.mat is truncated")
        kind, size = struct.unpack_from("<II", mat, place)
        place += 8 + size
        if place > len(mat):
            raise ValueError("meta.mat is truncated")

        element = mat[place - size : place]
        if kind == _MAT_COMPRESSED:
            inflater = zlib.decompressobj()
            element = inflater.decompress(element, LABEL_FILE_LIMIT_BYTES)
            if not inflater.eof:
                raise ValueError("meta.mat is truncated, or too large")
        found += _MAT_WNID.findall(element)

    wnids = [wnid.replace(b"\0", b"").decode() for wnid in found[: KNOWN_COUNTS["classes"]]]
    if len(set(wnids)) != len(wnids):
        raise ValueError("meta.mat names a class twice")
    return wnids


def _bounded(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(LABEL_FILE_LIMIT_BYTES + 1)
    if len(data) > LABEL_FILE_LIMIT_BYTES:
        raise ValueError(f"it has more than {LABEL_FILE_LIMIT_BYTES} bytes")
    return data


@cache
def wnids() -> tuple[str, ...]:
    """Return the 1,000 wnids in the order of the heads of published networks, which is theirs."""
    return tuple(sorted(_class_names()))


@cache
def _wnids_by_name() -> dict[str, str]:
    return {_spelled(name): wnid for wnid, name in _class_names().items()}


def _spelled(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _wnid(text: str) -> str:
    """Return the wnid that a name begins with or means: ``n01440764``, ``n01440764_tench``,
    ``tench``.

    Empty where it is none of the 1,000.
    """
    found = _WNID.match(text)
    if found and found[0] in _class_names() and not text[found.end() : found.end() + 1].isalnum():
        return found[0]
    return _wnids_by_name().get(_spelled(text), "")


def by_wnid(split: Split) -> Split | None:
    """Return the same images labelled by wnids, where their classes are some of the 1,000.

    Classes are known by wnid or English name; else each image may have its wnid in its own name, as
    ImageNet's training images do. None where neither holds for all of them.
    """
    used = np.unique(split.labels)
    meant = {int(label): _wnid(split.classes[label]) for label in used}
    if all(meant.values()):
        found = [meant[int(label)] for label in split.labels]
    else:
        found = [_wnid(name.rpartition("/")[2].rpartition(".")[0]) for name in split.names]
        if not found or not all(found):
            return None
    classes, labels = np.unique(np.array(found), return_inverse=True)
    return replace(split, classes=tuple(classes.tolist()), labels=labels.astype(np.int64))
