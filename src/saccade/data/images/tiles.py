"""The tiled JPEG: a baseline JPEG of independent tiles, which are cut out by copying bytes.

After each restart marker the entropy coder starts anew. With a restart interval that divides the
padded width, the file is a grid of tiles, one interval wide and one row of MCUs high. A table of
their lengths, in an APP15 segment at the start of the file, makes a cut a matter of a few slices:
the header with another width and height, the wanted tiles with their markers counted anew, and the
end mark. Every decoder reads the whole file, and every decoder reads a cut.

*Source:* ITU-T T.81, annexes B.2.1 (restart intervals) and E.1.4 (the coder's state at a restart).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from saccade.data.images.limits import MAX_PIXELS

MAGIC = b"SACTILE1"
DEFAULT_TILE = 32

_START = b"\xff\xd8\xff\xef"
_FIELDS = struct.Struct("<8s6HII")
_SIZE = struct.Struct("<HH")
_SIZE_IN_FRAME = struct.Struct(">HH")
_FRAME_SIZE = 5  # bytes from the marker of the frame header to the size in it
_TABLE = 6 + _FIELDS.size
# in the fields of a table, the header's place behind them
_COLUMNS, _ROWS, _FRAME, _SCAN, _HEADER = 4, 5, 6, 7, 8
_MAX_SIDE = 65535 + DEFAULT_TILE
_MAX_TILES = (65533 - _FIELDS.size) // 2
_MCU = {"4:4:4": (8, 8), "4:2:2": (16, 8), "4:2:0": (16, 16), "gray": (8, 8)}
# chroma upsampling looks at the neighbouring pixel, which the edge of a cut does not have
_MARGIN = 1

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
_LENGTHS = np.dtype("<u2")
_NOTHING = np.zeros(1, _LENGTHS)
_NO_TABLE = (0,) * 9
_START_OF_IMAGE = b"\xff\xd8"
_MARKS = np.resize(np.arange(0xD0, 0xD8, dtype=np.uint8), 8 + _MAX_SIDE // 8)


class Cuts(NamedTuple):
    """Rectangles of tiles as JPEGs of their own, slices of one buffer.

    ``corners`` are their places (left, top) in the images and ``sizes`` their (width, height),
    int64 (k, 2), pixels.
    """

    data: list[memoryview]
    corners: Integers
    sizes: Integers


def is_tiled(data: bytes | memoryview) -> bool:
    """Tell from the first bytes whether a file has a table of tiles."""
    head = bytes(data[:14])  # bytes compare ten times faster than views of memory
    return head.startswith(_START) and head.endswith(MAGIC)


def encode(
    pixels: Pixels, quality: int, sampling: str, tile: int = DEFAULT_TILE, orientation: int = 1
) -> bytes:
    """Encode an image as a tiled JPEG.

    ``pixels`` is uint8 (height, width, 3), or (height, width) for gray; ``quality`` is libjpeg's, 1
    to 100; ``sampling`` is ``4:4:4``, ``4:2:2`` or ``4:2:0``; ``tile`` is the width of a tile in
    pixels, made larger where the table would not fit into its segment; ``orientation`` is written
    as the EXIF tag unless it is 1.
    """
    mcu_width, mcu_height = _MCU["gray" if pixels.ndim == 2 else sampling]
    height, width = pixels.shape[:2]
    rows = -(-height // mcu_height)
    blocks = max(tile // mcu_width, 1)

    # The table has room for so many lengths and no more: a JPEG segment is at most 64 kB.
    while rows * -(-width // (blocks * mcu_width)) > _MAX_TILES:
        blocks *= 2
    columns = -(-width // (blocks * mcu_width))

    # Whole tiles only: restart markers count blocks across the ends of rows.
    padding = [(0, 0), (0, columns * blocks * mcu_width - width), *[(0, 0)] * (pixels.ndim - 2)]
    padded = np.pad(pixels, padding, "edge")
    # Pillow's guess at the size of the output is too small for noise, and libjpeg cannot wait for a
    # larger buffer
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 2 * padded.size)
    buffer = io.BytesIO()
    options: dict[str, Any] = {} if pixels.ndim == 2 else {"subsampling": sampling}
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation

    # A restart marker after each tile: from there on it decodes without its neighbours.
    Image.fromarray(padded).save(
        buffer, "JPEG", quality=quality, optimize=True, restart_marker_blocks=blocks, **options
    )
    return _with_table(
        buffer.getvalue(), (width, height), (blocks * mcu_width, mcu_height), (columns, rows)
    )


def _with_table(
    plain: bytes, size: tuple[int, int], tile: tuple[int, int], grid: tuple[int, int]
) -> bytes:
    """Insert the table behind the start mark.

    The lengths come from the restart markers in the file.
    """
    # Inside the scan a byte FF is followed by 0, so what looks like a marker is one.
    frame, scan = _landmarks(plain)
    values = np.frombuffer(plain, np.uint8)
    after = values[scan + 1 :]
    markers = (
        np.flatnonzero((values[scan:-1] == 0xFF) & (after >= 0xD0) & (after <= 0xD9)) + scan + 2
    )
    lengths = np.diff(markers, prepend=scan)
    assert len(lengths) == grid[0] * grid[1] and markers[-1] == len(plain), (
        "libjpeg wrote a different grid"
    )

    # The table stands in front of the header and moves it: all offsets in it are shifted.
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
    """Return (width, height) in pixels of the image in a tiled JPEG, without the padding.

    Raises ValueError.
    """
    try:
        width, height = _SIZE.unpack_from(data, 14)
    except struct.error as error:
        raise ValueError("the table of tiles is truncated") from error
    if not width or not height:
        raise ValueError("the table of tiles says that there are no pixels")
    return width, height


class Grids:
    """The grids of tiles of some tiled JPEGs, read together because numpy costs by the call.

    ``sizes`` are (width, height) in pixels without the padding, int64 (k, 2). ``sound`` says, bool
    (k,), whose table agrees with itself and with the size of its file.
    """

    def __init__(self, records: Sequence[bytes | memoryview]) -> None:
        """Read the tables of k records."""
        tables = [_table(data) for data in records]
        facts = np.array([fields for fields, _ in tables], np.int64)
        count = facts[:, _COLUMNS] * facts[:, _ROWS]
        ends = np.cumsum(
            np.concatenate([part for _, lengths in tables for part in (_NOTHING, lengths)]),
            dtype=np.int64,
        )
        base = np.cumsum(count + 1) - count - 1

        # A record is whole when header and tiles add up to its length.
        whole = facts[:, _SCAN] + ends[base + count] - ends[base]
        self.sound: NDArray[np.bool_] = whole == [len(data) for data in records]
        self.sizes = facts[:, :2]
        self._records, self._facts, self._ends, self._base = records, facts, ends, base

    def cut(self, boxes: Integers) -> Cuts:
        """Cut out the tiles that the box of each record touches.

        They decode to the very pixels of the whole.

        ``boxes`` are in pixels of the images, int64 (k, 4) as in ``Box``. One pixel around each is
        included: inside the box the pixels are those of a full decode bit for bit. Every table must
        be sound.
        """
        assert self.sound.all()
        facts, ends = self._facts, self._ends
        tile, columns, scan = facts[:, 2:4], facts[:, _COLUMNS], facts[:, _SCAN]

        # The first and last tile of each box, with the margin, in tiles across and down.
        first = np.maximum(boxes[:, :2] - _MARGIN, 0) // tile
        last = np.minimum(
            -(-(boxes[:, :2] + boxes[:, 2:] + _MARGIN) // tile), facts[:, _COLUMNS : _ROWS + 1]
        )
        wide, high = (last - first).T

        # From here on one entry for each row of tiles of each cut: k cuts, n rows in all.
        image = np.repeat(np.arange(len(facts)), high)  # of each row of tiles
        row = np.arange(len(image)) - (np.cumsum(high) - high)[image]
        before = (self._base + first[:, 1] * columns + first[:, 0])[image] + row * columns[image]
        starts, stops = ends[before], ends[before + wide[image]]
        origin = (scan - ends[self._base])[image]

        # Each cut begins with the header of its record, without the table of tiles.
        head = scan - facts[:, _HEADER] + len(_START_OF_IMAGE)
        written = np.cumsum(stops - starts)
        cut_ends = np.cumsum(head) + written[np.cumsum(high) - 1]
        out = np.empty(cut_ends[-1], np.uint8)
        data = self._copy(
            out,
            (starts + origin).tolist(),
            (stops + origin).tolist(),
            high=high.tolist(),
            cut_ends=cut_ends.tolist(),
        )
        # from the running sum of lengths to the place in ``out``
        moved = np.cumsum(head)[image] + written - stops
        _count_markers(out, ends, before, wide=wide[image], moved=moved, row=row)

        # The frame header says the size of the cut instead of that of the image.
        corners = first * tile
        sizes = last * tile - corners
        sizes[:, 1] = np.minimum(sizes[:, 1], facts[:, 1] - corners[:, 1])
        frames = (head + facts[:, _FRAME] - scan + _FRAME_SIZE).tolist()
        for cut, frame, (width, height) in zip(data, frames, sizes.tolist(), strict=True):
            _SIZE_IN_FRAME.pack_into(cut, frame, height, width)
        return Cuts(data, corners, sizes)

    def _copy(
        self, out: Pixels, starts: list[int], stops: list[int], high: list[int], cut_ends: list[int]
    ) -> list[memoryview]:
        """Copy the header and the rows of tiles of each cut into ``out``, uint8 (n,).

        Return where the cuts lie.
        """
        room, place, cuts = out.data, 0, []
        rows = map(slice, starts, stops)
        headers = self._facts[:, _SCAN:].tolist()
        for data, count, (scan, header), end in zip(
            self._records, high, headers, cut_ends, strict=True
        ):
            cut = room[place:end]
            cut[:] = b"".join(
                (_START_OF_IMAGE, data[header:scan], *[data[row] for row in islice(rows, count)])
            )
            cuts.append(cut)
            place = end
        return cuts


def _table(data: bytes | memoryview) -> tuple[Sequence[int], NDArray[np.uint16]]:
    """Return the fields of a table, the header's offset behind it as the last, and tile lengths."""
    if len(data) >= _TABLE:
        width, height, tile_width, tile_height, columns, rows, frame, scan = _FIELDS.unpack_from(
            data, 6
        )[1:]
        header = _TABLE + 2 * columns * rows
        if (
            0 < width <= columns * tile_width <= _MAX_SIDE
            and 0 < height <= rows * tile_height <= _MAX_SIDE
            and columns * tile_width * rows * tile_height <= MAX_PIXELS
            and header <= frame <= scan - _FRAME_SIZE - 4
        ):
            fields = width, height, tile_width, tile_height, columns, rows, frame, scan, header
            return fields, np.frombuffer(data, _LENGTHS, columns * rows, _TABLE)
    return _NO_TABLE, _NOTHING[:0]


def _count_markers(
    out: Pixels, ends: Integers, before: Integers, wide: Integers, moved: Integers, row: Integers
) -> None:
    """Number the restart markers of each cut 0 to 7 again and again, and end it with the end mark.

    All arrays speak of the n rows of tiles: ``before`` is the place of a row in the running sums
    ``ends``, ``wide`` its tiles, ``moved`` the way from those sums to places in ``out``, ``row``
    its number in its cut. Rows are filled up to the longest with their last tile, whose number is
    then written several times.
    """
    tile = np.minimum(np.arange(wide.max()), wide[:, None] - 1)
    places = ends[tile + (before + 1)[:, None]] + (moved - 1)[:, None]
    out[places] = _MARKS[tile + (row * wide & 7)[:, None]]
    out[places[np.append(row[1:] == 0, True), -1]] = 0xD9
