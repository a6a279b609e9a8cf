"""Images of any shape in a square: what is seen of them, the same in training and evaluation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional

from saccade.config.augment import Crop
from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import Views
from saccade.data.augment.geometry import Crops, random_crops
from saccade.data.decoded_cache import Decoded
from saccade.data.images.fit import Fit, stretched, unit_squares
from saccade.data.loader import EvaluationView, TrainingView, batches
from saccade.data.order import Order
from saccade.data.readers import Readers
from saccade.data.sources import Split, open_source

RNG = np.random.default_rng(4)
MEAN = (0.485, 0.456, 0.406)
FILL = (124, 116, 104)
CENTRAL, SQUASHED, PADDED = (Fit.of(how, 0.875, MEAN) for how in ("crop", "squash", "pad"))  # type: ignore[arg-type]
PLAIN = {"flip": 0.0, "crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
"""Settings with which nothing is left to chance."""


def wide(height: int = 60, width: int = 300) -> NDArray[np.uint8]:
    return np.array(
        Image.fromarray(RNG.integers(0, 256, (3, 9, 3), np.uint8)).resize((width, height))
    )


def test_a_sign_at_the_edge_is_seen_when_all_of_an_image_is_fitted() -> None:
    road = np.full((60, 300, 3), 90, np.uint8)
    sign = road.copy()
    sign[10:50, 270:295] = (255, 0, 0)
    assert torch.equal(CENTRAL.square(road, 64), CENTRAL.square(sign, 64))
    for fit in (SQUASHED, PADDED):
        assert (fit.square(sign, 64)[0] > 200).sum() > 30
        assert not torch.equal(fit.square(road, 64), fit.square(sign, 64))


@pytest.mark.parametrize(("height", "width"), [(60, 300), (300, 60), (64, 64), (5, 200), (40, 41)])
def test_squash_and_pad_are_torchvisions_resize(height: int, width: int) -> None:
    pixels = wide(height, width)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def resized(down: int, across: int) -> torch.Tensor:
        return functional.resize(tensor, [down, across], antialias=True)

    assert (SQUASHED.square(pixels, 64).int() - resized(64, 64).int()).abs().max() <= 1
    down, across = (max(round(64 * one / max(height, width)), 1) for one in (height, width))
    expected = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, 64, 64)
    top, left = (64 - down) // 2, (64 - across) // 2
    expected[:, top : top + down, left : left + across] = resized(down, across)
    assert (PADDED.square(pixels, 64).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(300, 400), (50, 41)])
def test_pixels_are_resized_as_pillow_does_it(how: Any, shape: tuple[int, int]) -> None:
    image = Image.fromarray(wide(*shape))
    ours = Fit("squash", interpolation=how).square(np.array(image), 64).permute(1, 2, 0).numpy()
    theirs = np.asarray(image.resize((64, 64), Image.Resampling[how.upper()]))
    # the two passes of one filter are not rounded in the same order
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


def test_what_is_padded_is_nothing_to_the_network() -> None:
    filled = torch.tensor(PADDED.fill) / 255
    assert (filled - torch.tensor(MEAN)).abs().max() < 0.5 / 255 + 1e-6


def test_the_share_that_is_seen() -> None:
    assert CENTRAL.seen(60 / 300) == pytest.approx(0.2 * 0.875**2)
    assert CENTRAL.seen(1.0) == pytest.approx(0.765625)
    assert SQUASHED.seen(0.2) == PADDED.seen(0.2) == 1.0


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("wide")
    for split in ("train", "val"):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                form = ("JPEG", "PNG")[i % 2]
                height, width = ((60, 300), (300, 60), (40, 44))[i]
                Image.fromarray(wide(height, width)).save(
                    folder / split / name / f"{i}.{form.lower()}"
                )
    return open_source(str(folder)).splits["train"]


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("even")
    for split in ("train", "val"):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(wide(12, 40)).save(folder / split / name / f"{i}.png")
    return open_source(str(folder)).splits["train"]


def seen(view: TrainingView | EvaluationView, count: int) -> torch.Tensor:
    readers = Readers(2)
    try:
        (batch,) = batches(view, readers, count, 0, 1)
        order = np.argsort(batch.samples)
        return batch.images[order].clone()
    finally:
        readers.close()


@pytest.mark.parametrize("crop", ["random", "padded", "central", "none"])
@pytest.mark.parametrize("fit", [SQUASHED, PADDED], ids=["squash", "pad"])
@pytest.mark.parametrize("kind", ["split", "even"])
def test_without_chance_training_sees_what_evaluation_sees(
    kind: str, fit: Fit, crop: Crop, request: pytest.FixtureRequest
) -> None:
    images: Split = request.getfixturevalue(kind)
    section = AugmentSection(**PLAIN, crop=crop, pad=0.0)
    trained = TrainingView(images, Order(len(images), 1), section, 32, 10, "ignore", fit=fit)
    judged = seen(EvaluationView(images, 32, fit, "ignore"), len(images))
    assert torch.equal(seen(trained, len(images)), judged)
    if kind == "even" and crop == "padded":
        held = TrainingView(
            images,
            Order(len(images), 1),
            section,
            32,
            10,
            "ignore",
            decoded=Decoded.of(images, "ignore"),
            fit=fit,
        )
        assert held.decoded is not None
        assert torch.equal(seen(held, len(images)), judged)
        memory = EvaluationView(images, 32, fit, "ignore", decoded=held.decoded)
        assert torch.equal(seen(memory, len(images)), judged)


@pytest.mark.parametrize("fit", [SQUASHED, PADDED], ids=["squash", "pad"])
@pytest.mark.parametrize("crop", ["random", "padded"])
def test_random_parts_of_wide_images_reach_every_edge(
    fit: Fit, crop: Literal["random", "padded"]
) -> None:
    n = 400
    section = AugmentSection(crop=crop, pad=0.25)
    crops = Crops(section, Views(0, np.zeros(n, np.int64), np.arange(n)), 32, fit)
    boxes = crops.choose(np.arange(n), np.tile((300, 60), (n, 1)))
    ends = boxes[:, :2] + boxes[:, 2:]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all() and (ends <= (300, 60)).all()
    assert (boxes[:, :2].min(axis=0) <= (3, 1)).all() and (ends.max(axis=0) >= (297, 59)).all()
    pixels = wide()
    slot = torch.empty(1, 3, 32, 32, dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    for place in range(n):
        crops.cut_into(slot, pixels, boxes[place].tolist(), place)


def test_a_part_has_the_same_share_of_width_and_height_as_in_a_square() -> None:
    draws = RNG.random((2000, 22))
    square = random_crops(draws, unit_squares(2000), (0.08, 1.0), (0.75, 4 / 3))
    sizes = np.tile((300, 60), (2000, 1))
    share = stretched(square, sizes)[:, 2:] / sizes
    assert np.abs(share[:, 0] - square[:, 2] / (1 << 20)).max() <= 0.5 / 300 + 1e-9
    assert np.abs(share[:, 1] - square[:, 3] / (1 << 20)).max() <= 0.5 / 60 + 1e-9


def test_one_pixel_images_and_lines_are_fitted(tmp_path: Path) -> None:
    for height, width in ((1, 1), (1, 500), (500, 1)):
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, "PNG")
        for fit in (CENTRAL, SQUASHED, PADDED):
            assert fit.square(np.zeros((height, width, 3), np.uint8), 16).shape == (3, 16, 16)
