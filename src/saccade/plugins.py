"""Plug-ins: what other installed packages add to this one, told by their entry points.

A package names them in its ``pyproject.toml``, in the groups ``saccade.models`` (a name and what
builds the network) and ``saccade.sources`` (any name, and a function that opens data). Nothing of a
plug-in is imported before a name is asked for that nobody here knows.
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from saccade.log import Log

MODELS = "saccade.models"
SOURCES = "saccade.sources"


def names(group: str) -> list[str]:
    """Return the names of the plug-ins of a group, sorted; none of them is imported for that."""
    return sorted(_entries(group))


@functools.cache
def load(group: str, name: str) -> Any:
    """Import a plug-in and return it; None where there is none of that name, or it is broken.

    A broken one is named in one warning, and everything else goes on without it.
    """
    entry = _entries(group).get(name)
    if entry is None:
        return None
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # any code may run here
        warn(group, name, f"cannot be loaded: {type(error).__name__}: {error}")
        return None


def warn(group: str, name: str, what: str) -> None:
    """Say what is wrong with a plug-in, and which package it is from."""
    entry = _entries(group)[name]
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    Log().warn(f"the plug-in '{name}' ({group}){package} is skipped: it {what}")


@functools.cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; of two with one name the same one each time."""
    found = sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value))
    return {entry.name: entry for entry in reversed(found)}
