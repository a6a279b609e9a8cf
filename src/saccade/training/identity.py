"""What makes a network that was handed over from Python the same one as another.

A class name says nothing: networks of one class differ in width, in frozen layers, in their start.
So the identity has four digests: of the tensors' forms, of the values they start with, of the tree
of modules with their settings, and of the code that runs. docs/models.md says what this cannot see.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.training.state import contiguous_bytes

PARTS = {
    "tensors": "other parameters or buffers: names, shapes, types, or what is frozen",
    "structure": "other layers or settings of layers",
    "code": "another forward pass",
    "values": "other starting values",
}
"""The digests of an identity, and what is different where they are."""

DEPTH = 6
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_INTERNAL = set(vars(nn.Module()))
_UNSEEN = {"__init__", "__repr__", "extra_repr", "__doc__", "__module__", "__dict__", "__weakref__", "__annotations__",
           "__firstlineno__", "__static_attributes__", "__qualname__", "__parameters__", "__orig_bases__"}  # fmt: skip
"""Of a class: what `__init__` does shows in its result, and the rest decides no number."""

_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, torch.memory_format,
          torch.layout, enum.Enum, Path, slice, range)  # fmt: skip


def identify(module: nn.Module) -> dict[str, str]:
    """Return the digests of a network by `PARTS`, equal in every process for equal networks."""
    texts = {"tensors": _tensors(module), "structure": _structure(module), "code": _code(module)}
    found = {part: hashlib.sha256("\n".join(lines).encode()).hexdigest() for part, lines in texts.items()}
    values = hashlib.sha256()
    for tensor in [*module.parameters(), *module.buffers()]:
        values.update(contiguous_bytes(tensor))
    return found | {"values": values.hexdigest()}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the `PARTS` in which two identities differ, as names."""
    return [part for part in PARTS if before.get(part) != now.get(part)]


def require_same(before: Mapping[str, str], now: Mapping[str, str], what: str) -> None:
    """Raise ConfigError where a network that was handed over is another than the one of a run.

    ``what`` says of the run what it is; ``now`` is empty for a network that is known by its name.
    """
    parts = differences(before, now)
    if not parts or not now:
        return
    fix = "resume='never' starts another run beside it"
    if not before:
        raise ConfigError(
            f"{what} by a version that did not write down which network it trained", fix=fix,
            finding="run-changed",
        )  # fmt: skip
    if parts == ["values"]:
        fix = (
            "the same start: call torch.manual_seed(0), or the seed of that time, before the network is built; "
            f"any start: resume=CHECKPOINT goes on with the weights of that checkpoint; {fix}"
        )
    told = "; ".join(PARTS[part] for part in parts)
    raise ConfigError(f"{what} with another network: {told}", fix=fix, finding="run-changed")


def _tensors(module: nn.Module) -> Iterator[str]:
    first: dict[int, str] = {}
    parameters = module.named_parameters(remove_duplicate=False)
    for name, tensor in [*parameters, *module.named_buffers(remove_duplicate=False)]:
        tied = first.setdefault(id(tensor), name)
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        yield f"{kind} {name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad} {tied}"


def _structure(module: nn.Module) -> Iterator[str]:
    """Yield the tree: class, what it shows of itself, plain attributes and hooks of each module."""
    for name, part in module.named_modules(remove_duplicate=False):
        yield f"{name}: {type(part).__qualname__}({_ADDRESS.sub('', part.extra_repr())})"
        own = {key: value for key, value in vars(part).items() if key not in _INTERNAL}
        tables = {key: vars(part).get(key) for key in sorted(_INTERNAL) if key.endswith("_hooks")}
        hooks = {key: [*table.values()] for key, table in tables.items() if table}
        yield _described(own | hooks, frozenset())
        if isinstance(part, torch.jit.ScriptModule):
            yield str(part.code)


def _code(module: nn.Module) -> Iterator[str]:
    kinds = dict.fromkeys(type(part) for part in module.modules())
    classes = dict.fromkeys(base for kind in kinds for base in kind.__mro__ if not _is_torch(base.__module__))
    for kind in classes:
        for name, value in sorted(vars(kind).items()):
            if name not in _UNSEEN:
                yield f"{kind.__qualname__}.{name} = {_described(value, frozenset())}"


def _is_torch(name: str) -> bool:
    """Tell whether a module's code is pinned by the version of torch or Python, which every run records."""
    return name.partition(".")[0] in ("torch", "builtins", "abc", "typing", "collections", "functools", "math", "numpy")


def _described(value: Any, above: frozenset[int]) -> str:
    """Return a text that is equal in every process for values that mean the same; unknown objects by their type."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if id(value) in above or len(above) > DEPTH:
        return "..."
    above = above | {id(value)}
    if isinstance(value, Tensor):  # one with a history follows from others
        return f"{tuple(value.shape)} {value.dtype} {_sha(contiguous_bytes(value))}" if value.is_leaf else "made"
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype} {_sha(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(sorted(f"{_described(k, above)}: {_described(v, above)}" for k, v in value.items())) + "}"
        )
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_described(one, above) for one in value)) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[" + ", ".join(_described(one, above) for one in value) + "]"
    return _described_code(value, above)


def _described_code(value: Any, above: frozenset[int]) -> str:
    """Return the same for what can be called, and for objects of classes that people write."""
    if isinstance(value, staticmethod | classmethod):
        return _described(value.__func__, above)
    if isinstance(value, property):
        return _described([value.fget, value.fset], above)
    if isinstance(value, functools.partial):
        return "partial " + _described([value.func, value.args, value.keywords], above)
    if isinstance(value, types.MethodType):
        return "method " + _described(value.__func__, above)
    if isinstance(value, types.FunctionType) and not _is_torch(value.__module__ or ""):
        return _function(value, above)
    if isinstance(value, types.CodeType):
        return _bytecode(value, above)
    if isinstance(value, nn.Module):
        lines = [*_tensors(value), *_structure(value)]
        return f"{type(value).__qualname__} " + _sha("\n".join(lines).encode())
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType):
        return f"{type(value).__name__} {name}"
    if dataclasses.is_dataclass(value):
        own = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return f"{type(value).__qualname__} {_described(own, above)}"
    inner = vars(value) if hasattr(value, "__dict__") else {}
    return f"{type(value).__qualname__} {_described(inner, above)}"


def _function(function: types.FunctionType, above: frozenset[int]) -> str:
    """Return a function's bytecode with what it reads: defaults, closure, and globals that it names.

    The globals of an installed library follow from its own code.
    """
    if "site-packages" in function.__code__.co_filename:
        return _bytecode(function.__code__, above)
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    names = sorted(set(_globals(function.__code__)))
    read = {name: function.__globals__[name] for name in names if name in function.__globals__}
    given = [function.__defaults__, function.__kwdefaults__, cells, read]
    return f"{_bytecode(function.__code__, above)} {_described(given, above)}"


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from (str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals(inner)


def _bytecode(code: types.CodeType, above: frozenset[int]) -> str:
    """Return what a code object does, without the place where it was written."""
    parts = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags, code.co_consts]
    return f"{_sha(code.co_code)} {_described(parts, above)}"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
