"""Swin transformers: the logits of torchvision and timm, published sizes, who meets whom in a
window, learning.
"""

from __future__ import annotations

import doctest
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from trials import first_loss, gap, loss_after, randomised, transplanted

from saccade.errors import ConfigError
from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import DropPath
from saccade.models.parts.network import undecayed
from saccade.models.parts.registry import Options
from saccade.models.swin import (
    Design,
    SwinTransformer,
    WindowAttention,
    Windows,
    relative_positions,
)

TABLE = {
    "swin_t": (28_288_354, 4.4906, 224),
    "swin_s": (49_606_258, 8.7409, 224),
    "swin_b": (87_768_224, 15.4309, 224),
    "swin_b_w6": (87_750_176, 11.2779, 192),
    "swin_t_ape": (28_288_354 + 56 * 56 * 96, 4.4906, 224),
}
EXPLAIN = Path(__file__).parents[2] / "docs" / "explain"
SMALL = Design(16, (2, 2, 2, 2), (1, 2, 4, 8), 0.0)


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(19)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    size = find(name).image_size
    counts = cost(meta_model(name, num_classes=1000), size)
    assert (counts.params, size) == (TABLE[name][0], TABLE[name][2])
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-3)


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "size"),
    [("swin_t", (64, 64)), ("swin_t", (100, 130)), ("swin_t", (224, 96)), ("swin_b", (64, 64))],
)
def test_logits_equal_torchvision_with_the_same_weights(name: str, size: tuple[int, int]) -> None:
    theirs = randomised(getattr(torchvision.models, name)(num_classes=7))
    ours = transplanted(name, theirs, "torchvision", image_size=224)
    assert gap(ours, theirs, torch.randn(2, 3, *size)) < 1e-5


@pytest.mark.models
def test_logits_equal_timm_with_the_same_weights() -> None:
    timm = pytest.importorskip("timm")
    theirs = randomised(
        timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, drop_path_rate=0.0)
    )
    ours = transplanted("swin_t", theirs, "timm", image_size=224)
    assert gap(ours, theirs, torch.randn(1, 3, 224, 224)) < 1e-5


@pytest.mark.parametrize(
    ("height", "width", "side"), [(8, 12, 4), (7, 7, 7), (9, 5, 3), (6, 11, 4), (3, 8, 4)]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_come_apart_and_together_again(
    height: int, width: int, side: int, shifted: bool
) -> None:
    windows = Windows(height, width, side, shifted)
    x = torch.randn(2, height, width, 5)
    pieces = windows.cut(x)
    assert pieces.shape == (2, math.prod(windows.padded) // side**2, side * side, 5)
    assert torch.equal(windows.join(pieces), x)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(8, 12, 4), (9, 6, 3), (14, 21, 7), (4, 12, 4)]
)
@pytest.mark.spec(54)
def test_in_shifted_windows_only_neighbours_meet(height: int, width: int, side: int) -> None:
    windows = Windows(height, width, side, shifted=True)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(
        1, height, width, 2
    )
    y, x = windows.cut(places)[0].unbind(-1)
    near = ((y[:, :, None] - y[:, None]).abs() < side) & ((x[:, :, None] - x[:, None]).abs() < side)
    mask = windows.mask(torch.zeros(()))
    assert mask is not None
    assert torch.equal(mask[:, 0] == 0, near)
    assert not near.all()
    assert near.diagonal(dim1=1, dim2=2).all()


def test_one_window_is_neither_shifted_nor_masked() -> None:
    assert Windows(7, 7, 7, shifted=True).shifts == (0, 0) == Windows(5, 3, 7, shifted=True).shifts
    assert Windows(7, 7, 7, shifted=True).mask(torch.zeros(())) is None
    assert Windows(7, 14, 7, shifted=True).shifts == (0, 3)


@pytest.mark.spec(54)
def test_pairs_at_the_same_distance_share_a_row_of_the_table() -> None:
    index = relative_positions(3)
    seen: dict[tuple[int, int], int] = {}
    for query in range(9):
        for key in range(9):
            way = (query // 3 - key // 3, query % 3 - key % 3)
            assert seen.setdefault(way, int(index[query, key])) == int(index[query, key])
    assert sorted(seen.values()) == list(range(25))
    assert seen[-2, -2] == 0 and seen[0, 0] == 12 and seen[0, 1] == 13 and seen[1, 0] == 17


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_is_what_the_paper_writes(shifted: bool) -> None:
    """Softmax of q k / sqrt(d) + bias, for each token over the tokens that its window shows it."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 4, shifted)
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(1, 8, 12, 8)
    mask = Windows(8, 12, 4, shifted=True).mask(x)
    got = attention(x, mask)
    q, k, v = attention.qkv(x[0]).view(8, 12, 3, 2, 4).unbind(2)
    shift = 2 if shifted else 0
    expected = torch.zeros(8, 12, 2, 4)
    for y in range(8):
        for x_ in range(12):
            # on a grid that begins half a window outside
            window = ((y + shift) // 4, (x_ + shift) // 4)
            keys = [
                (a, b)
                for a in range(8)
                for b in range(12)
                if ((a + shift) // 4, (b + shift) // 4) == window
            ]
            for head in range(2):
                bias = [
                    attention.relative_position_bias_table[7 * (y - a + 3) + x_ - b + 3, head]
                    for a, b in keys
                ]
                scores = torch.stack(
                    [q[y, x_, head] @ k[a, b, head] / 2 for a, b in keys]
                ) + torch.stack(bias)
                expected[y, x_, head] = scores.softmax(0) @ torch.stack(
                    [v[a, b, head] for a, b in keys]
                )
    assert torch.allclose(got[0], attention.proj(expected.flatten(2)), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch", "sides"),
    [
        (18, 2, [4, 4, 3, 2]),
        (32, 2, [4, 4, 4, 2]),
        (48, 4, [4, 4, 3, 2]),
        (64, 4, [4, 4, 4, 2]),
        (96, 4, [7, 7, 6, 3]),
    ],
)
def test_small_images_get_small_patches_and_windows(
    size: int, patch: int, sides: list[int]
) -> None:
    model = SwinTransformer(SMALL, Options(3, size)).eval()
    assert model.sides == sides
    assert [level.stride for level in model.levels] == [patch, 2 * patch, 4 * patch, 8 * patch]
    with torch.no_grad():
        last = model.features(torch.randn(1, 3, size, size))[-1]
    assert last.shape[1] == 128 and min(last.shape[2:]) >= 2


def test_images_of_another_size_pass() -> None:
    model = SwinTransformer(replace(SMALL, positions=True), Options(3, 96)).eval()
    with torch.no_grad():
        for size in ((48, 48), (72, 72), (64, 100)):
            assert model(torch.randn(1, 3, *size)).isfinite().all()


def test_patches_of_another_side_are_taken_unless_they_leave_a_single_one() -> None:
    for patch, sides in ((4, [4, 4, 2, 1]), (1, [4, 4, 4, 4]), (16, [2, 1, 1, 1])):
        model = SwinTransformer(SMALL, Options(3, 32, patch_size=patch)).eval()
        assert model.sides == sides
        with torch.no_grad():
            assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
    with pytest.raises(ConfigError, match="2x2"):
        create_model("swin_t", num_classes=3, image_size=32, patch_size=32)


@pytest.mark.spec(9)
def test_names_of_others_are_understood() -> None:
    assert find("swin-b").name == find("swin-base-patch-4-window-7").name == "swin_b"
    assert find("Swin-Base-Patch-4-Window-6").name == find("swin_b_w6").name == "swin_b_w6"
    assert find("swin_tiny_patch4_window7_224").name == "swin_t"
    assert find("swin_s_w12_ape").image_size == 384


def test_tables_take_no_weight_decay() -> None:
    model = SwinTransformer(replace(SMALL, positions=True), Options(3, 32))
    assert {"position", "stages.1.0.attn.relative_position_bias_table"} <= undecayed(model)


@pytest.mark.spec(19)
def test_drop_path_is_the_papers() -> None:
    rates = [
        m.rate for m in meta_model("swin_t", num_classes=3).modules() if isinstance(m, DropPath)
    ]
    assert rates == pytest.approx(
        [0.2 * place / 11 for place in range(1, 12) for _branch in range(2)]
    )


@pytest.mark.models
@pytest.mark.parametrize("classes", [10, 1000])
def test_the_first_loss_is_that_of_guessing(classes: int) -> None:
    assert first_loss("swin_t", classes, 32) == pytest.approx(1, abs=0.1)


@pytest.mark.models
def test_two_classes_are_learned_from_the_start_in_bfloat16() -> None:
    model = create_model("swin_t", num_classes=2, image_size=32, drop_path=0.0)
    assert loss_after(model, 32, 5, 5e-4, bfloat16=True) < 0.3


@pytest.mark.spec(54)
def test_the_pages_on_windows_show_what_the_code_does() -> None:
    for page in ("relative-position-bias.md", "shifted-windows.md"):
        done = doctest.testfile(str(EXPLAIN / page), module_relative=False)
        assert done.attempted >= 2 and done.failed == 0
