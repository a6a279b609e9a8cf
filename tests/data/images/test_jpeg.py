"""JPEG: every sampling and every old header that libjpeg reads is read.

What it cannot is called unsupported.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from saccade.data.audit.image import look
from saccade.data.images import crops, decode, jpeg, limits
from saccade.data.images.decode import BadImage

WIDTH, HEIGHT = 75, 59
Factors = tuple[tuple[int, int], ...]
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
GRAY: Factors = ((1, 1),)
USUAL: Factors = ((2, 2), (1, 1), (1, 1))


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def encode(
    factors: Factors,
    *,
    jfif: bytes = JFIF,
    adobe: int | None = None,
    frame: int = 0xC0,
    restart: int = 0,
    scans: Sequence[Sequence[int]] | None = None,
    bounds: bytes = b"\0\x3f\0",
) -> bytes:
    """Write a JPEG of flat random blocks by hand: the means have codes of four bits, nothing
    else is there.
    """
    levels = np.random.default_rng(5)
    across, down = (max(sides) for sides in zip(*factors, strict=True))
    count = len(factors)
    listed = b"".join(bytes((i, 16 * f[0] + f[1], 0)) for i, f in enumerate(factors))
    out = b"\xff\xd8" + segment(0xE0, jfif) + segment(0xDB, b"\0" + bytes([8] * 64))
    if adobe is not None:
        out += segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([adobe]))
    out += segment(frame, struct.pack(">BHHB", 8, HEIGHT, WIDTH, count) + listed)
    out += segment(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12)))
    out += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    out += segment(0xDD, struct.pack(">H", restart)) if restart else b""
    for scan in scans or [range(count)]:
        out += segment(0xDA, bytes([len(scan)]) + b"".join(bytes((c, 0)) for c in scan) + bounds)
        if len(scan) == 1:
            one = factors[scan[0]]
            wide, high = -(-WIDTH * one[0] // (8 * across)), -(-HEIGHT * one[1] // (8 * down))
            blocks = [[scan[0]]] * (wide * high)
        else:
            step = [c for c in scan for _ in range(factors[c][0] * factors[c][1])]
            blocks = [step] * (-(-WIDTH // (8 * across)) * -(-HEIGHT // (8 * down)))
        out += entropy(blocks, levels, restart)
    return out + b"\xff\xd9"


def entropy(blocks: list[list[int]], levels: np.random.Generator, restart: int) -> bytes:
    out, bits, before = b"", "", [0] * 4
    for k, step in enumerate(blocks):
        if restart and k and k % restart == 0:
            out, bits, before = (
                out + whole_bytes(bits) + bytes((0xFF, 0xD0 + (k // restart - 1) % 8)),
                "",
                [0] * 4,
            )
        for c in step:
            level = int(levels.integers(-90, 91))
            change, before[c] = level - before[c], level
            size = abs(change).bit_length()
            value = change if change >= 0 else change + (1 << size) - 1
            bits += f"{size:04b}" + (f"{value:0{size}b}" if size else "") + "0"
    return out + whole_bytes(bits)


def whole_bytes(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def pillow(data: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)


def in_training(data: bytes, side: int) -> tuple[NDArray[np.int64], list[int]]:
    """Return what training decodes of a file for a crop of everything, and where the crop is in
    it.
    """
    ((pixels, (box,)),) = crops.decode(
        [data], lambda _which, sizes: np.array([[[0, 0, *s]] for s in sizes]), side, "ignore"
    )
    return pixels.astype(np.int64), box


SIDES = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (1, 4), (3, 1), (3, 3), (4, 4)]
KINDS: list[Factors] = [
    *[(one,) for one in SIDES],
    *[(one, (1, 1), (1, 1)) for one in SIDES if one[0] * one[1] <= 8],
    ((2, 1), (1, 2), (1, 1)),
    ((2, 2), (2, 1), (1, 1)),
    ((1, 1), (1, 1), (2, 1)),
    ((1, 1), (2, 2), (2, 2)),
    ((2, 2), (1, 2), (1, 2)),
    ((3, 1), (1, 1), (3, 1)),
    ((1, 2), (1, 1), (1, 2)),
    *[(one, (1, 1), (1, 1), one) for one in SIDES[:5]],
]


@pytest.mark.parametrize("factors", KINDS, ids=str)
def test_every_sampling_that_libjpeg_knows_is_read_alike_in_training_and_evaluation(
    factors: Factors,
) -> None:
    data = encode(factors, adobe=2 if len(factors) == 4 else None)
    seen = decode.decode(data).astype(np.int64)
    assert seen.shape == (HEIGHT, WIDTH, 3) and np.abs(seen - pillow(data)).max() <= 1
    assert look(data, "a.jpg").problem == ""
    pixels, box = in_training(data, HEIGHT)
    assert np.array_equal(pixels, seen) and box == [0, 0, WIDTH, HEIGHT]
    halved, box = in_training(data, 12)
    # the decoder gave half the sides: the very pixels of its full decode, averaged
    if halved.shape != seen.shape:
        assert box == [0, 0, *halved.shape[1::-1]]
        assert (
            np.abs(halved - np.asarray(Image.fromarray(seen.astype(np.uint8)).reduce(2))).mean() < 8
        )


@pytest.mark.parametrize(
    "factors",
    [((3, 1), (2, 1), (1, 1)), ((4, 4), (1, 1), (1, 1)), ((3, 2), (2, 2), (1, 1))],
    ids=str,
)
def test_sampling_that_libjpeg_does_not_know_is_unsupported(factors: Factors) -> None:
    refused(encode(factors), "sampling factors")


def refused(data: bytes, reason: str, kind: str = "unsupported") -> None:
    for call in (decode.decode, lambda file: in_training(file, 12)):
        with pytest.raises(BadImage, match=reason) as caught:
            call(data)
        assert caught.value.kind == kind
    assert look(data, "a.jpg").problem == kind


@pytest.mark.parametrize("factors", [USUAL, ((4, 2), (1, 1), (1, 1)), GRAY], ids=str)
def test_old_headers_change_no_pixel(factors: Factors) -> None:
    expected = decode.decode(encode(factors))
    colour = {} if len(factors) == 1 else {"adobe": 77}
    for data in (
        encode(factors, jfif=b"JFIF\0\0\0\0\0\1\0\1\0\0"),
        encode(factors, jfif=b"JFIF\0\x09\x09\0\0\1\0\1\0\0"),
        encode(factors, bounds=b"\0\0\0"),
        encode(factors, jfif=b"JFIF\0\0\0\0\0\1\0\1\0\0", bounds=b"\1\2\3", **colour),
        encode(factors, restart=1),
        encode(factors, restart=3),
    ):
        assert np.array_equal(decode.decode(data), expected)
        assert np.array_equal(in_training(data, HEIGHT)[0], expected)
        assert look(data, "a.jpg").problem == ""


def test_scans_of_one_component_each_are_read() -> None:
    for factors in (USUAL, ((4, 2), (1, 1), (1, 1))):
        data = encode(factors, scans=[[0], [1], [2]], bounds=b"\0\0\0")
        assert np.array_equal(decode.decode(data), pillow(data))


def test_an_old_header_does_not_hide_damage() -> None:
    for factors in (USUAL, ((4, 2), (1, 1), (1, 1))):
        data = encode(factors, jfif=b"JFIF\0\0\0\0\0\1\0\1\0\0")
        refused(data[:-60], "truncated", "truncated")
    data = encode(USUAL, jfif=b"JFIF\0\0\0\0\0\1\0\1\0\0")
    refused(data[:-60] + b"\xff\xd9", "premature end", "damaged")


def test_what_no_decoder_here_knows_is_unsupported_and_not_damaged() -> None:
    data = encode(USUAL)
    place = data.index(b"\xff\xc0")
    refused(data[: place + 4] + b"\x0c" + data[place + 5 :], "precision 12")
    refused(
        data[: place + 5] + b"\0\0" + data[place + 7 : -2] + b"\xff\xdc\0\x04\0\x3b\xff\xd9", "DNL"
    )
    for frame in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
        refused(encode(USUAL, frame=frame), "hierarchical")
    for frame in (0xC3, 0xCB):
        refused(encode(USUAL, frame=frame), "Unsupported")


def test_scans_over_many_pixels_are_counted_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rough = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    )
    buffer = io.BytesIO()
    rough.save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scans = jpeg.count_scans(data)
    assert scans == 10
    monkeypatch.setattr(limits, "MAX_SCANNED", WIDTH * HEIGHT * scans)
    assert decode.decode(data).shape == (HEIGHT, WIDTH, 3)
    last = data.rindex(b"\xff\xda")
    refused(data[:-2] + data[last:], "too large: 11 scans", "too-large")
