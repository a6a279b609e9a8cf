"""Files without readable images: their format, recognised by the first bytes or the suffix, and
advice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from saccade.data.archives.tars import begins_like_tar
from saccade.data.images.decode import BadImage, format_of
from saccade.data.sources.peek import suffix_of

HEAD_BYTES = 512

_TREE = "train/<class>/<image> and val/<class>/<image>"
_WRITE_OUT = (
    f"write the images out as files, {_TREE}, with the library that made it, and use that folder"
)
_REPACK = "unpack it, and repack it as .tar, .tar.xz or .zip"
_AGAIN = (
    "download it again; if the site asks for confirmation or a login, use its own download tool"
)
_HF = (
    f"write the images out as files, {_TREE}, with Hugging Face's library `datasets`, and use "
    "that folder"
)


class Foreign(NamedTuple):
    """What a file is, as in ``this is ...``, and what to do."""

    what: str
    fix: str


_MAGICS = {
    b"PAR1": Foreign("a Parquet table", _HF),
    b"ARROW1": Foreign("an Arrow table", _HF),
    b"FEA1": Foreign("a Feather table", _HF),
    b"\x89HDF\r\n\x1a\n": Foreign("an HDF5 file", _WRITE_OUT),
    b"\x93NUMPY": Foreign("a NumPy array", _WRITE_OUT),
    b"MATLAB 5.0": Foreign("a MATLAB file", _WRITE_OUT),
    b"SQLite format 3": Foreign("an SQLite database", _WRITE_OUT),
    b"\x0a\x23\xd7\xce": Foreign("a RecordIO file of MXNet", _WRITE_OUT),
    b"%PDF": Foreign("a PDF document", "use a folder of images, or a .tar or .zip of one"),
    b"version https://git-lfs": Foreign(
        "only a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"
    ),
    b"BZh": Foreign("a bzip2 archive", _REPACK),
    b"\x28\xb5\x2f\xfd": Foreign("a zstd archive", _REPACK),
    b"7z\xbc\xaf": Foreign("a 7-zip archive", _REPACK),
    b"Rar!": Foreign("a rar archive", _REPACK),
    b"\x1f\x9d": Foreign("an archive of the program `compress`", _REPACK),
    b"\x1f\xa0": Foreign("an archive of the program `compress`", _REPACK),
    b"\x5d\0\0": Foreign("an lzma archive", _REPACK),
    b"LZIP": Foreign("an lzip archive", _REPACK),
    b"\x04\x22\x4d\x18": Foreign("an lz4 archive", _REPACK),
}
_ENDINGS = {
    ".parquet": Foreign("a Parquet table", _HF),
    ".arrow": Foreign("an Arrow table", _HF),
    ".h5": Foreign("an HDF5 file", _WRITE_OUT),
    ".hdf5": Foreign("an HDF5 file", _WRITE_OUT),
    ".tfrecord": Foreign("a file of TensorFlow records", _WRITE_OUT),
    ".tfrecords": Foreign("a file of TensorFlow records", _WRITE_OUT),
    ".beton": Foreign("a dataset of FFCV", _WRITE_OUT),
    ".mdb": Foreign("an LMDB database", _WRITE_OUT),
    ".lmdb": Foreign("an LMDB database", _WRITE_OUT),
    ".rec": Foreign("a RecordIO file of MXNet", _WRITE_OUT),
    ".npy": Foreign("a NumPy array", _WRITE_OUT),
    ".npz": Foreign("a file of NumPy arrays", _WRITE_OUT),
    ".pkl": Foreign("a Python pickle, which may run code and is not opened", _WRITE_OUT),
    ".pickle": Foreign("a Python pickle, which may run code and is not opened", _WRITE_OUT),
    ".mat": Foreign("a MATLAB file", _WRITE_OUT),
}
_PACKED = frozenset((".zip", ".tar", ".gz", ".tgz", ".xz", ".txz"))
_REFUSED = frozenset((".bz2", ".zst", ".7z", ".rar", ".z", ".lzma", ".lz4"))


def recognise(head: bytes, name: str) -> Foreign | None:
    """Tell what a file is that is not a supported archive. Returns None if unknown.

    ``name`` is its name, ``head`` its first ``HEAD_BYTES``, fewer where the file is shorter.
    """
    if begins_like_tar(head):
        return None
    for magic, found in _MAGICS.items():
        if head.startswith(magic):
            return found
    try:
        return Foreign(
            f"a single {format_of(head)} image", "use the folder that contains the class folders"
        )
    except BadImage:
        pass
    if ending := _ENDINGS.get(suffix_of(name)):
        return ending
    return _text(head)


def advice(names: Iterable[str], *, packed_up: bool = False) -> str:
    """Return what to do with a listing in which there are no images, by the endings of its files.

    Returns the empty string if nothing is known. ``packed_up`` says that the listing is that of an
    archive, not of a folder.
    """
    packed, refused, idx = [], [], False
    for name in names:
        suffix = suffix_of(name)
        if suffix in _ENDINGS:
            return f"'{name}' is {_ENDINGS[suffix].what}: {_ENDINGS[suffix].fix}"
        packed += [name] * (suffix in _PACKED)
        refused += [name] * (suffix in _REFUSED)
        idx = idx or "idx3-ubyte" in name

    if idx:
        return (
            "idx files need the names of the four MNIST files; write other sets out as files, "
            f"{_TREE}"
        )

    if packed:
        first = min(packed, key=lambda name: ("train" not in name.lower(), name))
        give = "unpack it, and use" if packed_up else "use"
        return (
            f"{give} one of the archives in it to --data, such as {first}, and one with "
            "validation images to --val"
        )

    return (
        f"'{sorted(refused)[0]}' is an archive in an unsupported format: {_REPACK}"
        if refused
        else ""
    )


def _text(head: bytes) -> Foreign | None:
    """Recognise files that are text for people or browsers."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return Foreign("a web page, not the data file", _AGAIN)
    if start.startswith((b"<?xml", b"<error")):
        return Foreign("an XML text, not the data file", _AGAIN)
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return None
    if not text or not all(c.isprintable() or c.isspace() for c in text):
        return None
    return Foreign(
        f"a text that begins with {' '.join(text.split())[:40]!r}",
        "use a folder, or a .tar or .zip of one",
    )
