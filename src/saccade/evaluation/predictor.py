"""Prediction: classes and probabilities for image files and for images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from saccade.data.images import decode
from saccade.data.sources.peek import images_below
from saccade.device.allocator import keep_freed_memory
from saccade.errors import CheckpointError, DataError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits

Picture = str | Path | bytes | Image.Image | NDArray[Any]
"""An image: its file, the contents of a file, an image of Pillow, or an array.

An array is uint8 or uint16 of shape (height, width) or (height, width, channels): 1 gray, 3 RGB, 4
with alpha.
"""

_IMAGE_DIMENSIONS = 3
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_READ_FIX = (
    "repair or remove it; without --strict (strict=True in Python) the other images are still "
    "predicted"
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of one image, best first, as (class name, probability in 0..1).

    ``path`` is its file, or ``image 3`` for the fourth image in memory. An image that cannot be
    read has no classes, and ``error`` says why.
    """

    path: str
    top: tuple[tuple[str, float], ...]
    error: str = ""

    @property
    def label(self) -> str:
        """The most probable class, empty if the network predicts none.

        Raises DataError for an image that could not be read.
        """
        if self.error:
            raise DataError(self.error, where=self.path)
        return self.top[0][0] if self.top else ""


def predict(
    classifier: Classifier,
    pictures: Iterable[Picture],
    top: int = 5,
    *,
    strict: bool = False,
    batch: int = 32,
) -> Iterator[Prediction]:
    """Yield one prediction for each image, in order, through the same preprocessing as evaluation,
    in float32.

    ``top`` classes are given for each. Folders are searched for images. An image that cannot be
    read gets a prediction with an ``error``; with ``strict`` it raises DataError instead, as for a
    lack of images. Raises UsageError for a ``top`` below 1, CheckpointError if the network's output
    is not finite.
    """
    if not isinstance(top, int) or top < 1:
        raise UsageError(
            f"top={top!r} is not possible", where="top", fix="write a whole number, 1 or more"
        )
    classifier.network.eval()
    keep_freed_memory(next(classifier.network.parameters()).device)
    files = iter(_listed(pictures))
    # in chunks, as the images of a folder may not fit into memory
    while chunk := [
        (name, _prepare(picture, name, classifier)) for name, picture in islice(files, batch)
    ]:
        sound = [seen for _, seen in chunk if isinstance(seen, torch.Tensor)]
        answers = iter(_answers(torch.stack(sound), classifier, top) if sound else ())
        for name, seen in chunk:
            if isinstance(seen, torch.Tensor):
                yield Prediction(name, next(answers))
            elif strict:
                raise seen
            else:
                yield Prediction(name, (), seen.what)


def several(pictures: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Return a list of images; an array with four dimensions is several images."""
    if isinstance(pictures, str | Path | bytes | bytearray | memoryview | Image.Image):
        return [pictures]  # type: ignore[list-item]
    if isinstance(pictures, np.ndarray):
        return [pictures] if pictures.ndim <= _IMAGE_DIMENSIONS else list(pictures)
    if isinstance(pictures, torch.Tensor | IOBase) or not isinstance(pictures, Iterable):
        return [pictures]  # type: ignore[list-item]  # refused as an image is, in words
    return pictures


def _answers(
    pixels: torch.Tensor, classifier: Classifier, top: int
) -> list[tuple[tuple[str, float], ...]]:
    """Return the best classes with their probabilities for images, uint8 (B, 3, S, S)."""
    recipe, network = classifier.recipe, classifier.network
    with torch.inference_mode():
        inputs = recipe.normalised(pixels.to(next(network.parameters()).device))
        logits = mean_logits(network, inputs, recipe.eval_views)
        shares = recipe.learned.probabilities(logits).cpu()
    # a probability of NaN would be sorted anywhere
    if not bool(torch.isfinite(shares).all()):
        raise CheckpointError(
            "the network's output contains NaN or infinity",
            where=f"a network {recipe.model}",
            fix=("use an earlier checkpoint, and the mean and standard deviation of its training"),
        )
    return recipe.learned.answer(shares, top)


def _listed(pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Yield each image with its name; folders are searched recursively.

    Raises DataError when there is none.
    """
    count, folders = 0, []
    for place, picture in enumerate(pictures):
        if not isinstance(picture, str | Path):
            count += 1
            yield f"image {place}", picture
            continue

        path = Path(picture)
        found = [path]
        if path.is_dir():
            folders.append(str(path))
            found = images_below(path)
        for file in found:
            count += 1
            yield str(file), file
    if not count:
        raise DataError(
            "no images were given",
            where=", ".join(folders),
            fix="give image files, or folders of images",
        )


def _prepare(picture: Picture, name: str, classifier: Classifier) -> torch.Tensor | DataError:
    """Return the network's input for an image, uint8 (3, S, S), or the reason why it cannot be
    read.
    """
    recipe = classifier.recipe
    try:
        pixels = _pixels(picture, recipe.exif)
    except decode.BadImage as error:
        return DataError(f"this image cannot be read: {error}", where=name, fix=_READ_FIX)
    except FileNotFoundError:
        return DataError(
            "this file does not exist", where=name, fix="give image files or folders of images"
        )
    except OSError as error:
        return DataError(
            f"the file cannot be read: {error.strerror or error}", where=name, fix=_READ_FIX
        )
    return recipe.framing.square(pixels, recipe.eval_side)


def _pixels(picture: Picture, exif: decode.Exif) -> decode.Pixels:
    """Return an image as RGB, uint8 (height, width, 3), by the one policy.

    Raises BadImage or OSError.
    """
    if isinstance(picture, str | Path):
        return decode.decode(Path(picture).read_bytes(), exif=exif)
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode.decode(bytes(picture), exif=exif)
    if isinstance(picture, Image.Image):
        return decode.from_pillow(picture, exif=exif)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    raise decode.BadImage(
        f"type {type(picture).__name__} is not an image; use a path, bytes, Pillow image or array"
    )


def _from_array(values: NDArray[Any]) -> decode.Pixels:
    """Return an array, uint8 or uint16 (height, width) or (height, width, 1, 3 or 4), as RGB, uint8
    (height, width, 3).

    Raises BadImage on any other.
    """
    planes = values[..., None] if values.ndim == 2 else values
    if (
        values.dtype not in (np.uint8, np.uint16)
        or planes.ndim != 3
        or planes.shape[2] not in _MODES
        or not values.size
    ):
        raise decode.BadImage(
            f"an array of {values.dtype} with shape {values.shape} is not an image; use uint8 or "
            "uint16, (height, width) or (height, width, 1, 3 or 4)",
            "unsupported",
        )
    height, width, count = planes.shape
    levels = planes >> 8 if values.dtype == np.uint16 else planes
    raw = np.ascontiguousarray(levels, dtype=np.uint8).tobytes()
    return decode.from_pillow(Image.frombytes(_MODES[count], (width, height), raw))
