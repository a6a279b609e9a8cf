"""LAMB: Adam with the step of each tensor scaled to the norm of the tensor, for very large
batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lamb(torch.optim.Optimizer):
    """Adam with decoupled decay, each tensor's update rescaled to the norm of the tensor.

    A group with ``adapt`` False (norms, biases, tables) takes the plain update. *Source:* You et
    al. 2020, algorithm 2, with the identity as its function phi; no rescaling where one of the two
    norms is zero.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient; nothing waits for the device."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                torch._foreach_add_(params, self._update(group, params), alpha=-group["lr"])
        return None

    def _update(self, group: dict[str, Any], params: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the step of each parameter, of its shape, before the learning rate."""
        beta1, beta2 = group["betas"]
        grads = [p.grad for p in params if p.grad is not None]
        # in place from step 0, so that a checkpoint before the first step has the same tensors
        steps, means, squares = (
            [self.state[p][slot] for p in params] for slot in ("step", "exp_avg", "exp_avg_sq")
        )

        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)

        # Adam's step, both means corrected for their start at zero
        counts = torch.stack(steps).double()  # no ``float(t)``: it would wait for the device
        update = torch._foreach_div(means, list((1 - beta1**counts).float()))
        roots = torch._foreach_div(squares, list((1 - beta2**counts).float()))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_div_(update, roots)

        # before the rescaling: in LAMB the decay is a part of the step whose length is set
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])

        if group["adapt"]:
            size = torch.stack(list(torch._foreach_norm(params)))
            length = torch.stack(list(torch._foreach_norm(update)))
            # a tensor that starts at zero would never move
            trust = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
            torch._foreach_mul_(update, list(trust.unbind()))
        return list(update)
