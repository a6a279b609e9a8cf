"""The keywords of the Python functions: the same as the flags of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from saccade.config.schema import kinds
from saccade.data.sources import handed
from saccade.errors import ConfigError, UsageError
from saccade.log import Log
from saccade.setup.compose import Request
from saccade.setup.flags import FLAGS, flag_settings

_OF_PYTHON = ("loss", "optimizer", "augment", "callbacks")


def request(
    words: str | Path | Sequence[str | Path],
    flags: dict[str, Any],
    sets: str | Sequence[str],
    settings: dict[str, Any],
) -> Request:
    """Turn the keywords of ``train`` into the request of the command line.

    Raises UsageError or ConfigError for invalid values.
    """
    flags |= {name: handed.place(flags[name], name) for name in ("data", "val")}
    if handed.is_handed(str(flags["data"])):
        _says_itself(labels=flags["labels"], split_names=flags["split_names"])
    if isinstance(flags["model"], nn.Module):
        flags["model"] = f"custom:{type(flags['model']).__name__}"
    words = [words] if isinstance(words, str | Path) else words
    sets = [sets] if isinstance(sets, str) else sets
    return Request(
        [str(w) for w in words if w],
        flag_settings(**flags) | _dotted(settings),
        sets,
    )


def _says_itself(**flags: Any) -> None:
    """Raise UsageError for the first flag for files that is used with objects."""
    for name, value in flags.items():
        if value:
            raise UsageError(
                f"{name}= is for files, but the data was passed from Python",
                where=name,
                fix=(
                    "pass labels and splits together with the images: (images, labels), "
                    "{'train': ...}"
                ),
            )


def with_sources(request: Request, data: Any, val: Any, log: Log) -> Request:
    """Add data from Python as sources; it may have to be read for that."""
    return replace(
        request,
        data=handed.opened(data, "data", "train", log),
        val=handed.opened(val, "val", "val", log),
    )


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give keywords their dotted names; raises ConfigError for a misspelled flag."""
    known = {name.partition(".")[0] for name in kinds()}
    for name in settings:
        near = difflib.get_close_matches(name, [*FLAGS, *_OF_PYTHON], n=1, cutoff=0.7)
        if near and name.split("__")[0] not in known:
            raise ConfigError(
                f"unknown keyword '{name}'", where="saccade.train", fix=f"did you mean '{near[0]}'?"
            )
    return {name.replace("__", "."): value for name, value in settings.items()}
