"""The files of a pack: a manifest, and shards of some thousand records with their index.

A shard is laid out as a safetensors file. ``bytes`` holds the records one after the other;
``offsets`` (n + 1), ``crcs`` (CRC-32 of each record), ``labels`` and ``name_ends`` say where and
what they are, ``names`` are the file names in UTF-8. The manifest lists the shards with the digests
of each and of its index, and ends with its own digest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from saccade import files
from saccade.data.archives.paths import Names
from saccade.errors import DataError

MANIFEST = "pack.json"
FORMAT = 1
# a shard has six tables, whatever it holds
HEADER_LIMIT_BYTES = 1 << 16
_DTYPES = {
    "offsets": "<i8",
    "crcs": "<u4",
    "labels": "<i4",
    "name_ends": "<i8",
    "names": "u1",
    "bytes": "u1",
}
_KINDS = {"<i8": "I64", "<u4": "U32", "<i4": "I32", "u1": "U8"}

Tick = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Shard:
    """An open shard: views into one memory map, shapes as the module says.

    ``facts`` are what it was written with.
    """

    path: Path
    facts: dict[str, str]
    offsets: NDArray[np.int64]
    crcs: NDArray[np.uint32]
    labels: NDArray[np.int32]
    names: Names
    records: memoryview
    sound: bytearray
    """1 for each record whose checksum was seen to be right: once per process is enough."""

    def __len__(self) -> int:
        return len(self.crcs)

    @property
    def index_digest(self) -> str:
        """SHA-256, 64 hexadecimal digits, of everything but the records."""
        sha = hashlib.sha256(self.names.text)
        for array in (self.names.ends, self.offsets, self.crcs, self.labels):
            sha.update(array.tobytes())
        return sha.hexdigest()

    def read(self, i: int) -> memoryview:
        """Return record ``i``; raises DataError when it no longer matches its checksum."""
        record = self.records[self.offsets[i] : self.offsets[i + 1]]
        if not self.sound[i] and zlib.crc32(record) != self.crcs[i]:
            raise DataError(
                f"the record of '{self.names[i]}' does not match its checksum: the pack was "
                "damaged on disk or while copying",
                where=str(self.path),
                fix="make the pack again, or copy it again from an intact copy",
                finding="damaged-record",
            )
        self.sound[i] = 1
        return record


def to_bytes(
    records: Sequence[bytes | memoryview],
    names: Sequence[str],
    labels: Sequence[int],
    facts: dict[str, str],
) -> bytes:
    """Lay out a shard; the same arguments give the same bytes."""
    raw = [name.encode() for name in names]
    tensors = {
        "offsets": np.cumsum([0, *map(len, records)], dtype="<i8"),
        "crcs": np.array([zlib.crc32(record) for record in records], "<u4"),
        "labels": np.array(labels, "<i4"),
        "name_ends": np.cumsum([len(name) for name in raw], dtype="<i8"),
        "names": np.frombuffer(b"".join(raw), np.uint8),
        "bytes": np.frombuffer(b"".join(records), np.uint8),
    }
    # keys are sorted, because the bytes of a pack depend on source and settings alone
    return safetensors.numpy.save(tensors, metadata={"facts": json.dumps(facts, sort_keys=True)})


def open_shard(path: Path) -> Shard:
    """Map a shard into memory; raises DataError on any inconsistency."""
    try:
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        facts, arrays = _arrays(view)
        lengths, text = np.diff(arrays["name_ends"], prepend=0), arrays["names"].tobytes()
        text.decode()
        names = Names.joined(text, lengths)

        # The order matters: an empty table of offsets has no first one.
        count, offsets = len(arrays["crcs"]), arrays["offsets"]
        fits = len(offsets) == count + 1 and len(arrays["labels"]) == len(names) == count
        fits = fits and bool((lengths >= 0).all()) and int(lengths.sum()) == len(text)
        fits = fits and offsets[0] == 0 and offsets[-1] == len(arrays["bytes"])
        if not (fits and (np.diff(offsets) >= 0).all()):
            raise ValueError("its index contradicts itself")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"this shard of a pack is damaged: {error}",
            where=str(path),
            fix="make the pack again",
        ) from error

    return Shard(
        path,
        facts,
        offsets,
        crcs=arrays["crcs"],
        labels=arrays["labels"],
        names=names,
        records=arrays["bytes"].data,
        sound=bytearray(count),
    )


def _arrays(view: memoryview) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Read the header of a safetensors file and return its words and tensors, without copying."""
    length = int.from_bytes(view[:8], "little")
    if not 0 < length <= min(HEADER_LIMIT_BYTES, len(view) - 8):
        raise ValueError(f"the header declares {length} bytes")

    # The layout of safetensors: the header's length, the header, the tensors.
    header = json.loads(bytes(view[8 : 8 + length]))
    start = 8 + length
    arrays = {}
    for name, kind in _DTYPES.items():
        fact = header[name]
        first, last = fact["data_offsets"]
        (count,) = fact["shape"]
        if fact["dtype"] != _KINDS[kind] or not 0 <= first <= last <= len(view) - start:
            raise ValueError(f"'{name}' is missing or not a regular file")
        if count * np.dtype(kind).itemsize != last - first:
            raise ValueError(f"the size of '{name}' differs from the declared size")
        arrays[name] = np.frombuffer(view, kind, count, start + first)
    return dict(json.loads(header["__metadata__"]["facts"])), arrays


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Encode a manifest with its own digest as the last field."""
    digest = hashlib.sha256(files.json_bytes(manifest)).hexdigest()
    return files.json_bytes(manifest | {"digest": digest})


def is_pack(folder: Path) -> bool:
    """Tell whether a folder is a pack."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a pack; raises DataError when it is damaged or of another format."""
    path = folder / MANIFEST
    try:
        manifest = dict(files.read_json(path, 1 << 30))
        del manifest["digest"]
        if manifest["format"] != FORMAT:
            raise ValueError(
                f"it has format {manifest['format']}, but this version reads format {FORMAT}"
            )
        # written again and compared: so every byte counts, not only those that are understood
        if path.read_bytes() != manifest_bytes(manifest):
            raise ValueError("the manifest was changed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"this pack is damaged or unsupported: {error}",
            where=str(path),
            fix="make the pack again",
        ) from error
    return manifest


def damage(folder: Path, tick: Tick = lambda _done: None) -> Iterator[str]:
    """Read every byte of a pack and name what was changed.

    ``tick`` gets the number of finished images.
    """
    manifest, done = read_manifest(folder), 0
    for entry in manifest["splits"].values():
        for fact in entry["shards"]:
            path = folder / fact["file"]
            if not path.is_file():
                yield f"{path.name} is missing"
            # the size first, as it costs nothing
            elif path.stat().st_size != fact["bytes"] or files.digest(path) != fact["sha256"]:
                yield from _damaged_records(path)
            done += fact["count"]
            tick(done)


def _damaged_records(path: Path) -> Iterator[str]:
    try:
        shard = open_shard(path)
    except DataError as error:
        yield f"{path.name}: {error.what}"
        return

    # The shard opens, so single records are damaged: they can be named.
    bad = []
    for i in range(len(shard)):
        try:
            shard.read(i)
        except DataError:
            bad.append(shard.names[i])
    yield f"{path.name}: {', '.join(bad[:5]) or 'the index'} ({max(len(bad), 1)} damaged)"
