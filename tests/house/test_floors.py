"""A module imports only from lower floors, or from its own floor inside its own folder.

Nothing goes in circles.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from source_tree import ROOT, Module, Violation, parse, require_none, saccade

# A name stands for one module of the ground or the roof, `room.*` for a folder with all its files,
# and no files of a folder below it. docs/architecture.md says what is in which room.
FLOORS = {
    0: "errors units rng printable _version",
    1: "system.*",
    2: "files listeners log findings cache",
    3: "config.* distributed.* data.images.* models.parts.* plugins",
    4: "device.* recipes.* data.archives.* data.augment.* models.quantized.* models.weights.*",
    5: "optim.* data.sources.* models.*",
    6: "data.audit.* objectives.*",
    7: "data.*",
    8: "evaluation.*",
    9: "training.*",
    10: "setup.*",
    11: "preflight.* runs.*",
    12: "report.* exporting.*",
    13: "trainer demo.*",
    14: "api frozen leaving",
    15: "proof cli.*",
    16: "__main__",
}
PLACES = {name: floor for floor, names in FLOORS.items() for name in names.split()}

Edge = tuple[str, str, int]


def floor_of(name: str) -> int | None:
    """Return the floor of a module named without the package.

    None when the map does not know it.
    """
    if name in PLACES:
        return PLACES[name]
    return PLACES.get(f"{name}.*", PLACES.get(f"{name.rpartition('.')[0]}.*"))


def edges(modules: Sequence[Module]) -> list[Edge]:
    """List (importer, imported, line) for every import of a module of the package, wherever it
    is written.
    """
    known = {m.name for m in modules}
    found: list[Edge] = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = from_targets(module, node)
            else:
                continue
            named = {nearest(target, known) for target in targets}
            found += [
                (module.name, target, node.lineno) for target in sorted(named - {"", module.name})
            ]
    return found


def from_targets(module: Module, node: ast.ImportFrom) -> list[str]:
    """Return the dotted names that a ``from ...

    Import ...`` mentions, relative ones made absolute.
    """
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        parts = parts[: len(parts) - node.level + module.is_package]
        base = ".".join([*parts, base] if base else parts)
    return [f"{base}.{alias.name}" for alias in node.names]


def nearest(target: str, known: set[str]) -> str:
    """Return the module that a dotted name lives in, or the empty string when it is not one of
    ours.
    """
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target


def upward(modules: Sequence[Module], package: str = "saccade") -> list[Violation]:
    """Find imports that break the floors.

    The package's own root is exempt: it only hands out names lazily.
    """
    places = {m.name: m.place for m in modules}
    folders = {m.name: m.name if m.is_package else m.name.rpartition(".")[0] for m in modules}
    found = []
    for importer, imported, line in edges(modules):
        if package in (importer, imported):
            continue
        ours, theirs = importer.partition(".")[2], imported.partition(".")[2]
        mine, other = floor_of(ours), floor_of(theirs)
        if mine is None or other is None:
            continue  # test_every_module_has_a_floor names it
        if other > mine or (other == mine and folders[importer] != folders[imported]):
            what = f"{ours} (floor {mine}) imports {theirs} (floor {other})"
            found.append(Violation(places[importer], line, what))
    return found


def circle(modules: Sequence[Module], package: str = "saccade") -> list[str]:
    """Return the modules of one import circle in order, or an empty list."""
    graph: dict[str, set[str]] = {m.name: set() for m in modules if m.name != package}
    for importer, imported, _ in edges(modules):
        if package not in (importer, imported):
            graph[importer].add(imported)
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if ring := follow(target, [*way, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := follow(name, []))), [])


def root_names(modules: Sequence[Module], package: str = "saccade") -> list[Violation]:
    """Find modules that take a lazy name from the package's root, which would hide an import
    from the floors.
    """
    known = {m.name for m in modules}
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import) and module.name != package:
                bare = [
                    a.name
                    for a in node.names
                    if a.name == package or (a.name.startswith(package + ".") and not a.asname)
                ]
                found += [
                    Violation(module.place, node.lineno, f"`import {name}` opens the lazy root")
                    for name in bare
                ]
            elif (
                isinstance(node, ast.ImportFrom)
                and module.name != package
                and node.module == package
            ):
                lazy = [
                    a.name
                    for a in node.names
                    if f"{package}.{a.name}" not in known and a.name != "__version__"
                ]
                found += [
                    Violation(module.place, node.lineno, f"takes {name} from the lazy root")
                    for name in lazy
                ]
    return found


def dynamic(modules: Sequence[Module], package: str = "saccade") -> list[Violation]:
    """Find imports by name at run time, which no floor can see.

    Only the lazy root may have them.
    """
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            names = {getattr(node, "id", ""), getattr(node, "attr", "")}
            if module.name != package and names & {"import_module", "__import__", "entry_points"}:
                found.append(
                    Violation(
                        module.place, getattr(node, "lineno", 0), "imports by name at run time"
                    )
                )
    return found


def test_every_module_has_a_floor() -> None:
    modules = [m for m in saccade() if m.name != "saccade"]
    require_none(
        "floor-map",
        [
            Violation(m.place, 1, "has no floor in FLOORS")
            for m in modules
            if floor_of(m.name.partition(".")[2]) is None
        ],
    )
    names = {m.name.partition(".")[2] for m in modules}
    folders = {
        ".".join(n.split(".")[:depth]) + ".*" for n in names for depth in range(1, n.count(".") + 2)
    }
    assert set(PLACES) <= names | folders, (
        f"FLOORS names what is not there: {set(PLACES) - names - folders}"
    )


def test_the_rooms_of_the_docs_are_the_rooms_of_the_code_in_the_order_of_the_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", page[page.index("## Rooms") :], flags=re.MULTILINE)
    named = [
        name.replace("/", ".").removesuffix(".")
        for row in rows
        for name in re.findall(r"`([^`]+)`", row)
    ]
    floors = [floor_of(name) for name in named]
    assert sorted(named) == sorted(name.removesuffix(".*") for name in PLACES if name != "__main__")
    assert floors == sorted(floors, key=lambda floor: -1 if floor is None else floor)


def test_modules_import_only_from_lower_floors() -> None:
    require_none("floors", upward(saccade()))


def test_no_import_circle_not_even_a_hidden_one() -> None:
    ring = circle(saccade())
    assert not ring, " -> ".join(ring)


def test_no_import_hides_from_the_floors() -> None:
    modules = saccade()
    require_none("hidden-import", root_names(modules) + dynamic(modules))


def test_the_root_imports_nothing_until_it_is_asked() -> None:
    code = (
        "import sys, saccade; print(sorted(m for m in sys.modules if m.startswith(('saccade.', "
        "'torch', 'numpy'))))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['saccade._version']"


def tree_of(folder: Path, files: dict[str, str]) -> list[Module]:
    for name, text in ({"saccade/__init__.py": ""} | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return parse(folder / "saccade", folder)


def test_control_an_upward_import_is_seen_even_inside_a_function(tmp_path: Path) -> None:
    modules = tree_of(
        tmp_path,
        {
            "saccade/rng.py": "def f():\n    from saccade.training.loop import run\n",
            "saccade/data/order.py": "if 0:\n    from ..optim import ema\n",
            "saccade/optim/ema.py": "from saccade import rng\n",
            "saccade/data/loader.py": "from . import order\n",
            "saccade/data/audit/verify.py": "import saccade.data.loader as loader\n",
            "saccade/training/loop.py": "from ..report import page\n",
            "saccade/report/page.py": "from saccade.training import meter\n",
            "saccade/training/meter.py": "",
            "saccade/preflight/trial.py": "from saccade.runs import resuming\n",
            "saccade/runs/resuming.py": "",
        },
    )
    assert sorted(v.what for v in upward(modules)) == [
        "data.audit.verify (floor 6) imports data.loader (floor 7)",
        "preflight.trial (floor 11) imports runs.resuming (floor 11)",
        "rng (floor 0) imports training.loop (floor 9)",
        "training.loop (floor 9) imports report.page (floor 12)",
    ]


def test_control_a_hidden_circle_is_seen(tmp_path: Path) -> None:
    files = {
        "saccade/log.py": "def f():\n    import saccade.files as files\n",
        "saccade/files.py": "from saccade import errors\n",
        "saccade/errors.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from saccade.log import Log\n"
        ),
    }
    ring = circle(tree_of(tmp_path, files))
    assert ring == ["saccade.errors", "saccade.log", "saccade.files", "saccade.errors"]
    assert circle(tree_of(tmp_path, files | {"saccade/log.py": ""})) == []


def test_control_lazy_names_and_run_time_imports_are_seen(tmp_path: Path) -> None:
    files = {
        "saccade/files.py": "from saccade import create_model, log\n",
        "saccade/log.py": "import importlib\nm = importlib.import_module('saccade.cli.main')\n",
    }
    modules = tree_of(tmp_path, files)
    assert [v.what for v in root_names(modules)] == ["takes create_model from the lazy root"]
    assert [v.place for v in dynamic(modules)] == ["saccade/log.py"]
