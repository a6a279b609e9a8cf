"""The parsed source of the package, and the exceptions to the rules that somebody gave a reason
for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "saccade"
EXCEPTIONS = Path(__file__).with_name("allow.txt")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its dotted name, its place as people write it, its text and its syntax
    tree.
    """

    name: str
    place: str
    is_package: bool
    text: str
    tree: ast.Module


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule. ``place`` is what an exception names: ``path`` or ``path::function``."""

    place: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.place} (line {self.line}): {self.what}"


def parse(package: Path, root: Path) -> list[Module]:
    """Parse every Python file below a folder.

    Names start with the folder's name, places are relative to ``root``.
    """
    modules = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        text = path.read_text(encoding="utf-8")
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(
            Module(name, path.relative_to(root).as_posix(), is_package, text, ast.parse(text))
        )
    return modules


@cache
def saccade() -> tuple[Module, ...]:
    """Parse the package as it is."""
    return tuple(parse(PACKAGE, ROOT))


@cache
def ours() -> tuple[Module, ...]:
    """Parse everything that is ours: the package, the benchmarks and the tests."""
    return (*saccade(), *parse(ROOT / "bench", ROOT), *parse(ROOT / "tests", ROOT))


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """Yield every function and method with its dotted name, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{inside}.{node.name}" if inside else node.name
            if isinstance(node, Function):
                yield name, node
            yield from functions(node, name)
        else:
            yield from functions(node, inside)


def owners(tree: ast.AST) -> dict[ast.AST, str]:
    """Map every node inside a function to the dotted name of the innermost function around it."""
    return {node: name for name, function in functions(tree) for node in ast.walk(function)}


def dotted(node: ast.AST) -> str:
    """Write ``a.b.c`` for a chain of attributes of a name, and the empty string for anything
    else.
    """
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def exceptions(rule: str) -> dict[str, str]:
    """Read the permitted places of one rule with their reasons.

    A line is ``rule place reason...``.
    """
    lines = [line.split(None, 2) for line in EXCEPTIONS.read_text(encoding="utf-8").splitlines()]
    entries = [words for words in lines if words and not words[0].startswith("#")]
    for words in entries:
        assert len(words) == 3, f"{EXCEPTIONS.name}: '{' '.join(words)}' gives no reason"
    return {place: reason for name, place, reason in entries if name == rule}


def require_none(rule: str, violations: list[Violation]) -> None:
    """Fail with the violations that are not permitted, and with permissions that nobody needs
    any more.
    """
    permitted = exceptions(rule)
    left = [str(v) for v in violations if v.place not in permitted]
    stale = sorted(set(permitted) - {v.place for v in violations})
    assert not left, f"{rule}:\n  " + "\n  ".join(left)
    assert not stale, (
        f"{EXCEPTIONS.name} permits {rule} where it is no longer needed: {', '.join(stale)}"
    )


def require_none_in(rule: str, violations: list[Violation]) -> None:
    """Do as ``require_none``, where an exception may also name a whole room: a folder or file."""
    permitted = exceptions(rule)

    def around(place: str) -> set[str]:
        path = Path(place.split("::")[0])
        return {place, path.as_posix(), path.parent.as_posix()} & set(permitted)

    left = [str(v) for v in violations if not around(v.place)]
    needed = {name for v in violations for name in around(v.place)}
    stale = sorted(p for p in set(permitted) - needed if p.endswith(".py") or "::" in p)
    assert not left, f"{rule}:\n  " + "\n  ".join(left)
    assert not stale, (
        f"{EXCEPTIONS.name} permits {rule} where it is no longer needed: {', '.join(stale)}"
    )
