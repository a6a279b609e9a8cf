"""Access to existing files: never through a link, never a pipe or device, never more than
requested.

A run folder or the cache folder can itself be a link by its owner. Files inside must not be links:
otherwise someone could choose which files outside are emptied, continued or deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from saccade.errors import DiskError
from saccade.system import held

# Windows has none, and asks who makes a link for a privilege
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
LOCK_BYTES = 20
"""What the number of a process takes in the file of a lock."""


class LinkError(OSError):
    """Something inside a run or cache folder is a link, or not a regular file."""


@contextlib.contextmanager
def explained(path: Path, fix: str = "free some space, or choose another folder") -> Iterator[None]:
    """Turn an OSError about ``path`` into a DiskError with its reason and what to do."""
    held.check(path)
    try:
        yield
    except LinkError as error:
        raise DiskError(
            str(error.strerror),
            where=str(error.filename),
            fix=(
                "remove or move it; only a whole run folder or the whole cache folder may be a link"
            ),
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DiskError(f"cannot write: {reason}", where=str(path), fix=fix) from error


def within(root: Path, *names: str) -> Path:
    """Return a path inside a run or cache folder.

    Raises DiskError if a part of it below the folder is a link.
    """
    path = root
    with explained(root):
        for name in names:
            path = path / name
            refuse_link(path)
    return path


def refuse_link(path: Path) -> None:
    """Raise LinkError if ``path`` is a link, whether it leads anywhere or not."""
    if path.is_symlink():
        raise LinkError(
            errno.ELOOP,
            "this is a link; links inside a run or cache folder are not followed",
            str(path),
        )


def fresh(path: Path) -> BinaryIO:
    """Open a file that must be new for writing.

    A leftover of this name is removed, never opened.
    """
    # twice: a leftover is removed after the first try
    for _ in range(2):
        try:
            return os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666), "wb"
            )
        except FileExistsError:
            path.unlink(missing_ok=True)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def growing(path: Path) -> BinaryIO:
    """Open a file for reading and appending, new or existing, unbuffered.

    Raises OSError on anything but a file. A file with a second name (``cp -l``, a backup) gets its
    own copy first, because the other name belongs to another program.
    """
    descriptor = _ordinary(path, os.O_CREAT | os.O_APPEND)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        _part_from_twin(path)
        descriptor = _ordinary(path, os.O_APPEND)
    return os.fdopen(descriptor, "ab+", buffering=0)


def existing(path: Path) -> BinaryIO:
    """Open a file that is there for reading and writing; raises OSError on anything but a file."""
    return os.fdopen(_ordinary(path, 0), "rb+")


def lock_file(path: Path) -> BinaryIO:
    """Open the file of a lock, empty or with the number of a process.

    Raises LinkError on anything else.
    """
    file = os.fdopen(_ordinary(path, os.O_CREAT), "rb+")
    held = file.read(LOCK_BYTES + 1)
    if held.strip() and not (held.strip().isdigit() and len(held) <= LOCK_BYTES):
        file.close()
        raise LinkError(errno.EINVAL, "this file is not a lock of saccade", str(path))
    return file


def _ordinary(path: Path, flags: int) -> int:
    """Open a file for reading and writing and return its descriptor.

    Raises LinkError on a link or a pipe.
    """
    refuse_link(path)
    # checked again by the system itself: a link may appear after the look above
    descriptor = os.open(path, os.O_RDWR | _NOFOLLOW | _PLAIN | flags, 0o666)
    # asked of what was opened and not of the name, which may mean something else by now
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LinkError(errno.EINVAL, "this is not a regular file", str(path))
    return descriptor


def _part_from_twin(path: Path) -> None:
    """Give a file with several names a separate copy under this one."""
    copy = path.with_name(f".{path.name}.{os.getpid()}.part")
    with fresh(copy) as target, open(path, "rb") as source:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    os.replace(copy, path)


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """Read an ordinary file of at most ``limit_bytes``.

    Raises ValueError on a larger one, on pipes and devices.
    """
    # without waiting: a pipe that nobody writes to would never open
    descriptor = os.open(path, os.O_RDONLY | _PLAIN)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        data = file.read(limit_bytes + 1) if facts.st_size <= limit_bytes else b""
    # the size may have grown between the look and the reading
    if facts.st_size > limit_bytes or len(data) > limit_bytes:
        raise ValueError(f"{path.name} is larger than {limit_bytes:,} bytes")
    return data


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if sys.platform == "win32":  # Windows cannot open a folder; NTFS journals the rename itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_private(path: Path) -> bool:
    """Make a folder that only this user can change, if it is not there.

    Returns whether it is such a one. Windows has no modes: there it is what its folder is.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    facts = path.lstat()
    if sys.platform == "win32":
        return stat.S_ISDIR(facts.st_mode)
    return (
        stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022
    )


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, never what a link leads to.

    No error if it is gone.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
