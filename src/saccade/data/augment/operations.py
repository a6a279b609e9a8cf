"""The operations of augmentation policies: name -> function of an RGB image and a magnitude.

They work in Pillow, which the policies were found with, and which is faster on one uint8 image than
torch for nearly all of them. Geometry is bilinear, as in torchvision's training reference; what
comes from outside is black.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Image as Picture

Operation = Callable[[Picture, float], Picture]
Step = tuple[str, float]
"""The name of an operation and its magnitude."""


def _affine(image: Picture, *matrix: float) -> Picture:
    """Show at each place (x, y) what is at (ax + by + c, dx + ey + f).

    ``matrix`` is (a, b, c, d, e, f).
    """
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _shift_hue(image: Picture, turns: float) -> Picture:
    hue, saturation, value = image.convert("HSV").split()
    shifted = hue.point([(level + int(turns * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


OPERATIONS: Mapping[str, Operation] = {
    # the fourteen of AutoAugment. *Source:* Cubuk et al. 2019, "AutoAugment", table 6
    "identity": lambda image, _: image,
    "shear_x": lambda image, slope: _affine(image, 1, slope, 0, 0, 1, 0),
    "shear_y": lambda image, slope: _affine(image, 1, 0, 0, slope, 1, 0),
    "translate_x": lambda image, pixels: _affine(image, 1, 0, -int(pixels), 0, 1, 0),
    "translate_y": lambda image, pixels: _affine(image, 1, 0, 0, 0, 1, -int(pixels)),
    "rotate": lambda image, degrees: image.rotate(degrees, Image.Resampling.BILINEAR),
    "brightness": lambda image, more: ImageEnhance.Brightness(image).enhance(1 + more),
    "color": lambda image, more: ImageEnhance.Color(image).enhance(1 + more),
    "contrast": lambda image, more: ImageEnhance.Contrast(image).enhance(1 + more),
    "sharpness": lambda image, more: ImageEnhance.Sharpness(image).enhance(1 + more),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),  # type: ignore[arg-type]
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    # *Source:* Touvron et al. 2022, "DeiT III", section 3.3; hue: Howard 2013, section 2
    "gray": lambda image, _: image.convert("L").convert("RGB"),
    "blur": lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)),
    "hue": _shift_hue,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How strong an operation is at a level from 0 to 1: ``low`` to ``high``, mirrored by chance if
    ``signed``.

    ``per_side`` magnitudes are shares of the image's side; ``whole`` ones are rounded.
    """

    low: float
    high: float
    signed: bool = False
    per_side: bool = False
    whole: bool = False

    def magnitude(self, level: float, negative: bool, side: int) -> float:
        """Return the magnitude at a level in 0..1 for images of ``side`` pixels."""
        value = (self.low + (self.high - self.low) * level) * (side if self.per_side else 1)
        value = round(value) if self.whole else value
        return -value if self.signed and negative else value


def _scales(
    shear: float, translate: Scale, degrees: float, more: float, bits: int
) -> dict[str, Scale]:
    slope, enhance = Scale(0, shear, signed=True), Scale(0, more, signed=True)
    return {
        "identity": Scale(0, 0),
        "shear_x": slope,
        "shear_y": slope,
        "translate_x": translate,
        "translate_y": translate,
        "rotate": Scale(0, degrees, signed=True),
        "brightness": enhance,
        "color": enhance,
        "contrast": enhance,
        "sharpness": enhance,
        "posterize": Scale(8, bits, whole=True),
        "solarize": Scale(255, 0),
        "autocontrast": Scale(0, 0),
        "equalize": Scale(0, 0),
    }


STANDARD: Mapping[str, Scale] = _scales(
    0.3, Scale(0, 150 / 331, signed=True, per_side=True), 30, more=0.9, bits=4
)
"""The fourteen operations of RandAugment, translation per 331 px.

*Source:* Cubuk et al. 2019, "AutoAugment", table 6.
"""

WIDE: Mapping[str, Scale] = _scales(0.99, Scale(0, 32, signed=True), 135, more=0.99, bits=2)
"""The wide space of TrivialAugment, translation in pixels.

*Source:* Müller and Hutter 2021, "TrivialAugment", table 7.
"""


def in_turn(image: Picture, steps: list[Step]) -> Picture:
    """Apply operations to an RGB image, one after the other."""
    for name, magnitude in steps:
        image = OPERATIONS[name](image, magnitude)
    return image
