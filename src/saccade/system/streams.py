"""The standard streams: a process continues if one of them is gone, and reports this where
possible.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from typing import Any, TextIO


def open_missing() -> None:
    """Open the null device in place of a standard stream that is closed.

    Otherwise the next file to be opened, a checkpoint perhaps, gets the number of the stream, and
    with it whatever a library prints there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number


class UnheardError(Exception):
    """Standard output cannot be written: its reader ended, it is closed, or its disk is full.

    Not an OSError, which other libraries handle in their own ways.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.errno, self.reason = error.errno, error.strerror or str(error)


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise UnheardError(error) from error


def open_output() -> None:
    """Let what is printed on the real standard output raise UnheardError where it does not arrive.

    Without it, a broken pipe of standard output and one of anything else look the same.
    """
    if sys.stdout is not sys.__stdout__:
        return  # somebody listens in between
    before = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=getattr(before, "errors", None) or "backslashreplace",
        line_buffering=before is not None and before.isatty(),
    )


def show_everything() -> None:
    """Write out what the encoding of a stream lacks (``\\xfc`` on an ASCII terminal) instead of
    failing at it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Voice(io.TextIOBase):
    """Standard error, as it is at the moment; nothing is raised where it cannot be written.

    The reader of a pipe may have ended, the terminal may be closed, the disk below a file may be
    full. ``trouble`` is the reason, empty while all is well.
    """

    trouble = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of standard error."""
        return getattr(_standard_error(), "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write a text if that is possible; returns its length in characters."""
        try:
            if stream := _standard_error():
                stream.write(text)
                self.trouble = ""
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.trouble = getattr(error, "strerror", None) or str(error)
        return len(text)

    def flush(self) -> None:
        """Flush standard error if that is possible."""
        try:
            if stream := _standard_error():
                stream.flush()
        except (OSError, ValueError) as error:
            self.trouble = getattr(error, "strerror", None) or str(error)

    def isatty(self) -> bool:
        """Tell whether standard error is a terminal."""
        try:
            stream = _standard_error()
            return stream is not None and stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Return the file descriptor of standard error; raises OSError where it has none."""
        stream = _standard_error()
        if stream is None:
            raise OSError("there is no standard error")
        return stream.fileno()


def _standard_error() -> TextIO | None:
    """Return the real stream below a live display, which puts one of its own in its place."""
    stream: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    return stream


def show_threads(title: str) -> None:
    """Print the stack of every thread on standard error, to find out what is stuck."""
    try:
        print(title, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=2, all_threads=True)
    except (OSError, ValueError, RuntimeError):
        return


def failure(stream: TextIO | None) -> UnheardError | None:
    """Return why writes to a stream do not arrive, or None."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        return UnheardError(error)
    except UnheardError as error:
        return error
    except ValueError:  # closed
        pass
    return None


def give_up(stream: TextIO | None) -> None:
    """Discard the buffer of a broken stream: otherwise the interpreter exits with status 120."""
    if stream is not None and failure(stream) is not None:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, ValueError):
            return
