"""Folders that only this process uses: checks that they are still the same.

If someone deletes a folder in use, a new folder of the same name would hide it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saccade.errors import DiskError

LOOK_EVERY_S = 1.0

_held: dict[Path, tuple[int, int]] = {}
_looked_s: dict[Path, float] = {}


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Remember which folder this is while a ``with`` block works in it."""
    # absolute: the working directory may change
    place = Path(os.path.abspath(folder))
    # device and inode: a new folder of the same name has another inode
    facts = os.stat(place)
    _held[place] = facts.st_dev, facts.st_ino
    try:
        yield
    finally:
        _held.pop(place, None)


def check(path: Path) -> None:
    """Raise DiskError if ``path`` is, or is inside, a held folder that was deleted or replaced."""
    place = Path(os.path.abspath(path))
    for folder, identity in list(_held.items()):
        if folder != place and folder not in place.parents:
            continue
        try:
            facts = os.stat(folder)
            is_gone = (facts.st_dev, facts.st_ino) != identity
        except (FileNotFoundError, NotADirectoryError):
            is_gone = True
        except OSError:  # a network drive that does not answer just now: whoever writes will see
            is_gone = False
        if is_gone:
            raise DiskError(
                "the folder was deleted or replaced while it was in use; nothing more is written",
                where=str(folder),
                fix="restore it if you can; otherwise the same command starts a new run",
            )


def check_now_and_then(folder: Path) -> None:
    """Do what ``check`` does, at most once in a second: for a loop."""
    now = time.monotonic()
    if now - _looked_s.get(folder, -LOOK_EVERY_S) >= LOOK_EVERY_S:
        _looked_s[folder] = now
        check(folder)
