"""The handling of bad steps: non-finite numbers, or a loss spike."""

from __future__ import annotations

from saccade.config.schema import GuardSection
from saccade.device.async_scalar import Late
from saccade.errors import DivergedError
from saccade.training.bad_steps import MOST_KEPT, Archive, Evidence
from saccade.training.state import State
from saccade.units import human_count


class Guard:
    """Decides whether a bad step (non-finite values or a loss spike) is skipped or ends the run.

    On the CPU the flag is read at once. On a GPU it is read one step late, so that the device never
    waits for the host; ``settle`` must be called before anything is saved. All ranks see the same
    flags.
    """

    def __init__(
        self, lr_text: str, policy: GuardSection | None = None, archive: Archive | None = None
    ) -> None:
        self._lr_text = lr_text
        self._policy = policy or GuardSection()
        self._archive = archive
        self._open: tuple[State, Evidence, Late] | None = None

    def watch(self, state: State, evidence: Evidence) -> None:
        """Take the flag of a step.

        Raises DivergedError if this step, or the previous one, ends the run.
        """
        self.settle()
        self._open = state, evidence, Late(evidence.bad)
        # on a CPU the number is there already, so nothing is won by being late
        if evidence.bad.device.type != "cuda":
            self.settle()

    def settle(self) -> None:
        """Read the pending flag; raises DivergedError."""
        if self._open is None:
            return
        # let go of it before it is judged: an error below must not be told a second time
        (state, evidence, bad), self._open = self._open, None
        if not bad.read():
            return

        # skip it, where that is allowed and was not done too often
        skips, count = self._policy.bad_steps == "skip", len(state.skipped)
        kept = self._archive.keep(evidence) if self._archive and count < MOST_KEPT else ""
        if skips and count < self._policy.allowed:
            state.skipped.append(evidence.step)
            return

        before = f"; {human_count(count, 'skipped step')} before it" if skips else ""
        jumps = bool(evidence.jumps)
        what = (
            "the loss jumps far above its recent mean"
            if jumps
            else "the loss or a gradient is not finite"
        )
        raise DivergedError(
            f"{what} at step {evidence.step}{before}; the steps after the last checkpoint are lost",
            where=f"step {evidence.step}, {self._lr_text}"
            + (f"; its batch: {kept}" if kept else ""),
            fix="lower the learning rate (--lr, or in your own optimizer) or lengthen the "
            "warm-up (--set schedule.warmup=10%), then start a new run with `--resume "
            "never`; if only a few images are bad, --set guard.bad_steps=skip skips such "
            "steps",
            finding="loss-spike" if jumps else "not-finite",
        )
