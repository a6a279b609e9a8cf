"""A tar or zip as a source, read in place.

A compressed tar is decompressed once into the cache folder.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from saccade import cache, files
from saccade.data.archives.paths import Names
from saccade.data.archives.stamps import facts_of, stamp_of
from saccade.data.archives.tars import Members, index_tar
from saccade.data.archives.zips import ZipMembers, index_zip
from saccade.data.sources import cifar, ilsvrc, mnist, raw
from saccade.data.sources.foreign import HEAD_BYTES as HEAD
from saccade.data.sources.foreign import recognise
from saccade.data.sources.index import Index, kept, packed
from saccade.data.sources.layout import Layout
from saccade.data.sources.listing import Listing
from saccade.data.sources.peek import HEAD_BYTES, read_head
from saccade.data.sources.split import Integers, Read, Source, source_of, stamped
from saccade.data.sources.split_names import parse
from saccade.data.sources.trees import layout_of, side_files
from saccade.data.sources.unlabelled import NO_LABELS
from saccade.errors import DataError

DECOMPRESSED_LIMIT_BYTES = 20_000_000_000
XZ_MEMORY_BYTES = 1 << 30

_FORMS = (*cifar.FORMS, *mnist.FORMS)
_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\0", (b"PK\3\4", b"PK\5\6")


def open_archive(path: Path, labels: str = "", split_names: str = "") -> Source:
    """Open an archive.

    Its first bytes tell its kind, not its name. The index is kept for the next time. ``labels`` is
    a table of labels, ``split_names`` what the user says about the splits. Members are slices of
    one memory map, so any number of threads may read. Raises DataError on damage.
    """
    zipped = read_head(path, HEAD).startswith(_ZIP)
    plain = path if zipped else plain_tar(path)
    view, stamp = mapped(plain), stamp_of({path, plain})

    def build() -> Index:
        members, columns = _zip_members(path) if zipped else _tar_members(path, plain, view)
        names = Names.of(members.names)
        read, head = _readers(path, names, columns, view)
        layout = _layout(path, members, read, head=head, labels=labels, named=named)
        return packed(names, columns, layout)

    named = parse(split_names)
    said = labels if labels == NO_LABELS else split_names
    index = kept(plain, side_files(path, labels), build, said)
    read, _ = _readers(path, index.names, index.columns, view)
    if not index.layout.parts and (
        whole := raw.unfold(path, index.names, index.columns["sizes"], read=read, forms=_FORMS)
    ):
        return stamped(whole, stamp)
    return ilsvrc.labelled(
        source_of(path, index.layout, index.columns["sizes"], read=read, stamp=stamp), path
    )


def _tar_members(path: Path, plain: Path, view: memoryview) -> tuple[Members, dict[str, Integers]]:
    where = str(path) if plain == path else f"{path} (decompressed into {plain})"
    members = index_tar(view, where)
    return members, {"offsets": members.offsets, "sizes": members.sizes}


def _zip_members(path: Path) -> tuple[Members, dict[str, Integers]]:
    found = index_zip(path)
    columns = {
        "offsets": found.members.offsets,
        "sizes": found.members.sizes,
        "packed": found.packed,
    }
    return found.members, columns | {
        "deflated": found.deflated.astype(np.int64),
        "crcs": found.crcs,
        "aims": found.aims,
    }


def _layout(
    path: Path,
    members: Members,
    read: Read,
    head: Read,
    labels: str,
    named: Mapping[str, str] | None,
) -> Layout:
    if not labels and raw.is_raw(members.names, _FORMS):
        return Layout({}, members.skipped, (), ())
    prefix = "" if labels else ilsvrc.prefix(path, members)
    # ImageNet's own tars get the folders that they lack
    names = [prefix + name for name in members.names] if prefix else members.names
    folders = [prefix + name for name in members.folders if name]
    listing = Listing(
        path,
        path,
        names,
        sizes=members.sizes,
        read=read,
        head=head,
        folders=folders,
        ignored=members.skipped,
        lost=members.lost,
        named=named,
    )
    return layout_of(listing, labels)


def _readers(
    path: Path, names: Names, columns: dict[str, Integers], view: memoryview
) -> tuple[Read, Read]:
    """Return what reads a member, and what reads only its head."""
    offsets, sizes = columns["offsets"], columns["sizes"]
    if "crcs" in columns:
        members = Members(names, offsets, sizes)
        found = ZipMembers(
            members,
            columns["packed"],
            columns["deflated"].astype(np.bool_),
            *(columns[n] for n in ("crcs", "aims")),
        )
        return lambda i: found.read(view, i, str(path)), lambda i: found.head(
            view, i, str(path), HEAD_BYTES
        )

    def read(i: int) -> memoryview:
        start = int(offsets[i])
        return view[start : start + int(sizes[i])]

    return read, lambda i: read(i)[:HEAD_BYTES]


def plain_tar(path: Path) -> Path:
    """Return a tar itself, or its decompressed copy in the cache folder.

    Raises DataError on what is no tar.
    """
    head = read_head(path, HEAD)
    packed = head.startswith((_GZIP, _XZ))
    plain = _decompressed(path, head) if packed else path
    if found := recognise(
        read_head(plain, HEAD), path.name.removesuffix(path.suffix) if packed else path.name
    ):
        what = f"a compressed file that contains {found.what}" if packed else found.what
        raise DataError(f"this is {what}", where=str(path), fix=found.fix)
    return plain


def mapped(path: Path) -> memoryview:
    """Map a file into memory, to be read only; raises DataError if it is empty."""
    with open(path, "rb") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise DataError("the file is empty", where=str(path)) from error


def _decompressed(path: Path, magic: bytes) -> Path:
    """Return the decompressed copy in the cache folder, named after what identifies this version
    of the file.
    """
    identity = f"{path.resolve()}\0{facts_of(path.stat())}"
    name = f"{hashlib.sha256(os.fsencode(identity)).hexdigest()}.tar"
    with open(path, "rb") as packed:
        blocks = _xz_blocks(packed) if magic.startswith(_XZ) else _gzip_blocks(packed)
        stream = cast(BinaryIO, _Stream(blocks, str(path)))
        return cache.copy(name, stream, DECOMPRESSED_LIMIT_BYTES)


class _Stream:
    """Blocks of bytes as a readable file.

    Damage in them becomes a DataError: the disk that is written to is not to blame.
    """

    def __init__(self, blocks: Iterator[bytes], where: str) -> None:
        self._blocks, self._where = blocks, where

    def read(self, _size: int) -> bytes:
        try:
            return next(self._blocks, b"")
        except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            raise DataError(
                f"the file cannot be decompressed: {error}",
                where=self._where,
                fix="copy or download it again",
            ) from error


def _gzip_blocks(packed: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed) as plain:
        while block := plain.read(files.COPY_BYTES):
            yield block


def _xz_blocks(packed: BinaryIO) -> Iterator[bytes]:
    """Yield the content of an xz file.

    ``lzma.LZMAFile`` has no bound on the memory that a header may ask for.
    """
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
        # padding between streams
        data = (decoder.unused_data or packed.read(files.COPY_BYTES)).lstrip(b"\0")
