"""The split, class and name of each file: one pure function for folders, tars and zips."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from saccade.data.images.decode import IMAGE_SUFFIXES
from saccade.data.sources.peek import BESIDE_SUFFIXES, suffix_of
from saccade.data.sources.split_names import SPLIT_FOLDERS as SPLIT_FOLDERS
from saccade.data.sources.split_names import Folder, Roots, Unclear, called, find_roots

WHOLE = "all"
"""Name of the only split of a tree that has class folders and no split folders."""

NO_CLASS_FOLDER = "image outside a class folder"
BESIDE_SPLITS = "image beside the split folders"
NUM_SHOWN = 20

_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a tree, sorted by (class, name).

    ``places`` are int64 indices into the listing, shape (n,).

    ``empty_classes`` are class folders without any image, ``left_out`` those of them that contain
    files. ``fingerprint`` is that of the split where it is known already.
    """

    folder: str
    classes: tuple[str, ...]
    empty_classes: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    places: NDArray[np.int64]
    fingerprint: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Layout:
    """The contents of a listing.

    Its splits, the number of ignored files by reason, the first ignored paths, remarks, class
    titles, and how a table of several labels was read.
    """

    parts: dict[str, Part]
    ignored: Counter[str]
    ignored_names: tuple[str, ...]
    notes: tuple[str, ...]
    titles: Mapping[str, str] = field(default_factory=dict)
    read_as: str = ""


def arrange(
    paths: Sequence[str],
    folders: Iterable[str] = (),
    named: Mapping[str, str] | None = None,
    *,
    peeked: Collection[int] = (),
    lost: Mapping[str, str] = _NONE,
) -> Layout:
    """Sort the files of a tree into splits and classes.

    ``paths`` and ``folders`` are clean relative paths; the result does not depend on their order.
    Folders around everything are allowed. Without split folders the class folders become the split
    ``all``. ``named`` are the folders of the splits as the user says, ``peeked`` the places of
    files that are images although their names do not say so, ``lost`` the reasons why other files
    cannot be reached, by path. Raises ValueError if folders may be splits or classes, if two claim
    to be the same split, and if a split folder lies inside a class folder.
    """
    files = _sift(paths, peeked, lost)
    files.empty |= {
        tuple(folder.split("/"))
        for folder in folders
        if folder and not _is_hidden(folder.split("/"))
    }

    roots = find_roots(Counter(folder for folder, _, _ in files.images), named)
    starts = roots.splits or {WHOLE: roots.wrappers}
    # by folder and not by image: a million images lie in some thousand folders
    seats = {folder: _seat(folder, starts) for folder in {folder for folder, _, _ in files.images}}
    if named is None:
        for (name, inner), folder in zip(seats.values(), seats, strict=True):
            _refuse_inner_split(name, inner, folder)

    grouped: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    loose: Counter[str] = Counter()
    for folder, file, place in files.images:
        name, inner = seats[folder]
        if inner:
            # deeper folders are a part of the name, only the first one is the class
            grouped[name].append((inner[0], "/".join([*inner[1:], file]), place))
            continue
        top = folder[len(roots.wrappers)] if len(folder) > len(roots.wrappers) else ""
        beside = roots.splits and not name and top not in roots.flat
        loose[top] += not beside
        files.leave(BESIDE_SPLITS if beside else NO_CLASS_FOLDER, paths[place])

    for name in roots.splits.keys() - grouped.keys():
        raise Unclear(
            f"the images of '{name}' are directly in {'/'.join(roots.splits[name])}, so their "
            "classes are unknown",
            "name the folder that contains the class folders",
        )

    parts = {
        name: _part(name, grouped[name], starts[name], roots=roots, files=files)
        for name in sorted(grouped)
    }
    notes = tuple(_notes(roots, files, loose)) if roots.splits else ()
    return Layout(
        parts, files.ignored, (*sorted(files.lost), *sorted(files.leftovers))[:NUM_SHOWN], notes
    )


def layout_of_rows(
    rows: Mapping[str, list[tuple[str, str, int]]],
    ignored: Counter[str],
    ignored_names: Sequence[str] = (),
) -> Layout:
    """Return the layout of images whose (class, name, place in the listing) is known, by split."""
    parts = {
        name: _part(name, rows[name], (name,), roots=None, files=_Files()) for name in sorted(rows)
    }
    return Layout(parts, ignored, tuple(sorted(ignored_names)[:NUM_SHOWN]), ())


def is_image(path: str) -> bool:
    """Tell whether a clean path is an image by its name, and neither hidden nor a system file."""
    return suffix_of(path) in IMAGE_SUFFIXES and not _is_hidden(path.split("/"))


@dataclass(eq=False)
class _Files:
    """The images of a tree as (folder, file, place), and what is ignored.

    ``ignored`` counts the rest by reason, ``leftovers`` are its names. ``lost`` are names of links,
    which are shown first. ``empty`` are folders without images of their own, ``full`` those of them
    that hold what may have been meant as one.
    """

    images: list[tuple[Folder, str, int]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    leftovers: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    empty: set[Folder] = field(default_factory=set)
    full: set[Folder] = field(default_factory=set)

    def leave(self, reason: str, path: str) -> None:
        """Count a skipped file, and keep its name."""
        self.ignored[reason] += 1
        self.leftovers.append(path)


def _sift(paths: Sequence[str], peeked: Collection[int], lost: Mapping[str, str]) -> _Files:
    """Tell the images, with their places, from the rest."""
    found = _Files()
    for place, path in enumerate(paths):
        *folders, file = path.split("/")
        suffix = suffix_of(file)
        if _is_hidden([*folders, file]):
            found.ignored["hidden or system file"] += 1
        elif suffix in IMAGE_SUFFIXES or place in peeked:
            found.images.append((tuple(folders), file, place))
        else:
            found.leave(f"not an image by its name ({suffix or 'no suffix'})", path)
            found.empty.add(tuple(folders))
            if suffix not in BESIDE_SUFFIXES:
                found.full.add(tuple(folders))
    for path, reason in lost.items():
        *folders, file = path.split("/")
        if not _is_hidden([*folders, file]):
            found.ignored[reason] += 1
            found.lost.append(path)
            found.empty.add(tuple(folders))
            found.full |= {tuple(folders), (*folders, file)}  # a link may have meant a whole folder
    return found


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part[0] == "." or part.lower() in _SYSTEM_FILES for part in parts)


def _seat(folder: Folder, starts: Mapping[str, Folder]) -> tuple[str, Folder]:
    """Return the split of the images in a folder, and the folder inside it; empty for one beside
    the splits.
    """
    for name, start in starts.items():
        if folder[: len(start)] == start:
            return name, folder[len(start) :]
    return "", ()


def _refuse_inner_split(name: str, inner: Folder, folder: Folder) -> None:
    """Refuse ``cat/train/x.jpg`` and ``data/train/cat/x.jpg`` beside other folders: train and
    test would mix.
    """
    if len(inner) > 1 and any(map(called, inner[:2])):
        raise Unclear(
            f"a split folder is inside a class folder: '{'/'.join(folder)}'",
            "arrange the images as train/<class>/<image> and val/<class>/<image>, or name the "
            "folders that contain the class folders: --split-names train=FOLDER,val=FOLDER",
        )


def _notes(roots: Roots, files: _Files, loose: Counter[str]) -> Iterable[str]:
    """Say which folders have the names of splits but no labelled images."""
    depth = len(roots.wrappers)
    inside = {root[depth] for root in roots.splits.values() if len(root) > depth}
    seen = {
        folder[depth]
        for folder in files.empty
        if folder[:depth] == roots.wrappers and len(folder) > depth
    }
    for name in sorted({*filter(called, seen), *roots.flat} - inside):
        count = (
            f": {loose[name]:,} image(s) in it have no label and are skipped" if loose[name] else ""
        )
        yield f"the folder '{name}' has no images in class folders{count}"


def _part(
    name: str, rows: list[tuple[str, str, int]], start: Folder, roots: Roots | None, files: _Files
) -> Part:
    # canonical: a folder, a tar and a zip of the same files give the same fingerprint
    rows = sorted(rows)
    classes = tuple(sorted({row[0] for row in rows}))
    number = {folder: label for label, folder in enumerate(classes)}

    def hollow(folders: Collection[Folder]) -> tuple[str, ...]:
        below = {
            folder[len(start)]
            for folder in folders
            if len(folder) > len(start) and folder[: len(start)] == start
        }
        return tuple(sorted(below - set(classes)))

    return Part(
        folder="/".join(start[len(roots.wrappers) if roots else 0 :]) if name != WHOLE else "",
        classes=classes,
        empty_classes=hollow(files.empty),
        names=tuple(row[1] for row in rows),
        labels=np.array([number[row[0]] for row in rows], np.int64),
        places=np.array([row[2] for row in rows], np.int64),
        left_out=hollow(files.full),
    )
