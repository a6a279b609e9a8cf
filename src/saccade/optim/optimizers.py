"""Optimisers: which tensor gets which, made once, with their state in place from step 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config.optim import OptimizerSection
from saccade.config.schema import Config
from saccade.models.parts.network import undecayed
from saccade.optim.lamb import Lamb
from saccade.optim.layer_decay import layer_numbers
from saccade.optim.muon import Muon, muon_names
from saccade.optim.rmsprop import RmsPropTf
from saccade.optim.rollback import Kept
from saccade.optim.schedule import Schedule
from saccade.units import Rate

RULES = {
    "sgd": "linear",
    "muon": "linear",
    "rmsprop": "linear",
    "rmsprop-tf": "linear",
    "adam": "sqrt",
    "adamw": "sqrt",
    "lamb": "sqrt",
}
"""How the rate follows the global batch."""

SLOTS: dict[type[torch.optim.Optimizer], dict[str, float]] = {
    torch.optim.SGD: {"momentum_buffer": 0.0},
    torch.optim.Adam: {"exp_avg": 0.0, "exp_avg_sq": 0.0},
    torch.optim.AdamW: {"exp_avg": 0.0, "exp_avg_sq": 0.0},
    torch.optim.RMSprop: {"square_avg": 0.0, "momentum_buffer": 0.0},
    RmsPropTf: {"square_avg": 1.0, "momentum_buffer": 0.0},
    Lamb: {"exp_avg": 0.0, "exp_avg_sq": 0.0},
    Muon: {"momentum_buffer": 0.0},
}
"""What a method remembers of each parameter, and the value that it starts with."""

COUNTING = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, Lamb)
"""Methods that also remember, for each parameter, how many steps it has had."""


@dataclass(frozen=True, slots=True)
class Optimizers:
    """The optimisers of a run; one schedule factor drives the rates of all.

    ``names`` maps every trained parameter, of any shape ``(...)``, to its name; ``formula`` says
    how the rates came about.
    """

    parts: tuple[torch.optim.Optimizer, ...]
    names: dict[Tensor, str]
    formula: str

    def follow(
        self, schedule: Schedule, step: int, evaluations: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Set every learning rate, and where the schedule moves it every momentum, to that of a
        step of the run.
        """
        factor, drop = schedule.factor(step, evaluations), schedule.momentum_drop(step)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * factor
                momentum = max(group["full_momentum"] - drop, 0.0)
                if "betas" in group:
                    group["betas"] = (momentum, group["betas"][1])
                else:
                    group["momentum"] = momentum

    @property
    def lr(self) -> float:
        """The current learning rate of the first method, at the layer nearest to the output."""
        group = self.parts[0].param_groups[0]
        return float(group["lr"] / group["depth_scale"])

    def step(self, mask: Tensor | None = None) -> None:
        """Apply one update.

        None where ``mask``, a bool scalar on the device that nothing waits for, is False.

        Fused kernels take the mask; for the others, copies from before the step are put back.
        """
        for part in self.parts:
            if mask is None:
                part.step()
            elif part.param_groups[0].get("fused"):
                part.found_inf = (~mask).float()  # type: ignore[attr-defined]  # where torch's loss scaler puts it
                part.step()
                del part.found_inf  # type: ignore[attr-defined]
            else:
                kept = Kept(
                    [*part.state, *(t for slots in part.state.values() for t in slots.values())]
                )
                part.step()
                kept.put_back_unless(mask)

    def tensors(self) -> dict[str, Tensor]:
        """Return every live state tensor by ``parameter/slot``, each of the shape of its
        parameter or a scalar.
        """
        return {
            f"{self.names[param]}/{slot}": value
            for part in self.parts
            for param, slots in part.state.items()
            for slot, value in slots.items()
            if isinstance(value, Tensor)
        }


def flavour(name: str, device: torch.device) -> tuple[str, str]:
    """Return how a method updates its tensors, ``fused`` or ``foreach``, and the reason."""
    if name not in ("sgd", "adam", "adamw", "muon"):
        return "foreach", f"{name} has no fused kernel"
    if device.type not in ("cpu", "cuda"):
        return "foreach", f"no fused kernels are used on {device.type}"
    return (
        "fused",
        "one pass over the memory"
        if name != "muon"
        else "one pass over the memory, for what Muon leaves",
    )


def build(model: nn.Module, config: Config, device: torch.device, chosen: str = "") -> Optimizers:
    """Make the optimisers of a model, their state in place.

    ``chosen`` is an earlier choice of the flavour.
    """
    section = config.optimizer
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters() if p.requires_grad}
    taken = muon_names(model) if section.name == "muon" else set()
    first = [p for p, n in names.items() if section.name != "muon" or n in taken]
    others = [p for p, n in names.items() if section.name == "muon" and n not in taken]
    lr, formula = peak(section, config.batch.global_)
    if section.name == "muon":
        what = "convolutions" if all(p.dim() == 4 for p in first) else "matrices"
        rest_lr, rest_formula = rest_peak(section, config.batch.global_)
        title = {"sgd": "SGD", "adamw": "AdamW"}[section.rest]
        formula = (
            f"{formula} for Muon on {len(first)} {what}; {rest_formula} for {title} on the rest"
        )
    fused = (chosen or flavour(section.name, device)[0]) == "fused"
    grouping = _Grouping(model, section, names)
    parts = []
    if first:
        parts.append(
            _make(section.name, section, lr, section.momentum, grouping.groups(first), fused)
        )
    if others:
        parts.append(
            _make(
                section.rest,
                section,
                rest_lr,
                section.rest_momentum,
                grouping.groups(others),
                fused,
            )
        )
    for part in parts:
        for group in part.param_groups:
            group["peak_lr"] = group["lr"] = group["lr"] * group["depth_scale"]
            group["full_momentum"] = group["betas"][0] if "betas" in group else group["momentum"]
            for param in group["params"]:
                part.state[param] = _fresh_state(part, group, param)
    return Optimizers(tuple(parts), names, formula)


def peak(section: OptimizerSection, global_batch: int) -> tuple[float, str]:
    """Return the learning rate at a global batch, before any schedule, and the formula as text."""
    return Rate.parse(section.lr).effective(global_batch, RULES[section.name])


def rest_peak(section: OptimizerSection, global_batch: int) -> tuple[float, str]:
    """Return the same for what Muon does not take."""
    return Rate.parse(section.rest_lr).effective(global_batch, RULES[section.rest])


class _Grouping:
    """Sorts parameters into groups of equal decay and equal depth."""

    def __init__(
        self, model: nn.Module, section: OptimizerSection, names: dict[Tensor, str]
    ) -> None:
        self._free = undecayed(model)
        self._decays_all = section.decay == "all"
        self._names = names
        layers = layer_numbers(model) if section.layer_decay < 1 else {}
        last = max(layers.values(), default=0)
        self._scale = {
            name: section.layer_decay ** (last - number) for name, number in layers.items()
        }

    def groups(self, params: Iterable[Tensor]) -> list[dict[str, Any]]:
        """Return groups with ``params`` and what differs from the method's settings.

        The deepest weights first.
        """
        sorted_in: dict[tuple[float, bool], list[Tensor]] = {}
        for param in params:
            name = self._names[param]
            sorted_in.setdefault((self._scale.get(name, 1.0), name not in self._free), []).append(
                param
            )
        groups = []
        for (scale, is_weight), members in sorted(
            sorted_in.items(), key=lambda item: item[0], reverse=True
        ):
            group: dict[str, Any] = {"params": members, "depth_scale": scale, "adapt": is_weight}
            groups.append(group if is_weight or self._decays_all else group | {"weight_decay": 0.0})
        return groups


def _make(
    name: str,
    section: OptimizerSection,
    lr: float,
    momentum: float,
    groups: list[dict[str, Any]],
    fused: bool,
) -> torch.optim.Optimizer:
    decay, eps, beta2 = section.weight_decay, section.eps, section.beta2
    if name == "sgd":
        nesterov = section.nesterov and momentum > 0
        return torch.optim.SGD(
            groups,
            lr,
            momentum,
            weight_decay=decay,
            nesterov=nesterov,
            fused=fused,
            foreach=not fused,
        )
    if name == "muon":
        return Muon(groups, lr, momentum, section.nesterov, decay, section.fixed_norm)
    if name == "lamb":
        return Lamb(groups, lr, (momentum, beta2), eps, decay)
    if name == "rmsprop-tf":
        return RmsPropTf(groups, lr, beta2, eps, momentum, decay)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr, beta2, eps, decay, momentum, foreach=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(groups, lr, (momentum, beta2), eps, decay, fused=fused, foreach=not fused)


def _fresh_state(
    part: torch.optim.Optimizer, group: dict[str, Any], param: Tensor
) -> dict[str, Tensor]:
    """Return the state before the first step, in the parameter's own memory layout.

    The layout matters: a fused CPU optimiser walks parameter and state in memory order, and state
    laid out otherwise is applied to the wrong elements without an error.
    """
    state = {slot: torch.full_like(param, start) for slot, start in SLOTS[type(part)].items()}
    if group.get("momentum") == 0 and not isinstance(part, (Muon, RmsPropTf)):
        state.pop("momentum_buffer")  # torch's own do not touch it then
    if isinstance(part, COUNTING):
        # where a bad step can be masked
        on_device = group.get("fused") or param.device.type == "cuda"
        state["step"] = torch.zeros((), device=param.device if on_device else "cpu")
    return state
