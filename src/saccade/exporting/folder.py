"""The folder for exported files: what lies there already, and what may be replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade import files
from saccade.errors import UsageError
from saccade.log import Log

RECEIPT, CARD = "export.json", "README.md"
TAG = "saccade"
"""The tag in the head of each model card."""

_LIMIT_BYTES = 16_000_000


def earlier(out: Path) -> Mapping[str, Any]:
    """Return the receipt of the last export to a folder; empty if there is none."""
    try:
        found = files.read_json(out / RECEIPT)
    except (OSError, ValueError):
        return {}
    is_one = isinstance(found, dict) and isinstance(found.get("files"), dict) and TAG in found
    return found if is_one else {}


def require_own(out: Path, names: Iterable[str]) -> None:
    """Raise UsageError if ``out`` is no folder, or if an export would replace what is not exported.

    ``names`` are what it would write. An export writes the card before all others: after one that
    was killed, the card tells that the rest is its own.
    """
    file = next((one for one in (out, *out.parents) if one.is_file()), None)
    if file is not None:
        raise UsageError(
            "this is a file, and an export needs a folder",
            where=str(file),
            fix="name another folder with --out",
        )
    if earlier(out) or _is_exported(out / CARD):
        return
    for name in names:
        if (out / name).exists():
            raise UsageError(
                f"{name} is in this folder already, and no export wrote it",
                where=str(out),
                fix="name another folder with --out, or move it away",
            )


def keep_edited(out: Path, card: bytes) -> None:
    """Rename the card of an earlier export if somebody changed it, so that nothing is lost.

    ``card`` is the one that takes its place.
    """
    path = out / CARD
    if not path.is_file():
        return
    known = {earlier(out).get("card_sha256"), hashlib.sha256(card).hexdigest()}
    if files.digest(path) not in known:
        files.set_aside(path, "earlier")
        Log().warn(f"{CARD} was changed after its export: it is kept as earlier-{CARD}-...")


def tell_others(out: Path, written: Iterable[str], known: Iterable[str]) -> None:
    """Warn about files of earlier exports that stay, and that the new receipt does not cover."""
    left = [name for name in known if name not in set(written) and (out / name).exists()]
    if left:
        Log().warn(
            f"from an earlier export, and not in {RECEIPT} any more: {', '.join(left)} "
            "(one command writes all: --format onnx,pt2 --int8)"
        )


def _is_exported(card: Path) -> bool:
    """Tell whether a file begins as the cards of exports do."""
    try:
        text = files.read_text(card, _LIMIT_BYTES)
    except (OSError, ValueError):
        return False
    return text.startswith("---\n") and f"\n- {TAG}\n" in text.partition("\n---\n")[0] + "\n"
