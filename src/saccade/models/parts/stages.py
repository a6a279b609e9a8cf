"""The stages of any network in the order of execution, found by running it without memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models.parts.cost import counting

DOMINANT = 0.5
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers in a row that give maps of one size: ``shape`` is that of one image's, (C, H, W),
    (tokens, C) or (C).

    ``blocks`` counts equal building blocks, 0 for plain layers. What works in training only, or is
    a parameter without a layer, has an empty shape.
    """

    name: str
    shape: tuple[int, ...]
    blocks: int
    params: int
    macs: int


@dataclass(slots=True)
class _Visit:
    """What a module did when it ran: its place in the order, its output shape, its MACs."""

    order: float
    shape: tuple[int, ...] = ()
    macs: int = 0


_Line = tuple[float, type[nn.Module] | None, Stage]


def stages(model: nn.Module, image_size: int) -> list[Stage]:
    """Return the stages of a model on the meta device, for a square RGB image.

    ``image_size`` is in pixels.

    A module is taken apart when it holds most of the work or of the parameters, unless it is a row
    of equal blocks. What multiplies nothing and leaves the shape as it is, such as a norm, belongs
    to the layer before it.
    """
    visits = _visit_all(model, image_size)
    whole = Stage("", (), 0, params=_params(model), macs=visits[""].macs)
    merged: list[tuple[type[nn.Module] | None, Stage]] = []
    for _, kind, stage in sorted(_lines("", model, visits, whole), key=lambda line: line[0]):
        last_kind, last = merged[-1] if merged else (None, whole)
        if last.shape and not stage.macs and _is_same(last, stage):
            merged[-1] = (last_kind, replace(last, params=last.params + stage.params))
        elif (
            kind and kind is last_kind and last.shape == stage.shape and _are_siblings(last, stage)
        ):
            merged[-1] = (kind, _joined(last, stage))
        # of what does nothing, only pools are worth a line
        elif stage.params or stage.macs or len(stage.shape) == 3:
            merged.append((kind, stage))
    return [stage for _, stage in merged]


def _visit_all(model: nn.Module, image_size: int) -> dict[str, _Visit]:
    """Run the model once and return what each module did, by its name."""
    visits: dict[str, _Visit] = {}
    begun: dict[str, int] = {}
    handles = []
    with counting(model) as counts:
        for name, module in model.named_modules():

            def before(_module: nn.Module, _inputs: Any, name: str = name) -> None:
                # the order of the calls, which may not be that in which modules were defined
                visits.setdefault(name, _Visit(len(visits)))
                begun[name] = counts.macs

            def after(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
                visits[name].macs += counts.macs - begun[name]
                # a shared layer stands where it came first
                if isinstance(output, Tensor) and not visits[name].shape:
                    visits[name].shape = tuple(output.shape[1:])

            handles += [
                module.register_forward_pre_hook(before),
                module.register_forward_hook(after),
            ]
        try:
            model(torch.empty(1, 3, image_size, image_size, device="meta"))
        finally:
            for handle in handles:
                handle.remove()
    return visits


def _visit(name: str, module: nn.Module, visits: dict[str, _Visit]) -> _Visit:
    """Return what a module did.

    One that never ran itself, a list say, did what its children did.
    """
    if name in visits:
        return visits[name]
    inner = sorted(
        (_visit(f"{name}.{n}", m, visits) for n, m in module.named_children()),
        key=lambda v: v.order,
    )
    ran = [v for v in inner if v.order < NEVER]
    return _Visit(ran[0].order, ran[-1].shape, sum(v.macs for v in ran)) if ran else _Visit(NEVER)


def _lines(
    name: str, module: nn.Module, visits: dict[str, _Visit], whole: Stage
) -> Iterator[_Line]:
    """Yield the parts of a module, those that dominate the whole taken apart further."""
    for parameter, tensor in module.named_parameters(recurse=False):
        yield (
            _visit(name, module, visits).order,
            None,
            Stage(_dotted(name, parameter), (), 0, params=tensor.numel(), macs=0),
        )

    for last, child in module.named_children():
        full = _dotted(name, last)
        visit, params = _visit(full, child, visits), _params(child)

        # A part that holds most of the work, or that never ran as a whole, is opened.
        large = visit.macs > DOMINANT * whole.macs or params > DOMINANT * whole.params
        opens = any(child.children()) and visit.order < NEVER and (large or full not in visits)

        if opens and not _is_row(full, child, visits):
            yield from _lines(full, child, visits, whole)
        elif visit.order < NEVER or params:
            kind = None if isinstance(child, nn.Sequential) else type(child)
            yield (
                visit.order,
                kind,
                Stage(
                    full, visit.shape, _blocks(full, child, visits), params=params, macs=visit.macs
                ),
            )


def _is_row(name: str, module: nn.Module, visits: dict[str, _Visit]) -> bool:
    """Tell whether a module is a row of equal blocks: one class, one shape, layers inside."""
    children = dict(module.named_children())
    shapes = {_visit(f"{name}.{n}", m, visits).shape for n, m in children.items()}
    classes = {type(m) for m in children.values()}
    has_layers = all(any(m.children()) for m in children.values())
    return has_layers and len(classes) == 1 and shapes == {_visit(name, module, visits).shape}


def _blocks(name: str, module: nn.Module, visits: dict[str, _Visit]) -> int:
    """Return how many equal blocks a module holds: its own row, itself, or a row at its end."""
    if not any(module.children()):
        return 0
    if _is_row(name, module, visits):
        return len(list(module.children()))

    # A stage often begins with a layer that changes the shape; the row follows it.
    shape = _visit(name, module, visits).shape
    inside = {f"{name}.{n}": m for n, m in module.named_children()}
    rows = [
        m
        for n, m in inside.items()
        if _is_row(n, m, visits) and _visit(n, m, visits).shape == shape
    ]
    return max(
        (len(list(row.children())) for row in rows),
        default=0 if isinstance(module, nn.Sequential) else 1,
    )


def _is_same(last: Stage, stage: Stage) -> bool:
    """Tell whether a layer without MACs only scales or reshapes its input."""
    return stage.shape == last.shape or (
        not stage.params and math.prod(stage.shape) == math.prod(last.shape)
    )


def _are_siblings(last: Stage, stage: Stage) -> bool:
    """Tell whether two lines are numbered layers of one list."""
    parent, _, place = stage.name.rpartition(".")
    return place.isdecimal() and bool(last.shape) and last.name.rpartition(".")[0] == parent


def _joined(first: Stage, then: Stage) -> Stage:
    name = f"{first.name.partition('-')[0]}-{then.name.rpartition('.')[2]}"
    blocks = max(first.blocks, 1) + max(then.blocks, 1)
    return Stage(
        name, then.shape, blocks, params=first.params + then.params, macs=first.macs + then.macs
    )


def _dotted(parent: str, name: str) -> str:
    return f"{parent}.{name}".lstrip(".")


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
