"""The command line as a user meets it: every verb, every status, on the built-in digits.

Some as a real process.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from PIL import Image

import console
from saccade._version import __version__
from saccade.cli import main
from saccade.evaluation.classifier import Classifier

QUICK = ("--epochs", "2", "--set", "data.threads=2")


def saccade(
    *arguments: str, cwd: Path, status: int = 0, run: Callable[..., console.Done] = console.run_here
) -> console.Done:
    done = run(*arguments, cwd=cwd)
    assert done.status == status, f"{done.status}: {done.stderr}"
    return done


process = partial(saccade, run=console.run_process)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def trained(place: Path) -> dict[str, Any]:
    done = process("train", *QUICK, "--json", "--set", "log.tensorboard=true", cwd=place)
    for words in (
        "1,437 training images",
        "360 in 'test'",
        "global 64 = 1 cell (micro-batch) x 64",
        "top-1",
        "predict",
    ):
        assert words in done.stderr, words
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def run(place: Path, trained: dict[str, Any]) -> Path:
    return place / str(trained["run"])


@pytest.mark.spec(47)
def test_training_leaves_a_complete_run_folder(run: Path, trained: dict[str, Any]) -> None:
    names = {p.name for p in run.iterdir()}
    assert {
        "config.yaml",
        "run.json",
        "log.jsonl",
        "checkpoints",
        "model.safetensors",
        "report.html",
        "plots",
    } <= names
    assert run.parent.name == "runs" and run.name.startswith("resnet8")
    assert {"loss.png", "accuracy.png", "learning_rate.png", "confusion.png", "mistakes.png"} <= {
        p.name for p in (run / "plots").iterdir()
    }
    assert trained["n"] == 360 and trained["correct"] == round(trained["top1"] * 360)
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.spec(30)
def test_eval_gives_the_figure_of_the_saved_weights(
    run: Path, place: Path, trained: dict[str, Any]
) -> None:
    scored = json.loads(saccade("eval", str(run), "--json", cwd=place).stdout)
    assert (scored["correct"], scored["n"], scored["split"]) == (trained["correct"], 360, "test")
    on_train = json.loads(
        saccade(
            "eval", str(run), "--data", "digits", "--split", "train", "--json", cwd=place
        ).stdout
    )
    assert on_train["n"] == 1437
    spoken = saccade("eval", str(run), cwd=place).stdout
    assert "95 % interval" in spoken and f"{trained['correct']} of 360" in spoken


def test_the_same_command_again_reports_and_does_not_train(
    run: Path, place: Path, trained: dict[str, Any]
) -> None:
    before = (run / "log.jsonl").read_bytes()
    done = saccade("train", *QUICK, "--json", "--set", "log.tensorboard=true", cwd=place)
    assert json.loads(done.stdout)["correct"] == trained["correct"] and "finished" in done.stderr
    assert (run / "log.jsonl").read_bytes() == before


@pytest.mark.spec(46)
def test_the_saved_configuration_trains_the_same_run_again(run: Path, place: Path) -> None:
    saccade("train", str(run / "config.yaml"), "--out", "again", cwd=place)
    first, again = (json.loads((f / "run.json").read_text()) for f in (run, place / "again"))
    assert first["digest"] == again["digest"]


def test_resume_never_starts_a_second_run_beside_the_first(run: Path, place: Path) -> None:
    done = saccade("train", *QUICK, "--resume", "never", "--json", cwd=place)
    assert json.loads(done.stdout)["run"] == f"runs/{run.name}-2"


@pytest.mark.spec(38)
def test_predict_names_images_and_writes_csv(run: Path, place: Path) -> None:
    folder = place / "some images äöü"
    folder.mkdir()
    Image.new("L", (8, 8), 200).save(folder / "gray.png")
    Image.new("RGBA", (20, 30), (255, 0, 0, 0)).save(folder / "clear.png")
    rows = json.loads(
        saccade(
            "predict", str(run), str(folder), "--top", "3", "--csv", "out.csv", "--json", cwd=place
        ).stdout
    )
    assert [Path(r["path"]).name for r in rows] == ["clear.png", "gray.png"]
    for row in rows:
        shares = [answer["probability"] for answer in row["top"]]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True) and sum(shares) <= 1.0001
    table = list(csv.DictReader(io.StringIO((place / "out.csv").read_text())))
    assert len(table) == 6 and set(table[0]) == {"path", "rank", "class", "probability"}
    assert saccade("predict", str(run), "nothing-here", cwd=place, status=65).stderr.startswith(
        "this file does not exist"
    )


@pytest.mark.spec(38)
def test_one_bad_image_costs_no_other_answer(run: Path, place: Path) -> None:
    folder = place / "mixed"
    folder.mkdir()
    for name in ("a", "c", "d"):
        Image.new("L", (8, 8), ord(name)).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:50])
    told = saccade(
        "predict", str(run), str(folder), "missing.png", "--csv", "mixed.csv", cwd=place, status=65
    )
    assert [Path(line.split(":")[0]).stem for line in told.stdout.splitlines()] == ["a", "c", "d"]
    assert (
        f"truncated PNG: the file ends before its last chunk\n  where: {folder / 'b.png'}\n"
        in told.stderr
    )
    assert "this file does not exist\n  where: missing.png\n" in told.stderr
    assert told.stderr.endswith("2 of 5 images could not be read; they are listed above\n")
    table = list(csv.DictReader(io.StringIO((place / "mixed.csv").read_text())))
    assert len(table) == 15 and {Path(row["path"]).stem for row in table} == {"a", "c", "d"}
    rows = json.loads(
        saccade("predict", str(run), str(folder), "--json", cwd=place, status=65).stdout
    )
    assert [("error" in row, len(row["top"])) for row in rows] == [
        (False, 5),
        (True, 0),
        (False, 5),
        (False, 5),
    ]
    stopped = saccade("predict", str(run), str(folder), "--strict", cwd=place, status=65)
    assert (
        stopped.stdout.count("\n") == 1
        and "this image cannot be read: truncated PNG" in stopped.stderr
    )


@pytest.mark.spec("A18")
def test_check_finds_nothing_in_digits_and_leaves_nothing_behind(place: Path) -> None:
    before = {p.name for p in place.rglob("*")}
    found = json.loads(saccade("check", "--json", cwd=place).stdout)["findings"]
    assert not [f for f in found if f["severity"] == "error"]
    assert {p.name for p in place.rglob("*")} == before


def test_the_version_is_told(place: Path) -> None:
    assert saccade("--version", cwd=place).stdout == f"saccade {__version__}\n"


def test_models_and_recipes_are_listed(place: Path) -> None:
    rows = json.loads(saccade("models", "resnet18", "--json", cwd=place).stdout)
    assert rows[0]["params"] == 11_689_512
    names = {r["recipe"]: r for r in json.loads(saccade("recipes", "--json", cwd=place).stdout)}
    assert {"digits", "photos-small", "small-images", "photos"} <= set(names)
    assert all(
        r["status"] in ("measured", "changed since measured", "ported", "untested")
        for r in names.values()
    )
    assert "crop_area" in saccade("recipes", "photos-small", cwd=place).stdout
    assert "resnet50" in saccade("models", "resnet5?", cwd=place).stdout


@pytest.mark.spec(36)
def test_report_is_written_again_and_compares_runs(run: Path, place: Path) -> None:
    (run / "report.html").unlink()
    assert saccade("report", str(run), cwd=place).stdout.strip() == str(run / "report.html")
    page = saccade(
        "report", str(run), str(run) + "-2", "--out", "both.html", cwd=place
    ).stdout.strip()
    assert page == "both.html" and (place / page).stat().st_size > 10_000


def test_prepare_and_verify_a_tree_of_files(tmp_path: Path) -> None:
    done = json.loads(saccade("prepare", "digits", "out", "--json", cwd=tmp_path).stdout)
    assert done == {"target": "out", "splits": {"test": 360, "train": 1437}, "written": 1797}
    assert "0 written now" in saccade("prepare", "digits", "out", cwd=tmp_path).stdout
    assert saccade("verify", "out", "--out", "ledger.json", cwd=tmp_path).stdout.endswith(
        "no problems found\n"
    )
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert ledger["splits"]["train"]["colours"] == {"gray": 1437} and ledger["findings"] == []
    victim = next((tmp_path / "out" / "train" / "7").iterdir())
    victim.write_bytes(victim.read_bytes()[:-9])
    found = json.loads(saccade("verify", "out", "--json", cwd=tmp_path, status=65).stdout)[
        "findings"
    ]
    assert [(f["severity"], f["kind"], f["count"]) for f in found] == [("error", "truncated", 1)]
    assert found[0]["images"][0].startswith(f"train/7/{victim.name} in out: truncated PNG")
    refused = saccade("prepare", "digits", "out", cwd=tmp_path, status=65).stderr
    assert f"train/7/{victim.name}' already exists with other contents" in refused


@pytest.mark.spec(46)
def test_a_dry_run_prints_the_whole_configuration_and_writes_nothing(tmp_path: Path) -> None:
    done = saccade("train", "--dry-run", "--lr", "0.5", "--holdout", "10%", cwd=tmp_path)
    settings = yaml.safe_load(done.stdout)
    assert settings["optimizer"]["lr"] == "0.5" and settings["data"]["holdout"] == 0.1
    assert list(tmp_path.iterdir()) == []
    asked = ("train", "--dry-run", "--lr", "0.5", "--holdout", "10%", "--json")
    assert json.loads(saccade(*asked, cwd=tmp_path).stdout) == settings


@pytest.mark.parametrize(
    ("arguments", "recipe"),
    [
        (("cifar10", "--data", "cifar100"), "cifar10"),
        (("photos-small", "--data", "nowhere/at/all.tar"), "photos-small"),
        (("cifar10", "resnet18", "--data", "cifar10", "--val", "nowhere"), "cifar10"),
        (("own.yaml",), "own"),
        (("--data", "cifar100"), "cifar10"),
        (("--data", "mnist", "--lr", "0.1"), "mnist"),
        (("resnet20", "--set", "data.train=fashion-mnist"), "cifar10"),
    ],
)
def test_a_dry_run_opens_no_data_that_it_can_do_without(
    arguments: tuple[str, ...], recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test may connect to anything, and nothing lies where these names point."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "own.yaml").write_text("data: {train: cifar100}\nepochs: 3\n")
    done = saccade("train", *arguments, "--dry-run", cwd=tmp_path)
    assert yaml.safe_load(done.stdout)["recipe"] == recipe
    assert done.stderr == "" and {p.name for p in tmp_path.iterdir()} == {"own.yaml"}


def test_a_dry_run_without_a_recipe_takes_the_one_that_fits_the_images(tmp_path: Path) -> None:
    settings = yaml.safe_load(
        saccade("train", "--data", "digits", "resnet20", "--dry-run", cwd=tmp_path).stdout
    )
    assert (settings["recipe"], settings["model"]["name"]) == ("digits", "resnet20")
    refused = saccade("train", "--data", "nowhere", "--dry-run", cwd=tmp_path, status=65)
    assert "there is no data at 'nowhere'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("train", "--no-such-flag"), 2, "No such option"),
        (("train", "resent18"), 78, "neither a YAML file, nor a recipe, nor a model"),
        (("train", "/no/imagenet"), 78, "write --data /no/imagenet"),
        (("train", "resnet81"), 78, "did you mean resnet8 or"),
        (("train", "Photo-small"), 78, "did you mean photos-small or"),
        (("train", "photos-smal.yaml"), 78, "there is no YAML file 'photos-smal.yaml'"),
        (("train", "photos-smal.yaml"), 78, "did you mean photos-small or"),
        (("train", "cifar100"), 78, "for a data set, write --data cifar100"),
        (("train", "fashion-mnst"), 78, "did you mean --data fashion-mnist?"),
        (("train", "--data", "cifr10"), 65, "did you mean cifar10 or"),
        (("train", "--lr", "-1"), 78, "-1.0 is not a learning rate"),
        (("train", "--lr", "nan"), 78, "nan is not a learning rate"),
        (("check", "--lr", "inf"), 78, "inf is not a learning rate"),
        (("train", "--set", "batch.globl=3"), 78, "did you mean 'batch.global'"),
        (("train", "--data", "nowhere"), 65, "there is no data at 'nowhere'"),
        (("train", "--holdout", "120%"), 2, "is not a fraction"),
        (("train", "--devices", "cuda"), 78, "this machine has no cuda"),
        (("train", "--model", "resnet81"), 78, "did you mean resnet8"),
        (("eval", "nowhere"), 66, "there is no trained model at this path"),
        (("eval", "nowhere", "--labels", "x.csv"), 2, "--labels needs --data"),
        (("train", "--labels", "x.csv"), 65, "'digits' already has labels"),
        (("report", "nowhere"), 2, "nowhere"),
        (("verify", "nowhere"), 65, "there is no data at 'nowhere'"),
        (("verify", "digits", "--md5"), 2, "no archive with a known MD5"),
        (("prepare", "nowhere", "out"), 65, "there is no data at 'nowhere'"),
    ],
)
def test_every_mistake_has_its_status_and_a_sentence(
    arguments: tuple[str, ...], status: int, words: str, tmp_path: Path
) -> None:
    done = saccade(*arguments, cwd=tmp_path, status=status)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_file_is_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("epochs: 2\nmax_time: 90\nema: {half_life: 1}\n")
    (tmp_path / "photos").mkdir()
    done = saccade("train", "experimnt.yml", cwd=tmp_path, status=78)
    assert (
        "there is no YAML file 'experimnt.yml'" in done.stderr
        and "did you mean experiment.yaml?" in done.stderr
    )
    assert (
        "did you mean photos?"
        in saccade("train", "--data", "phots", cwd=tmp_path, status=65).stderr
    )
    assert (
        "for a data set, write --data ./photos"
        in saccade("train", "./photos", cwd=tmp_path, status=78).stderr
    )
    settings = yaml.safe_load(saccade("train", "experiment.yaml", "--dry-run", cwd=tmp_path).stdout)
    assert (settings["epochs"], settings["max_time"], settings["ema"]["half_life"]) == (
        "2ep",
        "90s",
        "1ep",
    )


def test_eval_of_a_split_that_is_not_there_is_a_sentence(run: Path, place: Path) -> None:
    done = saccade("eval", str(run), "--split", "foo", cwd=place, status=65)
    assert (
        "there is no split 'foo'; found: test, train" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert (
        json.loads(saccade("eval", str(run), "--split", "train", "--json", cwd=place).stdout)["n"]
        == 1437
    )


def test_an_error_is_also_json(tmp_path: Path) -> None:
    done = process("train", "--data", "nowhere", "--json", cwd=tmp_path, status=65)
    error = json.loads(done.stdout)["error"]
    assert error["status"] == 65 and "nowhere" in error["what"] and error["do"]


@pytest.mark.fault("F2")
def test_a_model_file_from_a_hostile_hand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    done = saccade("eval", str(tmp_path), cwd=tmp_path, status=66)
    assert "this is not a .safetensors file" in done.stderr
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    saccade("eval", str(tmp_path), cwd=tmp_path, status=66)


@pytest.mark.spec("A14")
def test_the_saved_model_knows_its_classes_and_preprocessing(run: Path) -> None:
    recipe = Classifier.load(run).recipe
    assert recipe.classes == tuple("0123456789") and recipe.image_size > 0 and len(recipe.mean) == 3


def test_pack_verify_and_look_at_the_loader(tmp_path: Path) -> None:
    done = json.loads(saccade("pack", "digits", "small", "--json", cwd=tmp_path).stdout)
    assert (done["images"], done["shards"], done["reused"]) == (1797, 2, 0)
    assert (
        "2 of them from an earlier run" in saccade("pack", "digits", "small", cwd=tmp_path).stdout
    )
    assert saccade("verify", "small", cwd=tmp_path).stdout.endswith("no problems found\n")
    shard = tmp_path / "small" / "test-00000.shard"
    hurt = bytearray(shard.read_bytes())
    hurt[-9000] ^= 4
    shard.write_bytes(hurt)
    assert "damaged-pack" in saccade("verify", "small", cwd=tmp_path, status=65).stdout
    assert json.loads(saccade("bench", "loader", "--json", cwd=tmp_path).stdout)["images"] == 1437


def test_verify_resume_proves_the_users_own_setup(tmp_path: Path) -> None:
    done = saccade(
        "verify-resume", "--kills", "1", "--steps", "24", "--json", "--seed", "3", cwd=tmp_path
    )
    proof = json.loads(done.stdout)
    assert proof["identical"] and proof["kills"] == 1 and len(proof["resumed_at"]) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.full
def test_every_verb_finds_what_it_needs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """In the process of the tests another test may have imported it already."""
    lines = """
        models resnet18 | recipes | check | train --epochs 6step --out run | eval run | report run
        lr run | prepare digits files | predict run files/test/7 | verify files
        pack files small | bench loader --data small
        show-augment | launch slurm | verify-resume --kills 1 --steps 12
        """
    commands = [words.split() for words in lines.replace("\n", "|").split("|") if words.strip()]
    assert {verb for verb, *_ in commands} == set(typer.main.get_command(main.app).commands)  # type: ignore[attr-defined]
    for words in commands:
        process(*words, cwd=tmp_path)
