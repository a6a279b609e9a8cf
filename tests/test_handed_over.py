"""Training, evaluating and resuming on images that a Python program has in its hands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

import console
import saccade
from saccade.errors import ConfigError, DataError, PreemptedError, UsageError
from saccade.log import Log
from saccade.runs import run_folder

NAMES = ("dog", "cat")
SHORT: dict[str, Any] = {"model": "resnet8", "epochs": "4step", "quiet": True, "batch_size": 16}


def images(num: int = 80) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images, uint8 (num, 12, 12, 3), darker ones of the class 1, and their labels."""
    labels = np.arange(num) % 2
    values = np.random.default_rng(0).integers(0, 128, (num, 12, 12, 3), np.uint8)
    return values + np.uint8(100) * (1 - labels)[:, None, None, None].astype(np.uint8), labels


X, Y = images()
WORDS = [NAMES[label] for label in Y]


def weights(folder: Path) -> bytes:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))


def test_a_run_on_arrays_is_bit_for_bit_the_run_on_the_same_images_as_a_folder_of_png(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, (image, word) in enumerate(zip(X, WORDS, strict=True)):
        (tmp_path / "pngs" / word).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "pngs" / word / f"{i:04}.png")
    files = saccade.train(data=tmp_path / "pngs", holdout="20%", out=tmp_path / "a", **SHORT)
    arrays = saccade.train(data=(X, WORDS), holdout="20%", out=tmp_path / "b", **SHORT)
    assert weights(files.folder) == weights(arrays.folder)
    assert files.result["correct"] == arrays.result["correct"]

    # handed over once more, the images that were learned from are not scored
    again = saccade.evaluate(arrays.folder, (X, WORDS))
    assert (again.n, again.correct) == (arrays.result["n"], arrays.result["correct"])
    assert saccade.evaluate(arrays.folder, (X ^ 1, WORDS)).n == len(X)

    capsys.readouterr()
    learned = saccade.load(arrays.folder).recipe.learned
    run_folder.conclude(arrays.result, arrays.folder, 1.0, Log(), objective=learned)
    told = "".join(capsys.readouterr())
    assert "saccade.evaluate(" in told and "saccade eval " not in told


def test_the_same_contents_find_their_run_again_and_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"data": (X[:60], Y[:60]), "val": (X[60:], Y[60:])}
    with pytest.MonkeyPatch.context():
        stop_after(2)
        with pytest.raises(PreemptedError):
            saccade.train(**given, **SHORT)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("resnet8-python-")

    changed = X[:60].copy()
    changed[3, 0, 0, 0] ^= 1
    with pytest.raises(ConfigError, match="the images: "):
        saccade.train(data=(changed, Y[:60]), val=given["val"], out=run, **SHORT)

    pictures = [Image.fromarray(image) for image in X]
    same = {"data": (pictures[:60], list(Y[:60])), "val": (torch.from_numpy(X[60:]), Y[60:])}
    done = saccade.train(**same, **SHORT)
    assert done.folder == Path("runs") / run.name and done.fresh
    assert not saccade.train(**given, **SHORT).fresh

    for call in (
        lambda: saccade.evaluate(done.folder),
        lambda: saccade.train(done.folder / "config.yaml", out=done.folder),
    ):
        with pytest.raises(DataError, match=r"saccade.evaluate\(run, data=...\)"):
            call()
    typed = console.run_here("eval", str(done.folder))
    assert typed.status == 65 and "passed from Python" in typed.stderr
    assert saccade.evaluate(done.folder, given["val"]).correct == done.result["correct"]
    assert saccade.evaluate(done.folder, {"val": given["val"]}).n == 20


def test_classes_are_matched_by_name_between_what_is_handed_over_and_files(tmp_path: Path) -> None:
    for i in range(60, 80):
        (tmp_path / "val" / WORDS[i]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).save(tmp_path / "val" / WORDS[i] / f"{i}.png")
    out = tmp_path / "run"
    run = saccade.train(data=(X[:60], WORDS[:60]), val=tmp_path / "val", out=out, **SHORT)
    reversed_names = saccade.evaluate(run.folder, (X[60:], WORDS[60:]))
    assert reversed_names.correct == run.result["correct"] and run.result["n"] == 20
    assert saccade.load(out).recipe.classes == ("cat", "dog")
    with pytest.raises(DataError, match="unknown classes in the split 'all': cow"):
        saccade.evaluate(run.folder, (X[:4], ["cat", "dog", "cow", "cow"]))


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        ({"data__processes": 2}, ConfigError, "threads then read it"),
        ({"labels": "labels.csv"}, UsageError, "labels"),
        ({"split_names": "train=a"}, UsageError, "split_names"),
    ],
)
def test_what_is_about_files_is_refused_beside_objects(
    flags: dict[str, Any], error: type, words: str
) -> None:
    with pytest.raises(error) as caught:
        saccade.train(data=(X, Y), holdout=0.2, dry_run=True, **flags)
    assert words in str(caught.value)


def test_a_set_may_be_opened_once_for_several_runs() -> None:
    source = saccade.open_source({"train": (X, Y), "val": (X, Y)})
    assert list(source.splits) == ["train", "val"] and len(source.splits["val"]) == 80
    assert saccade.open_source(source) is source
    given = {"train": (X, Y), "val": (X, Y)}
    once, again = (saccade.train(data=data, dry_run=True).settings for data in (source, given))
    assert once == again


def test_settings_are_settled_for_the_size_of_what_is_handed_over() -> None:
    settings = saccade.train(data=(X, Y), val=(X, Y), dry_run=True).settings
    assert settings["data"]["train"] == "python:data" and settings["data"]["val"] == "python:val"
    assert settings["data"]["image_size"] < 64


SCRIPT = """
import numpy as np, saccade
x = np.random.default_rng(0).integers(0, 256, (160, 12, 12, 3), np.uint8)
y = np.arange(160) % 4
kind = {kind!r}
if kind == "dataset":
    class Pairs:
        def __len__(self): return len(x)
        def __getitem__(self, i): return x[i], int(y[i])
    data = Pairs()
else:
    data = (x, y)
saccade.train(data=data, holdout="20%", model="resnet8", epochs="24step", seed=3,
              batch_size=16, batch__cell=8, out={out!r}, checkpoint__every="4step")
"""


def script(folder: Path, out: str, kind: str, ranks: int = 1) -> list[str]:
    path = folder / f"{out}-{kind}.py"
    path.write_text(SCRIPT.format(kind=kind, out=str(folder / out)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *(torchrun if ranks > 1 else []), str(path)]


@pytest.mark.full
def test_a_killed_script_resumes_bit_for_bit_even_from_another_kind_of_object(
    tmp_path: Path,
) -> None:
    subprocess.run(script(tmp_path, "through", "arrays"), check=True)
    first = subprocess.Popen(script(tmp_path, "killed", "arrays"))
    while not list((tmp_path / "killed" / "checkpoints").glob("step_0000001*")):
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    again = subprocess.run(
        script(tmp_path, "killed", "dataset"), check=True, capture_output=True, text=True
    )
    assert "resuming at step" in again.stderr
    assert weights(tmp_path / "killed") == weights(tmp_path / "through")


@pytest.mark.full
def test_every_rank_has_the_object_and_ranks_with_different_ones_are_refused(
    tmp_path: Path,
) -> None:
    done = subprocess.run(script(tmp_path, "two", "arrays", 2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "model.safetensors").exists()

    (path,) = tmp_path.glob("two-arrays.py")
    line = "y = np.arange(160) % 4"
    text = path.read_text().replace("import numpy as np", "import os, numpy as np")
    path.write_text(text.replace(line, f"{line}\nx[0] += int(os.environ['RANK'])"))
    wrong = [*script(tmp_path, "other", "arrays", 2)[:-1], str(path)]
    refused = subprocess.run(wrong, capture_output=True, text=True)
    assert refused.returncode and "rank 1 differs from rank 0: images" in refused.stderr
