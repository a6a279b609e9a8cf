"""Images without labels: every image of a tree, wherever it lies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from saccade.data.sources.foreign import advice
from saccade.data.sources.layout import WHOLE, Layout, is_image, layout_of_rows
from saccade.data.sources.listing import Listing
from saccade.data.sources.peek import suffix_of
from saccade.data.sources.split_names import called
from saccade.errors import DataError

NO_LABELS = "none"
"""Value of `data.labels` if no image has a label."""

CLASS = "images"
"""The class of all images without labels."""


def unlabelled_layout(listing: Listing) -> Layout:
    """Arrange all images of a listing as one class, whatever the folders between are called.

    A folder at the top that is called like a validation or test split is that split: its images
    must not be learned from. Raises DataError where there is no image.
    """
    places = [place for place, path in enumerate(listing.names) if is_image(path)]
    folders = [listing.names[place].split("/")[:-1] for place in places]
    around = _depth_around(folders)

    rows: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for place, path in zip(places, folders, strict=True):
        split = called(path[around]) if len(path) > around else ""
        rows["train" if split in ("", "train") else split].append(
            (CLASS, "/".join(listing.names[place].split("/")[around:]), place)
        )
    if "train" not in rows:
        raise DataError(
            "there are no images to learn from",
            where=str(listing.path),
            fix=advice(listing.names, packed_up=listing.path.is_file())
            or "use a folder, tar or zip that contains images",
        )
    if len(rows) == 1:
        rows[WHOLE] = rows.pop("train")

    others = [path for path in listing.names if not is_image(path)]
    ignored = listing.ignored + Counter(
        f"not an image by its name ({suffix_of(path.rpartition('/')[2]) or 'no suffix'})"
        for path in others
    )
    ignored += Counter(listing.lost.values())
    return layout_of_rows(rows, ignored, [*listing.lost, *others])


def _depth_around(folders: Sequence[Sequence[str]]) -> int:
    """Return how many folders lie around all of them."""
    levels = enumerate(zip(*folders, strict=False))
    return next(
        (depth for depth, names in levels if len(set(names)) > 1), min(map(len, folders), default=0)
    )
