"""The pages under docs/explain say what is measured, and show every figure that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saccade.models import meta_model
from saccade.models.cost import cost

PAGES = Path(__file__).parents[2] / "docs" / "explain"
ROW = re.compile(r"^\| `([\w:]+)` \| ([\d,]+) \| ([\d.]+) \|$", re.M)
ROWS = {m[1]: (m[2], m[3]) for page in sorted(PAGES.glob("*.md")) for m in ROW.finditer(page.read_text("utf-8"))}
STRIDES = re.compile(r"^\| `([\w:]+)`, (\d+) px \| (\d) x \d, ([\d.]+) \| (\d) x \d, ([\d.]+) \|$", re.M)


@pytest.mark.models
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_parameters_and_macs_are_measured(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert ROWS[name] == (f"{counts.params:,}", f"{counts.macs / 1e9:.3f}")


@pytest.mark.models
def test_rows_of_strides_are_measured() -> None:
    rows = STRIDES.findall((PAGES / "small-images.md").read_text("utf-8"))
    assert len(rows) == 4
    for name, size, *wanted in rows:
        got = []
        for strides in ((2, 2, 2, 2, 2), ()):
            counts = cost(meta_model(name, num_classes=10, image_size=int(size), strides=strides), int(size))
            got += [str(counts.last_map[0]), f"{counts.macs / 1e9:.3f}"]
        assert got == wanted


def test_every_figure_is_small_and_shown_on_a_page() -> None:
    shown = {f for page in PAGES.glob("*.md") for f in re.findall(r"\]\(images/([^)]+)\)", page.read_text("utf-8"))}
    assert shown == {figure.name for figure in (PAGES / "images").iterdir()}
    assert all(figure.stat().st_size < 60_000 for figure in (PAGES / "images").iterdir())
