"""Adapters that show the event stream of a run in other programs; each needs its own package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from saccade.errors import ConfigError
from saccade.objectives.objective import Objective

Listener = Callable[[dict[str, Any]], None]


def tensorboard(folder: Path, objective: Objective) -> Listener:
    """Return a listener that writes numbers as TensorBoard events into ``folder``.

    Raises ConfigError without it.

    TensorBoard's own writer appends to files of its own there; nothing in Saccade reads them.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed", where="log.tensorboard", fix="pip install tensorboard"
        ) from error
    writer = SummaryWriter(str(folder))

    def listen(event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "end":
            writer.close()  # else its thread stays as long as the process
        if kind not in ("step", "eval"):
            return
        names = (
            ("loss", "lr", "images_per_s", "wait_share")
            if kind == "step"
            else (*objective.columns(), "loss")
        )
        # of other images or views than those on the way
        place = "final" if event.get("final") else kind
        for name in names:
            if event.get(name) is not None:
                writer.add_scalar(f"{place}/{name}", event[name], event["step"])
        writer.flush()

    return listen
