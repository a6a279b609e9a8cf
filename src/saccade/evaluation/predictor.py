"""Prediction: classes and probabilities for image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from saccade.data import augment, images
from saccade.data.mix import normalise
from saccade.errors import DataError
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of one image, best first, as (class name, probability in 0..1)."""

    path: str
    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Return the image files among paths, folders searched to the bottom; raises DataError when there are none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in images.IMAGE_SUFFIXES)
            found += sorted(p for p in inside if p.is_file() and not p.name.startswith("."))
        elif path.is_file():
            found.append(path)
        else:
            raise DataError("there is no such file", where=str(path), fix="give image files or folders of images")
    if not found:
        raise DataError(
            "there is no image here", where=", ".join(map(str, paths)), fix="give images or folders of them"
        )
    return found


def predict(classifier: Classifier, paths: Iterable[Path], top: int = 5, batch: int = 32) -> Iterator[Prediction]:
    """Yield one prediction per image file, in order, through the same preprocessing as evaluation, in float32.

    ``top`` classes are given for each. Raises DataError naming a file that is not an image.
    """
    recipe, network = classifier.recipe, classifier.network.eval()
    device = next(network.parameters()).device
    files = image_files(paths)
    for start in range(0, len(files), batch):
        chunk = files[start : start + batch]
        pixels = torch.stack([_prepare(path, classifier) for path in chunk])
        with torch.inference_mode():
            inputs = normalise(pixels.to(device), recipe.mean, recipe.std)
            shares = mean_logits(network, inputs, recipe.eval_views).softmax(1).cpu()
        best = shares.topk(min(top, len(recipe.classes)))
        for path, values, places in zip(chunk, best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = zip(places, values, strict=True)
            yield Prediction(str(path), tuple((recipe.classes[i], value) for i, value in pairs))


def _prepare(path: Path, classifier: Classifier) -> torch.Tensor:
    recipe = classifier.recipe
    try:
        pixels = images.decode(path.read_bytes(), exif=recipe.exif)
    except images.BadImage as error:
        raise DataError(f"this is not a readable image: {error}", where=str(path)) from error
    return augment.central_crop(pixels, recipe.eval_side, recipe.eval_crop)
