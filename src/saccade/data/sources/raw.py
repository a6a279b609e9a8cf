"""Sets that are published as raw pixels in a few files: found by the files' names, read as PGM
and PPM images.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saccade.data.images.decode import IMAGE_SUFFIXES
from saccade.data.sources.encode import GRAY, netpbm_header
from saccade.data.sources.split import Integers, Read, Source, assemble
from saccade.errors import DataError

FILE_LIMIT_BYTES = 250_000_000
"""The largest file of these sets, CIFAR-100's training images, has 155 MB."""

Data = bytes | memoryview
_CLASS_NAME = re.compile(r"\w[\w '&()-]*")


class WrongSet(ValueError):
    """Files that are sound, but of another set than their names say; ``fix`` is what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class Batch(NamedTuple):
    """Images of one split: ``pixels`` uint8 of shape (n, planes, height, width), ``labels``
    int64 of shape (n,).
    """

    split: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Content(NamedTuple):
    """One of the files: its path in the source, and its bytes."""

    name: str
    data: Data


@dataclass(frozen=True)
class Form:
    """One way in which a set is published.

    ``files`` are the names, by preference, that each of its files may have; ``decode`` gets their
    contents in this order and the place where they lie, and returns the class names and the images,
    or raises ValueError.
    """

    name: str
    files: tuple[tuple[str, ...], ...]
    decode: Callable[[Sequence[Content], Path], tuple[Sequence[str], list[Batch]]]


@contextmanager
def reading(file: Content) -> Iterator[Data]:
    """Hand out the content of a file; a ValueError about it will name it."""
    try:
        yield file.data
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def is_raw(names: Iterable[str], forms: Sequence[Form]) -> bool:
    """Tell whether a listing of clean paths holds most files of one of the forms, and no images."""
    return bool(_candidates(names, forms))


def is_complete(names: Iterable[str], forms: Sequence[Form]) -> bool:
    """Tell whether a listing of clean paths holds all files of one of the forms, and no images."""
    return any(None not in places for _, _, places in _candidates(names, forms))


def unfold(
    path: Path, names: Sequence[str], sizes: Integers, read: Read, forms: Sequence[Form]
) -> Source | None:
    """Return the images of a listing that holds the files of a form, and None if it does not.

    A listing that holds images is none either. ``sizes`` (bytes), shape (n,), and ``read`` belong
    to ``names``. Each image becomes a file ``train/<class>/<number>.ppm`` (or ``.pgm``), numbered
    from 0 within its split in the order of the files, so that all forms of a set are one dataset.
    Raises DataError on damage, on a missing file, and if there are several sets.
    """
    found = _candidates(names, forms)
    whole = [candidate for candidate in found if None not in candidate[2]]
    if not found:
        return None
    if len(whole) > 1:
        these = ", ".join(f"{form.name} in '{folder or '.'}'" for form, folder, _ in whole)
        raise DataError(
            "this place contains more than one data set",
            where=f"{path} ({these})",
            fix="name the folder of one of them",
        )

    form, folder, places = (whole or found)[0]
    if not whole:
        missing = [
            spellings[0]
            for spellings, place in zip(form.files, places, strict=True)
            if place is None
        ]
        raise DataError(
            f"files of {form.name} are missing: {', '.join(missing)}",
            where=str(path / folder),
            fix="add it",
        )

    chosen = [place for place in places if place is not None]
    try:
        for place in chosen:
            if sizes[place] > FILE_LIMIT_BYTES:
                raise ValueError(
                    f"{names[place]} has {sizes[place]} bytes, more than {FILE_LIMIT_BYTES}"
                )
        contents = [Content(names[place], read(place)) for place in chosen]
        classes, batches = form.decode(contents, path.absolute() / folder)
        _check(classes, batches)
    except WrongSet as error:
        raise DataError(
            f"these are not the files of {form.name}: {error}", where=str(path), fix=error.fix
        ) from error
    except ValueError as error:
        raise DataError(
            f"the files of {form.name} are damaged: {error}",
            where=str(path),
            fix="copy or download them again",
        ) from error
    return _source(path, classes, batches)


def _candidates(
    names: Iterable[str], forms: Sequence[Form]
) -> list[tuple[Form, str, list[int | None]]]:
    """Find the folders with more than half of the files of a form.

    Returns the form, the folder and the places of its files.
    """
    folders: dict[str, dict[str, int]] = defaultdict(dict)
    for place, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if f".{file.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES:
            return []
        folders[folder][file] = place
    found = []
    for folder, held in folders.items():
        for form in forms:
            places = [
                next((held[name] for name in spellings if name in held), None)
                for spellings in form.files
            ]
            if 2 * places.count(None) < len(places):
                found.append((form, folder, places))
    return found


def _check(classes: Sequence[str], batches: Sequence[Batch]) -> None:
    strange = [name for name in classes if not _CLASS_NAME.fullmatch(name)]
    if strange or len(set(classes)) != len(classes):
        raise ValueError(
            "the class names cannot be used as folder names: "
            f"{', '.join(strange or classes)[:200]!r}"
        )
    for batch in batches:
        if len(batch.labels) != len(batch.pixels):
            raise ValueError(
                f"{len(batch.pixels)} images in '{batch.split}' have {len(batch.labels)} labels"
            )
        beyond = np.flatnonzero((batch.labels < 0) | (batch.labels >= len(classes)))
        if len(beyond):
            label = batch.labels[beyond[0]]
            raise ValueError(
                f"image {beyond[0]} in '{batch.split}' has label {label}, but there are "
                f"{len(classes)} classes"
            )


def _source(path: Path, classes: Sequence[str], batches: Sequence[Batch]) -> Source:
    paths: list[str] = []
    starts: list[int] = []
    headers: list[bytes] = []
    sizes: list[Integers] = []
    numbered: Counter[str] = Counter()
    for split, pixels, labels in batches:
        num, planes, height, width = pixels.shape
        suffix = "pgm" if planes == GRAY else "ppm"
        starts.append(len(paths))
        headers.append(netpbm_header(width, height, planes))
        sizes.append(np.full(num, len(headers[-1]) + planes * height * width, np.int64))
        first = numbered[split]
        paths += [
            f"{split}/{classes[k]}/{first + i:05d}.{suffix}" for i, k in enumerate(labels.tolist())
        ]
        numbered[split] += num

    def read(i: int) -> bytes:
        batch = bisect_right(starts, i) - 1
        return (
            headers[batch] + batches[batch].pixels[i - starts[batch]].transpose(1, 2, 0).tobytes()
        )

    return assemble(path, paths, np.concatenate(sizes), folders=(), read=read, ignored=Counter())
