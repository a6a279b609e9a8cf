"""Recognising an object with images and labels by its interface.

The libraries behind these objects are not imported: a data frame has columns that become lists, a
Hugging Face data set has features, a map-style torch data set has a length and items.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.data.sources.encode import NoImage, absolute, as_array, holds_image, is_array
from saccade.data.sources.labels import LISTS, PATHS, parted
from saccade.data.sources.layout import WHOLE
from saccade.data.sources.split import Source, Split
from saccade.data.sources.split_names import SPLIT_FOLDERS, called
from saccade.errors import DataError, UsageError
from saccade.units import human_count

IMAGE_COLUMNS = (*PATHS, "images", "img", "filenames", "paths", "files")
LABEL_COLUMNS = ("label", "labels", "class", "classes", "class_name", "target", "category")
SPLIT_COLUMNS = ("split", "subset")

UNLABELLED = -1
"""The label by which data sets say that an image has none."""

FORMS = (
    "a pair (images, labels), a data frame of paths and labels, a Hugging Face dataset, a "
    "map-style torch dataset, or a dict of these such as {'train': ..., 'val': ...}"
)
_DECODED_FOLDER = "torchvision.datasets.folder"


@dataclass(frozen=True, slots=True)
class Items:
    """Images and labels of one split, whatever holds them.

    ``item`` returns image ``i`` with its label, or with None where ``labels`` are apart. ``what``
    names the object in messages, ``origin`` an image in it. ``classes`` are the names of labels
    that are numbers. Images are ``listed`` where they cost nothing to look at, and fetched
    ``one_by_one`` where the object may not stand several threads. ``num_bytes`` is the size of one
    large array.
    """

    num: int
    item: Callable[[int], tuple[Any, Any]]
    what: str
    origin: Callable[[int], str]
    labels: Sequence[Any] | None = None
    classes: Sequence[str] = ()
    listed: bool = False
    one_by_one: bool = True
    num_bytes: int = 0

    def at(self, places: Sequence[int]) -> Items:
        """Return the items at these places, in that order."""
        item, labels, origin = self.item, self.labels, self.origin
        return dataclasses.replace(
            self,
            num=len(places),
            item=lambda i: item(int(places[i])),
            labels=None if labels is None else [labels[i] for i in places],
            origin=lambda i: origin(int(places[i])),
        )


def is_missing(value: Any) -> bool:
    """Tell whether a value means a missing one: None, NaN, and pandas' own."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def recognise(given: Any, name: str) -> dict[str, Items]:
    """Return the splits of an object by name; ``all`` where it is one whole.

    ``name`` is the keyword that it was given by. Raises UsageError where the object is none that
    can be trained on, DataError where something in it is unclear.
    """
    if isinstance(given, type):
        raise UsageError(
            f"{given.__name__} is a class, not a data set",
            where=name,
            fix=f"pass an instance: {name}={given.__name__}(...)",
        )
    if isinstance(given, Mapping):
        return _of_mapping(given, name)
    if isinstance(given, tuple) and len(given) == 2:
        return {WHOLE: _of_pair(given[0], given[1], name)}
    if hasattr(given, "features") and hasattr(given, "cast_column"):
        if not hasattr(given, "__len__"):
            raise _streamed(given, name)
        return {WHOLE: _of_hugging_face(given, name)}
    if hasattr(given, "columns") and not callable(given.columns):
        return _of_frame(given, name)

    # torch gives its streams a __getitem__ that only fails
    if any(base.__name__ == "IterableDataset" for base in type(given).__mro__):
        raise _streamed(given, name)
    sequence = isinstance(given, Sequence) or is_array(given)
    if not sequence and hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return {WHOLE: _of_dataset(given)}
    raise _not_understood(given, name)


def _not_understood(given: Any, name: str) -> UsageError:
    """Return the refusal of an object, with what may have been meant."""
    kind = type(given).__name__
    if hasattr(given, "dataset") and hasattr(given, "batch_size"):
        return UsageError(
            f"a {kind} returns batches",
            where=name,
            fix=f"pass its dataset: {name}=loader.dataset",
        )
    if hasattr(given, "__iter__") and not isinstance(given, Sequence) and not is_array(given):
        return _streamed(given, name)
    forms = f"pass a known name, a path, the result of saccade.open_source, {FORMS}"
    hint = "labels are missing; " if is_array(given) or isinstance(given, Sequence) else ""
    if isinstance(given, list) and given and isinstance(given[0], tuple) and len(given[0]) == 2:
        hint = f"for a list of pairs, write {name}=tuple(zip(*pairs)); "
    return UsageError(f"data of the type {kind} is not supported", where=name, fix=f"{hint}{forms}")


def _streamed(given: Any, name: str) -> UsageError:
    return UsageError(
        f"a {type(given).__name__} can only be read from the start",
        where=name,
        fix=(
            "pass a data set with a length and numbered items: training draws a new order for "
            "each epoch (Hugging Face: load_dataset without streaming=True)"
        ),
    )


def _of_mapping(given: Mapping[Any, Any], name: str) -> dict[str, Items]:
    """Return the splits of a dict, or of Hugging Face's DatasetDict."""
    found: dict[str, Items] = {}
    for key, value in given.items():
        if not isinstance(key, str) or not called(key):
            raise UsageError(
                f"'{key}' is not the name of a split",
                where=name,
                fix=(
                    f"name them {', '.join(SPLIT_FOLDERS)}: {name}={{'train': d['train'], 'val': "
                    f"d[...]}}; for a dict of columns, pass a pair: {name}=(d['image'], "
                    "d['label'])"
                ),
            )

        if isinstance(value, str | os.PathLike | Source | Split):
            raise UsageError(
                f"'{key}' is a {type(value).__name__}, but such a dict must contain "
                "images with labels",
                where=name,
                fix="pass open sources, names and paths with data= and val=",
            )
        inner = recognise(value, f"{name}['{key}']")
        if list(inner) != [WHOLE]:
            raise UsageError(
                f"'{key}' contains splits itself: {', '.join(inner)}",
                where=name,
                fix="pass each split once",
            )
        found[str(called(key))] = inner[WHOLE]
    return found


def _of_pair(images: Any, labels: Any, name: str) -> Items:
    """Return the items of (images, labels): an array, or a list of images in any form."""
    for what, one in (("images", images), ("labels", labels)):
        listed = hasattr(one, "__len__") and hasattr(one, "__getitem__")
        if not listed or isinstance(one, str | Mapping) or hasattr(one, "columns"):
            raise UsageError(
                f"the {what} have the type {type(one).__name__}",
                where=name,
                fix=f"pass {name}=(images, labels), each an array, a list or one column of a table",
            )

    labels = _plain_list(labels)
    if len(labels) and holds_image(labels[0]):
        raise UsageError(
            "the labels are images",
            where=name,
            fix=(
                f"for two splits, pass a dict, {name}={{'train': ..., 'val': ...}}; for one, pass "
                "(images, labels), each label the name or the number of a class"
            ),
        )

    if is_array(images) and str(images.dtype) not in ("object", "str") and images.ndim > 1:
        try:
            pixels = as_array(images)
        except NoImage as error:
            raise DataError(f"the array: {error}", where=name, fix=error.fix) from error
        return Items(
            len(pixels),
            lambda i: (pixels[i], None),
            "the array",
            origin=lambda i: f"item {i}",
            labels=labels,
            one_by_one=False,
            num_bytes=pixels.nbytes,
        )
    return _of_lists(_plain_list(images), labels, "the list of images", name)


def _plain_list(values: Any) -> Sequence[Any]:
    """Return the values of an array, tensor or column in a list; a list as it is."""
    for way in ("tolist", "to_list"):
        if hasattr(values, way) and getattr(values, "ndim", 1) == 1:
            return list(getattr(values, way)())
    return values if isinstance(values, Sequence) else [values[i] for i in range(len(values))]


def _of_lists(
    images: Sequence[Any], labels: Sequence[Any], what: str, where: str, classes: Sequence[str] = ()
) -> Items:
    """Return the items of two lists; paths in them start at today's working directory."""
    kept = [absolute(image) if isinstance(image, str | os.PathLike) else image for image in images]

    def origin(i: int) -> str:
        return str(images[i]) if isinstance(kept[i], Path) else f"item {i}"

    missing = [i for i, image in enumerate(images) if is_missing(image)]
    if missing:
        raise DataError(
            f"{what}: {human_count(len(missing), 'missing image')}, first item {missing[0]}",
            where=where,
            fix="remove the rows without an image",
        )
    return Items(
        len(images),
        lambda i: (kept[i], None),
        what,
        origin=origin,
        labels=labels,
        classes=classes,
        listed=True,
        one_by_one=any(isinstance(image, Image.Image) for image in images),
    )


def _of_frame(frame: Any, name: str) -> dict[str, Items]:
    """Return the splits of a data frame of paths and labels, by the position of its rows."""
    names = [str(column) for column in frame.columns]
    image = _column(names, IMAGE_COLUMNS, "images", name)
    label = _column(names, LABEL_COLUMNS, "labels", name)
    split = _column(names, SPLIT_COLUMNS, "", name)
    columns = {wanted: _plain_list(frame[wanted]) for wanted in (image, label, split) if wanted}
    labels = parted(columns[label]) if label.strip().lower() in LISTS else columns[label]
    items = _of_lists(columns[image], labels, "the data frame", name)
    if not split:
        return {WHOLE: items}

    rows: dict[str, list[int]] = {}
    for i, word in enumerate(columns[split]):
        found = called(word) if isinstance(word, str) else ""
        if not found:
            raise DataError(
                f"the data frame: '{word}' in the column '{split}' is not the name of a split",
                where=f"{name}, row {i}",
                fix=f"write {', '.join(SPLIT_FOLDERS)}, or remove the column",
            )
        rows.setdefault(found.lower(), []).append(i)
    return {found: items.at(places) for found, places in rows.items()}


def _column(names: Sequence[str], wanted: Sequence[str], what: str, where: str) -> str:
    """Return the one column with one of the wanted names; empty where ``what`` is, and there is
    none. Raises DataError.
    """
    found = [name for name in names if name.strip().lower() in wanted]
    if len(found) == 1 or (not found and not what):
        return found[0] if found else ""
    if found:
        raise DataError(
            f"several columns can be {what or 'the split'}: {', '.join(found)}",
            where=where,
            fix="keep one of them, and drop or rename the others",
        )
    raise DataError(
        f"no column has the name of {what}; found: {', '.join(names) or 'none'}",
        where=where,
        fix=f"rename it to '{'path' if what == 'images' else 'label'}'",
    )


def _of_hugging_face(given: Any, name: str) -> Items:
    """Return the items of a Hugging Face dataset, images as the files in which it holds them."""
    if getattr(given, "format", {}).get("type") == "custom":
        raise DataError(
            "the Hugging Face dataset has a transform",
            where=name,
            fix="pass it without the transform: dataset.reset_format()",
        )
    features, what = given.features, "the Hugging Face dataset"
    pictures = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
    named = [key for key, feature in features.items() if hasattr(feature, "str2int")]
    image = _column(pictures or list(features), pictures or IMAGE_COLUMNS, "images", name)
    label = _column(named or list(features), named or LABEL_COLUMNS, "labels", name)

    plain = given.with_format(None).select_columns([image, label])
    if image in pictures and getattr(features[image], "mode", None) is None:
        plain = plain.cast_column(image, dataclasses.replace(features[image], decode=False))
    elif getattr(features[image], "dtype", "") == "uint8":
        # arrays, which come as lists otherwise
        plain = plain.with_format("numpy", [image], output_all_columns=True, dtype=np.uint8)
    labels = list(given.with_format(None)[label])
    return Items(
        len(labels),
        lambda i: (plain[i][image], None),
        what,
        origin=lambda i: f"item {i}",
        labels=labels,
        classes=tuple(features[label].names) if label in named else (),
    )


def _of_dataset(dataset: Any) -> Items:
    """Return the items of a map-style torch dataset, which are pairs (image, label).

    torchvision's ImageFolder is read by its files where no transform is set, and a Subset as what
    it is a part of.
    """
    kind = type(dataset)
    if kind.__name__ == "Subset" and hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        whole, places = _of_dataset(dataset.dataset), [int(i) for i in dataset.indices]
        if outside := [i for i in places if not -whole.num <= i < whole.num]:
            raise DataError(
                f"the Subset has the index {outside[0]}, but there are {whole.num:,} items",
                where="data",
                fix="use indices of this data set",
            )
        return whole.at(places)
    plain = getattr(dataset, "transforms", None) is None
    if plain and getattr(kind.__getitem__, "__module__", "") == _DECODED_FOLDER:
        loader = getattr(dataset, "loader", None)
        if getattr(loader, "__module__", "") == _DECODED_FOLDER:
            paths, labels = zip(*dataset.samples, strict=True) if dataset.samples else ((), ())
            return _of_lists(
                paths, labels, f"the {kind.__name__}", where="data", classes=_class_list(dataset)
            )

    what = f"the dataset {kind.__name__}"
    return Items(
        len(dataset),
        lambda i: _pair(dataset[i], what, kind),
        what,
        lambda i: f"item {i}",
        classes=_class_list(dataset),
    )


def _pair(item: Any, what: str, kind: type) -> tuple[Any, Any]:
    """Return the image and the label of an item; raises DataError where it is no pair."""
    if isinstance(item, Mapping):
        names = [str(key) for key in item]
        image = _column(names, IMAGE_COLUMNS, "images", what)
        return item[image], item[_column(names, LABEL_COLUMNS, "labels", what)]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise DataError(
        f"{what}: an item is a {type(item).__name__}{size}, not a pair (image, label)",
        fix=f"let {kind.__name__}.__getitem__ return (image, label)",
    )


def _class_list(dataset: Any) -> Sequence[str]:
    """Return the class names of a dataset, or of those inside one of torch's; empty where there are
    none, or where its labels are others. Raises DataError.
    """
    if getattr(dataset, "target_transform", None) is not None:
        return ()
    if type(dataset).__name__ == "ConcatDataset":
        found = {tuple(_class_list(part)) for part in dataset.datasets}
        if len(found) > 1:
            shown = " and ".join(", ".join(names[:4]) or "no names" for names in sorted(found)[:2])
            raise DataError(
                f"the datasets in the ConcatDataset have different classes: {shown}",
                where="data",
                fix="use the same classes in all of them, or (paths, labels) with labels as text",
            )
        return found.pop()

    # torchvision's ImageNet calls its WordNet ids so, and has titles in its classes
    classes = getattr(dataset, "wnids", getattr(dataset, "classes", None))
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        names = [str(name) for name in classes]
        return names if len(set(names)) == len(names) else ()
    # a wrapper of somebody else's may well have other labels than what it wraps
    torchs = type(dataset).__module__.startswith("torch.")
    return _class_list(dataset.dataset) if torchs and hasattr(dataset, "dataset") else ()
