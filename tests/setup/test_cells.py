"""How a batch is cut into cells, and when that is refused: a norm over one image is no norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import console
from saccade.config.cells import largest_cell, nearest_batches
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.errors import ConfigError
from saccade.setup import cells


class Plain(nn.Sequential):
    """No norm over the batch: its cells may be small."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(10))


class Frozen(nn.Module):
    """Keeps its norm in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


def of_batch(batch: int, model: str = "resnet8", **settings: Any) -> Config:
    layers = Layers()
    layers.add(
        {"batch": {"global": batch}, "model": {"name": model}, "data": {"image_size": 32}}, "a test"
    )
    for name, value in settings.items():
        layers.set(f"{name.replace('__', '.')}={value}")
    return layers.resolve()


@pytest.mark.parametrize(
    ("batch", "repeats", "cell"),
    [
        (128, 1, 128),
        (127, 1, 127),
        (131, 1, 1),
        (256, 1, 128),
        (262, 1, 2),
        (1000, 1, 125),
        (7, 1, 7),
        (384, 3, 96),
    ],
)
def test_the_largest_part_up_to_128_is_the_cell(batch: int, repeats: int, cell: int) -> None:
    assert largest_cell(batch, repeats) == cell


def test_every_batch_that_is_named_as_near_has_good_cells() -> None:
    for repeats in (1, 2, 3, 8):
        for batch in range(1, 700):
            near = nearest_batches(batch, repeats)
            assert near, (batch, repeats)
            assert all(largest_cell(n, repeats) >= 16 and n % repeats == 0 for n in near), (
                batch,
                repeats,
                near,
            )
    assert (
        nearest_batches(131) == [130, 132]
        and nearest_batches(262) == [261, 264]
        and nearest_batches(1) == [16]
    )


@pytest.mark.parametrize("batch", [131, 262, 2 * 3 * 149, 4 * 1009])
def test_small_cells_that_nobody_asked_for_are_refused_where_norms_need_them(batch: int) -> None:
    (refused,) = cells.inspect(of_batch(batch), 10_000, "", None)
    assert (refused.id, refused.severity, refused.status) == ("small-cells", "error", 78)
    for good in nearest_batches(batch):
        assert f"{good}" in refused.fix and not cells.inspect(of_batch(good), 10_000, "", None)
    assert not cells.inspect(of_batch(batch, "vit_ti_16"), 10_000, "", None), (
        "no norm over the batch"
    )
    for module in (Plain(), Frozen()):
        assert not cells.inspect(of_batch(batch), 10_000, "", module)
    written = of_batch(batch, batch__cell=largest_cell(batch))
    assert [f.severity for f in cells.inspect(written, 10_000, "", None)] == ["warning"], (
        "the user wrote the cell"
    )


def test_a_prime_batch_up_to_the_largest_cell_is_one_cell() -> None:
    assert not cells.inspect(of_batch(127), 10_000, "", None)
    assert [f.severity for f in cells.inspect(of_batch(7), 10_000, "", None)] == ["warning"]
    assert [f.severity for f in cells.inspect(of_batch(1), 10_000, "", None)] == ["error"]
    assert [f.severity for f in cells.inspect(of_batch(1, batch__cell=1), 10_000, "", None)] == [
        "warning"
    ]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_one_image_is_not_mixed_with_itself(kind: str) -> None:
    for batch, cell in ((131, 0), (4, 1), (1, 0)):
        with pytest.raises(ConfigError, match="mixup and cutmix need two images") as caught:
            of_batch(batch, **{"batch__cell": cell, f"augment__{kind}": 0.2})
        assert "--batch-size" in str(caught.value)
    assert of_batch(132, **{f"augment__{kind}": 0.2}).cell == 66


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("mixup", [0, 0.2])
def test_a_default_batch_that_shrinks_has_good_cells(repeats: int, mixup: float) -> None:
    for model, least in (("resnet8", 16), ("vit_ti_16", 1 + (mixup > 0))):
        for count in (3, 4, 9, 17, 40, 63, 64, 100, 500):
            given = of_batch(384, model, augment__repeats=repeats, augment__mixup=mixup)
            small, said = cells.shrink_batch(given, count, explicit=False)
            batch, cell = small.batch.global_, small.cell
            assert (
                batch <= count
                and batch % repeats == 0
                and cell % repeats == 0
                and batch % cell == 0
            )
            assert cell >= min(least, count // 2), (model, count, batch, cell)
            assert batch <= max(count // 4, 2 * least * repeats) and f"384 -> {batch}" in said
            assert not [f for f in cells.inspect(small, count, said, None) if f.severity == "error"]
            assert cells.shrink_batch(given, count, explicit=True) == (given, "")


def test_the_command_line_refuses_it_before_training_and_its_advice_works(tmp_path: Path) -> None:
    settings = (
        "train",
        "resnet8",
        "--epochs",
        "1step",
        "--set",
        "batch.cell=0",
        "--out",
        str(tmp_path / "run"),
    )
    done = console.run_here(*settings, "--batch-size", "131")
    assert done.status == 78 and "131 cells (micro-batches) of 1 image" in done.stderr
    assert "--batch-size 130 or 132" in done.stderr and not (tmp_path / "run").exists()
    assert console.run_here(*settings, "--batch-size", "132").status == 0


def test_a_cell_of_the_recipe_that_is_left_for_another_batch_is_said(tmp_path: Path) -> None:
    settings = ("train", "small-images", "resnet8", "--epochs", "1step", "--image-size", "16")
    done = console.run_here(*settings, "--batch-size", "100", "--out", str(tmp_path / "run"))
    assert done.status == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert (
        "= 1 cell (micro-batch) x 100 images x 1 rank; the recipe's cell of 250 does not divide it"
        in said
    )
