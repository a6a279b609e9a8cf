"""Peers are a backend behind one door: nobody else imports them, and that door only when it is
asked.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from source_tree import Module, Violation, owners, parse, require_none, saccade

PEERS = {"torchvision", "timm"}
DOOR = "saccade.models.backends"


def peer_imports(module: Module) -> list[Violation]:
    """Find imports of other people's networks; inside a function of the one door they are fine."""
    owner = owners(module.tree)
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        if module.name == DOOR and node in owner:
            continue
        peers = sorted({name.split(".")[0] for name in names} & PEERS)
        found += [Violation(module.place, node.lineno, f"imports {peer}") for peer in peers]
    return found


def test_peers_are_imported_by_one_module_alone() -> None:
    require_none("peers", [v for m in saccade() for v in peer_imports(m)])


def test_our_own_networks_are_built_without_them() -> None:
    code = (
        "import sys; from saccade.models import create_model, list_models; "
        "create_model('resnet8', num_classes=3);"
        "list_models(); print(sorted({m.split('.')[0] for m in sys.modules} & {'timm', "
        "'torchvision'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_control_an_import_elsewhere_or_at_the_top_is_seen(tmp_path: Path) -> None:
    (tmp_path / "saccade" / "models").mkdir(parents=True)
    inside = "def f():\n    import timm\n    from torchvision import models\n"
    for name in ("backends", "resnet"):
        (tmp_path / "saccade" / "models" / f"{name}.py").write_text(
            inside + "import torchvision.models as m\n"
        )
    found = {
        m.name: [v.line for v in peer_imports(m)] for m in parse(tmp_path / "saccade", tmp_path)
    }
    assert found == {"saccade.models.backends": [4], "saccade.models.resnet": [4, 2, 3]}
