"""Images in any folder or archive, labelled by a table: ``--labels labels.csv``."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from saccade.data.archives.paths import clean_name
from saccade.data.sources.label_sets import FORBIDDEN, are_sets, labels_in, written
from saccade.data.sources.layout import SPLIT_FOLDERS, WHOLE, Layout, is_image, layout_of_rows
from saccade.data.sources.listing import Listing, SideFile, class_name, counted
from saccade.data.sources.split_names import called
from saccade.errors import DataError

PATHS = (
    "path",
    "file",
    "image",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "image_id",
)
LABELS = ("label", "class")
LISTS = ("labels", "classes", "tags")
"""Columns whose cells hold any number of labels."""

SEPARATORS = "|;,"
SPLITS = ("split", "")
NO_ROW = "image without a row in the table"

_NOTHING = frozenset(("nan", "n/a", "#n/a", "<na>", "null"))
_NOTHING_EXACTLY = frozenset(("NA", "None", "?", "-"))
_PARTING = re.compile(r"[|;]|,\s*|\s*[+&/]\s*|\s+")
_SPACING = re.compile(r"[\s_-]+")
_EDGES = " .'\""
_MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Cells of a column that is a label, in lower case: Excel writes TRUE, pandas True."""

_NO_LABELS = frozenset(
    ("val", "valid", "test", "is_train", "is_val", "is_valid", "is_test", "fold", "id")
)
"""Columns that hold 0 and 1 in some tables and are no labels; a train may be one."""

_Row = tuple[str, str]
_Line = tuple[int, str, str, str]


def labelled_layout(listing: Listing, table: Path) -> Layout:
    """Arrange a listing by the rows of a table; the name of an image is its path.

    The paths in the table start at the folder or archive, or with its name. Without a column
    ``split`` everything is one split. Raises DataError on rows without a file and on files with two
    labels; images without a row are counted.
    """
    source = SideFile.opened(table)
    place_of = {path: place for place, path in enumerate(listing.names)}
    rows, form = _rows(source)
    answers = _answers(rows, source, place_of.keys(), f"{listing.path.name}/")
    classes = [label for _, label in answers.values()]
    if are_sets(classes):
        classes = [name for label in classes for name in labels_in(label)]
    refuse_odd_labels(Counter(classes), source.where)
    absent = answers.keys() - place_of.keys()
    if absent:
        raise DataError(
            counted(absent, "row", "naming a file that does not exist"),
            where=f"{source.where}, looked for in {listing.path}",
            fix=f"write the paths as they are inside {listing.path.resolve().name}, or remove "
            "the rows",
        )

    places: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for path, (split, label) in answers.items():
        places[split].append((label, path, place_of[path]))
    if not places:
        raise DataError("the table has no rows", where=source.where)
    if WHOLE in places and len(places) > 1:
        without = [path for _, path, _ in places[WHOLE]]
        raise DataError(
            counted(without, "row", "without a split, but others have one"),
            where=source.where,
            fix=f"fill the column with {', '.join(SPLIT_FOLDERS)}, or remove it",
        )
    others = [path for path in listing.names if path not in answers and is_image(path)]
    layout = layout_of_rows(places, listing.ignored + Counter({NO_ROW: len(others)}), others)
    return replace(
        layout,
        notes=(counted(others, "image", "without a row"),) if others else (),
        read_as=_read_as(form, [label for _, label in answers.values()]),
    )


def _read_as(form: str, sets: Sequence[str]) -> str:
    """Say how a table of several labels was read; empty for one label each."""
    if not form:
        return ""
    sizes = [len(labels_in(one)) for one in sets]
    mean = sum(sizes) / len(sizes)
    return f"{form}; {min(sizes)} to {max(sizes)} in an image, {mean:.2f} on average"


def _rows(source: SideFile) -> tuple[Iterable[_Line], str]:
    """Return (line number, path, class, split) of a table, in the form that its header says, and
    that form in words where there are several labels.

    One label in the column ``label``; any number of them in the column ``labels``, or in columns of
    0 and 1, one for each label. Raises DataError.
    """
    header = [name.lower() for name in _header(source)]
    if set(LABELS) & set(header):
        columns = source.columns(PATHS, LABELS, SPLITS)
        return ((line, path, label, split) for line, (path, label, split) in columns), ""
    if set(LISTS) & set(header):
        return _listed(source)
    marks = _marks(source, header)
    return _marked(source, marks), f"{len(marks)} columns of 0 and 1"


def _header(source: SideFile) -> list[str]:
    """Return the names of the columns as they are written; none where the table is no CSV."""
    try:
        return [name.strip() for name in next(csv.reader(io.StringIO(source.text)), [])]
    except csv.Error:
        return []


def _listed(source: SideFile) -> tuple[list[_Line], str]:
    """Read cells that hold any number of labels, none included; say what separates them."""
    rows = list(source.columns(PATHS, LISTS, SPLITS))
    used = [mark for mark in SEPARATORS if any(mark in cell for _, (_, cell, _) in rows)]
    if len(used) > 1:
        raise DataError(
            f"the cells separate labels by {' and by '.join(map(repr, used))}",
            where=source.where,
            fix="write cat|dog: the same separator in all cells, and no separator inside a label",
            finding="labels-unclear",
        )

    found: list[_Line] = []
    for line, (path, cell, split) in rows:
        parts = cell.split(used[0]) if used else [cell]
        labels = [one_of_several(part, source.line(line)) for part in parts if part.strip()]
        found.append((line, path, written(labels), split))
    return found, f"separated by {used[0]!r}" if used else "no separator in any cell"


def _marks(source: SideFile, header: Sequence[str]) -> list[str]:
    """Return the columns that are labels because they hold nothing but 0 and 1, two at least.

    Columns without a name, as an index has, are passed over. Raises DataError where there are none,
    or where one column beside them is no label.
    """
    names = [name for name in header if name and name not in {*PATHS, *SPLITS}]
    if len(names) < 2:
        list(source.columns(PATHS, LABELS, SPLITS))  # raises, naming what was looked for
    fix = (
        "name the column of labels `label` (one per image) or `labels` (several: cat|dog), or "
        "use one column of 0 and 1 per label, at least two, and remove columns that are not "
        "labels"
    )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        what = f"several columns have the name '{twice[0]}'"
        raise DataError(what, where=source.line(1), fix=fix, finding="labels-unclear")

    values: dict[str, set[str]] = {name: set() for name in names}
    for _, (_, *cells) in source.columns(PATHS, *[(name,) for name in names]):
        for name, cell in zip(names, cells, strict=True):
            values[name].add(cell.lower())
    marks = [name for name in names if values[name] <= _MARKS.keys() and name not in _NO_LABELS]
    if others := [name for name in names if name not in marks]:
        odd = sorted(values[others[0]] - _MARKS.keys())
        why = f"holds '{odd[0]}'" if odd else "does not have the name of a label"
        what = f"no column is named `label` or `labels`, and '{others[0]}' {why}"
        raise DataError(what, where=source.where, fix=fix, finding="labels-unclear")
    return marks


def _marked(source: SideFile, marks: Sequence[str]) -> Iterator[_Line]:
    """Read columns of 0 and 1, one for each label; the header says how a label is written."""
    names = {name.lower(): one_of_several(name, source.line(1)) for name in _header(source) if name}
    columns = [(mark,) for mark in marks]
    for line, (path, split, *cells) in source.columns(PATHS, SPLITS, *columns):
        held = [
            names[mark] for mark, cell in zip(marks, cells, strict=True) if _MARKS[cell.lower()]
        ]
        yield line, path, written(held), split


def one_of_several(text: str, where: str) -> str:
    """Return one label of several; raises DataError for one that looks like a list itself."""
    try:
        label = class_name(text)
    except ValueError as error:
        raise DataError(str(error), where=where, fix="correct the line") from error
    if odd := sorted(FORBIDDEN & set(label)):
        raise DataError(
            f"the label {label!r} contains {' '.join(odd)}",
            where=where,
            fix="write several labels as cat|dog, without brackets, quotes or commas",
            finding="labels-unclear",
        )
    return label


def parted(cells: Sequence[object]) -> Sequence[object]:
    """Return lists of labels for texts that separate some by ``|``, ``;`` or a comma, as a table
    may; other cells as they are.
    """
    texts = [cell for cell in cells if isinstance(cell, str)]
    used = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if len(used) != 1 or len(texts) < len(cells):
        return cells
    return [[part.strip() for part in text.split(used[0]) if part.strip()] for text in texts]


def _answers(
    rows: Iterable[_Line], source: SideFile, known: Set[str], prefix: str
) -> dict[str, _Row]:
    """Return (split, class) by path.

    Raises DataError on a line that cannot be used and on files with two answers.
    """
    answers: dict[str, _Row] = {}
    torn: set[str] = set()
    for line, text, label, split in rows:
        try:
            path = clean_name(text.replace("\\", "/"))
            row = (_split(split), class_name(label))
        except ValueError as error:
            raise DataError(str(error), where=source.line(line), fix="correct the line") from error
        if path not in known:
            # the table may begin paths with the name of the folder or archive
            path = path.removeprefix(prefix)
        # a row that occurs twice with one answer does no harm
        if answers.setdefault(path, row) != row:
            torn.add(path)
    if torn:
        raise DataError(
            counted(torn, "file", "in rows with different labels or splits"),
            where=source.where,
            fix="keep one row per file; write several labels in one cell: cat|dog",
        )
    return answers


def refuse_odd_labels(counts: Mapping[str, int], where: str) -> None:
    """Refuse labels that would become wrong classes: missing values, several labels in one cell,
    two spellings of one.

    ``counts`` says how many images each label has. Raises DataError that names them.
    """
    missing = [label for label in counts if label.lower() in _NOTHING or label in _NOTHING_EXACTLY]
    if missing:
        raise DataError(
            f"{sum(counts[label] for label in missing):,} image(s) have the label "
            f"{_quoted(missing)}, which programs write for a missing value",
            where=where,
            fix=(
                "give these images a label, or remove them; if it is a class, rename it; in a "
                "column named `labels` an empty cell means an image without labels"
            ),
            finding="labels-unclear",
        )
    several = _several(counts.keys())
    if several:
        raise DataError(
            f"{sum(counts[label] for label in several):,} image(s) seem to have several "
            f"labels: {_quoted(several)}",
            where=where,
            fix=(
                "give each image one label; if it is one class, join its words with an "
                "underscore; if images have several labels, name the column `labels` and write "
                "cat|dog"
            ),
            finding="labels-unclear",
        )
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        spellings[_folded(label)].append(label)
    # A is not a
    twins = [
        _quoted(names) for names in spellings.values() if len(names) > 1 and len(names[-1]) > 1
    ]
    if twins:
        raise DataError(
            "labels that differ only in spelling would become separate classes: "
            f"{'; '.join(twins[:5])}",
            where=where,
            fix=(
                "spell each class in one way; if they are different classes, give them different "
                "names"
            ),
            finding="labels-unclear",
        )


def _several(labels: Set[str]) -> list[str]:
    """Return the labels that look like several: ``cat|dog``, ``cat dog`` beside both, ``cat old``
    beside ``dog old``.

    With a blank or a comma it takes labels that stand alone elsewhere, or the same word behind two
    of them. In brackets, as programs write lists, a comma is enough.
    """
    parted = {label: [part for part in _PARTING.split(label) if part] for label in labels}
    behind: dict[str, set[str]] = defaultdict(set)
    for label, parts in parted.items():
        if len(parts) == 2 and parts[0] in labels and "_" not in label:
            behind[parts[1]].add(label)
    suspects = {label for group in behind.values() if len(group) > 1 for label in group}
    suspects |= {
        label for label, parts in parted.items() if len(parts) > 1 and set(parts) <= labels
    }
    suspects |= {
        label for label, parts in parted.items() if len(parts) > 1 and set(label) & set("|;")
    }
    suspects |= {
        label for label in labels if label[0] in "[({" and label[-1] in "])}" and "," in label
    }
    return sorted(suspects)


def _folded(label: str) -> str:
    """Return a label without what may differ by mistake: case, spaces, hyphens, quotes, a full
    stop, ``1.0``.
    """
    try:
        return repr(float(label))
    except ValueError:
        return _SPACING.sub(" ", unicodedata.normalize("NFKC", label).casefold()).strip(_EDGES)


def _quoted(labels: Sequence[str]) -> str:
    return ", ".join(f"'{label}'" for label in sorted(labels)[:5]) + " ..." * (len(labels) > 5)


def _split(text: str) -> str:
    """Return the name of a split; ``all`` for an empty cell.

    Raises ValueError on any other word.
    """
    split = text.lower() or WHOLE
    split = split if split == WHOLE else called(split)
    if split not in (*SPLIT_FOLDERS, WHOLE):
        raise ValueError(f"'{text}' is not a split: use {', '.join(SPLIT_FOLDERS)}")
    return split
