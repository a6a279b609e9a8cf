"""The user's cache folder: results that take long to compute again.

Losing it costs only time. An entry is used only if it names the current version of its files.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from saccade import files
from saccade.errors import DataError, DiskError, SaccadeError
from saccade.system import doors

ELSEWHERE = "set XDG_CACHE_HOME to a writable folder with enough space"
STALE_S = 86_400.0
"""Age, in seconds, from which unfinished small files count as abandoned: writing takes seconds."""


def folder() -> Path:
    """Return the user's cache folder for Saccade, or a private temporary folder if there is no
    home.

    Raises DiskError where there is none that only this user can change.
    """
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # neither HOME nor an entry in the list of users: a container under a number
    except RuntimeError:
        base = _private()
    return base / "saccade"


def _private() -> Path:
    """Return a folder for this user below the temporary one.

    Others may have put a folder of this name there before: it is refused.
    """
    # the temporary folder of Windows belongs to one user, and there are no numbers
    if sys.platform == "win32":
        name = "saccade-cache"
    else:
        name = f"saccade-cache-{os.getuid()}"
    path = Path(tempfile.gettempdir()) / name
    with doors.explained(path, ELSEWHERE):
        if not doors.is_private(path):
            raise DiskError("this folder belongs to another user", where=str(path), fix=ELSEWHERE)
    return path


def within(*names: str) -> Path:
    """Return a path in the cache folder; raises DiskError where a part of it is a link."""
    return doors.within(folder(), *names)


def remember(path: Path, facts: Any) -> None:
    """Store a result if it can be written. Without it, computing again costs only time."""
    try:
        files.write_json(path, facts)
    except (SaccadeError, OSError, ValueError):
        return


def forget(path: Path) -> None:
    """Remove a wrong result, if possible."""
    try:
        doors.remove(path)
    except OSError:
        return


def copy(name: str, source: BinaryIO, limit_bytes: int) -> Path:
    """Copy a stream into the cache under ``name``, once.

    Unfinished copies of killed processes are removed first: they can have many gigabytes. Raises
    DataError above ``limit_bytes``, and DiskError.
    """
    final = within(name)
    with doors.explained(final, ELSEWHERE):
        _sweep(final.parent)
        if final.exists():
            return final
        with files.aside(final) as out:
            total = 0
            while block := source.read(files.COPY_BYTES):
                total += len(block)
                if total > limit_bytes:
                    raise DataError(
                        f"the file decompresses to more than {limit_bytes / 1e9:.0f} GB",
                        where=name,
                        fix="decompress it yourself and use the plain .tar",
                    )
                out.write(block)
    return final


def _sweep(place: Path) -> None:
    """Remove half-written copies that no living process holds, and old unfinished small files."""
    for part in place.glob(".*.part"):
        files.remove_abandoned(part)
    for part in (*place.glob("*/*.part-*"), *place.glob("*/.*.part")):
        try:
            if time.time() - part.lstat().st_mtime > STALE_S:
                doors.remove(part)
        except OSError:
            continue
