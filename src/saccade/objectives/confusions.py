"""The report of a classification: confusions, accuracy per class, mistakes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from saccade.objectives.metrics import confusion_matrix, per_class_accuracy
from saccade.objectives.page import Matrix, Part, Picture, Pictures, Seen, Share, Table

HEAT_MAP_CLASSES = 30
PAIRS_BESIDE, PAIRS_ALONE = 8, 20
MISTAKES = 12
TAKEN_FOR = 3

Counts = NDArray[np.int64]


def confusions(seen: Seen) -> list[Part]:
    """Return the parts of the page that follow from logits (n, C) and labels (n,)."""
    counts = confusion_matrix(seen.logits, seen.labels)
    return [_confused(counts, seen), _per_class(counts, seen), _mistakes(seen)]


def _confused(counts: Counts, seen: Seen) -> Part:
    """Return the matrix and the most common mistakes, or only these if there are many classes."""
    if len(seen.titles) > HEAT_MAP_CLASSES:
        pairs = _pairs(counts, seen, PAIRS_ALONE)
        return Part("Most confused classes", blocks=(pairs,) if pairs.rows else ())

    alt = f"Confusion matrix of {len(seen.titles)} classes; the table below has its figures"
    note = (
        "Rows are true classes, columns predictions. Blue is right, orange is wrong; the darker, "
        "the larger the share of the row."
    )
    pairs = _pairs(counts, seen, PAIRS_BESIDE)
    matrix = Matrix(counts, seen.titles, alt)
    return Part("Confusion matrix", note, (matrix, pairs) if pairs.rows else (matrix,))


def _pairs(counts: Counts, seen: Seen, count: int) -> Table:
    """Return the ``count`` classes that are confused most often."""
    wrong, images = counts.copy(), counts.sum(1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [(int(i) // len(wrong), int(i) % len(wrong)) for i in order]
    rows = [
        (
            seen.titles[true],
            seen.titles[said],
            f"{wrong[true, said]:,}",
            Share(float(wrong[true, said] / images[true])),
        )
        for true, said in pairs
        if wrong[true, said]
    ]
    return Table(("true class", "taken for", "times", "of the class"), rows, numbers=(2, 3))


def _per_class(counts: Counts, seen: Seen) -> Part:
    """Return the accuracy of each class, worst first, and its most common confusion."""
    accuracies = per_class_accuracy(counts)
    # classes without an image come last: they have no accuracy
    order = sorted(
        range(len(accuracies)),
        key=lambda c: (math.inf if math.isnan(accuracies[c]) else accuracies[c], c),
    )
    rows = [_class_row(counts[c], c, float(accuracies[c]), seen) for c in order]
    head = ("class", "images", "correct", "accuracy", "most often predicted as")
    return Part(
        "Classes, worst first", blocks=(Table(head, rows, numbers=(1, 2, 3), noun="classes"),)
    )


def _class_row(counts: Counts, place: int, accuracy: float, seen: Seen) -> tuple[str | Share, ...]:
    title = seen.titles[place]
    if math.isnan(accuracy):
        return title, "0", "0", "no images", ""

    others = [int(i) for i in np.argsort(-counts, kind="stable") if i != place and counts[i]]
    taken = ", ".join(f"{seen.titles[i]} ({counts[i]})" for i in others[:TAKEN_FOR])
    return title, f"{counts.sum():,}", f"{counts[place]:,}", Share(accuracy, bar=True), taken


def _mistakes(seen: Seen) -> Part:
    """Return the most confident mistakes, worst first."""
    sure = seen.logits.softmax(1).amax(1).numpy().copy()
    predicted, labels = seen.logits.argmax(1).numpy(), seen.labels.numpy()
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    if not len(order):
        return Part("Worst mistakes", "None: every image is classified correctly.")

    note = (
        "Wrong predictions with the highest confidence: predicted class and probability, then "
        "the true class."
    )
    pictures = []
    for i in order.tolist():
        said, true = seen.titles[predicted[i]], seen.titles[labels[i]]
        text = f"{said} · {100 * float(sure[i]):.1f}\u00a0%"
        pictures.append(Picture(i, text, f"is {true}", f"{true}, predicted as {said}"))
    return Part("Worst mistakes", note, (Pictures(pictures),))
