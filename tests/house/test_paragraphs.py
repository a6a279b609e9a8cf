"""Long functions have paragraphs, lines end at 100 columns, and the formatter stays switched on."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from source_tree import (
    ROOT,
    Function,
    Module,
    Violation,
    functions,
    ours,
    parse,
    require_none_in,
    saccade,
)

BODY_LINES = 20
COLUMNS = 100
FORMATTER_OFF = re.compile(r"#\s*fmt:\s*(skip|off)")
FORMATTER_OFF_PLACES = 10
LONG_LINE_EXCUSED = re.compile(
    r"#\s*noqa(?!:)|#\s*noqa:[^#]*\bE501\b|#\s*ruff:\s*noqa", re.IGNORECASE
)


def comments(text: str) -> dict[int, str]:
    """Return the comments of a file by line; what looks like one inside a string is none."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def body_lines(function: Function) -> range:
    """Return the lines of a function below its signature and its docstring."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    if not body:
        return range(0)
    return range(body[0].lineno, (function.end_lineno or 0) + 1)


def without_paragraphs(modules: Sequence[Module]) -> list[Violation]:
    """Find functions whose body is one block of ``BODY_LINES`` lines and more."""
    found = []
    for module in modules:
        lines, remarks = module.text.splitlines(), comments(module.text)
        for name, function in functions(module.tree):
            body = body_lines(function)
            if len(body) < BODY_LINES:
                continue
            if any(not lines[line - 1].strip() or line in remarks for line in body):
                continue
            what = f"has {len(body)} lines without one blank line or comment"
            found.append(Violation(f"{module.place}::{name}", function.lineno, what))
    return found


def packed_lines(modules: Sequence[Module], wanted: re.Pattern[str]) -> list[str]:
    """Return where comments tell the formatter or the linter to look away."""
    return [
        f"{module.place}:{line}"
        for module in modules
        for line, comment in comments(module.text).items()
        if wanted.search(comment)
    ]


def bench() -> list[Module]:
    """Parse the benchmarks."""
    return parse(ROOT / "bench", ROOT)


def test_long_functions_have_paragraphs() -> None:
    require_none_in("paragraphs", without_paragraphs([*saccade(), *bench()]))


def test_lines_end_at_100_columns() -> None:
    """ruff measures the lines; this looks after what it is told."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert ruff["line-length"] <= COLUMNS
    lint = ruff["lint"]
    assert "E" in lint["select"]
    excused = [
        *lint["ignore"],
        *(rule for rules in lint.get("per-file-ignores", {}).values() for rule in rules),
    ]
    assert not [rule for rule in excused if "E501".startswith(rule)]
    assert "pycodestyle" not in lint, "pycodestyle.max-line-length is another limit for E501"
    assert not packed_lines(ours(), LONG_LINE_EXCUSED)


def test_the_formatter_is_hardly_ever_switched_off() -> None:
    places = packed_lines(ours(), FORMATTER_OFF)
    assert len(places) <= FORMATTER_OFF_PLACES, places


def parsed(folder: Path, text: str) -> list[Module]:
    (folder / "saccade").mkdir()
    (folder / "saccade" / "log.py").write_text(text)
    return parse(folder / "saccade", folder)


BLOCK = [f"    x{i} = {i}" for i in range(BODY_LINES)]


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (BLOCK, True),
        (['    """A sentence.\n\n    A blank line above."""', *BLOCK], True),
        (["    x = '#'", *BLOCK], True),
        (BLOCK[1:], False),
        ([*BLOCK[:7], "", *BLOCK[7:]], False),
        ([*BLOCK[:7], "    # because", *BLOCK[7:]], False),
    ],
)
def test_control_a_block_without_paragraphs_is_seen(
    tmp_path: Path, body: list[str], seen: bool
) -> None:
    found = without_paragraphs(parsed(tmp_path, "\n".join(["def f():", *body, ""])))
    assert [v.place for v in found] == ["saccade/log.py::f"] * seen


@pytest.mark.parametrize("mark", ["skip", "off"])
def test_control_a_formatter_switched_off_is_seen(tmp_path: Path, mark: str) -> None:
    modules = parsed(tmp_path, f"x = 1  # fmt: {mark}\ny = '# fmt: {mark}'\n")
    assert packed_lines(modules, FORMATTER_OFF) == ["saccade/log.py:1"]


@pytest.mark.parametrize("mark", ["# noqa", "# noqa: E501", "# noqa: F401, E501", "# ruff: noqa"])
def test_control_an_excused_long_line_is_seen(tmp_path: Path, mark: str) -> None:
    assert packed_lines(parsed(tmp_path, f"x = 1  {mark}\n"), LONG_LINE_EXCUSED)


def test_control_other_excuses_are_none(tmp_path: Path) -> None:
    assert not packed_lines(parsed(tmp_path, "x = 1  # noqa: F401\n"), LONG_LINE_EXCUSED)
