"""Strict zip indexing: the position of each member in the file, from its directory.

Nothing is ever extracted.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from saccade.data.archives.links import Link, follow
from saccade.data.archives.paths import clean_name, decoded, file_name, refuse_duplicates
from saccade.data.archives.tars import RECORD_LIMIT_BYTES, Members
from saccade.errors import DataError

_DEFLATE_LIMIT = 1032  # *Source:* zlib.net/zlib_tech.html, "maximum compression factor"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_END_BYTES, _COMMENT_BYTES = 22, 0xFFFF
_TARGET_BYTES = 4096
INFLATED_LIMIT_BYTES = 256_000_000
"""Of a compressed member, which a thread must hold whole to read it.

One that is only stored is read in place.
"""

_SMALL_BYTES = 16_000_000
_TIGHTEST_IMAGE = 100
_UNUSABLE = (
    zipfile.BadZipFile,
    ValueError,
    OSError,
    struct.error,
    NotImplementedError,
    zlib.error,
)
"""What ``zipfile`` raises on damaged archives."""


class _TooMuch(ValueError):
    """A member that would need more memory than its compressed size justifies."""


@dataclass(frozen=True, eq=False)
class ZipMembers:
    """The regular files of a zip archive, with the facts of its directory.

    ``members`` are as for a tar. ``packed`` (size in bytes), ``deflated`` and ``crcs`` have shape
    (n,), and so have ``aims``: the places of the members themselves, or of those that links lead
    to.
    """

    members: Members
    packed: NDArray[np.int64]
    deflated: NDArray[np.bool_]
    crcs: NDArray[np.int64]
    aims: NDArray[np.int64]

    def read(self, view: memoryview, i: int, where: str) -> bytes | memoryview:
        """Return member ``i`` of the zip file in ``view``.

        Raises DataError if it does not match the directory.
        """
        try:
            return self._read(view, i)
        except _TooMuch as error:
            raise DataError(
                f"'{self.members.names[i]}' {error}",
                where=where,
                fix="remove it, or store it without compression: zip -0",
            ) from error
        except (ValueError, zlib.error) as error:
            raise self._damaged(i, where, error) from error

    def head(self, view: memoryview, i: int, where: str, count: int) -> bytes | memoryview:
        """Return the first ``count`` bytes of member ``i``, unchecked.

        Raises DataError if there are none.
        """
        try:
            data = self._packed(view, i)
            return (
                zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, count)
                if self.deflated[i]
                else data[:count]
            )
        except (ValueError, zlib.error) as error:
            raise self._damaged(i, where, error) from error

    def _damaged(self, i: int, where: str, error: Exception) -> DataError:
        return DataError(
            f"'{self.members.names[i]}' is damaged: {error}",
            where=where,
            fix="copy or download the archive again",
        )

    def _packed(self, view: memoryview, i: int) -> memoryview:
        """Return the bytes of member ``i`` as they are stored; raises ValueError."""
        offset, packed = int(self.members.offsets[i]), int(self.packed[i])
        if len(view) - offset < _LOCAL_HEADER.size:
            raise ValueError("its header is beyond the end of the file")

        # The local header repeats what the directory says, and may contradict it.
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(view, offset)
        start = offset + _LOCAL_HEADER.size + name_bytes
        raw_name = bytes(view[start - name_bytes : start])
        start += extra_bytes
        if magic != b"PK\3\4" or start + packed > len(view):
            raise ValueError("its header is overwritten, or its data is beyond the end of the file")
        if clean_name(_name(raw_name)) != self.members.names[int(self.aims[i])]:
            raise ValueError("the name in its header differs from the archive's directory")
        return view[start : start + packed]

    def _read(self, view: memoryview, i: int) -> bytes | memoryview:
        size = int(self.members.sizes[i])
        data: bytes | memoryview = self._packed(view, i)
        if size > RECORD_LIMIT_BYTES:
            raise ValueError(f"it declares {size} bytes, more than {RECORD_LIMIT_BYTES}")

        # A bomb is refused by what it declares, before a byte of it is unpacked.
        if self.deflated[i]:
            if size > INFLATED_LIMIT_BYTES:
                raise _TooMuch(
                    f"is compressed and declares {size} bytes, more than {INFLATED_LIMIT_BYTES}"
                )
            if size > max(_SMALL_BYTES, _TIGHTEST_IMAGE * len(data)):
                raise _TooMuch(
                    f"declares {size} bytes packed into {len(data)}: no image compresses that much"
                )
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            # one byte more than declared, to notice what is longer
            data = inflater.decompress(data, size + 1)
            if not inflater.eof:
                raise ValueError(f"it does not end after the declared {size} bytes")

        if len(data) != size or zlib.crc32(data) != self.crcs[i]:
            raise ValueError("its checksum or size differs from the archive's directory")
        return data


def index_zip(path: Path) -> ZipMembers:
    """Index a zip archive from its central directory.

    Links are followed as in a tar, and a backslash, as Windows writes it, parts folders. Raises
    DataError on a missing directory, on encrypted members and other methods than stored and
    deflate, on sizes that deflate cannot reach, and on the names that ``index_tar`` refuses.
    """
    infos: list[zipfile.ZipInfo] = []
    names: list[str] = []
    folders: list[str] = []
    links: list[Link] = []
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            _check_count(file, archive)
            for info in archive.infolist():
                # The bytes of the name as stored: zipfile may have decoded them wrongly.
                flagged = "utf-8" if info.flag_bits & 0x800 else "cp437"
                name = _name(info.orig_filename.encode(flagged))
                if name.endswith("/"):
                    folders.append(clean_name(name))
                    continue
                _check_member(info, name)
                # zip keeps the mode of Unix in the upper half; the target of a link is its content
                if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _TARGET_BYTES:
                    links.append(Link(file_name(name), decoded(archive.read(info)), symbolic=True))
                else:
                    infos.append(info)
                    names.append(file_name(name))
    except _UNUSABLE as error:
        raise DataError(
            f"this zip archive is damaged or unsupported: {error}",
            where=str(path),
            fix="copy, download or pack it again",
        ) from error

    followed, lost = follow(links, {name: place for place, name in enumerate(names)})
    aims = np.array([*range(len(infos)), *(place for _, place in followed)], np.int64)
    names += [name for name, _ in followed]
    refuse_duplicates(names, str(path))

    offsets = np.array([info.header_offset for info in infos], np.int64)
    sizes = np.array([info.file_size for info in infos], np.int64)
    packed = np.array([info.compress_size for info in infos], np.int64)
    deflated = np.array([info.compress_type == zipfile.ZIP_DEFLATED for info in infos], np.bool_)
    crcs = np.array([info.CRC for info in infos], np.int64)

    members = Members(names, offsets[aims], sizes[aims], folders, lost=lost)
    return ZipMembers(members, packed[aims], deflated[aims], crcs=crcs[aims], aims=aims)


def _check_count(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Compare with the declared number of entries; ``zipfile`` can lose some.

    The end record is looked for as ``zipfile`` does: there may be other bytes behind it, such as a
    newline. *Source:* PKWARE APPNOTE 6.3.10, sections 4.3.14 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    first = max(0, size - _END_BYTES - _COMMENT_BYTES)
    file.seek(first)
    tail = file.read()

    # Most archives have no comment: the record then ends the file.
    place = len(tail) - _END_BYTES
    if not (tail[place : place + 4] == b"PK\5\6" and tail.endswith(b"\0\0")):
        place = tail.rfind(b"PK\5\6")
    end = first + place

    declared = int.from_bytes(tail[place + 10 : place + 12], "little")

    # More entries than 16 bits count: the real number stands in the record of zip64.
    if declared == 0xFFFF and end >= 20:
        file.seek(end - 20)
        locator = file.read(20)
        if locator[:4] == b"PK\6\7":
            file.seek(int.from_bytes(locator[8:16], "little"))
            declared = int.from_bytes(file.read(40)[32:], "little")

    num = len(archive.infolist())
    if num != declared and num & 0xFFFF != declared:  # macOS counts modulo 65,536
        raise ValueError(f"its directory has {num} entries but declares {declared}")


def _name(raw: bytes) -> str:
    """Decode a stored name.

    macOS writes UTF-8 without the flag that says so, so only other bytes are cp437.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("cp437")
    return name.replace("\\", "/")


def _check_member(info: zipfile.ZipInfo, name: str) -> None:
    if info.header_offset < 0:
        raise ValueError(f"'{name}' begins before the start of the file")
    # *Source:* PKWARE APPNOTE 6.3.10, section 4.4.4: bits 0 and 6
    if info.flag_bits & 0x41:
        raise ValueError(f"'{name}' is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"'{name}' is compressed by method {info.compress_type}; only stored and deflate are "
            "supported"
        )

    # Deflate shrinks by at most this factor: a member that declares more is forged.
    most = (
        info.compress_size
        if info.compress_type == zipfile.ZIP_STORED
        else info.compress_size * _DEFLATE_LIMIT
    )
    if info.file_size > most:
        raise ValueError(
            f"'{name}' declares {info.file_size} bytes packed into {info.compress_size}"
        )
