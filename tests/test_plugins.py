"""Models that are registered from Python, and packages that add models and sources."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import console
import saccade
from saccade import plugins
from saccade.errors import CheckpointError, ConfigError, DataError, PreemptedError, UsageError
from saccade.models import registered

CODE = """
import numpy as np
from torch import nn

import saccade
from saccade.data.sources.handed import open_handed
from saccade.errors import DataError
from saccade.log import Log

print("tiny was imported")

class Tiny(nn.Module):
    image_size = 32

    def __init__(self, num_classes, dropout=0.0):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, num_classes)

    def forward(self, x):
        return self.out(self.conv(x).relu().mean((2, 3)))

def stripes(spec):
    if spec == "stripes:broken":
        raise KeyError("no such stripes")
    if spec == "stripes:refused":
        raise DataError("these stripes are crooked", where=spec)
    if spec == "stripes:list":
        return [1, 2]
    if spec != "stripes":
        return None
    y = np.arange(40) % 2
    x = np.zeros((40, 8, 8, 3), np.uint8)
    x[y == 0, ::2] = 255
    x[y == 1, :, ::2] = 255
    x[:, 0, 0] = np.arange(40, dtype=np.uint8)[:, None]
    return open_handed((x, y), "stripes", Log(quiet=True))
"""
POINTS = """[saccade.models]
tiny-plug = tiny:Tiny
broken_plug = nonesuch:Tiny
[saccade.sources]
broken = nonesuch:open
stripes = tiny:stripes
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package by hand: its module, and what an installer writes beside it."""
    site = tmp_path / "site"
    facts = site / "tiny_plugin-1.2.dist-info"
    facts.mkdir(parents=True)
    (site / "tiny.py").write_text(CODE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    for kept in (plugins._entries, plugins.load, registered._taken):
        kept.cache_clear()
    yield site
    for kept in (plugins._entries, plugins.load, registered._taken):
        kept.cache_clear()
    sys.modules.pop("tiny", None)


def test_nothing_of_a_plug_in_is_imported_before_an_unknown_name_is_asked_for(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saccade.open_source("digits") and saccade.create_model("resnet8", num_classes=2)
    assert "tiny_plug" in saccade.list_models("tiny*") and "broken_plug" in saccade.list_models()
    assert "tiny" not in sys.modules and capsys.readouterr() == ("", "")
    assert saccade.create_model("tiny-plug", num_classes=3)(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert capsys.readouterr() == ("tiny was imported\n", "")


def test_a_broken_plug_in_is_named_once_and_the_others_work(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="there is no model 'broken_plug'"):
            saccade.create_model("broken_plug", num_classes=2)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("'broken_plug' (saccade.models) of tiny-plugin 1.2 is skipped") == 1
    assert "No module named 'nonesuch'" in told
    assert len(saccade.open_source("stripes").splits["all"]) == 40
    assert "'broken' (saccade.sources)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("spec", "error", "warned"),
    [
        ("stripes:broken", "there is no data at 'stripes:broken'", "KeyError: 'no such stripes'"),
        ("stripes:list", "there is no data at 'stripes:list'", "returned a list"),
        ("stripes:refused", "these stripes are crooked", ""),
        ("nowhere/at/all", "there is no data at 'nowhere/at/all'", ""),
    ],
)
def test_a_source_that_fails_or_refuses_leaves_a_sentence(
    installed: Path, capsys: pytest.CaptureFixture[str], spec: str, error: str, warned: str
) -> None:
    with pytest.raises(DataError) as caught:
        saccade.open_source(spec)
    assert error in str(caught.value)
    assert warned in " ".join(capsys.readouterr().err.split())


def test_the_commands_train_and_score_models_and_data_of_plug_ins(
    installed: Path, tmp_path: Path
) -> None:
    listed = console.run_here("models", "tiny*", "--json")
    assert '"tiny_plug"' in listed.stdout and '"registered"' in listed.stdout
    command = ["--model", "tiny-plug", "--data", "stripes", "--holdout", "50%"]
    trained = console.run_here("train", *command, "--epochs", "2step", "--out", "run", cwd=tmp_path)
    assert trained.status == 0, trained.stderr
    scored = console.run_here("eval", "run", "--json", cwd=tmp_path)
    assert scored.status == 0 and '"n": 20' in scored.stdout, scored.stderr


def test_a_plug_in_never_takes_the_name_of_a_model_of_this_program(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a name that follows a grammar, in no list
    points = POINTS.replace("[saccade.sources]", "resnet8_x2 = tiny:Tiny\n[saccade.sources]")
    (installed / "tiny_plugin-1.2.dist-info" / "entry_points.txt").write_text(points)
    network = saccade.models.create_model("resnet8_x2", num_classes=3)
    assert type(network).__name__ != "Tiny"
    assert "resnet8_x2" not in registered.names()
    assert capsys.readouterr().err.count("has the name of a model of Saccade") == 1


@pytest.mark.full
def test_a_package_that_pip_installed_is_found_by_a_new_process(tmp_path: Path) -> None:
    project, site = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    (project / "tiny.py").write_text(CODE)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tiny-plugin"\nversion = "1.2"\n[tool.setuptools]\npy-modules = ["tiny"]'
        '\n[project.entry-points."saccade.models"]\ntiny-plug = "tiny:Tiny"\n'
        '[project.entry-points."saccade.sources"]\nstripes = "tiny:stripes"\n'
    )
    install = ["install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([sys.executable, "-m", "pip", *install, str(site), str(project)], check=True)

    command = [sys.executable, "-m", "saccade", "train", "--model", "tiny_plug", "--data"]
    command += ["stripes", "--holdout", "50%", "--epochs", "2step", "--out", "run"]
    surroundings = os.environ | {"PYTHONPATH": str(site)}
    subprocess.run(command, cwd=tmp_path, env=surroundings, check=True)
    without = subprocess.run(
        [sys.executable, "-m", "saccade", "eval", "run", "--data", "digits"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert without.returncode == 66 and "there is no model 'tiny_plug'" in without.stderr


# ---- registered from Python


class Net(nn.Module):
    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, width, 3, 2), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean((2, 3)))


class Wider(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@pytest.fixture
def own() -> Iterator[dict[str, Any]]:
    # another test of this process may have registered one
    registered._OWN.clear()
    yield registered._OWN
    registered._OWN.clear()


def test_a_registered_model_trains_resumes_loads_and_predicts(
    own: dict[str, Any], tmp_path: Path, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saccade.register_model("my-net", Net, image_size=32, source="a test")
    short: dict[str, Any] = {"model": "my_net", "epochs": "3step", "quiet": True}
    stop_after(1)
    with pytest.raises(PreemptedError):
        saccade.train("digits", out=tmp_path / "run", **short)
    monkeypatch.undo()

    # the name means another network now: other code, then another width
    for other in (Wider, lambda num_classes: Net(num_classes, 12)):
        saccade.register_model("my_net", other)
        with pytest.raises(ConfigError, match="was saved with another network"):
            saccade.train("digits", out=tmp_path / "run", **short)
    saccade.register_model("my_net", Net)
    done = saccade.train("digits", out=tmp_path / "run", **short)
    assert done.fresh and isinstance(saccade.load(done.folder).network, Net)
    image = np.zeros((8, 8, 3), np.uint8)
    (answer,) = saccade.predict(done.folder, image)
    assert len(answer.top) == 5
    assert saccade.list_models("my*") == ["my_net"]

    own.clear()
    with pytest.raises(CheckpointError, match=r"no model 'my_net'"):
        saccade.load(done.folder)


@pytest.mark.full
def test_the_run_folder_of_a_name_follows_from_the_network_behind_it(
    own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for network in (Net, Wider):
        saccade.register_model("my_net", network)
        outcome = saccade.train("digits", model="my_net", epochs="1step", quiet=True)
        folders.append(outcome.folder)
    assert folders[0] != folders[1]


def test_the_weights_of_a_registered_model_follow_from_the_seed(own: dict[str, Any]) -> None:
    saccade.register_model("my_net", Net)
    before = torch.random.get_rng_state()
    one, same, other = (
        saccade.create_model("my_net", num_classes=2, seed=seed).conv.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "builder", "words"),
    [
        ("resnet50", Net, "a model of Saccade"),
        ("ResNet50_x1p5", Net, "a model of Saccade"),
        ("timm:mine", Net, "is not a valid name"),
        ("7net", Net, "is not a valid name"),
        ("mine", lambda width: Net(width), "does not take num_classes"),
        ("mine", "Net", "does not take num_classes"),
        ("mine", nn.Linear(3, 2), "is a finished network"),
    ],
)
def test_names_and_builders_that_cannot_be_are_refused(
    own: dict[str, Any], name: str, builder: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        saccade.register_model(name, builder)
    assert not own


def test_a_builder_that_fails_or_takes_no_dropout_is_answered(own: dict[str, Any]) -> None:
    saccade.register_model("none", lambda num_classes: None)  # type: ignore[arg-type,return-value]
    saccade.register_model("net", Net)
    saccade.register_model("reads", lambda num_classes: Net(int(torch.ones(1) * num_classes)))
    with pytest.raises(ConfigError, match="repair its builder; it is also called on torch's meta"):
        saccade.train(model="reads", data="digits", epochs="1step", quiet=True)
    with pytest.raises(ConfigError, match="returned a NoneType"):
        saccade.create_model("none", num_classes=2)
    with pytest.raises(ConfigError, match="net does not accept dropout"):
        saccade.create_model("net", num_classes=2, dropout=0.5)
    with pytest.raises(ConfigError, match="strides and patches of net are fixed"):
        saccade.create_model("net", num_classes=2, strides=(1,))
