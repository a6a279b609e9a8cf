"""The shell commands that the documentation shows: where they stand and what they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<run><!-- run -->\n)?```(?P<kind>\w*)[ \t]*[^\n`]*\n(?P<body>.*?)^```[ \t]*$",
    re.M | re.S,
)
SHELLS = {"bash", "sh", "shell", "console"}
PREFIXES = {"time", "nice", "env", "sudo"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of shell commands; it ``runs`` where ``<!-- run -->`` stands above it."""

    place: str
    line: int
    runs: bool
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: the program's name without its folder, and its arguments."""

    program: str
    arguments: list[str]
    place: str
    line: int


def pages(root: Path) -> list[Path]:
    """Return the pages whose commands must work, but for those that are made from the code."""
    return [
        p
        for p in [
            root / "README.md",
            root / "CONTRIBUTING.md",
            *sorted((root / "docs").rglob("*.md")),
        ]
        if p.exists() and p.parent != root / "docs" / "reference"
    ]


def blocks(pages: Iterable[Path], root: Path) -> Iterator[Block]:
    """Yield the fenced shell blocks of some pages."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            if fence["kind"] in SHELLS:
                line = text.count("\n", 0, fence.start("body")) + 1
                runs = fence["run"] is not None
                yield Block(page.relative_to(root).as_posix(), line, runs, fence["body"])


def commands(block: Block) -> Iterator[Command]:
    """Yield the simple commands of a block; ``$`` prompts are dropped, lines with ``\\`` joined."""
    line = block.line
    for text in re.split(r"(?<!\\)\n", block.text):
        joined = text.replace("\\\n", " ").strip().removeprefix("$ ")
        words = shlex.shlex(joined, posix=True, punctuation_chars=";&|<>")
        words.commenters = "#"
        words.whitespace_split = True
        yield from (
            Command(Path(c[0]).name, c[1:], block.place, line) for c in simple_commands(list(words))
        )
        line += text.count("\n") + 1


def simple_commands(words: list[str]) -> Iterator[list[str]]:
    """Split words at ``;``, ``&&`` and ``|``, and cut off redirections, assignments and
    ``time``.
    """
    part: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set(";&|"):
            while part and (re.match(r"\w+=", part[0]) or part[0] in PREFIXES):
                part = part[1:]
            cut = next((i for i, w in enumerate(part) if set(w) <= set("<>")), len(part))
            if part[:cut]:
                yield module_as_program(part[:cut])
            part = []
        else:
            part.append(word)


def module_as_program(words: list[str]) -> list[str]:
    """Turn ``python -m saccade`` into ``saccade``."""
    is_module = Path(words[0]).name.startswith("python") and words[1:2] == ["-m"]
    return words[2:] if is_module else words
