"""An optimiser from the user: a function from the trained parameters to a torch optimiser.

All of its state is saved and restored: tensors, numbers and texts, lists of them, and its changes
to its groups. State that appears only in the first step is created again at a resume.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError, ConfigError
from saccade.optim.optimizers import Optimizers
from saccade.optim.schedule import Judged, Schedule

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}
_PLAIN = (str, bool, int, float, type(None))


@dataclass(frozen=True, slots=True)
class OwnOptimizer(Optimizers):
    """The user's own optimiser, with the interface of ours.

    ``called`` is its name in messages. ``begun`` holds the initial settings of each group, without
    ``params``. The schedule scales the initial rate of each group.
    """

    begun: tuple[Mapping[str, Any], ...] = ()
    called: str = ""

    def follow(self, schedule: Schedule, step: int, evaluations: Sequence[Judged] = ()) -> None:
        """Set the rate of every group to that of a step of the run.

        In a one-cycle run also the momentum, where a group has one.
        """
        factor, drop = schedule.factor(step, evaluations), schedule.momentum_drop(step)
        for group, begun in zip(self.parts[0].param_groups, self.begun, strict=True):
            # from the rate it began with, not the last one: factors would pile up
            group["lr"] = float(begun["lr"]) * factor
            if drop and "betas" in begun:
                first, *others = begun["betas"]
                group["betas"] = (max(first - drop, 0.0), *others)
            elif drop and "momentum" in begun:
                group["momentum"] = max(begun["momentum"] - drop, 0.0)

    @property
    def lr(self) -> float:
        """The current learning rate of the first group."""
        return float(self.parts[0].param_groups[0]["lr"])

    def step(self, mask: Tensor | None = None) -> None:
        """Take one step, or none if ``mask``, a bool scalar, is False.

        The mask is read, which waits for a GPU: a step of unknown code cannot be undone.
        """
        if mask is not None and not bool(mask):
            return

        try:
            self.parts[0].step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any code may run here
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise ConfigError(
                f"the optimizer {self.called} fails: {type(error).__name__}: {error}",
                where=f"{frame.filename}:{frame.lineno}",
                fix="step() is called without arguments; the gradients are already set",
                finding="optimizer-fails",
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by ``parameter/slot``, of any shape ``(...)``."""
        found: dict[str, Tensor] = {}
        for name, home, slots in self._slots():
            _encode(slots, name, home, found)
        return found

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state for JSON: its form, its plain values, and the changes to the
        groups.
        """
        groups = []
        for group, begun in zip(self.parts[0].param_groups, self.begun, strict=True):
            changed = {
                key: _encode(value, f"group/{key}", "", None)
                for key, value in group.items()
                # what the schedule sets at every step need not be saved
                if key not in ("params", "lr", "betas", "momentum") and value != begun.get(key)
            }
            groups.append(changed)
        return {
            "state": {name: _encode(slots, name, home, {}) for name, home, slots in self._slots()},
            "groups": groups,
        }

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Create the state that a checkpoint describes; the values of its tensors follow later.

        Raises CheckpointError if it belongs to another optimiser.
        """
        if not facts:
            return

        optimizer, params = self.parts[0], {name: param for param, name in self.names.items()}
        try:
            state = {
                params.get(name, name): _decode(form, params.get(name))
                for name, form in facts["state"].items()
            }
            groups = [
                {key: _decode(form, None) for key, form in group.items()}
                for group in facts["groups"]
            ]
            for group, changed in zip(optimizer.param_groups, groups, strict=True):
                group.update(changed)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the saved optimiser state belongs to another optimiser, or is damaged: {error}",
                fix="pass the optimiser of this run, or use `--resume never`",
            ) from error

        # only once all of it could be made: a failure leaves the optimiser as it was
        optimizer.state.clear()
        optimizer.state.update(state)

    def _slots(self) -> list[tuple[str, str, Any]]:
        """Return (name, type of the device, state) of each parameter that has a state."""
        return [
            (self.names[key], key.device.type, slots)
            if isinstance(key, Tensor)
            else (str(key), "", slots)
            for key, slots in self.parts[0].state.items()
        ]


def build(model: nn.Module, factory: Factory, called: str) -> OwnOptimizer:
    """Make the optimiser of a model with the user's function; ``called`` is its name in messages.

    Raises ConfigError if its result cannot be used for training.
    """
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters() if p.requires_grad}
    try:
        optimizer = factory([p for p in model.parameters() if p.requires_grad])
    except Exception as error:  # any code may run here
        what = f"cannot be made: {type(error).__name__}: {error}"
        fix = (
            "the function gets the list of trained parameters and must return a "
            "torch.optim.Optimizer"
        )
        raise _unusable(called, what, fix) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _unusable(
            called,
            f"returned {type(optimizer).__name__}, not a torch.optim.Optimizer",
            "write optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)",
        )

    held = [p for group in optimizer.param_groups for p in group["params"]]
    if any(p not in names for p in held):
        raise _unusable(
            called,
            "has parameters that do not belong to the trained network",
            "use the parameters that the function gets: the run trains a copy of the network",
        )
    if not all(isinstance(g.get("lr"), float | int | Tensor) for g in optimizer.param_groups):
        raise _unusable(
            called,
            "has a group without a learning rate, 'lr'",
            "set 'lr' in every group: the schedule scales it",
        )

    kind = type(optimizer).__name__
    rates = " and ".join(f"{r:g}" for r in dict.fromkeys(map(_rate, optimizer.param_groups)))
    left = "" if len(held) == len(names) else f", on {len(held)} of {len(names)} parameters"
    begun = tuple({k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups)
    formula = f"{rates} of {kind} from {called}{left}"
    return OwnOptimizer((optimizer,), names, formula, begun=begun, called=called)


def _rate(group: Mapping[str, Any]) -> float:
    return float(group["lr"])


def _unusable(called: str, what: str, fix: str) -> ConfigError:
    return ConfigError(f"the optimizer {called} {what}", where="optimizer", fix=fix)


def _encode(value: Any, name: str, home: str, tensors: dict[str, Tensor] | None) -> dict[str, Any]:
    """Return the form of a value for JSON, and put its tensors into ``tensors`` under names that
    begin with ``name``.

    ``home`` is the type of the parameter's device. Raises ConfigError on what cannot be saved;
    without ``tensors`` these cannot, either.
    """
    if isinstance(value, Tensor) and tensors is not None:
        tensors[name] = value
        # torch keeps counts of steps on the host, wherever the parameter is
        on_host = value.device.type == "cpu" and (value.dim() == 0 or home != "cpu")
        return {"tensor": [str(value.dtype).removeprefix("torch."), list(value.shape), on_host]}
    if isinstance(value, float):
        return {"float": value.hex()}  # JSON knows no infinity
    if isinstance(value, _PLAIN):
        return {"plain": value}
    if isinstance(value, list | tuple):
        listed = [_encode(one, f"{name}/{i}", home, tensors) for i, one in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": listed}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner = {key: _encode(v, f"{name}/{key}", home, tensors) for key, v in value.items()}
        return {"dict": inner}
    raise ConfigError(
        f"the optimizer keeps a {type(value).__name__} as '{name}', which cannot be saved",
        where="optimizer",
        fix="keep only tensors, numbers, texts, and lists or dictionaries of them in its state",
    )


def _decode(form: Mapping[str, Any], param: Tensor | None) -> Any:
    """Make a value of a form; tensors (...) are zero, and on the device of their parameter."""
    ((kind, value),) = form.items()
    if kind == "tensor":
        dtype, shape, on_host = value
        device = "cpu" if on_host or param is None else param.device
        return torch.zeros(shape, dtype=_DTYPES[dtype], device=device)
    if kind == "float":
        return float.fromhex(value)
    if kind == "plain" and isinstance(value, _PLAIN):
        return value
    if kind in ("list", "tuple"):
        made = [_decode(one, param) for one in value]
        return made if kind == "list" else tuple(made)
    if kind == "dict":
        return {key: _decode(one, param) for key, one in value.items()}
    raise ValueError(f"'{kind}' is not a kind of value")
