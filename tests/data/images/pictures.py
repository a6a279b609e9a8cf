"""Small pictures in every form, and how Pillow reads them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.data.images import decode
from saccade.data.images.decode import BadImage

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "imagenet-samples.tar"
RNG = np.random.default_rng(7)
COARSE = RNG.integers(0, 256, (7, 9, 4))
PHOTO = np.asarray(
    Image.fromarray(COARSE.astype(np.uint8)).resize((71, 53), Image.Resampling.BICUBIC)
)
"""Smooth colours with an alpha plane, uint8 (53, 71, 4)."""
RGB = Image.fromarray(np.ascontiguousarray(PHOTO[..., :3]))
RGBA = Image.fromarray(PHOTO)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pillow(data: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)


def difference(data: bytes, expected: NDArray[Any]) -> int:
    """Largest difference in levels; also checks the promise about shape, dtype and layout."""
    pixels = decode.decode(data)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    assert pixels.shape == expected.shape
    assert decode.size(data) == (pixels.shape[1], pixels.shape[0])
    return int(np.abs(pixels.astype(np.int64) - expected).max())


def on_white(rgba: NDArray[Any]) -> NDArray[np.float64]:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def png16(values: NDArray[Any], colour: int, extra: bytes = b"", bits: int = 16) -> bytes:
    """Write a PNG by hand, 16-bit if nothing else is said, which Pillow cannot do in colour."""
    height, width = values.shape[:2]
    places = 1 << np.arange(bits - 1, -1, -1)
    samples = (values.reshape(height, -1, 1) & places > 0).reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = (
        chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_header_size(data: bytes, width: int, height: int) -> bytes:
    place = next(data.index(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in data)
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


def is_refused(data: bytes) -> bool:
    try:
        decode.decode(data)
    except BadImage:
        return True
    return False


JPEG = encode(RGB, "JPEG", quality=90)
JPEGS = {
    "4:4:4": encode(RGB, "JPEG", subsampling=0),
    "4:2:2": encode(RGB, "JPEG", subsampling=1),
    "4:2:0": encode(RGB, "JPEG", subsampling=2),
    "progressive": encode(RGB, "JPEG", progressive=True),
    "restart markers": encode(RGB, "JPEG", restart_marker_blocks=2),
    "gray": encode(RGB.convert("L"), "JPEG"),
    "RGB without YCbCr": encode(RGB, "JPEG", keep_rgb=True),
    "CMYK": encode(RGBA.convert("RGB").convert("CMYK"), "JPEG"),
    "true CMYK": encode(Image.frombytes("CMYK", RGBA.size, PHOTO.tobytes()), "JPEG"),
}
_ADOBE = JPEGS["true CMYK"].index(b"Adobe") + 11
JPEGS["YCCK"] = JPEGS["true CMYK"][:_ADOBE] + b"\x02" + JPEGS["true CMYK"][_ADOBE + 1 :]
OTHERS = {
    "PNG": encode(RGB, "PNG"),
    "GIF": encode(RGB, "GIF"),
    "BMP": encode(RGB, "BMP"),
    "WEBP": encode(RGB, "WEBP"),
    "TIFF": encode(RGB, "TIFF"),
    "TIFF packed": encode(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "PPM": encode(RGB, "PPM"),
}


def exif_block(turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    exif[0x010E] = "a picture"
    return exif.tobytes()
