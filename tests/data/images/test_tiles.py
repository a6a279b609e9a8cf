"""Tiled JPEGs: cuts are the pixels of the whole, the table is believed only as far as it fits,
crops decode little.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saccade.data.images import crops, decode, tiles
from saccade.data.images.boxes import Box

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "gray")


def photo(width: int, height: int, seed: int = 0, detail: int = 9) -> np.ndarray:
    """Return smooth shapes with some noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(
        rng.integers(0, 256, (max(height // detail, 1), max(width // detail, 1), 3), dtype=np.uint8)
    )
    smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-12, 13, (height, width, 3)), 0, 255).astype(np.uint8)


def everything(which: list[int], sizes: np.ndarray) -> np.ndarray:
    """Choose the whole of each image."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1)[:, None]


def boxes_of(*boxes: Box) -> crops.Choose:
    """Choose these boxes in every image."""
    return lambda which, _sizes: np.array([boxes] * len(which))


def encoded(width: int, height: int, sampling: str, tile: int = 32) -> bytes:
    pixels = photo(width, height, width * height)
    return tiles.encode(pixels[..., 0].copy() if sampling == "gray" else pixels, 90, sampling, tile)


@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    sampling=st.sampled_from(SAMPLINGS),
    tile=st.sampled_from((8, 16, 32, 64)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_cut_has_the_pixels_of_the_whole(
    width: int,
    height: int,
    sampling: str,
    tile: int,
    corner: tuple[float, float],
    share: tuple[float, float],
) -> None:
    data = encoded(width, height, sampling, tile)
    whole = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    assert (
        tiles.size(data) == (width, height) and whole.shape[0] == height and whole.shape[1] >= width
    )
    left, top = int(corner[0] * (width - 1)), int(corner[1] * (height - 1))
    box = Box(
        left, top, 1 + int(share[0] * (width - left - 1)), 1 + int(share[1] * (height - top - 1))
    )
    cuts = tiles.Grids([data]).cut(np.array([box]))
    part = simplejpeg.decode_jpeg(cuts.data[0], "RGB", strict=True)
    ((across, down),) = cuts.corners
    inside = part[box.top - down :, box.left - across :][: box.height, : box.width]
    assert part.shape[1::-1] == tuple(cuts.sizes[0])
    assert np.array_equal(inside, whole[box.top :, box.left :][: box.height, : box.width])


def test_cuts_made_together_are_those_made_alone() -> None:
    files = [encoded(40 + 31 * i, 200 - 17 * i, SAMPLINGS[i % 4]) for i in range(9)]
    boxes = np.array([Box(i, 2 * i, 20 + 3 * i, 30) for i in range(9)])
    together = tiles.Grids(files).cut(boxes)
    for i, data in enumerate(files):
        alone = tiles.Grids([data]).cut(boxes[i : i + 1])
        assert bytes(together.data[i]) == bytes(alone.data[0]) and len(together.data[i]) < len(data)
        assert np.array_equal(together.corners[i], alone.corners[0])


def test_every_decoder_reads_a_tiled_file() -> None:
    data = encoded(97, 61, "4:2:0")
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (128, 61)  # the padding is there for decoders that do not know better
        assert np.array_equal(np.asarray(image)[:, :97], decode.decode(data))
    assert decode.size(data) == (97, 61) and decode.decode(data).shape == (61, 97, 3)


def test_a_tiled_file_keeps_its_orientation() -> None:
    data = tiles.encode(photo(50, 30), 90, "4:2:0", orientation=6)
    assert decode.orientation(data) == 6
    assert decode.decode(data, exif="apply").shape == (50, 30, 3) and decode.decode(data).shape == (
        30,
        50,
        3,
    )


def test_noise_that_is_larger_as_jpeg_than_as_pixels_is_encoded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    assert tiles.size(tiles.encode(noise, 100, "4:4:4")) == (300, 300)


def test_a_large_image_gets_wider_tiles_so_that_the_table_fits() -> None:
    data = tiles.encode(np.zeros((4000, 4400), np.uint8), 50, "4:4:4", 8)
    assert tiles.size(data) == (4400, 4000)
    cuts = tiles.Grids([data]).cut(np.array([[4000, 3900, 50, 50]]))
    assert simplejpeg.decode_jpeg(cuts.data[0], "GRAY", strict=True).shape[0] <= 64


@given(place=st.integers(14, 200), value=st.integers(0, 255))
def test_a_damaged_table_is_an_error_or_harmless_never_a_crash(place: int, value: int) -> None:
    data = bytearray(encoded(97, 61, "4:2:0"))
    data[place] = value
    try:
        (seen,) = crops.decode([bytes(data)], everything, 32, "ignore")
    except decode.BadImage:
        return
    assert seen[0].ndim == 3


def test_a_cut_off_file_is_named_as_damaged_among_good_ones() -> None:
    good, bad = encoded(97, 61, "4:2:0"), encoded(97, 61, "4:2:0")[:-40]
    seen = crops.decode([good, bad, good], everything, 32, "ignore")
    assert next(seen)[0].shape[0] == 61
    with pytest.raises(decode.BadImage, match="table"):
        next(seen)


def test_a_bomb_behind_a_table_is_refused_from_the_header() -> None:
    data = bytearray(tiles.encode(photo(64, 64), 90, "4:2:0", 64))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    data[16:18] = b"\xdc\xff"  # the table's height says the same
    with pytest.raises(decode.BadImage, match="contradicts the frame header"):
        decode.decode(bytes(data))
    with pytest.raises(decode.BadImage, match="contradicts itself"):
        next(crops.decode([bytes(data)], boxes_of(Box(0, 0, 10, 10)), 32, "ignore"))


def test_large_crops_are_decoded_reduced_and_look_the_same() -> None:
    data = tiles.encode(photo(400, 300, detail=40), 90, "4:2:0")
    plain = io.BytesIO()
    Image.fromarray(decode.decode(data)).save(plain, "JPEG", quality=97, subsampling="4:4:4")
    for file in (data, plain.getvalue()):
        ((reduced, (box,)),) = crops.decode([file], boxes_of(Box(30, 20, 301, 203)), 64, "ignore")
        reduced = reduced.copy()  # the next decode writes over it
        ((exact, (full,)),) = crops.decode([file], boxes_of(Box(30, 20, 301, 203)), 203, "ignore")
        assert full[2:] == [301, 203] and box[2:] == [150, 102]
        views = [
            np.asarray(
                Image.fromarray(p[top : top + height, left : left + width]).resize((64, 64))
            ).astype(int)
            for p, (left, top, width, height) in ((reduced, box), (exact, full))
        ]
        assert np.abs(views[0] - views[1]).mean() < 2.5
    ((tight, _),) = crops.decode([data], boxes_of(Box(30, 20, 190, 190)), 64, "ignore")
    assert tight.shape[0] >= 190, "a crop that is not 1.5 x 2 x 64 wide must not be reduced"


def test_copies_share_one_decode_and_lie_inside_it() -> None:
    data = encoded(200, 150, "4:2:0")
    boxes = [Box(10, 10, 60, 60), Box(80, 40, 70, 90)]
    ((pixels, inside),) = crops.decode([data], boxes_of(*boxes), 64, "ignore")
    whole = decode.decode(data)
    for box, moved in zip(boxes, inside, strict=True):
        expected = whole[box.top : box.top + box.height, box.left : box.left + box.width]
        left, top, width, height = moved
        assert np.array_equal(pixels[top : top + height, left : left + width], expected)
