"""Blur of single images."""

from __future__ import annotations

from PIL.Image import Image as Picture

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import ImageAugmentation, Views
from saccade.data.augment.operations import OPERATIONS
from saccade.rng import Purpose

BLUR_PIXELS = (0.1, 2.0)
"""The standard deviations of the blur, in pixels of the square that the network sees.

*Source:* Chen et al. 2020, "SimCLR", appendix A; Caron et al. 2021, "DINO", utils.py.
"""


class Blur(ImageAugmentation):
    """A Gaussian blur of some images, of a width that is drawn."""

    switches = ("blur",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw which images are blurred, and how much."""
        draws = views.uniform(Purpose.BLUR, 2)
        self._happens = (draws[:, 0] < views.in_turn(section.blur, section.repeats)).tolist()
        low, high = BLUR_PIXELS
        self._widths = (low + draws[:, 1] * (high - low)).tolist()

    def apply(self, image: Picture, place: int) -> Picture:
        """Blur an image, or return it as it is."""
        return OPERATIONS["blur"](image, self._widths[place]) if self._happens[place] else image
