"""The settings of augmentation: what each is for and in which range.

`docs/augmentation.md` has the whole table.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from saccade.config.fields import Interval, Section
from saccade.config.fields import numerics as _numerics

FORMER_CROPS = {"resized": "random"}
"""Names of crops that older runs wrote."""

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

    repeats: int = _numerics(
        1,
        "views of an image in a row, decoded once; an epoch has as many views as without",
        ge=1,
        le=8,
    )
    local_views: int = _numerics(
        0, "small views of each image beside these, from the same decoding", ge=0, le=16
    )
    local_side: SizeShare = _numerics(
        3 / 7, "side of a small view as a fraction of the others'; 96 of 224 px"
    )
    local_area: Interval = _numerics(
        (0.05, 0.4), "fraction of the image's area that a small view takes"
    )
    sizes: tuple[SizeShare, ...] = _numerics(
        (1.0,), "sides as fractions of image_size, over equal parts of the run", min_length=1
    )
    rotate: float = _numerics(
        0.0, "largest rotation to either side, in degrees; the corners turn black", ge=0, le=180
    )
    crop: Crop = _numerics(
        "random",
        "random: a box of random area and ratio; padded: the image at full size, shifted by "
        "chance; central: what evaluation sees; none: the whole image",
    )
    crop_area: Interval = _numerics(
        (0.08, 1.0), "fraction of the image's area that a random crop takes"
    )
    crop_area_beta: tuple[Shape, Shape] = _numerics(
        (1.0, 1.0),
        "the two shapes of the area's Beta distribution within crop_area; 1, 1 = uniform",
    )
    crop_ratio: Interval = _numerics((0.75, 4 / 3), "width over height of a random crop")
    pad: float = _numerics(
        0.125,
        "how far a padded crop may reach beyond the image, as a fraction of the side",
        ge=0,
        lt=0.5,
    )
    pad_fill: Literal["black", "reflect"] = _numerics("black", "what lies beyond the image")
    flip: float = _numerics(0.5, "chance of a horizontal flip", ge=0, le=1)
    alternate_flip: bool = _numerics(
        False, "flip every image in every second epoch instead of by chance"
    )
    policy: Policy = _numerics("none", "a policy that draws operations for each image")
    rand_ops: int = _numerics(2, "randaugment: operations for each image", ge=1, le=8)
    rand_magnitude: float = _numerics(
        9.0, "randaugment: strength from 0 to 10; a third of torchvision's", ge=0, le=10
    )
    rand_std: float = _numerics(0.0, "randaugment: standard deviation of the strength", ge=0, le=10)
    rand_chance: float = _numerics(
        1.0, "randaugment: chance of each operation; timm's is 0.5", ge=0, le=1
    )
    jitter: tuple[Strength, Strength, Strength, Hue] = _numerics(
        (0.0, 0.0, 0.0, 0.0),
        "colour jitter: brightness, contrast, saturation, hue, in random order",
    )
    jitter_chance: float = _numerics(1.0, "chance of the colour jitter", ge=0, le=1)
    gray: float = _numerics(0.0, "chance of turning gray", ge=0, le=1)
    blur: Chances = _numerics(
        (0.0,), "chance of a Gaussian blur, for each view of an image in turn; the last one goes on"
    )
    solarize: Chances = _numerics(
        (0.0,), "chance of inverting what is bright, for each view in turn; the last one goes on"
    )
    erase: float = _numerics(0.0, "chance of erasing a random box", ge=0, le=1)
    erase_fill: Literal["mean", "noise"] = _numerics(
        "mean", "what erased pixels become: the mean colour, or noise"
    )
    cutout: float = _numerics(
        0.0, "side of a square that is cut out of each image, as a fraction of its side", ge=0, le=1
    )
    mixup: float = _numerics(0.0, "alpha of mixup's Beta distribution; 0 = off", ge=0, le=10)
    cutmix: float = _numerics(0.0, "alpha of cutmix's Beta distribution; 0 = off", ge=0, le=10)

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
