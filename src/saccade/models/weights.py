"""Weights in and out: what others saved is read by name, fitted where that can mean only one thing, and reported.

A file may wrap its tensors (``{"model": {...}, "epoch": 3}``), prefix their names (``module.``, ``backbone.``), use the
names of torchvision, timm or pycls, or be of another number of classes, pixels or colours. Every combination of table,
prefix and names is tried, and the one that fits most of the model's names is taken.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError, ConfigError
from saccade.models.fitting import fit, form, squeezed

MODEL_FILE = "model.safetensors"
DIALECTS = ("torchvision", "timm", "pycls")
WRAPPERS = {"module", "model", "net", "network", "backbone", "encoder", "features"}
INSERTED = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
HEADS = ("fc", "classifier", "head", "head.fc", "heads.head", "linear", "last_linear")
COMPUTED = {"relative_position_index", "relative_coords_table", "attn_mask"}
COUNTERS = {"num_batches_tracked"}
_SCALAR = np.float64(0).__reduce__()[0]
PLAIN_VALUES: list[Any] = [
    argparse.Namespace, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType,
    (_SCALAR, "numpy._core.multiarray.scalar"), (_SCALAR, "numpy.core.multiarray.scalar"),
]  # fmt: skip
"""What many files hold beside tensors, options and numpy's numbers: reading these runs no code."""
DEPTH = 4
SHOWN = 6


@dataclass(frozen=True, slots=True)
class Report:
    """What became of every tensor, by the model's names; ``unused`` by those of the source.

    ``source`` is the file and the table in it, ``dialect`` whose names it uses (empty = the model's own). ``fitted``
    were changed to fit, ``misshaped`` could not be, each with how; ``head`` stays as it starts because the classes are
    others. ``share`` of the model's weights, heads aside, was loaded.
    """

    source: str
    dialect: str = ""
    loaded: tuple[str, ...] = ()
    fitted: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, str], ...] = ()
    share: float = 0.0

    def __str__(self) -> str:
        count = len(self.loaded) + len(self.fitted)
        total = count + len(self.head) + len(self.missing) + len(self.misshaped)
        whose = f", names of {self.dialect}" if self.dialect else ""
        lines = [f"{count} of {total} tensors ({self.share:.1%} of the weights) from {self.source}{whose}"]
        sections = {
            "fitted": [f"{name}: {how}" for name, how in self.fitted],
            "fresh head (other classes)": self.head,
            "missing there": self.missing,
            "unused": self.unused,
            "of another shape": [f"{name}: {how}" for name, how in self.misshaped],
        }
        return "\n".join(lines + [f"  {title}: {_listed(names)}" for title, names in sections.items() if names])


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read a source: tensors of any shape ``(...)`` by our names, and the names that have no place."""

    place: str
    dialect: str
    tensors: dict[str, Tensor]
    unused: tuple[str, ...]


def load_weights(
    model: nn.Module, source: Mapping[str, Any] | str | Path, *, classes: Sequence[str] = (), strict: bool = False
) -> Report:
    """Copy what fits of foreign weights, tensors of any shape ``(...)`` by name, into a model; say what did not.

    ``source`` is a .safetensors, .pth or .pt file, a run folder, or a mapping such as a state dict. Fitted are: linear
    layers to 1x1 convolutions and back, position tables to other image sizes, relative position tables to other
    windows, the first convolution to other channels. A head of another number of classes is left alone, as is one of
    other ``classes`` where a file of ours names them. Raises CheckpointError, the model untouched, when the file
    cannot be read, nothing fits or, if ``strict``, anything is left over.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    tree, known = (source, ()) if isinstance(source, Mapping) else _read(Path(source))
    reading = _best(model, tree, where)
    other_classes = bool(classes and known) and tuple(classes) != known
    values, report = _fit_all(model, reading, where, other_classes)
    if not values:
        raise _stranger(model, reading, where)
    left = [*report.missing, *report.unused, *(n for n, _ in report.misshaped)]
    if strict and left:
        raise CheckpointError(f"not every name and shape fits: {_listed(left)}", where=where, fix="load without strict")
    model.load_state_dict(values, strict=False)
    return report


def foreign_state(model: nn.Module, dialect: str, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the state of a model, tensors of any shape ``(...)``, under the names that another library uses.

    ``dialect`` is torchvision, timm or pycls. ``like`` is a state dict of theirs whose shapes are taken, where they
    keep a linear layer for a 1x1 convolution. The tensors share memory with the model. Raises ConfigError.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"nobody's names are '{dialect}'", where="dialect", fix=f"give {', '.join(DIALECTS)}")
    theirs = _names(model, dialect)
    state = {theirs.get(n, n): t for n, t in model.state_dict().items()}
    assert len(state) == len(model.state_dict()), "two tensors got one name"
    return {n: t.reshape(like[n].shape) if like and n in like else t for n, t in state.items()}


def _names(model: nn.Module, dialect: str) -> dict[str, str]:
    translate = getattr(model, "foreign_names", None)
    return translate(dialect) if translate and dialect else {}


def _read(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return what a file holds and, where it is one of ours, the names of its classes."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        fix = "give a run folder, a .safetensors, a .pth or a .pt file"
        raise CheckpointError("there are no weights here", where=str(file), fix=fix)
    try:
        if file.suffix == ".safetensors":
            with safetensors.safe_open(str(file), "pt") as handle:
                facts = json.loads((handle.metadata() or {}).get("saccade", "{}"))
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
            return tensors, tuple(facts.get("classes", ()))
        with torch.serialization.safe_globals(PLAIN_VALUES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read raises
            return torch.load(file, map_location="cpu", weights_only=True), ()
    except Exception as error:  # a damaged or hostile file can break its reader in any way
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    text = str(error)
    code = re.search(r"GLOBAL ([\w.]+)", text)
    if type(error).__name__ == "UnpicklingError" or "TorchScript" in text:
        return CheckpointError(
            f"this file holds more than tensors, perhaps a program{f' ({code[1]})' if code else ''}, so it is not read",
            where=str(file),
            fix='load it where it was made, then torch.save(model.state_dict(), "weights.pth") and give that file',
        )
    reason = text.strip().split("\n")[0]
    return CheckpointError(
        f"this is no file of weights: {type(error).__name__} {reason}",
        where=str(file),
        fix="give a .safetensors file, or a .pth or .pt that torch.save wrote",
    )


def _best(model: nn.Module, tree: Any, where: str) -> _Reading:
    """Return the reading that fits most names; among equals an average of weights, then the model's own names."""
    own, head = _state(model), _heads(model)[0]
    dialects = {dialect: {b: a for a, b in _names(model, dialect).items()} for dialect in ("", *DIALECTS)}
    best, most = None, (-1, False)
    for place, table in _tables(tree):
        for prefixes in _prefixes(table):
            for dialect, ours in dialects.items():
                reading = _translated(place, dialect, table, prefixes, ours, own, head)
                fits = sum(squeezed(t) == squeezed(own[n]) for n, t in reading.tensors.items())
                if (fits, "ema" in place.lower()) > most:
                    best, most = reading, (fits, "ema" in place.lower())
    if best is None:
        fix = "give the state dict of a network, or a file that holds one"
        raise CheckpointError("there are no named tensors in it", where=where, fix=fix)
    return best


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}


def _heads(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that make logits, the main one first."""
    if name := getattr(model, "head_name", ""):
        return (name, *getattr(model, "aux_names", ()))
    return tuple([n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]) or ("",)


def _tables(tree: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping from names to tensors of any shape ``(...)`` in a nested structure, with its place."""
    if not isinstance(tree, Mapping) or depth > DEPTH:
        return
    tensors = {n: t for n, t in tree.items() if isinstance(n, str) and isinstance(t, Tensor)}
    plain = {n: t for n, t in tensors.items() if t.layout == torch.strided and not t.is_quantized}
    if plain:
        yield place, plain
    for name, inner in tree.items():
        yield from _tables(inner, f"{place}.{name}".lstrip("."), depth + 1)


def _prefixes(names: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Return the chains of prefixes that may be stripped, shortest first: ('',), ('', 'module.'), ...

    Every name loses the longest prefix of a chain that it has, for names of the same model may be prefixed or not.
    """
    chains: set[tuple[str, ...]] = {("",)}
    for name in names:
        chain: tuple[str, ...] = ("",)
        for word in INSERTED.sub("", name).split(".")[:-1]:
            if word not in WRAPPERS:
                break
            chain = (*chain, f"{chain[-1]}{word}.")
            chains.add(chain)
    return sorted(chains, key=lambda chain: (len(chain), chain))


def _translated(
    place: str, dialect: str, table: Mapping[str, Tensor], prefixes: tuple[str, ...], ours: Mapping[str, str],
    own: Mapping[str, Tensor], head: str,
) -> _Reading:  # fmt: skip
    """Read a table of tensors of any shape ``(...)`` by stripping prefixes and turning foreign names into ``ours``."""
    taken, renamed = {}, set(ours.values())
    stripped = {}
    for name in table:
        clean = INSERTED.sub("", name)
        prefix = max((p for p in prefixes if clean.startswith(p)), key=len)
        stripped[name] = (len(prefix), clean.removeprefix(prefix))
    for name, (_, short) in sorted(stripped.items(), key=lambda item: item[1][0]):  # the longest prefix wins
        target = ours.get(short, short)
        if target in own and (short in ours or target not in renamed):
            taken[target] = name
    for alias in HEADS:
        if f"{head}.weight" in own and f"{head}.weight" not in taken:
            spare = {short: name for name, (_, short) in stripped.items() if name not in taken.values()}
            parts = [p for p in ("weight", "bias") if f"{alias}.{p}" in spare and f"{head}.{p}" in own]
            taken |= {f"{head}.{p}": spare[f"{alias}.{p}"] for p in parts}
    used = set(taken.values())
    unused = tuple(n for n in table if n not in used and n.rpartition(".")[2] not in COMPUTED | COUNTERS)
    return _Reading(place, dialect, {target: table[name] for target, name in taken.items()}, unused)


def _fit_all(model: nn.Module, reading: _Reading, where: str, other_classes: bool) -> tuple[dict[str, Tensor], Report]:
    """Return the tensors, any shape ``(...)``, to copy into the model, and the report about all of them."""
    own, heads = _state(model), _heads(model)
    of_heads = {f"{h}.{part}" for h in heads for part in ("weight", "bias")}
    widths = {_width(state.get(f"{heads[0]}.weight")) for state in (own, reading.tensors)} - {0}
    first = next((n for n, t in own.items() if t.dim() == 4), "")
    values, fitted, head, missing, misshaped = {}, [], [], [], []
    for name, ours in own.items():
        last = name.rpartition(".")[2]
        theirs = reading.tensors.get(name)
        if last in COMPUTED or (theirs is None and last in COUNTERS):
            continue
        if theirs is None:
            missing.append(name)
        elif (name in of_heads and other_classes) or (len(widths) > 1 and {_width(ours), _width(theirs)} == widths):
            head.append(name)
        elif (fits := fit(last, theirs, ours, is_first=name == first)) is None:
            misshaped.append((name, f"{form(theirs)} there, {form(ours)} here"))
        else:
            values[name], how = fits
            if how:
                fitted.append((name, how))
    weights = {n: p.numel() for n, p in model.named_parameters() if n not in of_heads}
    changed = {name for name, _ in fitted}
    return values, Report(
        source=f"{where} [{reading.place}]" if reading.place else where,
        dialect=reading.dialect,
        loaded=tuple(n for n in values if n not in changed),
        fitted=tuple(fitted),
        head=tuple(head),
        missing=tuple(missing),
        unused=reading.unused,
        misshaped=tuple(misshaped),
        share=sum(count for n, count in weights.items() if n in values) / max(sum(weights.values()), 1),
    )


def _width(tensor: Tensor | None) -> int:
    return tensor.shape[0] if tensor is not None and tensor.dim() else 0


def _stranger(model: nn.Module, reading: _Reading, where: str) -> CheckpointError:
    theirs, ours = [*reading.tensors, *reading.unused], list(_state(model))
    return CheckpointError(
        f"none of its tensors fits this {type(model).__name__}: there are {_listed(theirs, 3)}; the model has "
        f"{_listed(ours, 3)}",
        where=where,
        fix="name the architecture that the weights belong to with --model",
    )


def _listed(names: Sequence[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
