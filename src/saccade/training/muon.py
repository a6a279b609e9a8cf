"""Muon: momentum whose update is made nearly orthogonal, for filters and matrices inside a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models.network import Network

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""*Source:* Jordan et al. 2024, "Muon": the quintic with the steepest slope at zero that keeps [0.7, 1.2]."""

NEWTON_SCHULZ_STEPS = 4
DAMPING = 3e-3
BLOCK_ROWS = 128
"""Rows orthogonalised together: the cost grows with their square. *Source:* Khaled et al. 2025, "MuonBP"."""

LEAST_SIDE = 4
"""A matrix with fewer rows or columns, such as a filter over the three colours, has no directions to balance."""


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return roughly the nearest matrix with orthonormal rows or columns, bfloat16, shape (rows, columns) as given.

    The iteration X <- (a + b XX' + c (XX')^2) X runs on the small Gram matrix XX' alone and touches X twice, which
    costs less than half of the plain form. The damping is essential: without it rounding in the Gram matrix makes
    small singular values explode. They stay below 1.2; the large ones end near 1, the smallest stay small. *Source:*
    Jordan et al. 2024, "Muon"; the bound on the norm is Schatten's of order 4.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().T
    gram = wide @ wide.T
    bound = gram.norm() + 1e-20
    rest = gram / bound
    rest.diagonal().add_(DAMPING)
    rest = rest / (1 + DAMPING)
    product = None
    for step in range(NEWTON_SCHULZ_STEPS):
        factor = torch.addmm(rest, rest, rest, beta=b, alpha=c)
        factor.diagonal().add_(a)
        if step < NEWTON_SCHULZ_STEPS - 1:
            rest = (factor @ rest) @ factor
        product = factor if product is None else factor @ product
    assert product is not None
    result = (product * bound.rsqrt()).bfloat16() @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, filters taken as (out, height x width x in) matrices.

    Blocks of ``BLOCK_ROWS`` rows are orthogonalised each by itself. The update is scaled by sqrt(max(1, rows /
    columns)). *Source:* Jordan et al. 2024, "Muon".
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for param in (p for p in group["params"] if p.grad is not None):
                velocity = self.state[param]["momentum_buffer"]
                scale = max(1.0, len(param) / param[0].numel()) ** 0.5
                blocks = (tensor.split(BLOCK_ROWS) for tensor in (param, param.grad, velocity))
                for weights, gradient, momentum in zip(*blocks, strict=True):
                    _advance(weights, gradient, momentum, group, scale)
        return None


def _advance(param: Tensor, gradient: Tensor, velocity: Tensor, group: dict[str, Any], scale: float) -> None:
    """Take the step of one block of rows, from its gradient to its weights while all of them are in the cache."""
    velocity.lerp_(gradient, 1 - group["momentum"])
    update = torch.lerp(gradient, velocity, group["momentum"]) if group["nesterov"] else velocity
    is_filter = update.dim() == 4
    last = update.permute(0, 2, 3, 1) if is_filter else update  # the order of columns is free, and this one is no copy
    direction = orthogonalise(last.flatten(1)).view(last.shape)
    param.mul_(1 - group["lr"] * group["weight_decay"])
    param.add_(direction.permute(0, 3, 1, 2) if is_filter else direction, alpha=-group["lr"] * scale)


def muon_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that Muon takes: hidden filters wider than 1x1, and hidden linear layers.

    Not hidden are what looks at the colours, heads (of a network that is not ours: its last linear layer) and tables.
    *Source:* Jordan et al. 2024, "Muon": inputs, outputs, embeddings, vectors and scalars go to another method.
    """
    linear = [place for place, module in model.named_modules() if isinstance(module, nn.Linear)]
    heads = {model.head_name, *model.aux_names} if isinstance(model, Network) else set(linear[-1:])
    taken = {f"{place}.weight" for place in linear if place not in heads}
    return {
        name
        for name, param in model.named_parameters()
        if min(param.shape[:2], default=0) >= LEAST_SIDE
        and (name in taken or (param.dim() == 4 and param.shape[-1] > 1 and name.rpartition(".")[0] not in heads))
    }
