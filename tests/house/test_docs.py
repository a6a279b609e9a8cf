"""Every command that the documentation shows exists, with its flags, settings, recipes and models.

Some really run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import typer
import typer.main
from shell_blocks import FENCE, Block, Command, blocks, commands, pages
from source_tree import ROOT, Violation, require_none

from saccade import recipes
from saccade.cli.main import app
from saccade.config.layers import Layers
from saccade.errors import SaccadeError
from saccade.models.parts.registry import is_known

RUN_LIMIT_S = 240
GROUP = typer.main.get_command(app)
VERBS: dict[str, typer.core.TyperCommand] = GROUP.commands  # type: ignore[attr-defined]
# click's, or the copy that typer brings
UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])


def objection(arguments: list[str]) -> str:
    """Say what is wrong with the arguments of ``saccade``; the empty string when they are fine."""
    if not arguments or arguments[0] in {"--help", "-h", "--version"}:
        return ""
    verb, *rest = arguments
    if verb not in VERBS:
        return f"there is no verb '{verb}'"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            context = VERBS[verb].make_context(verb, list(rest))
    except typer.Exit:
        return ""  # --help
    except (UsageError, SaccadeError) as error:
        return str(error)
    if verb == "verify-resume":
        return objection(["train", *context.args])
    return meaning(context.params) if verb in {"train", "check", "lr"} else ""


def meaning(parameters: dict[str, object]) -> str:
    """Say which recipe, model or setting does not exist; files are taken on trust."""
    words = [*(parameters.get("words") or []), *filter(None, [parameters.get("model")])]  # type: ignore[misc]
    for word in map(str, words):
        if not (word.endswith((".yaml", ".yml")) or word in recipes.names() or is_known(word)):
            return f"'{word}' is no YAML file, no recipe and no model"
    layers = Layers()
    try:
        # what gradual unfreezing is refused without
        if parameters.get("freeze"):
            layers.set(f"finetune.freeze={parameters['freeze']}")
        for assignment in parameters.get("sets") or []:  # type: ignore[attr-defined]
            layers.set(assignment)
        layers.resolve()
    except SaccadeError as error:
        return str(error)
    return ""


def make_targets() -> set[str]:
    """Return the targets that the Makefile declares as such."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    line = re.search(r"^\.PHONY:(.*)$", makefile, re.M)
    assert line
    return set(line[1].split())


def is_target(word: str) -> bool:
    """Tell whether ``make`` knows a target, by itself or by a rule such as ``train_%``."""
    rule, _, name = word.partition("_")
    if word in make_targets():
        return True
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    is_rule = re.search(rf"^(?:\w+_% )*{rule}_%(?: \w+_%)*:", makefile, re.M)
    return bool(is_rule) and not meaning({"words": [name]})


def wrong(shown: list[Command]) -> list[Violation]:
    """Find commands that would not work as shown."""
    found = []
    for command in shown:
        what = ""
        if command.program == "saccade":
            what = objection(command.arguments)
        elif command.program == "make":
            missing = [
                w for w in command.arguments if not re.match(r"-|\w+=", w) and not is_target(w)
            ]
            what = f"the Makefile has no target {missing}" if missing else ""
        if what:
            found.append(Violation(command.place, command.line, what))
    return found


def shown_blocks() -> list[Block]:
    """Return every shell block of the documentation."""
    return list(blocks(pages(ROOT), ROOT))


@pytest.mark.spec(48, "A20")
def test_every_command_in_the_documentation_exists() -> None:
    require_none("docs-command", wrong([c for block in shown_blocks() for c in commands(block)]))


def test_readme_states_the_two_commands_and_ci_runs_the_second() -> None:
    readme = [c for block in blocks([ROOT / "README.md"], ROOT) for c in commands(block)]
    made = {" ".join(c.arguments) for c in readme if c.program == "make"}
    assert {"demo", "test"} <= made
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "make test"


def inside_sentences(page: Path, root: Path) -> Iterator[Violation]:
    """Yield what is wrong with ``saccade ...`` inside the sentences of a page.

    A verb alone is a name, not a command.
    """
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?<!`)`saccade ([^`]+)`(?!`)", FENCE.sub("", text)):
        what = objection(shlex.split(match[1]))
        if what and not what.startswith("Missing parameter") and "VERB" not in match[1]:
            yield Violation(page.relative_to(root).as_posix(), 0, f"saccade {match[1]}: {what}")


def test_commands_inside_sentences_exist() -> None:
    require_none("docs-command", [v for page in pages(ROOT) for v in inside_sentences(page, ROOT)])


def test_control_a_wrong_command_inside_a_sentence_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`saccade pack` is a name, `saccade pack a b --out c` is wrong, `saccade dance`"
    )
    assert len(list(inside_sentences(page, tmp_path))) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a POSIX shell")
@pytest.mark.parametrize(
    "block", [b for b in shown_blocks() if b.runs], ids=lambda b: f"{b.place}:{b.line}"
)
@pytest.mark.spec("A20")
def test_blocks_marked_run_really_run(block: Block, tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "saccade"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m saccade "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "work").mkdir()
    environment = os.environ | {
        "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }
    script = re.sub(r"^\$ ", "", block.text, flags=re.M)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_control_a_wrong_command_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "```bash\n"
        "$ saccade train --data photos.zip \\\n    --bogus 1   # a comment\n"
        "saccade train && .venv/bin/saccade dance | tee log\n"
        "LR=1 python -m saccade train resnet18000\n"
        "saccade verify-resume --kills 2 --bogus 3\n"
        "saccade train --set lr.bogus=1 > out.txt\n"
        "make demo && make coffee ARGS=--x\n"
        "saccade train resnet18 --set 'data.image_size=128' --dry-run\n"
        "saccade predict RUN cat.jpg --top 3\n"
        "saccade train resnet18 --num-tasks 8\n"
        "make train_resnet50 DATA=photos.zip\n"
        "make train_resnet5000\n"
        "```\n\n```text\nsaccade dance\n```\n"
    )
    found = wrong([c for block in blocks([page], tmp_path) for c in commands(block)])
    assert [v.line for v in found] == [2, 4, 5, 6, 7, 8, 11, 13]


def test_control_only_blocks_marked_run_are_run(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "<!-- run -->\n```bash\nsaccade models\n```\n```bash\nmake demo\n```\n```python\nrun\n```\n"
    )
    assert [b.runs for b in blocks([page], tmp_path)] == [True, False]
