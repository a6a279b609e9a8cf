"""The checks of a file whose run computes in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from saccade.errors import ExportError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import int8_file
from saccade.exporting.int8 import BATCH_LIMIT
from saccade.exporting.proof import Exam
from saccade.models.quantized.naming import parsed

LIMIT = 0.1
"""Largest difference of a logit, as a share of the logits' standard deviation: integer kernels
sometimes round a sum to the next of 255 steps.
"""

ADVICE = (
    "export on a CPU with VNNI: on others onnxruntime may cut off sums of power-of-two; "
    "if it has VNNI, report this network"
)


def refuse(classifier: Classifier, formats: Sequence[str], *, int8: bool) -> None:
    """Raise UsageError for a format in which a run in 8 bits cannot be exported."""
    if parsed(classifier.recipe.model)[0] is None:
        return
    if int8:
        raise UsageError("this run already computes in 8 bits", where="--int8", fix="remove it")
    others = [name for name in formats if name != "onnx"]
    if others:
        raise UsageError(
            "a run in 8 bits leaves as ONNX alone: other formats have no words for its rounding",
            where=f"--format {others[0]}",
            fix="use --format onnx, or export the run in floats that it began with",
        )


def read_back(data: bytes, classifier: Classifier) -> dict[str, Any]:
    """Return the 8-bit facts of a file, as JSON; empty for a file in floats.

    Raises ExportError if weights are floats, or if a scale does not follow the scheme.
    """
    scheme, _ = parsed(classifier.recipe.model)
    if scheme is None:
        return {}
    in_floats = 4 * sum(p.numel() for p in classifier.network.parameters())
    said = int8_file.read_back(data, in_floats)
    if scheme.power_of_two:
        for name, scale in int8_file.scales(data).items():
            if (np.frexp(scale)[0] != 0.5).any():
                raise ExportError(
                    f"the scale of '{name}' in the file is not a power of two",
                    fix="report this network",
                )
    return {"scheme": scheme.name, **said}


def asked(exam: Exam) -> Exam:
    """Return the exam of a file, with the limits of 8 bits if its run computes in 8 bits."""
    if parsed(exam.classifier.recipe.model)[0] is None:
        return exam
    return replace(exam, limit=LIMIT, batch_limit=BATCH_LIMIT, advice=ADVICE)
