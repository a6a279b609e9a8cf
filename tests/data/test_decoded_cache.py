"""Small images that stay in memory: the batches are those that decoding anew each time gives,
bit for bit.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade import rng
from saccade.config.schema import AugmentSection
from saccade.data import decoded_cache
from saccade.data.decoded_cache import Decoded
from saccade.data.images.fit import Fit
from saccade.data.loader import Batch, EvaluationView, TrainingView, batches
from saccade.data.order import Order
from saccade.data.readers import Readers
from saccade.data.sources import Split, open_source
from saccade.errors import DataError

DIGITS = open_source("digits").splits["train"]


def png(width: int, height: int, number: int) -> bytes:
    pixels = (
        (rng.uniform(rng.key(7, number), height * width * 3) * 256)
        .astype(np.uint8)
        .reshape(height, width, 3)
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def split(width: int = 12, height: int = 9, odd: int = -1) -> Split:
    """Return random pictures of one size, of which one may be wider by a pixel."""
    files = [png(width + (i == odd), height, i) for i in range(60)]
    return dataclasses.replace(
        DIGITS, names=DIGITS.names[:60], labels=DIGITS.labels[:60], read=lambda i: files[i]
    )


def seen(
    images: Split, memory: Decoded | None, size: int = 16, threads: int = 3, **section: Any
) -> list[Batch]:
    augment = AugmentSection.model_validate({"crop": "padded", "sizes": (0.5, 1.0)} | section)
    view = TrainingView(
        images,
        Order(len(images.labels), 5, augment.repeats),
        augment,
        size,
        8,
        "ignore",
        decoded=memory,
    )
    readers = Readers(threads)
    try:
        return list(batches(view, readers, 48, 0, 8))
    finally:
        readers.close()


@settings(max_examples=25)
@given(
    width=st.integers(8, 20),
    height=st.integers(8, 20),
    size=st.sampled_from([8, 16, 24]),
    pad=st.floats(0, 0.4),
    fill=st.sampled_from(["black", "reflect"]),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    alternate=st.booleans(),
    repeats=st.sampled_from([1, 3]),
)
def test_the_batches_are_the_same_with_and_without_memory(
    width: int,
    height: int,
    size: int,
    pad: float,
    fill: str,
    flip: float,
    alternate: bool,
    repeats: int,
) -> None:
    images = split(width, height)
    section = {
        "pad": pad,
        "pad_fill": fill,
        "flip": flip,
        "alternate_flip": alternate,
        "repeats": repeats,
    }
    anew = seen(images, None, size, **section)
    held = seen(images, Decoded.of(images, "ignore"), size, **section)
    assert all(torch.equal(a.images, b.images) for a, b in zip(anew, held, strict=True))
    assert held[0].images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("size", "crop"), [(9, 1.0), (16, 1.0), (8, 0.875), (24, 0.5)])
@pytest.mark.parametrize("odd", [-1, 40])
def test_evaluation_sees_the_same_with_and_without_memory(size: int, crop: float, odd: int) -> None:
    images = split(odd=odd)
    readers = Readers(3)
    views = [
        EvaluationView(images, size, Fit(crop_fraction=crop), "ignore", decoded=m)
        for m in (None, Decoded.of(images, "ignore"))
    ]
    anew, held, again = (list(batches(view, readers, 25, 0, 3)) for view in (*views, views[1]))
    readers.close()
    for a, b, c in zip(anew, held, again, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.images, c.images)


def test_each_image_is_decoded_once() -> None:
    read: list[int] = []
    images = split()
    counted = dataclasses.replace(images, read=lambda i: (read.append(i), images.read(i))[1])
    memory = Decoded.of(counted, "ignore")
    assert read == [0], "one look at the size"
    seen(counted, memory, threads=1)
    assert sorted(read) == [0, *range(60)]


def test_an_image_of_another_size_ends_it_and_changes_nothing() -> None:
    images = split(odd=40)
    memory = Decoded.of(images, "ignore")
    held = seen(images, memory)
    assert memory is not None and memory.take(np.arange(3), range(3)) is None
    assert all(
        torch.equal(a.images, b.images) for a, b in zip(seen(images, None), held, strict=True)
    )


def test_large_images_and_large_sets_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Decoded.of(split(64, 64), "ignore") is not None
    assert Decoded.of(split(64, 65), "ignore") is None
    assert Decoded.of(split(64, 64), "ignore", 22) is not None
    assert Decoded.of(split(64, 64), "ignore", 21) is None, (
        "the decoder halves an image of three times the side"
    )
    monkeypatch.setattr(decoded_cache, "MOST_BYTES", 60 * 12 * 9 * 3)
    assert Decoded.of(split(), "ignore") is not None
    monkeypatch.setattr(decoded_cache, "MOST_BYTES", 60 * 12 * 9 * 3 - 1)
    assert Decoded.of(split(), "ignore") is None


def test_an_image_that_cannot_be_read_is_named() -> None:
    images = split()
    broken = dataclasses.replace(images, read=lambda i: b"no image" if i == 33 else images.read(i))
    with pytest.raises(DataError) as caught:
        seen(broken, Decoded.of(broken, "ignore"))
    assert caught.value.finding == "unreadable-image" and broken.describe(33) in str(caught.value)
