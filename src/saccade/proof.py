"""Proofs about a set-up that only Python can name: of exact resume, for now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from saccade import api
from saccade.errors import StopTraining, UsageError
from saccade.log import Log
from saccade.models.parts.duplicate import duplicate
from saccade.preflight.verify_resume import prove_here
from saccade.training.events import StepDone

OURS = ("out", "resume", "epochs", "within", "dry_run", "quiet", "patience")
"""Keywords of ``train`` that the proof sets itself."""


def verify_resume(
    *recipe: Any, kills: int = 3, steps: int = 60, quiet: bool = False, **keywords: Any
) -> dict[str, Any]:
    """Train a short run of your own set-up twice, once stopped and resumed, and compare all bits.

    The arguments are those of ``train``: loss, optimizer, augmentation, data and network included.
    Both runs have ``steps`` steps. The second one is stopped ``kills`` times; the checkpoint of
    the last step is taken away each time, as a kill would have lost it, and an older one goes on.
    Returns what was done and the digest of all tensors; raises CheckpointError where they differ.

    This proves that what you hand over draws from what it is given and remembers nothing. All of it
    happens in this process, with the objects at hand: it does not prove that your script makes the
    same objects when it is started again.
    """
    for name in OURS:
        if name in keywords:
            raise UsageError(
                f"{name}= is set by the proof itself", where=name, fix=f"remove {name}="
            )
    if steps < 4 or kills < 1:
        raise UsageError("a proof needs at least 4 steps and one kill", where="steps and kills")

    model, callbacks = keywords.pop("model", None), [*keywords.pop("callbacks", ())]
    sets = keywords.pop("set", ())
    sets = [*([sets] if isinstance(sets, str) else sets), "checkpoint.keep=2"]
    every = max(steps // 12, 2)

    def train(folder: Path, stop_after: int | None) -> None:
        def stop(event: object) -> None:
            if isinstance(event, StepDone) and event.step == stop_after:
                raise StopTraining("simulated kill")

        # a run leaves its weights in the network that it is handed
        own = duplicate(model) if isinstance(model, nn.Module) else model
        api.train(
            *recipe,
            model=own,
            out=folder,
            epochs=f"{steps}step",
            set=[*sets, f"checkpoint.every={every}step"],
            callbacks=[*callbacks, stop],
            quiet=True,
            **keywords,
        )

    return prove_here(train, kills=kills, steps=steps, log=Log(quiet=quiet))
