"""Every error a user can meet: what happened, where, and what to do about it.

The exit status of the program is the ``status`` of the error that ended it; ``docs/exit-codes.md`` lists them.
"""

from __future__ import annotations


class SaccadeError(Exception):
    """An error that is explained to the user instead of shown as a traceback.

    ``what`` is one sentence, ``where`` names the file, record or field, ``fix`` says what to do next, and
    ``finding`` is the stable id of the preflight finding behind it, if there is one. ``told`` means that another
    process has shown it to the user.
    """

    status = 1
    told = False

    def __init__(self, what: str, *, where: str = "", fix: str = "", finding: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.finding = finding

    def __str__(self) -> str:
        head = f"[{self.finding}] {self.what}" if self.finding else self.what
        lines = [head]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  do:    {self.fix}")
        return "\n".join(lines)


class UsageError(SaccadeError):
    """The command line was wrong."""

    status = 2


class DataError(SaccadeError):
    """The data is missing, damaged or does not fit together."""

    status = 65


class CheckpointError(SaccadeError):
    """No checkpoint can be used, or the one that was named is damaged or belongs to another run."""

    status = 66


class StalledError(SaccadeError):
    """Something stopped making progress: a frozen disk, a lost thread, a rank that was killed."""

    status = 70


class DiskError(SaccadeError):
    """The disk is full, read-only or gone."""

    status = 74


class PreemptedError(SaccadeError):
    """The run was asked to stop or its time is up; it is saved and the same command continues it."""

    status = 75


class DivergedError(SaccadeError):
    """The numbers stopped being numbers."""

    status = 76


class ConfigError(SaccadeError):
    """The configuration is wrong or contradicts the run it should continue."""

    status = 78


class InterruptedRunError(SaccadeError):
    """The user pressed Ctrl-C; the run is saved."""

    status = 130
