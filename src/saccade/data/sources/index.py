"""The index of an archive, kept in the user's cache folder: a second start reads it there
instead of the archive.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saccade import cache, files
from saccade.data.archives.paths import Names
from saccade.data.archives.stamps import stamp_of
from saccade.data.sources.layout import Layout, Part
from saccade.data.sources.split import INDEX_VERSION, Integers, fingerprint
from saccade.errors import SaccadeError

FORMAT = 2
"""Counted up when the files in the cache change their meaning."""

_INT = np.dtype("<i8")


@dataclass(frozen=True, eq=False)
class Index:
    """The members of an archive in its own order and their layout, as little as reading needs.

    ``names`` of all members; ``columns`` say where and how large each member is, int64 of shape
    (n,), among them ``sizes`` (bytes); the names in ``layout`` are cut out of the same text.
    """

    names: Names
    columns: dict[str, Integers]
    layout: Layout


def packed(names: Names, columns: dict[str, Integers], layout: Layout) -> Index:
    """Make an index of a layout, and add the fingerprints of its splits.

    An image is named by the end of its member's name.
    """
    parts = {}
    for name, part in layout.parts.items():
        tails = _tails(
            names, part.places, np.array([len(tail.encode()) for tail in part.names], np.int64)
        )
        digest = fingerprint(part.classes, part.labels, tails, columns["sizes"][part.places])
        parts[name] = replace(part, names=tails, fingerprint=digest)
    return Index(names, columns, replace(layout, parts=parts))


def kept(
    archive: Path, beside: Sequence[Path], build: Callable[[], Index], said: str = ""
) -> Index:
    """Return the index of an archive from the cache folder, or build it and keep it there.

    The cached one counts if it is sound and the archive is still the same by path, size, times and
    inode. The files ``beside`` it, which say what its images are, and what the user ``said`` about
    them must be the same, too. Raises what ``build`` raises.
    """
    stamp = stamp_of((archive, *beside))
    identity = [FORMAT, INDEX_VERSION, [os.fsencode(path).hex() for path in beside], stamp, said]
    folder = cache.within("index", hashlib.sha256(os.fsencode(archive.resolve())).hexdigest()[:32])
    index = _recalled(folder, identity) if stamp else None
    if index is None:
        index = build()
        if stamp:
            _remember(folder, identity, index)
    return index


def _tails(names: Names, places: Integers, lengths: Integers) -> Names:
    ends = names.ends[places]
    return Names(names.text, ends - lengths, ends)


def _remember(folder: Path, identity: list[object], index: Index) -> None:
    layout = index.layout
    arrays = {"lengths": index.names.ends - index.names.starts, **index.columns}
    for name, part in layout.parts.items():
        assert isinstance(part.names, Names)
        arrays |= _arrays(name, part.places, part.labels, part.names.ends - part.names.starts)
    facts = {
        "identity": identity,
        "columns": list(index.columns),
        "parts": {
            name: [part.folder, part.classes, part.empty_classes, part.fingerprint, part.left_out]
            for name, part in layout.parts.items()
        },
        "rest": [layout.ignored, layout.ignored_names, layout.notes, layout.titles],
    }
    contents = {f"{name}.i8": array.astype(_INT).tobytes() for name, array in arrays.items()}
    try:
        files.remove_tree(folder)
        files.publish_folder(
            folder,
            contents | {"names.txt": index.names.text, "index.json": files.json_bytes(facts)},
        )
    # a home that cannot be written costs the next start some time, nothing else
    except (SaccadeError, OSError):
        return


def _arrays(name: str, *arrays: Integers) -> dict[str, Integers]:
    return {
        f"{name}-{kind}": array
        for kind, array in zip(("places", "labels", "lengths"), arrays, strict=True)
    }


def _recalled(folder: Path, identity: list[object]) -> Index | None:
    def column(name: str) -> Integers:
        return np.fromfile(folder / f"{name}.i8", _INT)

    try:
        # the small file first: an index of another archive is not read at all
        facts = files.read_json(folder / "index.json")
        if facts["identity"] != identity:
            return None
        files.verify_folder(folder)
        names = Names.joined((folder / "names.txt").read_bytes(), column("lengths"))
        parts = {}
        for name, (inside, classes, empty_classes, digest, left_out) in facts["parts"].items():
            places = column(f"{name}-places")
            tails = _tails(names, places, column(f"{name}-lengths"))
            labels = column(f"{name}-labels")
            parts[name] = Part(
                inside,
                tuple(classes),
                tuple(empty_classes),
                names=tails,
                labels=labels,
                places=places,
                fingerprint=digest,
                left_out=tuple(left_out),
            )
        ignored, ignored_names, notes, titles = facts["rest"]
        layout = Layout(
            parts, Counter(ignored), tuple(ignored_names), notes=tuple(notes), titles=titles
        )
        return Index(names, {name: column(name) for name in facts["columns"]}, layout)
    except (OSError, ValueError, KeyError, TypeError):
        return None
