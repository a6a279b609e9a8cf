"""Runs and models that an earlier version wrote are read, scored and continued; see tests/stored.

Files of a version that this one cannot know are refused with a sentence, and nothing is renamed.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import console
import saccade
from saccade import files
from saccade._version import UPDATE, __version__, is_newer
from saccade.errors import CheckpointError, OtherVersionError
from saccade.training import checkpoint, state_json

STORED = Path(__file__).parent / "stored" / "0.1.0"
STEP = Path("checkpoints") / "step_00000051"
CORRECT = {STORED / "stopped" / STEP: 70, STORED / "finished": 131}
"""How many of the 360 test images the version that wrote them named right."""


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Copy the stored run that was stopped in its third epoch."""
    return Path(shutil.copytree(STORED / "stopped", tmp_path / "stopped"))


def rewritten(path: Path, **changes: Any) -> Path:
    """Publish a checkpoint again with other facts in its ``state.json``."""
    contents = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    contents["state.json"] = files.json_bytes(json.loads(contents["state.json"]) | changes)
    shutil.rmtree(path)
    files.publish_folder(path, contents)
    return path


def test_a_stopped_run_of_an_earlier_version_goes_on_by_the_same_command(stopped: Path) -> None:
    command = json.loads((stopped / "run.json").read_text())["command"]
    done = console.run_here(*shlex.split(command), cwd=stopped.parent)
    assert done.status == 0, done.stderr
    assert "resuming at step 51" in done.stderr
    assert "changed" not in done.stderr
    facts = json.loads((stopped / "run.json").read_text())
    assert (facts["status"], facts["attempts"], facts["lineage"]) == ("done", 2, [])
    # 131 where it was written; summing in another order changes a few of them
    assert facts["result"]["correct"] > 110


@pytest.mark.parametrize("subject", CORRECT, ids=lambda path: path.name)
def test_a_model_of_an_earlier_version_scores_what_it_scored(subject: Path) -> None:
    done = console.run_here("eval", str(subject), "--data", "digits", "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["correct"] == CORRECT[subject]


def test_a_run_of_an_earlier_version_is_reported(stopped: Path) -> None:
    done = console.run_here("report", str(stopped))
    assert done.status == 0, done.stderr
    assert (stopped / "report.html").is_file()


def test_a_model_of_an_earlier_version_starts_another_run(tmp_path: Path) -> None:
    start = ("train", "--data", "digits", "--init", str(STORED / "finished"))
    done = console.run_here(*start, "--dry-run", cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert "resnet18_xp03125" in done.stdout


@pytest.mark.parametrize("name", ["format", "draws_version"])
def test_a_checkpoint_of_a_newer_version_is_refused_and_stays(name: str, stopped: Path) -> None:
    # an older checkpoint that could be read must not be gone on from: steps would be lost
    older = stopped / "checkpoints" / "step_00000040"
    rewritten(Path(shutil.copytree(stopped / STEP, older)), step=40)
    rewritten(stopped / STEP, **{name: 99, "layout": "of another form"})
    before = sorted((stopped / "checkpoints").iterdir())
    done = console.run_here("train", "--resume", str(stopped))
    assert done.status == 66
    assert f"a newer version of Saccade wrote this checkpoint: its {name} is 99" in done.stderr
    assert UPDATE in done.stderr
    assert sorted((stopped / "checkpoints").iterdir()) == before


def test_a_checkpoint_of_an_older_format_gives_its_weights(stopped: Path) -> None:
    rewritten(stopped / STEP, format=0)
    with pytest.raises(OtherVersionError, match="an older version") as caught:
        checkpoint.read(stopped / STEP)
    assert "copy ema.safetensors, or" in caught.value.fix
    copy = shutil.copy(stopped / STEP / "ema.safetensors", stopped.parent)
    name = ("--model", "resnet18_xp03125", "--image-size", "16", "--epochs", "1")
    head = ("--set", "finetune.head_start=anew")
    start = ("train", "--data", "digits", *name, *head, "--init", str(copy))
    done = console.run_here(*start, "--out", "another", cwd=stopped.parent)
    assert done.status == 0, done.stderr


def test_a_checkpoint_says_which_version_wrote_it(stopped: Path) -> None:
    state = checkpoint.read(stopped / STEP).meta
    assert state["format"] == state_json.FORMAT
    assert not is_newer(state.get("saccade", __version__))


def test_a_model_of_a_newer_version_is_refused_by_what_it_says(tmp_path: Path) -> None:
    stored = STORED / "finished" / "model.safetensors"
    with safetensors.safe_open(stored, "pt") as handle:
        recipe = json.loads(handle.metadata()["saccade"]) | {"sharpen": 2}
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(stored)
    safetensors.torch.save_file(tensors, file, {"saccade": json.dumps(recipe)})
    with pytest.raises(OtherVersionError, match=r"says 'sharpen'.*a newer version") as caught:
        saccade.load(file)
    assert (caught.value.where, caught.value.fix) == (str(file), UPDATE)


def test_settings_of_a_newer_version_are_refused_with_its_number(stopped: Path) -> None:
    settings = stopped / "config.yaml"
    settings.write_text(settings.read_text() + "sharpening: {amount: 2}\n")
    command = ("train", "--resume", str(stopped))
    assert "changed or damaged: unknown setting 'sharpening" in console.run_here(*command).stderr
    facts = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps(facts | {"saccade": "99.0.0"}))
    done = console.run_here(*command)
    assert done.status == CheckpointError.status
    assert f"Saccade 99.0.0 wrote this run, and {__version__} cannot read it" in done.stderr
    assert UPDATE in done.stderr


@pytest.mark.parametrize(
    ("other", "newer"), [("0.0.9", False), ("99.0.0", True), ("0.10.0", True), ("main", False)]
)
def test_versions_are_compared_by_their_numbers(other: str, newer: bool) -> None:
    assert is_newer(other) is newer
