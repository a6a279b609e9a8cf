"""The automatic choices of a run: each made once, with its reason, and kept when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value", str, int, bool)


@dataclass(frozen=True, slots=True)
class Choice(Generic[Value]):
    """A chosen value, and its reason as a phrase for people."""

    value: Value
    reason: str

    @classmethod
    def parse(cls, tree: Mapping[str, Any], kind: type[Value]) -> Choice[Value]:
        """Read one back from ``{"value": ..., "reason": ...}``."""
        return Choice(kind(tree["value"]), str(tree.get("reason", "")))


LENGTH_AS_SET = Choice("", "as set")


@dataclass(frozen=True, slots=True)
class Choices:
    """All automatic choices of a run.

    ``device`` is a type such as ``cuda``, ``optimizer`` how the optimiser updates its tensors
    (``fused`` or ``foreach``), ``length`` the duration that was fitted to ``within``, empty if the
    settings give the length. ``config.yaml``, ``run.json`` and the checkpoints hold these under
    ``resolved``.
    """

    device: Choice[str]
    precision: Choice[str]
    optimizer: Choice[str]
    deterministic: Choice[bool]
    compute_threads: Choice[int]
    reader_threads: Choice[int]
    layout: Choice[str]
    compile: Choice[bool]
    length: Choice[str] = LENGTH_AS_SET

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return them as ``{name: {"value": ..., "reason": ...}}``."""
        return asdict(self)

    @classmethod
    def parse(cls, tree: Mapping[str, Mapping[str, Any]]) -> Choices:
        """Read them back from their JSON form; unknown names are ignored."""
        return cls(
            device=Choice.parse(tree["device"], str),
            precision=Choice.parse(tree["precision"], str),
            optimizer=Choice.parse(tree["optimizer"], str),
            deterministic=Choice.parse(tree["deterministic"], bool),
            compute_threads=Choice.parse(tree["compute_threads"], int),
            reader_threads=Choice.parse(tree["reader_threads"], int),
            layout=Choice.parse(tree["layout"], str),
            compile=Choice.parse(tree["compile"], bool),
            # earlier versions had no length to choose
            length=Choice.parse(tree["length"], str) if "length" in tree else LENGTH_AS_SET,
        )

    def overridden_by(self, earlier: Mapping[str, Mapping[str, Any]]) -> Choices:
        """Return these with the choices of an earlier attempt, given in its JSON form.

        Older versions have fewer of them.
        """
        # today's choice stands in where the earlier attempt knew of none
        return Choices.parse({**self.to_json(), **earlier})
