"""The ranges of numbers in a network, seen on training images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.errors import ExportError, UsageError
from saccade.evaluation import passes
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import sample
from saccade.exporting.onnx_file import INPUT
from saccade.exporting.whole import Input

Array = np.ndarray[Any, Any]
Ranges = Mapping[str, tuple[Array, Array]]

FEWEST = 16
"""Smallest number of images: the largest values of fewer say little about other images."""


def drawn(train: Split, judged: Split, count: int) -> Split:
    """Return about ``count`` training images, from each class in proportion, always the same ones.

    Raises UsageError if they are too few, or if they are also the evaluation images.
    """
    if train.fingerprint == judged.fingerprint:
        raise UsageError(
            "the calibration images are also the evaluation images",
            where="--data",
            fix="use data with a training split and a separate validation split",
        )
    chosen = sample(train, count)
    if len(chosen) < FEWEST:
        raise UsageError(
            f"{len(chosen)} training images are too few for calibration",
            where="--calibration",
            fix=f"use more: at least {FEWEST} are needed, of all classes in proportion",
        )
    return chosen


def fed(recipe: Recipe, split: Split, readers: Readers, given: Input) -> Iterable[Array]:
    """Yield the images of a split in the input format of a file, (up to 100, ...), in their
    evaluation view.

    They are uint8 (B, S, S, 3), or float32 (B, 3, S, S) if ``given`` is ``float``.
    """
    left = len(split)
    for cell in passes.cells(recipe, split, readers):
        # the last cell is padded
        images = cell.images[:left]
        left -= len(images)
        if given == "float":
            yield recipe.normalised(images).contiguous().numpy()
        else:
            yield images.permute(0, 2, 3, 1).contiguous().numpy()


def ranges(model: Any, names: Iterable[str], batches: Iterable[Array]) -> Ranges:
    """Return the smallest and the largest value, float32 scalars, of tensors of an ONNX model.

    ``names`` are floating-point tensors in it, ``batches`` its inputs, (B, ...) each. Raises
    ExportError if a value is not finite.
    """
    import onnx
    import onnxruntime

    wanted = sorted(set(names))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for kind in ("Min", "Max"):
        for name in wanted:
            node = onnx.helper.make_node(f"Reduce{kind}", [name], [f"{name}:{kind}"], keepdims=0)
            watched.graph.node.append(node)
            watched.graph.output.append(
                onnx.helper.make_tensor_value_info(f"{name}:{kind}", onnx.TensorProto.FLOAT, [])
            )

    options = onnxruntime.SessionOptions()
    # every tensor has to be there: fusions would remove some
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    seen = np.stack([np.stack(session.run(None, {INPUT: batch})) for batch in batches])
    low, high = seen[:, : len(wanted)].min(0), seen[:, len(wanted) :].max(0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ExportError(
            "a number in the network is NaN or infinite on a training image",
            fix="export without --int8, or use an earlier checkpoint",
        )
    return {n: (low[i], high[i]) for i, n in enumerate(wanted)}
