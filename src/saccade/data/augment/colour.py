"""Colours of single images: jitter, gray and solarisation."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as Picture

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import ImageAugmentation, Views
from saccade.data.augment.operations import OPERATIONS, Step, in_turn
from saccade.rng import Purpose

JITTER = ("brightness", "contrast", "color", "hue")
SOLARIZE_FROM = 128
"""*Source:* Grill et al. 2020, "BYOL", appendix B; Caron et al. 2021, "DINO", main_dino.py."""


class Jitter(ImageAugmentation):
    """Brightness, contrast, saturation and hue, in random order."""

    switches = ("jitter",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw the order and the factors of all places."""
        self._strengths, self._chance = section.jitter, section.jitter_chance
        # the last draw of each place decides whether anything happens
        self._draws = views.uniform(Purpose.JITTER, 2 * len(JITTER) + 1).tolist()

    def steps(self, place: int) -> list[Step]:
        """Return the operations for the image at a place of the batch, none where none is drawn."""
        *draws, happens = self._draws[place]
        return jitter(self._strengths, draws) if happens < self._chance else []

    def apply(self, image: Picture, place: int) -> Picture:
        """Change the colours of an image."""
        return in_turn(image, self.steps(place))


class Gray(ImageAugmentation):
    """Some images lose their colours."""

    switches = ("gray",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw which images turn gray."""
        self._turns_gray = (views.uniform(Purpose.GRAY, 1)[:, 0] < section.gray).tolist()

    def apply(self, image: Picture, place: int) -> Picture:
        """Turn an image gray, or return it as it is."""
        return OPERATIONS["gray"](image, 0.0) if self._turns_gray[place] else image


class Solarize(ImageAugmentation):
    """Solarisation: bright pixels of some images are inverted."""

    switches = ("solarize",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw which images are changed."""
        chances = views.in_turn(section.solarize, section.repeats)
        self._happens = (views.uniform(Purpose.SOLARIZE, 1)[:, 0] < chances).tolist()

    def apply(self, image: Picture, place: int) -> Picture:
        """Invert the levels from ``SOLARIZE_FROM`` on, or return the image as it is."""
        return OPERATIONS["solarize"](image, SOLARIZE_FROM) if self._happens[place] else image


def jitter(strengths: Sequence[float], draws: Sequence[float]) -> list[Step]:
    """Draw a colour jitter from eight draws: four for the order, four for the factors.

    A strength s means a factor in [max(0, 1 - s), 1 + s]; for the hue, s turns to either side at
    most. *Source:* Howard 2013, section 2; torchvision's ColorJitter.
    """
    steps = []
    # sorting by random numbers gives a random order without another generator
    for i in sorted(range(len(JITTER)), key=draws.__getitem__):
        most, draw = strengths[i], draws[len(JITTER) + i]
        if most > 0:
            steps.append((JITTER[i], (2 * draw - 1) * most))
    return steps
