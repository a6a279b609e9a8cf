"""How long a run is: a length in epochs, steps or samples, or the time that it may take."""

from __future__ import annotations

from saccade.config.fields import AUTO
from saccade.units import Duration, seconds


def check(epochs: str, within: str) -> None:
    """Raise ValueError unless ``epochs`` and ``within`` say, together, how long a run is."""
    if within and epochs != AUTO:
        raise ValueError(
            f"within: both a time ({within}) and a length (epochs: {epochs}) are given; remove "
            "one of them (in a file, `within` goes with `epochs: auto`)"
        )
    if within:
        if not seconds(within):
            raise ValueError("within: the time must be above zero; write 3m")
        return

    if epochs == AUTO:
        raise ValueError("epochs: auto needs a time to fit into; add --within 3m")
    if not Duration.parse(epochs or "1ep").value:
        raise ValueError(
            "epochs: nothing would be trained; write 1step or more, or use `saccade eval` for "
            "existing weights"
        )
    if epochs.endswith("%") or not epochs:
        raise ValueError(
            "epochs: the length of the run cannot be a fraction of itself; write 90ep or 5000step"
        )
