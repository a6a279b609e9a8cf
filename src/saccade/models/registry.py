"""Names of models: registration, look-up, and what each one is."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from saccade.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Options:
    """What every architecture is built from."""

    num_classes: int
    image_size: int = 224
    in_channels: int = 3
    dropout: float = 0.0
    drop_path: float = 0.0


Builder = Callable[[Options], nn.Module]


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered architecture: ``source`` cites the paper, ``image_size`` is its usual side in pixels."""

    name: str
    build: Builder
    family: str
    source: str
    image_size: int


_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}


def register(
    name: str, build: Builder, *, family: str, source: str, image_size: int, aliases: tuple[str, ...] = ()
) -> None:
    """Make an architecture known under a name and its aliases; a name used twice is a bug."""
    for known in (name, *aliases):
        assert known.lower() not in _ALIASES, f"{known} is registered twice"
        _ALIASES[known.lower()] = name
    _ENTRIES[name] = Entry(name, build, family, source, image_size)


def names(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, sorted."""
    return sorted(n for n in _ENTRIES if fnmatch.fnmatch(n, pattern.lower()))


def is_known(name: str) -> bool:
    """Tell whether a name or alias is registered, whatever its case."""
    return name.lower() in _ALIASES


def find(name: str) -> Entry:
    """Return the architecture behind a name, whatever its case; raises ConfigError with the nearest names."""
    if name.lower() in _ALIASES:
        return _ENTRIES[_ALIASES[name.lower()]]
    near = difflib.get_close_matches(name.lower(), _ALIASES, n=3, cutoff=0.5)
    raise ConfigError(
        f"there is no model '{name}'",
        where="--model",
        fix=f"did you mean {' or '.join(near)}?" if near else "`saccade models` lists them",
    )
