"""Weights to start from: known by their digest, followed in what they were trained with, judged
by what they saw.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import saccade
from console import run_here
from saccade import files
from saccade.config.schema import DataSection
from saccade.errors import CheckpointError, ConfigError, PreemptedError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model, load_weights
from saccade.models.weights.tensor_bytes import separate
from saccade.setup import ancestor
from saccade.setup.compose import Request, compose

SHORT = ("--epochs", "2step", "--batch-size", "32")


MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with settings that are nobody's defaults, and with an average."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    saccade.train(
        "resnet14",
        image_size=12,
        epochs="2step",
        batch_size=32,
        out=folder,
        quiet=True,
        ema__half_life="1step",
        data__mean=MEAN,
        data__std=STD,
        data__eval_crop=0.75,
    )
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a ViT for images of 24 px, whose patches are therefore of 4 px."""
    network = create_model("vit_ti_16", num_classes=10, image_size=24)
    recipe = Recipe("vit_ti_16", tuple("0123456789"), 24, 0.75, MEAN, STD, "ignore")
    file = tmp_path_factory.mktemp("vit") / "model.safetensors"
    file.write_bytes(Classifier(network, recipe).to_bytes())
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 60 images each, all different, in no split."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(60):
            pixels = np.random.default_rng([label, i]).integers(0, 200, (16, 16, 3)) + 50 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder


def settled(*words: str, **flags: Any) -> Any:
    return compose(Request(words, {n.replace("__", "."): v for n, v in flags.items()})).config


def test_a_run_is_followed_in_its_network_and_pixels_unless_the_user_wants_others(
    source: Path,
) -> None:
    for place in (source, source / "model.safetensors", source / "checkpoints" / "step_00000002"):
        config = settled(model__init=str(place))
        assert config.model.name == "resnet14" and config.data.image_size == 12
        assert (config.data.mean, config.data.std, config.data.eval_crop) == (MEAN, STD, 0.75)
    config = settled(model__init=str(source), data__image_size=48, data__eval_crop=0.9)
    assert (config.data.image_size, config.data.eval_crop, config.data.mean) == (48, 0.9, MEAN)
    assert settled("resnet8", model__init=str(source)).model.name == "resnet8"


def test_the_patch_goes_along_to_another_size_unless_the_user_wants_another(vit: Path) -> None:
    assert settled(model__init=str(vit)).model.patch_size == 0
    config = settled(model__init=str(vit), data__image_size=64)
    assert (config.model.name, config.data.image_size, config.model.patch_size) == (
        "vit_ti_16",
        64,
        4,
    )
    here = create_model(
        "vit_ti_16", num_classes=10, image_size=64, patch_size=config.model.patch_size
    )
    assert load_weights(here, vit).share == 1.0
    assert (
        settled(model__init=str(vit), data__image_size=64, model__patch_size=8).model.patch_size
        == 8
    )
    assert settled("resnet8", model__init=str(vit), data__image_size=64).model.patch_size == 0


def test_strides_go_along_to_another_size(tmp_path: Path) -> None:
    settings = {"model": "resnet18", "image_size": 32, "dry_run": True}
    assert saccade.train(**settings).settings["model"]["strides"] == []
    known = ancestor.Ancestor(
        "x",
        None,
        "",
        {
            "model.name": "resnet18",
            "data.image_size": 32,
            "model.strides": [],
            "model.patch_size": 0,
        },
    )
    assert known.shape() == {"model.strides": [1, 1, 1, 2, 2]}


def test_other_pixels_than_the_weights_were_trained_for_are_warned_of(
    source: Path, tmp_path: Path
) -> None:
    done = run_here(
        "train",
        *SHORT,
        "--init",
        str(source),
        "--out",
        str(tmp_path / "a"),
        "--set",
        "data.mean=[0,0,0]",
    )
    assert done.status == 0 and "was trained with data.mean [0.1, 0.2, 0.3]" in done.stderr
    assert "data.std" not in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("said", ["head", "list", "timm", "transformers"])
def test_the_mean_that_a_file_says_is_followed(said: str, tmp_path: Path) -> None:
    state = create_model("resnet8", num_classes=10).state_dict()
    beside: dict[str, Any] = {}
    remarks = {"head": {"mean": "0.1, 0.2, 0.3", "std": "[0.5, 0.4, 0.3]"}}.get(said)
    if said == "list":
        remarks = {"pretrained_cfg": json.dumps({"mean": MEAN, "std": STD})}
    elif said == "timm":
        beside = {"config.json": {"pretrained_cfg": {"mean": MEAN, "std": STD}}}
    elif said == "transformers":
        beside = {"preprocessor_config.json": {"image_mean": MEAN, "image_std": STD}}
    for name, facts in beside.items():
        (tmp_path / name).write_text(json.dumps(facts))
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors.torch.save(separate(state), remarks))

    config = settled("photos-small", model__name="resnet8", model__init=str(file))
    assert (config.data.mean, config.data.std) == (MEAN, STD)
    assert (
        settled(
            "photos-small", model__name="resnet8", model__init=str(file), data__mean=STD
        ).data.mean
        == STD
    )
    # what is no three numbers is passed over
    for odd in ("[1, 2]", "Infinity", '"x"', "[[]]"):
        file.write_bytes(safetensors.torch.save(separate(state), {"mean": odd, "std": odd}))
        (tmp_path / "config.json").write_text(odd)
        (tmp_path / "preprocessor_config.json").write_text(f'{{"image_mean": {odd}}}')
        assert (
            settled("photos-small", model__name="resnet8", model__init=str(file)).data.mean
            == DataSection().mean
        )


def test_a_library_says_the_mean_of_its_weights_wherever_the_file_lies(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    half = (0.5, 0.5, 0.5)
    file = tmp_path / "lite0.safetensors"
    network = create_model("timm:test_resnet", num_classes=10, image_size=32)
    file.write_bytes(safetensors.torch.save(separate(network.state_dict())))

    # timm's facts of an architecture hold for its published weights, however they came here
    config = settled(
        "photos-small", model__name="timm:tf_efficientnet_lite0", model__init=str(file)
    )
    assert (config.data.mean, config.data.std) == (half, half)
    config = settled(
        "photos-small",
        model__name="timm:tf_efficientnet_lite0",
        model__init="timm:tf_efficientnet_lite0.in1k",
    )
    assert config.model.name == "timm:tf_efficientnet_lite0" and config.data.mean == half
    # of two sets of weights of one architecture the tag says which
    assert (
        settled(
            "photos-small", "timm:vit_base_patch16_224", model__init="timm:vit_base_patch16_224.mae"
        ).data.mean
        == DataSection().mean
    )
    assert (
        settled(
            "photos-small", "timm:vit_base_patch16_224", model__init="timm:vit_base_patch16_224"
        ).data.mean
        == half
    )
    assert (
        settled("photos-small", model__name="resnet8", model__init=str(file)).data.mean
        == DataSection().mean
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:test_resnet", "mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (as timm says)"),
        ("resnet8", "mean and std unknown"),
    ],
)
def test_one_line_says_which_table_what_did_not_fit_and_which_mean(
    name: str, words: str, tmp_path: Path
) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    file = tmp_path / "weights.pth"
    state = create_model(name, num_classes=7, image_size=32).state_dict()
    torch.save({"student": state, "teacher": state | {"extra": torch.ones(3)}}, file)
    done = run_here(
        *("train", name, *SHORT, "--image-size", "32", "--init", str(file)),
        *("--out", str(tmp_path / "run"), "--set", "finetune.head_start=zero"),
    )
    assert done.status == 0, done.stderr
    (line,) = [part for part in done.stderr.splitlines() if part.strip().startswith("from ")]
    digest = files.digest(file)[:12]
    assert f"{file} (SHA-256 {digest})" in line and words in line
    assert "(100.0% of the weights) from the table teacher" in line
    assert "1 unused: extra" in line and line.endswith("; the head starts at zero")
    init = files.read_json(tmp_path / "run" / "run.json")["init"]
    assert init["digest"].startswith(digest) and init["took"].endswith("[teacher]")
    assert init["head"] == "zero" and init["lineage"] == []


def test_one_source_under_many_names_is_one_run_and_a_changed_one_another(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source, tmp_path / "out" / "d")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, tmp_path / "moved")
    names = (
        "out/d",
        "./out/d",
        "out/d/",
        "out/d/model.safetensors",
        str(tmp_path / "out" / "d"),
        "moved",
    )
    digests = {settled(model__init=name).model.init_digest for name in names}
    assert digests == {files.digest(source / "model.safetensors")}
    average = source / "checkpoints" / "step_00000002"
    for place in (average, average / "model.safetensors"):
        assert settled(model__init=str(place)).model.init_digest == files.digest(
            average / "ema.safetensors"
        )

    done = run_here("train", *SHORT, "--init", "out/d", "--out", "run")
    assert done.status == 0, done.stderr
    assert (
        "this run is finished"
        in run_here("train", *SHORT, "--init", "./moved", "--out", "run").stderr
    )
    network = create_model("resnet14", num_classes=10)
    torch.save(network.state_dict(), "other.pth")
    changed = run_here("train", *SHORT, "resnet14", "--init", "other.pth", "--out", "run")
    assert changed.status == 78 and "model.init_digest" in changed.stderr


def test_a_run_goes_on_when_its_source_is_gone(
    source: Path, tmp_path: Path, stop_after: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, tmp_path / "source")
    settings = {"init": "source", "epochs": "4step", "batch_size": 32, "quiet": True}
    stop_after(2)
    with pytest.raises(PreemptedError):
        saccade.train(**settings)
    shutil.rmtree("source")
    (run,) = Path("runs").iterdir()
    assert saccade.train(**settings).folder == Path("runs") / run.name
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "done" and facts["init"]["digest"] == files.digest(
        source / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match="no weights at this path"):
        saccade.train(init="never-there", quiet=True)


def test_run_json_names_source_digest_method_and_lineage(source: Path, tmp_path: Path) -> None:
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"
    for parent, out in ((source, child), (child, grandchild)):
        assert run_here("train", *SHORT, "--init", str(parent), "--out", str(out)).status == 0
    init = json.loads((grandchild / "run.json").read_text())["init"]
    assert init["source"] == str(child) and init["digest"] == files.digest(
        child / "model.safetensors"
    )
    assert init["method"] == "classification" and init["run"] == str(child)
    assert [entry["run"] for entry in init["lineage"]] == [str(child), str(source)]


def test_an_unfinished_run_gives_its_newest_checkpoint(source: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (run / "model.safetensors").unlink()
    found = ancestor.find_weights(str(run))
    assert found.path == run / "checkpoints" / "step_00000002" and found.model == "resnet14"


def test_weights_of_ones_own_network_need_it(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    saccade.train(
        model=network,
        image_size=32,
        epochs="2step",
        batch_size=32,
        out=tmp_path / "own",
        quiet=True,
    )
    with pytest.raises(ConfigError, match="your own network Sequential"):
        saccade.train(init=tmp_path / "own", quiet=True)
    config = settled("custom:Sequential", model__init=str(tmp_path / "own"))
    assert config.model.name == "custom:Sequential" and config.data.image_size == 32


def test_the_head_of_a_checkpoint_is_taken_only_where_the_classes_are_its_own(source: Path) -> None:
    place = source / "checkpoints" / "step_00000002"
    assert not load_weights(
        create_model("resnet14", num_classes=10), place, classes=tuple("0123456789")
    ).head
    others = load_weights(
        create_model("resnet14", num_classes=10), place, classes=tuple("abcdefghij")
    )
    assert others.head == ("fc.weight", "fc.bias")


@pytest.mark.parametrize(
    "lineage", [7, [3], [{"data": []}], [{"data": {}, "seed": "x"}], [{}] * 100_000]
)
def test_an_odd_lineage_is_passed_over(lineage: Any, source: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"init": {"lineage": lineage}}))
    assert [entry["run"] for entry in ancestor.find_weights(str(run)).lineage] == [str(run)]


def held_out(photos: Path, out: Path, *more: str) -> Any:
    return run_here(
        "train",
        "resnet8",
        "--data",
        str(photos),
        "--image-size",
        "16",
        "--epochs",
        "2step",
        "--batch-size",
        "16",
        "--set",
        "batch.cell=0",
        "--out",
        str(out),
        *more,
    )


def test_a_run_that_validates_on_what_its_ancestors_saw_is_refused_and_the_way_out_works(
    photos: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert held_out(photos, first, "--holdout", "0.2", "--seed", "3").status == 0
    refused = held_out(photos, second, "--holdout", "0.2", "--seed", "4", "--init", str(first))
    assert refused.status == 65 and "--holdout 0.2 --seed 3" in refused.stderr, refused.stderr
    assert "of 24 validation images were training images" in " ".join(refused.stderr.split())
    assert (
        held_out(photos, second, "--holdout", "0.2", "--seed", "3", "--init", str(first)).status
        == 0
    )

    # the chain is followed: its middle is clean, its beginning is not there any more but its data
    # is
    moved = Path(shutil.copytree(photos, tmp_path / "elsewhere" / "photos"))
    shutil.rmtree(first)
    found = run_here(
        "check",
        "resnet8",
        "--data",
        str(moved),
        "--image-size",
        "16",
        "--batch-size",
        "16",
        "--set",
        "batch.cell=0",
        "--holdout",
        "0.4",
        "--seed",
        "3",
        "--init",
        str(second),
        "--json",
    )
    ids = [f["id"] for f in json.loads(found.stdout)["findings"] if f["severity"] == "error"]
    assert found.status == 65 and set(ids) == {"init-saw-validation"}


def test_a_minival_that_ancestors_were_trained_on_is_a_warning_and_the_way_out_works(
    photos: Path, tmp_path: Path
) -> None:
    first, known, held = (
        tmp_path / "first",
        ("--holdout", "0.2", "--minival", "0.2"),
        ("--seed", "3"),
    )
    assert held_out(photos, first, *known, *held).status == 0
    said = {
        minival: run_here(
            "check",
            "resnet8",
            "--data",
            str(photos),
            "--image-size",
            "16",
            "--batch-size",
            "16",
            *held,
            "--holdout",
            "0.2",
            "--minival",
            minival,
            "--init",
            str(first),
            "--json",
        )
        for minival in ("0.2", "0.4")
    }
    found = {minival: json.loads(done.stdout)["findings"] for minival, done in said.items()}
    assert not [f for f in found["0.2"] if f["id"] == "init-saw-validation"]
    (warning,) = [f for f in found["0.4"] if f["id"] == "init-saw-validation"]
    assert warning["severity"] == "warning" and "--minival 0.2 --seed 3" in warning["fix"]
    assert "of 38 images of 'minival'" in warning["message"]


def test_what_cannot_be_judged_is_a_note(source: Path, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    facts = json.loads((run / "run.json").read_text())
    facts["trained_on"]["data"]["train"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(facts))
    done = held_out(photos, tmp_path / "new", "resnet14", "--holdout", "0.2", "--init", str(run))
    assert done.status == 0 and "note [init-saw-validation]" in done.stderr
