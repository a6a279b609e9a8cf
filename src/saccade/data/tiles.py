"""The tiled JPEG: an ordinary baseline JPEG made of independent tiles, any rectangle of which is cut out by copying.

After each restart marker the entropy coder starts anew. With a restart interval that divides the padded width, the file
is a grid of tiles, one interval wide and one row of MCUs high. A table of their lengths, in an APP15 segment at the
start of the file, makes a cut a matter of a few slices: the header with another width and height, the wanted tiles with
their markers counted anew, and the end mark. Every decoder reads the whole file, and every decoder reads a cut.

*Source:* ITU-T T.81, annexes B.2.1 (restart intervals) and E.1.4 (the coder's state at a restart).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from saccade.data.boxes import Box

MAGIC = b"SACTILE1"
DEFAULT_TILE = 32
MAX_PIXELS = 178_956_970
"""Larger images are refused from the header. *Source:* Pillow's limit; 4 bytes a pixel keep it under 1 GB."""

_START = b"\xff\xd8\xff\xef"
_FIELDS = struct.Struct("<8s6HII")
_SIZE = struct.Struct("<HH")
_SIZE_IN_FRAME = struct.Struct(">HH")
_TABLE = 6 + _FIELDS.size
_HEADER = 8
_MAX_SIDE = 65535 + DEFAULT_TILE
_MAX_TILES = (65533 - _FIELDS.size) // 2
_MCU = {"4:4:4": (8, 8), "4:2:2": (16, 8), "4:2:0": (16, 16), "gray": (8, 8)}
_MARGIN = 1  # chroma upsampling looks at the neighbouring pixel, which the edge of a cut does not have

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
_NOTHING = np.zeros(1, "<u2")


class Cut(NamedTuple):
    """A rectangle of tiles as a JPEG of its own, a slice of a buffer; (left, top) is its place in the image, pixels."""

    data: memoryview
    left: int
    top: int
    width: int
    height: int


def is_tiled(data: bytes | memoryview) -> bool:
    """Tell from the first bytes whether a file has a table of tiles."""
    return data[:4] == _START and data[6:14] == MAGIC


def encode(pixels: Pixels, quality: int, sampling: str, tile: int = DEFAULT_TILE, orientation: int = 1) -> bytes:
    """Encode an image as a tiled JPEG.

    ``pixels`` is uint8 (height, width, 3), or (height, width) for gray; ``quality`` is libjpeg's, 1 to 100;
    ``sampling`` is ``4:4:4``, ``4:2:2`` or ``4:2:0``; ``tile`` is the width of a tile in pixels, made larger where the
    table would not fit into its segment; ``orientation`` is written as the EXIF tag unless it is 1.
    """
    mcu_width, mcu_height = _MCU["gray" if pixels.ndim == 2 else sampling]
    height, width = pixels.shape[:2]
    rows = -(-height // mcu_height)
    blocks = max(tile // mcu_width, 1)
    while rows * -(-width // (blocks * mcu_width)) > _MAX_TILES:
        blocks *= 2
    columns = -(-width // (blocks * mcu_width))
    padding = [(0, 0), (0, columns * blocks * mcu_width - width), *[(0, 0)] * (pixels.ndim - 2)]
    padded = np.pad(pixels, padding, "edge")
    # Pillow's guess at the size of the output is too small for noise, and libjpeg cannot wait for a larger buffer
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 2 * padded.size)
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if pixels.ndim == 2 else {"subsampling": sampling}
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(padded).save(
        buffer, "JPEG", quality=quality, optimize=True, restart_marker_blocks=blocks, **options
    )
    return _with_table(buffer.getvalue(), (width, height), (blocks * mcu_width, mcu_height), (columns, rows))


def _with_table(plain: bytes, size: tuple[int, int], tile: tuple[int, int], grid: tuple[int, int]) -> bytes:
    """Insert the table behind the start mark; the lengths come from the restart markers in the file."""
    frame, scan = _landmarks(plain)
    values = np.frombuffer(plain, np.uint8)
    after = values[scan + 1 :]
    markers = np.flatnonzero((values[scan:-1] == 0xFF) & (after >= 0xD0) & (after <= 0xD9)) + scan + 2
    lengths = np.diff(markers, prepend=scan)
    assert len(lengths) == grid[0] * grid[1] and markers[-1] == len(plain), "libjpeg wrote another grid"
    table = lengths.astype("<u2").tobytes()
    shift = _TABLE + len(table) - 2
    fields = _FIELDS.pack(MAGIC, *size, *tile, *grid, frame + shift, scan + shift)
    return _START + struct.pack(">H", 2 + len(fields) + len(table)) + fields + table + plain[2:]


def _landmarks(plain: bytes) -> tuple[int, int]:
    """Return the offsets of the frame header's marker and of the first byte of the scan."""
    place, frame = 2, 0
    while True:
        marker, length = plain[place + 1], int.from_bytes(plain[place + 2 : place + 4], "big")
        frame = place if marker == 0xC0 else frame
        place += 2 + length
        if marker == 0xDA:
            return frame, place


def size(data: bytes | memoryview) -> tuple[int, int]:
    """Return (width, height) in pixels of the image in a tiled JPEG, without the padding; raises ValueError."""
    try:
        width, height = _SIZE.unpack_from(data, 14)
    except struct.error as error:
        raise ValueError("the table of tiles is cut") from error
    if not width or not height:
        raise ValueError("the table of tiles says that there are no pixels")
    return width, height


def cut(records: Sequence[bytes | memoryview], boxes: Sequence[Box]) -> list[Cut]:
    """Cut out of each tiled JPEG the tiles that its box touches; they decode to the very pixels of the whole.

    The boxes are in pixels of the images. One pixel around each is included: inside the box the pixels are those of a
    full decode bit for bit. All records are worked on together, because numpy costs by the call. Raises ValueError on
    a table that contradicts itself or the size of its file.
    """
    facts, ends, base = _tables(records)
    columns, scan = facts[:, 4], facts[:, 7]
    window = _windows(facts, boxes)
    first, last, upper, lower = window.T
    high = lower - upper
    row_image = np.repeat(np.arange(len(records)), high)
    row = np.arange(len(row_image)) - np.repeat(np.cumsum(high) - high, high) + upper[row_image]
    before = base[row_image] + row * columns[row_image] + first[row_image]
    after = before + (last - first)[row_image]
    origin = scan - ends[base]
    starts, stops = ends[before] + origin[row_image], ends[after] + origin[row_image]
    head = scan - facts[:, _HEADER]
    out, places = _join(records, facts, starts, stops, high, head)
    row_place = places[row_image] + 2 + head[row_image] + _running(stops - starts, high)
    _count_markers(out, ends, before, after, row_place, (last - first) * high, row_image)
    stop_places = np.append(places[1:], len(out))
    wide = ((last - first) * facts[:, 2]).tolist()
    tall = (np.minimum(lower * facts[:, 3], facts[:, 1]) - upper * facts[:, 3]).tolist()
    frames = (places + 2 + facts[:, 6] - facts[:, _HEADER] + 5).tolist()
    view = memoryview(out)
    cuts = []
    lefts, tops = (first * facts[:, 2]).tolist(), (upper * facts[:, 3]).tolist()
    bounds = zip(places.tolist(), stop_places.tolist(), strict=True)
    for i, (start, stop) in enumerate(bounds):
        _SIZE_IN_FRAME.pack_into(out, frames[i], tall[i], wide[i])
        cuts.append(Cut(view[start:stop], lefts[i], tops[i], wide[i], tall[i]))
    return cuts


def _tables(records: Sequence[bytes | memoryview]) -> tuple[Integers, Integers, Integers]:
    """Return the fields of each record, int64 (k, 9), with the offset of its header behind the table as the last.

    Also the running sum of all tile lengths, starting with 0 for each record, and where each record begins in it.
    """
    rows, tables = [], []
    for data in records:
        try:
            fields = _FIELDS.unpack_from(data, 6)[1:]
            table = np.frombuffer(data, "<u2", fields[4] * fields[5], _TABLE)
        except (struct.error, ValueError) as error:
            raise ValueError(f"the table of tiles is cut: {error}") from error
        rows.append((*fields, _TABLE + 2 * len(table)))
        tables += [_NOTHING, table]
    facts = np.array(rows, np.int64)
    ends = np.cumsum(np.concatenate(tables), dtype=np.int64)
    count = facts[:, 4] * facts[:, 5]
    base = np.cumsum(count + 1) - count - 1
    lengths = ends[base + count] - ends[base]
    width, height, tile_width, tile_height, columns, num_rows, frame, scan, header = facts.T
    sound = (
        (width > 0) & (width <= columns * tile_width) & (height > 0) & (height <= num_rows * tile_height)
        & (header <= frame) & (frame < scan) & (scan + lengths == [len(data) for data in records])
        & (columns * tile_width <= _MAX_SIDE) & (num_rows * tile_height <= _MAX_SIDE)
        & (columns * tile_width * num_rows * tile_height <= MAX_PIXELS)
    )  # fmt: skip
    if not sound.all():
        raise ValueError("the table of tiles contradicts itself or the size of the file")
    return facts, ends, base


def _windows(facts: Integers, boxes: Sequence[Box]) -> Integers:
    """Return (first column, end column, first row, end row) of the tiles of each box, int64 (k, 4)."""
    left, top, width, height = np.array(boxes, np.int64).T
    first = np.maximum(left - _MARGIN, 0) // facts[:, 2]
    upper = np.maximum(top - _MARGIN, 0) // facts[:, 3]
    last = np.minimum(-(-(left + width + _MARGIN) // facts[:, 2]), facts[:, 4])
    lower = np.minimum(-(-(top + height + _MARGIN) // facts[:, 3]), facts[:, 5])
    return np.stack([first, last, upper, lower], axis=1)


def _join(
    records: Sequence[bytes | memoryview], facts: Integers, starts: Integers, stops: Integers, high: Integers,
    head: Integers,
) -> tuple[bytearray, Integers]:  # fmt: skip
    """Copy head and rows of each cut into one buffer; also return where each cut begins."""
    parts: list[bytes | memoryview] = []
    begins, ends, place = starts.tolist(), stops.tolist(), 0
    for data, count, header, scan in zip(
        records, high.tolist(), facts[:, _HEADER].tolist(), facts[:, 7].tolist(), strict=True
    ):
        parts += [b"\xff\xd8", data[header:scan]]
        parts += [data[a:b] for a, b in zip(begins[place : place + count], ends[place : place + count], strict=True)]
        place += count
    ranges = np.cumsum(high) - high
    sizes = np.add.reduceat(stops - starts, ranges) + head + 2
    return bytearray().join(parts), np.cumsum(sizes) - sizes


def _running(values: Integers, counts: Integers) -> Integers:
    """Return the sum of the values before each one, starting anew for each run of ``counts``."""
    sums = np.cumsum(values) - values
    return np.asarray(sums - np.repeat(sums[np.cumsum(counts) - counts], counts))


def _count_markers(
    out: bytearray, ends: Integers, before: Integers, after: Integers, row_place: Integers, tiles: Integers,
    row_image: Integers,
) -> None:  # fmt: skip
    """Number the restart markers of each cut 0 to 7 again and again, and end it with the end mark."""
    wide = after - before
    tile = np.arange(int(wide.sum())) - np.repeat(np.cumsum(wide) - wide, wide) + np.repeat(before, wide)
    places = ends[tile + 1] + np.repeat(row_place - ends[before], wide) - 1
    last = np.cumsum(tiles)
    number = np.arange(len(places)) - np.repeat(last - tiles, tiles)
    marks = (0xD0 + (number & 7)).astype(np.uint8)
    marks[last - 1] = 0xD9
    np.frombuffer(out, np.uint8)[places] = marks
