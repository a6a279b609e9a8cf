"""Policies: the operations for an image and their strengths, from its draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL.Image import Image as Picture

from saccade import rng
from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import ImageAugmentation, Views
from saccade.data.augment.operations import STANDARD, WIDE, Scale, Step, in_turn
from saccade.rng import Purpose

OPERATION_DRAWS = 4
THREE = ("gray", "solarize", "blur")
TRIVIAL_LEVELS, AUTO_LEVELS = 31, 10


class Choice(NamedTuple):
    """One operation of a sub-policy: its name, the chance that it is applied, and its level from
    0 to 9.
    """

    name: str
    chance: float
    level: int


def _read(table: str) -> tuple[tuple[Choice, Choice], ...]:
    """Read a policy: one sub-policy of two operations on each line."""
    rows = [line.split() for line in table.strip().splitlines()]
    choices = [[Choice(r[i], float(r[i + 1]), int(r[i + 2])) for i in (0, 3)] for r in rows]
    return tuple((first, second) for first, second in choices)


# *Source:* Cubuk et al. 2019, "AutoAugment", tables 7 (CIFAR-10), 8 (SVHN) and 9 (ImageNet):
# operation, chance, level.
AUTOAUGMENT = {
    "autoaugment-imagenet": _read("""
        posterize .4 8     rotate .6 9
        solarize .6 5      autocontrast .6 0
        equalize .8 0      equalize .6 0
        posterize .6 7     posterize .6 6
        equalize .4 0      solarize .2 4
        equalize .4 0      rotate .8 8
        solarize .6 3      equalize .6 0
        posterize .8 5     equalize 1 0
        rotate .2 3        solarize .6 8
        equalize .6 0      posterize .4 6
        rotate .8 8        color .4 0
        rotate .4 9        equalize .6 0
        equalize 0 0       equalize .8 0
        invert .6 0        equalize 1 0
        color .6 4         contrast 1 8
        rotate .8 8        color 1 2
        color .8 8         solarize .8 7
        sharpness .4 7     invert .6 0
        shear_x .6 5       equalize 1 0
        color .4 0         equalize .6 0
        equalize .4 0      solarize .2 4
        solarize .6 5      autocontrast .6 0
        invert .6 0        equalize 1 0
        color .6 4         contrast 1 8
        equalize .8 0      equalize .6 0
    """),
    "autoaugment-cifar10": _read("""
        invert .1 0        contrast .2 6
        rotate .7 2        translate_x .3 9
        sharpness .8 1     sharpness .9 3
        shear_y .5 8       translate_y .7 9
        autocontrast .5 0  equalize .9 0
        shear_y .2 7       posterize .3 7
        color .4 3         brightness .6 7
        sharpness .3 9     brightness .7 9
        equalize .6 0      equalize .5 0
        contrast .6 7      sharpness .6 5
        color .7 7         translate_x .5 8
        equalize .3 0      autocontrast .4 0
        translate_y .4 3   sharpness .2 6
        brightness .9 6    color .2 8
        solarize .5 2      invert 0 0
        equalize .2 0      autocontrast .6 0
        equalize .2 0      equalize .6 0
        color .9 9         equalize .6 0
        autocontrast .8 0  solarize .2 8
        brightness .1 3    color .7 0
        solarize .4 5      autocontrast .9 0
        translate_y .9 9   translate_y .7 9
        autocontrast .9 0  solarize .8 3
        equalize .8 0      invert .1 0
        translate_y .7 9   autocontrast .9 0
    """),
    "autoaugment-svhn": _read("""
        shear_x .9 4       invert .2 0
        shear_y .9 8       invert .7 0
        equalize .6 0      solarize .6 6
        invert .9 0        equalize .6 0
        equalize .6 0      rotate .9 3
        shear_x .9 4       autocontrast .8 0
        shear_y .9 8       invert .4 0
        shear_y .9 5       solarize .2 6
        invert .9 0        autocontrast .8 0
        equalize .6 0      rotate .9 3
        shear_x .9 4       solarize .3 3
        shear_y .8 8       invert .7 0
        equalize .9 0      translate_y .6 6
        invert .9 0        equalize .6 0
        contrast .3 3      rotate .8 4
        invert .8 0        translate_y 0 2
        shear_y .7 6       solarize .4 8
        invert .6 0        rotate .8 4
        shear_y .3 7       translate_x .9 3
        shear_x .1 6       invert .6 0
        solarize .7 2      translate_y .6 7
        shear_y .8 4       invert .8 0
        shear_x .7 9       translate_y .8 3
        shear_y .8 5       autocontrast .7 0
        shear_x .7 2       invert .1 0
    """),
}


def policy(section: AugmentSection, side: int, draws: Sequence[float]) -> list[Step]:
    """Return the operations for an image of ``side`` pixels.

    ``draws`` are ``4 * max(rand_ops, 2)`` of them.
    """
    if section.policy == "randaugment":
        return randaugment(section, side, draws)
    if section.policy == "trivialaugment":
        return trivialaugment(side, draws)
    if section.policy == "3augment":
        return three_augment(draws)
    return [] if section.policy == "none" else autoaugment(section.policy, side, draws[:5])


def autoaugment(name: str, side: int, draws: Sequence[float]) -> list[Step]:
    """Choose a sub-policy and which of its two operations are applied, from five draws."""
    row = AUTOAUGMENT[name][int(draws[0] * len(AUTOAUGMENT[name]))]
    steps = []
    for choice, chance, sign in zip(row, draws[1::2], draws[2::2], strict=True):
        if chance < choice.chance:
            # invert has no magnitude and is in no other policy
            scale = STANDARD.get(choice.name, Scale(0, 0))
            steps.append(
                (choice.name, scale.magnitude(choice.level / (AUTO_LEVELS - 1), sign < 0.5, side))
            )
    return steps


def randaugment(section: AugmentSection, side: int, draws: Sequence[float]) -> list[Step]:
    """Choose ``rand_ops`` operations, each applied by ``rand_chance``, from four draws for each,
    the third one normal.

    *Source:* Cubuk et al. 2020, "RandAugment", section 3; noise on the strength: Wightman's timm.
    """
    steps = []
    for first in range(0, OPERATION_DRAWS * section.rand_ops, OPERATION_DRAWS):
        # a fixed number of draws for each operation, so that none depends on what the others did
        which, sign, noise, chance = draws[first : first + OPERATION_DRAWS]
        name = list(STANDARD)[int(which * len(STANDARD))]
        level = section.rand_magnitude + section.rand_std * noise
        if chance < section.rand_chance:
            steps.append(
                (name, STANDARD[name].magnitude(min(max(level / 10, 0), 1), sign < 0.5, side))
            )
    return steps


def trivialaugment(side: int, draws: Sequence[float]) -> list[Step]:
    """Choose one operation and one of 31 levels from three draws.

    *Source:* Müller and Hutter 2021, section 3.
    """
    name = list(WIDE)[int(draws[0] * len(WIDE))]
    level = int(draws[1] * TRIVIAL_LEVELS) / (TRIVIAL_LEVELS - 1)
    return [(name, WIDE[name].magnitude(level, draws[2] < 0.5, side))]


def three_augment(draws: Sequence[float]) -> list[Step]:
    """Choose gray, solarisation or blur (radius 0.1 to 2 pixels) from two draws.

    *Source:* Touvron et al. 2022, "DeiT III", section 3.3, and its code for the radius and the
    threshold of 128.
    """
    name = THREE[int(draws[0] * len(THREE))]
    return [(name, {"gray": 0.0, "solarize": 128.0, "blur": 0.1 + 1.9 * draws[1]}[name])]


class Policy(ImageAugmentation):
    """A policy that draws operations for each image."""

    switches = ("policy",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw for all places of the batch."""
        self._section = section
        draws = views.uniform(Purpose.POLICY, OPERATION_DRAWS * max(section.rand_ops, 2))
        if section.policy == "randaugment" and section.rand_std:
            draws[:, 2::OPERATION_DRAWS] = rng.normal(draws[:, 2::OPERATION_DRAWS])
        self._draws = draws.tolist()

    def steps(self, place: int, side: int) -> list[Step]:
        """Return the operations for the image at a place of the batch, ``side`` pixels wide."""
        return policy(self._section, side, self._draws[place])

    def apply(self, image: Picture, place: int) -> Picture:
        """Apply the operations that were drawn for an image."""
        return in_turn(image, self.steps(place, image.width))
