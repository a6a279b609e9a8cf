"""Unusable images: unreadable ones, and sets of blank images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saccade import cache, files
from saccade.data.audit.image import ERRORS, Integers, Part, Tick, survey
from saccade.data.images import decode
from saccade.data.sources.split import Split
from saccade.errors import DataError

BLANK_SAMPLE = 64
LIMIT = 0.01
"""Share of the training images that may be dropped.

More than that is a broken copy, not a few broken files.
"""

ADVICE = (
    f"repair or remove these files; --set data.unreadable=drop skips up to {LIMIT:.0%} of the "
    "training images, never validation images; `saccade check` lists all bad files"
)
"""What to do about an image that cannot be read."""


def without_unreadable(
    split: Split, tick: Tick = lambda _done: None
) -> tuple[Split, tuple[str, ...]]:
    """Return a split without the images that cannot be read, and these by name with the reason.

    The first time every image is read and decoded; later, while the files have the same stamp, only
    those that were bad then. Raises DataError when more than ``LIMIT`` of the images are bad.
    """
    kept = cache.within("unreadable", f"{split.fingerprint[:32]}-{split.stamp[:32]}.json")
    part = Part(split, _known(kept, len(split)) if split.stamp else np.arange(len(split)))
    survey([part], tick)

    # One that was bad before is whole now: the result that was kept is of no use.
    if len(part.places) < len(split) and part.rows["sound"].any():
        part = Part(split, np.arange(len(split)))
        survey([part], tick)

    bad = part.places[~part.rows["sound"]]
    names = tuple(sorted(name for kind in ERRORS for name in part.named(kind)))
    if len(bad) > LIMIT * len(split):
        raise DataError(
            f"{len(bad):,} of {len(split):,} training images cannot be read: "
            f"{', '.join(names[:3])}",
            where=split.where,
            fix=(
                f"data.unreadable=drop skips at most {LIMIT:.0%}; copy the data again, or repair it"
            ),
            finding="unreadable-image",
        )

    # without a stamp nothing would tell whether the files are still the same
    if split.stamp:
        cache.remember(kept, bad.tolist())
    return split.subset(np.setdiff1d(np.arange(len(split)), bad), split.name), names


def is_blank(split: Split) -> bool:
    """Tell whether a split is blank: its sampled images all have the same single colour."""
    colour: bytes | None = None
    for i in np.linspace(0, len(split) - 1, min(BLANK_SAMPLE, len(split))).astype(int):
        try:
            pixels = decode.decode(split.read(int(i)))
        except decode.BadImage:
            continue  # named by others
        first = pixels[:1, :1]
        if not bool((pixels == first).all()) or colour not in (None, first.tobytes()):
            return False
        colour = first.tobytes()
    return colour is not None


def _known(kept: Path, count: int) -> Integers:
    """Return the places to check, int64 (k,): those that were bad the last time, or all."""
    try:
        places = np.array(files.read_json(kept), np.int64)
        return places if ((places >= 0) & (places < count)).all() else np.arange(count)
    except (OSError, ValueError, TypeError):
        return np.arange(count)
