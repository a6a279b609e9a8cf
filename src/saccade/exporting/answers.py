"""The answers of an exported file, computed in a separate process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

from saccade.errors import ExportError
from saccade.exporting import answering

SHOWN = 400


class Ask(Protocol):
    """A function that answers images as an exported file does; ``seconds`` lists the time of each
    answer, ``said`` is what the file says of itself, as JSON, empty where it says nothing.
    """

    seconds: list[float]
    said: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, float32 (B, C), of images (B, ...) in the input format of the file."""


@dataclass(slots=True)
class Answers:
    """A file that runs in another process; ``seconds`` and ``said`` are those of `Ask`."""

    process: subprocess.Popen[bytes]
    complaints: IO[bytes]
    seconds: list[float] = field(default_factory=list)
    said: str = ""

    def open(self) -> None:
        """Wait until the file is open; raises ExportError if the process ended instead."""
        assert self.process.stdout is not None, "it is a pipe"
        said = answering.receive(self.process.stdout)
        if said is None:
            raise self._silent()
        self.said = said.tobytes().decode()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (B, C), of images in the input format of the file.

        Raises ExportError if the process ended instead.
        """
        asked, answered = self.process.stdin, self.process.stdout
        assert asked is not None and answered is not None, "both are pipes"
        try:
            answering.send(asked, images.numpy())
            logits, seconds = answering.receive(answered), answering.receive(answered)
            if logits is None or seconds is None:
                raise self._silent()
            self.seconds.append(seconds.item())
        except (OSError, ValueError) as error:
            raise self._silent() from error
        return torch.from_numpy(logits)

    def _silent(self) -> ExportError:
        self.process.kill()
        self.process.wait()
        self.complaints.seek(0)
        said = self.complaints.read().decode(errors="replace").strip().splitlines() or [""]
        return ExportError(
            f"the exported file cannot be opened: {said[-1][:SHOWN] or 'its process ended'}",
            fix="use another --format, or report this with the name of the network",
        )


@contextmanager
def asking(kind: str, path: Path, threads: int) -> Iterator[Answers]:
    """Open an exported file in a fresh process that imports nothing of this package."""
    program = [sys.executable, "-I", str(Path(answering.__file__)), kind, str(path), str(threads)]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
        )
        try:
            answers = Answers(process, complaints)
            answers.open()
            yield answers
        finally:
            process.kill()
            # closes the pipes, too
            process.communicate()
