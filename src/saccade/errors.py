"""Every error a user can meet: what happened, where, and what to do about it.

The exit status of the program is the ``status`` of the error that ended it; ``docs/exit-codes.md``
lists them.
"""

from __future__ import annotations

from saccade.printable import printable


class Explained(BaseException):
    """An exception that is explained to the user instead of shown as a traceback.

    ``what`` is one sentence, ``where`` names the file, record or field, ``fix`` says what to do
    next, and ``finding`` is the stable id of the preflight finding behind it, if there is one.
    ``told`` means that the user has already seen it, perhaps from another process.
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
        # a name with a line end in it cannot pretend to be the next line
        what = self.what.replace("\n", "\n    ")
        lines = [f"[{self.finding}] {what}" if self.finding else what]
        if self.where:
            lines.append(f"  where: {printable(self.where, keep='')}")
        if self.fix:
            lines.append(f"  do:    {printable(self.fix, keep='')}")
        return "\n".join(lines)


class SaccadeError(Explained, Exception):
    """An error that a user can meet, and handle in Python."""


class UsageError(SaccadeError):
    """The command line was wrong."""

    status = 2


class DataError(SaccadeError):
    """The data is missing, damaged or does not fit together."""

    status = 65


class CheckpointError(SaccadeError):
    """No checkpoint can be used, or the one that was named is damaged or belongs to another run."""

    status = 66


class OtherVersionError(CheckpointError):
    """Another version of Saccade wrote these files; nothing about them is damaged."""


class ExportError(SaccadeError):
    """An exported file cannot be made, or its outputs differ from the classifier's."""

    status = 72


class StalledError(SaccadeError):
    """Something stopped making progress: a frozen disk, a lost thread, a rank that was killed."""

    status = 70


class LostRankError(StalledError):
    """Another rank ended or no longer answers."""


class DiskError(SaccadeError):
    """The disk is full, read-only or gone."""

    status = 74


class PreemptedError(SaccadeError):
    """The run was asked to stop or its time is up.

    It is saved and the same command continues it.
    """

    status = 75


class StopTraining(PreemptedError):
    """A callback asks the run to save and to end after the current step.

    ``saccade.train`` raises it again after the run is saved; the same call continues the run.
    """


class DivergedError(SaccadeError):
    """Training diverged: the loss or a gradient is not finite, or too many steps were bad."""

    status = 76


class ConfigError(SaccadeError):
    """The configuration is wrong or contradicts the run it should continue."""

    status = 78


class InterruptedRunError(Explained, KeyboardInterrupt):
    """The user pressed Ctrl-C; the run was saved if possible.

    In Python it is still a KeyboardInterrupt: ``except Exception`` does not catch it.
    """

    status = 130


class StoppedEarlyError(Explained, SystemExit):
    """SIGTERM or SIGHUP before there was anything to save.

    It ends the process with status 75; ``except Exception`` does not catch it.
    """

    status = 75

    def __init__(self, what: str, *, where: str = "", fix: str = "", finding: str = "") -> None:
        super().__init__(what, where=where, fix=fix, finding=finding)
        self.code = self.status
