"""Formats are told by the first bytes: rare ones, unreadable ones, bombs."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pictures import (
    OTHERS,
    PHOTO,
    RGB,
    RGBA,
    chunk,
    difference,
    encode,
    exif_block,
    is_refused,
    on_white,
    pillow,
)
from PIL import Image, features

from saccade.data.audit.image import look
from saccade.data.images import decode
from saccade.data.images.decode import BadImage


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read_whatever_its_name() -> None:
    data = encode(RGB, "AVIF", quality=100)
    assert difference(data, pillow(data)) == 0
    assert (
        difference(
            encode(RGBA, "AVIF", quality=100),
            on_white(
                np.asarray(Image.open(io.BytesIO(encode(RGBA, "AVIF", quality=100)))).astype(
                    np.float64
                )
            ),
        )
        <= 1
    )
    assert (look(data, "a.jpg").form, look(data, "a.jpg").notes) == ("AVIF", ("wrong-extension",))
    turned = encode(RGB, "AVIF", exif=exif_block(6))
    assert decode.orientation(turned) == 6 and decode.decode(turned, exif="apply").shape == (
        71,
        53,
        3,
    )
    assert is_refused(data[: len(data) // 2])


def test_animations_give_their_first_frame() -> None:
    frames = [RGB, RGB.transpose(Image.Transpose.ROTATE_180)]
    for form, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert difference(data, PHOTO[..., :3].astype(np.int64)) == 0
    gif = encode(
        frames[0].quantize(16), "GIF", save_all=True, append_images=[frames[1].quantize(16)]
    )
    assert difference(gif, np.asarray(frames[0].quantize(16).convert("RGB")).astype(np.int64)) == 0


def test_portable_maps_with_comments_text_and_other_depths() -> None:
    gray = np.repeat(np.array([[1, 2], [3, 250]])[..., None], 3, 2)
    assert difference(b"P5 # made by hand\n2\t2 # size\n255\n\x01\x02\x03\xfa", gray) == 0
    assert difference(b"P2 2 2 255\n1 2 3 250\n", gray) == 0
    assert (
        difference(
            b"P5 2 2 15\n\x00\x05\x0a\x0f",
            np.repeat(np.array([[0, 85], [170, 255]])[..., None], 3, 2),
        )
        == 0
    )
    for bad in (
        b"P5 2 2 255\n\x01\x02\x03",
        b"P6 2 2 255\n" + bytes(11),
        b"P5 2 2",
        b"P5 0 2 255\n",
        b"P5 -2 2 255\n",
    ):
        with pytest.raises(BadImage):
            decode.decode(bad)


def test_the_name_plays_no_part_and_what_is_no_image_says_so() -> None:
    for bad in (
        b"",
        b"\0",
        b"<html><body>404</body></html>",
        b"%PDF-1.7",
        b"RIFF\0\0\0\0WAVEfmt ",
        bytes(1000),
    ):
        with pytest.raises(BadImage, match="not an image"):
            decode.decode(bad)
        with pytest.raises(BadImage, match="not an image"):
            decode.size(bad)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"PF\n2 2\n-1.0\n", "float PFM"),
        (b"v/1\x01\2\0\0\0", "float OpenEXR"),
        (b"\0\0\1\0\1\0\x10\x10", "Windows icon"),
    ],
)
def test_images_in_formats_that_are_not_read_are_named(head: bytes, name: str) -> None:
    with pytest.raises(
        BadImage, match=f"unsupported: a {name} image; save it as JPEG or PNG"
    ) as caught:
        decode.decode(head + bytes(100))
    assert caught.value.kind == look(head + bytes(100), "a.jpg").problem == "unsupported"


def test_jpeg_ls_is_not_called_damaged() -> None:
    with pytest.raises(BadImage, match="JPEG-LS"):
        decode.decode(b"\xff\xd8\xff\xf7\0\x0b\x08\0\4\0\4\1\1\x11\0" + bytes(50) + b"\xff\xd9")


def bombs() -> dict[str, bytes]:
    side = struct.pack(">II", 60000, 60000)
    png = OTHERS["PNG"]
    ihdr = chunk(b"IHDR", side + png[24:29])
    webp = (
        b"RIFF"
        + struct.pack("<I", 30)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\2\0\0\0"
        + b"\xff\x3f\0" * 2
    )
    lossless = encode(RGB, "WEBP", lossless=True)
    return {
        "PNG": png[:8] + ihdr + png[33:],
        "GIF": OTHERS["GIF"][:6] + struct.pack("<HH", 60000, 60000) + OTHERS["GIF"][10:],
        "BMP": OTHERS["BMP"][:18] + struct.pack("<II", 60000, 60000) + OTHERS["BMP"][26:],
        "WEBP animated": webp + bytes(30),
        "WEBP": OTHERS["WEBP"][:26] + struct.pack("<HH", 0x3FFF, 0x3FFF) + OTHERS["WEBP"][30:],
        "WEBP lossless": lossless[:21] + b"\xff\xff\xff\x0f" + lossless[25:],
        "PPM": b"P6 60000 60000 255\n" + bytes(100),
        "PPM as text": b"P3 60000 60000 255\n1 2 3",
        "a line of PPM": b"P6 170000000 1 255\n" + bytes(100),
    }


@pytest.mark.parametrize("kind", bombs())
def test_a_bomb_of_any_format_is_refused_from_its_header(kind: str) -> None:
    for call in (decode.decode, decode.size):
        with pytest.raises(BadImage, match="too large"):
            call(bombs()[kind])
