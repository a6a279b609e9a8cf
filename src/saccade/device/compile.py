"""The decision about ``torch.compile``: made once, with the reason."""

from __future__ import annotations

from torch import nn

BUDGET_SHARE = 0.02
USUAL_S = 60.0
"""Expected time of a compilation, in seconds: it cannot be stopped, so it is limited in advance.

ResNet-50 takes 51 s on an H200 (docs/LOG.md).
"""

LEAST_GAIN = 1.05


def worth_trying(device: str, run_s: float, sizes: int = 1) -> tuple[bool, str]:
    """Tell whether to compile for a trial in a run of ``run_s`` seconds, and why not otherwise.

    ``sizes`` is how many image sizes the run goes through: the network is compiled for each of
    them.
    """
    if device != "cuda":
        return False, f"does not help on a {device.upper()}"
    if run_s * BUDGET_SHARE < sizes * USUAL_S:
        return (
            False,
            f"compiling takes about {sizes * USUAL_S:.0f} s, more than {BUDGET_SHARE:.0%} of "
            "this run",
        )
    return True, ""


def worth_keeping(eager_s: float, compiled_s: float) -> tuple[bool, str]:
    """Tell whether the compiled step is faster by enough, and give the two times of a step in
    seconds as the reason.
    """
    times = f"a step takes {1000 * compiled_s:.1f} ms compiled, {1000 * eager_s:.1f} ms without"
    return eager_s / compiled_s >= LEAST_GAIN, times


def compile_in_place(model: nn.Module) -> None:
    """Compile a model when it is first called, anew for each image size; names and modules stay."""
    # in place: torch.compile(model) would put "_orig_mod." before every name in a checkpoint
    model.compile(dynamic=False)
