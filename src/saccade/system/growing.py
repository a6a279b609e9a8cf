"""Files that grow: lines of a log, and files that arrive piece by piece."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from saccade.system import doors
from saccade.system.doors import explained
from saccade.system.doors import within as within
from saccade.system.locks import locked as locked

# lines of a log that wait in memory while they cannot be written: hours of a run
PENDING_BYTES = 1 << 22


class Appender:
    """A file of lines that only grows and whose errors never end a run.

    A line that a crash cut is repaired when the file is opened again. Lines that cannot be written,
    such as on a full disk, wait in memory for the next line; ``trouble`` says why, and ``lost``
    counts the dropped lines.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, with its folder; raises DiskError where that is impossible."""
        self.trouble = ""
        self.lost = 0
        self._pending = bytearray()
        path.parent.mkdir(parents=True, exist_ok=True)
        with explained(path):
            self._file = doors.growing(path)
            # a crash may have cut the last line: ours begins on a new one
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._pending += b"\n"

    def line(self, text: str) -> None:
        """Append one line in a single write, so that a kill cannot interleave two."""
        if self._file.closed:
            return
        # half a character of a name that is no UTF-8
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        if len(self._pending) + len(data) > PENDING_BYTES:
            self.lost += 1
        else:
            self._pending += data
        self._write()

    def _write(self) -> None:
        try:
            while self._pending:  # a disk that is nearly full takes a part
                del self._pending[: self._file.write(self._pending)]
            self.trouble = ""
        except OSError as error:
            self.trouble = os.strerror(error.errno) if error.errno else str(error)

    def close(self) -> None:
        """Flush to the disk and close; lines that still cannot be written are dropped."""
        if self._file.closed:
            return
        self._write()
        with contextlib.suppress(OSError), self._file:
            os.fsync(self._file.fileno())


class Partial:
    """A file that arrives piece by piece and gets its name only when it is complete.

    Several processes may bring it, one after the other. What has arrived survives a crash. The
    caller holds the lock of the folder. Methods raise DiskError.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self.path = final.with_name(f".{final.name}.partial")

    @property
    def size(self) -> int:
        """How many bytes have arrived."""
        with explained(self.path):
            doors.refuse_link(self.path)
            return self.path.stat().st_size if self.path.exists() else 0

    def append(self, block: bytes) -> None:
        """Add the next bytes."""
        with explained(self._final), doors.growing(self.path) as file:
            file.write(block)

    def clear(self) -> None:
        """Discard what has arrived."""
        with explained(self._final):
            self.path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Flush everything to the disk and give the file its name."""
        with explained(self._final):
            with doors.growing(self.path) as file:
                os.fsync(file.fileno())
            # only after the fsync: else a power cut could leave the name with empty contents
            os.replace(self.path, self._final)
            doors.sync_folder(self._final.parent)
