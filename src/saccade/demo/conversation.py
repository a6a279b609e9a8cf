"""The requests of the page and their answers: values for JSON, independent of HTTP."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saccade.data.images import decode
from saccade.data.sources.ilsvrc import class_name
from saccade.demo.answerer import Answerer
from saccade.demo.examples import Example, png
from saccade.demo.heat_map import heat_map
from saccade.errors import DataError, SaccadeError

TOP = 5
SHOWN_CLASSES = 12
LARGEST_BYTES = 256 << 20
"""Largest file that the page may send, in bytes. A picture of the largest size is smaller as a
JPEG.
"""

HEAT = (226, 55, 24)
"""The colour of the map, RGB: it stands out from most photographs."""

STRONGEST = 0.72
"""The opacity of the map at its strongest: what is below can still be seen."""


class Conversation:
    """Answers the page, one picture after another.

    All computing is done in one thread: requests wait for each other.
    """

    def __init__(self, answerer: Answerer, examples: Sequence[Example]) -> None:
        self.examples = examples
        self._answerer = answerer
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saccade-demo")

    def about(self) -> dict[str, Any]:
        """Return the facts that the page shows before the first request."""
        recipe = self._answerer.recipe
        names = [class_name(name) for name in recipe.classes]
        return {
            "name": self._answerer.name,
            "network": recipe.model,
            "noun": recipe.learned.noun,
            "classes": names[:SHOWN_CLASSES],
            "count": len(names),
            "examples": [example.shows for example in self.examples],
            "largest_bytes": LARGEST_BYTES,
        }

    def answer(self, data: bytes) -> dict[str, Any]:
        """Return the best classes for an image file, and the network's view of it.

        Raises DataError if it cannot be read, CheckpointError if the answer is not a number.
        """
        return self._thread.submit(self._answer, data).result()

    def heat(self, data: bytes) -> dict[str, Any]:
        """Return the heat map of an image file, as a picture to lay over the network's view.

        Raises as ``answer`` does, and Abandoned at the end of the program.
        """
        return self._thread.submit(self._heat, data).result()

    def close(self) -> None:
        """End the computation in progress."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)

    def _answer(self, data: bytes) -> dict[str, Any]:
        pixels = self._pixels(data)
        shares = self._answerer.of_picture(pixels)
        (top,) = self._answerer.recipe.learned.answer(shares, TOP)
        seen = self._answerer.square(pixels)

        return {
            "top": [{"class": class_name(name), "probability": share} for name, share in top],
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "side": seen.shape[-1],
            "seen": _url(Image.fromarray(_rows(seen))),
        }

    def _heat(self, data: bytes) -> dict[str, Any]:
        seen = self._answerer.square(self._pixels(data))
        found = heat_map(self._answerer, seen, self._stop)
        return {
            "class": class_name(self._answerer.recipe.classes[found.place]),
            "before": found.before,
            "after": found.after,
            "map": _overlay(found.strength(seen.shape[-1])) if found.says_something else None,
        }

    def _pixels(self, data: bytes) -> decode.Pixels:
        try:
            return decode.decode(data, exif=self._answerer.recipe.exif)
        except decode.BadImage as error:
            # how it begins says nothing to whoever chose the wrong file
            what = "this file is not an image" if error.kind == "not-an-image" else str(error)
            raise DataError(what, fix="choose another picture") from error


def refusal(error: SaccadeError) -> Mapping[str, str]:
    """Return what the page shows instead of an answer: what is wrong, and what to do."""
    sentences = [part[:1].upper() + part[1:] for part in (error.what, error.fix) if part]
    return {"error": ". ".join(sentences) + "."}


def _rows(square: Tensor) -> decode.Pixels:
    """Return a square, uint8 (3, S, S), in image order: uint8 (S, S, 3)."""
    return np.ascontiguousarray(square.permute(1, 2, 0).numpy())


def _overlay(strength: Tensor) -> str:
    """Return a map, float32 (S, S) in 0..1, as a picture that is transparent where nothing depends
    on it.
    """
    side = strength.shape[-1]
    colour = torch.tensor(HEAT, dtype=torch.uint8).expand(side, side, 3)
    opacity = (255 * STRONGEST * strength).round().to(torch.uint8)[..., None]
    return _url(Image.fromarray(torch.cat([colour, opacity], 2).numpy()))


def _url(image: Image.Image) -> str:
    """Return an image as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
