"""RMSprop as TensorFlow computes it, with which MobileNets and EfficientNets were trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class RmsPropTf(torch.optim.Optimizer):
    """RMSprop with epsilon under the root, a mean square that starts at one, and the rate inside
    the momentum.

    A changed rate therefore reaches the weights only as the momentum forgets the old one. Weight
    decay is a part of the gradient. *Source:* TensorFlow, RMSPropOptimizer and its kernel
    ApplyRMSProp, not centred.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        alpha: float,
        eps: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params if p.grad is not None]
            squares, velocities = (
                [self.state[p][s] for p in params] for s in ("square_avg", "momentum_buffer")
            )

            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - group["alpha"])

            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(velocities, group["momentum"])
            # the rate goes into the velocity, not into the weights: that is the point of this
            # variant
            torch._foreach_addcdiv_(velocities, grads, roots, group["lr"])
            torch._foreach_sub_(params, velocities)
        return None
