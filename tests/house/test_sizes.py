"""Files, functions and names stay small enough to read."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from source_tree import Module, Violation, functions, ours, parse, require_none, saccade

FILE_LINES = 400
TEST_FILE_LINES = 600  # a list of behaviours is looked up, not read from top to bottom
FUNCTION_LINES = 60
PAGE_LINES = 60
EMPTY_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "manager",
    "managers",
    "base",
    "tools",
}


def long_files(modules: Sequence[Module]) -> list[Violation]:
    """Find files above the limit of their kind."""
    found = []
    for module in modules:
        lines = len(module.text.splitlines())
        limit = TEST_FILE_LINES if Path(module.place).name.startswith("test_") else FILE_LINES
        if lines > limit:
            found.append(Violation(module.place, lines, f"has {lines} lines, the limit is {limit}"))
    return found


def long_functions(modules: Sequence[Module]) -> list[Violation]:
    """Find functions above the limit, docstring included, decorators not."""
    found = []
    for module in modules:
        for name, function in functions(module.tree):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > FUNCTION_LINES:
                what = f"has {lines} lines, the limit is {FUNCTION_LINES}"
                found.append(Violation(f"{module.place}::{name}", function.lineno, what))
    return found


def test_files_are_short() -> None:
    require_none("file-length", long_files(ours()))


def test_functions_are_short() -> None:
    require_none("function-length", long_functions(ours()))


def test_the_training_loop_is_on_one_page() -> None:
    """The function that iterates over the batches and runs the steps: no exception can be
    written for this one.
    """
    loop = next(m for m in saccade() if m.name == "saccade.training.loop")
    loops = [
        function
        for _, function in functions(loop.tree)
        if any(
            isinstance(n, ast.For) and "batches(" in ast.unparse(n.iter) for n in ast.walk(function)
        )
    ]
    assert len(loops) == 1, "one function of training/loop.py holds `for ... in batches(...)`"
    assert (loops[0].end_lineno or 0) - loops[0].lineno < PAGE_LINES


def test_no_file_is_named_after_nothing() -> None:
    named = [m for m in ours() if EMPTY_NAMES & set(m.name.lower().replace("_", ".").split("."))]
    require_none(
        "empty-name", [Violation(m.place, 1, "says nothing about its content") for m in named]
    )


def test_control_a_long_file_and_a_long_function_are_seen(tmp_path: Path) -> None:
    (tmp_path / "saccade").mkdir()
    body = "".join(f"        x{i} = {i}\n" for i in range(FUNCTION_LINES))
    (tmp_path / "saccade" / "log.py").write_text(
        f"class A:\n    def f(self):\n{body}" + "#\n" * FILE_LINES
    )
    modules = parse(tmp_path / "saccade", tmp_path)
    assert [v.place for v in long_files(modules)] == ["saccade/log.py"]
    assert [v.place for v in long_functions(modules)] == ["saccade/log.py::A.f"]
