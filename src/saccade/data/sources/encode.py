"""Images in memory as the bytes of image files: pixels without loss, files unchanged.

The loader reads files. An image that was handed over as pixels becomes a PGM or PPM file (gray or
RGB of 8 bits, decoded as fast as it is copied), or a PNG or TIFF where it has transparency, a
palette or another depth; what that means is decided once, where files are decoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRAY, RGB, RGBA = 1, 3, 4
"""Channels that an array may have."""

_PNG_MODES = frozenset(("1", "L", "LA", "I;16", "P", "RGB", "RGBA"))
_TIFF_MODES = frozenset(("CMYK", "I;16B", "PA", "YCbCr"))


class NoImage(ValueError):
    """An object that is not a usable image; ``fix`` is what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def encoded(image: Any) -> bytes | Path:
    """Return an image as the bytes of an image file, or the absolute path of its file.

    ``image`` is a path, the bytes of a file, an image of Pillow, an array or tensor, uint8 of shape
    (H, W), (H, W, 1, 3 or 4) or (1 or 3, H, W), or what Hugging Face calls an image that is not
    decoded, ``{"bytes": ..., "path": ...}``. Raises NoImage.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return absolute(image)
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, Mapping) and {"bytes", "path"} <= image.keys():
        content = image["bytes"] if image["bytes"] is not None else image["path"]
        if content is not None:
            return encoded(content)

    if is_array(image):
        values = as_array(image)
        return from_pixels(channels_last(values, values.shape))
    raise NoImage(
        f"type {type(image).__name__} is not an image",
        "pass paths, bytes of files, Pillow images, or uint8 arrays",
    )


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file from the root on; it may start at the working directory or at
    ``~``.
    """
    return Path(os.path.abspath(os.path.expanduser(path)))


def is_array(value: Any) -> bool:
    """Tell whether something has a shape and a type of numbers, as arrays and tensors have."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def holds_image(label: Any) -> bool:
    """Tell whether something in the place of a label is an image, or begins with one."""
    if isinstance(label, tuple) and label:
        label = label[0]
    return isinstance(label, Image.Image) or (is_array(label) and len(label.shape) > 1)


def as_array(value: Any) -> NDArray[np.uint8]:
    """Return an array or a tensor of any shape (...), wherever it lies, as an array of numpy.

    Raises NoImage where it is not uint8.
    """
    kind = str(value.dtype).removeprefix("torch.")
    tensor = hasattr(value, "detach")
    if kind != "uint8":
        raise NoImage(f"the pixels are {kind}, not uint8 from 0 to 255", _conversion(kind, tensor))
    return np.asarray(value.detach().cpu() if tensor else value)


def _conversion(kind: str, tensor: bool) -> str:
    """Say how to convert pixels of another type to uint8."""
    cast = "to(torch.uint8)" if tensor else "astype('uint8')"
    if "float" in kind:
        return (
            f"from 0..1: (x * 255).round().{cast}; from 0..255: x.round().{cast}; pass images "
            "before ToTensor, Normalize or other transforms: training does these itself"
        )
    if kind == "uint16":
        return f"keep the upper eight bits: (x >> 8).{cast}"
    return f"x.{cast} * 255" if kind == "bool" else f"x.{cast}, if all of them are from 0 to 255"


def channels_last(values: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return images with their channels behind: (..., H, W) or (..., H, W, C).

    ``shape`` is that of one image, the last two or three dimensions of ``values``. Channels may
    lie in front, as torch has them; where both readings are possible, none is taken. Raises
    NoImage.
    """
    if len(shape) == 2 and 0 not in shape:
        return values
    if len(shape) != 3 or 0 in shape:
        raise NoImage(
            f"shape {tuple(shape)} is not the shape of an image",
            "use (height, width), (height, width, 1, 3 or 4) or (1 or 3, height, width)",
        )
    behind, before = shape[2] in (GRAY, RGB, RGBA), shape[0] in (GRAY, RGB)
    if behind and before and shape[1:] != (1, 1):
        raise NoImage(
            f"in an image of shape {tuple(shape)} the channels can be first or last",
            "use images larger than three pixels, or gray images as (height, width)",
        )
    if not behind and not before:
        raise NoImage(
            f"an image of shape {tuple(shape)} has neither 1, 3 nor 4 channels",
            "use (height, width), (height, width, 1, 3 or 4) or (1 or 3, height, width)",
        )
    return values if behind else np.moveaxis(values, -3, -1)


def from_pixels(values: NDArray[np.uint8]) -> bytes:
    """Return one image, uint8 (H, W) or (H, W, 1, 3 or 4), as a file of PGM, PPM or PNG."""
    height, width, count = (*values.shape, 1)[:3]
    if count == RGBA:
        return _saved(Image.fromarray(np.ascontiguousarray(values)), "PNG")
    return netpbm_header(width, height, count) + values.tobytes()


def netpbm_header(width: int, height: int, channels: int) -> bytes:
    """Return what stands before the 8-bit pixels of a PGM (1 channel) or PPM file (3)."""
    kind = "P5" if channels == GRAY else "P6"
    return f"{kind}\n{width} {height}\n255\n".encode()


def _from_pillow(image: Image.Image) -> bytes:
    """Return an image of Pillow as a file; gray and RGB ones as the same array would be."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return from_pixels(np.asarray(image))
    if image.mode in _PNG_MODES:
        return _saved(image, "PNG")
    if image.mode in _TIFF_MODES:
        return _saved(image.convert("RGBA") if image.mode == "PA" else image, "TIFF")
    # Pillow cuts off what lies above 255, and most of such an image comes out white
    numbers = image.mode.startswith(("I", "F"))
    raise NoImage(
        f"a Pillow image in mode {image.mode} is not supported",
        "x = np.asarray(image); from 0..65535: (x // 256).astype('uint8'); from 0..255: "
        "x.round().astype('uint8'); convert('RGB') would cut values off"
        if numbers
        else "convert it: ImageCms.profileToProfile, or image.convert('RGB')",
    )


def _saved(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()
