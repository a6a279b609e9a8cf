"""TIFF: the pixels that the file holds, by construction, or the word "unsupported"; never other
pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saccade.data.audit.image import look
from saccade.data.images import decode
from saccade.data.images.decode import BadImage

HEIGHT, WIDTH = 9, 13
RNG = np.random.default_rng(3)
SHORT, LONG = 3, 4
BITS, COLOUR, FILL, OFFSETS, SAMPLES, COUNTS, PLANAR, MAP, EXTRA, FORMAT = (
    258,
    262,
    266,
    273,
    277,
    279,
    284,
    320,
    338,
    339,
)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3


def tiff(
    samples: NDArray[Any], bits: int, colour: int, order: str = "<", **more: Sequence[int]
) -> bytes:
    """Write an uncompressed TIFF of one strip by hand.

    ``samples`` are (H, W, s), or (s, H, W) with PLANAR (2,).
    """
    planar = more.get("PLANAR", (1,)) == (2,)
    count = samples.shape[0 if planar else 2]
    rows = samples.reshape(-1, WIDTH * (1 if planar else count))
    if bits in (8, 16, 32, 64):
        kind = {"f": "f", "i": "i", "u": "u"}[samples.dtype.kind]
        data = rows.astype(f"{order}{kind}{bits // 8}").tobytes()
    else:
        places = 1 << np.arange(bits - 1, -1, -1)
        data = b"".join(np.packbits((row[:, None] & places > 0).ravel()).tobytes() for row in rows)
    strips = count if planar else 1
    size = len(data) // strips
    tags = {
        256: (WIDTH,),
        257: (HEIGHT,),
        BITS: (bits,) * count,
        259: (1,),
        COLOUR: (colour,),
        SAMPLES: (count,),
    }
    tags |= {globals()[name]: tuple(value) for name, value in more.items()}
    tags |= {OFFSETS: (0,) * strips, COUNTS: (size,) * strips}
    place = 8 + 2 + 12 * len(tags) + 4 + sum(4 * len(v) for v in tags.values())
    tags[OFFSETS] = tuple(place + k * size for k in range(strips))
    entries, beyond = b"", b""
    for tag, values in sorted(tags.items()):
        kind = LONG if tag in (OFFSETS, COUNTS) else SHORT
        raw = struct.pack(order + ("I" if kind == LONG else "H") * len(values), *values)
        if len(raw) > 4:
            raw, beyond = (
                struct.pack(order + "I", 8 + 2 + 12 * len(tags) + 4 + len(beyond)),
                beyond + raw,
            )
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return (head + entries + bytes(4) + beyond).ljust(place, b"\0") + data


def outcome(data: bytes) -> NDArray[np.int64] | str:
    """Return the pixels, or ``unsupported``; the verdict of the survey must be the same."""
    seen = look(data, "a.tif")
    if not seen.problem:
        return decode.decode(data).astype(np.int64)
    with pytest.raises(BadImage) as caught:
        decode.decode(data)
    assert caught.value.kind == seen.problem
    return seen.problem


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("colour", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
def test_gray_is_what_the_file_holds_or_unsupported(bits: int, colour: int, order: str) -> None:
    largest = (1 << min(bits, 31)) - 1
    values = RNG.integers(0, largest, (HEIGHT, WIDTH, 1), np.uint32, endpoint=True).astype(np.int64)
    seen = outcome(tiff(values.astype(np.uint32), bits, colour, order))
    if bits in (12, 32) or (bits, colour, order) == (16, WHITE_IS_ZERO, ">"):
        assert isinstance(seen, str) and seen == "unsupported"
    else:
        light = values if colour == BLACK_IS_ZERO else largest - values
        expected = light >> 8 if bits == 16 else light * 255 // largest
        assert np.array_equal(seen, np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_lie_pixel_by_pixel_or_plane_by_plane(bits: int, order: str) -> None:
    values = RNG.integers(0, 1 << bits, (HEIGHT, WIDTH, 3)).astype(np.uint32)
    expected = values >> bits - 8
    assert np.array_equal(outcome(tiff(values, bits, RGB, order)), expected)
    seen = outcome(tiff(values.transpose(2, 0, 1), bits, RGB, order, PLANAR=(2,)))
    assert np.array_equal(seen, expected) if bits == 8 else seen == "unsupported"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_have_16_bits_and_others_are_not_made_black(bits: int) -> None:
    values = RNG.integers(0, 1 << bits, (HEIGHT, WIDTH, 1)).astype(np.uint32)
    colours = RNG.integers(256, 65536, (3, 1 << bits))
    expected = (colours >> 8)[:, values[..., 0]].transpose(1, 2, 0)
    assert np.array_equal(
        outcome(tiff(values, bits, PALETTE, MAP=colours.ravel().tolist())), expected
    )
    assert (
        outcome(tiff(values, bits, PALETTE, MAP=(colours >> 8).ravel().tolist())) == "unsupported"
    )


@pytest.mark.parametrize(
    ("kind", "bits", "form"),
    [
        ("f", 16, 3),
        ("f", 32, 3),
        ("f", 64, 3),
        ("i", 8, 2),
        ("i", 16, 2),
        ("i", 32, 2),
        ("u", 64, 1),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_numbers_that_are_no_levels_are_unsupported(
    kind: str, bits: int, form: int, count: int
) -> None:
    values = RNG.integers(0, 100, (HEIGHT, WIDTH, count)).astype(
        {"f": "f8", "i": "i8", "u": "u8"}[kind]
    )
    assert (
        outcome(tiff(values, bits, RGB if count == 3 else BLACK_IS_ZERO, FORMAT=(form,) * count))
        == "unsupported"
    )


def test_alpha_beside_gray_is_composited_or_unsupported() -> None:
    values = RNG.integers(0, 256, (HEIGHT, WIDTH, 2)).astype(np.uint32)
    gray, alpha = values[..., :1], values[..., 1:] / 255
    seen = outcome(tiff(values, 8, BLACK_IS_ZERO, EXTRA=(2,)))
    assert (
        not isinstance(seen, str) and np.abs(seen - (gray * alpha + 255 * (1 - alpha))).max() <= 1
    )
    assert outcome(tiff(values, 16, BLACK_IS_ZERO, EXTRA=(2,))) == "unsupported"
    assert (
        outcome(tiff(values.transpose(2, 0, 1), 8, BLACK_IS_ZERO, PLANAR=(2,), EXTRA=(2,)))
        == "unsupported"
    )


def test_the_reason_names_what_the_file_is() -> None:
    data = tiff(RNG.random((HEIGHT, WIDTH, 3)), 32, RGB, FORMAT=(3, 3, 3))
    with pytest.raises(
        BadImage, match="unsupported TIFF: 3 x 32 bits float, RGB; save it as 8 bits, or as PNG"
    ):
        decode.decode(data)
    big = b"MM\0+\0\x08\0\0" + bytes(30)
    with pytest.raises(BadImage, match="BigTIFF in big-endian order"):
        decode.decode(big)
    assert outcome(data[:40]) in ("damaged", "truncated")
