"""Whether ``torch.compile`` is tried and kept: decided once, with the reason. Not yet measured on a GPU."""

from __future__ import annotations

BUDGET_SHARE = 0.02
USUAL_S = 60.0
"""Seconds that a compilation is expected to take: it cannot be stopped, so it must be bounded before it begins."""

LEAST_GAIN = 1.05


def worth_trying(device: str, run_s: float) -> tuple[bool, str]:
    """Tell whether to compile for a trial in a run of ``run_s`` seconds, and why not otherwise."""
    if device != "cuda":
        return False, f"does not pay on a {device.upper()}"
    if run_s * BUDGET_SHARE < USUAL_S:
        return False, f"compiling takes about {USUAL_S:.0f} s, more than {BUDGET_SHARE:.0%} of this run"
    return True, ""


def worth_keeping(eager_s: float, compiled_s: float) -> tuple[bool, str]:
    """Tell whether the compiled step is faster by enough, and give the two times of a step in seconds as the reason."""
    times = f"a step takes {1000 * compiled_s:.1f} ms compiled, {1000 * eager_s:.1f} ms without"
    return eager_s / compiled_s >= LEAST_GAIN, times
