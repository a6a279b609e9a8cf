"""The losses of joint embedding: views of one image must have similar embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def contrast(projected: Tensor, views: int, temperature: float) -> Tensor:
    """Return the NT-Xent loss summed over the views of a cell, a float32 scalar.

    ``projected`` is (B, p), the ``views`` of an image side by side. Each view is distinguished from
    all others of the cell by its cosine similarity to the other views of its image; for several,
    their mean counts. *Source:* Chen et al. 2020, "SimCLR", equation 1; for several, Khosla et al.
    2020, "SupCon", equation 2.
    """
    z = F.normalize(projected.float(), dim=1)
    place = torch.arange(len(z), device=z.device)
    itself = place[:, None] == place
    cosines = (z @ z.T / temperature).masked_fill(itself, -torch.inf)

    # the columns of the other views of the same image: (B, views - 1)
    turn = torch.arange(1, views, device=z.device)
    others = place[:, None] // views * views + (place[:, None] + turn) % views
    logs = F.log_softmax(cosines, dim=1).gather(1, others)
    return -logs.mean(1).sum()


def constant_contrast(views: int) -> float:
    """Return the NT-Xent loss summed over a cell of so many views that all have one embedding."""
    return views * math.log(max(views - 1, 1))


def constant_distil(teacher: Tensor, centre: Tensor, *, views: int, temperature: float) -> Tensor:
    """Return DINO's loss of an answer that does not depend on the image, summed over the large
    views of a cell, a float32 scalar.

    ``teacher`` is (B, K), the ``views`` of each image side by side; ``centre`` (K,). The answer is
    the mean of what the teacher returns for the other images, or the same for all prototypes if
    that is better.
    """
    images, prototypes = len(teacher) // views, teacher.shape[1]
    even = teacher.new_tensor(len(teacher) * math.log(prototypes), dtype=torch.float32)
    if images < 2:
        return even
    wanted = ((teacher.float() - centre) / temperature).softmax(1).view(images, views, -1).sum(1)

    # without the image itself: a mean that contains it knows something about it
    others = (wanted.sum(0) - wanted) / (len(teacher) - views)
    return torch.minimum(even, -(wanted * others.clamp(min=1e-12).log()).sum())


def distil(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    views: int,
    temperatures: tuple[float, float],
) -> Tensor:
    """Return DINO's loss summed over the large views of a cell, a float32 scalar.

    ``student`` is (B + M, K), the ``views`` of each image side by side, followed by its small
    views, the same number for each; ``teacher`` (B, K) and ``centre`` (K,); ``temperatures`` are
    the student's and the teacher's. Every large view of the teacher is compared with every other
    view of the student; the mean over these counts. *Source:* Caron et al. 2021, algorithm 1.
    """
    cool, sharp = temperatures
    images = len(teacher) // views
    wanted = ((teacher.float() - centre) / sharp).softmax(1).view(images, views, -1)
    logs = (student.float() / cool).log_softmax(1)
    large, small = logs[: len(teacher)], logs[len(teacher) :]

    # (images, teacher's view, student's view)
    crossed = -wanted @ large.view(images, views, -1).mT
    total = crossed.sum() - crossed.diagonal(dim1=1, dim2=2).sum()
    pairs = views * (views - 1)
    if len(small):
        count = len(small) // images
        total = total - (wanted @ small.view(images, count, -1).mT).sum()
        pairs += views * count
    # the mean over the pairs of an image, for each of its large views
    return total * (views / pairs)
