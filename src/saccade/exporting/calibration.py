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
Ranges = Mapping[str, tuple[np.float32, np.float32]]

FEWEST = 16
"""Smallest number of images: the largest values of fewer say little about other images."""

OUTSIDE = 0.01
"""Share of the images whose smallest or largest number may lie outside a range, at each end.

*Source:* measured, `docs/LOG.md`, 2026-11-29: of airbench_photo_s the error of the logits halves.
"""


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
    """Return the ends of the ranges, float32 scalars, of tensors of an ONNX model.

    Each image has a smallest and a largest number in a tensor; of these, the ``OUTSIDE`` furthest
    from the rest are left out. ``names`` are float tensors in the model, ``batches`` its inputs,
    (B, ...) each. Raises ExportError where a number is not finite.
    """
    import onnxruntime

    wanted = sorted(set(names))
    options = onnxruntime.SessionOptions()
    # every tensor has to be there: fusions would remove some
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _watched(model, wanted).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    answers = [session.run(None, {INPUT: batch}) for batch in batches]
    seen = [
        np.concatenate([np.atleast_1d(one) for one in rows]) for rows in zip(*answers, strict=True)
    ]
    if not all(np.isfinite(one).all() for one in seen):
        raise ExportError(
            "a number in the network is NaN or infinite on a training image",
            fix="export without --int8, or use an earlier checkpoint",
        )

    lows, highs = seen[: len(wanted)], seen[len(wanted) :]
    return {
        name: (np.float32(np.quantile(low, OUTSIDE)), np.float32(np.quantile(high, 1 - OUTSIDE)))
        for name, low, high in zip(wanted, lows, highs, strict=True)
    }


def _watched(model: Any, names: list[str]) -> Any:
    """Return an ONNX model that answers with the smallest number of each image in each tensor,
    (B,) each, then with the largest; of tensors without images, those of all of it, ().
    """
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    told = (*graph.value_info, *graph.input, *graph.output)
    sizes = {one.name: len(one.type.tensor_type.shape.dim) for one in told}
    del graph.output[:]
    for rank in sorted(set(sizes.values()) - {0, 1}):
        axes = np.arange(1, rank, dtype=np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(axes, f"within:{rank}"))

    for kind in ("Min", "Max"):
        for name in names:
            rank = sizes.get(name, 0)
            given = [name, f"within:{rank}"] if rank > 1 else [name]
            made = f"{name}:{kind}"
            graph.node.append(onnx.helper.make_node(f"Reduce{kind}", given, [made], keepdims=0))
            graph.output.append(
                onnx.helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, None)
            )
    return watched
