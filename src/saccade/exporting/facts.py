"""The description that an exported file carries."""

from __future__ import annotations

from typing import Any

from saccade._version import __version__
from saccade.data.sources.ilsvrc import class_name
from saccade.evaluation.classifier import Recipe
from saccade.exporting.answering import METADATA as METADATA
from saccade.exporting.outputs import Outputs
from saccade.exporting.whole import Input

_TAKES = {
    "uint8": "RGB images of the final size: uint8 (batch, height, width, 3)",
    "image": "one RGB image of any size: uint8 (1, height, width, 3)",
    "float": "normalised images: float32 (batch, 3, height, width)",
}


def facts(recipe: Recipe, given: Input, width: int = 0) -> dict[str, Any]:
    """Return everything that is needed to use a file, as JSON; the metadata of the file holds it,
    too.

    ``width`` is the number of features of an encoder.
    """
    fit = recipe.framing
    inside = {
        "uint8": "normalisation",
        "image": "resizing, cropping and normalisation",
        "float": "",
    }

    return {
        **(_of_features(width) if Outputs.of(recipe).are_features else _of_classes(recipe)),
        "takes": _TAKES[given],
        "inside": inside[given],
        "preprocessing": {
            "exif": recipe.exif,
            "fit": fit.how,
            "interpolation": fit.interpolation,
            "short_side": fit.short_side(recipe.eval_side) if fit.how == "crop" else None,
            "size": recipe.eval_side,
            "fill": list(fit.fill) if fit.how == "pad" else None,
            "mean": list(recipe.mean),
            "std": list(recipe.std),
            "channels": recipe.channels,
        },
        "network": recipe.model,
        "objective": recipe.objective,
        "saccade": __version__,
    }


def _of_classes(recipe: Recipe) -> dict[str, Any]:
    names = [class_name(one) for one in recipe.classes]
    return {
        "classes": list(recipe.classes),
        # what people call ImageNet's
        **({"names": names} if names != list(recipe.classes) else {}),
        "answers": "logits: float32 (batch, classes)",
        "views": recipe.eval_views,
    }


def _of_features(width: int) -> dict[str, Any]:
    return {"width": width, "answers": f"features: float32 (batch, {width})"}
