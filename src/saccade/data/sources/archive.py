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

import numpy as np

from saccade import files
from saccade.data.archives import Members, ZipMembers, index_tar, index_zip
from saccade.data.names import Names
from saccade.data.sources import cifar, ilsvrc, mnist, raw
from saccade.data.sources.index import Index, kept, packed
from saccade.data.sources.layout import Layout
from saccade.data.sources.split import Integers, Read, Source, arranged, source_of
from saccade.errors import DataError

DECOMPRESSED_LIMIT_BYTES = 20_000_000_000
XZ_MEMORY_BYTES = 1 << 30

_FORMS = (*cifar.FORMS, *mnist.FORMS)
_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\0", (b"PK\3\4", b"PK\5\6")
_OTHERS = {b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-zip", b"Rar!": "rar"}


def open_archive(path: Path) -> Source:
    """Open an archive; what it is decide its first bytes, not its name, and its index is kept for the next time.

    Members are slices of one memory map, so any number of threads may read. Raises DataError on damage.
    """
    magic = _first_bytes(path)
    for start, name in _OTHERS.items():
        if magic.startswith(start):
            raise DataError(f"{name} archives are not read", where=str(path), fix="repack it as .tar, .tar.xz or .zip")
    zipped = magic.startswith(_ZIP)
    plain = _decompressed(path, magic) if magic.startswith((_GZIP, _XZ)) else path
    view = _mapped(plain)
    index = kept(plain, lambda: _zip_index(path) if zipped else _tar_index(path, plain, view))
    read = _zip_reader(path, index, view) if zipped else _tar_reader(index, view)
    if not index.layout.parts and (whole := raw.unfold(path, index.names, index.columns["sizes"], read, _FORMS)):
        return whole
    return ilsvrc.labelled(source_of(path, index.layout, index.columns["sizes"], read), path)


def _tar_index(path: Path, plain: Path, view: memoryview) -> Index:
    where = str(path) if plain == path else f"{path} (decompressed into {plain})"
    return _index(path, index_tar(view, where), {})


def _zip_index(path: Path) -> Index:
    found = index_zip(path)
    more = {"packed": found.packed, "deflated": found.deflated.astype(np.int64), "crcs": found.crcs}
    return _index(path, found.members, more)


def _index(path: Path, members: Members, more: dict[str, Integers]) -> Index:
    prefix = ilsvrc.prefix(path, members)
    paths = [prefix + name for name in members.names] if prefix else members.names
    if raw.is_raw(paths, _FORMS):
        layout = Layout({}, members.skipped, (), ())
    else:
        layout = arranged(path, paths, [prefix + name for name in members.folders if name], members.skipped)
    return packed(Names.of(members.names), {"offsets": members.offsets, "sizes": members.sizes, **more}, layout)


def _tar_reader(index: Index, view: memoryview) -> Read:
    offsets, sizes = index.columns["offsets"], index.columns["sizes"]

    def read(i: int) -> memoryview:
        start = int(offsets[i])
        return view[start : start + int(sizes[i])]

    return read


def _zip_reader(path: Path, index: Index, view: memoryview) -> Read:
    columns = index.columns
    members = Members(index.names, columns["offsets"], columns["sizes"])
    found = ZipMembers(members, columns["packed"], columns["deflated"].astype(np.bool_), columns["crcs"])
    return lambda i: found.read(view, i, str(path))


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _mapped(path: Path) -> memoryview:
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
