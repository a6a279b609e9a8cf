"""The preprocessing that weights expect, as a file of them or their library names it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saccade.models.weights import stored

Colours = tuple[float, float, float]
Interpolation = Literal["bilinear", "bicubic"]
IMAGENET: tuple[Colours, Colours] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES: tuple[Colours, Colours] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of most published weights: torchvision's, and those of networks from
TensorFlow.
"""
PUBLISHED_AS = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in folders of the Hugging Face hub, which other files describe."""

_PAIRS = (("mean", "std"), ("image_mean", "image_std"))
_LONGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The preprocessing with which published weights of a network were trained and evaluated.

    ``mean`` and ``std`` are for RGB values in 0..1, ``image_size`` is the side in pixels at
    evaluation, ``eval_crop`` the side of the central crop over the short side, and
    ``interpolation`` how images are resized.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    eval_crop: float
    interpolation: Interpolation


def interpolation(name: str) -> Interpolation:
    """Return a library's way to resize images; bilinear for all but bicubic."""
    return "bicubic" if name == "bicubic" else "bilinear"


def normalisation(file: Path) -> tuple[Colours, Colours] | None:
    """Return mean and standard deviation, for RGB values in 0..1, or None if nothing names them.

    They are in the header of a ``.safetensors``, or in files that the hub stores beside the
    weights: ``config.json`` of timm (``pretrained_cfg``), ``preprocessor_config.json`` of
    transformers.
    """
    for facts in _descriptions(file):
        for mean, std in _PAIRS:
            found = _colours(facts.get(mean)), _colours(facts.get(std))
            if found[0] and found[1] and min(found[1]) > 0:
                return found[0], found[1]
    return None


def _descriptions(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the descriptions of the weights, those about pretraining first."""
    texts = []
    if file.suffix == ".safetensors":
        remarks = stored.header(file).remarks
        yield remarks
        texts += [remarks.get("pretrained_cfg", "")]
    if file.name in PUBLISHED_AS:
        texts += [_text(file.with_name("config.json"))]
        texts += [_text(file.with_name("preprocessor_config.json"))]

    for text in texts:
        facts = _mapping(text)
        inner = facts.get("pretrained_cfg")
        if isinstance(inner, Mapping):
            yield inner
        yield facts


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8") if file.stat().st_size <= _LONGEST_BYTES else ""
    except (OSError, ValueError):
        return ""


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _colours(value: Any) -> Colours | None:
    """Return three finite numbers, from a list or from a text that contains one."""
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.strip("[]() ").replace(",", " ").split()]
        except ValueError:
            return None
    is_list = isinstance(value, list) and len(value) == 3
    if not is_list or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])
