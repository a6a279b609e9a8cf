"""A picture of the network's input, in training (erased, mixed) and in evaluation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from saccade.config.schema import Config
from saccade.data.augment.chain import describe, present
from saccade.data.augment.mix import Mix, draw_mix, pixels
from saccade.data.images.fit import Fit
from saccade.data.loader import EvaluationView, TrainingView, batches
from saccade.data.order import Indices, Order
from saccade.data.readers import Readers
from saccade.data.sources import Split

TILE_PIXELS = (96, 256)
"""Tiny images are shown enlarged by a whole factor, huge ones reduced."""

LINE_PIXELS, GAP_PIXELS = 15, 2


@dataclass(frozen=True, slots=True)
class Sheet:
    """The picture, uint8 (H, W, 3), and what it shows.

    The images' names, a caption for each column, and the settings of the augmentations that are on,
    in the order in which they are applied.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    images: tuple[str, ...]
    columns: tuple[str, ...]
    order: tuple[str, ...]

    def to_png(self) -> bytes:
        """Return the picture as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG")
        return buffer.getvalue()


class _SameImages(Order):
    """A stream of the same images at every step, each time in the next epoch."""

    def __init__(self, chosen: Indices, num_samples: int, seed: int) -> None:
        super().__init__(num_samples, seed)
        self._chosen = chosen

    def at(self, start: int, stop: int) -> tuple[Indices, Indices]:
        epochs, places = np.divmod(np.arange(start, stop, dtype=np.int64), len(self._chosen))
        return epochs, self._chosen[places]


def contact_sheet(config: Config, train: Split, num_images: int, num_views: int) -> Sheet:
    """Draw images of a training split as rows: as in evaluation, then as in several epochs of
    training.

    The columns also walk through the image sizes of the run. Each column is one cell, mixed as one.
    Raises DataError for an image that cannot be read.
    """
    # spread over the set, which is sorted by class
    chosen = np.unique(np.linspace(0, len(train) - 1, num_images).astype(np.int64))
    readers = Readers(2)
    try:
        columns = [_evaluated(config, train.at(chosen), readers)]
        columns += _trained_on(config, train, chosen, num_views=num_views, readers=readers)
    finally:
        readers.close()
    names = tuple(train.describe(int(i)) for i in chosen)
    classes = [train.classes[label] for label in train.labels[chosen]]
    captions = tuple(caption for caption, _ in columns)
    order = tuple(describe(config.augment))
    return Sheet(_draw(columns, classes), images=names, columns=captions, order=order)


def _evaluated(config: Config, split: Split, readers: Readers) -> tuple[str, Tensor]:
    section = config.data
    side = section.eval_size or section.image_size
    view = EvaluationView(
        split, side, Fit.of(section.fit, section.eval_crop, section.mean), section.exif
    )
    (batch,) = batches(view, readers, len(split), first_step=0, last_step=1)
    return f"evaluation, {side} px", batch.images


def _trained_on(
    config: Config, train: Split, chosen: Indices, num_views: int, readers: Readers
) -> list[tuple[str, Tensor]]:
    order, section = _SameImages(chosen, len(train), config.seed), config.data
    fit = Fit.of(section.fit, section.eval_crop, section.mean)
    view = TrainingView(
        train,
        order,
        config.augment,
        image_size=section.image_size,
        total_steps=num_views,
        exif=section.exif,
        fit=fit,
    )
    columns = []
    for step, batch in enumerate(
        batches(view, readers, len(chosen), first_step=0, last_step=num_views)
    ):
        seen, lam = present(
            batch.images, batch.epochs, batch.samples, config=config, step=step, cell=0
        )
        # the normalisation is undone: what is shown is what the network was given
        shown = pixels(seen, section.mean, section.std, section.channels)
        how = _mixing(draw_mix(config.augment, config.seed, step, 0), lam)
        columns.append((f"epoch {step}, {shown.shape[-1]} px{how}", shown))
    return columns


def _mixing(mix: Mix, lam: float) -> str:
    if lam == 1.0:
        return ""
    return f", {'mixup' if mix.box is None else 'cutmix'} {lam:.2f}"


def _lines(caption: str, width: int) -> str:
    """Break a caption at its last comma if it would touch the next one, at this distance in
    pixels."""
    wide = ImageDraw.Draw(Image.new("L", (1, 1))).textlength(caption) > width - 8
    return "\n".join(caption.rsplit(", ", 1)) if wide else caption


def _draw(
    columns: list[tuple[str, Tensor]], classes: list[str]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    side = max(images.shape[-1] for _, images in columns)
    # a whole factor, so that every pixel stays a square
    tile = min(side * -(-TILE_PIXELS[0] // side), TILE_PIXELS[1])
    pitch = tile + GAP_PIXELS
    captions = [_lines(caption, tile) for caption, _ in columns]
    head = LINE_PIXELS * max(caption.count("\n") + 1 for caption in captions) + 3

    sheet = Image.new("RGB", (len(columns) * pitch, head + len(classes) * pitch), "white")
    pen = ImageDraw.Draw(sheet)

    for across, (caption, (_, images)) in enumerate(zip(captions, columns, strict=True)):
        pen.text((across * pitch + 2, 3), caption, "black")
        for down, image in enumerate(images):
            picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
            enlarged = picture.width < tile
            picture = picture.resize(
                (tile, tile), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
            )
            sheet.paste(picture, (across * pitch, head + down * pitch))

    # Names last: a picture would cover them.
    for down, name in enumerate(classes):
        corner = (2, head + down * pitch + 2)
        pen.rectangle(pen.textbbox(corner, name), fill="white")
        pen.text(corner, name, "black")
    return np.asarray(sheet)
