"""Which split, class and name each file of a tree has: one pure function for folders, tars and zips."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saccade.data.images import IMAGE_SUFFIXES

SPLIT_FOLDERS = ("train", "val", "validation", "valid", "test")
"""Folder names, in any case, that hold a split; the validation split is the first of the last four that exists."""

WHOLE = "all"
"""Name of the only split of a tree that has class folders and no split folders."""

NO_CLASS_FOLDER = "image outside a class folder"
BESIDE_SPLITS = "image beside the split folders"
NUM_SHOWN = 20

_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
_Parts = list[str]


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a tree, sorted by (class, name); ``places`` are int64 indices into the listing, shape (n,).

    ``fingerprint`` is that of the split where it is known already.
    """

    folder: str
    classes: tuple[str, ...]
    empty_classes: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    places: NDArray[np.int64]
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a listing holds: its splits, what was ignored by reason, the first ignored paths, remarks, class titles."""

    parts: dict[str, Part]
    ignored: Counter[str]
    ignored_names: tuple[str, ...]
    notes: tuple[str, ...]
    titles: Mapping[str, str] = field(default_factory=dict)


def arrange(paths: Sequence[str], folders: Iterable[str] = ()) -> Layout:
    """Sort the files of a tree into splits and classes.

    ``paths`` and ``folders`` are clean relative paths; the result does not depend on their order. One folder around
    everything is allowed. Without split folders the class folders become the split ``all``. Raises ValueError if two
    folders claim to be the same split, or if a split folder lies inside a class folder.
    """
    images, known, ignored, leftovers = _sift(paths)
    known.extend(folder.split("/") for folder in folders if folder and not _is_hidden(folder.split("/")))
    top = _top_folder([parts for parts, _ in images])
    if top:
        images = [(parts[1:] or parts, place) for parts, place in images]
        known = [parts[1:] for parts in known if parts[0] == top and len(parts) > 1]
    splits = _split_folders([parts for parts, _ in images])
    grouped: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for parts, place in images:
        inner = parts[1:] if splits else parts
        if splits and parts[0] not in splits:
            reason = BESIDE_SPLITS
        elif len(inner) < 2:
            reason = NO_CLASS_FOLDER
        else:
            _refuse_inner_split(inner, paths[place])
            grouped[parts[0] if splits else WHOLE].append((inner[0], "/".join(inner[1:]), place))
            continue
        ignored[reason] += 1
        leftovers.append(paths[place])
    parts_by_name = {name: _part(name, grouped[name], known) for name in sorted(grouped)}
    notes = tuple(
        f"the folder '{name}' holds no image in a class folder"
        for name in sorted({parts[0] for parts in known if parts[0].lower() in SPLIT_FOLDERS})
        if splits and name not in grouped
    )
    return Layout(parts_by_name, ignored, tuple(sorted(leftovers)[:NUM_SHOWN]), notes)


def layout_of_rows(
    rows: Mapping[str, list[tuple[str, str, int]]], ignored: Counter[str], ignored_names: Sequence[str] = ()
) -> Layout:
    """Return the layout of images whose (class, name, place in the listing) is known, by split."""
    parts = {name: _part(name, rows[name], []) for name in sorted(rows)}
    return Layout(parts, ignored, tuple(sorted(ignored_names)[:NUM_SHOWN]), ())


def is_image(path: str) -> bool:
    """Tell whether a clean path is an image by its name, and neither hidden nor a system file."""
    parts = path.split("/")
    return f".{parts[-1].rpartition('.')[2].lower()}" in IMAGE_SUFFIXES and not _is_hidden(parts)


def _sift(paths: Sequence[str]) -> tuple[list[tuple[_Parts, int]], list[_Parts], Counter[str], list[str]]:
    """Part the images, with their places, from the rest; also the folders of other files, reasons and names."""
    images: list[tuple[_Parts, int]] = []
    known: list[_Parts] = []
    ignored: Counter[str] = Counter()
    leftovers: list[str] = []
    for place, path in enumerate(paths):
        parts = path.split("/")
        suffix = "." + parts[-1].rpartition(".")[2].lower()
        if _is_hidden(parts):
            ignored["hidden or system file"] += 1
        elif suffix in IMAGE_SUFFIXES:
            images.append((parts, place))
        else:
            ignored[f"not an image by its name ({suffix if '.' in parts[-1] else 'no suffix'})"] += 1
            leftovers.append(path)
            if len(parts) > 1:
                known.append(parts[:-1])
    return images, known, ignored, leftovers


def _is_hidden(parts: _Parts) -> bool:
    return any(part[0] == "." or part.lower() in _SYSTEM_FILES for part in parts)


def _top_folder(images: list[_Parts]) -> str:
    """Return the one folder around everything: not a split itself, and with folders of images inside."""
    firsts = {parts[0] for parts in images if len(parts) > 1}
    if len(firsts) != 1 or max(len(parts) for parts in images) < 3:
        return ""
    (top,) = firsts
    return "" if top.lower() in SPLIT_FOLDERS else top


def _split_folders(images: list[_Parts]) -> frozenset[str]:
    """Return the folders that are splits: by their name and because class folders lie inside.

    A *class* may be called train, too: it holds images directly.
    """
    found = frozenset(parts[0] for parts in images if len(parts) > 2 and parts[0].lower() in SPLIT_FOLDERS)
    if len({name.lower() for name in found}) != len(found):
        raise ValueError(f"the split folders {', '.join(sorted(found))} differ only in upper and lower case")
    return found


def _refuse_inner_split(inner: _Parts, path: str) -> None:
    """Refuse ``cat/train/x.jpg`` and ``data/train/cat/x.jpg`` beside other folders: train and test would mix."""
    if len(inner) > 2 and (inner[0].lower() in SPLIT_FOLDERS or inner[1].lower() in SPLIT_FOLDERS):
        raise ValueError(f"a split folder lies inside a class folder: '{path}'")


def _part(name: str, rows: list[tuple[str, str, int]], known: list[_Parts]) -> Part:
    rows = sorted(rows)
    classes = tuple(sorted({row[0] for row in rows}))
    number = {folder: label for label, folder in enumerate(classes)}
    if name == WHOLE:
        folders = {parts[0] for parts in known}
    else:
        folders = {parts[1] for parts in known if len(parts) > 1 and parts[0] == name}
    return Part(
        folder="" if name == WHOLE else name,
        classes=classes,
        empty_classes=tuple(sorted(folders - set(classes))),
        names=tuple(row[1] for row in rows),
        labels=np.array([number[row[0]] for row in rows], np.int64),
        places=np.array([row[2] for row in rows], np.int64),
    )
