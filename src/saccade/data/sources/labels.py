"""Images in any folder or archive, labelled by a table: ``--labels labels.csv``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

from saccade.data.names import clean_name
from saccade.data.sources.layout import SPLIT_FOLDERS, WHOLE, Layout, is_image, layout_of_rows
from saccade.data.sources.listing import Listing, SideFile, class_name, counted
from saccade.errors import DataError

PATHS = ("path", "file", "image", "filename")
LABELS = ("label", "class")
SPLITS = ("split", "")
NO_ROW = "image without a row in the table"

_Row = tuple[str, str]


def labelled_layout(listing: Listing, table: Path) -> Layout:
    """Arrange a listing by the rows of a table; the name of an image is its path.

    The paths in the table start at the folder or archive, or with its name. Without a column ``split`` everything is
    one split. Raises DataError on rows without a file and on files with two labels; images without a row are counted.
    """
    source = SideFile.opened(table)
    place_of = {path: place for place, path in enumerate(listing.names)}
    answers = _answers(source, place_of.keys(), f"{listing.path.name}/")
    absent = answers.keys() - place_of.keys()
    if absent:
        raise DataError(
            counted(absent, "rows name a file that is not there"),
            where=f"{source.where}, looked for in {listing.path}",
            fix=f"write the paths as they are inside {listing.path.name}, or remove the rows",
        )
    rows: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for path, (split, label) in answers.items():
        rows[split].append((label, path, place_of[path]))
    if not rows:
        raise DataError("the table has no rows", where=source.where)
    if WHOLE in rows and len(rows) > 1:
        without = [path for _, path, _ in rows[WHOLE]]
        raise DataError(
            counted(without, "rows have no split, but others have"),
            where=source.where,
            fix=f"fill the column with {', '.join(SPLIT_FOLDERS)}, or leave it out",
        )
    others = [path for path in listing.names if path not in answers and is_image(path)]
    layout = layout_of_rows(rows, listing.ignored + Counter({NO_ROW: len(others)}), others)
    return replace(layout, notes=(counted(others, "images have no row"),) if others else ())


def _answers(source: SideFile, known: Set[str], prefix: str) -> dict[str, _Row]:
    """Return (split, class) by path; raises DataError on a line that cannot be used and on files with two answers."""
    answers: dict[str, _Row] = {}
    torn: set[str] = set()
    for line, (text, label, split) in source.columns(PATHS, LABELS, SPLITS):
        try:
            path = clean_name(text)
            row = (_split(split), class_name(label))
        except ValueError as error:
            raise DataError(str(error), where=source.line(line), fix="correct the line") from error
        if path not in known:
            path = path.removeprefix(prefix)
        if answers.setdefault(path, row) != row:
            torn.add(path)
    if torn:
        raise DataError(
            counted(torn, "files have rows with different labels or splits"),
            where=source.where,
            fix="leave one row for each file",
        )
    return answers


def _split(text: str) -> str:
    """Return the name of a split; ``all`` for an empty cell. Raises ValueError on any other word."""
    split = text.lower() or WHOLE
    if split not in (*SPLIT_FOLDERS, WHOLE):
        raise ValueError(f"'{text}' is no split: use {', '.join(SPLIT_FOLDERS)}")
    return split
