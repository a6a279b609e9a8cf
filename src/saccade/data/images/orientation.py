"""The EXIF orientation of an image: where it is found, and how it is undone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saccade.data.images.formats import Data
from saccade.data.images.limits import MAX_PIXELS as MAX_PIXELS
from saccade.data.images.limits import BadImage as BadImage

Pixels = NDArray[np.uint8]


ORIENTATION_TAG = 0x0112


def webp_exif(data: Data) -> bytes:
    """Return the EXIF block of a WebP, or nothing. *Source:* RFC 9649, section 2.7.1.5."""
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"EXIF":
            return bytes(data[place + 8 : place + 8 + length]).removeprefix(b"Exif\0\0")
        # chunks are padded to an even length
        place += 8 + length + length % 2
    return b""


def tiff_orientation(block: bytes) -> int:
    """Return the orientation tag of the first directory of a TIFF block.

    *Source:* TIFF 6.0, section 2.
    """
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    first = int.from_bytes(block[4:8], order)
    for place in range(
        first + 2, first + 2 + 12 * int.from_bytes(block[first : first + 2], order), 12
    ):
        # the count of entries is the file's claim
        if place + 12 > len(block):
            break
        if int.from_bytes(block[place : place + 2], order) == ORIENTATION_TAG:
            value = int.from_bytes(block[place + 8 : place + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def upright(pixels: Pixels, turn: int) -> Pixels:
    """Undo an EXIF orientation on (height, width, 3).

    *Source:* EXIF 2.32, section 4.6.4, tag 274.
    """
    # the upper four orientations are the lower four, transposed
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
