"""Checking the user's own network: whether it can be trained, copied and saved.
:mod:`saccade.preflight.rehearsal` then tries it.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from saccade.findings import Finding, listed, refuse
from saccade.models.parts.duplicate import TABLES, duplicate
from saccade.training import identity


def identify(module: nn.Module) -> dict[str, str]:
    """Return the identity of the user's own network. Raises ConfigError if it cannot be trained."""
    refuse(unusable(module))
    return identity.identify(module)


def give_back(module: nn.Module, final: nn.Module) -> None:
    """Copy the trained weights into the user's own network, in evaluation mode."""
    # an encoder that was pretrained has no head to give back
    module.load_state_dict(final.state_dict(), strict=False)
    learned = dict(final.named_buffers())
    with torch.no_grad():
        for name, own in module.named_buffers():
            own.copy_(learned[name])  # those that are not saved, too
    module.eval()


def unusable(module: nn.Module) -> list[Finding]:
    """Return why a network cannot be trained, copied or saved, as errors; it is not called."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return [
            _error(
                "not-copied",
                module,
                "is TorchScript, which cannot be copied",
                "pass the Python class",
            )
        ]
    if found := _without_weights(module) or _not_saved(module) or _not_registered(module):
        return [found]

    try:
        duplicate(module)
    except Exception as error:  # any code may run here
        fix = (
            "the run needs copies of the network: keep open files, locks and similar objects "
            "out of the module"
        )
        return [_error("not-copied", module, f"cannot be copied: {first_line(error)}", fix)]

    if holding := functions_holding(module):
        what = (
            "has functions that refer to its own parts, so a copy would use the parts of the "
            f"original: {few(holding)}"
        )
        fix = (
            "use a method of the class, or bind the function: net.forward = "
            "types.MethodType(function, net)"
        )
        return [_error("not-copied", module, what, fix)]
    return []


def functions_holding(module: nn.Module) -> list[str]:
    """Return the names of attributes with functions that refer to parts of the network, such as
    closures.

    ``copy.deepcopy`` does not copy functions and weak references: the average and the trial would
    use the original's weights.
    """
    own = {id(part) for part in (*module.modules(), *module.parameters(), *module.buffers())}
    found = []
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in TABLES and _leads_to(own, value, set(), shared=False):
                found.append(f"{name}.{key}".removeprefix("."))
    return found


def _leads_to(own: set[int], value: Any, seen: set[int], *, shared: bool) -> bool:
    """Tell whether a value refers to ``own`` parts through an object that copies share."""
    if id(value) in own or id(value) in seen:
        return shared and id(value) in own

    inner: Iterable[Any] = ()
    if isinstance(value, types.FunctionType):
        inner, shared = identity.reads(value), True
    elif isinstance(value, weakref.ReferenceType):
        inner, shared = [value()], True
    elif isinstance(value, types.MethodType):
        inner = [value.__func__, value.__self__]
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    elif isinstance(value, nn.Module):
        inner = value.modules() if shared else ()
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType | Tensor):
        inner = vars(value).values()

    seen.add(id(value))
    return any(_leads_to(own, one, seen, shared=shared) for one in list(inner))


def _without_weights(module: nn.Module) -> Finding | None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if lazy := [n for n, t in tensors if is_lazy(t)]:
        what = f"has layers without weights yet (lazy ones): {few(lazy)}"
        fix = "call net(torch.zeros(1, 3, S, S)) once before training: this creates them"
        return _error("no-weights", module, what, fix)

    if unreal := [n for n, t in tensors if t.is_meta]:
        what = f"has tensors without values (device meta): {few(unreal)}"
        return _error("no-weights", module, what, "build it on a CPU, or load weights first")
    return None


def _not_registered(module: nn.Module) -> Finding | None:
    """Find layers in a plain list or dictionary: torch neither trains nor saves them."""
    own = {id(part) for part in module.modules()}
    hidden = []
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in TABLES and any(
                id(layer) not in own and any(p.requires_grad for p in layer.parameters())
                for layer in _modules_in(value)
            ):
                hidden.append(f"{name}.{key}".removeprefix("."))

    if not hidden:
        return None
    what = (
        "has layers in a plain list or dictionary, where nothing trains or saves them: "
        f"{few(hidden)}"
    )
    fix = (
        "keep them in an nn.ModuleList or nn.ModuleDict; for layers that must not be trained, "
        "call layer.requires_grad_(False)"
    )
    return _error("hidden-layers", module, what, fix)


def _modules_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    """Yield the modules in lists and dictionaries, and in those inside them."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, list | tuple | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _modules_in(one, depth - 1)


def _not_saved(module: nn.Module) -> Finding | None:
    saved = module.state_dict()
    if strange := [n for n, t in saved.items() if not isinstance(t, Tensor)]:
        what = f"has values in its state that are not tensors: {few(strange)}"
        fix = "a run saves only tensors: keep the value in a buffer, or remove get_extra_state"
        return _error("not-saved", module, what, fix)

    tensors = {**saved, **dict(module.named_buffers())}
    odd = [n for n, t in tensors.items() if t.layout != torch.strided or t.is_quantized]
    if odd := [*odd, *(n for n, t in tensors.items() if n not in odd and _overlaps(t))]:
        what = f"has tensors that cannot be saved and read back: {few(odd)}"
        fix = "make sparse and quantised tensors dense, and .clone() expanded ones"
        return _error("not-saved", module, what, fix)

    if shared := _in_one_place([*module.named_parameters(), *module.named_buffers()]):
        what = f"has tensors that share memory with others: {few(shared)}"
        fix = (
            "to tie weights, use one parameter under two names (a.weight = b.weight, no .data, "
            "no view)"
        )
        return _error("not-saved", module, what, fix)
    return None


def _in_one_place(tensors: list[tuple[str, Tensor]]) -> list[str]:
    """Return the names of tensors, of any shapes ``(...)``, whose memory overlaps another's."""
    spans = []
    for name, tensor in tensors:
        if tensor.numel():
            last = sum(
                (size - 1) * stride
                for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            spans.append(
                (tensor.data_ptr(), tensor.data_ptr() + last * tensor.element_size(), name)
            )
    # sorted by their start, only neighbours can overlap
    spans.sort()
    return [name for (_, end, _), (start, _, name) in pairwise(spans) if start <= end]


def doubtful(module: nn.Module) -> list[Finding]:
    """Return probable mistakes: nothing to train (an error), half precision (a warning)."""
    if not any(p.requires_grad for p in module.parameters()):
        what = "has no trainable parameter: requires_grad is False on all of them"
        fix = "set requires_grad_(True) on the layers to train, such as the head"
        return [_error("nothing-to-train", module, what, fix)]

    half = (torch.float16, torch.bfloat16)
    coarse = [n for n, p in module.named_parameters() if p.requires_grad and p.dtype in half]
    if not coarse:
        return []
    text = f"has weights in half precision, which lose most small updates: {few(coarse)}"
    fix = "pass module.float(): the forward pass still computes in bf16 (--precision)"
    return [Finding("half-weights", "warning", text, where=type(module).__name__, fix=fix)]


def _overlaps(tensor: Tensor) -> bool:
    """Tell whether several elements share memory, as after ``expand``."""
    return any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _error(kind: str, module: nn.Module, what: str, fix: str) -> Finding:
    name = type(module).__name__
    return Finding(kind, "error", f"{name} {what}", where=name, fix=fix, status=78)


def few(names: list[str]) -> str:
    """Return the first few names as a phrase."""
    return listed(names, len(names))


def first_line(error: Exception) -> str:
    """Return the first line of an error, or its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
