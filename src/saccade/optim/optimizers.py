"""The optimisers of a run: which one updates which tensor, with their state present from step 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config.optim import OptimizerSection
from saccade.config.schema import Config
from saccade.models.parts.network import undecayed
from saccade.optim.layer_decay import head_parameters, layer_numbers
from saccade.optim.methods import Groups, Method, Settings, find
from saccade.optim.rollback import Kept
from saccade.optim.schedule import Judged, Schedule, half_wave
from saccade.units import Rate


@dataclass(frozen=True, slots=True)
class Optimizers:
    """The optimisers of a run; one schedule factor scales the rates of all.

    ``names`` maps every trained parameter, of any shape ``(...)``, to its name; ``formula`` says
    how the rates were computed.
    """

    parts: tuple[torch.optim.Optimizer, ...]
    names: dict[Tensor, str]
    formula: str

    def follow(self, schedule: Schedule, step: int, evaluations: Sequence[Judged] = ()) -> None:
        """Set every learning rate, and a changing momentum or weight decay, to the values of a
        step.
        """
        factor, drop = schedule.factor(step, evaluations), schedule.momentum_drop(step)
        share = half_wave(schedule.share(step))
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * factor
                if "decays" in group:
                    first, last = group["decays"]
                    group["weight_decay"] = last + (first - last) * share
                momentum = max(group["full_momentum"] - drop, 0.0)
                # Adam calls its momentum the first beta
                if "betas" in group:
                    group["betas"] = (momentum, group["betas"][1])
                else:
                    group["momentum"] = momentum

    @property
    def lr(self) -> float:
        """The current learning rate of the first method, before a layer's or the head's factor."""
        group = self.parts[0].param_groups[0]
        return float(group["lr"] / group["depth_scale"])

    def step(self, mask: Tensor | None = None) -> None:
        """Apply one update, but not where ``mask``, a bool scalar on the device, is False.

        Nothing waits for the mask. Fused kernels take it; for the others, copies from before the
        step are put back.
        """
        for part in self.parts:
            if mask is None:
                part.step()
            elif part.param_groups[0].get("fused"):
                part.found_inf = (~mask).float()  # type: ignore[attr-defined]  # where torch's loss scaler puts it
                part.step()
                del part.found_inf  # type: ignore[attr-defined]
            else:
                # weights and state alike: a step that is undone must not be remembered
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

    def facts(self) -> dict[str, Any]:
        """Return the part of the state that is not a tensor, for JSON; empty for the built-in
        methods.
        """
        return {}

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Create the tensors that a checkpoint with these facts has; ours exist from step 0."""


def flavour(section: OptimizerSection, device: torch.device) -> tuple[str, str]:
    """Return how parameters are updated, ``fused`` or ``foreach``, and the reason.

    Where the method takes only some parameters, it is the flavour of the rest.
    """
    main = find(section.name)
    name = section.rest if main.takes else section.name
    if not find(name).fused:
        return "foreach", f"{name} has no fused kernel"
    if device.type not in ("cpu", "cuda"):
        return "foreach", f"no fused kernels are used on {device.type}"
    reason = "one pass over the memory"
    return "fused", f"{reason}, for the parameters outside {main.title}" if main.takes else reason


def build(model: nn.Module, config: Config, device: torch.device, chosen: str = "") -> Optimizers:
    """Make the optimisers of a model, their state in place.

    ``chosen`` is an earlier choice of the flavour.
    """
    section = config.optimizer
    fused = (chosen or flavour(section, device)[0]) == "fused"
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters() if p.requires_grad}
    main, rest = find(section.name), find(section.rest, "optimizer.rest")
    taken = main.takes(model) if main.takes else set(names.values())
    first = [p for p, n in names.items() if n in taken]
    others = [p for p, n in names.items() if n not in taken]

    lr, formula = peak(section, config.batch.global_)
    rest_lr, rest_formula = rest_peak(section, config.batch.global_)
    if main.takes and not first:
        formula = rest_formula
    elif main.takes:
        what = "convolutions" if all(p.dim() == 4 for p in first) else "matrices"
        formula = (
            f"{formula} for {main.title} on {len(first)} {what}; "
            f"{rest_formula} for {rest.title} on the rest"
        )

    grouping = _Grouping(model, config, names)
    plans = [
        (main, first, lr, section.momentum),
        (rest, others, rest_lr, section.rest_momentum),
    ]
    parts = []
    for method, params, rate, momentum in plans:
        if params:
            settings = Settings.of(section, lr=rate, momentum=momentum, fused=fused)
            parts.append(_make(method, grouping.groups(params), settings))
    return Optimizers(tuple(parts), names, formula)


def peak(section: OptimizerSection, global_batch: int) -> tuple[float, str]:
    """Return the learning rate at a global batch, before any schedule, and the formula as text."""
    return Rate.parse(section.lr).effective(global_batch, find(section.name).rule)


def rest_peak(section: OptimizerSection, global_batch: int) -> tuple[float, str]:
    """Return the peak rate, and its formula, of the parameters that the method does not take."""
    rule = find(section.rest, "optimizer.rest").rule
    return Rate.parse(section.rest_lr).effective(global_batch, rule)


def with_rate(section: OptimizerSection, lr: float, global_batch: int) -> OptimizerSection:
    """Return the settings with an effective rate ``lr`` that no batch scales any more.

    Where the method takes only some parameters, the rate of the rest keeps its proportion.
    """
    update: dict[str, Any] = {"lr": repr(lr)}
    if find(section.name).takes:
        before, _ = peak(section, global_batch)
        rest, _ = rest_peak(section, global_batch)
        # repr keeps every bit of the number
        update["rest_lr"] = repr(rest * lr / before) if before else section.rest_lr
    return OptimizerSection.model_validate(section.model_dump() | update)


class _Grouping:
    """Sorts parameters into groups of equal decay and equal depth."""

    def __init__(self, model: nn.Module, config: Config, names: dict[Tensor, str]) -> None:
        section = config.optimizer
        self._undecayed = undecayed(model)
        self._decays_all = section.decay == "all"
        self._first_decay, self._last_decay = section.weight_decay, section.weight_decay_end
        self._names = names

        layers = layer_numbers(model) if section.layer_decay < 1 else {}
        last = max(layers.values(), default=0)
        self._scale = {
            name: section.layer_decay ** (last - number) for name, number in layers.items()
        }

        if config.finetune.head_lr != 1:
            for name in head_parameters(model):
                self._scale[name] = config.finetune.head_lr * self._scale.get(name, 1.0)

    def groups(self, params: Iterable[Tensor]) -> Groups:
        """Return groups with ``params`` and their differences from the method's settings.

        The deepest weights come first.
        """
        sorted_in: dict[tuple[float, bool], list[Tensor]] = {}
        for param in params:
            name = self._names[param]
            place = self._scale.get(name, 1.0), name not in self._undecayed
            # in the order of the network, which decides the order of the optimiser's state
            sorted_in.setdefault(place, []).append(param)

        groups = []
        for (scale, is_weight), members in sorted(
            sorted_in.items(), key=lambda item: item[0], reverse=True
        ):
            group: dict[str, Any] = {"params": members, "depth_scale": scale, "adapt": is_weight}
            if not (is_weight or self._decays_all):
                group["weight_decay"] = 0.0
            elif self._last_decay is not None:
                group["decays"] = (self._first_decay, self._last_decay)
            groups.append(group)
        return groups


def _make(method: Method, groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    """Make an optimiser whose state and peak rates are in place before the first step."""
    part = method.make(groups, settings)
    for group in part.param_groups:
        group["peak_lr"] = group["lr"] = group["lr"] * group["depth_scale"]
        group["full_momentum"] = group["betas"][0] if "betas" in group else group["momentum"]
        for param in group["params"]:
            part.state[param] = _fresh_state(method, group, param)
    return part


def _fresh_state(method: Method, group: dict[str, Any], param: Tensor) -> dict[str, Tensor]:
    """Return the state before the first step, in the parameter's own memory layout.

    The layout matters: a fused CPU optimiser walks parameter and state in memory order. State in
    another layout would be applied to the wrong elements without an error.
    """
    slots = method.initial_slots(group["full_momentum"])
    state = {slot: torch.full_like(param, start) for slot, start in slots.items()}
    if method.counts_steps:
        # on a GPU the count lies there too, so that a bad step can be masked
        on_device = group.get("fused") or param.device.type == "cuda"
        state["step"] = torch.zeros((), device=param.device if on_device else "cpu")
    return state
