"""Write docs/coverage.md: what Saccade is asked to do, and the tests that show that it does.

python docs/tools/coverage.py

The rows are those of ``coverage_rows.txt`` beside this file. A test names its rows by a mark:
``@pytest.mark.spec(7)`` or ``spec("A9")`` for the first two tables, ``@pytest.mark.fault("B1")``
for the third.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = Path(__file__).with_name("coverage_rows.txt")
PAGE = ROOT / "docs" / "coverage.md"
SHELVES = {"full": "long shelf", "models": "models' shelf", "mutants": "mutants' shelf"}
MARKS = {"capabilities": "spec", "annoyances": "spec", "faults": "fault"}
OPEN = "open:"

HEAD = """# What works, row by row

Written by `python docs/tools/coverage.py` from marks in the tests; a test checks that it is
current. A row *works* when its tests pass; *open* says what is missing. Tests lie below `tests/`.
Those of the long shelf run in `make test-faults`, those of the models' shelf in
`make test-models`, all others in `make test`. Each table counts the tests of a row; the list behind
it names them.
"""
TITLES = {
    "capabilities": "## What five public training projects can do",
    "annoyances": "## What annoyed in them",
    "faults": "## What breaks training systems",
}
LISTS = {
    "capabilities": "Tests of what the projects can do",
    "annoyances": "Tests of what annoyed",
    "faults": "Tests of what breaks",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its number there, what must work, the command, what is otherwise."""

    table: str
    number: str
    promise: str
    command: str
    remark: str

    @property
    def is_open(self) -> bool:
        """Whether something of it is missing."""
        return self.remark.startswith(OPEN)


@dataclass(frozen=True, slots=True)
class Marked:
    """A test that carries a mark of a row, and the shelf it lies on."""

    place: str
    shelf: str


def rows() -> list[Row]:
    """Return the rows of all tables in their order."""
    found, table = [], ""
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            table = line.removeprefix("== ")
        elif line and not line.startswith("#"):
            number, promise, command, remark = (cell.strip() for cell in line.split("|"))
            found.append(Row(table, number, promise, command, remark))
    return found


def marked() -> dict[tuple[str, str], list[Marked]]:
    """Return the tests of each (mark, row) in the order of their files, read without running."""
    found: dict[tuple[str, str], list[Marked]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        of_file = {name for name, _ in _marks(_file_marks(tree))}
        for test in tree.body:
            if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
                continue
            marks = list(_marks(test.decorator_list))
            shelf = next((SHELVES[name] for name, _ in marks if name in SHELVES), "")
            shelf = shelf or next((SHELVES[name] for name in sorted(of_file & {*SHELVES})), "")
            place = f"{path.relative_to(ROOT / 'tests').as_posix()}::{test.name}"
            for name, numbers in marks:
                for number in numbers if name in MARKS.values() else ():
                    found[name, number].append(Marked(place, shelf))
    return found


def _file_marks(tree: ast.Module) -> list[ast.expr]:
    """Return what ``pytestmark`` of a file holds."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            return node.value.elts if isinstance(node.value, ast.List) else [node.value]
    return []


def _marks(expressions: list[ast.expr]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each ``pytest.mark`` and its arguments as text."""
    for one in expressions:
        call = one if isinstance(one, ast.Call) else None
        name = ast.unparse(call.func if call else one)
        if name.startswith("pytest.mark."):
            given = [str(ast.literal_eval(a)) for a in call.args] if call and _plain(call) else []
            yield name.removeprefix("pytest.mark."), given


def _plain(call: ast.Call) -> bool:
    return all(isinstance(argument, ast.Constant) for argument in call.args)


def page() -> str:
    """Return the page as it should be."""
    tests, parts = marked(), [HEAD]
    for table, title in TITLES.items():
        mine = [row for row in rows() if row.table == table]
        still = [row for row in mine if row.is_open]
        with_command = any(row.command for row in mine)
        parts.append(f"{title}\n\n{len(mine)} rows, {len(still)} of them open.\n")
        head = ["row", "what must work", *["command"] * with_command, "status", "tests"]
        lines = [head, ["---"] * len(head)]
        for row in mine:
            shown = [row.number, row.promise]
            shown += [f"`{row.command}`"] if with_command else []
            status = row.remark if row.is_open else "; ".join(filter(None, ("works", row.remark)))
            lines.append([*shown, status, str(len(tests[MARKS[table], row.number]))])
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
        parts.append(f"### {LISTS[table]}\n")
        parts.append("".join(_listed(row, tests[MARKS[table], row.number]) for row in mine))
    return "\n".join(parts)


def _listed(row: Row, tests: list[Marked]) -> str:
    """Return the tests of a row as a list: in a cell of the table nobody could read them."""
    lines = [f"- **{row.number}**"] if tests else []
    for test in tests:
        lines.append(f"    - `{test.place}`" + (f" ({test.shelf})" if test.shelf else ""))
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
