"""Ways to read named tensors: which table, which prefix, whose names.

The way that fits a model best is used.

Many files hold several networks of one form: a student and the teacher that averages it, or the
weights and their moving average. The averaged one is the model that its authors evaluated, so it is
used among ways that fit equally well.

The work is bounded, whatever a file claims: its tables, the prefixes of its names and the total
number of names have limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from saccade.errors import CheckpointError
from saccade.models.parts import embedding
from saccade.models.weights.fitting import squeezed

DIALECTS = ("torchvision", "timm", "pycls", "swin's authors", "lightly")
"""The libraries whose names are known.

The last two are formats of self-supervised trainers: Swin as its authors published it, which SimMIM
uses, and a ResNet as a list of its parts, as in the examples of lightly.
"""
WRAPPERS = {
    *("module", "model", "net", "network", "backbone", "encoder", "features", "trunk"),
    *("student", "teacher", "online", "target", "base", "query", "key", "q", "k", "momentum"),
    *("ema", "swa", "avg", "average", "averaged", "shadow"),
    *("", "wrapped", "embedding", "vit"),
}
"""Words, joined by underscores, that trainers put before the names of a network:
``teacher_backbone``, or lightly-train's ``student_embedding_model.wrapped_model._model``.
"""
AVERAGES = {"ema", "teacher", "target", "average", "averaged", "avg", "swa", "shadow", "polyak"}
"""Words in the name of a table or a prefix that mean averaged weights."""
KEYS = {"k", "key", "momentum"}
"""Words in the names of averages that their authors made for training only; they publish the other
encoder.

*Source:* He et al. 2020 and Chen et al. 2021 (MoCo, MoCo v3), the published ``main_lincls.py``.
"""
MOMENTS = re.compile(
    r"optim(i[sz]er|[._]|$)|(^|[._])opt([._]|$)|(exp|square|grad)_avg|avg_(sq|grad)"
)
"""Places of an optimiser's averages, which average gradients and not weights."""
INSERTED = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
HEADS = ("fc", "classifier", "head", "head.fc", "heads.head", "linear", "last_linear")
COMPUTED = {"relative_position_index", "relative_coords_table", "attn_mask"}
COUNTERS = {"num_batches_tracked"}

DEPTH = 4
SHOWN = 6
LONGEST_CHAIN = 6
"""Largest number of words in a prefix; ``module.model.backbone.encoder`` is the longest seen."""
MOST_TABLES = 100
MOST_PLACES = 100_000
"""Largest number of entries of nested tables that are searched."""
MOST_NAMES = 400_000
"""Largest number of names read in all ways together: a file of 1,000 names has about 20 ways."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a source: tensors of any shape ``(...)`` by our names, and unused names.

    ``place`` is the table and ``prefix`` the removed prefix; ``others`` names further ways that
    would fit.
    """

    place: str
    dialect: str
    tensors: dict[str, Tensor]
    unused: tuple[str, ...]
    prefix: str = ""
    others: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """How likely its authors meant this one: 2 an average, 1 weights, 0 an average for training
        only, -1 no weights.
        """
        name = f"{self.place}.{self.prefix}".lower()
        if MOMENTS.search(name):
            return -1
        parts = set(re.split(r"[.\s_]", name))
        if KEYS & parts:
            return 0
        return (
            2 if AVERAGES & parts or any(p.endswith("ema") and p != "schema" for p in parts) else 1
        )


def plain_name(name: str) -> str:
    """Return the name of a tensor without the parts that torch.compile and others insert."""
    return INSERTED.sub("", name)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside torch.compile, DataParallel or DistributedDataParallel."""
    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def best(model: nn.Module, tree: Any, where: str) -> Reading:
    """Return the reading that fits most names.

    Among equals, it prefers an average of weights, then the model's own names. An average of the
    parameters only is used with the running statistics of the weights that it averages. Raises
    CheckpointError if there are no named tensors, or too many ways to read them.
    """
    own, head = state_of(model), heads_of(model)[0]
    names = {dialect: names_in(model, dialect) for dialect in DIALECTS}
    # where another library has the same names there is nothing to try twice
    dialects: dict[str, dict[str, str]] = {"": {}}
    dialects |= {d: {b: a for a, b in n.items()} for d, n in names.items() if n}
    found: list[tuple[int, Reading]] = []
    work = 0

    for place, table in _tables(tree, where):
        for chain in _prefixes(table):
            # counted before it is done: a small file can hold names that could be read in endless
            # ways
            work += len(table) * len(dialects)
            if work > MOST_NAMES:
                raise _endless(where)
            for dialect, ours in dialects.items():
                reading = _translated(
                    place, dialect, table, prefixes=chain, ours=ours, own=own, head=head
                )
                fits = sum(
                    n.rpartition(".")[2] not in COUNTERS and squeezed(t) == squeezed(own[n])
                    for n, t in reading.tensors.items()
                )
                found.append((fits, reading))
    if not found:
        fix = "use the state dict of a network, or a file that contains one"
        raise CheckpointError("it contains no named tensors", where=where, fix=fix)

    def worth(pair: tuple[int, Reading]) -> tuple[int, int, int]:
        return pair[0], pair[1].rank if pair[0] else 0, len(pair[1].tensors)

    fits, chosen = max(found, key=worth)  # the first of equals

    # An average often holds parameters alone: the running statistics come from the raw weights.
    for count, other in found:
        if chosen.rank == 1 and other.rank == 2 and _averages_parameters(other, chosen, model, own):
            mixed = _with_others(other, count, found)
            place = f"{mixed.place}, statistics of {chosen.place or 'the rest'}"
            return replace(mixed, place=place, tensors=chosen.tensors | mixed.tensors)
    return _with_others(chosen, fits, found)


def _averages_parameters(
    average: Reading, raw: Reading, model: nn.Module, own: Mapping[str, Tensor]
) -> bool:
    """Tell whether an average has every parameter of the raw weights; buffers may be missing."""
    names = {plain_name(n) for n, _ in model.named_parameters()} & set(raw.tensors)
    fitting = (
        n in average.tensors and squeezed(average.tensors[n]) == squeezed(own[n]) for n in names
    )
    return bool(names) and all(fitting)


def _endless(where: str) -> CheckpointError:
    return CheckpointError(
        "its names are ambiguous",
        where=where,
        fix="save only the state dict of the network",
    )


def _with_others(chosen: Reading, fits: int, found: Sequence[tuple[int, Reading]]) -> Reading:
    """Return the chosen reading with the names of others that fit at least half as well."""
    seen = {id(t) for t in chosen.tensors.values()}
    others = []
    for count, other in sorted(found, key=lambda pair: -pair[0]):
        tensors = {id(t) for t in other.tensors.values()}
        # the same tensors under another name are no other network; a head may belong to both
        if count * 2 > fits and len(tensors & seen) * 2 < len(tensors):
            seen |= tensors
            others.append(other)
    beside = any(other.place == chosen.place for other in others)
    place = _label(chosen) if beside else chosen.place
    return replace(chosen, place=place, others=tuple(map(_label, others)))


def _label(reading: Reading) -> str:
    return ": ".join(
        part for part in (reading.place, reading.prefix and f"{reading.prefix}*") if part
    )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model, any shape ``(...)``, by their plain names."""
    return {plain_name(n): t for n, t in model.state_dict().items() if isinstance(t, Tensor)}


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that make logits, the main one first."""
    if name := getattr(model, "head_name", ""):
        return (name, *getattr(model, "aux_names", ()))
    return (plain_name(embedding.head_name(model)),)


def names_in(model: nn.Module, dialect: str) -> dict[str, str]:
    """Return the names of a model that another library spells differently, each with theirs."""
    if dialect == "swin's authors":
        return _authors_names(model)
    if dialect == "lightly":
        return _numbered_names(model)
    translate = getattr(model, "foreign_names", None)
    return translate(dialect) if translate and dialect else {}


def _authors_names(model: nn.Module) -> dict[str, str]:
    """Return a Swin's names as published: timm's, but each stage ends with the merging of patches
    that begins the next one there.
    """
    timm = names_in(model, "timm") or {n: n for n in state_of(model)}
    if not any(name.startswith("layers.1.downsample.") for name in timm.values()):
        return {}
    found = {}
    for ours, theirs in timm.items():
        stage = re.match(r"layers\.(\d+)\.downsample\.", theirs)
        if stage:
            theirs = f"layers.{int(stage[1]) - 1}.downsample.{theirs[stage.end() :]}"
        found[ours] = re.sub(r"^head\.fc\.", "head.", theirs)
    return {ours: theirs for ours, theirs in found.items() if ours != theirs}


def _numbered_names(model: nn.Module) -> dict[str, str]:
    """Return a ResNet's names in a numbered list without names: convolution, norm, ReLU, pool, four
    stages.
    """
    names = state_of(model)
    if not all(any(n.startswith(f"{part}.") for n in names) for part in ("conv1", "bn1", "layer4")):
        return {}
    places = {"conv1": 0, "bn1": 1} | {f"layer{i}": 3 + i for i in range(1, 5)}
    parts = {name: name.partition(".") for name in names}
    return {n: f"{places[p]}.{rest}" for n, (p, _, rest) in parts.items() if p in places}


def listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return the first names as a phrase: ``a, b and 7 more``."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _tables(tree: Any, where: str) -> list[tuple[str, dict[str, Tensor]]]:
    """Return the largest tables of tensors (of any shape ``(...)``) in nested data, with places.

    A mapping that lies in several places is taken once: in a small file it can lie in millions.
    """
    seen: set[int] = set()
    found: list[tuple[str, dict[str, Tensor]]] = []
    waiting: list[tuple[Any, str, int]] = [(tree, "", 0)]
    looked = 0
    while waiting:
        branch, place, depth = waiting.pop()
        if not isinstance(branch, Mapping) or depth > DEPTH or id(branch) in seen:
            continue

        # By identity: one mapping under a million names is looked at once.
        seen.add(id(branch))
        looked += len(branch)
        if looked > MOST_PLACES:
            raise _endless(where)
        plain = {
            n: t
            for n, t in branch.items()
            if isinstance(n, str) and isinstance(t, Tensor) and _is_plain(t)
        }
        if plain:
            found.append((place, plain))
        inner = [
            (value, f"{place}.{name}".lstrip("."), depth + 1) for name, value in branch.items()
        ]
        # a stack, so reversed: tables are met in the order of the file
        waiting += reversed([entry for entry in inner if isinstance(entry[0], Mapping)])

    # The largest tables are networks; optimisers keep many small ones beside them.
    largest = sorted(range(len(found)), key=lambda i: -len(found[i][1]))[:MOST_TABLES]
    return [found[i] for i in sorted(largest)]


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type != "meta"
    )


def _prefixes(names: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Return the chains of prefixes that may be stripped, shortest first: ('',), ('', 'module.'),
    ...

    Every name loses the longest prefix of a chain that it has, for names of the same model may be
    prefixed or not.
    """
    chains: set[tuple[str, ...]] = {("",)}
    for name in names:
        chain: tuple[str, ...] = ("",)
        for word in plain_name(name).split(".", LONGEST_CHAIN + 1)[:LONGEST_CHAIN]:
            if not WRAPPERS.issuperset(word.lower().split("_")) or len(
                f"{chain[-1]}{word}."
            ) >= len(plain_name(name)):
                break
            chain = (*chain, f"{chain[-1]}{word}.")
            chains.add(chain)
    return sorted(chains, key=lambda chain: (len(chain), chain))


def _translated(
    place: str,
    dialect: str,
    table: Mapping[str, Tensor],
    prefixes: tuple[str, ...],
    ours: Mapping[str, str],
    own: Mapping[str, Tensor],
    head: str,
) -> Reading:
    """Read a table of tensors, any shape ``(...)``, by stripping prefixes and translating names."""

    # A name of ours that the other library uses for something else is not taken as it is.
    taken, renamed = {}, set(ours.values())
    stripped = {}
    for name in table:
        clean = plain_name(name)
        prefix = max((p for p in prefixes if clean.startswith(p)), key=len)
        stripped[name] = (len(prefix), clean.removeprefix(prefix))
    # the longest prefix wins
    for name, (_, short) in sorted(stripped.items(), key=lambda item: item[1][0]):
        target = ours.get(short, short)
        if target in own and (short in ours or target not in renamed):
            taken[target] = name

    # A head under another name: taken where the model's own name is not there.
    for alias in HEADS:
        if f"{head}.weight" in own and f"{head}.weight" not in taken:
            spare = {
                short: name for name, (_, short) in stripped.items() if name not in taken.values()
            }
            parts = [
                p for p in ("weight", "bias") if f"{alias}.{p}" in spare and f"{head}.{p}" in own
            ]
            taken |= {f"{head}.{p}": spare[f"{alias}.{p}"] for p in parts}
    used = set(taken.values())
    unused = tuple(
        n for n in table if n not in used and n.rpartition(".")[2] not in COMPUTED | COUNTERS
    )
    tensors = {target: table[name] for target, name in taken.items()}
    return Reading(place, dialect, tensors, unused=unused, prefix=prefixes[-1])
