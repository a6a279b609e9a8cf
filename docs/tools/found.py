"""What the source says of each finding: its severity, its exit status, its words and its advice.

Text that is only known when the program runs, such as names and numbers, becomes ``…``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saccade import errors

SOURCE = Path(__file__).parents[2] / "src" / "saccade"
UNKNOWN = ast.Constant("…")
DOUBTS = re.compile(r'found\["([a-z-]+)"\] = ')
"""How the looks at an encoder in pretraining name what they doubt, in evaluation/collapse.py."""
ORDER = ("id", "severity", "message", "where", "fix", "items", "status")
"""The fields of ``saccade.findings.Finding``, in their order."""
Names = Mapping[str, ast.expr]


@dataclass(frozen=True)
class Said:
    """One place where a finding is made; ``status`` is 0 where it stops nothing."""

    id: str
    severity: str
    message: str
    fix: str
    status: int


def readings(node: ast.expr | None, names: Names, depth: int = 0) -> list[str]:
    """Return what an expression may say, at most two texts; ``…`` stands for what is not known."""
    if node is None or depth > 6:
        return ["…" if node else ""]
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        either = [
            *readings(node.body, names, depth + 1),
            *readings(node.orelse, names, depth + 1),
        ]
        return list(dict.fromkeys(either))[:2]
    if isinstance(node, ast.JoinedStr):
        parts = [
            readings(p.value, {}, depth + 1)[0] if isinstance(p, ast.FormattedValue) else p.value
            for p in node.values
            if isinstance(p, ast.FormattedValue | ast.Constant)
        ]
        return ["".join(str(p) if isinstance(p, str) else "…" for p in parts)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (readings(side, names, depth + 1) for side in (node.left, node.right))
        return [left[0] + right[0]]
    if isinstance(node, ast.Name) and node.id in names:
        return readings(names[node.id], {k: v for k, v in names.items() if k != node.id}, depth + 1)
    return ["…"]


def text(node: ast.expr | None, names: Names) -> str:
    """Return the longest thing that an expression may say; dots that follow each other are one."""
    said = max(readings(node, names), key=lambda one: len(one.replace("…", "")))
    said = re.sub(r"\s+", " ", said).strip()
    return re.sub(r"(…[,; ]*)+…", "…", said)


def assigned(body: ast.AST, before: int) -> dict[str, ast.expr]:
    """Return what the names of a function or module stood for last before a line."""
    names: dict[str, ast.expr] = {}
    for node in sorted(
        (n for n in ast.walk(body) if isinstance(n, ast.Assign | ast.AnnAssign | ast.AugAssign)),
        key=lambda n: n.lineno,
    ):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if node.value is None or (node.lineno > before and isinstance(body, ast.FunctionDef)):
                continue
            if isinstance(target, ast.Name) and isinstance(node, ast.AugAssign):
                names[target.id] = ast.BinOp(names.get(target.id, UNKNOWN), ast.Add(), node.value)
            elif isinstance(target, ast.Name):
                names[target.id] = node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
                names |= {t.id: v for t, v in pairs if isinstance(t, ast.Name)}
    return names


def called(node: ast.Call) -> str:
    """Return the last name of what is called."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return "Finding" if function.attr == "Finding" else function.attr
    return function.id if isinstance(function, ast.Name) else ""


def finding(node: ast.Call, names: Names) -> Iterator[Said]:
    """Yield what a call of ``Finding`` says."""
    given: dict[str, ast.expr] = dict(zip(ORDER, node.args, strict=False))
    given |= {word.arg: word.value for word in node.keywords if word.arg}
    status = readings(given.get("status"), names) if "status" in given else ["0"]
    most = max((int(one) for one in status if one.isdigit()), default=0)
    for name in readings(given.get("id"), names):
        for severity in readings(given.get("severity"), names):
            stops = most if severity == "error" else 0
            message = text(given.get("message"), names)
            yield Said(name, severity, message, text(given.get("fix"), names), stops)


def error(node: ast.Call, names: Names) -> Iterator[Said]:
    """Yield what an error with a finding says."""
    words = {word.arg: word.value for word in node.keywords if word.arg}
    status = getattr(getattr(errors, called(node), None), "status", 0)
    for name in readings(words.get("finding"), names):
        if name:
            what = text(node.args[0] if node.args else words.get("what"), names)
            yield Said(name, "error", what, text(words.get("fix"), names), status)


def parameters(function: ast.FunctionDef, call: ast.Call) -> dict[str, ast.expr]:
    """Return what the parameters of a function are in a call of it."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    given = dict(zip(names, call.args, strict=False))
    return given | {word.arg: word.value for word in call.keywords if word.arg}


def of_module(tree: ast.Module) -> Iterator[Said]:
    """Yield the findings of a module; where a helper makes them, once for each call of it."""
    outside = assigned(ast.Module([n for n in tree.body if isinstance(n, ast.Assign)], []), 0)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for function in functions:
        yield from doubts(function, outside)

    calls = [(f, n) for f in functions for n in ast.walk(f) if isinstance(n, ast.Call)]
    for function, node in calls:
        if any(inner is not function and node in ast.walk(inner) for inner in nested(function)):
            continue
        words = {word.arg for word in node.keywords}
        read = finding if called(node) == "Finding" else error if "finding" in words else None
        if not read:
            continue
        names = outside | assigned(function, node.lineno)
        uses = [(f, n) for f, n in calls if called(n) == function.name and f is not function]
        for user, use in uses or [(function, None)]:
            known = dict(names)
            if use is not None:
                known = outside | assigned(user, use.lineno) | names | parameters(function, use)
            yield from read(node, known)


def doubts(function: ast.FunctionDef, names: Names) -> Iterator[Said]:
    """Yield what a look at an encoder puts into ``found`` under the id of a warning."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and DOUBTS.match(ast.unparse(node).replace("'", '"')):
            target = node.targets[0]
            assert isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant)
            yield Said(str(target.slice.value), "warning", text(node.value, names), "", 0)


def nested(function: ast.FunctionDef) -> list[ast.FunctionDef]:
    """Return the functions inside a function."""
    return [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function]


def findings() -> dict[str, list[Said]]:
    """Return the findings of the whole source by their ids, each way of saying it once."""
    found: dict[str, list[Said]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for said in of_module(ast.parse(file.read_text(encoding="utf-8"))):
            if re.fullmatch(r"[a-z]+(-[a-z]+)*", said.id) and said.id != "error":
                ways = found.setdefault(said.id, [])
                if said not in ways:
                    ways.append(said)
    return found
