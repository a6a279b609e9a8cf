"""Cached features of a frozen backbone: computed once and used for training instead of the
images."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.data.loader import Batch, TrainingView
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device.precision import autocast
from saccade.evaluation.passes import CELL
from saccade.objectives.objective import Objective, Result


@dataclass(frozen=True, slots=True)
class HeldFeatures:
    """The input of the head in a run with a frozen backbone.

    ``views``, float32 (V, n, d), are the features of the n training images in V views, ``judged``,
    float32 (m, d), those of the images in ``split``, as evaluation sees them; all on the CPU.
    ``view`` says which images come when. ``head`` is the dotted name of the head.
    """

    view: TrainingView
    head: str
    views: Tensor
    split: Split
    judged: Tensor

    def start(
        self, _readers: Readers, step: int, global_batch: int
    ) -> tuple[Batch, list[Future[None]]]:
        """Return the rank's part of the batch of a step; in epoch e an image is seen as view e
        modulo V.
        """
        places = self.view.rank_slice.places(global_batch)
        order = self.view.order.at(step * global_batch, (step + 1) * global_batch)
        epochs, samples = (drawn[places] for drawn in order)
        which = torch.from_numpy(epochs) % len(self.views)
        features = self.views[which, torch.from_numpy(samples)]
        labels = torch.from_numpy(self.view.split.labels[samples])
        return Batch(features, labels, samples, epochs), []

    def judge(
        self, network: nn.Module, objective: Objective, precision: str, device: torch.device
    ) -> Result:
        """Return the figures of a network on the split; only its head computes."""
        split = objective.matched(self.split)
        head = network.get_submodule(self.head)
        # in cells of the same size as everywhere: kernels may round differently for another
        room = -len(self.judged) % CELL
        padded = torch.cat([self.judged, self.judged[-1:].expand(room, -1)])

        rows = []
        with torch.inference_mode(), autocast(precision, device):
            for cell in torch.split(padded, CELL):
                rows.append(head(cell.to(device)).float().cpu())
        logits = torch.cat(rows)[: len(split)].clone()
        return objective.judge(logits, objective.truth(split))
