"""Options that several verbs share are declared once, and reach each verb the same way."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer
import typer.main

from console import run_here
from saccade import cli
from saccade.cli.main import app
from saccade.cli.options import KNOWN_DATA, Asked, asking
from saccade.data.sources import KNOWN
from saccade.errors import UsageError
from saccade.setup.flags import FLAGS

VERBS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
NO_VERBS = {"__init__", "app", "main", "options", "foreign_options", "foreign_values"}


@pytest.mark.spec("A10")
def test_every_flag_that_is_a_setting_is_an_option_of_train_and_check() -> None:
    assert {field.name for field in fields(Asked)} == {*FLAGS, "words", "sets"}
    for verb in ("train", "check"):
        spelled = {option for p in VERBS[verb].params for option in p.opts}
        assert {f"--{name.replace('_', '-')}" for name in FLAGS} <= spelled


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("saccade tra", ["train"]),
        ("saccade train photos-s", ["photos-small"]),
        ("saccade train --data cifar", ["cifar10", "cifar100"]),
        ("saccade check --dev", ["--devices"]),
    ],
)
def test_tab_completes_verbs_recipes_data_and_options(
    line: str,
    answers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    for name, value in {**words, "_SACCADE_COMPLETE": "complete_bash"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        app(prog_name="saccade")
    assert capsys.readouterr().out.split() == answers


def test_tab_imports_nothing_heavy() -> None:
    environment = os.environ | {
        "_SACCADE_COMPLETE": "complete_bash",
        "COMP_WORDS": "saccade train ph",
        "COMP_CWORD": "2",
    }
    program = "import sys; sys.argv = ['saccade']; from saccade.__main__ import start; start()"
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported and not imported & {"torch", "numpy", "PIL", "matplotlib"}
    assert "photos" in done.stdout.split()


def test_the_known_sets_that_complete_are_those_there_are() -> None:
    assert KNOWN_DATA == KNOWN


def test_every_file_of_the_room_is_a_verb() -> None:
    files = {path.stem for path in Path(cli.__path__[0]).glob("*.py")} - NO_VERBS
    verbs = {name.replace("-", "_") for name in VERBS} - {"eval"} | {"evaluate"}
    assert files == verbs


def test_what_was_asked_reaches_the_verb_beside_its_own_options() -> None:
    verbs, seen = typer.Typer(), []

    @verbs.command()
    @asking
    def walk(asked: Asked, steps: int = 3) -> None:
        seen.append((asked, steps))

    command = typer.main.get_command(verbs)
    command(["resnet8", "--lr", "0.5", "--steps", "4", "--set", "seed=2"], standalone_mode=False)
    [(asked, steps)] = seen
    assert steps == 4 and asked == Asked(words=["resnet8"], lr=0.5, sets=["seed=2"])
    request = asked.request("here")
    assert (request.words, request.flags, request.sets, request.out) == (
        ["resnet8"],
        {"lr": 0.5},
        ["seed=2"],
        "here",
    )
    with pytest.raises(UsageError, match="is not a"):
        Asked(holdout="half").request()


def test_the_help_of_pretrain_offers_nothing_that_it_refuses() -> None:
    offered = {
        option
        for parameter in VERBS["pretrain"].params
        if not getattr(parameter, "hidden", False)
        for option in parameter.opts
    }
    assert "--freeze" not in offered and "--init" in offered


@pytest.mark.parametrize(
    ("line", "status", "says", "never"),
    [
        ("train --precision fp17", 78, "precision: it must be 'auto', 'fp32'", "Input should be"),
        ("train --epochs ten", 78, "do:    change epochs (length of the run", "(got "),
        ("train --set data.image_size=big", 78, "it must be a whole number (got 'big')", "valid"),
        ("verify-resume --kills x", 2, "it must be a whole number", "parse"),
        ("train missing.yaml", 78, "do:    check the path", "saccade models"),
        ("train --dat digits", 2, "some options are misspelled:\n    --dat", "another trainer"),
        ("pack digits p --quality 200", 78, "where: --quality\n  do:    use a value from 1", "500"),
        ("pack digits p --chroma 4:1:1", 2, "'4:1:1' is not one of", "Value error"),
        ("predict run a.jpg --top 0", 2, "it must be greater than", "Input should be"),
        ("show-augment photos --out x.txt", 2, "'x.txt' does not end in .png", "order"),
        ("recipes nosuch", 78, "do:    `saccade recipes` lists them", "mean"),
        ("quantize nosuch", 66, "there is no run at this path", "these weights"),
    ],
)
def test_wrong_values_are_answered_in_plain_words(
    line: str, status: int, says: str, never: str, tmp_path: Path
) -> None:
    done = run_here(*line.split(), cwd=tmp_path)
    assert done.status == status and says in done.stderr and never not in done.stderr, done.stderr


def test_verify_resume_tells_the_error_of_its_run(tmp_path: Path) -> None:
    done = run_here("verify-resume", "resnet500", cwd=tmp_path)
    assert done.status == 78, "the status is that of the run"
    assert "\n  do:    did you mean resnet50" in done.stderr and "\\x0a" not in done.stderr
