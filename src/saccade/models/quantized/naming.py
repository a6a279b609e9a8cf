"""Names of quantised networks: ``quantized:SCHEME:NAME``."""

from __future__ import annotations

from saccade.models.quantized.schemes import SCHEMES, Scheme

PREFIX = "quantized"


def name_of(scheme: str, base: str) -> str:
    """Return the name of the network ``base`` when a scheme quantises it."""
    return f"{PREFIX}:{scheme}:{base}"


def parsed(name: str) -> tuple[Scheme | None, str]:
    """Return the scheme of a name, or None without one, and the name of the network."""
    start, _, rest = name.partition(":")
    scheme, _, base = rest.partition(":")
    if start.lower() != PREFIX or scheme not in SCHEMES or not base:
        return None, name
    return SCHEMES[scheme], base


def base_of(name: str) -> str:
    """Return the name of the network behind a quantised one; any other name unchanged."""
    return parsed(name)[1]
