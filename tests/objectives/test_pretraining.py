"""Learning without labels: the seam between a method and everything that trains it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from toy_learner import Toy, ToyLearner

import saccade
from saccade import objectives
from saccade.config.schema import Config
from saccade.errors import ConfigError, StopTraining, UsageError
from saccade.evaluation.representation import Sample
from saccade.models import create_model, list_models
from saccade.models.parts.learner import headless
from saccade.setup.compose import Request, compose
from saccade.trainer import Outcome


@pytest.fixture(autouse=True, scope="module")
def toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(objectives.METHODS, "simclr", Toy)
        yield


def pretrain(out: Path, **changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "data": "digits",
        "epochs": "12step",
        "precision": "fp32",
        "devices": "cpu",
        "pretrain__method": "simclr",
        "augment__repeats": 1,
        "pretrain__evaluations": 3,
        "pretrain__bank": 320,
        "augment__mixup": 0,
        "quiet": True,
    }
    settings |= changes
    return saccade.pretrain(settings.pop("recipe", "digits"), out=out, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tmp_path_factory.mktemp("pretrained") / "run").folder


def test_a_run_learns_without_labels_and_is_judged_by_its_loss(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    assert (facts["status"], facts["objective"], facts["primary"]) == ("done", "simclr", "loss")
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "eval"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert facts["result"]["loss"] == facts["best"]["loss"] == losses[-1]
    assert facts["result"]["constant"] > 0


def test_every_look_is_beside_one_at_the_untrained_network(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    qualities = {"knn", "rank", "spread", "projector_rank", "projector_spread", "loss", "n"}
    assert qualities <= set(facts["untrained"])
    assert qualities <= set(facts["result"])
    assert 0 < facts["untrained"]["knn"] < 1
    told = (run / "log.txt").read_text()
    assert "looks      3 checks in the run, about" in told
    assert f"kNN {facts['untrained']['knn']:.2%}" in told
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert json.loads((newest / "state.json").read_text())["untrained"] == facts["untrained"]


def test_the_encoder_alone_is_kept_under_its_own_names(run: Path) -> None:
    kept = safetensors.torch.load_file(run / "model.safetensors")
    newest = sorted((run / "checkpoints").iterdir())[-1]
    whole = safetensors.torch.load_file(newest / "ema.safetensors")
    assert {"colours.weight", "teacher.weight", "running_centre"} <= set(whole)
    encoder = {n.removeprefix("encoder."): t for n, t in whole.items() if n.startswith("encoder.")}
    assert set(kept) == set(encoder)
    assert all(torch.equal(kept[name], encoder[name]) for name in kept)
    network = create_model("resnet8_x2", num_classes=10, image_size=16)
    assert set(network.state_dict()) - set(kept) == {"fc.weight", "fc.bias"}


@pytest.mark.spec(43)
def test_a_run_that_starts_from_it_knows_how_it_learned(run: Path, tmp_path: Path) -> None:
    started = saccade.train(
        init=run, epochs="1step", batch_size=32, image_size=16, out=tmp_path / "run", quiet=True
    )
    init = json.loads((started.folder / "run.json").read_text())["init"]
    assert init["method"] == "simclr" and init["head"] in ("zero", "probe")
    assert [entry["method"] for entry in init["lineage"]] == ["simclr"]
    assert init["digest"] and init["share"] == 1.0


def test_pretraining_goes_on_from_its_network_and_pixels(run: Path) -> None:
    flags = {"model.init": str(run), "data.train": "digits"}
    config = compose(Request(("simclr",), flags, pretrains=True)).config
    assert (config.model.name, config.pretrain.method) == ("resnet8_x2", "simclr")
    assert (
        config.data.image_size
        == json.loads((run / "run.json").read_text())["trained_on"]["data"]["image_size"]
    )


def test_training_sees_images_of_the_side_that_its_encoder_was_judged_at(
    run: Path, tmp_path: Path
) -> None:
    judged = shutil.copytree(run, tmp_path / "judged")
    facts = json.loads((judged / "run.json").read_text())
    facts["trained_on"]["data"] |= {"image_size": 16, "eval_size": 24}
    (judged / "run.json").write_text(json.dumps(facts))

    flags = {"model.init": str(judged), "data.train": "digits"}
    assert compose(Request(flags=flags)).config.data.image_size == 24
    assert compose(Request(flags=flags | {"data.image_size": 20})).config.data.image_size == 20
    # pretraining goes on with crops of its own side
    assert compose(Request(("simclr",), flags, pretrains=True)).config.data.image_size == 16


def test_the_last_lines_name_what_can_be_done_with_it(run: Path) -> None:
    told = (run / "log.txt").read_text()
    assert f"saccade probe {run}" in told and f"saccade train --init {run}" in told
    assert "saccade predict" not in told and "saccade eval" not in told
    assert "[loss-at-start]" not in told


def test_a_loss_on_few_images_is_of_each_of_them_once(tmp_path: Path) -> None:
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    given = {"data": str(tmp_path), "batch__global": 16, "batch__cell": 16, "epochs": "2step"}
    done = pretrain(tmp_path / "run", recipe="simclr", model="resnet8", image_size=16, **given)
    told = (done.folder / "log.txt").read_text()
    assert done.result["n"] == 5  # a fifth, as sixteen would be more
    assert "19 images without labels" in told and "[empty-split]" not in told


def test_too_few_images_to_validate_are_no_queries() -> None:
    digits = saccade.data.sources.open_source("digits")
    train, val = digits.splits["train"], digits.splits["test"]
    config = Config.model_validate({"pretrain": {"bank": 1000}})
    enough, few = Sample.of(train, val, config), Sample.of(train, val.at(np.arange(9)), config)
    assert set(enough.queries.names) <= set(val.names)
    assert (len(few.bank), len(few.queries), few.has_labels) == (800, 200, True)
    assert not set(few.bank.names) & set(few.queries.names)


def test_a_stopped_run_goes_on_exactly_with_its_teacher_and_its_statistics(
    run: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(5)
    with pytest.raises(StopTraining):
        pretrain(tmp_path / "run")
    stop_after(1000)
    pretrain(tmp_path / "run")
    one, other = (json.loads((f / "run.json").read_text()) for f in (run, tmp_path / "run"))
    assert other["attempts"] == 2
    assert one["digest"] == other["digest"]


def test_a_teacher_is_no_parameter_that_is_trained(run: Path) -> None:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    state = safetensors.torch.load_file(newest / "model.safetensors")
    slots = safetensors.torch.load_file(newest / "optimizer.safetensors")
    assert not any("teacher" in name for name in slots)
    assert any("colours" in name for name in slots)
    # it follows at a tenth of the way, so it is neither where it began nor where the layer is
    assert not torch.equal(state["teacher.weight"], state["colours.weight"])
    assert not torch.equal(state["running_centre"], torch.zeros(3))


def test_pretraining_is_the_affair_of_its_own_verb(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pretraining without labels") as told:
        saccade.train("digits", pretrain__method="simclr", quiet=True)
    assert "saccade pretrain" in told.value.fix
    with pytest.raises(ConfigError, match="learns from labels"):
        saccade.pretrain("digits", quiet=True)


@pytest.mark.parametrize("name", ["resnet8", "vit_ti_16", "googlenet"])
def test_what_is_left_of_a_network_without_its_head_are_its_features(name: str) -> None:
    side = 64
    network = create_model(name, num_classes=7, image_size=side).eval()
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        features = network.embed(images)
        encoder, width = headless(network)
        answer = encoder(images)
    assert answer.shape == (2, width)
    assert torch.equal(answer, features)


@pytest.mark.full
@pytest.mark.parametrize("name", list_models())
def test_every_network_has_features(name: str) -> None:
    entry = saccade.models.find(name)
    with torch.device("meta"):
        network = entry.build(saccade.models.Options(7, entry.image_size)).eval()
    encoder, width = headless(network)
    answer = encoder(torch.empty(2, 3, entry.image_size, entry.image_size, device="meta"))
    assert answer.shape == (2, width)


def test_a_network_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not end in a linear layer"):
        headless(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))


def test_settings_of_pretraining_leave_the_folders_of_other_runs_alone() -> None:
    from saccade.config import schema

    assert all(
        name in schema.LATER
        for name, kind, _, _ in schema.fields()
        if name.startswith("pretrain.") and kind != "run"
    )


def test_own_modules_start_from_the_seed() -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        network = create_model("resnet8", num_classes=2, image_size=16, seed=seed)
        return ToyLearner(*headless(network), seed).state_dict()

    one, same, other = made(1), made(1), made(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["colours.weight"], other["colours.weight"])
