"""The most confident mistakes, with their pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.data.images import decode
from saccade.report.html import Html, element, image
from saccade.report.record import Record

_TILE_PIXELS = 320
_TINY_PIXELS = 64


@dataclass(frozen=True)
class Mistake:
    """One image that was confidently taken for another class.

    ``pixels`` is uint8 (h, w, 3), or None without one.
    """

    name: str
    true: str
    predicted: str
    probability: float
    pixels: NDArray[np.uint8] | None

    @property
    def said(self) -> str:
        """What the network said and how sure it was."""
        return f"{self.predicted} · {100 * self.probability:.1f}\u00a0%"


def worst(record: Record, count: int = 12) -> list[Mistake]:
    """Return the most confident mistakes of a run, worst first.

    None when there are no predictions.
    """
    if record.answers is None:
        return []
    labels, predicted = record.answers.labels.tolist(), record.answers.predicted
    return [
        Mistake(
            _name(record, i),
            record.titles[labels[i]],
            record.titles[predicted[i]],
            probability,
            _pixels(record, i),
        )
        for i, probability in record.answers.worst(count)
    ]


def tile(mistake: Mistake) -> Html:
    """Return the picture with what was said, what is true, and the file's name."""
    said = element("span", mistake.said, class_="said")
    name = element("span", mistake.name, class_="file")
    caption = element("figcaption", said, f"is {mistake.true}", name)
    return element("figure", _picture(mistake), caption)


def _picture(mistake: Mistake) -> Html:
    if mistake.pixels is None:
        return element("div", "no picture", class_="gone")
    tiny = max(mistake.pixels.shape) < _TINY_PIXELS
    kind = "png" if tiny else "jpeg"
    out = io.BytesIO()
    Image.fromarray(mistake.pixels).save(out, kind, **({} if tiny else {"quality": 86}))
    alt = f"{mistake.true}, taken for {mistake.predicted}"
    return image(out.getvalue(), alt, class_="tiny" if tiny else "photo")


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
