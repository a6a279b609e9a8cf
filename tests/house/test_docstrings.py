"""Everything public says what it is, in a sentence; tensors have shapes, quantities have units."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from source_tree import Function, Module, Violation, functions, parse, require_none, saccade

ARRAYS = {"Tensor", "NDArray", "ndarray"}
SHAPE = re.compile(r"\([^()]*,[^()]*\)|\bscalars?\b|\bshapes?\b")
SENTENCE = re.compile(r"(.*\.$|.*\n.*\.(\s|$))", re.MULTILINE)
QUANTITY = re.compile(
    r"(^|_)(timeout|time|size|duration|delay|interval|wait|period|age|elapsed|length)$"
)
FLOATS = {"float", "float | None", "None | float", "Optional[float]"}


def public(module: Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the public things of a module with their names: itself, classes, functions, methods."""
    yield "", module.tree
    yield from public_members(module.tree.body, "")


def public_members(body: list[ast.stmt], inside: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the public definitions of a module or class body.

    What is inside a function is not public.
    """
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from public_members(node.body + node.orelse, inside)
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
        if marks & {"overload", "setter"}:
            continue
        yield f"{inside}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public_members(node.body, f"{inside}{node.name}.")


def undocumented(modules: Sequence[Module]) -> list[Violation]:
    """Find public things without a docstring that begins with a sentence of at most two lines."""
    found = []
    for module in modules:
        for name, node in public(module):
            assert isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            )
            lines = (ast.get_docstring(node) or "").splitlines()
            if not lines:
                found.append(violation(module, name, node, "has no docstring"))
            elif not SENTENCE.match("\n".join(lines[:2])):
                found.append(
                    violation(
                        module,
                        name,
                        node,
                        f"it does not begin with a sentence of one or two lines: {lines[0]!r}",
                    )
                )
    return found


def shapeless(modules: Sequence[Module]) -> list[Violation]:
    """Find public functions and classes with tensors or arrays whose docstring names no shape
    and no scalar.
    """
    found = []
    for module in modules:
        aliases = array_aliases(module)
        for name, node in public(module):
            if isinstance(node, Function):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                annotations = [a.annotation for a in arguments] + [node.returns]
            elif isinstance(node, ast.ClassDef):
                annotations = [
                    s.annotation
                    for s in node.body
                    if isinstance(s, ast.AnnAssign) and is_public(s.target)
                ]
            else:
                continue
            if any(mentions_array(a, aliases) for a in annotations) and not SHAPE.search(
                documentation(node)
            ):
                found.append(
                    violation(
                        module,
                        name,
                        node,
                        "has tensors or arrays, but names no shape (...) and no scalar",
                    )
                )
    return found


def array_aliases(module: Module) -> set[str]:
    """Return the names that stand for arrays in a module, its own aliases such as ``Floats =
    NDArray[...]`` too.
    """
    names = set(ARRAYS)
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            is_alias = isinstance(
                node.value, ast.Name | ast.Attribute | ast.Subscript
            ) and mentions_array(node.value, names)
            names |= {node.targets[0].id} if is_alias else set()
    return names


def mentions_array(annotation: ast.AST | None, names: set[str]) -> bool:
    """Say whether an annotation contains one of the names, however deep."""
    if annotation is None:
        return False
    return any(getattr(n, "id", getattr(n, "attr", "")) in names for n in ast.walk(annotation))


def documentation(node: Function | ast.ClassDef) -> str:
    """Return the docstring of a function, or of a class together with the strings under its
    fields.
    """
    strings = [ast.get_docstring(node) or ""]
    if isinstance(node, ast.ClassDef):
        strings += [ast.unparse(s) for s in node.body if isinstance(s, ast.Expr)]
    return "\n".join(strings)


def is_public(target: ast.expr) -> bool:
    """Say whether the target of an annotated assignment is a public name."""
    return isinstance(target, ast.Name) and not target.id.startswith("_")


def unitless(modules: Sequence[Module]) -> list[Violation]:
    """Find float parameters and fields named like a quantity without the unit in the name."""
    found = []
    for module in modules:
        named: list[tuple[str, str, ast.expr | None, int]] = []
        for name, function in functions(module.tree):
            for a in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]:
                named.append((name, a.arg, a.annotation, a.lineno))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                named.append((node.target.id, node.target.id, node.annotation, node.lineno))
        for place, name, annotation, line in named:
            if (
                annotation is not None
                and ast.unparse(annotation) in FLOATS
                and QUANTITY.search(name)
            ):
                found.append(
                    Violation(
                        f"{module.place}::{place}", line, f"float '{name}' has no unit in its name"
                    )
                )
    return found


def violation(module: Module, name: str, node: ast.AST, what: str) -> Violation:
    """Place a violation at a public thing."""
    return Violation(
        f"{module.place}::{name}" if name else module.place, getattr(node, "lineno", 1), what
    )


def test_everything_public_has_a_docstring_that_begins_with_a_sentence() -> None:
    require_none("docstring", undocumented(saccade()))


def test_tensors_and_arrays_have_shapes_in_the_docstring() -> None:
    require_none("shape", shapeless(saccade()))


def test_quantities_have_units_in_their_names() -> None:
    require_none("unit", unitless(saccade()))


def test_control_what_is_missing_is_seen(tmp_path: Path) -> None:
    (tmp_path / "saccade").mkdir()
    (tmp_path / "saccade" / "mix.py").write_text(
        '"""Mixing."""\n'
        "Floats = NDArray[np.float64]\n"
        "class Box:\n"
        '    """No sentence"""\n'
        "    corners: Tensor\n"
        "    timeout: float = 1.0\n"
        "    timeout_s: float = 1.0\n"
        "def bare(): ...\n"
        "def _private(): ...\n"
        'def flip(x: Floats | None, wait: float) -> None:\n    """Flip it (always)."""\n'
        'def turn(x: Tensor) -> Tensor:\n    """Turn ``x``, (n, 3)."""\n'
    )
    modules = parse(tmp_path / "saccade", tmp_path)
    assert [v.place for v in undocumented(modules)] == [
        "saccade/mix.py::Box",
        "saccade/mix.py::bare",
    ]
    assert [v.place for v in shapeless(modules)] == ["saccade/mix.py::Box", "saccade/mix.py::flip"]
    assert [v.place for v in unitless(modules)] == [
        "saccade/mix.py::flip",
        "saccade/mix.py::timeout",
    ]
