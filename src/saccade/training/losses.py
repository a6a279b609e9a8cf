"""What is minimised."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def heads(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the logits (B, C) that a network gave: the main head's, then those of auxiliary heads."""
    return output if isinstance(output, tuple) else (output,)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, share: float, smoothing: float) -> Tensor:
    """Return the summed cross-entropy of a cell that was mixed with its mirror image, a float32 scalar.

    ``logits`` is (B, C), ``labels`` int64 (B,); ``share`` of each target is its own label, the rest the mirrored
    one's. *Source:* Zhang et al. 2018, section 2; label smoothing: Szegedy et al. 2016, section 7.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    if share == 1.0:
        return loss
    partner = F.cross_entropy(logits, labels.flip(0), reduction="sum", label_smoothing=smoothing)
    return share * loss + (1 - share) * partner
