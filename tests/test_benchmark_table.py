"""The table of the README that compares Saccade with others says what was measured, and its figure
shows what the table says.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """Return the script that draws the figure."""
    place = ROOT / "docs" / "tools" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark_table", place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for themselves there
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_the_table_is_in_the_log_or_the_records(tool: ModuleType) -> None:
    known = "".join((ROOT / "docs" / page).read_text("utf-8") for page in ("LOG.md", "RECORDS.md"))
    known = re.sub(r"(?<=\d),(?=\d{3})", "", known)
    minutes = {60 * int(m) + int(s) for m, s in re.findall(r"(\d+) min (\d+) s", known)}
    for row in tool.rows(tool.table()):
        for side in filter(None, (row.ours, row.theirs)):
            for figure in (side.middle, side.low, side.high):
                text = f"{figure:.2f}" if row.unit == "top-1 %" else f"{figure:g}"
                is_time = row.unit == "s" and figure in minutes
                assert is_time or re.search(rf"(?<![\d.]){re.escape(text)}(?![\d.]\d)", known), text


def test_rows_with_a_peer_come_first(tool: ModuleType) -> None:
    peers = [row.theirs is not None for row in tool.rows(tool.table())]
    assert sum(peers) >= 5
    assert peers == sorted(peers, reverse=True)


def test_the_figure_was_drawn_from_the_table(tool: ModuleType) -> None:
    assert tool.digest(tool.table()) in tool.FIGURE.read_text("utf-8"), (
        "run docs/tools/benchmark.py again"
    )


def test_control_another_figure_is_another_digest(tool: ModuleType) -> None:
    assert tool.digest(tool.table().replace("81.01", "91.01")) != tool.digest(tool.table())
