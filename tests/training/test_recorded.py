"""Run folders of strangers: what is odd in their files is named, and nothing unverified is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import console
import saccade
from saccade import files
from saccade.errors import CheckpointError
from saccade.training import checkpoint, recorded

COMMAND = (
    "train",
    "resnet8",
    "--epochs",
    "2step",
    "--batch-size",
    "32",
    "--set",
    "checkpoint.every=1step",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert console.run_here(*COMMAND, "--out", str(folder)).status == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("", "Expecting value"),
        ("[]", "the whole"),
        ("[" * 100_000, "nested too deeply"),
        ('{"status": NaN}', "NaN"),
        ('{"status": "done"}', "dataset"),
        ("changed", "dataset.fingerprint"),
        ("no result", "result"),
    ],
)
def test_an_odd_run_json_is_refused_by_field_and_the_way_out_works(
    content: str, field: str, run: Path
) -> None:
    path = run / "run.json"
    if content == "changed":
        edit(path, dataset=json.loads(path.read_text())["dataset"] | {"fingerprint": 7})
    elif content == "no result":
        edit(path, result=None)
    else:
        path.write_text(content)
    done = console.run_here(*COMMAND, "--out", str(run))
    assert done.status == 66 and "run.json" in done.stderr and field in done.stderr, done.stderr
    if content == "[]":  # one is enough: the file is gone in any case
        path.unlink()
        assert console.run_here(*COMMAND, "--out", str(run)).status == 0
        facts = recorded.facts(run)
        assert facts is not None and facts["status"] == "done"


@pytest.mark.parametrize(
    ("content", "field"), [("", "settings"), ("- 1\n", "settings"), ("seed: x\n", "seed")]
)
def test_an_odd_config_is_refused_by_field(content: str, field: str, run: Path) -> None:
    (run / "config.yaml").write_text(content)
    for words in ((*COMMAND, "--out", str(run)), ("eval", str(run))):
        done = console.run_here(*words)
        assert done.status == 66 and "config.yaml" in done.stderr and field in done.stderr, (
            done.stderr
        )
    assert console.run_here("report", str(run)).status == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"step": "x"}, "step"),
        ({"step": -1}, "step"),
        ({"evaluations": [{"step": 1}]}, "evaluations.0.top1"),
        ({"layout": []}, "layout"),
        ({"seconds": None}, "seconds"),
        ({"config": 3}, "config"),
        ({"resolved": {"device": {"value": "cpu"}}}, "resolved.precision"),
        ({"skipped": "no"}, "skipped"),
    ],
)
def test_an_odd_state_json_is_refused_by_field(
    changes: dict[str, Any], field: str, run: Path
) -> None:
    folder = newest(run)
    rewrite(folder, lambda facts: facts | changes)
    with pytest.raises(CheckpointError, match=rf"state\.json, {field}"):
        checkpoint.read(folder)


def test_absurd_strides_are_refused_before_they_take_memory(run: Path) -> None:
    def widen(facts: dict[str, Any]) -> dict[str, Any]:
        facts["layout"]["model"]["fc.weight"] = [1 << 40, 1]
        return facts

    rewrite(newest(run), widen)
    with pytest.raises(CheckpointError, match=r"layout\.model\.fc\.weight"):
        checkpoint.read(newest(run))


def test_a_file_that_the_manifest_does_not_list_is_neither_read_nor_passed_over(run: Path) -> None:
    folder = newest(run)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        manifest = json.loads((folder / "manifest.json").read_text())
        listed = dict(manifest["files"])
        del manifest["files"][name]
        (folder / "manifest.json").write_bytes(files.json_bytes(manifest))
        with pytest.raises(CheckpointError, match=rf"{name} is not listed"):
            checkpoint.read(folder)
        (folder / "manifest.json").write_bytes(files.json_bytes(manifest | {"files": listed}))
    (folder / ".DS_Store").write_bytes(b"what macOS leaves everywhere")
    checkpoint.read(folder)
    (folder / "more.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"more\.safetensors is not listed"):
        checkpoint.read(folder)


def newest(run: Path) -> Path:
    return run / "checkpoints" / f"step_{checkpoint.steps_on_disk(run / 'checkpoints')[0]:08d}"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Publish a checkpoint with another ``state.json``, as somebody might who can write a
    manifest.
    """
    contents = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    contents["state.json"] = files.json_bytes(change(json.loads(contents["state.json"])))
    shutil.rmtree(folder)
    files.publish_folder(folder, contents)


def test_a_run_that_lacks_its_config_goes_on_from_its_checkpoint(run: Path) -> None:
    (run / "config.yaml").unlink()
    outcome = saccade.train(
        "resnet8", epochs="2step", batch_size=32, checkpoint__every="1step", out=run, quiet=True
    )
    assert outcome.fresh and (run / "config.yaml").is_file()
