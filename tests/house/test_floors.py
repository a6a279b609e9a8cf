"""A module imports only from lower floors, or from its own floor inside its own folder; nothing goes in circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from source_tree import Module, Violation, parse, require_none, saccade

# A name stands for one module, `name.*` for a folder with everything in it; the more exact entry counts.
FLOORS = {
    0: """errors units config_fields config_optim config_augment config files held streams signals log rng
          plain_yaml doors locks cache printable consoles""",
    1: """board dist launcher
          data data.boxes data.fit data.limits data.jpeg data.png data.tiff data.tiles data.images data.names data.links
          data.archives data.zips data.shards data.order data.pool
          data.look data.ledger data.known data.stamps data.download
          models.registry models.layers models.attention models.network
          models.cost models.stages models.fitting models.stored
          models.readings models.weights recipes.*""",
    2: """data.sources.* data.pack data.crops data.augment data.operations data.policies data.mix
          data.verify data.prepare data.sound data.decoded models.*
          training training.losses training.depth training.muon training.lamb training.rmsprop training.optim
          training.schedule training.ema training.precision training.gradients training.kept training.scale
          training.clock training.strips training.allocator training.determinism training.late training.norms
          training.spikes training.recorded training.surroundings training.devices
          training.duplicate""",
    3: "data.loader training.state training.checkpoint training.update training.identity",
    4: "training.bad_steps training.guard training.step evaluation.*",
    5: """training.launch training.request training.meter training.cadence training.records training.preflight
         training.cells training.track training.memory training.compiling training.trial training.finding
         training.doctor training.feeders training.census training.utilisation training.ranks training.contact_sheet
         training.class_maps
         training.ancestor training.descent training.start
         training.handover training.resuming training.table report.*""",
    6: "training.trainer training.proof training.subject report.rates",
    7: "api terminal cli_data cli_lr cli_ranks cli_recipes cli __main__",
}
PLACES = {name: floor for floor, names in FLOORS.items() for name in names.split()}

Edge = tuple[str, str, int]


def floor_of(name: str) -> int | None:
    """Return the floor of a module named without the package; None when the map does not know it."""
    if name in PLACES:
        return PLACES[name]
    parts = name.split(".")
    folders = (".".join(parts[:depth]) + ".*" for depth in range(len(parts), 0, -1))
    return next((PLACES[folder] for folder in folders if folder in PLACES), None)


def edges(modules: Sequence[Module]) -> list[Edge]:
    """List (importer, imported, line) for every import of a module of the package, wherever it is written."""
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
            found += [(module.name, target, node.lineno) for target in sorted(named - {"", module.name})]
    return found


def from_targets(module: Module, node: ast.ImportFrom) -> list[str]:
    """Return the dotted names that a ``from ... import ...`` mentions, relative ones made absolute."""
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        parts = parts[: len(parts) - node.level + module.is_package]
        base = ".".join([*parts, base] if base else parts)
    return [f"{base}.{alias.name}" for alias in node.names]


def nearest(target: str, known: set[str]) -> str:
    """Return the module that a dotted name lives in, or the empty string when it is not one of ours."""
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target


def upward(modules: Sequence[Module], package: str = "saccade") -> list[Violation]:
    """Find imports that break the floors. The package's own root is exempt: it only hands out names lazily."""
    places = {m.name: m.place for m in modules}
    folders = {
        m.name: m.name.split(".")[1] if m.is_package or m.name.count(".") > 1 else "" for m in modules if "." in m.name
    }
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
    """Find modules that take a lazy name from the package's root, which would hide an import from the floors."""
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
                found += [Violation(module.place, node.lineno, f"`import {name}` opens the lazy root") for name in bare]
            elif isinstance(node, ast.ImportFrom) and module.name != package and node.module == package:
                lazy = [a.name for a in node.names if f"{package}.{a.name}" not in known and a.name != "__version__"]
                found += [Violation(module.place, node.lineno, f"takes {name} from the lazy root") for name in lazy]
    return found


def dynamic(modules: Sequence[Module], package: str = "saccade") -> list[Violation]:
    """Find imports by name at run time, which no floor can see; only the lazy root may have them."""
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            names = {getattr(node, "id", ""), getattr(node, "attr", "")}
            if module.name != package and names & {"import_module", "__import__"}:
                found.append(Violation(module.place, getattr(node, "lineno", 0), "imports by name at run time"))
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
    folders = {".".join(n.split(".")[:depth]) + ".*" for n in names for depth in range(1, n.count(".") + 2)}
    assert set(PLACES) <= names | folders, f"FLOORS names what is not there: {set(PLACES) - names - folders}"


def test_modules_import_only_from_lower_floors() -> None:
    require_none("floors", upward(saccade()))


def test_no_import_circle_not_even_a_hidden_one() -> None:
    ring = circle(saccade())
    assert not ring, " -> ".join(ring)


def test_no_import_hides_from_the_floors() -> None:
    modules = saccade()
    require_none("hidden-import", root_names(modules) + dynamic(modules))


def test_the_root_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, saccade; print(sorted(m for m in sys.modules if m.startswith(('saccade.', 'torch', 'numpy'))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


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
            "saccade/rng.py": "def f():\n    from saccade.training.trainer import train\n",
            "saccade/data/order.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import loader\n",
            "saccade/data/loader.py": "from saccade import rng\n",
            "saccade/training/trainer.py": "import saccade.data.loader as loader\nfrom ..report import page\n",
            "saccade/report/page.py": "from saccade.training.meter import Meter\n",
            "saccade/training/meter.py": "",
        },
    )
    assert sorted(v.what for v in upward(modules)) == [
        "data.order (floor 1) imports data.loader (floor 3)",
        "report.page (floor 5) imports training.meter (floor 5)",
        "rng (floor 0) imports training.trainer (floor 6)",
    ]


def test_control_a_hidden_circle_is_seen(tmp_path: Path) -> None:
    files = {
        "saccade/log.py": "def f():\n    import saccade.files as files\n",
        "saccade/files.py": "from saccade import errors\n",
        "saccade/errors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from saccade.log import Log\n",
    }
    ring = circle(tree_of(tmp_path, files))
    assert ring == ["saccade.errors", "saccade.log", "saccade.files", "saccade.errors"]
    assert circle(tree_of(tmp_path, files | {"saccade/log.py": ""})) == []


def test_control_lazy_names_and_run_time_imports_are_seen(tmp_path: Path) -> None:
    files = {
        "saccade/files.py": "from saccade import create_model, log\n",
        "saccade/log.py": "import importlib\nm = importlib.import_module('saccade.cli')\n",
    }
    modules = tree_of(tmp_path, files)
    assert [v.what for v in root_names(modules)] == ["takes create_model from the lazy root"]
    assert [v.place for v in dynamic(modules)] == ["saccade/log.py"]
