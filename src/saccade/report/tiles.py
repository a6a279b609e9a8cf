"""Validation images in a report, such as the most confident mistakes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.data.images import decode
from saccade.objectives.page import Pictures
from saccade.report.html import Html, element, image
from saccade.report.record import Record

_TILE_PIXELS = 320
_TINY_PIXELS = 64


@dataclass(frozen=True)
class Tile:
    """One validation image with its prediction (``said``) and its true label (``true``).

    ``pixels`` is uint8 (h, w, 3), or None where the image is not at hand.
    """

    name: str
    said: str
    true: str
    alt: str
    pixels: NDArray[np.uint8] | None


def of(pictures: Pictures, record: Record) -> list[Tile]:
    """Return the pictures that an objective requests, read at the size of a tile."""
    return [
        Tile(
            _name(record, one.place),
            one.said,
            one.true,
            alt=one.alt,
            pixels=_pixels(record, one.place),
        )
        for one in pictures.pictures
    ]


def figure(tile: Tile) -> Html:
    """Return the picture with what was said, what is true, and the file's name."""
    said = element("span", tile.said, class_="said")
    name = element("span", tile.name, class_="file")
    caption = element("figcaption", said, tile.true, name)
    return element("figure", _picture(tile), caption)


def _picture(tile: Tile) -> Html:
    if tile.pixels is None:
        return element("div", "no picture", class_="gone")
    tiny = max(tile.pixels.shape) < _TINY_PIXELS
    kind = "png" if tiny else "jpeg"
    out = io.BytesIO()
    Image.fromarray(tile.pixels).save(out, kind, **({} if tiny else {"quality": 86}))
    return image(out.getvalue(), tile.alt, class_="tiny" if tiny else "photo")


def _name(record: Record, place: int) -> str:
    return record.split.names[place] if record.split is not None else f"image {place}"


def _pixels(record: Record, place: int) -> NDArray[np.uint8] | None:
    """Read one image at the size of a tile; None when it cannot be read any more."""
    if record.split is None:
        return None
    try:
        pixels = decode.decode(record.split.read(place))
    except (OSError, ValueError) as error:
        record.problems.append(f"{record.split.describe(place)} cannot be shown: {error}")
        return None
    small = Image.fromarray(pixels)
    small.thumbnail((_TILE_PIXELS, _TILE_PIXELS))
    return np.asarray(small)
