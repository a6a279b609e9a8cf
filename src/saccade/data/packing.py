"""Packs: a data set in a few large files, with smaller and tiled photographs, so that training
reads and decodes less.

A pack is a folder of shards (``shards.py``) with ``pack.json``: classes, counts, digests, settings,
and what it was made of. It is made shard by shard, each published when complete, so that a second
run continues where a killed one stopped; the bytes depend only on the source and the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import Image

from saccade import files
from saccade.data.archives import packs
from saccade.data.images import decode, jpeg, tiles
from saccade.data.images.decode import BadImage
from saccade.data.sources.split import Source, Split
from saccade.errors import ConfigError, DataError, DiskError
from saccade.system.parallel import in_order
from saccade.units import human_count, human_size

SHARD_IMAGES = 2048
SHARD_BYTES = 256_000_000
SMALL_PIXELS = 64 * 64
"""Images up to this size, in bytes, are stored unchanged: a JPEG would be neither smaller nor
faster."""

Tick = Callable[[int], None]
Chroma = Literal["source", "4:2:0", "4:4:4"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How images are packed.

    ``original`` keeps every file as it is. Otherwise the longer side is reduced to ``max_side``
    pixels (0: never), and the image is encoded at libjpeg's ``quality`` in tiles ``tile`` pixels
    wide. ``chroma`` is how finely colour is stored: as in the source, where formats other than JPEG
    count as 4:4:4, or at half the width and height.
    """

    max_side: int = 500
    quality: int = 90
    tile: int = tiles.DEFAULT_TILE
    original: bool = False
    chroma: Chroma = "source"

    def check(self) -> Settings:
        """Return the settings; raises ConfigError on values that make no sense."""
        for name, value, low, high in (
            ("max_side", self.max_side, 0, 65500),
            ("quality", self.quality, 1, 100),
            ("tile", self.tile, 8, 1024),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    f"{value} is out of range",
                    where=f"--{name.replace('_', '-')}",
                    fix=f"use a value from {low} to {high}",
                )
        return self


@dataclass(frozen=True, slots=True)
class Packed:
    """The result: images and bytes before and after, and the number of reused shards."""

    folder: Path
    images: int
    source_bytes: int
    bytes: int
    shards: int
    reused: int

    @property
    def text(self) -> str:
        """One line for people."""
        again = f", {self.reused} of them from an earlier run" if self.reused else ""
        return (
            f"{self.folder}: packed {human_count(self.images, 'image')}, "
            f"{human_size(self.source_bytes)} to {human_size(self.bytes)}, in "
            f"{human_count(self.shards, 'shard')}{again}; train with --data {self.folder}"
        )

    def to_json(self) -> dict[str, str | int]:
        """Return everything as plain values."""
        return asdict(self) | {"folder": str(self.folder)}


def pack(
    source: Source, folder: Path, settings: Settings, tick: Tick = lambda _done: None
) -> Packed:
    """Write a pack of all splits of a source; ``tick`` is told how many images are done.

    Continues where an earlier run with the same source and settings stopped. Raises DataError on an
    image that cannot be read, ConfigError if the folder has other contents, DiskError.
    """
    settings.check()
    done, reused, entries = 0, 0, {}
    shard_bytes: list[int] = []
    with files.locked(folder):
        # before anything is swept or written: the folder may be somebody else's
        _refuse_foreign(folder)
        files.sweep_parts(folder)
        _check_space(source, folder)

        for name, split in source.splits.items():
            facts = []
            for number, (first, last) in enumerate(_runs(split)):
                path = folder / f"{files.safe_name(name)}-{number:05d}.shard"
                reused += _shard(
                    split, settings, range(first, last), path=path, tick=partial(_add, tick, done)
                )
                done += last - first
                tick(done)
                facts.append(_facts(path, last - first))
                shard_bytes.append(path.stat().st_size)
            entries[name] = {
                "classes": list(split.classes),
                "empty_classes": list(split.empty_classes),
                "folder": split.folder,
                "count": len(split),
                "parent": split.fingerprint,
                "shards": facts,
            }

        # the manifest is written last: without it the folder is no pack
        manifest = {
            "format": packs.FORMAT,
            "name": source.name,
            "settings": asdict(settings),
            "splits": entries,
            "class_titles": dict(source.class_titles),
        }
        files.write_bytes(folder / packs.MANIFEST, packs.manifest_bytes(manifest))

    before = sum(int(split.sizes.sum()) for split in source.splits.values())
    return Packed(
        folder, done, before, bytes=sum(shard_bytes), shards=len(shard_bytes), reused=reused
    )


def _facts(shard: Path, count: int) -> dict[str, str | int]:
    """Return the manifest's entry of a shard."""
    return {
        "file": shard.name,
        "count": count,
        "bytes": shard.stat().st_size,
        "sha256": files.digest(shard),
        "index": packs.open_shard(shard).index_digest,
    }


def _add(tick: Tick, before: int, done: int) -> None:
    tick(before + done)


def _refuse_foreign(folder: Path) -> None:
    foreign = [
        p.name
        for p in folder.iterdir()
        if p.suffix not in (".shard", ".part") and p.name not in (packs.MANIFEST, ".lock")
    ]
    if foreign:
        raise ConfigError(
            f"the folder is not empty and not a pack: it contains {', '.join(sorted(foreign)[:3])}",
            where=str(folder),
            fix="name a new folder",
        )


def _check_space(source: Source, folder: Path) -> None:
    needed = sum(int(split.sizes.sum()) for split in source.splits.values())
    present = sum(p.stat().st_size for p in folder.glob("*.shard"))
    free = files.free_bytes(folder)
    if free + present < needed // 4:
        raise DiskError(
            f"the images need {human_size(needed)}, but only {human_size(free)} are free",
            where=str(folder),
            fix="free some space, or name a folder on another disk",
        )


def _runs(split: Split) -> Iterator[tuple[int, int]]:
    """Cut a split into shards of neighbours, bounded in number and in bytes of the source."""
    first, total = 0, 0
    for i, size in enumerate(split.sizes.tolist()):
        if i > first and (i - first >= SHARD_IMAGES or total + size > SHARD_BYTES):
            yield first, i
            first, total = i, 0
        total += size
    yield first, len(split)


def _words(split: Split, settings: Settings, first: int, last: int) -> dict[str, str]:
    """Return the identity of a shard: it is reused if this is the same."""
    chosen = (
        {"original": "true"}
        if settings.original
        else {k: str(v) for k, v in asdict(settings).items()}
    )
    return {
        "source": split.fingerprint,
        "range": f"{first}-{last}",
        # another version may encode the same pixels into other bytes
        "pillow": PIL.__version__,
    } | chosen


def _shard(split: Split, settings: Settings, run: range, path: Path, tick: Tick) -> bool:
    """Write a shard unless it is there already; returns whether it was."""
    words = _words(split, settings, run.start, run.stop)
    if _is_there(path, words):
        return True

    records = []
    for count, record in enumerate(in_order(partial(_record, split, settings), run), 1):
        records.append(record)
        tick(count)

    names = [split.names[i] for i in run]
    labels = split.labels[run.start : run.stop].tolist()
    # a shard appears whole or not at all: its name is what a second run trusts
    files.write_bytes(path, packs.to_bytes(records, names, labels, words))
    files.stage(f"shard {path.name}")
    return False


def _is_there(path: Path, words: dict[str, str]) -> bool:
    try:
        return path.exists() and packs.open_shard(path).facts == words
    except DataError:
        return False


def _record(split: Split, settings: Settings, i: int) -> bytes | memoryview:
    data = split.read(i)
    if settings.original:
        return data
    try:
        return encode(data, settings)
    except BadImage as error:
        raise DataError(
            f"an image cannot be decoded: {error}",
            where=split.describe(i),
            fix="repair or remove it; `saccade verify` lists every bad image",
            finding="unreadable-image",
        ) from error


def encode(data: bytes | memoryview, settings: Settings) -> bytes | memoryview:
    """Return an image file as a tiled JPEG; a very small image stays as it is.

    Gray stays gray, and the EXIF orientation is kept. Raises BadImage.
    """
    width, height = decode.size(data)
    if width * height <= SMALL_PIXELS:
        return data

    pixels = decode.decode(data)
    longest = max(width, height)
    if settings.max_side and longest > settings.max_side:
        scale = settings.max_side / longest
        target = (max(round(width * scale), 1), max(round(height * scale), 1))
        pixels = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS))

    # finer chroma than the source has would cost bytes and show nothing
    sampling: str = "4:4:4" if settings.chroma == "source" else settings.chroma
    if bytes(data[:2]) == b"\xff\xd8":
        header = jpeg.probe(data)
        if settings.chroma == "source":
            sampling = header.chroma if header.chroma in ("4:4:4", "4:2:2") else "4:2:0"
        pixels = np.ascontiguousarray(pixels[..., 0]) if header.components == 1 else pixels
    return tiles.encode(
        pixels, settings.quality, sampling, tile=settings.tile, orientation=decode.orientation(data)
    )
