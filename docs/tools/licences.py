"""Write docs/licences.md anew: all packages that Saccade is installed with, and their licences.

    python docs/tools/licences.py

Names and licences are what the installed packages say of themselves. Run it on Linux in the
environment of the developers, where all extras are installed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- begin of what docs/tools/licences.py writes -->", "<!-- end of it -->"
ALWAYS, DEVELOPERS = "always", "dev"
LONGEST = 60
SPDX = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache License v2.0": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
}
"""Short names for what packages write; others stay as they are."""


def licence(package: metadata.Distribution) -> str:
    """Return the licence that a package names: its expression, its text, else its classifiers."""
    said = package.metadata
    if expression := said.get("License-Expression"):
        return str(expression)
    lines = (said.get("License") or "").strip().splitlines()
    # a whole licence text is no name
    if len(lines) == 1 and len(lines[0]) <= LONGEST and lines[0] not in ("UNKNOWN", "Dual License"):
        return SPDX.get(lines[0], lines[0])
    kinds = [c for c in said.get_all("Classifier", []) if c.startswith("License ::")]
    names = [kind.rpartition(" :: ")[2] for kind in kinds]
    return " or ".join(SPDX.get(name, name) for name in names) or "not named"


def needed(lines: Iterable[str]) -> Iterator[metadata.Distribution]:
    """Yield the installed packages that requirements lead to, each once."""
    waiting, seen = [Requirement(line) for line in lines], set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            try:
                package = metadata.distribution(requirement.name)
            except metadata.PackageNotFoundError:
                continue  # for another system
            if not extra:
                yield package
            further = [Requirement(line) for line in package.requires or ()]
            waiting += [r for r in further if not r.marker or r.marker.evaluate({"extra": extra})]


def rows() -> dict[str, tuple[str, str]]:
    """Return (licence, the extras that bring it, or ``always``) of all packages by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {ALWAYS: project["dependencies"]} | dict(project["optional-dependencies"])
    found: dict[str, tuple[str, list[str]]] = {}
    for group, lines in groups.items():
        for package in needed(lines):
            name = canonicalize_name(package.metadata["Name"])
            brought = found.setdefault(name, (licence(package), []))[1]
            # what comes anyway, or to users as well, is not told again
            if ALWAYS not in brought and not (brought and group == DEVELOPERS):
                brought.append(group)
    return {name: (found[name][0], ", ".join(found[name][1])) for name in sorted(found)}


def table() -> str:
    """Return the rows as a table in Markdown."""
    lines = [f"| `{name}` | {kind} | {groups} |" for name, (kind, groups) in rows().items()]
    return "\n".join(["| package | licence | with |", "|---|---|---|", *lines])


def main() -> None:
    """Replace what lies between the two marks of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
