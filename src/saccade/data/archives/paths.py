"""File names: cleaning them, and storing a million of them in little memory."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from saccade.errors import DataError

_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """A sequence of strings that are slices of one UTF-8 ``text``.

    ``starts`` and ``ends`` are int64 of shape (n,): byte places in the text. Several sequences may
    share a text.
    """

    text: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """Put strings into one text."""
        encoded = [name.encode() for name in names]
        return cls.joined(b"".join(encoded), np.array([len(name) for name in encoded], np.int64))

    @classmethod
    def joined(cls, text: bytes, lengths: NDArray[np.int64]) -> Names:
        """Cut a text into names that follow each other.

        ``lengths`` in bytes, int64 of shape (n,).
        """
        ends = np.cumsum(lengths)
        return cls(text, ends - lengths, ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Names: ...
    def __getitem__(self, i: int | slice) -> str | Names:
        if isinstance(i, slice):
            return Names(self.text, self.starts[i], self.ends[i])
        return self.text[self.starts[i] : self.ends[i]].decode()

    def __iter__(self) -> Iterator[str]:
        # in blocks: taking numbers out of an array one by one is slow
        for first in range(0, len(self), _BLOCK):
            block = slice(first, first + _BLOCK)
            for start, end in zip(
                self.starts[block].tolist(), self.ends[block].tolist(), strict=True
            ):
                yield self.text[start:end].decode()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(map(str.__eq__, self, other))
        )

    __hash__ = None  # type: ignore[assignment]  # a sequence that compares by content, like a list

    def take(self, places: NDArray[np.int64]) -> Names:
        """Return the names at ``places``, int64 of shape (k,)."""
        return Names(self.text, self.starts[places], self.ends[places])


def decoded(raw: bytes) -> str:
    """Return a path as text: UTF-8, or else cp1252.

    Each part is decoded separately: folders and files can have been named on different systems.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if b"/" in raw:
            return "/".join(map(decoded, raw.split(b"/")))
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def clean_name(raw: str) -> str:
    """Return a path in NFC with ``/`` and no ``.`` parts, empty for the root itself.

    Bytes of a file system that are no UTF-8 are read as ``decoded`` does. Raises ValueError on a
    name that is absolute, could escape its folder, or is not Unicode text.
    """
    if "\\" in raw or "\0" in raw:
        raise ValueError(f"the name {raw[:200]!r} holds a backslash or a zero byte")
    if not raw.isascii():
        try:
            raw = decoded(raw.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            raise ValueError(f"the name {raw[:200]!r} is not Unicode text") from error
        # macOS may take letters and accents apart (NFD): the same set must have the same
        # fingerprint
        raw = unicodedata.normalize("NFC", raw)

    # Such a name could lead out of the folder that the archive stands for.
    parts = raw.split("/")
    if "" in parts or "." in parts or ".." in parts:
        if parts[0] == "" or ".." in parts:
            raise ValueError(f"the name {raw[:200]!r} is empty, absolute or contains '..'")
        parts = [part for part in parts if part not in ("", ".")]
    return "/".join(parts)


def file_name(raw: str) -> str:
    """Return the clean path of a file.

    Raises ValueError where ``clean_name`` does, and if nothing is left.
    """
    name = clean_name(raw)
    if not name:
        raise ValueError(f"the name {raw[:200]!r} is not the name of a file")
    return name


def refuse_duplicates(names: Sequence[str], where: str) -> None:
    """Raise DataError if a name occurs twice: no reading order would be the right one."""
    if len(set(names)) != len(names):
        name, times = Counter(names).most_common(1)[0]
        raise DataError(
            f"'{name}' occurs {times} times",
            where=where,
            fix="repack it so that each file has a unique name",
        )
