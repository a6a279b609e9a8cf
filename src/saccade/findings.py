"""What the preflight finds, under stable ids.

Findings are printed, stored in run.json, and raised as errors if they stop the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from saccade.errors import ConfigError, DataError, DiskError, DivergedError, SaccadeError
from saccade.log import Log
from saccade.printable import printable

_KINDS = {kind.status: kind for kind in (DataError, DiskError, DivergedError, ConfigError)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found before training; ``docs/preflight.md`` explains every id.

    ``items`` names the first files or classes concerned; ``status`` is the exit status of a run
    that an error stops.
    """

    id: str
    severity: Literal["error", "warning", "note"]
    message: str
    where: str = ""
    fix: str = ""
    items: tuple[str, ...] = ()
    status: int = 0

    @classmethod
    def of(cls, error: SaccadeError) -> Finding:
        """Return the finding behind an error, for lists of findings."""
        return cls(
            error.finding or "error",
            "error",
            error.what,
            error.where,
            error.fix,
            status=error.status,
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return asdict(self) | {"items": list(self.items)}


def is_error(finding: Finding) -> bool:
    """Tell whether a finding stops the run."""
    return finding.severity == "error"


def refuse(findings: Iterable[Finding]) -> None:
    """Raise the first error among findings, naming the ids of all further ones."""
    errors = [f for f in findings if is_error(f)]
    if not errors:
        return
    first, others = errors[0], dict.fromkeys(f.id for f in errors[1:])
    also = f" (also found: {', '.join(others)})" if others else ""
    raise _KINDS[first.status](
        first.message + also, where=first.where, fix=first.fix, finding=first.id
    )


def tell(findings: Iterable[Finding], log: Log) -> None:
    """Print findings that do not stop the run: warnings, which are also logged, and notes."""
    for finding in findings:
        text = f"[{finding.id}] {finding.message}" + (f"; {finding.fix}" if finding.fix else "")
        if finding.severity == "warning":
            log.warn(text)
        elif finding.severity == "note":
            log.say(f"note {text}")


def listed(names: Sequence[str], total: int, shown: int = 4) -> str:
    """Return the first few of ``total`` names as a phrase: ``a, b and 7 more``."""
    first = [printable(name, keep="") for name in names[:shown]]
    more = total - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")
