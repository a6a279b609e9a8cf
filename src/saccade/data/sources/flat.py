"""Flattened trees: ``train_flatten/<class>_<image>`` and
``val_flatten/<class>_ILSVRC2012_val_<number>.JPEG``.

The paths are read as if each image lay in the folder of its class, so the set is the same as an
arranged one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from saccade.data.sources.layout import SPLIT_FOLDERS, Layout, is_image
from saccade.data.sources.listing import Listing, counted
from saccade.data.sources.split import arranged, short_name
from saccade.errors import DataError

SYNSETS = "synsets.txt"
"""Lines ``class description``: where it lies beside the flat folders, every class must be in it."""

_WNID = re.compile(r"n\d{8}_")
_FLATTEN = "_flatten"


def find_flat(listing: Listing) -> dict[str, str]:
    """Return the flat folders of a listing, each with the split folder that it stands for.

    Their names are a split and ``_flatten``. A bare split name counts, too, if the name of each
    image starts with a WordNet id and ``synsets.txt`` lies beside the folder. A split that also has
    class folders is left alone.
    """
    parents = {path.rpartition("/")[0] for path in listing.names}
    found = {}
    for parent in parents:
        folder, name = parent.rpartition("/")[::2]
        name = name or short_name(listing.path)
        split = name.removesuffix(_FLATTEN)
        place = f"{folder}/{split}" if folder else split
        if split.lower() not in SPLIT_FOLDERS or not is_image(f"{place}/x.jpg"):
            continue
        if any(other.startswith(f"{place}/") for other in parents):
            continue
        if split != name or _all_named(listing, parent):
            found[parent] = place
    return found


def flat_layout(listing: Listing, flat: Mapping[str, str]) -> Layout:
    """Arrange flat folders.

    Raises DataError on a name without a class or with one that ``synsets.txt`` lacks.
    """
    paths, classes, nameless = list(listing.names), set[str](), []
    for place, path in enumerate(paths):
        parent, _, file = path.rpartition("/")
        if parent in flat and is_image(path):
            name, underscore, rest = file.partition("_")
            if not (name and underscore):
                nameless.append(path)
            classes.add(name)
            paths[place] = (
                f"{flat[parent]}/{name}/{rest if rest.startswith('ILSVRC2012_') else file}"
            )

    if nameless:
        raise DataError(
            counted(nameless, "image", "without a class before an underscore in the name"),
            where=str(listing.path),
            fix="name the files <class>_<anything>, or use a table with --labels",
        )

    titles = _titles(listing, min(flat))
    foreign = classes - titles.keys() if titles else set()
    if foreign:
        raise DataError(
            counted(foreign, "class", f"in file names but not in {SYNSETS}"),
            where=str(listing.path),
            fix=(
                f"complete {SYNSETS}, or remove it: it only serves as a check and gives the "
                "class names"
            ),
        )

    folders = [folder for folder in listing.folders if folder not in flat]
    return replace(arranged(listing.path, paths, folders, listing.ignored), titles=titles)


def _all_named(listing: Listing, parent: str) -> bool:
    start = f"{parent}/" if parent else ""
    files = [
        path[len(start) :] for path in listing.names if path.startswith(start) and is_image(path)
    ]
    return bool(files) and all(map(_WNID.match, files)) and bool(_titles(listing, parent))


def _titles(listing: Listing, parent: str) -> dict[str, str]:
    found = listing.side_file(SYNSETS, f"{parent}/" if parent else "")
    return found.titles() if found else {}
