"""The losses of classification, summed over the images of a cell (micro-batch)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saccade.config.schema import LossSection


def balanced_weights(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return a weight for each class, shape ``(C,)``, inverse to its number of labels.

    Their mean over labels is 1.

    A class without labels has weight 0. *Source:* King and Zeng 2001, section 4.2.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.zeros(num_classes)
    weights[counts > 0] = len(labels) / (np.count_nonzero(counts) * counts[counts > 0])
    return weights


def mixed_loss(
    logits: Tensor, labels: Tensor, lam: float, section: LossSection, weights: Tensor | None
) -> Tensor:
    """Return the summed loss of a cell that was mixed with its mirror image, a float32 scalar.

    ``logits`` is (B, C), ``labels`` int64 (B,), ``weights`` one for each class (C,); ``lam``
    (lambda) is the weight of an image's own label, the rest is that of its partner in the mix.
    """
    if section.name == "bce":
        return binary_cross_entropy(logits, labels, lam, section, weights=weights)
    return mixed_cross_entropy(logits, labels, lam, section.label_smoothing, weights=weights)


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, lam: float, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Return the summed cross-entropy of a cell that was mixed with its mirror image, a float32
    scalar.

    ``logits`` is (B, C), ``labels`` int64 (B,), ``weights`` (C,). *Source:* Zhang et al. 2018,
    section 2; label smoothing: Szegedy et al. 2016, section 7.
    """
    # in float32: the exponentials of 16-bit logits overflow or lose their last bits
    logits = logits.float()

    def towards(target: Tensor) -> Tensor:
        if weights is None:
            return F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
        return (
            # torch's own weights would also weigh the smoothing, class by class
            weights[target]
            * F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        ).sum()

    # an unmixed cell is not computed twice
    if lam == 1.0:
        return towards(labels)
    return lam * towards(labels) + (1 - lam) * towards(labels.flip(0))


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    lam: float,
    section: LossSection,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the sum over a cell of the mean binary cross-entropy of all classes, a float32 scalar.

    ``logits`` is (B, C), ``labels`` int64 (B,), ``weights`` (C,). Both classes of a mixed image are
    present if their weight is above the threshold. *Source:* Wightman et al. 2021, "ResNet
    strikes back", section 3; the threshold: timm.
    """
    own, other = torch.full_like(labels, lam, dtype=torch.float32), labels.flip(0)
    targets = torch.zeros(logits.shape, device=logits.device)
    # added and not set: both images of a mix may have one class
    targets.scatter_add_(1, labels[:, None], own[:, None]).scatter_add_(
        1, other[:, None], 1 - own[:, None]
    )
    if section.bce_threshold is not None:
        targets = (targets > section.bce_threshold).float()
    targets = targets * (1 - section.label_smoothing) + section.label_smoothing / logits.shape[1]
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(1)
    if weights is not None:
        loss = loss * (lam * weights[labels] + (1 - lam) * weights[other])
    return loss.sum()
