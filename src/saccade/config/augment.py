"""The settings of augmentation: what each is for and in which range.

`docs/augmentation.md` has the whole table.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from saccade.config.fields import Interval, Section
from saccade.config.fields import results as _results

FORMER_CROPS = {"resized": "random"}
"""Old names of crops, as older runs wrote them."""

Shape = Annotated[float, Field(gt=0, le=100)]
Strength = Annotated[float, Field(ge=0, le=1)]
SizeShare = Annotated[float, Field(gt=0, le=4)]
Chances = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]
Hue = Annotated[float, Field(ge=0, le=0.5)]
Crop = Annotated[
    Literal["random", "padded", "central", "none"],
    BeforeValidator(
        lambda value: FORMER_CROPS.get(value, value) if isinstance(value, str) else value
    ),
]
Policy = Literal[
    "none",
    "autoaugment-imagenet",
    "autoaugment-cifar10",
    "autoaugment-svhn",
    "randaugment",
    "trivialaugment",
    "3augment",
]


class AugmentSection(Section):
    """What training images go through, in this order.

    First comes what says how often and how large they are seen. The order of the rest is that in
    which they are applied: `data.augment.chain.ORDER`.
    """

    repeats: int = _results(
        1,
        "repeated augmentation: views of each image per decoding; the number of views in an "
        "epoch stays the same",
        ge=1,
        le=8,
    )
    local_views: int = _results(
        0, "additional small views of each image (multi-crop), from the same decoding", ge=0, le=16
    )
    local_side: SizeShare = _results(
        3 / 7, "side of a small view as a fraction of a large one's; 96 of 224 px"
    )
    local_area: Interval = _results(
        (0.05, 0.4), "fraction of the image's area that a small view takes"
    )
    sizes: tuple[SizeShare, ...] = _results(
        (1.0,),
        "progressive resizing: fractions of image_size, each for an equal part of the run",
        min_length=1,
    )
    rotate: float = _results(
        0.0,
        "largest random rotation in either direction, in degrees; corners become black",
        ge=0,
        le=180,
    )
    crop: Crop = _results(
        "random",
        "random: a box of random area and ratio; padded: the image at full size, with a random "
        "shift; central: the crop of evaluation; none: the whole image",
    )
    crop_area: Interval = _results(
        (0.08, 1.0), "fraction of the image's area that a random crop takes"
    )
    crop_area_beta: tuple[Shape, Shape] = _results(
        (1.0, 1.0),
        "alpha and beta of the Beta distribution of the area within crop_area; 1, 1 = uniform",
    )
    crop_ratio: Interval = _results((0.75, 4 / 3), "width over height of a random crop")
    pad: float = _results(
        0.125,
        "padded: how far a crop may reach beyond the image, as a fraction of the side",
        ge=0,
        lt=0.5,
    )
    pad_fill: Literal["black", "reflect"] = _results(
        "black", "padded: what fills the space beyond the image"
    )
    flip: float = _results(0.5, "probability of a horizontal flip", ge=0, le=1)
    alternate_flip: bool = _results(
        False, "flip every image in every second epoch instead of at random"
    )
    policy: Policy = _results("none", "a policy that draws operations for each image")
    rand_ops: int = _results(2, "randaugment: operations for each image", ge=1, le=8)
    rand_magnitude: float = _results(
        9.0, "randaugment: strength from 0 to 10; a third of torchvision's", ge=0, le=10
    )
    rand_std: float = _results(0.0, "randaugment: standard deviation of the strength", ge=0, le=10)
    rand_chance: float = _results(
        1.0, "randaugment: probability of each operation; 0.5 in timm", ge=0, le=1
    )
    jitter: tuple[Strength, Strength, Strength, Hue] = _results(
        (0.0, 0.0, 0.0, 0.0),
        "colour jitter: brightness, contrast, saturation, hue, in random order",
    )
    jitter_chance: float = _results(1.0, "probability of the colour jitter", ge=0, le=1)
    gray: float = _results(0.0, "probability of a grayscale image", ge=0, le=1)
    blur: Chances = _results(
        (0.0,),
        "probability of a Gaussian blur, one value per view of an image; the last value "
        "holds for all further views",
    )
    solarize: Chances = _results(
        (0.0,),
        "probability of solarising (inverting bright pixels), one value per view; the "
        "last value holds for all further views",
    )
    erase: float = _results(0.0, "probability of erasing a random box", ge=0, le=1)
    erase_fill: Literal["mean", "noise"] = _results(
        "mean", "fill of erased pixels: the mean colour, or noise"
    )
    cutout: float = _results(
        0.0, "cutout: side of the erased square, as a fraction of the image's side", ge=0, le=1
    )
    mixup: float = _results(0.0, "alpha of mixup's Beta distribution; 0 = off", ge=0, le=10)
    cutmix: float = _results(0.0, "alpha of cutmix's Beta distribution; 0 = off", ge=0, le=10)

    @model_validator(mode="after")
    def _local_views_are_random_crops(self) -> AugmentSection:
        if self.local_views and self.crop != "random":
            raise ValueError(
                "augment.local_views: small views are random crops; set augment.crop to random"
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether the images of a cell are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0
