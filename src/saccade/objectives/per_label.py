"""Metrics for several labels per image: average precision, F1, and mistakes.

All figures are of whole splits and do not depend on the order of the images: equal scores count
together, and losses are rounded before they are summed. A label that no image has is not evaluated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saccade.errors import DataError
from saccade.objectives.metrics import LOSS_STEP
from saccade.objectives.objective import require_finite
from saccade.objectives.page import Part, Picture, Pictures, Seen, Share, Table

THRESHOLD = 0.5
"""A label counts as predicted from this probability on, which is logit 0."""

MISTAKES = 12

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


class Counts(NamedTuple):
    """True positives, false positives and false negatives, int64 (C,) each."""

    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    missed: NDArray[np.int64]


class Best(NamedTuple):
    """The threshold, 0..1, with the best F1 on these images, and that F1."""

    threshold: float
    f1: float


def figures(logits: Tensor, truth: Tensor) -> dict[str, Any]:
    """Return the figures of a split from logits, float32 (n, C), and its labels, (n, C) of 0 and 1.

    ``map`` is the mean average precision and ``f1_macro`` the mean F1 over the ``judged`` labels,
    those that some image has; ``f1_micro`` is the F1 over all predictions; ``loss`` is the mean
    binary cross-entropy in nats. Raises DivergedError on a logit that is not finite, DataError when
    there is no image or no label to judge.
    """
    require_finite(logits)
    marks = truth.bool().cpu().numpy()
    judged = marks.any(0)
    if not len(marks) or not judged.any():
        raise DataError(
            "no label can be evaluated",
            fix="check that the validation split contains images with labels",
        )

    losses = F.binary_cross_entropy_with_logits(logits, truth.to(logits), reduction="none")
    sums = ((losses.double().mean(1).cpu() / LOSS_STEP).round() * LOSS_STEP).sum()
    counts = counted(logits, marks)
    scores = logits.double().cpu().numpy()
    places = np.flatnonzero(judged)
    precisions = [average_precision(scores[:, c], marks[:, c]) for c in places]
    return {
        "map": float(np.mean(precisions)),
        "f1_macro": float(f1(counts)[judged].mean()),
        "f1_micro": float(f1(Counts(*(part.sum(keepdims=True) for part in counts)))[0]),
        "loss": float(sums) / len(marks),
        "judged": int(judged.sum()),
        "n": len(marks),
    }


def average_precision(scores: Floats, marks: Marks) -> float:
    """Return the average precision of one label from scores (n,) and its presence (n,).

    The mean of the precision over the recall, without interpolation; equal scores are one step.
    *Source:* Zhu 2004, "Recall, precision and average precision", as in scikit-learn.
    """
    hits, said = _steps(scores, marks)
    recall = hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * hits / said))


def counted(logits: Tensor, marks: Marks) -> Counts:
    """Count true positives, false positives and false negatives at :data:`THRESHOLD`, of logits (n,
    C)."""
    said = (logits >= 0).cpu().numpy()
    return Counts(
        (said & marks).sum(0, dtype=np.int64),
        (said & ~marks).sum(0, dtype=np.int64),
        (~said & marks).sum(0, dtype=np.int64),
    )


def f1(counts: Counts) -> Floats:
    """Return the harmonic mean of precision and recall, float64 (C,); 0 if nothing is right."""
    double = 2.0 * counts.right
    return np.asarray(double / np.maximum(double + counts.wrong + counts.missed, 1.0))


def best_threshold(scores: Floats, marks: Marks) -> Best:
    """Return the threshold with the best F1 for one label, from logits (n,) and labels (n,).

    Of equal ones the highest. It is optimistic, because it is chosen on the evaluated images.
    """
    hits, said = _steps(scores, marks)
    f1s = 2 * hits / (said + hits[-1])
    place = int(np.argmax(f1s))
    logit = np.sort(np.unique(scores))[::-1][place]
    return Best(float(1 / (1 + np.exp(-logit))), float(f1s[place]))


def _steps(scores: Floats, marks: Marks) -> tuple[Floats, Floats]:
    """Return the numbers of true and of all positive predictions, float64 (k,), at each of k
    thresholds.

    The thresholds are the distinct scores, the highest first.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(marks[order], dtype=np.float64)[last]
    return hits, (last + 1).astype(np.float64)


def page(seen: Seen) -> list[Part]:
    """Return the table of the labels and the most confident mistakes, of logits and labels (n,
    C)."""
    marks = seen.labels.bool().numpy()
    return [_table(seen, marks), _mistakes(seen, marks)]


def _table(seen: Seen, marks: Marks) -> Part:
    """Return a row for each label, the lowest average precision first."""
    counts, scores = counted(seen.logits, marks), seen.logits.double().numpy()
    images, f1s = marks.sum(0), f1(counts)
    judged = [int(c) for c in np.flatnonzero(images)]
    precision = {c: average_precision(scores[:, c], marks[:, c]) for c in judged}

    rows: list[tuple[str | Share, ...]] = []
    for c in sorted(judged, key=lambda c: (precision[c], c)):
        best = best_threshold(scores[:, c], marks[:, c])
        said = counts.right[c] + counts.wrong[c]
        rows.append(
            (
                seen.titles[c],
                f"{images[c]:,}",
                Share(precision[c], bar=True),
                Share(float(f1s[c])),
                Share(float(counts.right[c] / said)) if said else "never said",
                Share(float(counts.right[c] / images[c])),
                f"{best.threshold:.2f}",
                Share(best.f1),
            )
        )
    rows += [
        (seen.titles[c], "0", "no images", "", "", "", "", "")
        for c in range(len(images))
        if not images[c]
    ]

    head = ("label", "images", "average precision", "F1", "precision", "recall", "best at", "F1 so")
    note = (
        f"F1, precision and recall are at a probability of {THRESHOLD:g}, as in `saccade "
        "predict`. The last two columns show the probability with the best F1 on these images, "
        "and that F1: it is optimistic, because the threshold is chosen on the same images."
    )
    table = Table(head, rows, numbers=range(1, len(head)), noun="labels")
    return Part("Labels, worst first", note, (table,))


def _mistakes(seen: Seen, marks: Marks) -> Part:
    """Return the images with the most confident wrong predictions, one per image."""
    probabilities = seen.logits.double().sigmoid().numpy()
    wrong = (probabilities >= THRESHOLD) != marks
    sure = np.where(wrong, np.abs(probabilities - marks), 0.0)
    worst = sure.max(1)
    order = [int(i) for i in np.argsort(-worst, kind="stable")[:MISTAKES] if worst[i] > 0]
    if not order:
        return Part("Worst mistakes", "None: every label of every image is right.")

    pictures = []
    for i in order:
        c = int(sure[i].argmax())
        title, chance = seen.titles[c], f"{100 * probabilities[i, c]:.1f}\u00a0%"
        held = ", ".join(seen.titles[k] for k in np.flatnonzero(marks[i]).tolist()) or "no label"
        text = f"{'missed ' if marks[i, c] else ''}{title} · {chance}"
        alt = f"{held}; {'missed' if marks[i, c] else 'wrongly predicted'}: {title}"
        pictures.append(Picture(i, text, f"has {held}", alt))
    note = (
        "Wrong predictions with the highest confidence, one per image: a label and its predicted "
        "probability, then the true labels."
    )
    return Part("Worst mistakes", note, (Pictures(pictures),))
