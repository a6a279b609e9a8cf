"""Calls of our own functions and classes name their arguments where there are many."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from source_tree import (
    ROOT,
    Function,
    Module,
    Violation,
    dotted,
    owners,
    parse,
    require_none_in,
    saccade,
)

POSITIONAL = 4


def imports(module: Module) -> tuple[set[str], set[str]]:
    """Return the names that a module imports: from the package, and from elsewhere."""
    own, foreign = set(), set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            is_own = bool(node.level) or (node.module or "").split(".")[0] == "saccade"
            names = own if is_own else foreign
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names = own if alias.name.split(".")[0] == "saccade" else foreign
                names.add((alias.asname or alias.name).split(".")[0])
    return own, foreign


def definitions(tree: ast.AST) -> set[str]:
    """Return the names of all functions, methods and classes that a file defines."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("__")
    }


def methods(tree: ast.AST) -> set[str]:
    """Return the names of all methods that a file defines."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name for one in classes for node in one.body if isinstance(node, Function)}


def variadic(tree: ast.AST) -> set[str]:
    """Return the names of functions that take any number of arguments: a row of words or keys."""
    return {n.name for n in ast.walk(tree) if isinstance(n, Function) and n.args.vararg}


def own_calls(
    module: Module, everywhere: set[str], called_on_objects: set[str]
) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of what is ours, each with the name that is called.

    ``everywhere`` holds the names that the package defines, ``called_on_objects`` the methods among
    them. A bare name is ours when the file defines it or imports it from the package.
    """
    own, foreign = imports(module)
    here = definitions(module.tree)
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            if node.func.id in (own | here) & everywhere:
                yield node.func.id, node
        elif isinstance(node.func, ast.Attribute) and node.func.attr in everywhere:
            root = dotted(node.func).split(".")[0]
            is_method = node.func.attr in called_on_objects and root not in foreign
            if root in own or is_method:
                yield node.func.attr, node


def crowded(modules: Sequence[Module]) -> list[Violation]:
    """Find calls with more than ``POSITIONAL`` arguments whose names the reader has to look up."""
    everywhere = {name for module in modules for name in definitions(module.tree)}
    everywhere -= {name for module in modules for name in variadic(module.tree)}
    called_on_objects = {name for module in modules for name in methods(module.tree)}
    found = []
    for module in modules:
        around = owners(module.tree)
        for name, call in own_calls(module, everywhere, called_on_objects):
            if len(call.args) > POSITIONAL:
                place = f"{module.place}::{around.get(call, '')}".removesuffix("::")
                what = f"calls {name} with {len(call.args)} positional arguments"
                found.append(Violation(place, call.lineno, what))
    return found


def test_arguments_have_names_where_there_are_many() -> None:
    require_none_in("positional", crowded([*saccade(), *parse(ROOT / "bench", ROOT)]))


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("draw(1, 2, 3, 4, 5)", True),
        ("self.draw(1, 2, 3, 4, 5)", True),
        ("Box(1, 2, 3, 4, 5)", True),
        ("log.event(1, 2, 3, 4, 5)", True),
        ("draw(1, 2, 3, 4, e=5)", False),
        ("struct.draw(1, 2, 3, 4, 5)", False),
        ("print(1, 2, 3, 4, 5)", False),
        ("self.fields.event(1, 2, 3, 4, 5)", False),
        ("words(1, 2, 3, 4, 5)", False),
    ],
)
def test_control_a_crowded_call_is_seen(tmp_path: Path, line: str, seen: bool) -> None:
    text = f"""
import struct
from saccade import log
from saccade.boxes import Box
class Box:
    def draw(self, a, b, c, d, e): ...
def words(*all): ...
def draw(a, b, c, d, e): ...
def event(a, b, c, d, e): ...
def f(self):
    {line}
"""
    (tmp_path / "saccade").mkdir()
    (tmp_path / "saccade" / "a.py").write_text(text)
    found = crowded(parse(tmp_path / "saccade", tmp_path))
    assert [v.place for v in found] == ["saccade/a.py::f"] * seen
