"""Which of the known arrangements the files of a folder or archive have."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from saccade.data.sources.annotated import annotated
from saccade.data.sources.flat import SYNSETS, find_flat, flat_layout
from saccade.data.sources.kaggle import LEVELS, MAPPING, SOLUTION, find_prefix, kaggle_layout
from saccade.data.sources.labels import labelled_layout
from saccade.data.sources.layout import Layout
from saccade.data.sources.listing import Listing
from saccade.data.sources.peek import peek
from saccade.data.sources.split import arranged
from saccade.data.sources.unlabelled import NO_LABELS, unlabelled_layout
from saccade.data.sources.webdataset import (
    CLASS_FILES,
    is_shard,
    read_shard,
    shards_layout,
    title_file,
)
from saccade.data.sources.wnids import named_layout


def layout_of(listing: Listing, labels: str = "") -> Layout:
    """Arrange a listing: without labels if that is said, by a table if there is one, else as
    Kaggle's, flattened, as samples, or in class folders.

    Raises DataError.
    """
    if labels == NO_LABELS:
        return unlabelled_layout(listing)
    if labels:
        return labelled_layout(listing, Path(labels).expanduser())

    prefix = find_prefix(listing)
    if prefix is not None:
        return kaggle_layout(listing, prefix)
    if flat := find_flat(listing):
        return flat_layout(listing, flat)
    if is_shard(listing.names):
        shard = read_shard(listing.path, listing.names, listing.read)
        return shards_layout([shard], str(listing.path), title_file(listing.path.parent))
    if listing.named is None and (layout := named_layout(listing.path, listing.names)):
        return replace(
            layout, ignored=layout.ignored + listing.ignored + Counter(listing.lost.values())
        )
    peeked = peek(listing.names, listing.head)
    paths, folders, titles = annotated(listing)
    facts = listing.path, paths, folders, listing.ignored, listing.named
    return replace(arranged(*facts, peeked=peeked, lost=listing.lost), titles=titles)


def side_files(path: Path, labels: str) -> list[Path]:
    """Return the files on the disk, around the archive at ``path``, that its layout may depend
    on.
    """
    names = (SOLUTION, MAPPING, SYNSETS, *CLASS_FILES)
    around = [
        folder / name for folder in Path(os.path.abspath(path)).parents[:LEVELS] for name in names
    ]
    tables = [Path(labels).expanduser()] if labels not in ("", NO_LABELS) else []
    return [file for file in (*around, *tables) if file.is_file()]
