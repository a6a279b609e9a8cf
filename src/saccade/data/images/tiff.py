"""TIFF: the kinds that Pillow reads correctly, and errors for the others.

For some kinds Pillow returns wrong pixels. These are corrected here, or refused as unsupported:
wrong pixels must never be used for training.

*Source:* TIFF 6.0; the pixels of each kind were compared with those of tifffile.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from saccade.data.images.limits import BadImage

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 258, 259, 262, 266
_SAMPLES, _PLANAR, _COLOUR_MAP, _FORMAT, _SUBSAMPLING = 277, 284, 320, 339, 530
_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_UNSIGNED = 1
_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 5: "complex"}
_COLOURS = {
    0: "gray (white is 0)",
    1: "gray",
    2: "RGB",
    3: "palette",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    32803: "raw",
}
_READ_BITS = (1, 2, 4, 8, 16)
_BIG = 43

Pixels = NDArray[np.uint8]


def check(image: Image.Image) -> None:
    """Raise BadImage for an opened TIFF of a kind that Pillow would decode wrongly."""
    tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    bits, planes = _of(tags, _BITS, 1), _of(tags, _PLANAR, 1)[0]
    packed, colour = _of(tags, _COMPRESSION, 1)[0] != 1, _of(tags, _PHOTOMETRIC, 0)[0]

    # Pillow opens all of these without an error and gives wrong colours, or black.
    wrong = (
        set(_of(tags, _FORMAT, _UNSIGNED)) != {_UNSIGNED}
        or not set(bits) <= set(_READ_BITS)
        or (planes == 2 and len(bits) > 1 and (max(bits) > 8 or colour not in (_RGB, _CMYK)))
        or (_of(tags, _FILL_ORDER, 1)[0] != 1 and max(bits) > 8)
        # 8-bit values: Pillow makes them black
        or (colour == _PALETTE and 0 < max(_of(tags, _COLOUR_MAP, 0)) < 256)
        or (colour == _YCBCR and not packed and set(_of(tags, _SUBSAMPLING, 2)) != {1})
    )
    if wrong:
        raise unsupported(tags)


def unsupported(tags: Mapping[int, Any]) -> BadImage:
    """Return the error about a kind of TIFF that is not read, by what its tags say."""
    count, bits = _of(tags, _SAMPLES, 1)[0], _of(tags, _BITS, 1)
    form = "/".join(
        str(_FORMATS.get(one, one)) for one in sorted(set(_of(tags, _FORMAT, _UNSIGNED)))
    )
    colour = _of(tags, _PHOTOMETRIC, 0)[0]
    facts = [
        f"{count} x {'/'.join(map(str, sorted(set(bits))))} bits {form}",
        str(_COLOURS.get(colour, f"photometric {colour}")),
    ]
    if count > 1 and _of(tags, _PLANAR, 1)[0] == 2:
        facts.append("plane by plane")
    compression = _of(tags, _COMPRESSION, 1)[0]
    facts += [f"compression {compression}"] * (compression != 1)
    return BadImage(
        f"unsupported TIFF: {', '.join(facts)}; save it as 8 bits, or as PNG", "unsupported"
    )


def _tags(data: bytes | memoryview) -> Mapping[int, Any] | None:
    """Return the tags of the first image of a TIFF; None without a size, pixels or sound tags."""
    try:
        head = bytes(data[: 16 if data[2] == _BIG else 8])
        file = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        sizes = [tags[256], tags[257], tags.get(273, tags.get(324)), _of(tags, _BITS, 1)]
        return dict(tags) if all(sizes) else None
    except Exception:  # as in images.open_header: the plugin raises anything on damaged headers
        return None


def refusal(data: bytes | memoryview) -> BadImage | None:
    """Return the error about a TIFF that Pillow does not open because of its kind.

    None for a damaged one.
    """
    if data[:4] == b"MM\0+":
        return BadImage(
            "unsupported TIFF: BigTIFF in big-endian order; save it as PNG", "unsupported"
        )
    tags = _tags(data)
    return None if tags is None else unsupported(tags)


def black_is_zero(image: Image.Image, values: NDArray[Any]) -> NDArray[Any]:
    """Return 16-bit gray of a loaded TIFF, uint16 (height, width), with black as 0.

    Pillow leaves it as stored.
    """
    tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    return 65535 - values if _of(tags, _PHOTOMETRIC, 0)[0] == _WHITE_IS_ZERO else values


def _of(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple | list) else (value,)
