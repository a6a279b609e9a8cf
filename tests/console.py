"""The command line as the tests call it: within this process, or as a process of its own where
that is the point.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from saccade.cli import main
from saccade.system import signals


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status and what it said."""

    status: int
    stdout: str
    stderr: str


def run_here(*arguments: str, cwd: Path | None = None) -> Done:
    """Run ``saccade`` in this process, which saves the seconds that a new one takes to import
    torch.
    """
    said, complained = io.StringIO(), io.StringIO()
    before, threads, status = sys.argv, torch.get_num_threads(), None
    sys.argv = ["saccade", *arguments]
    try:
        with (
            contextlib.chdir(cwd or "."),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(complained),
        ):
            main.main()
    except SystemExit as end:
        status = end.code
    finally:
        signals.SIGNALS.release()
        sys.argv = before
        torch.set_num_threads(threads)
    assert isinstance(status, int), f"the exit status is {status!r}"
    return Done(status, said.getvalue(), complained.getvalue())


def run_process(*arguments: str, cwd: Path | None = None) -> Done:
    """Run ``saccade`` as a user does, by an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "saccade", *arguments], cwd=cwd, capture_output=True, text=True
    )
    return Done(done.returncode, done.stdout, done.stderr)
