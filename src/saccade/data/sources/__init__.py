"""Where images come from: one index and one ``read(i)`` for built-in sets, folders and archives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from saccade.data.sources import ilsvrc
from saccade.data.sources.archive import open_archive
from saccade.data.sources.digits import NAME as DIGITS
from saccade.data.sources.digits import open_digits
from saccade.data.sources.folder import open_folder
from saccade.data.sources.shards import is_pattern, open_pattern
from saccade.data.sources.split import INDEX_VERSION as INDEX_VERSION
from saccade.data.sources.split import Source as Source
from saccade.data.sources.split import Split as Split
from saccade.data.sources.split import hold_out as hold_out
from saccade.data.sources.split import short_name
from saccade.data.sources.split import train_split as train_split
from saccade.data.sources.split import validation_split as validation_split
from saccade.errors import DataError


def open_source(spec: str | Path, labels: str | Path = "") -> Source:
    """Open a dataset: ``digits``, a folder, a tar (plain, gzip or xz) or zip, or shards; raises DataError.

    A folder may also hold the two tars of ImageNet as they are published. ``labels`` is a table that labels the images
    of a folder or archive. The string ``digits`` means the built-in set even where a folder of that name exists; write
    ``./digits`` for that.
    """
    path = Path(spec).expanduser()
    builtin, pattern = spec == DIGITS, is_pattern(str(spec)) and not path.exists()
    if labels and (builtin or pattern):
        raise DataError(f"'{spec}' has labels already", where=str(labels), fix="leave --labels out")
    if builtin:
        return open_digits()
    if pattern:
        return open_pattern(str(spec))
    if path.is_dir():
        tars = {name: path / file for name, file in ilsvrc.TARS.items() if (path / file).is_file()}
        return _open_tars(path, tars) if tars and not labels else open_folder(path, str(labels))
    if path.is_file():
        return open_archive(path, str(labels))
    raise DataError(
        f"there is no data at '{spec}'",
        where=str(path.absolute()),
        fix=f"give '{DIGITS}', a folder with train/ and val/, or a .tar, .tar.gz, .tar.xz or .zip of one",
    )


def _open_tars(folder: Path, tars: dict[str, Path]) -> Source:
    """Open ImageNet's tars as one source; a split without its tar may lie beside the other's as an arranged folder."""
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
