"""Per-image operations on uint8 pixels, each taking its draws; nothing here is random by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as Picture

from saccade import rng
from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Augmentation, ImageAugmentation, Views
from saccade.data.images import fit as fits
from saccade.data.images.boxes import Box
from saccade.data.images.fit import CENTRAL, Colour, Fit
from saccade.rng import Floats, Purpose

CROP_ATTEMPTS = 10
# area and ratio of each try, and the place of the box
CROP_DRAWS = 2 * CROP_ATTEMPTS + 2
BLACK = (0, 0, 0)

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
antialiased_resize = torch.ops.aten._upsample_bilinear2d_aa.out


class Rotate(ImageAugmentation):
    """A rotation of the whole image about its centre, bilinear; the corners turn black."""

    switches = ("rotate",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw the angle of every place, in degrees."""
        self.angles = angles(views, section.rotate).tolist()

    def apply(self, image: Picture, place: int) -> Picture:
        """Turn an image counter-clockwise."""
        return image.rotate(self.angles[place], Image.Resampling.BILINEAR)


class Crops(Augmentation):
    """Where the images of a batch are cut, and which are mirrored, each from draws of its own."""

    switches = ("crop", "flip")

    @classmethod
    def is_on(cls, section: AugmentSection) -> bool:
        """Every image is cut somehow."""
        return True

    def __init__(
        self, section: AugmentSection, views: Views, side: int, fit: Fit = CENTRAL
    ) -> None:
        """Draw for all places of a batch whose images get ``side`` pixels."""
        self._section = section
        self._side = side
        self._fit = fit
        self._whole = whole_view(section.crop, fit)
        self._is_placed = section.crop == "padded" or fit.how == "pad"
        self._fill: Colour | Literal["reflect"] = (
            "reflect" if section.pad_fill == "reflect" else BLACK
        )
        if fit.how == "pad":
            self._fill = fit.fill

        self._draws = crop_draws(views, section.crop_area_beta)
        self._mirror = flips(views, section.flip, section.alternate_flip)
        # where a crop lies in its square; filled in `choose`, each place by one thread
        self._targets = np.zeros((len(views.samples), 4), np.int64)

    @property
    def needs_whole_image(self) -> bool:
        """Whether every pixel of an image is looked at."""
        return self._whole is not None

    def choose(self, places: Integers, sizes: Integers) -> Integers:
        """Return the boxes of the images at k places of the batch, int64 (k, 4) as in ``Box``.

        ``sizes`` are (width, height) of each image in pixels, int64 (k, 2).
        """
        section, draws, how = self._section, self._draws[places], self._fit.how
        if self._whole:
            return np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        if section.crop == "padded":
            pad = round(section.pad * self._side)
            boxes, self._targets[places] = padded_crops(
                draws, sizes, side=self._side, pad=pad, how=how
            )
            return boxes
        if how == "crop":
            return random_crops(draws, sizes, section.crop_area, section.crop_ratio)

        # a part of a square, squashed or padded as the whole image is at evaluation
        boxes = random_crops(
            draws, fits.unit_squares(len(sizes)), section.crop_area, section.crop_ratio
        )
        boxes = fits.stretched(boxes, sizes)
        if how == "pad":
            self._targets[places] = fits.places(boxes[:, 2:], self._side)
        return boxes

    def cut_into(self, slot: torch.Tensor, pixels: Pixels, box: Sequence[int], place: int) -> None:
        """Write the crop that was chosen for a place, mirrored or not, into its slot, uint8 (1,
        3, S, S).
        """
        mirror = bool(self._mirror[place])
        if self._whole:
            square = self._whole.square(pixels, self._side)
            slot[0].copy_(square.flip(-1) if mirror else square)
        elif self._is_placed:
            target = self._targets[place].tolist()
            slot.copy_(
                padded(
                    _picture(pixels[None]),
                    box,
                    target,
                    side=self._side,
                    mirror=mirror,
                    fill=self._fill,
                )
            )
        else:
            resize_into(slot, pixels, box, mirror)

    def cut_all_into(self, slots: torch.Tensor, pixels: Pixels, places: Integers) -> None:
        """Write padded crops of the images at k places, all of one size, into their slots, uint8
        (k, 3, S, S).

        ``pixels`` is uint8 (k, height, width, 3). Images that are cut alike are cut together: with
        a shift of two pixels there are 50 ways at most.
        """
        height, width = pixels.shape[1:3]
        boxes = self.choose(places, np.tile((width, height), (len(places), 1)))
        ways = np.concatenate([boxes, self._targets[places], self._mirror[places, None]], axis=1)
        # sorted, images that are cut alike are neighbours
        order = np.lexsort(ways.T)
        ways, source = ways[order], _picture(pixels.take(order, axis=0))
        ends = [*(np.flatnonzero((ways[1:] != ways[:-1]).any(axis=1)) + 1).tolist(), len(ways)]

        cut = np.empty((len(places), self._side, self._side, 3), np.uint8)
        for begin, end in pairwise([0, *ends]):
            *edges, mirror = ways[begin].tolist()
            part = padded(
                source[begin:end],
                edges[:4],
                edges[4:],
                side=self._side,
                mirror=bool(mirror),
                fill=self._fill,
            )
            _picture(cut[begin:end]).copy_(part)
        slots.permute(0, 2, 3, 1).numpy()[order] = cut


def whole_view(crop: str, fit: Fit) -> Fit | None:
    """Return how a crop without randomness shows an image, or None for a random one.

    ``central`` shows the view of evaluation. ``none`` shows the whole image: squashed into the
    square, or padded if evaluation pads it.
    """
    if crop == "central":
        return fit
    if crop == "none":
        return fit if fit.how == "pad" else Fit("squash")
    return None


def crop_draws(views: Views, area_beta: tuple[float, float] = (1.0, 1.0)) -> Floats:
    """Return the draws of the random crops, shape ``(n, CROP_DRAWS)``, for n views.

    All are uniform but those for the area, which follow the Beta distribution of these two shapes.
    """
    draws = views.uniform(Purpose.CROP, CROP_DRAWS)
    if area_beta != (1.0, 1.0):
        draws[:, : 2 * CROP_ATTEMPTS : 2] = np.interp(
            draws[:, : 2 * CROP_ATTEMPTS : 2], *rng.beta_table(*area_beta)
        )
    return draws


def flips(views: Views, chance: float, alternate: bool) -> NDArray[np.bool_]:
    """Return which images are mirrored, bool of shape ``(n,)``.

    With ``alternate`` an image is mirrored in every second epoch, starting by chance: two epochs
    see both sides. *Source:* Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds", section 3.6.
    """
    if alternate and chance > 0:
        # epoch 0 in the key: the start of an image is drawn once for the whole run
        first = rng.uniform(rng.key(views.seed, Purpose.FLIP, 0, views.samples), 1)[:, 0] < 0.5
        return first ^ (views.epochs % 2 == 1)
    return views.uniform(Purpose.FLIP, 1)[:, 0] < chance


def random_crops(
    draws: Floats, sizes: Integers, area: tuple[float, float], ratio: tuple[float, float]
) -> Integers:
    """Choose the boxes of random resized crops, int64 (k, 4) as in ``Box``, for images of these
    sizes, int64 (k, 2).

    ``draws`` are ``CROP_DRAWS`` uniform ones for each; ``area`` is the share of the image,
    ``ratio`` width over height, drawn log-uniformly; after ten boxes that do not fit, the largest
    central box within ``ratio``. *Source:* Szegedy et al. 2015, section 6; torchvision's
    RandomResizedCrop.
    """
    # every try of every image at once
    low, high = math.log(ratio[0]), math.log(ratio[1])
    whole = sizes[:, 0] * sizes[:, 1]
    pixels = whole[:, None] * (area[0] + draws[:, : 2 * CROP_ATTEMPTS : 2] * (area[1] - area[0]))
    shapes = np.exp(low + draws[:, 1 : 2 * CROP_ATTEMPTS : 2] * (high - low))
    tried = np.rint(np.sqrt(np.stack([pixels * shapes, pixels / shapes], axis=2)))

    # the first that fits, at a random place
    fits = np.all((tried > 0) & (tried <= sizes[:, None]), axis=2)
    boxes = np.empty((len(sizes), 4), np.int64)
    boxes[:, 2:] = tried[np.arange(len(sizes)), fits.argmax(axis=1)]
    boxes[:, :2] = draws[:, -2:] * (sizes - boxes[:, 2:] + 1)
    for i in np.flatnonzero(~fits.any(axis=1)).tolist():
        boxes[i] = _central_box(int(sizes[i, 0]), int(sizes[i, 1]), ratio)
    return boxes


def _central_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return Box((width - w) // 2, (height - h) // 2, w, h)


def padded_crops(
    draws: Floats, sizes: Integers, side: int, pad: int, how: fits.How = "crop"
) -> tuple[Integers, Integers]:
    """Choose a square of each image at full size from its first two draws.

    It may reach ``pad`` pixels beyond a border.

    ``draws`` is (k, 2 or more), ``sizes`` the images' (width, height), int64 (k, 2). The image is
    thought resized: its short side to ``side`` pixels, both sides to ``squash`` it, or the long
    side to ``pad`` it. Returns the boxes in the images, rounded to whole pixels of them, and their
    places in the squares, both int64 (k, 4) as in ``Box``. *Source:* He et al. 2016, section 4.2
    (CIFAR); Touvron et al. 2022, "DeiT III", section 3.3 (simple random crop); torchvision's Resize
    (the long side is truncated) and RandomCrop.
    """
    if how == "crop":
        resized = (side * sizes / sizes.min(axis=1, keepdims=True)).astype(np.int64)
    else:
        resized = fits.places(sizes, side)[:, 2:] if how == "pad" else np.full_like(sizes, side)

    # of the square around an image that does not fill it
    margin = np.maximum(side - resized, 0) // 2
    start = (
        (draws[:, :2] * (np.maximum(resized, side) + 2 * pad - side + 1)).astype(np.int64)
        - pad
        - margin
    )

    # what lies inside the image, in pixels of the image and of the square
    first, last = np.maximum(start, 0), np.minimum(start + side, resized)
    begin, end = (np.rint(edge * sizes / resized).astype(np.int64) for edge in (first, last))
    # a very flat image could round to nothing
    boxes = np.concatenate([begin, np.maximum(end - begin, 1)], axis=1)
    return boxes, np.concatenate([first - start, last - first], axis=1)


def angles(views: Views, most: float) -> Floats:
    """Return the rotation of each image in degrees, uniform in [-most, most], float64 of shape
    ``(n,)``.
    """
    return np.asarray((2 * views.uniform(Purpose.ROTATE, 1)[:, 0] - 1) * most)


def resize_into(slot: torch.Tensor, pixels: Pixels, box: Sequence[int], mirror: bool) -> None:
    """Write a crop, a ``Box``, resized with antialiased bilinear filtering, into a batch slot.

    ``slot`` is uint8 (1, 3, H, W) in channels_last order, ``pixels`` uint8 (height, width, 3).
    """
    left, top, width, height = box
    source = torch.from_numpy(
        pixels[None, top : top + height, left : left + width].transpose(0, 3, 1, 2)
    )
    if mirror:  # torch mirrors and copies in one go, numpy pixel by pixel
        source = torch.flip(source, (-1,))
    size = slot.shape[-2:]
    if size == (height, width):
        slot.copy_(source)
    else:
        antialiased_resize(source, size, False, None, None, out=slot)


def padded(
    source: torch.Tensor,
    box: Sequence[int],
    target: Sequence[int],
    side: int,
    mirror: bool,
    fill: Colour | Literal["reflect"],
) -> torch.Tensor:
    """Cut one ``Box`` out of k images, uint8 (k, 3, height, width), into the part ``target`` of
    squares; fill the rest.

    Returns uint8 (k, 3, side, side), all mirrored or none. Everything is channels_last.
    """
    left, top, width, height = box
    across, down, new_width, new_height = target
    part = source[..., top : top + height, left : left + width]
    if (new_height, new_width) != (height, width):
        part = torch.ops.aten._upsample_bilinear2d_aa(part, [new_height, new_width], False, None)

    inside = part.permute(0, 2, 3, 1).numpy()
    if fill == "reflect":
        margins = (
            (0, 0),
            (down, side - down - new_height),
            (across, side - across - new_width),
            (0, 0),
        )
        square = np.pad(inside, margins, mode="reflect")
    else:
        # empty and not zeros: the fill writes every pixel once
        square = np.empty((len(inside), side, side, 3), np.uint8)
        square[...] = fill
        square[:, down : down + new_height, across : across + new_width] = inside
    whole = _picture(square)
    return whole.flip(-1) if mirror else whole


def _picture(pixels: Pixels) -> torch.Tensor:
    """Return uint8 (k, height, width, 3) as what torch calls channels_last, (k, 3, height, width).

    No copy.
    """
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
