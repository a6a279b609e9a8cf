"""The identity of a network that was passed from Python.

The class name is not enough: networks of one class differ in width, frozen layers and initial
values. So the identity has four digests: of the tensors' forms, of the values they start with, of
the tree of modules with their settings, and of the code that runs. docs/models.md lists what this
cannot detect.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.weights.tensor_bytes import contiguous_bytes

PARTS = {
    "tensors": "other parameters or buffers: names, shapes, types, or what is frozen",
    "structure": "other layers or settings of layers",
    "code": "another forward pass",
    "values": "other starting values",
    "loss": "another loss function",
    "optimizer": "another optimizer",
    "augment": "another augmentation",
    "objective": "another objective",
}
"""The digests of an identity, and what is different where they are.

The first four are of a network, the others of functions that were handed over.
"""

OF_FUNCTIONS = ("loss", "optimizer", "augment", "objective")

MOST_OBJECTS = 6
"""Objects in one another whose attributes are followed: deeper ones are other things than a
network.
"""

LONGEST_TRAIL = 60
"""Things of any kind in one another, far below Python's limit on recursion."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_INTERNAL = set(vars(nn.Module()))
_UNSEEN = {
    "__init__",
    "__repr__",
    "extra_repr",
    "__doc__",
    "__module__",
    "__dict__",
    "__weakref__",
    "__annotations__",
    "__firstlineno__",
    "__static_attributes__",
    "__qualname__",
    "__parameters__",
    "__orig_bases__",
}
"""Of a class: what `__init__` does shows in its result, and the rest decides no number."""

_PLAIN = (
    str,
    bytes,
    bool,
    int,
    float,
    complex,
    type(None),
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
    enum.Enum,
    Path,
    slice,
    range,
    np.generic,
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Trail:
    """The path to a value: the values ``above`` it, the number of ``objects`` among them, and all
    ``known`` values.

    Attributes and closures can form circles and share values. Known values are kept alive, because
    Python reuses the ``id`` of deleted objects. ``classes`` also follows the code of classes.
    """

    above: frozenset[int] = frozenset()
    objects: int = 0
    known: dict[int, tuple[object, str]] = dataclasses.field(default_factory=dict)
    classes: bool = False

    def through(self, *values: object, objects: int = 0) -> _Trail:
        above = self.above | {id(one) for one in values}
        return _Trail(above, self.objects + objects, self.known, self.classes)


def identify(module: nn.Module) -> dict[str, str]:
    """Return the digests of a network by `PARTS`, equal in every process for equal networks."""
    trail = _Trail()
    texts = {
        "tensors": _tensors(module),
        "structure": _structure(module, trail),
        "code": _code(module, trail),
    }
    found = {
        part: hashlib.sha256("\n".join(lines).encode()).hexdigest() for part, lines in texts.items()
    }
    values = hashlib.sha256()
    for tensor in [*module.parameters(), *module.buffers()]:
        values.update(contiguous_bytes(tensor))
    return found | {"values": values.hexdigest()}


def identify_function(function: Callable[..., Any]) -> str:
    """Return the digest of a function or callable object.

    It is equal in every process for equal code with equal defaults, closures, attributes, globals
    and classes that the code uses, except those of installed libraries.
    """
    text = _described(function, _Trail(classes=True))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the `PARTS` in which two identities differ, as names."""
    return [part for part in PARTS if before.get(part) != now.get(part)]


def require_same(before: Mapping[str, str], now: Mapping[str, str], what: str) -> None:
    """Raise ConfigError if a network or function differs from that of a run.

    ``what`` describes the run; ``now`` has no entry for a registered network.
    """
    parts = differences(before, now)
    if "tensors" not in now:
        parts = [part for part in parts if part in OF_FUNCTIONS]
    if not parts:
        return

    fix = "resume='never' starts a new run in another folder"
    if "tensors" in now and "tensors" not in before:
        raise ConfigError(
            f"{what} by a version that did not record which network it trained",
            fix=fix,
            finding="run-changed",
        )
    if parts == ["values"]:
        fix = (
            "for the same initial weights, call torch.manual_seed(0), or the seed of that time, "
            "before you build the network; for any initial weights, resume=CHECKPOINT continues "
            f"with the weights of that checkpoint; {fix}"
        )

    told = "; ".join(PARTS[part] for part in parts)
    network = "" if set(parts) <= {*OF_FUNCTIONS} else "another network: "
    raise ConfigError(f"{what} with {network}{told}", fix=fix, finding="run-changed")


def _tensors(module: nn.Module) -> Iterator[str]:
    first: dict[int, str] = {}
    parameters = module.named_parameters(remove_duplicate=False)
    for name, tensor in [*parameters, *module.named_buffers(remove_duplicate=False)]:
        tied = first.setdefault(id(tensor), name)
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        yield f"{kind} {name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad} {tied}"


def _structure(module: nn.Module, trail: _Trail) -> Iterator[str]:
    """Yield the tree: class, what it shows of itself, plain attributes and hooks of each module."""
    trail = trail.through(*module.modules())
    for name, part in module.named_modules(remove_duplicate=False):
        yield f"{name}: {type(part).__qualname__}({_ADDRESS.sub('', part.extra_repr())})"
        own = {key: value for key, value in vars(part).items() if key not in _INTERNAL}
        tables = {key: vars(part).get(key) for key in sorted(_INTERNAL) if key.endswith("_hooks")}
        hooks = {key: [*table.values()] for key, table in tables.items() if table}
        yield _described(own | hooks, trail)
        if isinstance(part, torch.jit.ScriptModule):
            yield str(part.code)


def _code(module: nn.Module, trail: _Trail) -> Iterator[str]:
    kinds = dict.fromkeys(type(part) for part in module.modules())
    classes = dict.fromkeys(
        base for kind in kinds for base in kind.__mro__ if not _is_torch(base.__module__)
    )
    for kind in classes:
        for name, value in sorted(vars(kind).items()):
            if name not in _UNSEEN:
                yield f"{kind.__qualname__}.{name} = {_described(value, trail)}"


def _class_code(kind: type, trail: _Trail) -> Iterator[str]:
    """Yield the code of a class and its bases.

    Unlike for a network, `__init__` counts, because it can be called later.
    """
    for base in kind.__mro__:
        if not _is_installed(base):
            for name, value in sorted(vars(base).items()):
                if name not in _UNSEEN or name == "__init__":
                    yield f"{base.__qualname__}.{name} = {_described(value, trail)}"


def _is_installed(kind: type) -> bool:
    """Tell whether a class belongs to Python or an installed library, whose version fixes its
    code."""
    module = sys.modules.get(kind.__module__)
    place = str(getattr(module, "__file__", None) or "")
    return (
        _is_torch(kind.__module__)
        or kind.__module__.startswith("saccade.")
        or kind.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}
        or "site-packages" in place
    )


def _is_torch(name: str) -> bool:
    """Tell whether a module's code is fixed by the version of torch or Python, which every run
    records.
    """
    return name.partition(".")[0] in (
        "torch",
        "builtins",
        "abc",
        "typing",
        "collections",
        "functools",
        "math",
        "numpy",
    )


def _described(value: Any, trail: _Trail) -> str:
    """Return a text that is equal in every process for equal values.

    Unknown objects are described by their type.
    """
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if id(value) in trail.above or len(trail.above) > LONGEST_TRAIL:
        return "..."
    if id(value) not in trail.known:
        text = _described_data(value, trail.through(value))
        trail.known[id(value)] = value, text if len(text) < 200 else _sha(text.encode())
    return trail.known[id(value)][1]


def _described_data(value: Any, trail: _Trail) -> str:
    if isinstance(value, Tensor):  # one with a history follows from others
        return (
            f"{tuple(value.shape)} {value.dtype} {_sha(contiguous_bytes(value))}"
            if value.is_leaf
            else "made"
        )
    if isinstance(value, np.ndarray):
        content = (
            _described(value.tolist(), trail).encode() if value.dtype.hasobject else value.tobytes()
        )
        return f"{value.shape} {value.dtype} {_sha(content)}"
    if isinstance(value, Mapping):
        pairs = sorted(f"{_described(k, trail)}: {_described(v, trail)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_described(one, trail) for one in value)) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[" + ", ".join(_described(one, trail) for one in value) + "]"
    return _described_code(value, trail)


def _described_code(value: Any, trail: _Trail) -> str:
    """Describe what can be called, and objects of classes that people write."""
    if isinstance(value, staticmethod | classmethod):
        return _described(value.__func__, trail)
    if isinstance(value, property):
        return _described([value.fget, value.fset], trail)
    if isinstance(value, functools.partial):
        return "partial " + _described([value.func, value.args, value.keywords], trail)

    # a bound method is its function and the object that it is bound to
    if isinstance(value, types.MethodType):
        return "method " + _described([value.__func__, value.__self__], trail)
    if isinstance(value, types.FunctionType):
        return _function(value, trail)
    if isinstance(value, types.CodeType):
        return _bytecode(value, trail)

    if isinstance(value, nn.Module):
        lines = [*_tensors(value), *_structure(value, trail)]
        lines += _code(value, trail) if trail.classes else []
        return f"{type(value).__qualname__} " + _sha("\n".join(lines).encode())
    if trail.classes and isinstance(value, type) and not _is_installed(value):
        return f"{value.__qualname__} " + "; ".join(_class_code(value, trail))
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
        return f"{type(value).__name__} {_name(value)}"
    return _object(value, trail.through(objects=1))


def _object(value: Any, trail: _Trail) -> str:
    """Return the content of an object: its fields or attributes, or its copy state if it has
    none."""
    kind = type(value)
    if trail.objects > MOST_OBJECTS:
        return kind.__qualname__
    if dataclasses.is_dataclass(value):
        own: Any = {
            field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)
        }
    elif hasattr(value, "__dict__") and "__reduce__" not in {
        name for base in kind.__mro__[:-1] for name in vars(base)
    }:
        own = vars(value)
    else:
        try:
            made = value.__reduce_ex__(4)
        except Exception:  # any code may run here
            made = vars(value) if hasattr(value, "__dict__") else {}
        own = (
            [list(one) if isinstance(one, Iterator) else one for one in made]
            if isinstance(made, tuple)
            else made
        )
    code = f" {_described(kind, trail)}" if trail.classes else ""
    return f"{kind.__qualname__} {_described(own, trail)}{code}"


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def _function(function: types.FunctionType, trail: _Trail) -> str:
    """Return a function's bytecode with what it reads: defaults, closure, and globals that it
    names.

    Bytecode and globals of torch follow from its version, the globals of an installed library from
    its own code; but a library's decorator can contain the user's function.
    """
    ours = not _is_torch(str(function.__globals__.get("__name__", "")))
    text = _bytecode(function.__code__, trail) if ours else f"function {_name(function)}"
    return f"{text} {_described([*reads(function)], trail)}"


def reads(function: types.FunctionType) -> Iterator[Any]:
    """Yield what a function refers to: defaults, closure, and the globals that it names if it is
    not from a library.
    """
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from (
        cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()
    )
    library = "site-packages" in function.__code__.co_filename or _is_torch(
        str(function.__globals__.get("__name__", ""))
    )
    if not library:
        names = sorted(set(_globals(function.__code__)))
        yield from (function.__globals__[name] for name in names if name in function.__globals__)


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from (
        str(one.argval)
        for one in dis.get_instructions(code)
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals(inner)


def _bytecode(code: types.CodeType, trail: _Trail) -> str:
    """Return the content of a code object, without its file and line."""
    parts = [
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_consts,
    ]
    return f"{_sha(code.co_code)} {_described(parts, trail)}"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
