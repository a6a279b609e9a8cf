"""All augmentations in their order, applied to images in the reading threads and to cells on the
device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saccade.config.schema import AugmentSection, Config
from saccade.data.augment.augmentation import (
    Augmentation,
    CellAugmentation,
    ImageAugmentation,
    Views,
)
from saccade.data.augment.blur import Blur
from saccade.data.augment.colour import Gray, Jitter, Solarize
from saccade.data.augment.erase import Cutout, Erase
from saccade.data.augment.geometry import Crops, Rotate
from saccade.data.augment.mix import Mix, apply_mix, draw_mix, normalise
from saccade.data.augment.policies import Policy
from saccade.data.images.fit import CENTRAL, Fit

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]

ORDER: tuple[type[Augmentation], ...] = (
    Rotate,
    Crops,
    Policy,
    Jitter,
    Gray,
    Blur,
    Solarize,
    Erase,
    Cutout,
    Mix,
)
"""Every augmentation, in the order in which they are applied.

What is for images and stands before ``Crops`` sees the whole decoded image, what stands behind it
the square. Those for cells follow, after normalisation, so that what is erased has the mean colour.
The mix changes the labels too, so it is last.
"""


class Chain:
    """The augmentations of one batch in the reading threads, with their draws."""

    def __init__(
        self, section: AugmentSection, views: Views, side: int, fit: Fit = CENTRAL
    ) -> None:
        """Make the draws for all places of a batch whose images get ``side`` pixels."""
        self.crops = Crops(section, views, side, fit)
        before, after = _around_the_crop(section)
        self._before = [kind(section, views) for kind in before]
        self._after = [kind(section, views) for kind in after]

    @property
    def needs_whole_image(self) -> bool:
        """Whether every pixel has to be decoded, not only those of the crop."""
        return bool(self._before) or self.crops.needs_whole_image

    def render(self, slot: Tensor, pixels: Pixels, box: Sequence[int], place: int) -> None:
        """Write the view at a place of the batch into its slot.

        ``pixels`` is a decoded image, uint8 (height, width, 3), of which ``box`` was chosen by
        ``crops``; ``slot`` is uint8 (1, 3, S, S) in channels_last order.
        """
        if self._before:
            pixels = _through(self._before, pixels, place)
        self.crops.cut_into(slot, pixels, box, place)

        if self._after:
            square: Pixels = slot[0].permute(1, 2, 0).numpy()
            changed = _through(self._after, square, place)
            # an image that no draw changed is not copied back
            if changed is not square:
                square[:] = changed


def cuts_decoded_images(section: AugmentSection) -> bool:
    """Tell whether images that are held decoded can be cut many at once: nothing but a shift and a
    flip happens to each of them.
    """
    return section.crop == "padded" and not any(_around_the_crop(section))


def present(
    images: Tensor, epochs: Numbers, samples: Numbers, config: Config, step: int, cell: int
) -> tuple[Tensor, float]:
    """Turn a loaded cell into the network's training input.

    Return it with lambda, the weight of each image's own label.

    ``images`` is uint8 (B, 3, S, S), the result float32 of the same shape; ``epochs`` and
    ``samples``, of shape ``(B,)``, say which views these are.
    """
    section, views = config.augment, Views(config.seed, epochs, samples)
    # normalised first, so that erasing to zero is erasing to the mean colour
    inputs = normalise(images, config.data.mean, config.data.std, config.data.channels)
    for kind in ORDER:
        if issubclass(kind, CellAugmentation) and kind.is_on(section):
            inputs = kind(section, views).apply(inputs)
    return apply_mix(inputs, draw_mix(section, config.seed, step, cell))


def describe(section: AugmentSection) -> list[str]:
    """Return the augmentations of these settings, in order, as ``setting=value``."""
    values = section.model_dump(mode="json")
    return [
        f"{name}={values[name]}"
        for kind in ORDER
        if kind.is_on(section)
        for name in kind.switches
        if values[name]
    ]


def _around_the_crop(
    section: AugmentSection,
) -> tuple[list[type[ImageAugmentation]], list[type[ImageAugmentation]]]:
    """Return the active augmentations of images before the crop, and after it."""
    crop = ORDER.index(Crops)
    before, after = (
        [kind for kind in kinds if issubclass(kind, ImageAugmentation) and kind.is_on(section)]
        for kinds in (ORDER[:crop], ORDER[crop + 1 :])
    )
    return before, after


def _through(steps: Sequence[ImageAugmentation], pixels: Pixels, place: int) -> Pixels:
    """Apply augmentations one after the other; returns the same array where none changes it."""
    image = first = Image.fromarray(pixels)
    for step in steps:
        image = step.apply(image, place)
    return pixels if image is first else np.array(image)
