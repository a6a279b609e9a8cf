"""Measure what the rules of the house are about: python tests/house/measure.py [FOLDER].

FOLDER is another checkout, so that two states are compared by one ruler.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from source_tree import ROOT, Module, functions, parse
from test_calls import crowded
from test_paragraphs import BODY_LINES, FORMATTER_OFF, body_lines, comments, packed_lines
from test_paragraphs import without_paragraphs as unbroken

OPTIMISER = re.compile(r"[\"']lamb[\"']|\blamb\b.*\bimport\b|\bimport\b.*\blamb\b")

MARK = re.compile(r"#\s*(fmt|noqa|type|ruff)\b")
"""Words to a tool, which explain nothing."""


def rooms(modules: Sequence[Module]) -> dict[str, list[int]]:
    """Return the lengths of the files that lie directly in each folder, in lines."""
    found = defaultdict(list)
    for module in modules:
        if not module.is_package:
            folder = Path(module.place).parent.as_posix()
            found[folder].append(len(module.text.splitlines()))
    return found


def long_bodies(modules: Sequence[Module]) -> int:
    """Count the functions with a body of ``BODY_LINES`` lines and more."""
    return sum(
        len(body_lines(function)) >= BODY_LINES
        for module in modules
        for _, function in functions(module.tree)
    )


def rows(root: Path) -> dict[str, str]:
    """Return the figures of one checkout by what they measure."""
    package = parse(root / "src" / "saccade", root)
    bench = parse(root / "bench", root)
    everything = [*package, *bench, *parse(root / "tests", root)]

    largest = max(rooms(package).items(), key=lambda room: len(room[1]))
    files = [len(module.text.splitlines()) for module in package]
    long, solid = long_bodies(package), len(unbroken(package))

    lines = [line for module in package for line in module.text.splitlines()]
    code = sum(bool(line.strip()) for line in lines)
    remarks = sum(
        not MARK.match(remark) for module in package for remark in comments(module.text).values()
    )
    wide = sum(len(line) > 100 for line in lines)
    named = [module.place for module in package if OPTIMISER.search(module.text)]
    places = sum(bool(OPTIMISER.search(line)) for line in lines)
    return {
        "files": f"{len(files)}, median {statistics.median(files):.0f} lines, max {max(files)}",
        "largest room": f"{largest[0]}: {len(largest[1])} files, median "
        f"{statistics.median(largest[1]):.0f} lines",
        "functions >= 20 lines without air": f"{solid} of {long} = {solid / long:.0%}",
        "comments per line of code": f"{remarks / code:.1%}",
        "lines over 100 columns": f"{wide} = {wide / len(lines):.1%}",
        "fmt: skip or off": str(len(packed_lines(everything, FORMATTER_OFF))),
        "an optimiser (lamb) is named in": f"{len(named)} files, {places} lines",
        "calls with > 4 positional arguments": str(len(crowded([*package, *bench]))),
    }


if __name__ == "__main__":
    for what, figure in rows(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT).items():
        print(f"{what:38} {figure}")
