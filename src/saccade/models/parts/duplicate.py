"""Copies of a network that share nothing with it, whatever its forward pass has stored."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
TABLES = {"_parameters", "_buffers", "_modules"}
"""The attributes in which torch registers things; every other attribute of a module is a plain one.
"""


def duplicate(model: M) -> M:
    """Return a deep copy of a network, with its ties between weights.

    Tensors that a forward pass stored in it (features, the weight that old ``weight_norm``
    computes) are copied by value: torch refuses to copy tensors with a history.
    """
    memo = {id(tensor): tensor.detach().clone() for tensor in left_behind(model)}
    return copy.deepcopy(model, memo)


def left_behind(model: nn.Module) -> Iterator[Tensor]:
    """Yield tensors of any shapes ``(...)`` with a history that a network keeps as plain
    attributes.
    """
    seen: set[int] = set()
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if name not in TABLES:
                yield from _with_history(value, seen)


def _with_history(value: Any, seen: set[int]) -> Iterator[Tensor]:
    # modules are gone through by the caller, and attributes may lead in circles
    if id(value) in seen or isinstance(value, nn.Module | type):
        return
    if isinstance(value, Tensor):
        if not value.is_leaf or value.is_inference():
            yield value
        return
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner = [*value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = [*value]
    elif hasattr(value, "__dict__") and not callable(value):
        inner = [*vars(value).values()]
    if inner:
        seen.add(id(value))
    for one in inner:
        yield from _with_history(one, seen)
