"""What people read is plain international English: some riddles may not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RIDDLES = {
    r"\b(?<!there )(?:is|are) no (?!longer\b)": "is not a ...",
    r"\bgo(?:es)? on\b": "continues",
    r"\bleave \S+ out\b": "remove ...",
    r"\bleft out\b": "skipped",
    r"\bhand(?:ed|s)? over\b": "passed, pass",
    r"\bjudged?\b": "evaluated, evaluate",
    r"\bborne\b": "before ...",
    r"\bhardly\b": "almost no",
    r"\bnowhere\b": "never",
    r"\bso many\b": "this many, number of ...",
    r"\bof (?:others|ours)\b": "from another program, of Saccade",
    r"\bfor want of\b": "because there is no ...",
    r"\bin vain\b": "without success",
    r"\bas it should be\b": "check ...",
    r"(?<!`)--resume never\b(?!`)": "`--resume never`, quoted, or it reads as its opposite",
}
"""Patterns of house dialect that messages once had, and the plain words for each."""


def messages(code: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every sentence in a module that is no docstring."""
    tree, parts, docs = ast.parse(code), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            docs.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}

    for node in ast.walk(tree):
        if id(node) in parts or id(node) in docs:
            continue
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            values = node.values
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in values)
        if len(text.split()) > 2:
            yield node.lineno, text


def riddles(code: str, where: str) -> list[str]:
    """Return a line for each riddle in the messages of a module."""
    return [
        f"{where}:{line}: {text!r}; plain: {plain}"
        for line, text in messages(code)
        for pattern, plain in RIDDLES.items()
        if re.search(pattern, text, re.IGNORECASE)
    ]


def test_messages_are_plain_english() -> None:
    found = []
    for path in sorted((ROOT / "src" / "saccade").rglob("*.py")):
        found += riddles(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "message",
    [
        "'this is no tar archive'",
        "f'{n} images are left out'",
        "'hand it over; hand over the class'",
        "'start anew with --resume never'",
        "'the run goes on'",
    ],
)
def test_control_a_riddle_is_found(message: str) -> None:
    assert riddles(f'"""It goes on."""\nraise ValueError({message})\n', "x.py")


@pytest.mark.parametrize(
    "message", ["'there is no such page'", "'start a new run with `--resume never`'"]
)
def test_plain_sentences_pass(message: str) -> None:
    assert not riddles(f"raise ValueError({message})\n", "x.py")
