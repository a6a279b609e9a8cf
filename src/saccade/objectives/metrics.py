"""Metrics of a classifier: exact counts, ranks with ties resolved, confusions, and intervals.

A network whose logits are all equal must not look good, so a tie counts against the target unless
its class comes first. A logit that is not finite raises an error: it is neither right nor silently
wrong.
"""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saccade.errors import DataError
from saccade.objectives.objective import require_finite

CONFIDENCE_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution, for two-sided 95 % intervals."""

# Losses are rounded to multiples of this before they are summed in float64. Such sums are exact
# below 5e8, so the figure does not depend on the order of the batches or on the number of ranks. It
# is half a float32 ulp of 1.
LOSS_STEP = 2.0**-24

_FIGURES = ("top1", "top5", "loss", "correct", "correct5", "n")


class Score:
    """Running counts over batches of logits.

    Equal for any batch size and any order of the batches.
    """

    def __init__(self) -> None:
        self.correct = 0
        self.correct5 = 0
        self.n = 0
        self.loss_sum = 0.0

    def add(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        """Count one batch.

        ``logits`` is float32 (b, C), ``labels`` int64 (b,) in 0..C-1, ``mask`` bool (b,): rows
        where it is False are padding and are ignored. Raises DivergedError when a logit of a
        counted row is not finite.
        """
        if mask is not None:
            logits, labels = logits[mask], labels[mask]
        places = ranks(logits, labels)
        losses = F.cross_entropy(logits, labels, reduction="none").double().cpu()
        self.correct += int((places < 1).sum())
        self.correct5 += int((places < 5).sum())
        self.n += len(labels)
        self.loss_sum += float(((losses / LOSS_STEP).round() * LOSS_STEP).sum())

    @property
    def top1(self) -> float:
        """Fraction of the images whose class has rank 0, from 0 to 1.

        Raises DataError if none was counted.
        """
        return self.correct / self._counted()

    @property
    def top5(self) -> float:
        """Fraction of the images whose class is among the first five, from 0 to 1.

        Raises DataError if none was counted.
        """
        return self.correct5 / self._counted()

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats; raises DataError when no image was counted."""
        return self.loss_sum / self._counted()

    def to_json(self) -> dict[str, Any]:
        """Return ``top1`` and ``top5`` as fractions, ``loss`` in nats and the counts behind
        them.
        """
        return {name: getattr(self, name) for name in _FIGURES}

    def _counted(self) -> int:
        if self.n == 0:
            raise DataError(
                "no image was evaluated", fix="check that the validation split contains images"
            )
        return self.n


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the rank of the target of each row, int64 (n,) from 0 to C-1.

    ``logits`` is float32 (n, C), ``labels`` int64 (n,). The rank is the number of classes with a
    larger logit, or an equal one and a smaller index. Raises DivergedError when a logit is not
    finite.
    """
    require_finite(logits)
    index = torch.arange(logits.shape[1], device=logits.device)
    target = logits.gather(1, labels[:, None])
    # of equal logits the first class wins, as argmax would have it
    ahead = (logits > target) | ((logits == target) & (index < labels[:, None]))
    return ahead.sum(1)


@overload
def top_k_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float: ...
@overload
def top_k_accuracy(logits: Tensor, labels: Tensor, k: tuple[int, ...]) -> tuple[float, ...]: ...
def top_k_accuracy(
    logits: Tensor, labels: Tensor, k: int | tuple[int, ...] = 1
) -> float | tuple[float, ...]:
    """Return the fraction of rows, 0..1, whose target is among the ``k`` classes with the largest
    logits.

    ``logits`` is float32 (n, C), ``labels`` int64 (n,); several ``k`` give one fraction each. With
    ``k`` of at least C every row counts as correct. Raises DivergedError on logits that are not
    finite, DataError when there is no row, ValueError when ``k`` is below 1.
    """
    wanted = (k,) if isinstance(k, int) else k
    if min(wanted, default=1) < 1:
        raise ValueError(f"k must be at least 1, not {min(wanted)}")
    if len(labels) == 0:
        raise DataError("there are no rows to score")
    places = ranks(logits, labels)
    shares = tuple(int((places < one).sum()) / len(labels) for one in wanted)
    return shares[0] if isinstance(k, int) else shares


def confusion_matrix(logits: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """Return the confusion matrix, int64 (C, C): rows are true classes, columns predictions.

    ``logits`` is float32 (n, C), ``labels`` int64 (n,). Of equal logits the smallest index is the
    prediction, so the trace equals the number correct. Raises DivergedError when a logit is not
    finite.
    """
    require_finite(logits)
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return (
        torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).cpu().numpy()
    )


def per_class_accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the accuracy of each class, float64 (C,) in 0..1, NaN for a class without images.

    ``confusion`` is int64 (C, C), rows true, columns predicted.
    """
    images = confusion.sum(1)
    out = np.full(len(images), np.nan)
    np.divide(np.diagonal(confusion), images, out=out, where=images > 0)
    return out


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of ``correct / n`` as two fractions in 0..1.

    Raises ValueError.

    It describes the uncertainty from the limited number of images, not the spread between training
    runs. *Source:* Wilson 1927, equation for the interval of a proportion.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is not a valid proportion")
    z2 = CONFIDENCE_95**2
    share = correct / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = CONFIDENCE_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
