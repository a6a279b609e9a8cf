"""Pictures of a look lie where they belong, in their own colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from saccade.training.picturing import GAP, sheet


@pytest.mark.parametrize(("count", "side", "shown"), [(2, 64, 128), (5, 96, 96), (5, 200, 200)])
def test_an_image_is_a_row_and_more_than_three_are_two_blocks(
    count: int, side: int, shown: int
) -> None:
    draws = np.random.default_rng(0).integers(0, 255, (count, 4, 1, 1, 3)).astype(np.uint8)
    images = np.broadcast_to(draws, (count, 4, side, side, 3))
    with Image.open(io.BytesIO(sheet(images))) as opened:
        pixels = np.asarray(opened)

    rows, blocks = (count, 1) if count < 4 else (3, 2)
    step = shown + GAP
    assert pixels.shape == (rows * step - GAP, blocks * 4 * step + (blocks - 1) * 3 * GAP - GAP, 3)
    for number in range(count):
        block, row = divmod(number, rows)
        for column in range(4):
            left, top = (block * 4 + column) * step + block * 3 * GAP, row * step
            tile = pixels[top : top + shown, left : left + shown]
            assert (tile == draws[number, column, 0, 0]).all()
    assert (pixels[:, shown : shown + GAP] == 255).all()
