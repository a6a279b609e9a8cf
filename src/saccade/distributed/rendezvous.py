"""Messages between ranks: who is there, what they agree on, why one failed.

They use torch's key-value store, separate from the collectives, so they still work when these fail.
Every wait has a time limit, and every wait checks for the message of a failed rank.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from saccade import errors
from saccade.errors import Explained, LostRankError, SaccadeError, StalledError
from saccade.system import streams

ALONE_S = 1800.0
"""How long ranks wait for what one rank does for all, such as the preflight."""

ANSWER_S = 2.0
GRACE_S = 10.0
"""How long a rank may continue after another one failed, in seconds: enough to notice and report
it.
"""

LOOK_EVERY_S = 0.25
SAVE_S = 600.0
"""How long saving may take at most when the run is over."""

FAILURE, ROLL_CALL, SAVING = "failure", "roll call", "saving"

if sys.platform == "win32":
    AT_ONCE = signal.SIGTERM
else:
    AT_ONCE = signal.SIGKILL
"""What ends a process at once, whatever it is doing."""


class Rendezvous:
    """The notes of one run; every rank has one."""

    def __init__(
        self, store: Store, rank: int, size: int, *, hosts_store: bool, under_agent: bool
    ) -> None:
        """Start to read messages.

        ``under_agent`` ends this process when the agent that started it is gone.
        """
        # apart from torch's own keys, and those of the tensors apart from ours
        self._store: Store = PrefixStore("saccade", store)
        self.tensor_store: Store = PrefixStore("tensors", store)
        self.rank, self.size = rank, size
        self._hosts_store = hosts_store
        self._parent = os.getppid() if under_agent else None
        self._round = 0
        self._patience_s = 0.0
        self._places: list[list[Any]] = []
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="saccade-rendezvous", daemon=True)

    def meet(self, limit_s: float) -> None:
        """Wait until all ranks are there; raises StalledError naming those that are not."""
        self._watcher.start()
        self._places = self.exchange(
            [socket.gethostname(), os.getpid()], limit_s, "has not started"
        )

    def exchange(
        self, note: Any, limit_s: float = ALONE_S, missing: str = "does not answer"
    ) -> list[Any]:
        """Return everyone's notes, any JSON values, in the order of the ranks.

        Raises StalledError when one is missing after ``limit_s`` seconds, and the error of a rank
        that failed.
        """
        # ranks match their notes by this count, so all of them must meet in the same order
        number, self._round = self._round, self._round + 1
        try:
            self._store.set(f"{number}/{self.rank}", json.dumps(note))
            if self.rank == 0:
                keys = [f"{number}/{rank}" for rank in range(self.size)]
                self._await(keys, limit_s, missing)
                # the first rank hands on all notes at once: otherwise every rank would read every
                # key
                notes = [json.loads(self._store.get(key)) for key in keys]
                self._store.set(f"{number}/all", json.dumps(notes))
                return notes
            # a little longer than the first rank waits, so that its error comes first, which names
            # the absent
            self._await([f"{number}/all"], limit_s + ANSWER_S, missing)
            return list(json.loads(self._store.get(f"{number}/all")))
        # the process that holds the store is gone, and the store with it
        except RuntimeError as error:
            raise self._lost([0], "is gone") from error

    def _await(self, keys: Sequence[str], limit_s: float, missing: str) -> None:
        deadline, pause_s = time.monotonic() + limit_s, 0.001
        while not self._store.check(list(keys)):
            failure = self.failure()
            if failure is not None:
                raise failure
            if time.monotonic() > deadline:
                absent = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise self._lost(absent, f"{missing} after {limit_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)

    def report(self, error: Explained) -> Explained | None:
        """Tell all ranks why this one fails.

        Returns the error of the first rank that failed, which all ranks use.
        """
        fields = {
            "what": error.what,
            "where": error.where,
            "fix": error.fix,
            "finding": error.finding,
        }
        note = json.dumps({"rank": self.rank, "kind": type(error).__name__, **fields})
        try:
            # compare and set in one go: of several that fail at once exactly one is the cause
            is_first = self._store.compare_set(FAILURE, "", note) == note.encode()
            return None if is_first else self.failure()
        except RuntimeError:
            return None

    def failure(self) -> Explained | None:
        """Return the error of the first rank that failed, as if it had happened here.

        None while all is well.
        """
        if not self._store.check([FAILURE]):
            return None
        note = json.loads(self._store.get(FAILURE))
        rank, kind = note.pop("rank"), getattr(errors, note.pop("kind"), SaccadeError)
        error = kind(f"rank {rank}: {note.pop('what')}", **note)
        assert isinstance(error, Explained)
        return error

    def explain(self, error: BaseException) -> Explained:
        """Say why a collective failed: the error of another rank, or the ranks that no longer
        answer.
        """
        try:
            # whoever is alive answers this call from its watching thread, whatever else it does
            deadline = time.monotonic() + ANSWER_S
            self._store.set(ROLL_CALL, "")
            answers = [f"here/{rank}" for rank in range(self.size)]
            while time.monotonic() < deadline:
                failure = self.failure()
                if failure is not None:
                    return failure
                time.sleep(LOOK_EVERY_S / 5)
            absent = [rank for rank, key in enumerate(answers) if not self._store.check([key])]
        except RuntimeError:
            absent = [0]  # the store itself is gone, and rank 0 hosts it

        if absent:
            # torch has no type for it: "timed out" and "Timed out" both occur
            if "imed out" not in str(error):
                return self._lost(absent, "is gone")
            streams.show_threads(
                f"rank {self.rank} waits for a rank that does not answer; its threads:"
            )
            return self._lost(absent, "does not answer any more")

        # torch writes the place in its own sources before the text
        reason = re.sub(r"^\[\S*\] ", "", str(error).strip().splitlines()[0])
        return StalledError(
            f"the connection between the ranks broke, although all ranks answer: {reason}",
            fix=(
                "check the network between the machines; if steps take long, use --set "
                "ranks.step_limit=30m"
            ),
        )

    def _lost(self, ranks: Sequence[int], how: str) -> LostRankError:
        """Return the error about ranks that are missing.

        What is left of them on this machine is ended.
        """
        known = [(rank, *self._places[rank]) for rank in ranks if self._places]
        for _, host, pid in known:
            if host == socket.gethostname() and pid != os.getpid():
                try:
                    # a stopped process would wake up in a run that is over
                    os.kill(pid, AT_ONCE)
                except OSError:
                    pass
        names = ", ".join(map(str, ranks))
        return LostRankError(
            f"rank{'s' * (len(ranks) > 1)} {names} of {self.size} {how}",
            where=", ".join(f"process {pid} on {host}" for _, host, pid in known),
            fix="check its last message and its memory; the same command continues from the "
            "last checkpoint",
        )

    def _watch(self) -> None:
        """Answer roll calls, and end this process when the run is over but the main thread is
        stuck.
        """
        deadline: float | None = None
        answered = False
        while not self._closed.wait(LOOK_EVERY_S):
            if self._parent is not None and os.getppid() != self._parent:
                # whoever started us was killed, and would start us again
                os._exit(StalledError.status)
            try:
                if not answered and self._store.check([ROLL_CALL]):
                    self._store.set(f"here/{self.rank}", "")
                    answered = True
                over = self._store.check([FAILURE])
            except RuntimeError:
                over = True
            deadline = deadline or (time.monotonic() + GRACE_S if over else None)
            if deadline is not None and time.monotonic() > deadline + self._patience_s:
                streams.show_threads(
                    f"rank {self.rank} is stuck after another one failed; its threads:"
                )
                os._exit(StalledError.status)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Let this rank save after a failure. The other ranks and the watchdog wait meanwhile."""
        self._patience_s = SAVE_S
        try:
            # the others look for this note before they leave
            self._note(SAVING, "begun")
            yield
        finally:
            self._note(SAVING, "done")
            self._patience_s = 0.0

    def _note(self, key: str, text: str) -> None:
        with suppress(RuntimeError):
            self._store.set(key, text)

    def await_save(self) -> None:
        """Wait until the first rank has saved or left: whoever started the ranks ends all of them
        when one leaves.

        The first rank must be alive; it hears of what ends the run within moments.
        """
        begun, self._patience_s = time.monotonic(), SAVE_S
        with suppress(RuntimeError):
            while time.monotonic() - begun < 2 * ANSWER_S and not self._store.check([SAVING]):
                time.sleep(LOOK_EVERY_S / 5)
            while self._store.check([SAVING]) and self._store.get(SAVING) == b"begun":
                if time.monotonic() - begun > SAVE_S:
                    break
                time.sleep(LOOK_EVERY_S / 5)

    def close(self) -> None:
        """Disconnect; the rank that hosts the store waits a few seconds for the others."""
        if self.rank == 0:
            self._note(SAVING, "done")
        try:
            self._store.set(f"left/{self.rank}", "")
            deadline = time.monotonic() + ANSWER_S
            while self._hosts_store and time.monotonic() < deadline:
                if self._store.check([f"left/{rank}" for rank in range(self.size)]):
                    break
                time.sleep(0.01)
        except RuntimeError:
            pass
        self._closed.set()
        self._watcher.join()
