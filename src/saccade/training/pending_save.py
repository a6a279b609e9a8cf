"""A checkpoint that is written to the disk while the steps go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from saccade.training import checkpoint


class PendingSave:
    """A checkpoint on its way to the disk, in a thread of its own.

    ``folder`` is the place of the run's checkpoints, ``contents`` the files of the one of ``step``.
    Older ones but the ``keep`` newest and that of ``best_step`` are removed after it was read back:
    a crash in between leaves one too many.
    """

    def __init__(
        self,
        folder: Path,
        contents: dict[str, bytes],
        *,
        step: int,
        keep: int,
        best_step: int | None,
    ) -> None:
        self.step = step

        def write() -> Path:
            path = checkpoint.publish(folder, step, contents)
            checkpoint.prune(folder, keep, best_step)
            return path

        writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written = writer.submit(write)
        writer.shutdown(wait=False)  # the thread ends after its one task

    def is_done(self) -> bool:
        """Tell whether it is written, or has failed."""
        return self._written.done()

    def result(self) -> Path:
        """Wait for it and return its folder.

        Raises DiskError if it could not be written.
        """
        return self._written.result()
