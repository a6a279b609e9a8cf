"""Nearest neighbours: classification by the most similar training images, without training.

*Source:* Wu et al. 2018, arXiv 1805.01978, section 3.4; k and temperature as in Caron et al. 2021,
arXiv 2104.14294 (eval_knn.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.evaluation.features import Features

NEIGHBOURS = 20
TEMPERATURE = 0.07
AT_ONCE = 1 << 25
"""Similarities that are in memory at once."""


def vote(
    bank: Features,
    vectors: Tensor,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    num_classes: int,
) -> Tensor:
    """Return the votes of the ``k`` nearest images of a bank for vectors, float32 (n, d).

    Probabilities, float32 (n, C): a neighbour of cosine similarity ``s`` votes for its class with
    exp(s / temperature). Of equally near images the first ones of the bank count. A bank of fewer
    images votes as a whole.
    """
    k = min(k, len(bank))
    keys = F.normalize(bank.vectors)
    parts = max(AT_ONCE // len(bank), 1)
    found = []
    for queries in torch.split(F.normalize(vectors), parts):
        similarity, places = _nearest(queries @ keys.T, k)
        # relative to the largest possible one: the sum cannot overflow
        weights = ((similarity - 1) / temperature).exp()
        votes = weights.new_zeros(len(queries), num_classes)
        votes.scatter_add_(1, bank.labels[places], weights)
        found.append(votes / votes.sum(1, keepdim=True))
    return torch.cat(found) if found else vectors.new_zeros(0, num_classes)


def top1(
    bank: Features,
    judged: Features,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    num_classes: int,
) -> float:
    """Return the fraction, 0..1, of evaluated images whose class gets the most votes of the
    bank."""
    votes = vote(bank, judged.vectors, k=k, temperature=temperature, num_classes=num_classes)
    return float((votes.argmax(1) == judged.labels).double().mean())


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row (n, m) and their places, (n, k) each; of equal ones the
    first.
    """
    values, places = similarity.topk(k, 1)
    last = values[:, -1:]
    # topk takes any of those that are equal to the last one: only such rows are looked at again
    tied = (similarity >= last).sum(1) > k
    if bool(tied.any()):
        rows = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], places[tied] = rows.values[:, :k], rows.indices[:, :k]
    return values, places
