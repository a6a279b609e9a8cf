"""Tiny-ImageNet in its original form: ``val/images/`` is flat, and ``val/val_annotations.txt`` has
the class of each image.

*Source:* Le and Yang 2015, "Tiny ImageNet Visual Recognition Challenge"; the layout is that of its
zip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from saccade.data.sources.layout import is_image
from saccade.data.sources.listing import Listing, SideFile, counted
from saccade.errors import DataError

ANNOTATIONS = "val_annotations.txt"
WORDS = "words.txt"
_INNER = "images"


class Annotated(NamedTuple):
    """The paths and folders of a listing as they would be in class folders, and what the classes
    are called.
    """

    paths: Sequence[str]
    folders: Sequence[str]
    titles: Mapping[str, str]


def annotated(listing: Listing) -> Annotated:
    """Put the flat images beside each table of annotations into class folders.

    Other listings stay as they are. Raises DataError unless each image has a line and each line an
    image.
    """
    paths = list(listing.names)
    tables = [i for i, name in enumerate(listing.names) if name.rpartition("/")[2] == ANNOTATIONS]
    titles: dict[str, str] = {}
    emptied: set[str] = set()
    for table in tables:
        base = listing.names[table].removesuffix(ANNOTATIONS)
        flat = {base, f"{base}{_INNER}/"}
        places = {
            name.rpartition("/")[2]: place
            for place, name in enumerate(listing.names)
            if name.startswith(base) and name[: name.rfind("/") + 1] in flat and is_image(name)
        }
        if not places:
            continue  # somebody has sorted them into class folders
        source = _text(listing, table)
        answers = _answers(source)
        filed = {name.rpartition("/")[2] for name in listing.names if name.startswith(base)}
        for wrong, noun, what in (
            (places.keys() - answers.keys(), "image", f"without a line in {ANNOTATIONS}"),
            (answers.keys() - filed, "line", f"of {ANNOTATIONS} without an image"),
        ):
            if wrong:
                raise DataError(
                    counted(wrong, noun, what),
                    where=source.where,
                    fix="copy or download the set again",
                )
        for file, place in places.items():
            paths[place] = f"{base}{answers[file]}/{listing.names[place][len(base) :]}"
        emptied.add(f"{base}{_INNER}")
        titles |= _titles(listing, base, set(answers.values()))
    folders = [folder for folder in listing.folders if folder not in emptied]
    return Annotated(paths if tables else listing.names, folders, titles)


def _text(listing: Listing, place: int) -> SideFile:
    where = f"{listing.names[place]} in {listing.path}"
    return SideFile.decoded(where, int(listing.sizes[place]), partial(listing.read, place))


def _answers(source: SideFile) -> dict[str, str]:
    """Return the class of each image: the second column. A box of four numbers follows it."""
    answers: dict[str, str] = {}
    for number, line in enumerate(source.text.splitlines(), 1):
        cells = line.split()
        if cells and (
            len(cells) < 2 or "/" in cells[1] or answers.setdefault(cells[0], cells[1]) != cells[1]
        ):
            raise DataError(
                "this line is not an image and its class, or the image already has another "
                f"class: {line[:100]!r}",
                where=source.line(number),
                fix="copy or download the set again",
            )
    return answers


def _titles(listing: Listing, base: str, classes: set[str]) -> dict[str, str]:
    """Return what the classes are called, from the list that lies beside the folder of the
    split.
    """
    name = f"{base.rstrip('/').rpartition('/')[0]}/{WORDS}".lstrip("/")
    if name not in listing.names:
        return {}
    lines = (
        line.partition("\t") for line in _text(listing, listing.names.index(name)).text.splitlines()
    )
    return {wnid: title.strip() for wnid, _, title in lines if wnid in classes}
