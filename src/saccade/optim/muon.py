"""Muon: momentum whose update is made nearly orthogonal, for hidden filters and matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models.parts.network import Network

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The quintic with the steepest slope at zero that keeps [0.7, 1.2].

*Source:* Jordan et al. 2024, "Muon".
"""

NEWTON_SCHULZ_STEPS = 4
DAMPING = 3e-3
BLOCK_ROWS = 128
"""Rows orthogonalised together: the cost grows with their square.

*Source:* Khaled et al. 2025, "MuonBP".
"""

LEAST_SIDE = 4
"""A matrix with fewer rows or columns, such as a filter over the three colours, has no
directions to balance.
"""


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return for each matrix roughly the nearest one with orthonormal rows or columns.

    Results are bfloat16, in the shapes given, ``(rows, columns)``. The iteration X <- (a + b XX' +
    c (XX')^2) X runs on the small Gram matrices XX' alone, all of one size together, and touches X
    twice, which costs less than half of the plain form. The damping is essential: without it
    rounding in the Gram matrix makes small singular values explode. They stay below 1.2; the large
    ones end near 1, the smallest stay small. *Source:* Jordan et al. 2024, "Muon"; the bound on the
    norm is Schatten's of order 4.
    """
    # the smaller side is the one of the Gram matrix
    wide = [m.bfloat16() if m.shape[0] <= m.shape[1] else m.bfloat16().T for m in matrices]
    factors: dict[int, Tensor] = {}
    # one batch of products for each size: many small kernels were what Muon's time went into
    for size in sorted({len(m) for m in wide}):
        members = [i for i, m in enumerate(wide) if len(m) == size]
        together = _balancing(torch.stack([wide[i] @ wide[i].T for i in members]))
        factors |= dict(zip(members, together, strict=True))
    results = (factors[i] @ m for i, m in enumerate(wide))
    return [r if m.shape[0] <= m.shape[1] else r.T for r, m in zip(results, matrices, strict=True)]


def _balancing(grams: Tensor) -> Tensor:
    """Return the factors from the left that make matrices orthogonal, bfloat16 (k, n, n).

    ``grams`` are the Gram matrices of those, of the same shape.
    """
    a, b, c = NEWTON_SCHULZ
    # the norm of XX' bounds the square of the largest singular value, so all lie in [0, 1] after it
    bound = grams.norm(dim=(1, 2), keepdim=True) + 1e-20
    rest = grams / bound
    # without it singular values reached 320 to 4.5e7 in bfloat16 (docs/LOG.md, 2026-11-20)
    rest.diagonal(dim1=1, dim2=2).add_(DAMPING)
    rest = rest / (1 + DAMPING)

    # each pass multiplies the product by one more polynomial of what is left
    product = None
    for step in range(NEWTON_SCHULZ_STEPS):
        factor = torch.baddbmm(rest, rest, rest, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        # what is left after the last pass is needed by nobody
        if step < NEWTON_SCHULZ_STEPS - 1:
            rest = (factor @ rest) @ factor
        product = factor if product is None else factor @ product
    assert product is not None
    # the scale of the inputs is taken out here: it was divided out of the Gram matrices only
    return (product * bound.rsqrt()).bfloat16()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, filters taken as (out, height x width x in)
    matrices.

    Blocks of ``BLOCK_ROWS`` rows are orthogonalised each by itself. The update is scaled by
    sqrt(max(1, rows / columns)). With ``fixed_norm`` each filter or matrix is scaled back to the
    norm sqrt(rows) before its update, so that a rate is always the same fraction of it. This is
    safe only where a norm follows, which makes the scale irrelevant. *Source:* Jordan et al. 2024,
    "Muon"; the fixed norm is that of its public code for CIFAR-10.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        fixed_norm: bool = False,
    ) -> None:
        defaults = {
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "fixed_norm": fixed_norm,
        }
        super().__init__(params, {"lr": lr, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            trained = [(p, p.grad) for p in group["params"] if p.grad is not None]
            blocks = [
                torch.split(_rows(self._update(*pair, group)), BLOCK_ROWS) for pair in trained
            ]
            directions = iter(orthogonalise([block for several in blocks for block in several]))

            for (param, _), several in zip(trained, blocks, strict=True):
                direction = torch.cat([next(directions) for _ in several])
                scale = max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
                if group["fixed_norm"]:
                    # before the update, so that the step is this fraction of a filter of known norm
                    param.mul_(len(param) ** 0.5 / (param.norm() + 1e-12))
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(_shaped(direction, param), alpha=-group["lr"] * scale)
        return None

    def _update(self, param: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        velocity: Tensor = self.state[param]["momentum_buffer"]
        velocity.lerp_(gradient, 1 - group["momentum"])
        return torch.lerp(gradient, velocity, group["momentum"]) if group["nesterov"] else velocity


def _rows(update: Tensor) -> Tensor:
    """Return a filter (out, in, H, W) as bfloat16 rows.

    The order of columns is free, and this one is no copy.
    """
    return (update.permute(0, 2, 3, 1) if update.dim() == 4 else update).flatten(1).bfloat16()


def _shaped(rows: Tensor, param: Tensor) -> Tensor:
    """Return rows in the shape of the parameter that they belong to."""
    if param.dim() != 4:
        return rows
    out, channels, height, width = param.shape
    return rows.view(out, height, width, channels).permute(0, 3, 1, 2)


def muon_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that Muon takes: hidden filters and hidden linear layers.

    It does not take the layer that looks at the colours, heads (of a network that is not ours: its
    last linear layer) and tables. *Source:* Jordan et al. 2024, "Muon": inputs, outputs,
    embeddings, vectors and scalars go to another method.
    """
    linear = [place for place, module in model.named_modules() if isinstance(module, nn.Linear)]
    heads = {model.head_name, *model.aux_names} if isinstance(model, Network) else set(linear[-1:])
    taken = {f"{place}.weight" for place in linear if place not in heads}
    return {
        name
        for name, param in model.named_parameters()
        if min(param.shape[:2], default=0) >= LEAST_SIDE
        and (name in taken or (param.dim() == 4 and name.rpartition(".")[0] not in heads))
    }
