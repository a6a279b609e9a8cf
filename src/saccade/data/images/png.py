"""PNG: a strict walk over the chunks, and the transparency that Pillow loses.

Pillow decodes what is left of a file: the chunks that make the pixels. Colour profiles and texts
never reach it, so none of them can be too large. A colour that means "transparent" is compared
here, in the depth of the file.

*Source:* PNG specification (third edition), sections 5 and 11.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.data.images.limits import BadImage, check_size

_MAGIC = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_GRAY, _RGB, _PALETTE = 0, 2, 3
_WITH_ALPHA = (4, 6)


class Png(NamedTuple):
    """A PNG whose checksums and end are sound.

    ``plain`` is the file with nothing but what makes its pixels, for Pillow; ``bits`` are those of
    a sample; ``key`` holds the samples of the transparent colour, one for gray and three for RGB,
    or is empty; ``exif`` is its EXIF block or empty.
    """

    plain: bytes
    bits: int
    colour: int
    key: tuple[int, ...]
    has_alpha: bool
    animated: bool
    exif: bytes


def size(data: bytes | memoryview) -> tuple[int, int]:
    """Return (width, height) in pixels; raises BadImage where the first chunk is not the header."""
    first = bytes(data[12:16])
    if first == b"CgBI":
        raise BadImage("unsupported PNG: Apple's format for phones (CgBI)", "unsupported")
    if len(data) > 24 and first != b"IHDR":
        raise BadImage("damaged PNG: it does not begin with its header")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def read(data: bytes | memoryview) -> Png:
    """Walk over the chunks.

    Raises BadImage on a wrong size, a wrong checksum or a missing end, which Pillow allows.
    """
    check_size(*size(data))
    view, place, kind, exif, see_through, pixels_bytes, animated = (
        memoryview(data),
        8,
        b"",
        b"",
        b"",
        0,
        False,
    )
    kept: list[bytes | memoryview] = [_MAGIC]
    while kind != b"IEND":
        length, kind = (
            int.from_bytes(view[place : place + 4], "big"),
            bytes(view[place + 4 : place + 8]),
        )
        start, place = place, place + 12 + length
        body = view[start + 8 : start + 8 + length]
        if place > len(view):
            raise BadImage("truncated PNG: the file ends before its last chunk", "truncated")
        # A capital letter marks a chunk that the pixels depend on; a rotten comment harms nobody.
        if kind[0] < 0x60 and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(
            view[place - 4 : place], "big"
        ):
            raise BadImage(f"damaged PNG: the checksum of {kind!r} does not match")
        if kind in _KEPT or (kind == b"tRNS" and data[25] == _PALETTE):
            kept.append(view[start:place])
        exif = bytes(body) if kind == b"eXIf" else exif
        see_through = bytes(body) if kind == b"tRNS" else see_through
        pixels_bytes += length if kind == b"IDAT" else 0
        animated = animated or kind == b"acTL"
    if not pixels_bytes:
        raise BadImage("damaged PNG: it contains no pixels")

    # Both lie in the header, which is always the first chunk.
    bits, colour = data[24], data[25]
    key = _key(see_through, bits, colour)
    has_alpha = colour in _WITH_ALPHA or bool(key) or (colour == _PALETTE and bool(see_through))
    return Png(
        b"".join(kept), bits, colour, key=key, has_alpha=has_alpha, animated=animated, exif=exif
    )


def _key(body: bytes, bits: int, colour: int) -> tuple[int, ...]:
    """Return the transparent colour of a tRNS chunk: the low bits of two bytes for each sample."""
    count = {_GRAY: 1, _RGB: 3}.get(colour, 0)
    if not body or not count:
        return ()
    if len(body) != 2 * count:
        raise BadImage(f"damaged PNG: its transparent colour has {len(body)} bytes")

    # Two bytes for each sample, of which a shallow file uses the low bits.
    samples = np.frombuffer(body, ">u2").astype(int) & ((1 << bits) - 1)
    return tuple(samples.tolist())


def clear(png: Png, image: Image.Image) -> NDArray[np.bool_]:
    """Return which pixels have the transparent colour, bool (height, width).

    ``image`` is ``plain``, loaded.

    Pillow scales gray of 1, 2 and 4 bits to 0 to 255, which is undone by scaling the key alike. Of
    16-bit colours it keeps the high bytes, so the low ones are decoded, too.
    """
    if png.colour == _GRAY and png.bits < 16:
        gray: NDArray[Any] = np.asarray(image.convert("L"))
        return gray == png.key[0] * 255 // ((1 << png.bits) - 1)
    if png.colour == _GRAY:
        return np.asarray(image) == png.key[0]

    # RGB: all three samples must be those of the key.
    key = np.array(png.key)
    if png.bits <= 8:
        return np.asarray((np.asarray(image) == key).all(axis=2))
    with Image.open(io.BytesIO(png.plain), formats=("PNG",)) as low:
        # as if it began with the low byte
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        found = (np.asarray(image) == key >> 8) & (np.asarray(low) == key & 0xFF)
    return np.asarray(found.all(axis=2))
