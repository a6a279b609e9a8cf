"""Where images come from: one index and one ``read(i)`` for built-in sets, folders and archives."""

from __future__ import annotations

from pathlib import Path

from saccade.data.sources.archive import open_archive
from saccade.data.sources.digits import NAME as DIGITS
from saccade.data.sources.digits import open_digits
from saccade.data.sources.folder import open_folder
from saccade.data.sources.shards import is_pattern, open_pattern
from saccade.data.sources.split import INDEX_VERSION as INDEX_VERSION
from saccade.data.sources.split import Source as Source
from saccade.data.sources.split import Split as Split
from saccade.data.sources.split import hold_out as hold_out
from saccade.data.sources.split import train_split as train_split
from saccade.data.sources.split import validation_split as validation_split
from saccade.errors import DataError


def open_source(spec: str | Path, labels: str | Path = "") -> Source:
    """Open a dataset: ``digits``, a folder, a tar (plain, gzip or xz) or zip, or shards; raises DataError.

    ``labels`` is a table that labels the images of a folder or archive. The string ``digits`` means the built-in set
    even where a folder of that name exists; write ``./digits`` for that.
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
        return open_folder(path, str(labels))
    if path.is_file():
        return open_archive(path, str(labels))
    raise DataError(
        f"there is no data at '{spec}'",
        where=str(path.absolute()),
        fix=f"give '{DIGITS}', a folder with train/ and val/, or a .tar, .tar.gz, .tar.xz or .zip of one",
    )
