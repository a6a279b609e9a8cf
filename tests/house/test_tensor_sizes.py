"""Networks ask tensors for ``x.shape[0]``: ``len(x)`` is a constant in a graph that is exported."""

from __future__ import annotations

import ast

from source_tree import Module, Violation, require_none, saccade


def lengths(module: Module) -> list[Violation]:
    """Find ``len(x)`` where x is a parameter that is annotated as a tensor, in a ``forward``."""
    found = []
    for function in ast.walk(module.tree):
        if not isinstance(function, ast.FunctionDef) or function.name != "forward":
            continue
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        tensors = {
            one.arg for one in given if one.annotation and ast.unparse(one.annotation) == "Tensor"
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "len":
                continue
            if ast.unparse(node.args[0]) in tensors:
                found.append(Violation(module.place, node.lineno, f"asks {ast.unparse(node)}"))
    return found


def test_no_network_asks_a_tensor_for_its_length() -> None:
    require_none("lengths", [v for m in saccade() if "/models/" in m.place for v in lengths(m)])


def test_the_rule_sees_what_it_is_for() -> None:
    code = (
        "class A:\n    def forward(self, x: Tensor) -> Tensor:\n        return x.expand(len(x))\n"
    )
    assert lengths(Module("a", "a.py", False, code, ast.parse(code)))
