"""The module that writes files: durable files, atomic folders, digests, locks.

Only this module and the modules of ``system/`` that it uses open files for writing.

Nothing is written in place. A file or folder appears under its final name only when its bytes are
on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from saccade.system import doors
from saccade.system.doors import explained
from saccade.system.doors import within as within
from saccade.system.growing import Appender as Appender
from saccade.system.growing import Partial as Partial
from saccade.system.locks import locked as locked
from saccade.system.locks import try_lock

COPY_BYTES = 1 << 20


def _no_stage(_name: str) -> None:
    return None


stage: Callable[[str], None] = _no_stage
"""Called at every step of publishing a folder. The fault tests replace it to kill the process
there.
"""


def digest(path: Path, kind: str = "sha256") -> str:
    """Return the SHA-256, or another ``kind`` of digest, of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file durably: temporary file, fsync, rename, fsync of the folder.

    Raises DiskError.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # the file first, then its name, then the folder that holds the name: each order has its
            # fsync
            _write_synced(part, data)
            os.replace(part, path)
            doors.sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, durably; NaN and Infinity are refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Encode a value as indented JSON with a final newline; raises ValueError on NaN or Infinity.

    A byte of a path that is not UTF-8 is kept as a JSON escape.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def read_json(path: Path, limit_bytes: int = 64_000_000) -> Any:
    """Read a JSON file of at most ``limit_bytes``.

    Raises ValueError on bad JSON, depth or constants.
    """
    data = doors.read_bytes(path, limit_bytes)

    def refuse(constant: str) -> None:
        raise ValueError(f"{path.name} holds {constant}")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def read_text(path: Path, limit_bytes: int) -> str:
    """Read a UTF-8 file of at most ``limit_bytes``.

    Raises OSError, ValueError on another file or text.
    """
    return doors.read_bytes(path, limit_bytes).decode()


def publish_folder(final: Path, contents: dict[str, bytes]) -> None:
    """Publish a folder of files atomically: it gets its name only after every byte was re-read.

    An older folder of that name is there until then. A ``manifest.json`` with size and SHA-256 of
    each file is added. Raises DiskError, leaving nothing behind.
    """
    facts = {
        n: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in contents.items()
    }
    everything = contents | {"manifest.json": json_bytes({"format": 1, "files": facts})}

    # Every step is a stage at which the fault tests kill the process.
    part = final.with_name(f"{final.name}.part-{os.getpid()}")
    with explained(final):
        try:
            remove_tree(part)
            part.mkdir(parents=True)
            stage("started")
            for name, data in everything.items():
                _write_synced(part / name, data)
                stage(f"wrote {name}")
            doors.sync_folder(part)

            # A bad disk may return other bytes than were written, without an error.
            for name, fact in facts.items():
                if digest(part / name) != fact["sha256"]:
                    raise OSError(
                        errno.EIO, "the disk returned different bytes than were written", name
                    )
            stage("verified")

            # a folder cannot be renamed over one that is not empty
            replaced = _set_out_of_sight(final)
            os.rename(part, final)
            stage("renamed")
            doors.sync_folder(final.parent)
            stage("published")
            doors.remove(replaced)
        except BaseException:
            remove_tree(part)
            raise


def verify_folder(folder: Path) -> tuple[str, ...]:
    """Check a published folder against its manifest and return the names of its files.

    Raises ValueError naming the first bad file. A file that is not in the manifest is an error,
    too. Hidden files are ignored, and the name of the manifest is not returned.
    """
    try:
        for path in (folder, folder / "manifest.json"):
            doors.refuse_link(path)
        manifest = read_json(folder / "manifest.json")
        if json_bytes(manifest) != (folder / "manifest.json").read_bytes():
            raise ValueError("not as it was written")
        facts = manifest["files"]
        names = {
            str(name): (int(fact["bytes"]), str(fact["sha256"])) for name, fact in facts.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"manifest.json is missing or unreadable ({type(error).__name__})"
        ) from error

    for name, (size, sha256) in names.items():
        path = folder / name
        # a manifest of a stranger could name files elsewhere
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.is_symlink():
            raise ValueError(f"{name} is a link, and links inside a run folder are not followed")
        if path.stat().st_size != size:
            raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {size}")
        if digest(path) != sha256:
            raise ValueError(f"{name} does not match its digest")

    for path in sorted(folder.iterdir()):
        if path.name == "manifest.json" or path.name.startswith("."):
            continue
        if path.name not in names:
            raise ValueError(f"{path.name} is not listed in manifest.json")
    return tuple(sorted(names))


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Make a folder for ``place`` inside a folder that this process has locked.

    Leftovers of killed processes are removed.
    """
    sweep_parts(folder)
    part = folder / f".saccade.part-{os.getpid()}"
    with explained(part):
        part.mkdir()
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            doors.remove(part)


def place(aside: Path, final: Path, data: bytes | memoryview) -> None:
    """Write a file in the folder ``aside`` and rename it, so that it is never incomplete.

    ``settle`` makes it durable.
    """
    part = aside / str(threading.get_ident())
    with explained(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        with doors.fresh(part) as file:
            file.write(data)
        stage("written aside")
        os.replace(part, final)
        stage("placed")


def move_in(part: Path, final: Path) -> None:
    """Give a durably written file or folder of a ``staging`` folder its final name.

    An older one of that name is there until then.
    """
    with explained(final):
        doors.refuse_link(final)
        replaced = _set_out_of_sight(final) if part.is_dir() else None
        os.replace(part, final)
        doors.sync_folder(final.parent)
        if replaced is not None:
            doors.remove(replaced)
    stage(f"moved {final.name}")


def settle(paths: Iterable[Path]) -> None:
    """Flush files that ``place`` wrote to the disk, with their folders.

    One sync for all: an fsync of each waits for a flush of the disk's own cache, measured at 1.4 ms
    for a file that was long written, which is half an hour for ImageNet.
    """
    if sys.platform != "win32":
        os.sync()
    else:  # has no sync
        for path in paths:
            with explained(path), open(path, "rb+") as file:
                os.fsync(file.fileno())
    stage("settled")


def remove_tree(path: Path) -> None:
    """Remove a folder if it exists; of a link, only the link is removed.

    A published folder is renamed first, so that nobody sees a partial folder.
    """
    if not os.path.lexists(path):
        return
    if ".part-" not in path.name and not path.is_symlink():
        path = _set_out_of_sight(path)
        stage("renamed for removal")
    doors.remove(path)


def _set_out_of_sight(path: Path) -> Path:
    """Rename a folder, if it exists, to a name that is cleaned up later, and return that name."""
    doomed = path.with_name(f"{path.name}.part-{os.getpid()}-removed")
    if os.path.lexists(path):
        os.rename(path, doomed)
    return doomed


def set_aside(path: Path, prefix: str) -> None:
    """Rename a file or folder within its folder, so that it is not used but not lost."""
    with explained(path):
        os.rename(path, path.with_name(f"{prefix}-{path.name}-{os.getpid()}"))


def sweep_parts(folder: Path) -> None:
    """Remove unfinished files of killed processes in a folder that this process has locked."""
    # safe because the folder is locked: no living process writes there
    for leftover in (*folder.glob("*.part-*"), *folder.glob(".*.part")):
        with contextlib.suppress(OSError):
            doors.remove(leftover)


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that holds ``path`` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def aside(final: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its final name, durably, at the end of the ``with`` block.

    It is locked meanwhile, so that ``remove_abandoned`` does not remove it.
    """
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _held(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # which renames no open file; elsewhere the lock holds until the name is there
            if sys.platform != "win32":
                os.replace(part, final)
        if sys.platform == "win32":
            os.replace(part, final)
        doors.sync_folder(final.parent)
    finally:
        part.unlink(missing_ok=True)


def _held(part: Path) -> BinaryIO:
    """Open a new file and lock it.

    Another process may remove it before it is locked, so there is a second try.
    """
    file = doors.fresh(part)
    if try_lock(file) and part.exists():
        return file
    file.close()
    file = doors.fresh(part)
    # where the file system has no locks, there is none that others could take, either
    try_lock(file)
    return file


def remove_abandoned(part: Path) -> None:
    """Remove an unfinished file of ``aside`` whose process was killed.

    A file of a living process stays.
    """
    with contextlib.suppress(OSError), doors.existing(part) as file:
        if try_lock(file):
            part.unlink(missing_ok=True)


def scratch_folder(inside: Path | None = None) -> contextlib.AbstractContextManager[str]:
    """Return a temporary folder that is removed at the end of the ``with`` block.

    It is inside the folder ``inside``, or in the system's folder for temporary files.
    """
    return tempfile.TemporaryDirectory(prefix="saccade-", dir=inside)


def safe_name(text: str) -> str:
    """Turn any text into a file name that Linux, macOS and Windows accept."""
    # room is left for endings such as .part: most file systems take 255 bytes
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.")
    return kept[:80] or "unnamed"


def _write_synced(path: Path, data: bytes) -> None:
    with doors.fresh(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
