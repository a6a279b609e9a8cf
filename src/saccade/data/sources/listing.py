"""The files that a folder or archive holds, and the small text files that explain them, inside
or beside it.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from saccade.data.sources.split import Integers, Read
from saccade.errors import DataError
from saccade.units import human_count

TEXT_LIMIT_BYTES = 500_000_000


@dataclass(frozen=True, eq=False)
class Listing:
    """Everything in a folder or archive, in any order.

    ``path`` is what the user named; ``root`` is the archive, or the folder at which the names
    start. ``names`` are clean relative paths, ``sizes`` (bytes) is int64 of shape (n,), ``read``
    returns the i-th file and ``head`` its first ``HEAD_BYTES``, ``ignored`` counts what was left
    out already. ``lost`` says why other files cannot be reached, by path; ``named`` are the folders
    of the splits where the user names them.
    """

    path: Path
    root: Path
    names: Sequence[str]
    sizes: Integers
    read: Read
    head: Read
    folders: Sequence[str] = ()
    ignored: Counter[str] = field(default_factory=Counter)
    lost: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, str] | None = None

    def side_file(self, name: str, prefix: str = "", above: int = 1) -> SideFile | None:
        """Return the nearest text file of this name, or None.

        It is looked for in the folder ``prefix`` (``a/b/``) of the listing and in those around it,
        then on the disk in the root and in ``above`` folders above it.
        """
        folders = prefix.split("/")[:-1]
        for depth in range(len(folders), -1, -1):
            inner = "/".join([*folders[:depth], name])
            if inner in self.names:
                i = self.names.index(inner)
                return SideFile.decoded(
                    f"{inner} in {self.path}", int(self.sizes[i]), partial(self.read, i)
                )
        root = Path(os.path.abspath(self.root))
        for folder in (root, *root.parents)[: above + 1]:
            if (folder / name).is_file():
                return SideFile.opened(folder / name)
        return None


@dataclass(frozen=True)
class SideFile:
    """A text file and where it lies."""

    where: str
    text: str

    @classmethod
    def opened(cls, path: Path) -> SideFile:
        """Read a file of the disk.

        Raises DataError if it is not readable UTF-8 text of reasonable size.
        """
        try:
            return cls.decoded(str(path), path.stat().st_size, path.read_bytes)
        except OSError as error:
            raise DataError(
                f"the file cannot be read: {error.strerror}", where=str(path)
            ) from error

    @classmethod
    def decoded(cls, where: str, size: int, read: Callable[[], bytes | memoryview]) -> SideFile:
        """Read ``size`` bytes of UTF-8 text, with or without a byte order mark.

        Raises DataError.
        """
        if size > TEXT_LIMIT_BYTES:
            raise DataError(
                f"the file has {size} bytes, more than the limit of {TEXT_LIMIT_BYTES}", where=where
            )
        try:
            return cls(where, bytes(read()).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(
                "the file is not UTF-8 text", where=where, fix="save it as UTF-8"
            ) from error

    def columns(self, *wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, cells) of a CSV with a header, blank lines left out.

        Each of ``wanted`` lists the names, in lower case, that a column may have; with ``""`` among
        them it may be missing and its cells are empty. Raises DataError on another missing column,
        a damaged line, or one of more cells than the header: an unquoted ``cat,dog`` loses none.
        """
        rows = csv.reader(io.StringIO(self.text, newline=""), strict=True)
        try:
            header = [cell.strip() for cell in next(rows, [])]
            places = [self._column(header, names) for names in wanted]

            for row in filter(None, rows):
                if len(row) <= max(places) or any(row[len(header) :]):
                    only = "only " * (len(row) < len(header))
                    raise DataError(
                        (
                            f"the line has {only}{len(row)} cells, but the first line has "
                            f"{len(header)}"
                        ),
                        where=self.line(rows.line_num),
                        fix=(
                            "write one cell per column; quote a cell that contains commas: "
                            '"cat, dog"'
                        ),
                    )
                yield rows.line_num, [row[place].strip() if place >= 0 else "" for place in places]
        except csv.Error as error:
            raise DataError(
                f"this is not a CSV file: {error}", where=self.line(rows.line_num)
            ) from error

    def line(self, number: int) -> str:
        """Name a line of this file for a person."""
        return f"{self.where}, line {number}"

    def titles(self) -> dict[str, str]:
        """Return ``name: description`` of each line ``name description``."""
        pairs = (line.strip().partition(" ") for line in self.text.splitlines())
        return {name: title.strip() for name, _, title in pairs if name}

    def _column(self, header: list[str], names: Sequence[str]) -> int:
        lowered = [name.lower() for name in header]
        # pandas' index has no name
        found = [lowered.index(name) for name in names if name and name in lowered]
        if not found and "" not in names:
            raise DataError(
                f"there is no column named {' or '.join(names[:4])}; found: "
                f"{', '.join(header) or 'none'}",
                where=self.line(1),
                fix="write the column names in the first line, separated by commas",
            )
        return found[0] if found else -1


def class_name(text: str) -> str:
    """Return the name of a class in NFC without space around it.

    Raises ValueError if it is empty or not printable.
    """
    name = unicodedata.normalize("NFC", text.strip())
    if not name or not name.isprintable():
        raise ValueError(f"{text[:100]!r} is not a valid class name")
    return name


def counted(names: Collection[str], noun: str, what: str = "") -> str:
    """Say ``1 image without a row: a.jpg`` or ``4 images without a row, the first: a.jpg, ...``."""
    several = ", the first" if len(names) > 3 else ""
    found = f"{human_count(len(names), noun)} {what}".strip()
    return f"{found}{several}: {', '.join(sorted(names)[:3])}"
