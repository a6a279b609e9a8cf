"""Which sample comes when: one endless stream of epoch permutations, addressed by position."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from saccade import rng
from saccade.rng import Purpose

Indices = NDArray[np.int64]


class Order:
    """The endless stream over a set of ``num_samples`` samples.

    The position is one integer, the samples consumed so far. Step k of global batch B consumes [kB, (k+1)B); a batch
    may straddle two epochs, nothing is dropped and there is no partial batch.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._recent: OrderedDict[int, Indices] = OrderedDict()

    def permutation(self, epoch: int) -> Indices:
        """Return the order of one epoch, int64 of shape ``(num_samples,)``: the argsort of the samples' keys."""
        if epoch not in self._recent:
            keys = rng.key(self.seed, Purpose.ORDER, epoch, np.arange(self.num_samples, dtype=np.uint64))
            self._recent[epoch] = np.argsort(keys, kind="stable")
            while len(self._recent) > 2:
                self._recent.popitem(last=False)
        return self._recent[epoch]

    def at(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """Return (epochs, samples), both int64 of shape ``(stop - start,)``, for the positions [start, stop)."""
        positions = np.arange(start, stop, dtype=np.int64)
        epochs, places = np.divmod(positions, self.num_samples)
        samples = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = self.permutation(int(epoch))[places[here]]
        return epochs, samples
