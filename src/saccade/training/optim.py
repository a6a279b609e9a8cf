"""Optimisers: which tensor gets which, made once, with their state in place from step 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config import Config
from saccade.units import Rate

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""*Source:* Jordan et al. 2024, "Muon", the quintic with the steepest slope at zero that keeps [0.7, 1.2]."""


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Return the nearest (semi-)orthogonal matrix, roughly: singular values end up in about [0.7, 1.2].

    ``matrix`` is (rows, columns), any float type; computed in bfloat16. *Source:* Jordan et al. 2024, "Muon".
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: for convolution filters, as (out, in x height x width) matrices.

    The update is scaled by sqrt(max(1, rows / columns)). *Source:* Jordan et al. 2024, "Muon".
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        steps: int,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})
        self._steps = steps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply one update to every parameter."""
        assert closure is None
        for group in self.param_groups:
            for param in group["params"]:
                velocity = self.state[param]["momentum_buffer"]
                velocity.lerp_(param.grad, 1 - group["momentum"])
                update = torch.lerp(param.grad, velocity, group["momentum"]) if group["nesterov"] else velocity
                rows = update.flatten(1)
                scale = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
                direction = orthogonalise(rows, self._steps).to(param.dtype).view(param.shape)
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
        """Return every state tensor by ``parameter/slot``, shaped ``(...)`` as its parameter; live ones, not copies."""
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
    matrices = [p for n, p in named if p.dim() == 4 and section.name == "muon" and p.shape[1] > 3]
    taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    decayed = [p for p in rest if p.dim() > 1]
    plain = [p for p in rest if p.dim() <= 1]
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
        decay, steps = section.weight_decay, section.newton_schulz_steps
        parts.append(Muon([{"params": matrices}], lr, section.momentum, section.nesterov, decay, steps))
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
    return Optimizers(tuple(parts), {p: n for n, p in named}, formula)


def _fresh_state(part: torch.optim.Optimizer, param: Tensor) -> dict[str, Tensor]:
    """Return zero state in the parameter's own memory layout.

    The layout matters: a fused CPU optimiser walks parameter and state in memory order, and state laid out otherwise is
    applied to the wrong elements without an error.
    """
    if isinstance(part, torch.optim.AdamW):
        step = torch.zeros((), dtype=torch.float32, device=param.device if part.defaults["fused"] else "cpu")
        return {"step": step, "exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
    return {"momentum_buffer": torch.zeros_like(param)}
