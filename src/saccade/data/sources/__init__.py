"""Data sources: one index and one ``read(i)`` for built-in sets, folders and archives."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from pathlib import Path

from saccade.data.archives.packs import is_pack
from saccade.data.sources import ilsvrc
from saccade.data.sources.archive import open_archive
from saccade.data.sources.digits import NAME as DIGITS
from saccade.data.sources.digits import open_digits
from saccade.data.sources.folder import open_folder
from saccade.data.sources.handed import gone, is_handed
from saccade.data.sources.layout import BESIDE_SPLITS, NO_CLASS_FOLDER
from saccade.data.sources.official import OFFICIAL, open_official
from saccade.data.sources.packed import open_pack
from saccade.data.sources.plugged import open_plugged
from saccade.data.sources.shards import is_pattern, open_pattern
from saccade.data.sources.split import INDEX_VERSION as INDEX_VERSION
from saccade.data.sources.split import NO_IMAGES, short_name
from saccade.data.sources.split import Source as Source
from saccade.data.sources.split import Split as Split
from saccade.data.sources.split import hold_out as hold_out
from saccade.data.sources.split import train_split as train_split
from saccade.data.sources.split import validation_split as validation_split
from saccade.data.sources.unlabelled import NO_LABELS
from saccade.errors import DataError

KNOWN = (DIGITS, *OFFICIAL)
"""The names of sets that need no path."""


def open_source(spec: str | Path, labels: str | Path = "", split_names: str = "") -> Source:
    """Open a dataset: a known name, a folder, a tar (plain, gzip or xz) or zip, or shards.

    Plug-ins are asked last about anything else. Raises DataError.

    Known names are ``digits``, which is built in, and those of ``OFFICIAL``, whose files are found
    or downloaded. They mean the known set even where a folder of that name exists; write
    ``./digits`` for that. A folder may also be a pack, or hold the two tars of ImageNet as they are
    published. ``labels`` is a table that labels the images of a folder or archive. ``split_names``
    says which folders are the splits (``train=Alpha,val=Beta``), or that none is.
    """
    if is_handed(str(spec)):
        raise gone(str(spec))
    try:
        return _open_ours(spec, labels, split_names)
    except DataError:
        found = None if labels or split_names else open_plugged(str(spec))
        if found is None:
            raise
        return found


def open_unlabelled(spec: str, split_names: str = "") -> tuple[Source, str]:
    """Open images for training without labels, and return the value of `data.labels`.

    Labels are kept if every image has one, and if there are at least two. Raises DataError.
    """
    refused: DataError | None = None
    try:
        source = open_source(spec, split_names=split_names)
        loose = any(source.ignored[reason] for reason in (NO_CLASS_FOLDER, BESIDE_SPLITS))
        # one folder around everything is no class
        if not loose and any(len(split.classes) > 1 for split in source.splits.values()):
            return source, ""
    except DataError as error:
        refused = error
    try:
        return open_source(spec, NO_LABELS), NO_LABELS
    except DataError as error:
        # what is wrong was said better the first time: damage, a path that is not there
        raise error if refused is None or refused.what == NO_IMAGES else refused from None


def _open_ours(spec: str | Path, labels: str | Path, split_names: str) -> Source:
    """Open what this program knows itself; raises DataError."""
    path = Path(spec).expanduser()
    known = spec if isinstance(spec, str) and spec in KNOWN else ""
    pattern = is_pattern(str(spec)) and not path.exists()
    # what is known by a name, or by its form, is read as it is: labels do no harm
    if labels == NO_LABELS and (known or pattern or is_pack(path)):
        labels = ""
    if labels and (known or pattern or is_pack(path)):
        raise DataError(f"'{spec}' already has labels", where=str(labels), fix="remove --labels")
    if split_names and (labels or known or pattern or is_pack(path)):
        what = "the table already says" if labels else f"'{spec}' already says"
        raise DataError(
            f"{what} which image is in which split", where=str(spec), fix="remove --split-names"
        )

    if known:
        return open_digits() if known == DIGITS else open_official(known)
    if pattern:
        return open_pattern(str(spec))
    if is_pack(path):
        return open_pack(path)

    if path.is_dir():
        tars = {name: path / file for name, file in ilsvrc.TARS.items() if (path / file).is_file()}
        return (
            _open_tars(path, tars)
            if tars and not labels
            else open_folder(path, str(labels), split_names)
        )
    if path.is_file():
        return open_archive(path, str(labels), split_names)
    raise DataError(f"there is no data at '{spec}'", where=str(path.absolute()), fix=_meant(path))


def _meant(path: Path) -> str:
    """Say what to write instead of a path without data: similar names first."""
    beside = {
        str(path.with_name(name)): name
        for name in (os.listdir(path.parent) if path.parent.is_dir() else ())
    }
    near = difflib.get_close_matches(path.name, beside.values(), n=2, cutoff=0.6)
    found = [text for text, name in beside.items() if name in near]
    found += difflib.get_close_matches(str(path), KNOWN, n=2, cutoff=0.6)
    forms = (
        f"{', '.join(KNOWN)}, a folder with train/ and val/, or a .tar, .tar.gz, .tar.xz or .zip "
        "of one"
    )
    return f"did you mean {' or '.join(found)}? data is {forms}" if found else f"give {forms}"


def _open_tars(folder: Path, tars: dict[str, Path]) -> Source:
    """Open ImageNet's tars as one source.

    A split without its tar may lie beside the other's as an arranged folder.
    """
    sources = [open_archive(tar) for tar in tars.values()]
    if any((folder / name).is_dir() for name in ilsvrc.TARS.keys() - tars):
        sources.insert(0, open_folder(folder))
    return Source(
        name=short_name(folder),
        where=str(folder),
        splits={name: split for source in sources for name, split in source.splits.items()},
        ignored=sum((source.ignored for source in sources), Counter()),
        ignored_names=tuple(name for source in sources for name in source.ignored_names),
        notes=tuple(note for source in sources for note in source.notes),
    )
