"""From the bytes of an image file to RGB: the one policy for every format, for training, evaluation
and prediction.

The format is told by the first bytes, never by the name. Gray is replicated; CMYK is converted as
Pillow does; transparency is composited on white; 16 bits become 8 by ``>> 8``; of an animation the
first frame is taken.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features

from saccade.data.images import jpeg, limits, png, tiff, tiles
from saccade.data.images.limits import MAX_PIXELS as MAX_PIXELS
from saccade.data.images.limits import BadImage as BadImage
from saccade.errors import ConfigError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
"""The endings, in lower case, of files that count as images."""

Exif = Literal["ignore", "apply"]
Data = bytes | memoryview
Pixels = NDArray[np.uint8]

_MAGICS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"P1", "PPM"),
    (b"P2", "PPM"),
    (b"P3", "PPM"),
    (b"P4", "PPM"),
    (b"P5", "PPM"),
    (b"P6", "PPM"),
    (b"BM", "BMP"),
)
_GAP = rb"(?:\s|#[^\n]*\n)+"
RAW_PNM = re.compile(
    rb"P([56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(255|65535)\s"
)
"""The header of a binary portable map of 8 or 16 bits: kind, width, height, largest value."""
_PILLOW_FILTER: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_ORIENTATION_TAG = 0x0112
_UNSUPPORTED = re.compile(
    r"Unsupported (JPEG|BMP|color)|unknown raw mode|not (implemented|supported)"
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_OTHER_MAGICS = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"PF\n", "float PFM"),
    (b"Pf\n", "float PFM"),
    (b"P7\n", "PAM"),
    (b"#?RADIANCE", "float Radiance"),
    (b"v/1\x01", "float OpenEXR"),
    (b"SIMPLE  =", "FITS"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\0\0\1\0", "Windows icon"),
    (b"\n\5\1\x08", "PCX"),
    (b"\1\xda\0\1", "Silicon Graphics"),
    (b"\1\xda\1\1", "Silicon Graphics"),
)
_STRIP_PIXELS = 1 << 22
"""Pixels that are converted at once: a copy of a whole large image for each step would take
several GB.
"""


def decode(data: Data, *, exif: Exif = "ignore", factor: int = 1) -> Pixels:
    """Decode an image file to RGB: uint8 of shape (height, width, 3), C-contiguous.

    ``exif`` says whether the orientation in the EXIF block is applied (TIFF orientation always is,
    by Pillow). ``factor`` (1, 2, 4, 8) reduces the sides of a JPEG. Raises BadImage, for an image
    that is too large before any pixel is allocated.
    """
    kind = format_of(data)
    if kind == "JPEG":
        size(data)
        try:
            pixels = _unpadded(jpeg.decode(data, factor), data, factor)
        except ValueError as error:
            raise bad_image(data, kind, error) from error
    else:
        raw = _raw_pnm(data) if kind == "PPM" else None
        pixels = _decode_pillow(data, kind) if raw is None else raw
    return _upright(pixels, orientation(data)) if exif == "apply" else pixels


def size(data: Data) -> tuple[int, int]:
    """Return (width, height) in pixels as stored, from the header alone.

    Raises BadImage as ``decode`` does.
    """
    kind = format_of(data)
    if kind == "JPEG":
        try:
            width, height = _jpeg_size(data)
        except ValueError as error:
            raise bad_image(data, kind, error) from error
    elif kind == "PNG":
        width, height = png.size(data)
    elif kind == "WEBP":
        width, height = _webp_size(data)
    elif kind == "PPM" and (header := RAW_PNM.match(data)):
        width, height = int(header[2]), int(header[3])
    else:
        with open_header(data, kind) as image:
            width, height = image.size
    limits.check_size(width, height)
    return width, height


def orientation(data: Data) -> int:
    """Return the EXIF orientation, 1 to 8, of a JPEG, PNG, WebP or AVIF.

    1 where there is none or it makes no sense.

    Raises BadImage if the bytes are not an image or a PNG is damaged.
    """
    return tiff_orientation(exif_block(data))


def exif_block(data: Data) -> bytes:
    """Return the TIFF block with the EXIF data of a JPEG, PNG, WebP or AVIF, or nothing.

    Raises BadImage as above.
    """
    kind = format_of(data)
    if kind == "JPEG":
        try:
            start = jpeg.probe(data).exif
        except ValueError:
            return b""
        return (
            bytes(data[start : start - 8 + int.from_bytes(data[start - 8 : start - 6], "big")])
            if start
            else b""
        )
    if kind == "PNG":
        return png.read(data).exif
    if kind == "AVIF":
        with open_header(data, kind) as image:
            return bytes(image.info.get("exif", b"")).removeprefix(b"Exif\0\0")
    return _webp_exif(data) if kind == "WEBP" else b""


def _jpeg_size(data: Data) -> tuple[int, int]:
    """Return (width, height) without the padding of a tiled file, which counts for the limit.

    Raises ValueError.
    """
    header = jpeg.probe(data)
    width, height = header[:2]
    if width and not height:
        raise BadImage("unsupported JPEG: its height stands behind the pixels (DNL)", "unsupported")
    if header.progressive and width:
        limits.check_scans(width, height, jpeg.count_scans(data))
    if not tiles.is_tiled(data):
        return width, height
    true = tiles.size(data)
    if true[0] > width or true[1] != height or width * height > MAX_PIXELS:
        raise ValueError("the table of tiles contradicts the frame header")
    return true


def _unpadded(pixels: Pixels, data: Data, factor: int) -> Pixels:
    """Cut off the padding that a tiled JPEG has at its right edge."""
    if not tiles.is_tiled(data):
        return pixels
    return np.ascontiguousarray(pixels[:, : -(-tiles.size(data)[0] // factor)])


def bad_image(data: Data, kind: str, reason: object) -> BadImage:
    """Return the error about bytes that begin as an image: of a kind that is not read, cut off,
    or damaged inside.
    """
    if isinstance(reason, BadImage):
        return reason
    if _UNSUPPORTED.search(str(reason)):
        return BadImage(f"unsupported {kind}: {reason}", "unsupported")
    if kind == "JPEG":  # pixels cannot hold an end marker, a thumbnail in the EXIF block can
        whole, block = bytes(data), exif_block(data)
        cut = b"\xff\xd9" not in whole[whole.find(block) + len(block) :]
    elif kind == "WEBP":
        cut = 8 + int.from_bytes(data[4:8], "little") > len(data)
    else:
        cut = "truncated" in str(reason)
    state = "truncated" if cut else "damaged"
    return BadImage(f"{state} {kind}: {reason}", state)


def format_of(data: Data) -> str:
    """Return the format that the first bytes tell, in Pillow's words, such as ``JPEG``.

    Raises BadImage.
    """
    head = bytes(data[:12])
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WEBP"
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp" and any(brand in _brands(data) for brand in _AVIF_BRANDS):
        return "AVIF"
    if not head:
        raise BadImage("not an image: the file is empty", "empty")
    if named := _other_format(head):
        raise BadImage(f"unsupported: a {named} image; save it as JPEG or PNG", "unsupported")
    raise BadImage(f"not an image: it begins with {head!r}", "not-an-image")


def _other_format(head: bytes) -> str:
    """Return the name of an image format that is not read, or nothing."""
    if head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS:
        return "HEIC"
    return next((name for magic, name in _OTHER_MAGICS if head.startswith(magic)), "")


def _brands(data: Data) -> tuple[bytes, ...]:
    """Return what a file in the ISO base format says it is.

    *Source:* ISO/IEC 14496-12, section 4.3.
    """
    body = bytes(data[8 : min(int.from_bytes(data[:4], "big"), 256)])
    return tuple(body[place : place + 4] for place in range(0, len(body), 4))


def _raw_pnm(data: Data) -> Pixels | None:
    """Decode a binary PGM or PPM of 8 or 16 bits; None for the other kinds, which Pillow reads."""
    header = RAW_PNM.match(data)
    if header is None:
        return None
    width, height, planes = int(header[2]), int(header[3]), 1 if header[1] == b"5" else 3
    limits.check_size(width, height)
    kind = np.dtype(np.uint8 if header[4] == b"255" else ">u2")
    count = width * height * planes
    if len(data) - header.end() < count * kind.itemsize:
        raise BadImage("truncated PPM: the file ends inside the pixels", "truncated")
    values: NDArray[Any] = np.frombuffer(data, kind, count, header.end()).reshape(
        height, width, planes
    )
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[...] = values if kind.itemsize == 1 else values >> 8
    return pixels


def _hush_pillow() -> None:
    """Ignore Pillow's warnings: what matters in them is an error here, and many threads decode at
    once.

    ``warnings.catch_warnings`` is not safe across threads, so one filter stays.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def open_header(data: Data, kind: str) -> Image.Image:
    """Open without decoding; only the plugin of this format may look at the bytes.

    Raises BadImage.
    """
    _hush_pillow()
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as error:
        raise BadImage(f"too large: {error}", "too-large") from error
    except MemoryError:
        raise
    except Exception as error:  # the plugins raise anything on damaged headers
        if kind == "TIFF" and (refusal := tiff.refusal(data)):
            raise refusal from error
        if kind == "AVIF" and not features.check("avif"):
            raise BadImage(
                "unsupported AVIF: this Pillow was built without it", "unsupported"
            ) from error
        reason = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else error
        raise bad_image(data, kind, reason) from error


def _decode_pillow(data: Data, kind: str) -> Pixels:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "Pillow was told to accept truncated images, which would train on grey areas "
            "without a word",
            where="PIL.ImageFile.LOAD_TRUNCATED_IMAGES",
            fix="set it back to False",
        )
    chunks = png.read(data) if kind == "PNG" else None
    if kind == "WEBP":
        limits.check_size(*_webp_size(data))  # Pillow allocates the canvas when it opens a WebP
    with open_header(data if chunks is None else chunks.plain, kind) as image:
        limits.check_size(*image.size)
        if kind == "TIFF":
            tiff.check(image)
        try:
            image.load()
            pixels = _rgb(image)
            if chunks is not None and chunks.key:
                pixels[png.clear(chunks, image)] = 255
            return pixels
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # as in open_header
            raise bad_image(data, kind, error) from error


def from_pillow(image: Image.Image, *, exif: Exif = "ignore") -> Pixels:
    """Convert an image of Pillow to RGB, uint8 (height, width, 3), by the same policy.

    Raises BadImage.
    """
    limits.check_size(*image.size)
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        tiff.check(image)
    try:
        image.load()
        pixels = _rgb(image)
        turn = image.getexif().get(_ORIENTATION_TAG, 1) if exif == "apply" else 1
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as in open_header
        raise BadImage(f"damaged image: {error}") from error
    return _upright(pixels, turn if turn in range(1, 9) else 1)


def _rgb(image: Image.Image) -> Pixels:
    """Convert a loaded image to RGB, uint8 (height, width, 3), in strips."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        pixels = _from_16_bits(
            tiff.black_is_zero(image, values) if image.format == "TIFF" else values
        )
        pixels[values == image.info.get("transparency", -1)] = 255
        return pixels
    if image.mode in ("F", "LAB", "HSV"):
        raise BadImage(f"pixels of mode {image.mode} are not supported", "unsupported")
    see_through = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if (
        image.format == "BMP"
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema() == (0, 0)
    ):
        # a writer that left the fourth byte empty; viewers show such a file as opaque, too
        see_through = False
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height))) if rows < height else image
        if see_through:
            strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        pixels[top : top + rows] = np.asarray(strip.convert("RGB"))
    return pixels


def _from_16_bits(values: NDArray[Any]) -> Pixels:
    """Turn gray integers of shape (height, width) into RGB.

    Pillow's own conversion would saturate at 255.
    """
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("gray values beyond 16 bits", "unsupported")
    gray = (values >> 8).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _webp_size(data: Data) -> tuple[int, int]:
    """Return the canvas (width, height) in pixels. *Source:* RFC 9649, sections 2.5 to 2.7."""
    kind, head = bytes(data[12:16]), bytes(data[20:30])
    if len(head) < 10 or kind not in (b"VP8X", b"VP8 ", b"VP8L"):
        raise BadImage("damaged WEBP: its header cannot be read")
    if kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(
            head[8:10], "little"
        ) & 0x3FFF
    bits = int.from_bytes(head[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _webp_exif(data: Data) -> bytes:
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"EXIF":
            return bytes(data[place + 8 : place + 8 + length]).removeprefix(b"Exif\0\0")
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
        if place + 12 > len(block):
            break
        if int.from_bytes(block[place : place + 2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(block[place + 8 : place + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _upright(pixels: Pixels, turn: int) -> Pixels:
    """Undo an EXIF orientation on (height, width, 3).

    *Source:* EXIF 2.32, section 4.6.4, tag 274.
    """
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
