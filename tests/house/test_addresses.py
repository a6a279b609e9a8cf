"""No committed file names a package registry or a place on somebody's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from source_tree import ROOT, Violation, require_none

# The brackets keep the patterns from finding themselves.
REGISTRY = re.compile(
    r"py[p]i\.|pythonhoste[d]\.|inde[x]-url|anacond[a]\.|download\.pytorc[h]|npmj[s]\.|trusted-hos[t]",
    re.I,
)
MACHINE = re.compile(
    r"(?<![\w.~}/])(/roo[t]/|/hom[e]/\w|/User[s]/\w|/tm[p]/|/wor[k]/|/mn[t]/|/medi[a]/)|\b[A-Z]:\\\\?User[s]"
)
# The index knows another project by our name: whoever follows such advice installs a stranger's
# code.
NAMESAKE = re.compile(
    r"saccad[e]\[[a-z]|pip3? instal[l]\s+(-\S+\s+)*[\"']?saccad[e]\b(?!-train\b)", re.I
)
GENERATED = {
    ".git",
    ".venv",
    "runs",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    "dist",
    "build",
}


def committed(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not made by tools."""
    for path in sorted(folder.iterdir()):
        if path.name in GENERATED or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from committed(path)
        elif path.is_file():
            yield path


def addresses(folder: Path, *patterns: re.Pattern[str]) -> list[Violation]:
    """Find what patterns forbid in every text file below a folder."""
    found = []
    for path in committed(folder):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # not a text file
        for number, line in enumerate(lines, 1):
            for match in filter(None, (pattern.search(line) for pattern in patterns)):
                found.append(
                    Violation(
                        path.relative_to(folder).as_posix(), number, f"names {match.group()!r}"
                    )
                )
    return found


def test_no_registry_and_no_machine_path_is_committed() -> None:
    require_none("address", addresses(ROOT, REGISTRY, MACHINE))


def test_nobody_is_told_to_install_our_namesake() -> None:
    require_none("namesake", addresses(ROOT, NAMESAKE))


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    bad = [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][\w.]*", line)]
    assert not bad, bad


def test_control_addresses_are_seen(tmp_path: Path) -> None:
    for number, line in enumerate(
        [
            "pip install -i https://py" + "pi.org/simple",
            "data: /ho" + "me/ann/set",
            "/de" + "v/null",
        ]
    ):
        (tmp_path / f"{number}.txt").write_text(line)
    assert [v.place for v in addresses(tmp_path, REGISTRY, MACHINE)] == ["0.txt", "1.txt"]


def test_control_the_namesake_is_seen(tmp_path: Path) -> None:
    program = "pip install"
    bad = [f"{program} saccade", f"{program} -U 'saccade'", "needs saccade" + "[timm]"]
    good = [
        f"{program} timm",
        f"{program} -e .",
        "saccade train",
        f"{program} saccades",
        f"{program} saccade-train",
    ]
    for number, line in enumerate(bad + good):
        (tmp_path / f"{number}.txt").write_text(line)
    assert [v.place for v in addresses(tmp_path, NAMESAKE)] == ["0.txt", "1.txt", "2.txt"]
