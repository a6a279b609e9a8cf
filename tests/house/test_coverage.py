"""The page that says what works is made from the tests: it is current, no row is without a test,
and its commands exist.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from shell_blocks import Block, commands
from source_tree import ROOT
from test_docs import wrong


def script() -> ModuleType:
    """Import docs/tools/coverage.py, which is no package."""
    place = ROOT / "docs" / "tools" / "coverage.py"
    described = importlib.util.spec_from_file_location("docs_coverage", place)
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules[described.name] = module  # dataclasses look for it there
    described.loader.exec_module(module)
    return module


coverage = script()
NUMBERS = {
    "capabilities": [str(number) for number in range(1, 56)],
    "annoyances": [f"A{number}" for number in range(1, 21)],
    "faults": [
        f"{letter}{number}"
        for letter, count in zip("ABCDEFGH", (8, 8, 7, 6, 4, 3, 3, 4), strict=True)
        for number in range(1, count + 1)
    ],
}


@pytest.mark.spec(55)
def test_the_page_is_what_the_marks_in_the_tests_give() -> None:
    shown = coverage.PAGE.read_text(encoding="utf-8")
    assert shown == coverage.page(), "run: python docs/tools/coverage.py"


@pytest.mark.spec(55)
def test_no_row_is_missing_and_each_has_a_test_or_says_what_is_open() -> None:
    rows, tests = coverage.rows(), coverage.marked()
    for table, numbers in NUMBERS.items():
        assert [row.number for row in rows if row.table == table] == numbers
    bare = [
        f"{row.table} {row.number}"
        for row in rows
        if not tests[coverage.MARKS[row.table], row.number] and not row.is_open
    ]
    assert not bare, "rows without a test"
    known = {(coverage.MARKS[row.table], row.number) for row in rows}
    assert {mark for mark, found in tests.items() if found} <= known, "marks of no row"


def test_commands_on_the_page_exist() -> None:
    found = []
    for row in coverage.rows():
        block = Block(f"row {row.number}", 1, False, row.command)
        found += wrong(list(commands(block))) if row.command else []
    assert not found, "\n".join(map(str, found))


def test_control_a_mark_is_read_from_the_source() -> None:
    places = {one.place for one in coverage.marked()["spec", "55"]}
    assert (
        f"house/test_coverage.py::{test_the_page_is_what_the_marks_in_the_tests_give.__name__}"
        in (places)
    )
