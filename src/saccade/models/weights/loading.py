"""Weights in and out: read by name, fitted where the meaning is clear, and reported.

A file may wrap its tensors (``{"model": {...}, "epoch": 3}``), prefix their names (``module.``,
``backbone.``), use the names of torchvision, timm or pycls, or be of another number of classes,
pixels or colours. Every combination of table, prefix and names is tried, and the one that fits most
of the model's names is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saccade.errors import CheckpointError, ConfigError
from saccade.models.parts.running_statistics import named_statistics
from saccade.models.weights import stored
from saccade.models.weights.content import tables_and_classes
from saccade.models.weights.fitting import fit, form
from saccade.models.weights.readings import (
    COMPUTED,
    COUNTERS,
    DIALECTS,
    Reading,
    best,
    heads_of,
    listed,
    names_in,
    plain_name,
    state_of,
)

FEW = 3
"""Number of names in a list on one line."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result for every tensor, by the model's names; ``unused`` by those of the source.

    ``source`` is the file and the table in it, ``table`` the table alone (empty = the file has only
    one), ``dialect`` the library whose names it uses (empty = the model's own). ``fitted`` tensors
    were changed to fit, ``misshaped`` ones could not be, each with the reason; ``head`` was not
    loaded because the classes differ, and ``fresh`` are all parameters of heads that the source did
    not give. ``share`` of the model's weights, without heads, was loaded. ``others`` are further
    tables and prefixes of the source that would fit. ``first`` says how the first layer does not
    fit (empty = it does), and ``patch`` is the side, in pixels, of the patches in the source's
    first layer if it differs (0 = it does not).
    """

    source: str
    dialect: str = ""
    loaded: tuple[str, ...] = ()
    fitted: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, str], ...] = ()
    share: float = 0.0
    others: tuple[str, ...] = ()
    first: str = ""
    patch: int = 0
    table: str = ""

    @property
    def summary(self) -> str:
        """Which table was taken and what did not fit, in one line."""
        count = len(self.loaded) + len(self.fitted)
        total = count + len(self.fresh) + len(self.misshaped)
        total += len(set(self.missing) - set(self.fresh))
        how = Counter(how for _, how in self.fitted)
        parts = [
            f"{count} of {total} tensors ({self.share:.1%} of the weights)"
            + f" from the table {self.table}" * bool(self.table)
            + f", names of {self.dialect}" * bool(self.dialect),
            *(f"{n} x {text}" if n > 1 else text for text, n in how.items()),
        ]
        # what belongs to another network is said once, by the name of that
        beside = tuple(
            p for other in self.others if (p := other.rpartition(": ")[2]).endswith(".*")
        )
        left = {
            "missing": [n for n in self.missing if n not in self.fresh],
            "unused": [n for n in self.unused if not n.startswith(tuple(p[:-1] for p in beside))],
            "with another shape": [f"{name}: {how}" for name, how in self.misshaped],
        }
        parts += [f"{len(n)} {what}: {listed(n, FEW)}" for what, n in left.items() if n]
        if self.others:
            parts.append(f"not taken: {listed(self.others, FEW)}")
        return "; ".join(parts)

    def __str__(self) -> str:
        count = len(self.loaded) + len(self.fitted)
        total = count + len(self.head) + len(self.missing) + len(self.misshaped)
        whose = f", names of {self.dialect}" if self.dialect else ""
        lines = [
            f"{count} of {total} tensors ({self.share:.1%} of the weights) from "
            f"{self.source}{whose}"
        ]
        sections = {
            "would also have fitted": self.others,
            "fitted": [f"{name}: {how}" for name, how in self.fitted],
            "fresh head (other classes)": self.head,
            "missing there": self.missing,
            "unused": self.unused,
            "with another shape": [f"{name}: {how}" for name, how in self.misshaped],
        }
        return "\n".join(
            lines + [f"  {title}: {listed(names)}" for title, names in sections.items() if names]
        )


def load_weights(
    model: nn.Module,
    source: Mapping[str, Any] | str | Path,
    *,
    classes: Sequence[str] = (),
    strict: bool = False,
) -> Report:
    """Copy the fitting tensors of foreign weights, of any shape ``(...)``, and report the others.

    ``source`` is a .safetensors, .pth or .pt file, a run folder, a checkpoint folder, or a mapping
    such as a state dict. If a checkpoint has an average of the weights, it is taken: it is the
    model. These are made to fit: linear layers to 1x1 convolutions and back, position tables to
    other image sizes, relative position tables to other windows, the first convolution to other
    channels. A head with other classes, by number or by name, is not loaded. Raises CheckpointError
    and leaves the model unchanged if the file cannot be read, if nothing fits or, with ``strict``,
    if anything is left over.
    """
    if isinstance(source, Mapping):
        return load_tables(model, source, "the state dict", strict=strict)
    tree, known = tables_and_classes(Path(source))
    others = bool(classes and known) and tuple(classes) != known
    return load_tables(model, tree, str(source), other_classes=others, strict=strict)


def load_tables(
    model: nn.Module, tree: Any, where: str, *, other_classes: bool = False, strict: bool = False
) -> Report:
    """Copy what fits of nested tables of tensors, of any shape ``(...)``; ``where`` names them in
    errors.

    ``other_classes``: their head is of other classes. Raises as ``load_weights`` does.
    """
    reading = best(model, tree, where)
    values, report = _fit_all(model, reading, where, other_classes)
    _refuse_whole_numbers(report, reading, where)
    if not values:
        raise _stranger(model, reading, where)
    _refuse_damaged(model, values, where)

    left = [*report.missing, *report.unused, *(n for n, _ in report.misshaped)]
    if strict and left:
        raise CheckpointError(
            f"not all names and shapes fit: {listed(left)}",
            where=where,
            fix="load without strict",
        )

    # only now is the model touched: everything that can fail has been tried
    names = {plain_name(n): n for n in model.state_dict()}
    model.load_state_dict({names[n]: t for n, t in values.items()}, strict=False)
    return report


def _refuse_damaged(model: nn.Module, values: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError where tensors, of any shape ``(...)``, cannot be those of a network.

    Parameters and running statistics only: another buffer, such as a mask, may hold infinities.
    """
    statistics = {plain_name(name) for name in named_statistics(model)}
    looked_at = statistics | {plain_name(name) for name, _ in model.named_parameters()}
    kept = {name: tensor for name, tensor in values.items() if name in looked_at}
    damage = ""
    if hole := stored.first_not_finite(kept):
        damage = f"{hole} contains NaN or infinity"
    variances = (n for n in kept if n in statistics and n.endswith("_var"))
    if wrong := next((n for n in variances if bool((kept[n] < 0).any())), ""):
        damage = damage or f"{wrong} contains negative variances"
    if damage:
        raise CheckpointError(
            f"these weights are damaged: {damage}",
            where=where,
            fix="copy the file again, or use an earlier checkpoint",
        )


def _refuse_whole_numbers(report: Report, reading: Reading, where: str) -> None:
    """Raise CheckpointError for quantised weights: their integers are not the numbers meant."""
    kinds = {name: reading.tensors[name].dtype for name, _ in report.misshaped}
    for name, kind in kinds.items():
        if not (kind.is_floating_point or kind.is_complex):
            raise CheckpointError(
                f"{name} holds whole numbers ({str(kind).removeprefix('torch.')}): these weights "
                "are quantized",
                where=where,
                fix="use the weights in floating point that they were made from",
            )


def head_width(model: nn.Module, tree: Any, where: str) -> int:
    """Return the number of classes of the head in tables of tensors, 0 without a head.

    ``model`` is their network, of any width, perhaps without memory. Raises CheckpointError if none
    of them fits it.
    """
    reading = best(model, tree, where)
    if not reading.tensors:
        raise _stranger(model, reading, where)
    return _width(reading.tensors.get(f"{heads_of(model)[0]}.weight"))


def foreign_state(
    model: nn.Module, dialect: str, like: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the state of a model, tensors of any shape ``(...)``, under another library's names.

    ``dialect`` is torchvision, timm or pycls. ``like`` is a state dict of theirs whose shapes are
    used where they have as many numbers, for example a linear layer in place of a 1x1 convolution.
    The tensors share memory with the model. Raises ConfigError.
    """
    if dialect not in DIALECTS:
        raise ConfigError(
            f"unknown dialect '{dialect}'", where="dialect", fix=f"give {', '.join(DIALECTS)}"
        )
    theirs = names_in(model, dialect)
    state = {theirs.get(n, n): t for n, t in model.state_dict().items()}
    assert len(state) == len(model.state_dict()), "two tensors have the same name"
    alike = {n for n, t in state.items() if like and n in like and t.numel() == like[n].numel()}
    return {n: t.reshape(like[n].shape) if like and n in alike else t for n, t in state.items()}


def _fit_all(
    model: nn.Module, reading: Reading, where: str, other_classes: bool
) -> tuple[dict[str, Tensor], Report]:
    """Return the tensors, any shape ``(...)``, to copy into the model, and a report about all."""
    own, heads = state_of(model), heads_of(model)
    of_heads = {f"{h}.{part}" for h in heads for part in ("weight", "bias")}
    # two widths of heads: the file is of another number of classes
    widths = {_width(state.get(f"{heads[0]}.weight")) for state in (own, reading.tensors)} - {0}
    first = next((n for n, t in own.items() if t.dim() == 4), "")

    values, fitted, head, missing, misshaped = {}, [], [], [], []
    for name, ours in own.items():
        last = name.rpartition(".")[2]
        theirs = reading.tensors.get(name)
        # tables that follow from the shape need not be in a file
        if last in COMPUTED or (theirs is None and last in COUNTERS):
            continue
        if theirs is None:
            missing.append(name)
        elif (name in of_heads and other_classes) or (
            len(widths) > 1 and {_width(ours), _width(theirs)} == widths
        ):
            head.append(name)
        elif (fits := fit(last, theirs, ours, is_first=name == first)) is None:
            misshaped.append((name, f"{form(theirs)} there, {form(ours)} here"))
        else:
            values[name], how = fits
            if how:
                fitted.append((name, how))

    parameters = {plain_name(n): p.numel() for n, p in model.named_parameters()}

    # Heads do not count: a fresh head is intended.
    weights = {n: count for n, count in parameters.items() if n not in of_heads}
    changed = {name for name, _ in fitted}

    entry = _first_layer(model)
    reasons = dict(misshaped) | dict.fromkeys(missing, "missing there")
    wrong = entry not in of_heads and entry in reasons

    return values, Report(
        source=f"{where} [{reading.place}]" if reading.place else where,
        dialect=reading.dialect,
        loaded=tuple(n for n in values if n not in changed),
        fitted=tuple(fitted),
        head=tuple(head),
        fresh=tuple(n for n in own if n in of_heads | {*head} and n not in values),
        missing=tuple(missing),
        unused=reading.unused,
        misshaped=tuple(misshaped),
        share=sum(n in values and count for n, count in weights.items()) / sum(weights.values())
        if weights
        else 1.0,
        others=reading.others,
        first=f"{entry} ({reasons[entry]})" if wrong else "",
        table=reading.place,
        patch=_patch(reading.tensors.get(entry), own[entry]) if wrong else 0,
    )


def _first_layer(model: nn.Module) -> str:
    """Return the name of the weight of the first layer, which sees the pixels.

    Empty where there is none.
    """
    layers = (n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return next((plain_name(f"{n}.weight") for n in layers), "")


def _patch(theirs: Tensor | None, ours: Tensor) -> int:
    """Return the patch side behind a first layer (C, colours, P, P) or (C, colours P P)."""
    if theirs is None or theirs.dim() != ours.dim() or theirs.shape[0] != ours.shape[0]:
        return 0
    side = theirs.shape[-1] if theirs.dim() == 4 else math.isqrt(theirs.shape[-1] // 3)
    return side if theirs.numel() == theirs.shape[0] * 3 * side**2 else 0


def _width(tensor: Tensor | None) -> int:
    return tensor.shape[0] if tensor is not None and tensor.dim() else 0


def _stranger(model: nn.Module, reading: Reading, where: str) -> CheckpointError:
    theirs, ours = [*reading.tensors, *reading.unused], list(state_of(model))
    return CheckpointError(
        f"none of its tensors fits this {type(model).__name__}: the file has "
        f"{listed(theirs, 3)}; the model has {listed(ours, 3)}",
        where=where,
        fix="name the architecture of the weights with --model",
    )
