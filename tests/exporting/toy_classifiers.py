"""Small classifiers that were not trained, and images for them: what the tests of exports share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import saccade
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model

SIDE = 32
CLASSES = ("ant", "bee", "cat", "dog")
RECIPE = Recipe(
    model="lenet5",
    classes=CLASSES,
    image_size=SIDE,
    eval_crop=0.875,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    exif="apply",
)
Array = np.ndarray[Any, Any]


def classifier(name: str = "resnet8", side: int = SIDE, **recipe: Any) -> Classifier:
    """Return a network whose every number is drawn, statistics of norms among them."""
    torch.manual_seed(3)
    strides = recipe.get("strides", ())
    network = create_model(name, num_classes=len(CLASSES), image_size=side, strides=strides)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.1 * torch.rand_like(tensor)
                tensor.add_(noise if key.endswith("running_var") else noise - 0.05)
    about = replace(RECIPE, **({"model": name, "image_size": side} | recipe))
    return Classifier(network.to(memory_format=torch.channels_last).eval(), about)


def with_one_weight_changed(data: bytes) -> bytes:
    """Return an ONNX file in which the first number of the first convolution is another."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(data)
    weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    changed: bytes = model.SerializeToString()
    return changed


def images(count: int = 24, side: int = SIDE, seed: int = 1) -> Array:
    """Return images, uint8 (n, side, side, 3)."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def export(one: Classifier, out: Path, **more: Any) -> dict[str, Any]:
    """Export a classifier, proved on 24 images."""
    x = images(side=one.recipe.eval_side)
    labels = [CLASSES[i % len(CLASSES)] for i in range(len(x))]
    data = {"val": (x, labels), "train": (x, labels)}
    return saccade.export(one, out=out, data=data, split="val", **more)
