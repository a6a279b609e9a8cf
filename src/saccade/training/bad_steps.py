"""Saving the batch of a skipped step, for inspection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from saccade import files, rng
from saccade.data.loader import Batch
from saccade.distributed.world import ALONE, World
from saccade.errors import DiskError

MOST_KEPT = 3
"""Batches kept in a run: more of them show nothing new, and each may have hundreds of megabytes."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The data of a step until its flag is read: ``bad``, ``jumps`` and ``loss`` are scalars on the
    device.

    ``batch`` is this rank's, ``loss`` the rank's share of the mean loss; ``jumps`` tells whether
    all is finite and only the loss is far too high.
    """

    step: int
    bad: Tensor
    loss: Tensor
    batch: Batch
    jumps: Tensor


@dataclass(frozen=True, slots=True)
class Archive:
    """Where bad batches are saved: ``folder/bad/step_XXXXXXXX.safetensors``, and beside it a JSON
    file with the names.
    """

    folder: Path
    describe: Callable[[int], str]
    seed: int
    world: World = ALONE

    def keep(self, evidence: Evidence) -> str:
        """Write the batch of all ranks and return its path; all ranks must call this.

        If the disk is full, the batch is lost, but the run continues.
        """
        # every rank takes part in these; the first one writes
        batch, gather = evidence.batch, self.world.gather
        images, labels = gather(batch.images.cpu().contiguous()), gather(batch.labels.cpu())
        samples, epochs = (
            gather(torch.from_numpy(n.copy())) for n in (batch.samples, batch.epochs)
        )
        losses = gather(evidence.loss.detach().float().cpu().reshape(1))
        path = self.folder / "bad" / f"step_{evidence.step:08d}.safetensors"
        if not self.world.leads:
            return str(path)

        tensors = {"images": images, "labels": labels, "samples": samples, "epochs": epochs}
        joined = {name: torch.cat(parts) for name, parts in tensors.items()}
        # the rank tells a broken machine from a broken image
        ranks = (rank for rank, part in enumerate(labels) for _ in part)
        facts = {
            "step": evidence.step,
            "seed": self.seed,
            "draws_version": rng.DRAWS_VERSION,
            "loss_by_rank": [_number(float(loss)) for loss in losses],
            "images": [
                {
                    "name": self.describe(sample),
                    "sample": sample,
                    "epoch": epoch,
                    "label": label,
                    "rank": rank,
                }
                for sample, epoch, label, rank in zip(
                    joined["samples"].tolist(),
                    joined["epochs"].tolist(),
                    joined["labels"].tolist(),
                    ranks,
                    strict=True,
                )
            ],
        }

        try:
            files.within(self.folder, "bad")
            files.write_bytes(path, safetensors.torch.save(joined))
            files.write_json(path.with_suffix(".json"), facts)
        except DiskError as error:
            return f"nowhere: {error.what}"
        return str(path)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no NaN
