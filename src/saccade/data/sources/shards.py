"""Folders of tars: WebDataset shards read as one set, or one tar of class folders for each
split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from saccade.data.archives.stamps import stamp_of
from saccade.data.archives.tars import RECORD_LIMIT_BYTES, Members, index_tar
from saccade.data.sources.archive import mapped, open_archive, plain_tar
from saccade.data.sources.ilsvrc import DEVKIT
from saccade.data.sources.layout import NO_CLASS_FOLDER, NUM_SHOWN, WHOLE, is_image
from saccade.data.sources.listing import counted
from saccade.data.sources.split import Read, Source, Split, short_name, source_of
from saccade.data.sources.split_names import words
from saccade.data.sources.webdataset import (
    Shard,
    is_shard,
    read_shard,
    shards_layout,
    splits_of,
    title_file,
)
from saccade.data.sources.wnids import named_shard
from saccade.errors import DataError

PATTERN_LIMIT = 100_000
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
_BRACES = re.compile(r"\{([^{}]*)\}")


def is_pattern(spec: str) -> bool:
    """Tell whether a string holds braces to expand."""
    return bool(_BRACES.search(spec))


def expand(spec: str) -> Iterator[str]:
    """Yield what braces stand for, ``{000..012}`` and ``{a,b}``, in order.

    Raises DataError on other contents.
    """
    found = _BRACES.search(spec)
    if found is None:
        yield spec
        return
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends is None and "," not in found[1]:
        raise DataError(
            f"'{found[0]}' is not a pattern", where=spec, fix="write {000000..000012} or {a,b}"
        )
    if ends:
        numbers = range(int(ends[1]), int(ends[2]) + 1)
        words: Iterator[str] | list[str] = (str(number).zfill(len(ends[1])) for number in numbers)
    else:
        words = found[1].split(",")
    for word in words:
        yield from expand(spec[: found.start()] + word + spec[found.end() :])


def open_pattern(spec: str) -> Source:
    """Open the shards that a pattern names; raises DataError if one is missing."""
    # braces in braces name some files twice
    names = dict.fromkeys(islice(expand(spec), PATTERN_LIMIT + 1))
    paths = [Path(name).expanduser() for name in names]
    if len(paths) > PATTERN_LIMIT or not paths:
        raise DataError(
            f"the pattern matches {'too many files' if paths else 'no file'}", where=spec
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            counted(missing, "missing shard", f"of {len(paths):,}"),
            where=spec,
            fix="copy or download them again, or correct the pattern",
        )
    return open_tars(Path(spec), paths, paths[0].parent)


def tars_in(names: Sequence[str]) -> list[str]:
    """Return the tars among the files of a folder, sorted; None where images lie in folders, too.

    Compressed tars count where there are no others.
    """
    if any("/" in name and is_image(name) for name in names):
        return []
    tars = sorted(
        name for name in names if name.lower().endswith(_TARS) and name.rpartition("/")[2][0] != "."
    )
    plain = [name for name in tars if name.lower().endswith(".tar")]
    return plain or [name for name in tars if name.rpartition("/")[2] != DEVKIT]


def open_tars(path: Path, tars: Sequence[Path], folder: Path) -> Source:
    """Open shards as one set, or other tars as the splits that their names tell; raises DataError.

    ``path`` is what the user named; what the classes are called may be said in ``folder``. Shards
    are opened for each read: a thousand of them kept open would be too many for some systems.
    """
    shards: list[Shard] = []
    spans = [np.empty((0, 3), np.int64)]
    first = 0
    plain = [plain_tar(tar) for tar in tars]
    unlabelled: list[str] = []

    for number, tar in enumerate(tars):
        members, read = _indexed(plain[number], tar)
        shard = _shard(tar, members.names, read)
        if shard is None and _is_flat_test(tar, members.names):
            unlabelled += [f"{name} in {tar.name}" for name in members.names if is_image(name)]
            continue
        if shard is None:
            if shards:
                raise DataError(
                    f"this tar contains no samples, but '{shards[0].path.name}' does",
                    where=str(tar),
                )
            return _splits(path, tars)

        rows = [(label, name, first + row) for row, (label, name, _) in enumerate(shard.rows)]
        shards.append(
            replace(
                shard,
                rows=rows,
                ignored=shard.ignored + members.skipped + Counter(members.lost.values()),
            )
        )
        places = np.array([place for _, _, place in shard.rows], np.int64)
        spans.append(
            np.stack(
                [np.full_like(places, number), members.offsets[places], members.sizes[places]], 1
            )
        )
        first += len(places)

    if unlabelled and not shards:
        return _splits(path, tars)
    layout = shards_layout(shards, str(path), title_file(folder))
    left = Counter({NO_CLASS_FOLDER: len(unlabelled)})
    layout = replace(
        layout, ignored=layout.ignored + left, ignored_names=tuple(sorted(unlabelled)[:NUM_SHOWN])
    )

    table = np.concatenate(spans)
    stamp = stamp_of({*tars, *plain})
    return source_of(
        path, layout, table[:, 2], read=lambda i: _read_span(plain, *table[i].tolist()), stamp=stamp
    )


def _shard(tar: Path, names: Sequence[str], read: Read) -> Shard | None:
    """Return the samples of a tar, or the images that carry their class in their names; None
    without any.
    """
    if not names or is_shard(names):
        return read_shard(tar, names, read)
    return named_shard(tar, names)


def _is_flat_test(tar: Path, names: Sequence[str]) -> bool:
    """Tell whether a tar is called a test set and its images lie in no folder: without labels."""
    return words(tar.name) == {"test"} and not any("/" in name for name in names if is_image(name))


def _indexed(plain: Path, tar: Path) -> tuple[Members, Read]:
    view = mapped(plain)
    members = index_tar(view, str(tar))
    offsets, sizes = members.offsets.tolist(), members.sizes.tolist()
    return members, lambda i: view[offsets[i] : offsets[i] + sizes[i]]


def _read_span(tars: Sequence[Path], number: int, offset: int, size: int) -> bytes:
    path = tars[number]
    if size > RECORD_LIMIT_BYTES:
        raise DataError(
            f"an image has {size} bytes, more than the limit of {RECORD_LIMIT_BYTES}",
            where=str(path),
        )
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) != size:
        raise DataError(
            f"the file ends before byte {offset + size}, where an image ended when it was indexed",
            where=str(path),
            fix="do not change a dataset while it is in use; start again",
        )
    return data


def _splits(path: Path, tars: Sequence[Path]) -> Source:
    """Open each tar by itself.

    The images of a tar without split folders are the split that its name tells.
    """
    splits: dict[str, Split] = {}
    sources = [open_archive(tar) for tar in tars]

    for source, told in zip(sources, splits_of(tars), strict=True):
        for name, split in source.splits.items():
            name = told if name == WHOLE else name
            if name in splits:
                raise DataError(
                    f"there are two sets of images for the split '{name}'",
                    where=f"{splits[name].where} and {source.where}",
                    fix=(
                        "name them train.tar and val.tar, or use one with --data and the other "
                        "with --val"
                    ),
                )
            splits[name] = replace(split, name=name)

    return Source(
        name=short_name(path),
        where=str(path),
        splits=splits,
        ignored=sum((source.ignored for source in sources), Counter()),
        ignored_names=tuple(name for source in sources for name in source.ignored_names),
        notes=tuple(note for source in sources for note in source.notes),
    )
