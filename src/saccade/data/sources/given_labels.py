"""Labels from Python as class names: one per image, or several."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from saccade.data.sources.label_sets import written
from saccade.data.sources.labels import one_of_several, refuse_odd_labels
from saccade.data.sources.recognise import Items, is_missing
from saccade.errors import DataError
from saccade.units import human_count


class Reading(Protocol):
    """The labels that are being read, for messages: ``where`` they were given, and the item ``at``
    a place.
    """

    @property
    def items(self) -> Items:
        """The images with their labels."""
        ...

    @property
    def where(self) -> str:
        """The keyword that they were given by."""
        ...

    def at(self, i: int) -> str:
        """Name an item for a person."""
        ...


def class_names(labels: Sequence[Any], named: Sequence[str], reading: Reading) -> list[str]:
    """Return the class of each label: text, the name of a number, or numbers of equal width.

    Raises DataError.
    """
    missing = [i for i, label in enumerate(labels) if is_missing(label)]
    if missing:
        raise DataError(
            f"{reading.items.what}: no label for {human_count(len(missing), 'image')}",
            where=reading.at(missing[0]),
            fix="give each image a label, or remove these images",
        )

    sets = _several(labels, reading)
    if sets is not None:
        return _set_names(sets, named, reading)

    texts = [_label_text(label, i, named, reading) for i, label in enumerate(labels)]
    if named:
        return texts
    numbers = [isinstance(text, int) for text in texts]
    if all(numbers):
        width = len(str(max(int(text) for text in texts)))
        return [str(text).zfill(width) for text in texts]
    if any(numbers):
        i = numbers.index(not numbers[0])
        raise DataError(
            f"{reading.items.what}: labels are text as well as numbers, such as "
            f"{texts[0]!r} and {texts[i]!r}",
            where=reading.at(i),
            fix="use only text or only whole numbers",
        )
    refuse_odd_labels(Counter(map(str, texts)), reading.where)
    return [str(text) for text in texts]


def _several(labels: Sequence[Any], reading: Reading) -> list[list[Any]] | None:
    """Return the labels of each image where it may have several, None where it has one.

    They are lists or sets of labels, or rows of 0 and 1 in an array, one column for each label.
    Rows with a single 1 each are one label written in another way, which is not for us to choose.
    """
    if labels and all(isinstance(one, list | set | frozenset) for one in labels):
        rows = [one for one in labels if isinstance(one, list)]
        alike = len({len(one) for one in rows}) == 1 and len(rows) == len(labels)
        if alike and len(rows[0]) > 1 and all(set(map(str, one)) <= {"0", "1"} for one in rows):
            raise DataError(
                f"{reading.items.what}: the labels are lists of 0 and 1",
                where=reading.at(0),
                fix="pass an array, numpy.array(labels), with one column per label",
            )
        return [sorted(one, key=str) for one in labels]

    arrays = [np.asarray(one) for one in labels if getattr(one, "ndim", 0) == 1]
    if not labels or len(arrays) < len(labels) or len({len(one) for one in arrays}) > 1:
        return None
    marks = np.stack(arrays)
    if marks.shape[1] < 2 or not np.isin(marks, (0, 1)).all() or (marks.sum(1) == 1).all():
        return None
    return [np.flatnonzero(row).tolist() for row in marks]


def _set_names(sets: Sequence[Sequence[Any]], named: Sequence[str], reading: Reading) -> list[str]:
    """Return the name of the set of labels of each image; raises DataError."""
    texts = [
        [_label_text(label, i, named, reading) for label in labels] for i, labels in enumerate(sets)
    ]
    flat = [text for one in texts for text in one]
    numbers = [text for text in flat if isinstance(text, int)]
    if 0 < len(numbers) < len(flat):
        raise DataError(
            f"{reading.items.what}: labels are text as well as numbers",
            where=reading.where,
            fix="use only text or only whole numbers",
        )

    width = len(str(max(numbers, default=0)))
    whole = {text: str(text).zfill(width) if numbers else text for text in flat}
    refuse_odd_labels(Counter(flat if not numbers else ()), reading.where)
    return [
        written(one_of_several(whole[text], reading.at(i)) for text in one)
        for i, one in enumerate(texts)
    ]


def _label_text(label: Any, i: int, named: Sequence[str], reading: Reading) -> Any:
    """Return one label as text, or as a whole number where nothing names it; raises DataError."""
    if hasattr(label, "item") and getattr(label, "shape", None) in ((), (1,)):
        label = label.item()

    what, fix = "", "give each image one label: the name or the number of its class"
    if isinstance(label, bool):
        label = str(label)
    elif isinstance(label, float) and label.is_integer():
        what, fix = f"has the label {label}", "convert the labels to whole numbers: astype(int)"
    elif getattr(label, "shape", ()) or isinstance(label, list | tuple | set | dict):
        what = f"has a label with several numbers or words: {str(label)[:60]}"
        fix = f"{fix}; from one-hot rows: labels.argmax(1); for several labels per image, use lists"
    elif not isinstance(label, str | int):
        what = f"has the label {label!r} of the type {type(label).__name__}"

    if not what and isinstance(label, int):
        if named and 0 <= label < len(named):
            return named[label]
        if not named and label >= 0:
            return label
        there = f"there are {len(named)} class names" if named else "classes are numbered from 0"
        what, fix = f"has the label {label}", f"{there}; remove images without a label"

    if not what:
        text = unicodedata.normalize("NFC", str(label).strip())
        if text and text.isprintable():
            return text
        what = f"has the label {label!r}, which is not a class name"
    raise DataError(f"{reading.items.what}: the image {what}", where=reading.at(i), fix=fix)
