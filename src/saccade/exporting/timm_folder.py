"""A folder that timm and transformers load: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import importlib.util
import json
import math
from typing import Any

import safetensors.torch
from torch import nn

from saccade.errors import ExportError, UsageError
from saccade.evaluation.classifier import Recipe
from saccade.exporting.outputs import Outputs
from saccade.exporting.whole import Whole
from saccade.models import backends
from saccade.models.weights.loading import foreign_state
from saccade.models.weights.tensor_bytes import separate

NAMES = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenetv2": "mobilenetv2_100",
    "mobilenet_v1": "mobilenetv1_100",
    "vit_ti_16": "vit_tiny_patch16_224",
    "vit_s_16": "vit_small_patch16_224",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}
"""timm's names for networks that have other names here; all other names are tried unchanged."""

_CROPS = {"crop": "center", "squash": "squash", "pad": "border"}


def require() -> None:
    """Raise UsageError if timm is missing."""
    if importlib.util.find_spec("timm") is None:
        raise UsageError(
            "a folder for timm needs timm to prove it",
            where="--format timm",
            fix="pip install timm",
        )


def contents(whole: Whole, recipe: Recipe) -> tuple[dict[str, bytes], str]:
    """Return the files by name, and timm's name of the network.

    Raises ExportError if timm has no such network, or if its configuration cannot describe the use.
    """
    reason = _unsayable(recipe)
    if reason:
        raise ExportError(
            f"a folder for timm cannot say that {reason}",
            where="--format timm",
            fix=(
                "--views 1 exports the classifier of a single view, and evaluates it; or use "
                "--format onnx or pt2, which hold all views"
                if recipe.eval_views > 1
                else "use --format onnx or pt2, which hold all of it"
            ),
        )
    name, arguments, state = _counterpart(whole.network, recipe)

    # what timm's create_model and transformers' TimmWrapper read
    config = {
        "architecture": name,
        "num_classes": _classes(recipe),
        "num_features": whole.width if whole.encodes else _features(whole.network),
        "model_args": arguments,
        "pretrained_cfg": {
            "architecture": name,
            "fixed_input_size": bool(arguments),
            **says(recipe),
        },
    }
    if not whole.encodes:
        config["label_names"] = list(recipe.classes)

    weights = safetensors.torch.save(separate(state), {"format": "pt"})
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return {"config.json": text.encode(), "model.safetensors": weights}, name


def says(recipe: Recipe) -> dict[str, Any]:
    """Return what timm has to know of the classes and the preprocessing."""
    side = recipe.eval_side
    return {
        "label_names": None if Outputs.of(recipe).are_features else list(recipe.classes),
        "num_classes": _classes(recipe),
        "input_size": [3, side, side],
        "interpolation": recipe.interpolation,
        "crop_pct": _crop_pct(recipe),
        "crop_mode": _CROPS[recipe.fit],
        "mean": list(recipe.mean),
        "std": list(recipe.std),
    }


def _crop_pct(recipe: Recipe) -> float:
    """Return the side over the short side such that timm, which rounds the short side down, finds
    ours.

    *Source:* ``transforms_imagenet_eval`` of timm 1.0.31.
    """
    if recipe.fit != "crop":
        return 1.0
    side, short = recipe.eval_side, recipe.framing.short_side(recipe.eval_side)
    usual = (recipe.framing.crop_fraction, side / short)
    return next((one for one in usual if math.floor(side / one) == short), side / (short + 0.5))


def _unsayable(recipe: Recipe) -> str:
    """Return what timm's configuration cannot describe; empty if nothing is missing."""
    if recipe.eval_views > 1:
        return f"the answer is the mean of {recipe.eval_views} views of an image"
    if recipe.channels != "rgb":
        return "the network sees blue first"
    if recipe.objective != "classification" and not Outputs.of(recipe).are_features:
        return f"its answers are those of {recipe.objective}"
    if recipe.model.startswith("custom:"):
        return "the network is your own"
    return ""


def _counterpart(network: nn.Module, recipe: Recipe) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return timm's name of a network, the arguments that build it, and its state under timm's
    names.
    """
    name = recipe.model.removeprefix("timm:")
    is_theirs = name != recipe.model
    if not is_theirs:
        name = NAMES.get(name, name)

    # a ViT's table of positions has the size of the images
    for arguments in ({}, {"img_size": recipe.eval_side}):
        theirs = backends.timm_state(name, _classes(recipe), **arguments)
        if theirs is None:
            continue
        state = network.state_dict() if is_theirs else foreign_state(network, "timm", like=theirs)
        if {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in theirs.items()}:
            return name, arguments, state
    raise _unknown(recipe)


def _unknown(recipe: Recipe) -> ExportError:
    return ExportError(
        f"timm has no network that equals {recipe.model} for images of {recipe.eval_side} px with "
        "these strides and patches",
        where="--format timm",
        fix="use --format onnx or pt2",
    )


def _classes(recipe: Recipe) -> int:
    """Return the number of classes, 0 for an encoder."""
    return 0 if Outputs.of(recipe).are_features else len(recipe.classes)


def _features(network: nn.Module) -> int:
    """Return the number of features before the head."""
    linear = [part for part in network.modules() if isinstance(part, nn.Linear)]
    return linear[-1].in_features if linear else 0
