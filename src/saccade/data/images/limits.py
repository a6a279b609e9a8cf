"""The limits of images: errors for unusable bytes, and the largest work that a header may
declare."""

from __future__ import annotations

MAX_PIXELS = 178_956_970
"""Larger images are refused from the header. *Source:* Pillow's limit.

4 bytes a pixel keep it under 1 GB.
"""

MAX_SIDE = 1 << 24
"""Pixels of a side.

Pillow counts the bits of a line in 31 bits, and gives up over more as if memory had ended.
"""

MAX_SCANNED = 20 * MAX_PIXELS
"""The most pixels times scans of a progressive JPEG: each scan walks over all pixels, and may
take no bytes at all.
"""


class BadImage(ValueError):
    """These bytes are not a usable image; the text says why.

    ``kind`` is stable: ``empty``, ``not-an-image``, ``too-large``, ``truncated``, ``damaged`` or
    ``unsupported``.
    """

    def __init__(self, text: str, kind: str = "damaged") -> None:
        super().__init__(text)
        self.kind = kind


def check_size(width: int, height: int) -> None:
    """Raise BadImage for invalid or too large sides in pixels."""
    if width <= 0 or height <= 0:
        raise BadImage(f"the header says {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"too large: the header says {width} x {height}, the limit is {MAX_PIXELS} pixels",
            "too-large",
        )
    if max(width, height) > MAX_SIDE:
        raise BadImage(
            f"too large: a side of {max(width, height)} pixels, the limit is {MAX_SIDE}",
            "too-large",
        )


def check_scans(width: int, height: int, scans: int) -> None:
    """Raise BadImage for a JPEG whose scans and pixels need unlimited work."""
    if width * height * scans > MAX_SCANNED:
        raise BadImage(
            f"too large: {scans} scans over {width} x {height} pixels, the limit is "
            f"{MAX_SCANNED // (width * height)} scans",
            "too-large",
        )
