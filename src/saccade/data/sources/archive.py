"""A tar or zip as a source, read in place; a compressed tar is decompressed once into the cache folder."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from saccade import files
from saccade.data.archives import Members, index_tar, index_zip
from saccade.data.sources.listing import Listing
from saccade.data.sources.split import Read, Source, source_of
from saccade.data.sources.trees import layout_of
from saccade.errors import DataError

DECOMPRESSED_LIMIT_BYTES = 20_000_000_000
XZ_MEMORY_BYTES = 1 << 30

_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\0", (b"PK\3\4", b"PK\5\6")
_OTHERS = {b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-zip", b"Rar!": "rar"}


def open_archive(path: Path, labels: str = "") -> Source:
    """Index an archive; what it is decide its first bytes, not its name.

    ``labels`` is a table of labels, if there is one. Members are slices of one memory map, so any number of threads may
    read. Raises DataError on damage.
    """
    magic = _first_bytes(path)
    for start, name in _OTHERS.items():
        if magic.startswith(start):
            raise DataError(f"{name} archives are not read", where=str(path), fix="repack it as .tar, .tar.xz or .zip")
    if magic.startswith(_ZIP):
        return _open_zip(path, labels)
    plain = _decompressed(path, magic) if magic.startswith((_GZIP, _XZ)) else path
    where = str(path) if plain == path else f"{path} (decompressed into {plain})"
    view = mapped(plain)
    members = index_tar(view, where)
    offsets, sizes = members.offsets, members.sizes

    def read(i: int) -> memoryview:
        start = int(offsets[i])
        return view[start : start + int(sizes[i])]

    return _arranged(path, members, read, labels)


def _open_zip(path: Path, labels: str) -> Source:
    index = index_zip(path)
    view = mapped(path)
    return _arranged(path, index.members, lambda i: index.read(view, i, str(path)), labels)


def _arranged(path: Path, members: Members, read: Read, labels: str) -> Source:
    listing = Listing(path, path, members.names, members.sizes, read, members.folders, members.skipped)
    return source_of(path, layout_of(listing, labels), members.sizes, read)


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def mapped(path: Path) -> memoryview:
    """Map a file into memory, to be read only; raises DataError if it is empty."""
    with open(path, "rb") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise DataError("the file is empty", where=str(path)) from error


def _decompressed(path: Path, magic: bytes) -> Path:
    """Return the decompressed copy in the cache folder, named after what identifies this version of the file."""
    facts = path.stat()
    identity = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ino}"
    name = f"{hashlib.sha256(identity.encode()).hexdigest()}.tar"
    with open(path, "rb") as packed:
        blocks = _xz_blocks(packed) if magic.startswith(_XZ) else _gzip_blocks(packed)
        stream = cast(BinaryIO, _Stream(blocks, str(path)))
        return files.cached_copy(name, stream, DECOMPRESSED_LIMIT_BYTES)


class _Stream:
    """Blocks of bytes as a readable file; damage becomes a DataError, which is no fault of the disk written to."""

    def __init__(self, blocks: Iterator[bytes], where: str) -> None:
        self._blocks, self._where = blocks, where

    def read(self, _size: int) -> bytes:
        try:
            return next(self._blocks, b"")
        except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            raise DataError(
                f"it cannot be decompressed: {error}", where=self._where, fix="copy or download it again"
            ) from error


def _gzip_blocks(packed: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed) as plain:
        while block := plain.read(files.COPY_BYTES):
            yield block


def _xz_blocks(packed: BinaryIO) -> Iterator[bytes]:
    """Yield the content of an xz file; ``lzma.LZMAFile`` has no bound on the memory that a header may ask for."""
    data = packed.read(files.COPY_BYTES)
    while data:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = packed.read(files.COPY_BYTES)
                if not data:
                    raise EOFError("the file ends inside the compressed data")
            block = decoder.decompress(data, files.COPY_BYTES)
            data = b""
            if block:
                yield block
        data = (decoder.unused_data or packed.read(files.COPY_BYTES)).lstrip(b"\0")  # padding between streams
