"""ImageNet from Kaggle: ``ILSVRC/Data/CLS-LOC`` with a flat ``val/``, whose labels are in a CSV
beside it.

The paths are read as if each validation image lay in the folder of its class: the set is the same
as an arranged one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from saccade.data.sources.layout import Layout, is_image
from saccade.data.sources.listing import Listing, SideFile, counted
from saccade.data.sources.split import arranged
from saccade.errors import DataError

SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
LEVELS = 3
"""The competition's own folder, with the CSV files, lies three above ``CLS-LOC``."""

OUTSIDE = "outside ILSVRC/Data/CLS-LOC"
UNLABELLED = "test image without a label"
_INSIDE = "Data/CLS-LOC/"
_FLAT_VAL = "val/ILSVRC2012_val_"


def data_folder(path: Path) -> tuple[Path, int]:
    """Return the CLS-LOC folder of a competition folder, or the path itself.

    Also returns how many entries lie beside the way there: half a million annotation files are not
    walked through. Raises OSError.
    """
    for inner in (Path("ILSVRC/Data/CLS-LOC"), Path("Data/CLS-LOC")):
        root = path / inner
        if root.is_dir():
            return root, sum(
                len(list(level.iterdir())) - 1 for level in root.parents[: len(inner.parts)]
            )
    return path, 0


def find_prefix(listing: Listing) -> str | None:
    """Return what stands before ``train/`` and ``val/`` in the paths; None if this is not such a
    set.

    It is one if a folder is called ``Data/CLS-LOC``, or if original validation images lie flat in
    ``val/``. Raises DataError if there are several.
    """
    roots = {path[:at] + _INSIDE for path in listing.names if (at := path.find(_INSIDE)) >= 0}
    found = {root for root in roots if is_image(f"{root}x.jpg")}
    if not found:
        found = {
            path[:at]
            for path in listing.names
            if (at := path.find(_FLAT_VAL)) >= 0 and is_image(path)
        }
    if len(found) > 1:
        raise DataError(
            f"there are {len(found)} copies of ImageNet: {', '.join(sorted(found))}",
            where=str(listing.path),
            fix="name the folder of one of them",
        )
    prefix = next(iter(found), None)
    return None if prefix and not prefix.endswith("/") else prefix


def kaggle_layout(listing: Listing, prefix: str) -> Layout:
    """Arrange the images below ``prefix``.

    Raises DataError if the labels of ``val/`` are missing or do not fit it.
    """
    tree = _Tree(Counter(listing.ignored))
    for place, path in enumerate(listing.names):
        tree.add(place, path[len(prefix) :] if path.startswith(prefix) else "")

    if tree.flat:
        solution = listing.side_file(SOLUTION, prefix, LEVELS)
        if solution is None:
            raise DataError(
                f"the labels of {len(tree.flat):,} validation images are missing: there is "
                f"no {SOLUTION}",
                where=f"{prefix}val in {listing.path}",
                fix=(
                    f"put {SOLUTION} of the competition beside the ILSVRC folder, or into "
                    f"{listing.root}"
                ),
            )
        tree.label(_answers(solution), solution.where)

    folders = [folder[len(prefix) :] for folder in listing.folders if folder.startswith(prefix)]
    known = [folder for folder in folders if folder and folder != "test"]
    layout = arranged(listing.path, tree.paths, known, tree.ignored)
    places = np.array(tree.places, np.int64)
    parts = {name: replace(part, places=places[part.places]) for name, part in layout.parts.items()}

    mapping = listing.side_file(MAPPING, prefix, LEVELS)
    return replace(layout, parts=parts, titles=mapping.titles() if mapping else {})


@dataclass(eq=False)
class _Tree:
    """The paths as they would be in an arranged tree, and their places in the listing.

    Flat validation images are kept by file stem.
    """

    ignored: Counter[str]
    paths: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    flat: dict[str, tuple[int, str]] = field(default_factory=dict)
    filed: dict[str, str] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    def add(self, place: int, path: str) -> None:
        """Take a path below the prefix, empty for one that is not."""
        if path.startswith("train/"):  # nearly all
            self._keep(place, path)
        elif not path:
            self.ignored[OUTSIDE] += 1
        elif path.startswith("val/") and is_image(path):
            _, *folders, file = path.split("/")
            stem = file.rpartition(".")[0]
            if folders:
                self.filed[stem] = folders[0]
                self._keep(place, path)
            else:
                self.twice |= {stem} & self.flat.keys()
                self.flat[stem] = (place, file)
        elif path.startswith("test/") and path.count("/") == 1 and is_image(path):
            self.ignored[UNLABELLED] += 1
        else:
            self._keep(place, path)

    def label(self, answers: dict[str, str], where: str) -> None:
        """File the flat images under their classes.

        Raises DataError unless rows and images are the same.
        """
        filed = [
            f"{stem} in {folder}"
            for stem, folder in self.filed.items()
            if answers.get(stem, folder) != folder
        ]

        for wrong, noun, what, fix in (
            (
                self.twice | (self.flat.keys() & self.filed.keys()),
                "validation image",
                "found twice",
                "remove one",
            ),
            (
                self.flat.keys() - answers.keys(),
                "validation image",
                f"without a row in {SOLUTION}",
                "use the CSV of the same download, and remove other images from val/",
            ),
            (
                answers.keys() - self.flat.keys() - self.filed.keys(),
                "row",
                f"of {SOLUTION} without a validation image",
                "the download is incomplete: fetch or unpack val/ again",
            ),
            (
                filed,
                "validation image",
                f"in another folder than {SOLUTION} says",
                "move them back into val/ itself",
            ),
        ):
            if wrong:
                raise DataError(counted(wrong, noun, what), where=where, fix=fix)

        for stem, (place, file) in self.flat.items():
            self._keep(place, f"val/{answers[stem]}/{file}")

    def _keep(self, place: int, path: str) -> None:
        self.paths.append(path)
        self.places.append(place)


def _answers(solution: SideFile) -> dict[str, str]:
    """Return the class of each validation image: the first word of the prediction, before boxes."""
    answers: dict[str, str] = {}
    for line, (image, prediction) in solution.columns(["imageid"], ["predictionstring"]):
        name = prediction.partition(" ")[0]
        if not name or "/" in name or answers.setdefault(image, name) != name:
            what = f"'{image}' has the class {name or 'nothing'}"
            raise DataError(
                f"{what}, but another class in an earlier row" if name else what,
                where=solution.line(line),
                fix=f"use the original {SOLUTION} of the competition",
            )
    return answers
