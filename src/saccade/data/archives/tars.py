"""Strict tar indexing: the position of each member in the file. Nothing is ever extracted.

Python's ``tarfile`` stops without an error at a damaged or missing header and so loses the rest of
the archive. Here every byte between the first header and the end of the file is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from saccade.data.archives.links import Link, follow
from saccade.data.archives.paths import clean_name as clean_name
from saccade.data.archives.paths import decoded, file_name
from saccade.data.archives.paths import refuse_duplicates as refuse_duplicates
from saccade.errors import DataError

BLOCK_BYTES = 512
EXTENSION_LIMIT_BYTES = 1 << 20
RECORD_LIMIT_BYTES = 1_000_000_000
"""Largest image file, in bytes; a larger one is refused before memory is allocated for it."""

_ZEROS = bytes(BLOCK_BYTES)
_FILES = frozenset((b"0", b"\0", b"7"))
_LINKS = (b"1", b"2")
_SYMBOLIC = b"2"
_DUMPED = b"D"
_SKIPPED = {
    b"3": "character device",
    b"4": "block device",
    b"6": "named pipe",
    b"V": "volume label",
}


@dataclass(frozen=True, eq=False)
class Members:
    """The regular files of an archive, in its own order.

    ``names`` are clean (NFC, ``/``, no ``..``) and unique; ``offsets`` and ``sizes`` are int64 of
    shape (n,), in bytes: where the data of a tar member (the local header of a zip member) starts
    and how long the file is. ``folders`` are the folder entries and the tars inside a tar, ``tars``
    those alone; ``skipped`` counts devices by kind. A link to a member is that member under another
    name; ``lost`` says where each other link leads.
    """

    names: Sequence[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    folders: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    tars: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)


def index_tar(buffer: mmap | memoryview | bytes, where: str) -> Members:
    """Index the tar archive in ``buffer``; ``where`` names it in errors.

    A tar in it, ``x.tar``, counts as a folder ``x`` of its files; a tar inside of that is a file.
    Understood: ustar, GNU long names, PAX path and size, base-256 sizes, the old format, links.
    Raises DataError with the byte offset on damage of any header, on missing data, on a missing or
    early end mark, on sparse or multi-volume members, and on names that are duplicated, absolute,
    or contain ``..`` or a backslash. *Source:* POSIX.1-2017, pax, "ustar Interchange Format"; GNU
    tar manual, "Basic Tar Format".
    """
    view = memoryview(buffer)
    outer = _TarScan(view)
    outer.run(where)
    refuse_duplicates(outer.names, where)

    # A second scan, without a run of its own, gathers the files of both levels.
    found, tars = _TarScan(view, folders=outer.folders, skipped=outer.skipped, lost=outer.lost), []
    for name, offset, size in zip(outer.names, outer.offsets, outer.sizes, strict=True):
        if _is_inner_tar(name):
            inner = _TarScan(view[offset : offset + size], inner=True)
            inner.run(f"{where}: its member '{name}', from byte {offset}")
            found.add(inner, name[:-4], offset)
            tars.append(name[:-4])
        else:
            found.names.append(name)
            found.offsets.append(offset)
            found.sizes.append(size)

    refuse_duplicates(found.names, where)
    offsets, sizes = np.array(found.offsets, np.int64), np.array(found.sizes, np.int64)
    return Members(
        found.names,
        offsets,
        sizes,
        folders=found.folders,
        skipped=found.skipped,
        tars=tars,
        lost=found.lost,
    )


def begins_like_tar(head: bytes) -> bool:
    """Tell whether the first block of a file is a valid header of a tar."""
    try:
        _check_header(head[:BLOCK_BYTES])
    except ValueError:
        return False
    return True


def _is_inner_tar(name: str) -> bool:
    # macOS adds ._x.tar to x.tar
    return name.lower().endswith(".tar") and not name.rpartition("/")[2].startswith(".")


@dataclass(eq=False)
class _TarScan:
    """One walk over the headers.

    What ``run`` calls raises ValueError about the header at ``offset``.
    """

    view: memoryview
    inner: bool = False
    offset: int = 0
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    links: list[Link] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    """PAX fields of all members that follow."""
    local: dict[str, str] = field(default_factory=dict)
    """PAX fields and the GNU long name of the next member."""
    extended: bool = False

    def run(self, where: str) -> None:
        """Read all headers and follow the links; raises DataError with the offset."""
        try:
            while self.step():
                pass
        except ValueError as error:
            sound = self.offset or begins_like_tar(bytes(self.view[:BLOCK_BYTES]))
            what = "this tar archive is damaged or unsupported"
            if not sound:
                what = "this is not a tar archive (nor a zip), or its start is damaged"
            raise DataError(
                f"{what}: {error} (at byte {self.offset} of {len(self.view)})",
                where=where,
                fix="copy or download it again, or pack it again with tar",
            ) from error
        # A tar inside is read once: through many links to it a small file could stand for any
        # number of images.
        aims = {
            name: place
            for place, name in enumerate(self.names)
            if self.inner or not _is_inner_tar(name)
        }
        followed, self.lost = follow(self.links, aims)
        self.names += [name for name, _ in followed]
        self.offsets += [self.offsets[place] for _, place in followed]
        self.sizes += [self.sizes[place] for _, place in followed]

    def add(self, inner: _TarScan, folder: str, offset: int) -> None:
        """Add the members of the archive that begins at byte ``offset``, as a folder."""
        self.names += [f"{folder}/{name}" for name in inner.names]
        self.offsets += [offset + start for start in inner.offsets]
        self.sizes += inner.sizes
        self.folders += [folder, *(f"{folder}/{name}" for name in inner.folders if name)]
        self.skipped += inner.skipped
        self.lost |= {f"{folder}/{name}": reason for name, reason in inner.lost.items()}

    def step(self) -> bool:
        """Read one header and move behind its data; False at the end of the archive."""
        block = bytes(self.view[self.offset : self.offset + BLOCK_BYTES])
        if block == _ZEROS:
            self._check_end()
            return False
        _check_header(block)
        # *Source:* the byte places here and below are those of POSIX ustar headers
        kind = block[156:157]

        # An extension describes the next member, or all that follow; it is not a member itself.
        if kind in b"LKxg":
            self._extension(kind, _number(block[124:136]))
            return True
        fields = self.shared | self.local if self.shared or self.local else {}

        # A sparse member is shorter in the archive than in the file system.
        if any(name.startswith("GNU.sparse.") for name in fields):
            raise ValueError("sparse members are not supported")
        name = _name(block, fields)
        # a folder in a backup of GNU tar: its data are the names of the files in it
        if kind == _DUMPED:
            self.folders.append(clean_name(name))
            self._move_behind(_number(block[124:136]), name)
        elif kind in _FILES and name[-1:] != "/":
            size = _decimal(fields["size"]) if "size" in fields else _number(block[124:136])
            start = self.offset + BLOCK_BYTES
            self._move_behind(size, name)
            self.names.append(file_name(name))
            self.offsets.append(start)
            self.sizes.append(size)
        else:
            self._entry_without_data(block, kind, name, fields)
            self.offset += BLOCK_BYTES
        if self.extended:
            # an extension speaks of one member only
            self.local, self.extended = {}, False
        return True

    def _entry_without_data(
        self, block: bytes, kind: bytes, name: str, fields: dict[str, str]
    ) -> None:
        if kind == b"5" or kind in _FILES:
            self.folders.append(clean_name(name))
        elif kind in _LINKS:
            target = fields.get("linkpath", decoded(block[157:257].split(b"\0", 1)[0]))
            self.links.append(Link(file_name(name), target, kind == _SYMBOLIC))
        elif kind in _SKIPPED:
            self.skipped[_SKIPPED[kind]] += 1
        else:
            raise ValueError(f"a member of type {kind.decode('latin-1')!r} is not supported")

    def _move_behind(self, size: int, name: str) -> None:
        left = len(self.view) - self.offset - BLOCK_BYTES
        if size > left:
            raise ValueError(
                f"{name[:200]!r} declares {size} bytes, but the file ends after {left}"
            )

        # Data are filled up to whole blocks with zeros.
        padded = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if padded > left:
            raise ValueError(f"the file ends inside the padding of {name[:200]!r}")
        self.offset += BLOCK_BYTES + padded

    def _extension(self, kind: bytes, size: int) -> None:
        if size > EXTENSION_LIMIT_BYTES:
            raise ValueError(
                f"an extended header declares {size} bytes, more than {EXTENSION_LIMIT_BYTES}"
            )
        start = self.offset + BLOCK_BYTES
        data = bytes(self.view[start : start + size])
        fields = _pax(data) if kind in b"xg" else {}
        self._move_behind(size, "an extended header")
        if kind in b"LK":
            self.local.setdefault(
                "path" if kind == b"L" else "linkpath", decoded(data.split(b"\0", 1)[0])
            )
        elif kind == b"x":
            self.local.update(fields)
        elif kind == b"g":
            self.shared.update(fields)
        self.extended = self.extended or kind != b"g"

    def _check_end(self) -> None:
        rest = len(self.view) - self.offset
        # two zero blocks end an archive: with one, what followed may be lost
        if rest < 2 * BLOCK_BYTES:
            raise ValueError("the archive ends with one zero block instead of two: it is truncated")
        if self.inner and not self.offset:
            raise ValueError("the inner archive contains only zeros")
        if self.extended:
            raise ValueError("the archive ends between an extended header and its member")
        if np.frombuffer(self.view[self.offset :], np.uint8).any():
            raise ValueError(f"a zero block, but {rest} bytes that are not all zero follow")


def _check_header(block: bytes) -> None:
    if not block:
        raise ValueError(
            "the file ends without the two zero blocks that end an archive: it is truncated"
        )
    if len(block) < BLOCK_BYTES:
        raise ValueError("the file ends inside a header: it is truncated")

    # The checksum is computed as if its own field held spaces.
    declared = block[148:156]
    if sum(block) - sum(declared) + 8 * 0x20 != _number(declared):
        raise ValueError("the header does not match its checksum")


def _number(data: bytes) -> int:
    """Read a number field: octal digits, or base-256 when the first bit is set."""
    if data[0] & 0x80:
        if data[0] & 0x40:
            raise ValueError("a negative number in the header")
        return int.from_bytes(data, "big") - (0x80 << 8 * (len(data) - 1))
    digits = data.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):  # int() alone would accept signs and underscores
        raise ValueError(f"{digits!r} is not an octal number")
    return int(digits or b"0", 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} is not a size in bytes")
    return int(text)


def _name(block: bytes, fields: dict[str, str]) -> str:
    if "path" in fields:
        return fields["path"]

    # A long name is cut in two: its folders stand in the prefix.
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return decoded(name)


def _pax(data: bytes) -> dict[str, str]:
    """Read records ``length key=value newline``; the length counts the whole record."""
    fields: dict[str, str] = {}
    while data:
        digits = data[:20].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if length > len(data) or not equals or data[length - 1 : length] != b"\n":
            raise ValueError("a PAX header is invalid")
        if key in (b"path", b"size", b"linkpath") or key.startswith(b"GNU.sparse."):
            fields[decoded(key)] = decoded(value)
        data = data[length:]
    return fields
