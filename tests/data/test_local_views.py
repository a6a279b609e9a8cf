"""Small views beside the large ones: one decoding, draws of their own, nothing else changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Views
from saccade.data.augment.chain import Chain
from saccade.data.augment.local_views import FIRST_EPOCH, LocalViews
from saccade.data.images import crops, decode
from saccade.data.loader import Batch, TrainingView, batches
from saccade.data.order import Order, RankSlice
from saccade.data.readers import Readers
from saccade.data.sources import Split, open_source

SECTION = AugmentSection(
    repeats=2, local_views=3, local_side=0.5, crop_area=(0.4, 1), jitter=(0.4, 0.4, 0.2, 0.1)
)


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_source("digits").splits["train"]


@pytest.fixture
def readers() -> Iterator[Readers]:
    pool = Readers(3)
    yield pool
    pool.close()


def view(split: Split, section: AugmentSection = SECTION, **more: object) -> TrainingView:
    order = Order(len(split), 5, section.repeats)
    return TrainingView(split, order, section, 16, 60, "ignore", **more)  # type: ignore[arg-type]


def first(split: Split, readers: Readers, section: AugmentSection = SECTION) -> Batch:
    (batch,) = batches(view(split, section), readers, 48, 7, 8)
    return batch


def small(batch: Batch) -> torch.Tensor:
    assert batch.small is not None
    return batch.small


def test_small_views_leave_the_large_ones_as_they_are_and_read_no_image_again(
    digits: Split, readers: Readers
) -> None:
    read: list[int] = []
    counted = dataclasses.replace(digits, read=lambda i: (read.append(i), digits.read(i))[1])
    both = first(counted, readers)
    plain = first(digits, readers, SECTION.model_copy(update={"local_views": 0}))
    assert torch.equal(both.images, plain.images) and plain.small is None
    assert small(both).shape == (24 * 3, 3, 8, 8) and len(read) == 24
    # a few crops of so small images are alike by chance
    assert len({view.numpy().tobytes() for view in small(both)}) > 24 * 3 - 4


def test_a_small_view_is_what_its_own_chain_makes_of_the_decoded_image(
    digits: Split, readers: Readers
) -> None:
    batch = first(digits, readers)
    own = AugmentSection(crop_area=(0.05, 0.4), jitter=(0.4, 0.4, 0.2, 0.1))
    for image, number in ((0, 0), (5, 1), (23, 2)):
        sample, large = int(batch.samples[2 * image]), int(batch.epochs[2 * image])
        epoch = FIRST_EPOCH + large // 2 * 3 + number
        chain = Chain(own, Views(5, np.array([epoch]), np.array([sample])), 8)
        pixels = decode.decode(digits.read(sample), exif="ignore")
        box = chain.crops.choose(np.arange(1), np.array([pixels.shape[1::-1]]))[0].tolist()
        slot = torch.zeros((1, 3, 8, 8), dtype=torch.uint8)
        slot = slot.contiguous(memory_format=torch.channels_last)
        chain.render(slot, pixels, box, 0)
        assert torch.equal(small(batch)[image * 3 + number], slot[0])


def test_threads_and_ranks_do_not_change_small_views(digits: Split, readers: Readers) -> None:
    whole, one = small(first(digits, readers)), Readers(1)
    assert torch.equal(whole, small(first(digits, one)))
    parts = whole.view(4, 6 * 3, 3, 8, 8)
    for rank in (0, 1):
        mine = view(digits, rank_slice=RankSlice(12, rank, 2))
        (batch,) = batches(mine, one, 48, 7, 8)
        assert torch.equal(small(batch), parts[rank::2].flatten(0, 1))
        cell = batch.part(12, 24)
        assert torch.equal(small(cell), parts[rank + 2]) and len(cell.images) == 12
    one.close()


def test_small_views_take_their_share_of_the_area() -> None:
    n = 2000
    large = Views(1, np.repeat([4, 5], 1).repeat(n // 2), np.arange(n))
    local = LocalViews(SECTION.model_copy(update={"repeats": 1}), large, 224)
    boxes = local.choose(np.arange(n), np.full((n, 2), 400))
    area = boxes[..., 2] * boxes[..., 3] / 400**2
    assert local.side == 112 and boxes.shape == (n, 3, 4)
    assert 0.045 < area.min() < 0.06 and 0.38 < area.max() < 0.42
    # uniform but for the few whose shape does not fit
    assert area.mean() == pytest.approx(0.225, abs=0.01)


def test_each_view_is_as_sharp_as_its_own_side_asks_for(tmp_path: object) -> None:
    """A small crop for a small view does not keep the decoder from reducing, a large one does."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((512, 512, 3), np.uint8)).save(file, "JPEG", quality=90)
    boxes = np.array([[[0, 0, 512, 512], [100, 100, 100, 100]]])

    def factor(sides: int | np.ndarray) -> int:
        ((pixels, _),) = crops.decode([file.getvalue()], lambda *_: boxes, sides, "ignore")
        return 512 // pixels.shape[0]

    assert factor(np.array([64, 16])) == 4 and factor(np.array([64, 32])) == 2 and factor(64) == 1


def test_small_views_of_a_crop_without_chance_are_refused() -> None:
    with pytest.raises(ValidationError, match="small views are random crops"):
        AugmentSection(local_views=4, crop="padded")
