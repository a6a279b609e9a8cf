"""Locks on folders and files, which the system releases when the process that holds them dies,
however it dies.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from saccade.errors import ConfigError
from saccade.system import doors, held
from saccade.system.doors import explained


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the only lock on a folder; raises ConfigError when another living process has it."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = doors.lock_file(folder / ".lock")
    with file:
        if not try_lock(file):
            file.seek(0)
            holder = file.read(doors.LOCK_BYTES).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"another process (pid {holder}) is using this folder",
                where=str(folder),
                fix="wait for it, stop it, or choose another folder",
            )
        if os.fstat(file.fileno()).st_nlink == 1:  # its other name, in a backup, keeps what it has
            file.seek(0)
            # the number is for people; the lock itself belongs to the open file, not to what is in
            # it
            file.truncate()
            file.write(str(os.getpid()).encode())
            file.flush()
        with held.holding(folder):
            yield


def try_lock(file: BinaryIO) -> bool:
    """Take an advisory lock that the system releases when the process dies, on POSIX and on
    Windows.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # a byte nobody reads, so that the pid stays readable
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
