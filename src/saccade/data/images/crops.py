"""Decode only what random crops need: tiles of tiled JPEGs, low frequencies of large crops.

While one thread holds Python's lock, all others wait. So the crops of all files of a task are
planned together, with few calls of numpy, and each file is then one call of the decoder, which
releases the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saccade.data.images import decode as images
from saccade.data.images import jpeg, tiles
from saccade.data.images.decode import BadImage, Data, Exif

SHARPNESS = 1.5
"""The decoder may halve the sides of an image while each crop stays this many times as wide and
high as the output.
"""

_FACTORS = np.array([2, 4, 8])
_thread = threading.local()

ROOM_BYTES = 64_000_000
"""The most memory that a thread keeps for pixels."""

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
Boxes = list[list[int]]
Sides = int | Integers
Choose = Callable[[list[int], Integers], Integers]


class _Part(NamedTuple):
    """A JPEG to be decoded: its sides in pixels, the factor that divides them, and the boxes.

    Boxes are in reduced pixels.
    """

    data: Data
    width: int
    height: int
    factor: int
    boxes: Boxes


def decode(
    files: Sequence[Data], choose: Choose, side: Sides, exif: Exif, *, whole: bool = False
) -> Iterator[tuple[Pixels, Boxes]]:
    """Decode as much of each image as its crops need; yield the pixels and the boxes in them.

    ``choose(which, sizes)`` returns the boxes in k of the files, int64 (k, copies, 4) as in
    ``Box``, in pixels of the upright images; ``sizes`` are their (width, height), int64 (k, 2).
    ``side`` is the side of the output in pixels, one for all copies or int64 (copies,); ``whole``
    asks for every pixel. Pixels are uint8 (height, width, 3). Reduced pixels make boxes fractional:
    they are rounded, half a reduced pixel of shift at most. The pixels are valid until the next
    ones are asked for. Raises BadImage at a file that is not an image.
    """
    plan = {} if whole else _plan(files, choose, side, exif)
    for i, data in enumerate(files):
        part = plan.get(i)
        if part is None:
            # an unusual file: decoded whole, and the crop is chosen from its true size
            pixels = images.decode(data, exif=exif)
            yield pixels, choose([i], np.array([pixels.shape[1::-1]])).tolist()[0]
        elif isinstance(part, BadImage):
            raise part
        else:
            try:
                pixels = _decode(part)
            except ValueError as error:
                raise images.bad_image(data, "JPEG", error) from error
            yield pixels, part.boxes


def _plan(
    files: Sequence[Data], choose: Choose, side: Sides, exif: Exif
) -> dict[int, _Part | BadImage]:
    """Plan what to decode of each common JPEG without rotation, or return its error."""
    plan: dict[int, _Part | BadImage] = {}
    tiled, plain, sizes = [], [], []
    for i, data in enumerate(files):
        # an image that has to be turned has other sides than its header says
        if bytes(data[:2]) != b"\xff\xd8" or (exif == "apply" and images.orientation(data) != 1):
            continue

        # The tiles of all files are cut together below: numpy is slow on one small file.
        if tiles.is_tiled(data):
            tiled.append(i)
            continue
        try:
            size = images.size(data)
        except BadImage as error:
            plan[i] = error
            continue
        if jpeg.probe(data).is_usual:
            plain.append(i)
            sizes.append(size)

    _plan_cuts(plan, files, tiled, choose=choose, side=side)
    if plain:
        whole = np.array(sizes, np.int64)
        found = _parts(
            [files[i] for i in plain],
            np.zeros_like(whole),
            whole,
            boxes=choose(plain, whole),
            side=side,
        )
        plan.update(zip(plain, found, strict=True))
    return plan


def _plan_cuts(
    plan: dict[int, _Part | BadImage],
    files: Sequence[Data],
    tiled: list[int],
    choose: Choose,
    side: Sides,
) -> None:
    """Add to a plan which tiles of the tiled JPEGs among some files to decode."""
    if not tiled:
        return
    grids = tiles.Grids([files[i] for i in tiled])
    if not grids.sound.all():
        for k in np.flatnonzero(~grids.sound).tolist():
            reason = "the table of tiles contradicts itself or the size of the file"
            plan[tiled[k]] = images.bad_image(files[tiled[k]], "JPEG", reason)
        _plan_cuts(plan, files, [i for i in tiled if i not in plan], choose=choose, side=side)
        return
    boxes = choose(tiled, grids.sizes)
    # one cut holds the crops of all copies of an image
    start = boxes[..., :2].min(axis=1)
    stop = (boxes[..., :2] + boxes[..., 2:]).max(axis=1)
    cuts = grids.cut(np.concatenate([start, stop - start], axis=1))
    plan.update(zip(tiled, _parts(*cuts, boxes, side), strict=True))


def _parts(
    data: Sequence[Data], corners: Integers, sizes: Integers, boxes: Integers, side: Sides
) -> Iterator[_Part]:
    """Choose by how much each of k JPEGs is reduced, and move the boxes into what that gives.

    The JPEGs were cut out of their images at ``corners``. These, (left, top), and ``sizes``,
    (width, height), are int64 (k, 2); ``boxes`` int64 (k, copies, 4).
    """
    # how many pixels of the crop make one of the output
    scales = (boxes[..., 2:].min(axis=2) / side).min(axis=1)
    # the smallest decides: no copy may become less sharp than allowed
    factors = 1 << (scales[:, None] >= SHARPNESS * _FACTORS).sum(axis=1)
    factor = factors[:, None, None]
    inside = np.empty_like(boxes)
    inside[..., 2:] = np.maximum(np.rint(boxes[..., 2:] / factor), 1)
    # the decoder rounds sides up, so a rounded box could end one pixel outside
    most = -(-sizes[:, None] // factor) - inside[..., 2:]
    inside[..., :2] = np.minimum(np.rint((boxes[..., :2] - corners[:, None]) / factor), most)
    for one, (width, height), by, places in zip(
        data, sizes.tolist(), factors.tolist(), inside.tolist(), strict=True
    ):
        yield _Part(one, width, height, factor=by, boxes=places)


def _decode(part: _Part) -> Pixels:
    """Decode into the room of this thread: fresh memory for each image costs page faults."""
    data, width, height, factor, _ = part
    needed = 3 * -(-width // factor) * -(-height // factor)
    if needed > ROOM_BYTES:
        return jpeg.decode_part(data, width, height, factor)
    room: bytearray = getattr(_thread, "room", bytearray())
    # it only grows: the next image may be as large as the largest so far
    if len(room) < needed:
        _thread.room = room = bytearray(needed)
    return jpeg.decode_part(data, width, height, factor=factor, room=room)
