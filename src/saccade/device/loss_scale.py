"""The factor on an fp16 loss that keeps small gradients from vanishing.

A part of the state, kept on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

START, LEAST, MOST = 2.0**16, 1.0, 2.0**24
GROW_AFTER = 2000
"""Steps without an overflow until the factor doubles. *Source:* Micikevicius et al. 2018, section
3.2; the figures are those of torch.amp.GradScaler.
"""


class LossScale:
    """A power of two that doubles after 2,000 good steps and halves at an overflow; that step is
    skipped.

    Both are scalars on the device, so that nothing waits for them.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), START, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """Return both scalars by name."""
        return {"factor": self.factor, "good_steps": self.good_steps}

    def is_exhausted(self) -> Tensor:
        """Tell, as a bool scalar, whether the factor is at its minimum: then an overflow is a
        problem of the model.
        """
        return self.factor <= LEAST

    def update(self, finite: Tensor) -> None:
        """Record whether the gradients of a step were finite, a bool scalar."""
        factor, good_steps = following(self.factor, self.good_steps, finite)
        self.factor.copy_(factor)
        self.good_steps.copy_(good_steps)


def following(factor: Tensor, good_steps: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Return factor and number of good steps, both scalars, after one more step."""
    good_steps = torch.where(finite, good_steps + 1, torch.zeros_like(good_steps))
    grows = good_steps >= GROW_AFTER
    # powers of two: scaling and taking it out again loses no bit
    factor = torch.where(finite, torch.where(grows, factor * 2, factor), factor / 2)
    return factor.clamp(LEAST, MOST), torch.where(grows, torch.zeros_like(good_steps), good_steps)
