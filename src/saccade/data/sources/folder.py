"""A folder of images as a source; links to files and folders are followed."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from saccade.data.archives.stamps import facts_of, stamp
from saccade.data.archives.tars import RECORD_LIMIT_BYTES, clean_name, refuse_duplicates
from saccade.data.sources import cifar, mnist
from saccade.data.sources.kaggle import OUTSIDE, data_folder
from saccade.data.sources.listing import Listing
from saccade.data.sources.peek import read_head
from saccade.data.sources.raw import unfold
from saccade.data.sources.shards import open_tars, tars_in
from saccade.data.sources.split import Source, source_of, stamped
from saccade.data.sources.split_names import parse
from saccade.data.sources.trees import layout_of
from saccade.errors import DataError

_Identity = tuple[int, int]

_LOST = {
    errno.ENOENT: "broken link",
    errno.ENOTDIR: "broken link",
    errno.ELOOP: "symbolic link in a circle",
}
"""Why a link leads to no file, by the number of the error."""


@dataclass(eq=False)
class _Listing:
    """What a walk found.

    Names, real paths and sizes (bytes) of files, names of folders, and what was left out. ``lost``
    says by path why what may have been meant as an image cannot be reached. ``facts`` go into the
    stamp.
    """

    names: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    facts: array[int] = field(default_factory=lambda: array("Q"))
    folders: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    lost: dict[str, str] = field(default_factory=dict)


def open_folder(path: Path, labels: str = "", split_names: str = "") -> Source:
    """Index a folder, or the tars in it.

    ``labels`` is a table of labels, ``split_names`` what the user says about the splits. Each read
    opens its file anew, so any number of threads may read. A file whose size has changed since
    raises DataError when it is read. Raises DataError on an unreadable folder, on bad names and
    without images.
    """
    try:
        root, beside = (path, 0) if labels else data_folder(path)
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error}", where=str(path)) from error
    found = _walk(root)
    if not labels and (tars := tars_in(found.names)):
        return open_tars(path, [path / name for name in tars], path)
    refuse_duplicates(found.names, str(path))

    def read(i: int) -> bytes:
        return _read_file(found.paths[i], found.sizes[i])

    sizes, ignored = np.array(found.sizes, np.int64), found.ignored + Counter({OUTSIDE: beside})
    if not labels and (
        raw := unfold(path, found.names, sizes, read=read, forms=(*cifar.FORMS, *mnist.FORMS))
    ):
        return stamped(raw, stamp(found.facts))

    def head(i: int) -> bytes:
        return read_head(found.paths[i])

    named = parse(split_names)
    listing = Listing(
        path,
        root,
        found.names,
        sizes=sizes,
        read=read,
        head=head,
        folders=found.folders,
        ignored=ignored,
        lost=found.lost,
        named=named,
    )
    return source_of(path, layout_of(listing, labels), sizes, read=read, stamp=stamp(found.facts))


def _walk(root: Path) -> _Listing:
    found = _Listing()
    pending: list[tuple[str, str, tuple[_Identity, ...]]] = [(str(root), "", ())]
    while pending:
        folder, prefix, parents = pending.pop()
        try:
            status = os.stat(folder)
            here = (*parents, (status.st_dev, status.st_ino))
            # by device and inode: links of other names may lead back here
            if here[-1] in parents:
                found.ignored["link to a folder around itself"] += 1
                continue
            with os.scandir(folder) as entries:
                inner = _list_folder(sorted(entries, key=lambda entry: entry.name), prefix, found)
        except (OSError, ValueError) as error:
            raise DataError(f"the folder cannot be read: {error}", where=folder) from error
        # a stack, so reversed: folders are walked in the order of their names
        pending.extend((entry, name, here) for entry, name in reversed(inner))
    return found


def _list_folder(
    entries: list[os.DirEntry[str]], prefix: str, found: _Listing
) -> list[tuple[str, str]]:
    """Add the files of one folder to ``found`` and return its folders as (path, prefix of the
    names inside).
    """
    inner: list[tuple[str, str]] = []
    for entry in entries:
        try:
            # links are followed here: a set is often a folder of links to images elsewhere
            status = entry.stat()
        except OSError as error:
            if error.errno not in _LOST:
                raise
            found.lost[clean_name(prefix + entry.name)] = _LOST[error.errno]
            continue

        if stat.S_ISDIR(status.st_mode):
            name = clean_name(prefix + entry.name)
            found.folders.append(name)
            inner.append((entry.path, f"{name}/"))
        elif stat.S_ISREG(status.st_mode):
            found.names.append(clean_name(prefix + entry.name))
            found.paths.append(entry.path)
            found.sizes.append(status.st_size)
            found.facts.extend(facts_of(status))
        else:
            found.ignored["neither a file nor a folder"] += 1
    return inner


def _read_file(path: str, size: int) -> bytes:
    if size > RECORD_LIMIT_BYTES:
        raise DataError(
            f"the file has {size} bytes, more than the limit of {RECORD_LIMIT_BYTES}", where=path
        )
    try:
        with open(path, "rb") as file:
            data = file.read(size + 1)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=path) from error
    if len(data) != size:
        raise DataError(
            f"the file had {size} bytes when the folder was indexed and now has "
            f"{os.path.getsize(path)}",
            where=path,
            fix="do not change a dataset while it is in use; start again",
        )
    return data
