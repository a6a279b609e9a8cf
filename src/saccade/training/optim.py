"""Optimisers: which tensor gets which, made once, with their state in place from step 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config import Config
from saccade.models.network import undecayed
from saccade.units import Rate

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""*Source:* Jordan et al. 2024, "Muon": the quintic with the steepest slope at zero that keeps [0.7, 1.2]."""

NEWTON_SCHULZ_STEPS = 4
DAMPING = 3e-3
BLOCK_ROWS = 128
"""Rows orthogonalised together: the cost grows with their square. *Source:* Khaled et al. 2025, "MuonBP"."""


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
    """Momentum whose update is orthogonalised: for convolution filters, as (out, in x height x width) matrices.

    Blocks of ``BLOCK_ROWS`` rows are orthogonalised each by itself. The update is scaled by sqrt(max(1, rows /
    columns)). *Source:* Jordan et al. 2024, "Muon".
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter."""
        assert closure is None
        for group in self.param_groups:
            for param in group["params"]:
                velocity = self.state[param]["momentum_buffer"]
                velocity.lerp_(param.grad, 1 - group["momentum"])
                update = torch.lerp(param.grad, velocity, group["momentum"]) if group["nesterov"] else velocity
                last = update.permute(0, 2, 3, 1)  # the order of the columns does not matter, and this one is no copy
                rows = last.flatten(1)
                scale = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
                blocks = [orthogonalise(block) for block in rows.split(BLOCK_ROWS)]
                direction = torch.cat(blocks).view(last.shape).permute(0, 3, 1, 2)
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(direction, alpha=-group["lr"] * scale)
        return None


@dataclass(frozen=True, slots=True)
class Optimizers:
    """The optimisers of a run; one schedule factor drives the rates of all.

    ``names`` maps every trained parameter, of any shape ``(...)``, to its name; ``formula`` says how the rates came
    about.
    """

    parts: tuple[torch.optim.Optimizer, ...]
    names: dict[Tensor, str]
    formula: str

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to its peak times the schedule's factor."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * factor

    @property
    def lr(self) -> float:
        """The current learning rate of the first group."""
        return float(self.parts[0].param_groups[0]["lr"])

    def step(self) -> None:
        """Apply one update."""
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return every live state tensor by ``parameter/slot``, each of the shape of its parameter or a scalar."""
        return {
            f"{self.names[param]}/{slot}": value
            for part in self.parts
            for param, slots in part.state.items()
            for slot, value in slots.items()
            if isinstance(value, Tensor)
        }


def build(model: nn.Module, config: Config, device: torch.device) -> Optimizers:
    """Make the optimisers of a model, their state zero but present."""
    section, batch = config.optimizer, config.batch.global_
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in named if section.name == "muon" and _is_hidden_filter(p)]
    taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    free = undecayed(model)
    names: dict[Tensor, str] = {p: n for n, p in named}
    decayed = [p for p in rest if names[p] not in free]
    plain = [p for p in rest if names[p] in free]
    rule = "sqrt" if section.name == "adamw" else "linear"
    lr, formula = Rate.parse(section.lr).effective(batch, rule)
    rest_lr, rest_momentum = lr, section.momentum
    if section.name == "muon":
        rest_lr, rest_formula = Rate.parse(section.rest_lr).effective(batch, rule)
        rest_momentum = section.rest_momentum
        formula = f"{formula} for Muon on {len(matrices)} convolutions; {rest_formula} for SGD on the rest"
    both: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    groups = [g for g in both if g["params"]]
    parts: list[torch.optim.Optimizer] = []
    if section.name == "muon" and matrices:
        muon_groups = [{"params": matrices}]
        parts.append(Muon(muon_groups, lr, section.momentum, section.nesterov, section.weight_decay))
    fused = device.type in ("cpu", "cuda")
    if section.name == "adamw":
        betas = (section.momentum, section.beta2)
        parts.append(torch.optim.AdamW(groups, lr, betas, weight_decay=section.weight_decay, fused=fused))
    else:
        parts.append(
            torch.optim.SGD(
                groups, rest_lr, rest_momentum, weight_decay=section.weight_decay,
                nesterov=section.nesterov and rest_momentum > 0, fused=fused,
            )
        )  # fmt: skip
    for part in parts:
        for group in part.param_groups:
            group["peak_lr"] = group["lr"]
            for param in group["params"]:
                part.state[param] = _fresh_state(part, param)
    return Optimizers(tuple(parts), names, formula)


def _is_hidden_filter(param: Tensor) -> bool:
    """Tell whether Muon takes a weight: filters wider than 1x1 that look at features, not at the three colours."""
    return param.dim() == 4 and param.shape[1] > 3 and param.shape[-1] > 1


def _fresh_state(part: torch.optim.Optimizer, param: Tensor) -> dict[str, Tensor]:
    """Return zero state in the parameter's own memory layout.

    The layout matters: a fused CPU optimiser walks parameter and state in memory order, and state laid out otherwise is
    applied to the wrong elements without an error.
    """
    if isinstance(part, torch.optim.AdamW):
        step = torch.zeros((), dtype=torch.float32, device=param.device if part.defaults["fused"] else "cpu")
        return {"step": step, "exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
    return {"momentum_buffer": torch.zeros_like(param)}
