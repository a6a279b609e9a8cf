"""Small views of the images of a batch, beside the large ones, from the same decoded pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Views
from saccade.data.augment.chain import Chain
from saccade.data.images.fit import CENTRAL, Fit

FIRST_EPOCH = 1 << 32
"""Views are told apart by their epochs: those of small views begin here, far above all others."""

Numbers = NDArray[np.int64]


class LocalViews:
    """The small views of a batch with their draws made; those of an image lie side by side.

    *Source:* Caron et al. 2020, "SwAV", section 3.2 (multi-crop); Caron et al. 2021, "DINO".
    """

    def __init__(
        self, section: AugmentSection, large: Views, side: int, fit: Fit = CENTRAL
    ) -> None:
        """Draw for all images of a batch whose ``large`` views these are.

        ``side`` is the side of a large view in pixels, ``fit`` how an image fills a square.
        """
        self.count = section.local_views
        self.side = local_side(section, side)
        repeats = section.repeats
        # each image once; the copies of one pass have neighbouring epochs
        passes, samples = large.epochs[::repeats] // repeats, large.samples[::repeats]
        numbers = passes[:, None] * self.count + np.arange(self.count)
        self.views = Views(
            large.seed, FIRST_EPOCH + numbers.reshape(-1), np.repeat(samples, self.count)
        )
        self._chain = Chain(_settings(section), self.views, self.side, fit)

    def choose(self, images: Numbers, sizes: Numbers) -> Numbers:
        """Return the boxes of the small views of k images of the batch, int64 (k, count, 4).

        ``images`` are their numbers in the batch, ``sizes`` their (width, height), int64 (k, 2).
        """
        places = (images[:, None] * self.count + np.arange(self.count)).reshape(-1)
        boxes = self._chain.crops.choose(places, np.repeat(sizes, self.count, axis=0))
        return boxes.reshape(-1, self.count, 4)

    def render(
        self, slots: Tensor, pixels: NDArray[np.uint8], boxes: list[list[int]], image: int
    ) -> None:
        """Write the small views of an image of the batch into their places in ``slots``.

        ``slots`` is uint8 (images x count, 3, s, s) in channels_last order, ``pixels`` what was
        decoded, uint8 (height, width, 3), and ``boxes`` where the views lie in it.
        """
        first = image * self.count
        for place, box in enumerate(boxes, first):
            self._chain.render(slots[place : place + 1], pixels, box, place)


def local_side(section: AugmentSection, side: int) -> int:
    """Return the side of a small view beside large ones of ``side`` pixels: a multiple of 8."""
    return max(round(side * section.local_side / 8) * 8, 8)


def _settings(section: AugmentSection) -> AugmentSection:
    """Return the settings of a small view: its own area, and the last value of settings with one
    value per view.
    """
    update = {
        "crop_area": section.local_area,
        "blur": section.blur[-1:],
        "solarize": section.solarize[-1:],
        "local_views": 0,
    }
    return section.model_copy(update=update)
