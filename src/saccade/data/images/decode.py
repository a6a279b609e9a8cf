"""From the bytes of an image file to RGB: one policy for training, evaluation and prediction.

The format is recognised by the first bytes, not by the name. Gray is replicated; CMYK is converted
as Pillow does; transparency is composited on white; 16 bits become 8 by ``>> 8``; of an animation
the first frame is taken.
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
from saccade.data.images.formats import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from saccade.data.images.formats import Data as Data
from saccade.data.images.formats import format_of as format_of
from saccade.data.images.limits import MAX_PIXELS as MAX_PIXELS
from saccade.data.images.limits import BadImage as BadImage
from saccade.data.images.orientation import ORIENTATION_TAG, upright, webp_exif
from saccade.data.images.orientation import tiff_orientation as tiff_orientation
from saccade.errors import ConfigError

Exif = Literal["ignore", "apply"]
Pixels = NDArray[np.uint8]

_GAP = rb"(?:\s|#[^\n]*\n)+"
RAW_PNM = re.compile(
    rb"P([56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(255|65535)\s"
)
"""The header of a binary portable map of 8 or 16 bits: kind, width, height, largest value."""
_PILLOW_FILTER: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_UNSUPPORTED = re.compile(
    r"Unsupported (JPEG|BMP|color)|unknown raw mode|not (implemented|supported)"
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
        # refused from the header, before a pixel is allocated
        size(data)
        try:
            pixels = _unpadded(jpeg.decode(data, factor), data, factor)
        except ValueError as error:
            raise bad_image(data, kind, error) from error
    else:
        raw = _raw_pnm(data) if kind == "PPM" else None
        pixels = _decode_pillow(data, kind) if raw is None else raw
    return upright(pixels, orientation(data)) if exif == "apply" else pixels


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
    return webp_exif(data) if kind == "WEBP" else b""


def _jpeg_size(data: Data) -> tuple[int, int]:
    """Return (width, height) without the padding of a tiled file, which counts for the limit.

    Raises ValueError.
    """
    header = jpeg.probe(data)
    width, height = header[:2]
    # *Source:* ITU-T T.81, section B.2.5
    if width and not height:
        raise BadImage(
            "unsupported JPEG: the height is stored after the pixels (DNL)", "unsupported"
        )
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
    """Return the error about an image: of an unsupported kind, truncated, or damaged inside."""
    if isinstance(reason, BadImage):
        return reason
    if _UNSUPPORTED.search(str(reason)):
        return BadImage(f"unsupported {kind}: {reason}", "unsupported")

    # Truncated and damaged files get different names, because the remedies differ.
    if kind == "JPEG":  # pixels cannot hold an end marker, a thumbnail in the EXIF block can
        whole, block = bytes(data), exif_block(data)
        cut = b"\xff\xd9" not in whole[whole.find(block) + len(block) :]
    elif kind == "WEBP":
        cut = 8 + int.from_bytes(data[4:8], "little") > len(data)
    else:
        cut = "truncated" in str(reason)
    state = "truncated" if cut else "damaged"
    return BadImage(f"{state} {kind}: {reason}", state)


def _raw_pnm(data: Data) -> Pixels | None:
    """Decode a binary PGM or PPM of 8 or 16 bits; None for the other kinds, which Pillow reads."""
    header = RAW_PNM.match(data)
    if header is None:
        return None
    width, height, planes = int(header[2]), int(header[3]), 1 if header[1] == b"5" else 3
    limits.check_size(width, height)
    # *Source:* the PGM and PPM formats of Netpbm: two bytes a sample, the high one first
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
    """Ignore Pillow's warnings: what matters in them is an error here.

    Many threads decode at once.

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
        reason = "the header cannot be read" if isinstance(error, UnidentifiedImageError) else error
        raise bad_image(data, kind, reason) from error


def _decode_pillow(data: Data, kind: str) -> Pixels:
    # a switch of the whole process, which another library may have set
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "Pillow is set to accept truncated images, so training would silently use grey areas",
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
                # white, as everything transparent becomes
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
        turn = image.getexif().get(ORIENTATION_TAG, 1) if exif == "apply" else 1
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as in open_header
        raise BadImage(f"damaged image: {error}") from error
    return upright(pixels, turn if turn in range(1, 9) else 1)


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

    # Transparency on white, as a browser shows it.
    see_through = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if (
        image.format == "BMP"
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema() == (0, 0)
    ):
        # a writer that left the fourth byte empty; viewers show such a file as opaque, too
        see_through = False

    # Strip by strip: Pillow copies the image for every conversion.
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
        raise BadImage("gray values above 16 bits", "unsupported")
    gray = (values >> 8).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _webp_size(data: Data) -> tuple[int, int]:
    """Return the canvas (width, height) in pixels. *Source:* RFC 9649, sections 2.5 to 2.7."""
    kind, head = bytes(data[12:16]), bytes(data[20:30])
    if len(head) < 10 or kind not in (b"VP8X", b"VP8 ", b"VP8L"):
        raise BadImage("damaged WEBP: the header cannot be read")
    if kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(
            head[8:10], "little"
        ) & 0x3FFF
    bits = int.from_bytes(head[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
