"""The pages under docs/explain say what is measured, and show every figure that is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from saccade.models import meta_model
from saccade.models.parts.cost import cost

PAGES = Path(__file__).parents[2] / "docs" / "explain"
ROW = re.compile(r"^\| `([\w:]+)` \| ([\d,]+) \| ([\d.]+) \|$", re.M)
ROWS = {
    m[1]: (m[2], m[3])
    for page in sorted(PAGES.glob("*.md"))
    for m in ROW.finditer(page.read_text("utf-8"))
}
STRIDES = re.compile(
    r"^\| `([\w:]+)`, (\d+) px \| (\d) x \d, ([\d.]+) \| (\d) x \d, ([\d.]+) \|$", re.M
)


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
            counts = cost(
                meta_model(name, num_classes=10, image_size=int(size), strides=strides), int(size)
            )
            got += [str(counts.last_map[0]), f"{counts.macs / 1e9:.3f}"]
        assert got == wanted


OF_RUNS = ("collapse.png", "masked-images.png", "views.png")
"""Figures of trained networks and of photographs, which are not kept here."""


def test_every_figure_is_small_and_shown_on_a_page() -> None:
    shown = {
        f
        for page in PAGES.glob("*.md")
        for f in re.findall(r"\]\(images/([^)]+)\)", page.read_text("utf-8"))
    }
    assert shown == {figure.name for figure in (PAGES / "images").iterdir()}
    assert all(figure.stat().st_size < 60_000 for figure in (PAGES / "images").iterdir())


@pytest.mark.models
@pytest.mark.spec(54)
def test_the_figures_are_what_the_scripts_draw(tmp_path: Path) -> None:
    for script in ("figures.py", "windows.py"):
        subprocess.run(
            [sys.executable, str(PAGES.parent / "tools" / script), str(tmp_path)], check=True
        )
    figures = [one for one in (PAGES / "images").iterdir() if one.name not in OF_RUNS]
    shown = {figure.name: pixels(figure) for figure in figures}
    drawn = {figure.name: pixels(figure) for figure in tmp_path.iterdir()}
    assert set(drawn) == set(shown)
    for name, picture in shown.items():
        assert drawn[name].shape == picture.shape
        assert np.abs(drawn[name] - picture).mean() < 1, (
            f"{name}: run the scripts of docs/tools again"
        )


def pixels(figure: Path) -> NDArray[np.float64]:
    """Return a picture on white, (H, W, 3), 0 to 255.

    Other versions of matplotlib set letters a little differently.
    """
    with Image.open(figure) as picture:
        colours = np.asarray(picture.convert("RGBA"), np.float64)
    opaque = colours[..., 3:] / 255
    return colours[..., :3] * opaque + 255 * (1 - opaque)
