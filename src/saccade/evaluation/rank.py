"""The number of directions that features use, and their spread: both fall in a collapse."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SHARE = 1e-7


def effective_rank(vectors: Tensor) -> float:
    """Return the effective rank of vectors, float32 (n, d): from 1 to min(n, d).

    exp of the entropy of the singular values, normalised to a sum of 1. *Source:* Garrido et al.
    2023, "RankMe", arXiv 2210.02885, equation 1.
    """
    tall = vectors.double() if len(vectors) >= vectors.shape[1] else vectors.double().T
    # eigenvalues of the small square: many times faster than singular values of the whole
    energies = torch.linalg.eigvalsh(tall.T @ tall).clamp(min=0)
    values = energies.sqrt()
    if not float(values.sum()):
        return 1.0
    shares = values / values.sum() + SMALLEST_SHARE
    return math.exp(float(-(shares * shares.log()).sum()))


def spread(vectors: Tensor) -> float:
    """Return the spread of vectors, float32 (n, d): 0 if all are the same, 1 if their directions
    are even.

    The standard deviation of each component of the L2-normalised vectors, averaged, times sqrt(d).
    *Source:* Chen and He 2021, "SimSiam", arXiv 2011.10566, section 4.1.
    """
    deviation = F.normalize(vectors.double()).std(0, unbiased=False)
    return float(deviation.mean()) * math.sqrt(vectors.shape[1])
