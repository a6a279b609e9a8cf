"""Only the pixels that random crops need: of tiled JPEGs the tiles, of large crops the low frequencies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from saccade.data import images, jpeg, tiles
from saccade.data.boxes import Box
from saccade.data.images import BadImage, Data, Exif

SHARPNESS = 1.5
"""The decoder may halve the sides of an image while each crop stays this many times as wide and high as the output."""

_thread = threading.local()

ROOM_BYTES = 64_000_000
"""The most memory that a thread keeps for pixels."""

Pixels = NDArray[np.uint8]
Choose = Callable[[int, int, int], list[Box]]


def decode(
    files: Sequence[Data], choose: Choose, side: int, exif: Exif, *, whole: bool = False
) -> Iterator[tuple[Pixels, list[Box]]]:
    """Decode as much of each image file as its crops need, and yield the pixels with the boxes in them.

    ``choose(i, width, height)`` returns the boxes of file i in pixels of the upright image; ``side`` is the side of the
    output in pixels; ``whole`` asks for every pixel. Pixels are uint8 (height, width, 3). Reduced pixels make boxes
    fractional: they are rounded, half a reduced pixel of shift at most. The pixels are valid until the next ones are
    asked for. Raises BadImage when the turn comes to a file that is none.
    """
    if whole:
        for i, data in enumerate(files):
            pixels = images.decode(data, exif=exif)
            yield pixels, choose(i, pixels.shape[1], pixels.shape[0])
        return
    boxes: dict[int, list[Box]] = {}
    for i, data in enumerate(files):
        if tiles.is_tiled(data) and (exif == "ignore" or images.orientation(data) == 1):
            with suppress(ValueError):  # a damaged start comes up again below, in its turn
                boxes[i] = choose(i, *tiles.size(data))
    regions = {i: _around(chosen) for i, chosen in boxes.items()}
    cuts = {}
    if regions:
        try:
            cuts = dict(zip(regions, tiles.cut([files[i] for i in regions], list(regions.values())), strict=True))
        except ValueError:
            cuts = {}  # a damaged table: each file is cut alone below, so that the error comes with the right one
    for i, data in enumerate(files):
        if i in boxes:
            try:
                cut = cuts[i] if cuts else tiles.cut([data], [regions[i]])[0]
                factor = _factor(boxes[i], side)
                pixels = _decode_jpeg(cut.data, cut.width, cut.height, factor)
            except ValueError as error:
                raise BadImage(f"damaged JPEG: {error}") from error
            yield pixels, [_reduced(box, cut.left, cut.top, factor, pixels) for box in boxes[i]]
        else:
            yield _decode_whole(data, partial(choose, i), side, exif)


def _decode_whole(
    data: Data, choose: Callable[[int, int], list[Box]], side: int, exif: Exif
) -> tuple[Pixels, list[Box]]:
    """Decode all of an image, reduced where that is a JPEG that need not be turned."""
    if bytes(data[:2]) == b"\xff\xd8" and (exif == "ignore" or images.orientation(data) == 1):
        width, height = images.size(data)
        boxes = choose(width, height)
        factor = _factor(boxes, side)
        if jpeg.probe(data).components in (1, 3) and not tiles.is_tiled(data):
            try:
                pixels = _decode_jpeg(data, width, height, factor)
            except ValueError as error:
                raise images.bad_image(data, "JPEG", error) from error
        else:
            pixels = images.decode(data, factor=factor)
        return pixels, [_reduced(box, 0, 0, factor, pixels) for box in boxes]
    pixels = images.decode(data, exif=exif)
    return pixels, choose(pixels.shape[1], pixels.shape[0])


def _decode_jpeg(data: Data, width: int, height: int, factor: int) -> Pixels:
    """Decode into the room of this thread: fresh memory for each image costs page faults."""
    needed = 3 * -(-width // factor) * -(-height // factor)
    if needed > ROOM_BYTES:
        return jpeg.decode_part(data, width, height, factor)
    room: bytearray = getattr(_thread, "room", bytearray())
    if len(room) < needed:
        _thread.room = room = bytearray(needed)
    return jpeg.decode_part(data, width, height, factor, room)


def _factor(boxes: Sequence[Box], side: int) -> int:
    """Return by how much the decoder may reduce an image: 1, 2, 4 or 8."""
    smallest = min(min(box.width, box.height) for box in boxes)
    return next((factor for factor in (8, 4, 2) if smallest >= SHARPNESS * side * factor), 1)


def _around(boxes: Sequence[Box]) -> Box:
    if len(boxes) == 1:
        return boxes[0]
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right, bottom = max(box.left + box.width for box in boxes), max(box.top + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)


def _reduced(box: Box, left: int, top: int, factor: int, pixels: Pixels) -> Box:
    """Return a box of the whole image in pixels of a reduced part of it that begins at (left, top)."""
    if factor == 1:
        return Box(box.left - left, box.top - top, box.width, box.height)
    width, height = max(round(box.width / factor), 1), max(round(box.height / factor), 1)
    across = min(round((box.left - left) / factor), pixels.shape[1] - width)
    down = min(round((box.top - top) / factor), pixels.shape[0] - height)
    return Box(across, down, width, height)
