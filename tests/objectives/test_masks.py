"""Masks from counter keys: how many, which ones, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.errors import ConfigError
from saccade.objectives.masks import Masking, masking, usual_unit

SOME = np.arange(64, dtype=np.int64)


@pytest.mark.spec(43)
def test_every_image_has_exactly_as_many_hidden_patches() -> None:
    for form, hidden in (
        # 75 % of 14 x 14 patches; 60 % of 6 x 6 units of 8 x 8 patches, which is 21.6
        (masking(224, 16, 16, 0.75), 147),
        (masking(192, 4, 32, 0.6), 22 * 64),
        (masking(192, 32, 32, 0.6), 22),
        (masking(20, 4, 4, 0.6), 15),
        (masking(32, 16, 16, 0.01), 1),
    ):
        masks = form.draw(0, SOME // 7, SOME)
        assert masks.shape == (64, form.side * form.patches, form.side * form.patches)
        assert set(masks.sum((1, 2)).tolist()) == {hidden}
        assert form.visible_patches == masks[0].size - hidden


def test_units_are_hidden_as_a_whole() -> None:
    masks = Masking(side=3, patches=4, hidden=5).draw(3, SOME, SOME)
    units = masks.reshape(64, 3, 4, 3, 4)
    assert (units.any((2, 4)) == units.all((2, 4))).all()


def test_a_mask_depends_on_the_view_alone_and_not_on_its_cell_or_rank() -> None:
    form = masking(32, 4, 4, 0.75)
    whole = form.draw(7, SOME // 7, SOME)
    halves = [form.draw(7, SOME[part] // 7, SOME[part]) for part in np.split(np.arange(64), 2)]
    assert (np.concatenate(halves) == whole).all()
    # ranks take every other cell of 16
    order = np.arange(64).reshape(4, 16)
    mine = order[1::2].reshape(-1)
    assert (form.draw(7, SOME[mine] // 7, SOME[mine]) == whole[mine]).all()


def test_another_epoch_sample_or_seed_has_another_mask() -> None:
    form = masking(32, 4, 4, 0.75)
    first = form.draw(0, SOME * 0, SOME)
    others = (form.draw(0, SOME * 0 + 1, SOME), form.draw(1, SOME * 0, SOME))
    assert len({mask.tobytes() for mask in first}) == 64
    for other in others:
        assert not (first == other).all((1, 2)).any()


def test_every_patch_is_hidden_as_often_as_the_ratio_says() -> None:
    many = np.arange(4000, dtype=np.int64)
    share = masking(16, 4, 4, 0.75).draw(0, many * 0, many).mean(0)
    # 4.5 standard deviations of a share of 4,000 draws
    assert np.abs(share - 0.75).max() < 4.5 * np.sqrt(0.75 * 0.25 / 4000)


def test_golden_masks_of_this_draws_version() -> None:
    masks = masking(16, 4, 4, 0.75).draw(1, np.array([0, 0, 5]), np.array([0, 1, 2]))
    bits = ["".join(map(str, mask.ravel().astype(int))) for mask in masks]
    assert [int(row, 2) for row in bits] == [63294, 60391, 51197]


@pytest.mark.parametrize(
    ("size", "patch", "unit", "ratio", "words"),
    [
        (192, 4, 30, 0.6, "4, 8, 12, 16, 24, 32, 48, 64, 96"),
        (224, 16, 24, 0.6, "16, 32, 112"),
        (30, 4, 4, 0.6, "none"),
        (32, 16, 16, 0.8, "smaller pretrain.mask_unit"),
    ],
)
def test_what_cannot_be_masked_is_refused_with_what_can(
    size: int, patch: int, unit: int, ratio: float, words: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        masking(size, patch, unit, ratio)
    assert words in str(refused.value.fix)


@pytest.mark.parametrize(
    ("size", "patch", "unit"),
    [(192, 4, 32), (224, 16, 32), (224, 32, 32), (64, 4, 8), (32, 2, 4), (16, 4, 4), (128, 8, 16)],
)
def test_the_usual_unit_is_about_a_sixth_of_the_side(size: int, patch: int, unit: int) -> None:
    assert usual_unit(size, patch) == unit
    assert masking(size, patch, unit, 0.6)
