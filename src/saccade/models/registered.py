"""Networks that users or plug-ins register under a name: ``saccade.register_model``.

They are trained like those of other libraries (:mod:`saccade.models.backends`): their weights come
from torch's generator, seeded from the run's seed. The meaning of such a name may change, so a run
also stores the identity of the network itself, as for a network passed from Python.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from saccade import plugins
from saccade.errors import ConfigError, UsageError
from saccade.models import backends
from saccade.models.parts import registry
from saccade.models.parts.registry import Entry, Options, folded
from saccade.models.quantized.naming import base_of

PLAIN_NAME = re.compile(r"[a-z][a-z0-9_.]*")

_OWN: dict[str, Entry] = {}


def register_model(
    name: str,
    builder: Callable[..., nn.Module],
    *,
    image_size: int = 224,
    smallest: int = 1,
    source: str = "",
) -> None:
    """Register a network under a name, for ``model=``, ``saccade.load`` and all other functions.

    ``builder`` is a function or a class. It is called with ``num_classes`` and, if it accepts them,
    ``image_size`` in pixels, ``in_channels``, ``dropout`` and ``drop_path``. It draws weights only
    from torch's generator, which the run's seed sets. ``image_size`` is its usual side and
    ``smallest`` the smallest, in pixels; ``source`` says where it comes from. Registering a name
    again replaces the earlier entry. Raises UsageError for an invalid name, or for the name of a
    model of this program.
    """
    key = folded(str(name))
    if not PLAIN_NAME.fullmatch(key):
        raise UsageError(
            f"{name!r} is not a valid name of a model",
            where="register_model",
            fix="use letters, digits, dots and underscores, and begin with a letter",
        )

    # Replacing one of ours would change what recipes and checkpoints of others mean.
    if key in registry.aliases() or registry.is_grammatical(key, but=_seek):
        raise UsageError(
            f"'{name}' is already a model of Saccade",
            where="register_model",
            fix="choose another name",
        )
    if isinstance(builder, nn.Module):
        raise UsageError(
            f"'{name}' is a finished network with weights, not a class or function",
            where="register_model",
            fix=(
                "pass the class or function that makes it; or train this network with model=network"
            ),
        )
    if not callable(builder) or not _takes(builder, "num_classes"):
        raise UsageError(
            f"the builder of '{name}' does not take num_classes",
            where="register_model",
            fix="pass a function or class with the parameter num_classes that returns an nn.Module",
        )
    _OWN[key] = _entry(
        key,
        builder,
        image_size=image_size,
        smallest=smallest,
        source=source or "registered from Python",
    )


def is_registered(name: str) -> bool:
    """Tell whether a name means a registered network, quantised or not."""
    key = folded(base_of(name))
    return key not in registry.aliases() and _seek_name(key) is not None


def is_foreign(name: str) -> bool:
    """Tell whether a name means a network that is not part of this program."""
    return backends.is_backend(base_of(name)) or is_registered(name)


def names(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, sorted; no plug-in is imported."""
    plugged = {folded(name): name for name in plugins.names(plugins.MODELS)}
    known = {*_OWN, *(key for key, name in plugged.items() if not _taken(key, name))}
    return sorted(name for name in known if fnmatch.fnmatch(name, folded(pattern)))


def _seek(match: re.Match[str]) -> Entry | None:
    return _seek_name(match[0])


def _seek_name(key: str) -> Entry | None:
    """Return the meaning of a folded name: networks registered in this process come before
    plug-ins.
    """
    if key in _OWN:
        return _OWN[key]
    for name in plugins.names(plugins.MODELS):
        if folded(name) != key or _taken(key, name):
            continue
        if (builder := plugins.load(plugins.MODELS, name)) is not None:
            side = int(getattr(builder, "image_size", 224))
            source = f"plug-in {getattr(builder, '__module__', name)}"
            return _entry(key, builder, image_size=side, smallest=1, source=source)
    return None


@functools.cache
def _taken(key: str, plug_in: str) -> bool:
    """Tell whether a folded name is that of a model of this program; its plug-in is skipped."""
    taken = key in registry.aliases() or registry.is_grammatical(key, but=_seek)
    if taken:
        plugins.warn(plugins.MODELS, plug_in, "has the name of a model of Saccade")
    return taken


def _entry(
    name: str, builder: Callable[..., nn.Module], *, image_size: int, smallest: int, source: str
) -> Entry:
    def build(options: Options) -> nn.Module:
        if not callable(builder) or not _takes(builder, "num_classes"):
            raise ConfigError(
                f"the builder of {name} does not take num_classes",
                where="--model",
                fix="repair the plug-in: it must name a function or class with that parameter",
            )

        asked = {"dropout": options.dropout, "drop_path": options.drop_path}
        offered = {"image_size": options.image_size, "in_channels": options.in_channels}
        network = backends.made(
            lambda **more: builder(num_classes=options.num_classes, **more),
            name,
            asked,
            offered,
            fix=(
                "repair its builder; it is also called on torch's meta device, where tensors "
                "have shapes but no values"
            ),
        )

        if not isinstance(network, nn.Module):
            raise ConfigError(
                f"the builder of {name} returned a {type(network).__name__}",
                where="--model",
                fix="it must return an nn.Module",
            )
        return network

    return backends.foreign_entry(
        name,
        build,
        family="registered",
        source=source,
        image_size=image_size,
        smallest=smallest,
    )


def _takes(builder: Any, parameter: str) -> bool:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # a builder of another language does not say
        return True
    return any(p.name == parameter or p.kind is p.VAR_KEYWORD for p in parameters)


registry.register_grammar(r"[^:]+", _seek)
