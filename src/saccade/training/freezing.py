"""Freezing parts of a network during training: parameters and their statistics."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from saccade.config.finetune import BACKBONE, BUT_LAST_NORM, STEM, FinetuneSection
from saccade.errors import ConfigError
from saccade.models.parts.running_statistics import is_running_statistic
from saccade.optim.layer_decay import head_parameters, layer_numbers
from saccade.units import human_count

SETTING = "finetune.freeze"
Layer = tuple[str, ...]
"""The names of the parameters of one layer."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The frozen parameters of a run, by name.

    ``until`` is the step before which a parameter is unfrozen, None for never; ``layers`` counts
    them from the input. With ``keeps_statistics`` every BatchNorm keeps using its initial running
    statistics.
    """

    until: Mapping[str, int | None] = field(default_factory=dict)
    layers: int = 0
    keeps_statistics: bool = False

    def __bool__(self) -> bool:
        return bool(self.until) or self.keeps_statistics


def plan(model: nn.Module, section: FinetuneSection, wake_steps: float | None = None) -> Rest:
    """Return what the settings freeze of a network.

    ``wake_steps`` is the length of gradual unfreezing, None if nothing is unfrozen. The layer below
    the head is unfrozen first, the layer at the input last. *Source:* Howard & Ruder 2018,
    "ULMFiT", section 3.3. Raises ConfigError if there is no such part.
    """
    layers = _resting_layers(model, section.freeze) if section.rests else []
    until: dict[str, int | None] = {}
    for number, layer in enumerate(reversed(layers), 1):
        wakes = None if wake_steps is None else round(wake_steps * number / len(layers))
        until |= dict.fromkeys(layer, wakes)
    return Rest(until, len(layers), section.norms == "frozen")


class Freezing:
    """Freezes parts of one network according to a :class:`Rest`, and unfreezes them in time.

    A frozen parameter has no gradient, so the optimiser does not change it: no weight decay, no
    momentum. A module whose parameters are all frozen is in evaluation mode: its statistics stay,
    and it draws no random numbers. ``still`` are the ``id`` of all tensors that cannot change now.
    """

    def __init__(self, model: nn.Module, rest: Rest) -> None:
        self._model, self._rest = model, rest
        self._named = {n: p for n, p in model.named_parameters() if n in rest.until}
        self._moments = sorted({step for step in rest.until.values() if step is not None})
        self._phase = -1
        self._modules: tuple[nn.Module, ...] = ()
        self.still: frozenset[int] = frozenset()

        # what never wakes is no business of the optimiser; the state of the others is there from
        # the start, so that a checkpoint has it on both sides of their moment
        for name, parameter in self._named.items():
            parameter.requires_grad_(rest.until[name] is not None)

    def on(self, copy: nn.Module) -> Freezing:
        """Return the same for a copy of the network, in its state after all unfreezing."""
        awake = {name: step for name, step in self._rest.until.items() if step is None}
        for name in self._rest.until:
            copy.get_parameter(name).requires_grad_(True)
        return Freezing(copy, Rest(awake, self._rest.layers, self._rest.keeps_statistics))

    def __str__(self) -> str:
        """Say how much of the network is frozen, and until when."""
        text = []
        if count := self._rest.layers:
            sizes = {name: p.numel() / 1e6 for name, p in self._model.named_parameters()}
            resting = sum(sizes[name] for name in self._named)
            text.append(
                f"{resting:.2f} of {sum(sizes.values()):.2f} M parameters are frozen, in "
                f"{human_count(count, 'layer')} from the input"
            )
        if moments := self._moments:
            text.append(
                f"the first layer is unfrozen at step {moments[0]:,}, the last at step "
                f"{moments[-1]:,}"
            )
        if self._rest.keeps_statistics:
            text.append("norms keep their running statistics")
        return "; ".join(text)

    def settle(self, step: int) -> None:
        """Set the network to its state at a step of the run."""
        phase = sum(step >= moment for moment in self._moments)
        if phase != self._phase:
            self._enter(phase, step)
        # anew in each step: an evaluation gives the whole network back in training mode
        for module in self._modules:
            # to ask is a hundred times faster than to set
            if module.training:
                module.training = False

    def _enter(self, phase: int, step: int) -> None:
        """Unfreeze parameters that are due, and find those that are still frozen."""
        asleep = set()
        for name, parameter in self._named.items():
            wakes = self._rest.until[name]
            parameter.requires_grad_(wakes is not None and step >= wakes)
            if not parameter.requires_grad:
                asleep.add(name)

        for module in self._modules:
            module.training = True
        self._phase, self._modules = phase, tuple(self._resting_modules(asleep))
        statistics = [b for module in self._modules for b in module._buffers.values()]
        self.still = frozenset(
            [id(self._named[name]) for name in asleep] + [id(b) for b in statistics]
        )

    def _resting_modules(self, asleep: set[str]) -> Iterator[nn.Module]:
        """Yield the modules in evaluation mode: those whose parameters are all frozen, with their
        submodules, and norms that keep their statistics.
        """
        own = {name for name, p in self._model.named_parameters() if p.requires_grad}
        is_before = bool(asleep)
        for place, module in self._model.named_modules():
            names = {f"{place}.{name}".lstrip(".") for name, _ in module.named_parameters()}
            # a norm without parameters belongs to what comes before the first layer that is awake
            is_before &= not {n for n in names & own if "." not in n[len(place) + 1 :]}
            if names & asleep and not names & own:
                yield from module.modules()
            elif _has_statistics(module) and (
                self._rest.keeps_statistics or (is_before and not names)
            ):
                yield module


def _has_statistics(module: nn.Module) -> bool:
    return any(
        b is not None and is_running_statistic(module, name, b)
        for name, b in module._buffers.items()
    )


def _resting_layers(model: nn.Module, part: str) -> list[Layer]:
    """Return the frozen layers, from the input on."""
    layers = _backbone(model)
    if part == BACKBONE:
        return layers
    if part == BUT_LAST_NORM:
        awake = _last_norm(model)
        kept = [tuple(name for name in layer if name not in awake) for layer in layers]
        return [layer for layer in kept if layer]

    if part[0].isdigit():
        return layers[: max(round(float(part) * len(layers)), 1)]
    if part == STEM and not hasattr(model, STEM):
        return layers[:1]
    return layers[: _last_layer_of(part, layers, model) + 1]


def _backbone(model: nn.Module) -> list[Layer]:
    """Return all layers but the heads, from the input on.

    Raises ConfigError if the head cannot be found, or if there is no other layer.
    """
    head = set(head_parameters(model))
    if not head:
        raise _no_such(
            f"the head of {type(model).__name__} cannot be found",
            "let the network end in one nn.Linear that computes the logits",
        )
    for name in getattr(model, "aux_names", ()):
        head |= {f"{name}.{n}" for n, _ in model.get_submodule(name).named_parameters()}

    # a network of the user's may have layers that never train
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and n not in head}
    layers: dict[int, list[str]] = {}
    for name, number in layer_numbers(model).items():
        if name in trained:
            layers.setdefault(number, []).append(name)

    found: list[Layer] = []
    for _, names in sorted(layers.items()):
        # a norm that lies beside the head is the end of the layer before it
        if found and all(trained[name].dim() == 1 for name in names):
            found[-1] += tuple(names)
        else:
            found.append(tuple(names))
    if not found:
        raise _no_such(
            f"{type(model).__name__} has no layer besides its head", "remove this setting"
        )
    return found


def _last_layer_of(part: str, layers: list[Layer], model: nn.Module) -> int:
    """Return the number of the last layer of a module; raises ConfigError for an unknown module."""
    modules = {name for name, _ in model.named_modules()}
    inside = [
        number for number, layer in enumerate(layers) if any(_is_in(name, part) for name in layer)
    ]

    parent = part.rpartition(".")[0]
    beside = [name for name in layers[inside[-1]] if not _is_in(name, part)] if inside else []
    if parent and any(_is_in(name, parent) and not _is_vector(model, name) for name in beside):
        raise _no_such(
            f"'{part}' is only a part of the layer '{parent}'",
            f"write {parent}: layers are frozen as a whole",
        )

    places = list(dict.fromkeys(name.rpartition(".")[0] for layer in layers for name in layer))
    tops = list(dict.fromkeys(place.partition(".")[0] for place in places if place))
    if part not in modules:
        near = difflib.get_close_matches(part, sorted(modules), n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        raise _no_such(
            f"the network has no module '{part}'",
            f"{meant}its modules are {', '.join(tops)}; or write backbone, stem or a fraction",
        )
    if not inside:
        raise _no_such(
            f"'{part}' contains no layer before the head",
            f"name the last module to freeze, one of {', '.join(tops)}, or write backbone",
        )
    return inside[-1]


def _is_vector(model: nn.Module, name: str) -> bool:
    return model.get_parameter(name).dim() == 1


def _is_in(name: str, place: str) -> bool:
    return name.startswith(f"{place}.")


def _last_norm(model: nn.Module) -> set[str]:
    """Return the names of the parameters of the last norm before the head.

    Raises ConfigError where there is none.
    """
    found: list[str] = []
    head = set(head_parameters(model))
    for place, module in model.named_modules():
        is_norm = isinstance(module, _NORMS) or "norm" in type(module).__name__.lower()
        own = [f"{place}.{name}" for name, _ in module.named_parameters(recurse=False)]
        # a shortcut is registered after the branch that it joins
        if is_norm and own and not head & set(own) and not _SHORTCUT.search(place):
            found = own
    if not found:
        raise _no_such(
            f"{type(model).__name__} has no norm before its head", "freeze the backbone instead"
        )
    return set(found)


_SHORTCUT = re.compile("shortcut|downsample")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _no_such(what: str, fix: str) -> ConfigError:
    return ConfigError(what, where=SETTING, fix=fix)
