"""The EXIF orientation: ignored unless applied, and never a reason to fail."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import (
    JPEG,
    OTHERS,
    RGB,
    encode,
    exif_block,
    segment,
)
from PIL import Image, ImageOps

from saccade.data.images import decode


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.fault("D1")
def test_exif_orientation_is_ignored_unless_applied(form: str, turn: int) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(RGB, form, exif=exif_block(turn), **options)
    assert decode.orientation(data) == turn
    assert np.array_equal(decode.decode(data), decode.decode(encode(RGB, form, **options)))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    applied = decode.decode(data, exif="apply")
    assert applied.shape == np.asarray(expected).shape and applied.flags.c_contiguous
    assert np.abs(applied.astype(int) - np.asarray(expected).astype(int)).max() <= 1


@given(
    st.binary(max_size=60),
    st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff", b""]),
)
def test_a_broken_exif_block_turns_nothing(junk: bytes, start: bytes) -> None:
    data = JPEG[:2] + segment(0xE1, b"Exif\0\0" + start + junk) + JPEG[2:]
    assert 1 <= decode.orientation(data) <= 8
    assert np.array_equal(decode.decode(data), decode.decode(JPEG))


def test_images_without_exif_are_upright() -> None:
    assert [decode.orientation(data) for data in (JPEG, *OTHERS.values())] == [1] * (
        1 + len(OTHERS)
    )
