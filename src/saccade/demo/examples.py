"""Example pictures: some of the validation images, and small copies of them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from saccade.data.images import decode
from saccade.data.sources import Split
from saccade.data.sources.ilsvrc import class_name
from saccade.data.sources.label_sets import are_sets, labels_in
from saccade.log import Log

COUNT = 12
THUMBNAIL_PIXELS = 160


@dataclass(frozen=True, slots=True)
class Example:
    """A validation image: its file, a small PNG of it, and its class."""

    data: bytes
    thumbnail: bytes
    shows: str


def of(split: Split, exif: decode.Exif) -> list[Example]:
    """Return examples spread over a split, which is sorted by class.

    ``exif`` says whether the orientation in a file is applied. Images that cannot be read are
    skipped, with a line on standard error.
    """
    wanted = np.unique(np.linspace(0, len(split) - 1, COUNT).round().astype(np.int64))
    found = []
    for place in wanted.tolist():
        try:
            data = bytes(split.read(place))
            thumbnail = png(small(decode.decode(data, exif=exif), THUMBNAIL_PIXELS))
        except (OSError, ValueError) as error:
            Log().warn(f"no example: {split.describe(place)} cannot be read: {error}")
            continue
        found.append(Example(data, thumbnail, _shows(split, place)))
    return found


def _shows(split: Split, place: int) -> str:
    name = split.classes[int(split.labels[place])]
    if are_sets(split.classes):
        return ", ".join(labels_in(name)) or "none"
    return class_name(name)


def small(pixels: decode.Pixels, side: int) -> Image.Image:
    """Return a copy of a picture, uint8 RGB (H, W, 3), that fits into a square of ``side`` pixels.

    A smaller picture keeps its size.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return image


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
