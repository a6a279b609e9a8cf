"""Names of models: registration, look-up, and what each one is."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from saccade.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments from which every architecture is built.

    ``None``, 0 and an empty tuple stand for the value of the paper, or of the image size.
    ``strides`` are those of `strides_for`, ``patch_size`` is the side of a ViT's or Swin's patch in
    pixels. ``seed`` is for networks that draw their weights while they are built, which none of
    ours do.
    """

    num_classes: int
    image_size: int = 224
    in_channels: int = 3
    dropout: float | None = None
    drop_path: float | None = None
    strides: tuple[int, ...] = ()
    patch_size: int = 0
    seed: int = 0


Builder = Callable[[Options], nn.Module]


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture.

    ``source`` cites the paper; ``image_size`` is its usual side in pixels, ``smallest`` the
    smallest that it takes.
    """

    name: str
    build: Builder
    family: str
    source: str
    image_size: int
    smallest: int = 32


Grammar = Callable[[re.Match[str]], Entry | None]

_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}
_GRAMMARS: list[tuple[re.Pattern[str], Grammar]] = []


def register(
    name: str,
    build: Builder,
    *,
    family: str,
    source: str,
    image_size: int,
    smallest: int = 32,
    aliases: tuple[str, ...] = (),
) -> None:
    """Make an architecture known under a name and its aliases; a name used twice is a bug."""
    for known in (name, *aliases):
        assert folded(known) not in _ALIASES, f"{known} is registered twice"
        _ALIASES[folded(known)] = name
    _ENTRIES[name] = Entry(
        name, build, family, source=source, image_size=image_size, smallest=smallest
    )


def register_grammar(pattern: str, make: Grammar) -> None:
    """Make a range of names known, such as ``resnet50_x1p5``, that no list could hold.

    ``make`` turns the match of the whole folded name into an entry, or None when the name means
    nothing after all; it may raise ConfigError to say why.
    """
    _GRAMMARS.append((re.compile(pattern), make))


def names(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, sorted."""
    return sorted(n for n in _ENTRIES if fnmatch.fnmatch(n, folded(pattern)))


def aliases() -> dict[str, str]:
    """Return the name of an architecture for each of its names and aliases, which are in lower
    case.
    """
    return dict(_ALIASES)


def is_known(name: str) -> bool:
    """Tell whether a name or alias means an architecture, whatever its case."""
    return _look_up(name) is not None


def find(name: str) -> Entry:
    """Return the architecture behind a name, whatever its case.

    Raises ConfigError with the nearest names.
    """
    if entry := _look_up(name):
        return entry
    near = difflib.get_close_matches(folded(name), _ALIASES, n=3, cutoff=0.5)
    raise ConfigError(
        f"there is no model '{name}'",
        where="--model",
        fix=(
            f"did you mean {' or '.join(near)}?"
            if near
            else "`saccade models` lists them; to add your own, use saccade.register_model"
        ),
    )


def is_grammatical(name: str, *, but: Grammar) -> bool:
    """Tell whether one of the ranges of names, ``but`` one, holds a name."""
    return _in_grammars(folded(name), but) is not None


def _look_up(name: str) -> Entry | None:
    key = folded(name)
    return _ENTRIES[_ALIASES[key]] if key in _ALIASES else _in_grammars(key)


def _in_grammars(key: str, but: Grammar | None = None) -> Entry | None:
    for pattern, make in _GRAMMARS:
        if make is not but and (match := pattern.fullmatch(key)) and (entry := make(match)):
            return entry
    return None


def multiplier(text: str) -> float:
    """Read the number of a name's suffix: ``1p5`` is 1.5, ``p5`` a half, ``2`` two."""
    return float(text.replace("p", "."))


def folded(name: str) -> str:
    """Fold case and dashes, but only up to a colon: what follows is a name that others chose, as
    in ``timm:...``.
    """
    start, colon, rest = name.partition(":")
    return start.lower().replace("-", "_") + colon + rest
