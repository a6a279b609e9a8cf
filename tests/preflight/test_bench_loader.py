"""The doctor: its figures are of the user's data, and its advice follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saccade.data import packing
from saccade.data.sources import open_source
from saccade.log import Log
from saccade.preflight import bench_loader
from saccade.setup.compose import Request, compose

FOUND = bench_loader.Diagnosis(
    1000, 1e-5, 1e-5, 8e-4, 1e-4, 1e-4, 2000.0, 2, 3000.0, 2e-4, 500, False
)


def advice(found: bench_loader.Diagnosis) -> str:
    return " | ".join(bench_loader._advice(found, compose(Request()).config))


@pytest.mark.spec(52)
def test_the_figures_add_up_on_real_data() -> None:
    found = bench_loader.diagnose(compose(Request()), Log())
    assert found.images == 1437 and found.loader > 0 and found.step > 0 and found.packed_s > 0
    assert min(found.decode_s, found.resize_s) > 0 and found.shared
    assert "share the cores" in bench_loader.show(found)


def test_a_recipe_with_cells_of_any_size_can_be_looked_at() -> None:
    recipe = compose(Request(words=["small-images", "lenet5"], flags={"data.train": "digits"}))
    assert (
        bench_loader.SAMPLE % recipe.config.cell
        and bench_loader.diagnose(recipe, Log()).decode_s > 0
    )


def test_a_pack_is_not_advised_for_a_pack(tmp_path: Path) -> None:
    packing.pack(open_source("digits"), tmp_path / "p", packing.Settings())
    found = bench_loader.diagnose(
        compose(Request(flags={"data.train": str(tmp_path / "p")})), Log()
    )
    assert found.packed_s == 0 and "saccade pack" not in bench_loader.show(found)


@pytest.mark.spec(52)
def test_the_advice_names_the_limit() -> None:
    assert "4 reading threads" in advice(FOUND) and "saccade pack --max-side 500" in advice(FOUND)
    assert "would not help" in advice(replace(FOUND, loader=9000.0))
    assert "the disk is the limit" in advice(replace(FOUND, read_s=5e-3))
    assert "the disk" not in advice(FOUND)
    assert "saccade pack" not in advice(replace(FOUND, packed_s=8e-4))
