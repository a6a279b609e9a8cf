"""The augmentations in their order: what is listed is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL.Image import Image as Picture
from test_geometry import photo, views

from saccade.config.schema import AugmentSection, Config
from saccade.data.augment import chain
from saccade.data.augment.augmentation import ImageAugmentation, Views
from saccade.data.augment.chain import ORDER, Chain
from saccade.data.augment.mix import normalise
from saccade.data.images.fit import Fit

PAGE = Path(__file__).parents[3] / "docs" / "augmentation.md"


def slot(side: int) -> torch.Tensor:
    empty = torch.zeros((1, 3, side, side), dtype=torch.uint8)
    return empty.contiguous(memory_format=torch.channels_last)


def rendered(section: AugmentSection, pixels: np.ndarray, fit: Fit, side: int = 32) -> torch.Tensor:
    made = Chain(section, views(1), side, fit)
    box = made.crops.choose(np.arange(1), np.array([pixels.shape[1::-1]]))[0].tolist()
    into = slot(side)
    made.render(into, pixels, box, 0)
    return into[0]


def test_settings_and_documentation_have_the_order_in_which_augmentations_are_applied() -> None:
    switches = [name for kind in ORDER for name in kind.switches]
    fields = list(AugmentSection.model_fields)
    assert sorted(switches, key=fields.index) == switches
    rows = re.findall(r"^\|.*?\| `augment\.(\w+)=", PAGE.read_text(), flags=re.M)
    assert [name for name in dict.fromkeys(rows) if name in switches] == switches
    said = chain.describe(AugmentSection(rotate=5, gray=0.25, mixup=0.2, jitter=(0, 0.1, 0, 0)))
    assert said == [
        "rotate=5.0",
        "crop=random",
        "flip=0.5",
        "jitter=[0.0, 0.1, 0.0, 0.0]",
        "gray=0.25",
        "mixup=0.2",
    ]


@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
@pytest.mark.parametrize("crop", ["central", "none"])
@pytest.mark.spec(23)
def test_a_crop_without_chance_shows_what_evaluation_or_the_whole_image_shows(
    crop: Literal["central", "none"], how: Literal["crop", "squash", "pad"]
) -> None:
    pixels, fit = photo(90, 50), Fit(how, 0.8, (1, 2, 3))
    expected = fit.square(pixels, 32)
    if crop == "none" and how == "crop":
        small = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        expected = torch.nn.functional.interpolate(
            small, (32, 32), mode="bilinear", antialias=True
        )[0]
    for flip in (0.0, 1.0):
        seen = rendered(AugmentSection(crop=crop, flip=flip), pixels, fit)
        wanted = expected.flip(-1) if flip else expected
        assert (seen.float() - wanted.float()).abs().max() <= 1


def test_the_list_decides_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """An augmentation before the crop sees the whole image, one behind it the square."""
    seen: list[tuple[int, int]] = []

    class Watch(ImageAugmentation):
        switches = ("gray",)

        def __init__(self, section: AugmentSection, views: Views) -> None:
            pass

        def apply(self, image: Picture, place: int) -> Picture:
            seen.append(image.size)
            return image

    section, pixels = AugmentSection(gray=1), photo(60, 40)
    monkeypatch.setattr(chain, "ORDER", (Watch, *ORDER, Watch))
    made = Chain(section, views(1), 32)
    assert made.needs_whole_image
    rendered(section, pixels, Fit())
    assert seen == [(60, 40), (32, 32)]
    padded = AugmentSection(crop="padded")
    assert chain.cuts_decoded_images(padded)
    assert not chain.cuts_decoded_images(padded.model_copy(update={"gray": 1.0}))


def test_only_the_square_of_the_image_is_changed() -> None:
    made = Chain(AugmentSection(jitter=(0.4, 0.4, 0.4, 0)), views(3), 16)
    batch = torch.full((3, 3, 16, 16), 99, dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)
    pixels = np.full((16, 16, 3), 99, np.uint8)
    pixels[:8] = 200
    made.render(batch[1:2], pixels, (0, 0, 16, 16), 1)
    assert batch[0].eq(99).all() and batch[2].eq(99).all() and not batch[1, :, 8:].eq(99).all()


def test_an_image_that_no_augmentation_changes_keeps_its_pixels() -> None:
    section = AugmentSection(gray=1e-9, flip=0, crop="none")
    pixels = photo(32, 32).copy()
    seen = rendered(section, pixels, Fit())
    assert np.array_equal(seen.permute(1, 2, 0).numpy(), pixels)


def test_what_the_network_sees_depends_on_the_views_alone() -> None:
    config = Config.model_validate(
        {
            "augment": {"erase": 0.5, "erase_fill": "noise", "cutout": 0.3, "mixup": 0.4},
            "data": {"image_size": 16},
        }
    )
    images = torch.full((8, 3, 16, 16), 200, dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    epochs, samples = np.zeros(8, np.int64), np.arange(8)
    first, share = chain.present(images, epochs, samples, config, 3, 1)
    again, _ = chain.present(images, epochs, samples, config, 3, 1)
    other, _ = chain.present(images, epochs + 1, samples, config, 3, 1)
    assert torch.equal(first, again) and not torch.equal(first, other) and 0 < share < 1
    plain, share = chain.present(images, epochs, samples, Config(), 3, 1)
    assert (
        torch.equal(plain, normalise(images, Config().data.mean, Config().data.std)) and share == 1
    )
