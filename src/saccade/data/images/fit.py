"""How an image becomes the square input of the network: cropped, squashed or padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

How = Literal["crop", "squash", "pad"]
Interpolation = Literal["bilinear", "bicubic"]
Colour = tuple[int, int, int]

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]

_UNIT = 1 << 20
"""Side of the square in which a part of an image is chosen that is fitted like the whole image."""

_RESIZES: dict[Interpolation, Callable[..., torch.Tensor]] = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa,
}
"""Those of Pillow: the cubic filter has a = -0.5."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How images of any shape become squares.

    ``crop`` cuts out the central square, ``crop_fraction`` times the short side wide. ``squash``
    changes width and height to the side of the square: shapes are distorted and nothing is lost.
    ``pad`` changes the long side to it and centres the image; the rest has the colour ``fill``, in
    levels. The last two see all of an image and ignore ``crop_fraction``. ``interpolation`` is how
    pixels are resized.
    """

    how: How = "crop"
    crop_fraction: float = 0.875
    fill: Colour = (0, 0, 0)
    interpolation: Interpolation = "bilinear"

    @classmethod
    def of(cls, how: How, crop_fraction: float, mean: Sequence[float]) -> Fit:
        """Return the fit of a run: padding has the mean colour (RGB in 0..1), 0 to the network."""
        red, green, blue = (min(max(round(255 * level), 0), 255) for level in mean)
        return cls(how, crop_fraction, (red, green, blue))

    def square(self, pixels: Pixels, side: int) -> torch.Tensor:
        """Return one image, uint8 (height, width, 3), as ``squares`` does: (3, side, side)."""
        return self.squares(pixels[None], side)[0]

    def squares(self, pixels: Pixels, side: int) -> torch.Tensor:
        """Return images of one size, uint8 (k, height, width, 3), as the network sees them: (k,
        3, side, side).
        """
        if self.how == "crop":
            return self._central_crops(pixels, side)
        height, width = pixels.shape[1:3]
        if self.how == "squash":
            return self._resized(pixels, side, side)
        ((left, top, new_width, new_height),) = places(np.array([[width, height]]), side).tolist()
        square = (
            torch.tensor(self.fill, dtype=torch.uint8).expand(len(pixels), side, side, 3).clone()
        )
        square = square.permute(0, 3, 1, 2)
        square[..., top : top + new_height, left : left + new_width] = self._resized(
            pixels, new_height, new_width
        )
        return square

    def _central_crops(self, pixels: Pixels, size: int) -> torch.Tensor:
        """Resize the short side of images, uint8 (k, height, width, 3), and cut out the central
        squares: (k, 3, size, size).

        The pixels are those of torchvision's v2 transforms. *Source:* torchvision Resize (the long
        side is truncated) and CenterCrop (offsets rounded to even).
        """
        height, width = pixels.shape[1:3]
        short = self.short_side(size)
        if height <= width:
            new_height, new_width = short, int(short * width / height)
        else:
            new_height, new_width = int(short * height / width), short
        image = self._resized(pixels, new_height, new_width)
        top, left = round((new_height - size) / 2), round((new_width - size) / 2)
        return image[..., top : top + size, left : left + size]

    def _resized(self, pixels: Pixels, height: int, width: int) -> torch.Tensor:
        """Resize images, uint8 (k, h, w, 3), antialiased: (k, 3, height, width).

        Equal sizes are not copied.
        """
        # torch takes no arrays with negative strides, as a mirrored view has
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        if image.shape[-2:] == (height, width):
            return image
        return _RESIZES[self.interpolation](image, [height, width], False, None)

    def short_side(self, side: int) -> int:
        """Return to how many pixels ``crop`` resizes the short side, before the central square."""
        return max(round(side / self.crop_fraction), side)

    def seen(self, shape: float) -> float:
        """Return the fraction of an image that evaluation sees.

        ``shape`` is the short side over the long side.
        """
        return shape * self.crop_fraction**2 if self.how == "crop" else 1.0


CENTRAL = Fit()
"""The fit of all models that were saved before there was a choice."""


def places(sizes: Integers, side: int) -> Integers:
    """Return where images that are padded lie in the square, int64 (k, 4) as in ``Box``.

    ``sizes`` are int64 (k, 2).
    """
    inside = np.maximum(
        np.rint(side * sizes / sizes.max(axis=1, keepdims=True)).astype(np.int64), 1
    )
    return np.concatenate([(side - inside) // 2, inside], axis=1)


def unit_squares(count: int) -> Integers:
    """Return the sizes of k squares in which parts of images are chosen before ``stretched``,
    int64 (k, 2).
    """
    return np.full((count, 2), _UNIT)


def stretched(boxes: Integers, sizes: Integers) -> Integers:
    """Move boxes in ``unit_squares`` into images of these sizes, int64 (k, 2): both int64 (k, 4) as
    in ``Box``.

    A box keeps its share of the width and of the height: the part of an image has about the shape
    of the image.
    """
    inside = np.clip(np.rint(boxes[:, 2:] * sizes / _UNIT).astype(np.int64), 1, sizes)
    start = np.minimum(np.rint(boxes[:, :2] * sizes / _UNIT).astype(np.int64), sizes - inside)
    return np.concatenate([start, inside], axis=1)
