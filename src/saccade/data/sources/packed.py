"""A pack as a source: its shards, mapped into memory."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.archives import packs
from saccade.data.archives.paths import Names
from saccade.data.archives.stamps import stamp_of
from saccade.data.sources.split import Source, Split
from saccade.errors import DataError


def open_pack(folder: Path) -> Source:
    """Open a pack; raises DataError on a damaged manifest or index.

    Records are checked when they are read.
    """
    manifest = packs.read_manifest(folder)
    splits = {name: _open_split(folder, name, entry) for name, entry in manifest["splits"].items()}
    return Source(manifest["name"], str(folder), splits, class_titles=manifest["class_titles"])


def _open_split(folder: Path, name: str, entry: dict[str, Any]) -> Split:
    opened = [packs.open_shard(folder / fact["file"]) for fact in entry["shards"]]
    for shard, fact in zip(opened, entry["shards"], strict=True):
        if shard.index_digest != fact["index"]:
            raise DataError(
                "the index of this shard was changed",
                where=str(shard.path),
                fix="make the pack again",
            )
    starts = np.cumsum([0, *map(len, opened)])
    begins = starts.tolist()
    lengths = np.concatenate([shard.names.ends - shard.names.starts for shard in opened])
    if int(starts[-1]) != entry["count"]:
        raise DataError(
            f"the shards of '{name}' contain {starts[-1]} images instead of {entry['count']}",
            where=str(folder),
            fix="make the pack again",
        )

    def read(i: int) -> memoryview:
        number = bisect_right(begins, i) - 1
        return opened[number].read(i - begins[number])

    return Split(
        name=name,
        classes=tuple(entry["classes"]),
        names=Names.joined(b"".join(shard.names.text for shard in opened), lengths),
        sizes=np.concatenate([np.diff(shard.offsets) for shard in opened]),
        labels=np.concatenate([shard.labels for shard in opened]).astype(np.int64),
        read=read,
        where=str(folder),
        folder=entry["folder"],
        empty_classes=tuple(entry["empty_classes"]),
        stamp=stamp_of(shard.path for shard in opened),
    )
