"""From bytes to RGB: one policy for every format, and nothing damaged or oversized gets through."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import (
    JPEG,
    JPEGS,
    OTHERS,
    PHOTO,
    RGB,
    RGBA,
    RNG,
    SAMPLES,
    chunk,
    difference,
    encode,
    is_refused,
    on_white,
    pillow,
    png16,
    segment,
    with_header_size,
)
from PIL import Image, ImageFile

from saccade.data.audit.image import look
from saccade.data.images import decode, jpeg
from saccade.data.images.decode import BadImage
from saccade.errors import ConfigError


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.fault("D1")
def test_every_kind_of_jpeg_decodes_as_pillow_does(kind: str) -> None:
    assert difference(JPEGS[kind], pillow(JPEGS[kind])) <= 1
    view = memoryview(bytearray(JPEGS[kind])).toreadonly()
    assert np.array_equal(decode.decode(view), decode.decode(JPEGS[kind]))


def test_probe_reads_what_the_header_says() -> None:
    assert jpeg.probe(JPEG) == jpeg.Header(71, 53, 3, 8, False, -1, 0, b"\x22\x11\x11")
    assert jpeg.probe(JPEGS["progressive"]).progressive
    assert jpeg.probe(JPEGS["gray"]).components == 1
    assert (jpeg.probe(JPEGS["CMYK"]).cmyk, jpeg.probe(JPEGS["CMYK"]).adobe) == (True, 0)
    assert jpeg.probe(JPEGS["YCCK"]).adobe == 2
    filled = JPEG[:2] + b"\xff\xff\xff" + JPEG[2:]
    assert jpeg.probe(filled)[:2] == (71, 53)


def test_probe_refuses_everything_that_ends_before_the_frame_header() -> None:
    end = JPEG.index(b"\xff\xc0") + 10
    assert jpeg.probe(JPEG[:end]).width == 71
    for length in range(end):
        with pytest.raises(ValueError, match=r"not a JPEG|before the frame header"):
            jpeg.probe(JPEG[:length])
    for body in (b"\xff\xda" + bytes(20), b"\xff\xd9" + bytes(20), b"abc" + JPEG[2:]):
        with pytest.raises(ValueError, match="frame header"):
            jpeg.probe(b"\xff\xd8" + body)


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "gray", "true CMYK"])
@pytest.mark.fault("D3")
def test_a_damaged_jpeg_is_refused(kind: str) -> None:
    data = JPEGS[kind]
    cuts = {f"cut at {p} %": data[: len(data) * p // 100] for p in range(1, 100, 7)}
    damages = cuts | {
        "no end marker": data[:-2],
        "end marker overwritten": data[:-2] + b"\0\0" + bytes(100),
        "height doubled": with_header_size(data, 71, 106),
        "no width": with_header_size(data, 0, 53),
        "no height": with_header_size(data, 71, 0),
        "12 bits": data.replace(b"\x08\x00\x35\x00\x47", b"\x0c\x00\x35\x00\x47"),
    }
    accepted = [damage for damage, bad in damages.items() if not is_refused(bad)]
    assert accepted == []


@pytest.mark.fault("D3")
def test_garbage_after_the_end_of_a_jpeg_changes_nothing() -> None:
    assert np.array_equal(decode.decode(JPEG + b"garbage" * 200), decode.decode(JPEG))


def test_a_jpeg_with_two_components_is_refused() -> None:
    frame = segment(0xC0, b"\x08\x00\x08\x00\x08\x02" + b"\x01\x11\x00\x02\x11\x00")
    with pytest.raises(BadImage, match="2 components"):
        decode.decode(b"\xff\xd8" + frame + b"\xff\xd9")


@pytest.mark.parametrize("call", [decode.decode, decode.size])
@pytest.mark.fault("D4")
def test_a_header_bomb_is_refused_without_memory(call: Callable[[bytes], object]) -> None:
    bomb = with_header_size(encode(RGB.resize((1000, 1000)), "JPEG"), 65500, 65500)
    tracemalloc.start()
    with pytest.raises(BadImage, match="too large: the header says 65500 x 65500"):
        call(bomb)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("image", "form", "options", "expected", "tolerance"),
    [
        (RGB, "PNG", {}, RGB, 0),
        (RGB.convert("L"), "PNG", {}, RGB.convert("L").convert("RGB"), 0),
        (RGB.convert("1"), "PNG", {}, RGB.convert("1").convert("RGB"), 0),
        (RGB.quantize(16), "PNG", {}, RGB.quantize(16).convert("RGB"), 0),
        (RGB, "BMP", {}, RGB, 0),
        (RGB.convert("L"), "BMP", {}, RGB.convert("L").convert("RGB"), 0),
        (RGB, "TIFF", {}, RGB, 0),
        (RGB, "TIFF", {"compression": "tiff_lzw"}, RGB, 0),
        (RGB.convert("CMYK"), "TIFF", {}, RGB.convert("CMYK").convert("RGB"), 0),
        (RGB, "WEBP", {"lossless": True}, RGB, 0),
        (RGB, "PPM", {}, RGB, 0),
        (RGB.convert("L"), "PPM", {}, RGB.convert("L").convert("RGB"), 0),
        (RGB.quantize(16), "GIF", {}, RGB.quantize(16).convert("RGB"), 0),
    ],
)
def test_opaque_images_keep_their_colours(
    image: Image.Image, form: str, options: dict[str, Any], expected: Image.Image, tolerance: int
) -> None:
    assert (
        difference(encode(image, form, **options), np.asarray(expected).astype(np.int64))
        <= tolerance
    )


def transparent_palette(form: str) -> bytes:
    palette = RGB.quantize(8)
    return encode(
        palette, form, transparency=int(np.bincount(np.asarray(palette).ravel()).argmax())
    )


@pytest.mark.parametrize(
    "data",
    [
        encode(RGBA, "PNG"),
        encode(RGBA, "WEBP", lossless=True, exact=True),
        encode(RGBA, "TIFF"),
        encode(RGBA.convert("LA"), "PNG"),
        encode(RGB, "PNG", transparency=tuple(PHOTO[3, 4, :3].tolist())),
        encode(RGB.convert("L"), "PNG", transparency=int(np.asarray(RGB.convert("L"))[3, 4])),
        encode(RGB.quantize(8), "PNG", transparency=bytes(range(0, 256, 32))),
        transparent_palette("PNG"),
        transparent_palette("GIF"),
    ],
    ids=[
        "PNG",
        "WebP",
        "TIFF",
        "gray",
        "key colour",
        "key gray",
        "palette of alphas",
        "palette PNG",
        "palette GIF",
    ],
)
@pytest.mark.fault("D1")
def test_transparency_is_composited_on_white(data: bytes) -> None:
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(np.float64)
    assert (rgba[..., 3] < 255).any()
    assert difference(data, on_white(rgba)) <= 1


DEEP = RNG.integers(0, 65536, (5, 6, 4))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png16(DEEP[..., 0], 0), np.repeat(DEEP[..., :1] >> 8, 3, 2)),
        (png16(DEEP[..., :3], 2), DEEP[..., :3] >> 8),
        (png16(DEEP, 6), on_white(DEEP >> 8)),
        (png16(DEEP[..., :2], 4), on_white((DEEP >> 8)[..., [0, 0, 0, 1]])),
        (
            encode(Image.fromarray(DEEP[..., 0].astype(np.uint16)), "TIFF"),
            np.repeat(DEEP[..., :1] >> 8, 3, 2),
        ),
        (
            b"P5 6 5 65535\n" + DEEP[..., 0].astype(">u2").tobytes(),
            np.repeat(DEEP[..., :1] >> 8, 3, 2),
        ),
        (b"P6\n#16 bits\n6 5\n65535\n" + DEEP[..., :3].astype(">u2").tobytes(), DEEP[..., :3] >> 8),
    ],
    ids=["gray PNG", "RGB PNG", "RGBA PNG", "gray alpha PNG", "TIFF", "PGM", "PPM"],
)
@pytest.mark.fault("D1")
def test_16_bits_become_8_by_shifting(data: bytes, expected: NDArray[Any]) -> None:
    assert difference(data, expected) <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("planes", [1, 3])
def test_the_transparent_colour_of_a_png_becomes_white_in_the_depth_of_the_file(
    bits: int, planes: int
) -> None:
    if planes == 3 and bits < 8:
        pytest.skip("PNG has no such colours")
    values = DEEP[..., :planes] >> 16 - bits
    values[0, 0] = values[2, 3] ^ 1  # the nearest colour, which is opaque
    key = b"".join(struct.pack(">H", sample) for sample in values[2, 3])
    data = png16(values, 2 if planes == 3 else 0, chunk(b"tRNS", key), bits)
    expected = values >> 8 if bits == 16 else values * 255 // ((1 << bits) - 1)
    expected[(values == values[2, 3]).all(axis=2)] = 255
    assert difference(data, np.broadcast_to(expected, (5, 6, 3))) == 0
    assert look(data, "a.png").notes == ("16-bit",) * (bits == 16) + ("alpha",)
    opaque = png16(values, 2 if planes == 3 else 0, bits=bits)
    assert "alpha" not in look(opaque, "a.png").notes


def test_a_huge_colour_profile_and_a_bomb_of_text_change_no_pixel() -> None:
    profile = chunk(b"iCCP", b"huge\0\0" + zlib.compress(RNG.bytes(3_000_000)))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))
    data = encode(RGB, "PNG")
    assert difference(data[:33] + profile + text + data[33:], PHOTO[..., :3].astype(np.int64)) == 0
    assert look(data[:33] + profile + text + data[33:], "a.png").problem == ""


def test_a_png_in_the_form_of_phones_is_unsupported() -> None:
    data = encode(RGB, "PNG")
    with pytest.raises(BadImage, match="CgBI") as caught:
        decode.decode(data[:8] + chunk(b"CgBI", b"\x50\0\x20\x06") + data[8:])
    assert caught.value.kind == "unsupported"


def test_a_bitmap_whose_fourth_byte_is_empty_is_opaque() -> None:
    clear = Image.fromarray(np.dstack([PHOTO[..., :3], np.zeros_like(PHOTO[..., 0])]))
    buffer = io.BytesIO()
    clear.save(buffer, "BMP")
    plain = buffer.getvalue()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = (
        struct.pack("<IiiHHIIiiII", 108, 71, 53, 1, 32, 3, 71 * 53 * 4, 0, 0, 0, 0)
        + masks
        + bytes(52)
    )
    data = plain[:10] + struct.pack("<I", 14 + 108) + head + plain[-71 * 53 * 4 :]
    assert Image.open(io.BytesIO(data)).mode == "RGBA"
    assert difference(data, PHOTO[..., :3].astype(np.int64)) == 0


def test_large_images_are_converted_in_strips_without_a_seam(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [encode(RGBA, "PNG"), encode(RGB.quantize(16), "PNG"), encode(RGBA, "TIFF")]
    whole = [decode.decode(data) for data in files]
    monkeypatch.setattr(decode, "_STRIP_PIXELS", 71 * 4)
    assert all(
        np.array_equal(decode.decode(data), seen) for data, seen in zip(files, whole, strict=True)
    )


def test_pixels_that_cannot_be_turned_into_8_bits_are_refused() -> None:
    real = encode(Image.fromarray(PHOTO[..., 0].astype(np.float32)), "TIFF")
    wide = encode(Image.fromarray(PHOTO[..., 0].astype(np.int32) * 100_000), "TIFF")
    for data, reason in ((real, "1 x 32 bits float, gray"), (wide, "1 x 32 bits signed")):
        with pytest.raises(BadImage, match=reason):
            decode.decode(data)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_truncated_file_is_refused(kind: str) -> None:
    data = OTHERS[kind]
    for length in range(0, len(data) - 60, max(len(data) // 40, 1)):
        with pytest.raises(BadImage):
            decode.decode(data[:length])


def test_every_flipped_bit_of_png_pixels_is_refused() -> None:
    data = encode(RGB.resize((9, 8)), "PNG")
    first, last = data.index(b"IHDR"), len(data) - 1
    for bit in range(8 * first, 8 * last, 5):
        bad = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        with pytest.raises(BadImage):
            decode.decode(bad)
    with pytest.raises(BadImage, match="truncated PNG"):
        decode.decode(data[:-12])
    with pytest.raises(BadImage, match="contains no pixels"):
        decode.decode(data[: data.index(b"IDAT") - 4] + data[-12:])


def test_warnings_of_pillow_do_not_leak() -> None:
    # Pillow warns above 89 million pixels and about a false tag count in a TIFF; both are images to
    # us.
    large = OTHERS["BMP"][:18] + struct.pack("<II", 10_000, 10_000) + OTHERS["BMP"][26:]
    apng = encode(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90)])
    place = apng.index(b"acTL")
    no_frames = chunk(b"acTL", bytes(8))
    odd = apng[: place - 4] + no_frames + apng[place + 16 :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.size(large) == (10_000, 10_000)
        assert difference(odd, PHOTO[..., :3].astype(np.int64)) == 0
        with pytest.raises(DeprecationWarning):  # only Pillow is hushed
            warnings.warn("ours", DeprecationWarning)


def test_many_threads_decode_the_same_pixels() -> None:
    files = [*OTHERS.values(), *JPEGS.values()]
    expected = [decode.decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for pixels, wanted in zip(
                pool.map(decode.decode, files * 4), expected * 4, strict=True
            ):
                assert np.array_equal(pixels, wanted)


def test_a_program_that_lets_pillow_accept_truncated_images_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="truncated"):
        decode.decode(OTHERS["BMP"])
    assert decode.decode(JPEG).shape == (53, 71, 3)  # does not go through Pillow


@pytest.mark.parametrize("kind", ["JPEG", *OTHERS])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_files_give_pixels_or_bad_image(kind: str, data: st.DataObject) -> None:
    sound = JPEG if kind == "JPEG" else OTHERS[kind]
    offset = data.draw(st.integers(0, min(len(sound), 400)) | st.integers(0, len(sound)))
    junk = data.draw(st.binary(min_size=1, max_size=12))
    bad = sound[:offset] + junk + sound[offset + data.draw(st.sampled_from([0, len(junk)])) :]
    try:
        size = decode.size(bad)
        if size[0] * size[1] > 4_000_000:
            return
        pixels = decode.decode(bad, exif="apply")
    except BadImage:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.skipif(
    not SAMPLES.exists(), reason="the ImageNet samples are not beside the repository"
)
def test_real_photographs_decode_as_pillow_does() -> None:
    with tarfile.open(SAMPLES) as archive:
        for member in archive.getmembers()[:40]:
            stream = archive.extractfile(member)
            assert stream is not None
            data = stream.read()
            assert difference(data, pillow(data)) <= 1
