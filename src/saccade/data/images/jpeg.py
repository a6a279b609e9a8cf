"""JPEG: a fast look at the header and a strict decode."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

_START_OF_FRAME = frozenset(
    (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
)
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_HIERARCHICAL = frozenset((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF))
_LOSSLESS_FRAME = 0xF7
"""Begins the frame of a JPEG-LS file. *Source:* ITU-T T.87, annex C."""
_CHROMA: dict[float, str] = {
    0x11: "4:4:4",
    0x21: "4:2:2",
    0x22: "4:2:0",
    0x12: "4:4:0",
    0x41: "4:1:1",
    0x42: "4:1:0",
}
_WITHOUT_SEGMENT = frozenset((0x01, *range(0xD0, 0xDB)))
_USUAL = frozenset(bytes((luma, 0x11, 0x11)) for luma in (0x11, 0x12, 0x14, 0x21, 0x22, 0x41))
"""Sampling factors of colour that libjpeg-turbo's simple interface knows by name."""

_MAX_BLOCKS = 10
"""Of all components in one step of a scan. *Source:* ITU-T T.81, section B.2.3."""

_UNKNOWN_SAMPLING = "subsampling level"  # in the words of that interface
_SCAN = b"\xff\xda"
_END = b"\xff\xd9"


class Header(NamedTuple):
    """The header of a JPEG.

    ``width`` and ``height`` are pixels; ``components`` is 1 for gray, 3 for colour, 4 for CMYK and
    YCCK; ``adobe`` is the colour transform of the Adobe marker or -1 without one; ``exif`` is the
    offset in bytes of the TIFF block in the EXIF segment, or 0; ``sampling`` holds for each
    component its factors, horizontal in the upper four bits.
    """

    width: int
    height: int
    components: int
    bits: int
    progressive: bool
    adobe: int
    exif: int
    sampling: bytes = b""
    hierarchical: bool = False

    @property
    def chroma(self) -> str:
        """The chroma subsampling, such as ``4:2:0``; ``gray`` without colour."""
        if self.components == 1:
            return "gray"
        luma, *rest = self.sampling
        ratios = {
            (luma >> 4) / max(one >> 4, 1) * 16 + (luma & 15) / max(one & 15, 1) for one in rest[:2]
        }
        # both colours must be stored alike for the usual names to mean anything
        return _CHROMA.get(ratios.pop(), "other") if len(ratios) == 1 else "other"

    @property
    def is_usual(self) -> bool:
        """Whether it is gray or colour with a common sampling grid; others are decoded whole."""
        return not self.hierarchical and (self.components == 1 or self.sampling in _USUAL)

    @property
    def cmyk(self) -> bool:
        """Whether the four components are CMYK or YCCK, stored inverted by Adobe's convention."""
        return self.components == 4


def probe(data: bytes | bytearray | memoryview) -> Header:
    """Read the segments up to the frame header, decoding nothing.

    Raises ValueError if there is none.

    *Source:* ITU-T T.81, annex B; the Adobe segment: T.872, section 6.5.3.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG: it does not begin with FF D8")
    place, adobe, exif = 2, -1, 0
    try:
        while True:
            marker = data[place + 1]
            # markers without a length cannot be skipped, and do not occur before the frame
            if data[place] != 0xFF or marker in _WITHOUT_SEGMENT:
                raise ValueError(f"no frame header before byte {place}")
            if marker == 0xFF:  # fill byte
                place += 1
                continue
            if marker == _LOSSLESS_FRAME:
                raise ValueError("Unsupported JPEG process: JPEG-LS")

            # Height before width: the order in the frame header.
            if marker in _START_OF_FRAME:
                height, width = (
                    data[place + 5] << 8 | data[place + 6],
                    data[place + 7] << 8 | data[place + 8],
                )
                progressive = marker in _PROGRESSIVE
                components = data[place + 9]
                sampling = bytes(data[place + 11 : place + 10 + 3 * components : 3])
                hierarchical = marker in _HIERARCHICAL
                bits = data[place + 4]
                return Header(
                    width,
                    height,
                    components,
                    bits=bits,
                    progressive=progressive,
                    adobe=adobe,
                    exif=exif,
                    sampling=sampling,
                    hierarchical=hierarchical,
                )

            # Two segments before the frame matter: EXIF, and whose colours these are.
            body = place + 4
            if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0" and not exif:
                exif = body + 6
            elif marker == 0xEE and data[body : body + 5] == b"Adobe":
                adobe = data[body + 11]
            place += 2 + (data[place + 2] << 8 | data[place + 3])
    except IndexError as error:
        raise ValueError("the file ends before the frame header") from error


def count_scans(data: bytes | bytearray | memoryview) -> int:
    """Return how many scans a progressive JPEG has.

    What looks like one in a thumbnail is counted, too.
    """
    return bytes(data).count(_SCAN)


def decode(data: bytes | bytearray | memoryview, factor: int = 1) -> NDArray[np.uint8]:
    """Decode a whole JPEG to RGB: uint8 of shape (height, width, 3), C-contiguous.

    A ``factor`` of 2, 4 or 8 divides both sides, rounded up, by computing fewer frequencies. Gray
    is replicated, CMYK is converted as Pillow does. Every warning of libjpeg about the pixels is an
    error: raises ValueError on truncated or damaged data. The caller checks the size first.
    """
    header = probe(data)
    width, height, components = header[:3]
    if components not in (1, 3, 4) or header.hierarchical:
        raise ValueError(
            "hierarchical images are not supported"
            if header.hierarchical
            else f"{components} components are not supported"
        )

    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            "CMYK" if components == 4 else "RGB",
            strict=True,
            min_factor=factor,
            # the decoder takes the smallest scale that keeps these sides
            min_width=-(-width // factor),
            min_height=-(-height // factor),
        )
    except ValueError as error:
        # The strict decoder also refuses what libjpeg warns about and then ignores.
        if (clean := tidied(data)) is not None:
            return decode(clean, factor)
        if _UNKNOWN_SAMPLING not in str(error):
            raise
        return _decode_any_sampling(data, factor)
    return _from_cmyk(pixels) if components == 4 else pixels


def decode_part(
    data: bytes | memoryview, width: int, height: int, factor: int, room: bytearray | None = None
) -> NDArray[np.uint8]:
    """Decode a JPEG of known size and usual sampling to RGB, its sides divided by ``factor``.

    ``width`` and ``height`` are in pixels; it may be gray. The result is uint8 of shape
    (ceil(height / factor), ceil(width / factor), 3). It lies in ``room`` where that is given: as
    many bytes at least. Raises ValueError as ``decode`` does.
    """
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", min_width=-(-width // factor), min_height=-(-height // factor), buffer=room
        )
    except ValueError:
        if (clean := tidied(data)) is None:
            raise
        return decode_part(clean, width, height, factor=factor, room=room)
    return pixels


def tidied(data: bytes | bytearray | memoryview) -> bytes | None:
    """Return a JPEG without the fields that libjpeg warns about and then ignores; None if there are
    none.

    That is a JFIF revision other than 1, an unknown colour transform in the Adobe segment, and the
    bounds of the frequencies in a scan of a JPEG that is not progressive. They are set to what
    libjpeg assumes, so that the strict decoder is left with the warnings that matter.
    """
    clean, place = bytearray(data), 2
    header = probe(data)
    while clean[place + 1] != _SCAN[1]:
        marker, body = clean[place + 1], place + 4
        if marker in _WITHOUT_SEGMENT or place + 16 > len(clean):
            return None
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker == 0xE0 and clean[body : body + 5] == b"JFIF\0":
            clean[body + 5] = 1
        elif marker == 0xEE and clean[body : body + 5] == b"Adobe":
            known, assumed = ((0, 2), 2) if header.components == 4 else ((0, 1), 1)
            clean[body + 11] = clean[body + 11] if clean[body + 11] in known else assumed
        place += 2 + (clean[place + 2] << 8 | clean[place + 3])
        if place + 4 > len(clean):
            return None
    # a baseline scan always holds all frequencies, 0 to 63, whatever its header says
    while 0 <= place < len(clean) - 4 and not header.progressive:
        bounds = place + 5 + 2 * clean[place + 4]
        clean[bounds : bounds + 3] = b"\0\x3f\0"[: len(clean[bounds : bounds + 3])]
        place = clean.find(_SCAN, place + 2)
    return bytes(clean) if clean != data else None


def _decode_any_sampling(data: bytes | bytearray | memoryview, factor: int) -> NDArray[np.uint8]:
    """Decode with Pillow, which leaves the sampling to libjpeg.

    Raises ValueError where the file is cut.

    Pillow does not hear libjpeg's warnings, so damage inside the pixels of these rare files passes.
    """
    whole = bytes(data)
    if _END not in whole[whole.rfind(_SCAN) :]:
        raise ValueError("the file ends inside the pixels")
    try:
        with Image.open(io.BytesIO(whole), formats=("JPEG",)) as image:
            image.load()
            return np.array(image.reduce(factor).convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # the plugin raises anything
        across, down = zip(*((one >> 4, one & 15) for one in probe(data).sampling), strict=True)
        uneven = any(max(sides) % max(side, 1) for sides in (across, down) for side in sides)
        if uneven or sum(a * b for a, b in zip(across, down, strict=True)) > _MAX_BLOCKS:
            raise ValueError(f"sampling factors {across} by {down} are not supported") from error
        raise ValueError(str(error)) from error


def _from_cmyk(inverted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert inverted CMYK, uint8 (height, width, 4), to RGB.

    *Source:* Pillow, Convert.c, ``cmyk2rgb``.
    """
    white = inverted[..., 3:].astype(np.uint16)
    product = (255 - inverted[..., :3]).astype(np.uint16) * white + 128
    return np.ascontiguousarray(white - ((product >> 8) + product >> 8), dtype=np.uint8)
