"""The properties and problems of one image file, or of many on all cores.

The preflight (:mod:`saccade.data.audit.sample`) checks a sample, ``saccade verify``
(:mod:`saccade.data.audit.verify`) all.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from saccade import rng
from saccade.data.images import decode, jpeg, png
from saccade.data.images.decode import BadImage, Data
from saccade.errors import DataError
from saccade.rng import Purpose
from saccade.system.parallel import in_order

BLOCK = 64
"""Number of neighbouring images that one thread reads at once."""

ERRORS = ("empty", "not-an-image", "too-large", "truncated", "damaged", "unsupported", "unreadable")
"""The kinds that make an image unusable.

``unreadable``: the disk or the archive does not give its bytes.
"""

NOTES = ("wrong-extension", "bad-exif", "cmyk", "16-bit", "alpha", "animated")
"""The kinds that are unusual, but can be trained on."""

ROW = np.dtype(
    [
        ("digest", "S32"),
        ("width", "i4"),
        ("height", "i4"),
        ("turn", "u1"),
        ("seen", "?"),
        ("sound", "?"),
    ]
)
"""The facts of each image: SHA-256, size in pixels, EXIF orientation, whether it was read, whether
it is usable.
"""

Integers = NDArray[np.int64]
Tick = Callable[[int], None]

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm"),
    "AVIF": (".avif",),
}
# by the first letter of Pillow's mode
_COLOURS = {"1": "gray", "L": "gray", "I": "gray", "P": "palette", "C": "CMYK"}
_PNG_COLOURS = {0: "gray", 3: "palette", 4: "gray"}
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_TIFF_BITS = 258
_TIFF_MARK = 42
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


class Images(Protocol):
    """The parts of a split that are needed here."""

    @property
    def sizes(self) -> Integers:
        """Bytes of each image file, int64 of shape (n,)."""

    @property
    def labels(self) -> Integers:
        """Class of each image, int64 of shape (n,)."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each image file inside its class."""

    @property
    def read(self) -> Callable[[int], bytes | memoryview]:
        """Return the file of image i; many threads may call it."""

    @property
    def where(self) -> str:
        """The folder or archive that holds the images."""

    @property
    def fingerprint(self) -> str:
        """A digest of all names, sizes and classes."""

    @property
    def stamp(self) -> str:
        """A digest that changes when the files change, empty if unknown."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """Name image i for a person."""


S = TypeVar("S", bound=Images)


class Look(NamedTuple):
    """One image file: SHA-256 of its bytes, size in pixels, EXIF orientation, format, colours, and
    problems.

    ``problem`` is the kind in ``ERRORS`` and ``reason`` the sentence about it; both are empty for a
    usable image, and only that has a size, a format and colours. ``notes`` are kinds in ``NOTES``.
    """

    digest: bytes = b""
    width: int = 0
    height: int = 0
    turn: int = 1
    form: str = ""
    colours: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    reason: str = ""


def look(data: Data, name: str = "") -> Look:
    """Hash and decode the image file ``data`` with the name ``name``.

    Problems are returned, not raised.
    """
    digest = hashlib.sha256(data).digest()
    try:
        kind = decode.format_of(data)
        height, width = decode.decode(data).shape[:2]
        exif = decode.exif_block(data)
        form, colours, notes = _jpeg_traits(data) if kind == "JPEG" else _other_traits(data, kind)
    except BadImage as error:
        return Look(digest, problem=error.kind, reason=str(error))

    suffix = os.path.splitext(name)[1].lower()
    if suffix in decode.IMAGE_SUFFIXES and suffix not in _SUFFIXES[kind]:
        notes = (*notes, "wrong-extension")
    if exif and not _is_sound_exif(exif):
        notes = (*notes, "bad-exif")

    return Look(
        digest,
        width,
        height,
        turn=decode.tiff_orientation(exif),
        form=form,
        colours=colours,
        notes=notes,
    )


def _jpeg_traits(data: Data) -> tuple[str, str, tuple[str, ...]]:
    header = jpeg.probe(data)
    form = f"JPEG {'progressive' if header.progressive else 'baseline'} {header.chroma}"
    if header.cmyk:
        return form, "CMYK", ("cmyk",)
    return form, "gray" if header.components == 1 else "RGB", ()


def _other_traits(data: Data, kind: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the format, the colours such as ``RGB 16-bit alpha``, and the notes about them."""
    if kind == "PNG":
        chunks = png.read(data)
        notes = ("16-bit",) * (chunks.bits > 8) + ("alpha",) * chunks.has_alpha
        base = _PNG_COLOURS.get(chunks.colour, "RGB")
        return kind, " ".join((base, *notes)), notes + ("animated",) * chunks.animated
    with decode.open_header(data, kind) as image:
        mode, info, bits = (
            image.mode,
            image.info,
            getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,)),
        )
        animated = _has_frames(image)
    deep = mode[0] == "I" or max(bits) > 8
    if kind == "PPM" and (header := decode.RAW_PNM.match(data)):
        deep = header[4] == b"65535"  # Pillow calls 16-bit colours RGB
    notes = ("16-bit",) * deep + ("alpha",) * (mode in _WITH_ALPHA or "transparency" in info)
    base = _COLOURS.get(mode[0], "RGB")
    extra = ("cmyk",) * (base == "CMYK") + ("animated",) * animated
    return kind, " ".join((base, *notes)), notes + extra


def _has_frames(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    # plugins raise anything; a second frame that is damaged is still a second frame
    except Exception:
        return True


def _is_sound_exif(block: bytes) -> bool:
    """Tell whether the first directory of a TIFF block points only into it.

    *Source:* TIFF 6.0, section 2.
    """
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"

    def number(place: int, length: int) -> int:
        return int.from_bytes(block[place : place + length], order)

    first = number(4, 4)
    entries = range(first + 2, first + 2 + 12 * number(first, 2), 12)
    if block[:2] not in (b"II", b"MM") or number(2, 2) != _TIFF_MARK or entries.stop > len(block):
        return False
    lengths = (
        (entry, number(entry + 4, 4) * _TIFF_BYTES.get(number(entry + 2, 2), 1))
        for entry in entries
    )
    return all(
        length <= 4 or number(entry + 8, 4) + length <= len(block) for entry, length in lengths
    )


@dataclass(slots=True)
class Part(Generic[S]):
    """One split, the places to check (int64 (k,)), and the results.

    ``rows`` has a ``ROW`` for each place; ``forms`` and ``colours`` count the usable images;
    ``kinds`` holds, for each kind of oddity, the indices into ``rows`` with the reason, in rising
    order once ``survey`` is done.
    """

    split: S
    places: Integers
    rows: NDArray[Any] = field(init=False)
    forms: Counter[str] = field(default_factory=Counter)
    colours: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = np.zeros(len(self.places), ROW)

    def describe(self, row: int | np.integer[Any]) -> str:
        """Name the image of a row for a person."""
        return self.split.describe(int(self.places[row]))

    def named(self, kind: str) -> list[str]:
        """Return the images of a kind by name, each with the reason where there is one."""
        return [
            self.describe(row) + (f": {why}" if why else "")
            for row, why in self.kinds.get(kind, ())
        ]

    def take(self, row: int, seen: Look) -> None:
        """Count what was seen in one row."""
        sound = not seen.problem
        self.rows[row] = (seen.digest, seen.width, seen.height, seen.turn, True, sound)
        if sound:
            self.forms[seen.form] += 1
            self.colours[seen.colours] += 1
        for kind in seen.notes if sound else (seen.problem,):
            self.kinds.setdefault(kind, []).append((row, seen.reason))


def survey(
    parts: Sequence[Part[Any]],
    progress: Tick,
    *,
    shuffled: bool = False,
    deadline: float = math.inf,
) -> None:
    """Check all places of all parts with all cores.

    ``progress`` gets the number of finished images. ``deadline`` is a time of the monotonic clock;
    with ``shuffled``, the images that were checked until then are a fair sample.
    """
    blocks = [(part, start) for part in parts for start in range(0, len(part.places), BLOCK)]
    # by block and not by image: neighbours lie together on the disk
    keys = rng.key(Purpose.SAMPLE, 2, np.arange(len(blocks)))
    order = np.argsort(keys, kind="stable").tolist() if shuffled else range(len(blocks))

    def look_at(number: int) -> tuple[Part[Any], int, list[Look]]:
        part, start = blocks[number]
        return part, start, _look_at(part, start, deadline)

    done = 0
    for part, start, seen in in_order(look_at, order):
        for row, one in enumerate(seen, start):
            part.take(row, one)
        done += len(seen)
        progress(done)
    for part in parts:
        for found in part.kinds.values():
            found.sort()


def _look_at(part: Part[Any], start: int, deadline: float) -> list[Look]:
    seen = []
    for place in part.places[start : start + BLOCK].tolist():
        # what was seen so far is kept: rows that were not reached say so themselves
        if time.monotonic() > deadline:
            break
        try:
            seen.append(look(part.split.read(place), part.split.names[place]))
        except DataError as error:
            seen.append(Look(problem="unreadable", reason=error.what))
    return seen


def first_equal(*parts: Part[Any]) -> Integers:
    """Return for each row, of all parts one after the other, the first row with the same bytes:
    int64 (n,).

    Rows without a usable image equal only themselves: two empty files are no copies.
    """
    rows = np.concatenate([part.rows for part in parts])
    firsts = np.arange(len(rows))
    sound = np.flatnonzero(rows["sound"])
    _, first, group = np.unique(rows["digest"][sound], return_index=True, return_inverse=True)
    firsts[sound] = sound[first][group]
    return firsts
