"""Starting from weights: read once, at the very start, and said.

A resumed run has no need of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import CheckpointError, ConfigError, PreemptedError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.log import Log, read_events
from saccade.models import create_model, load_weights
from saccade.setup import build, initial_weights
from saccade.setup.choosing import decide
from saccade.setup.compose import Request, compose
from saccade.setup.initial_weights import initialise
from saccade.training import datasets
from saccade.training.run import Run


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return what builds a run on the digits up to its start, weights included."""
    runs: list[Run] = []

    def make(module: nn.Module | None = None, log: Log | None = None, **flags: Any) -> Run:
        composed = compose(
            Request(
                flags={"model.name": "resnet8"}
                | {k.replace("__", "."): v for k, v in flags.items()}
            )
        )
        config, data = composed.config, datasets.open_data(composed.config, composed.source)
        runs.append(
            build.build(config, data, tmp_path / "run", decide(config, None), module=module)
        )
        initialise(runs[-1], log or Log(quiet=True))
        return runs[-1]

    threads = torch.get_num_threads()
    yield make
    torch.set_num_threads(threads)
    for run in runs:
        run.readers.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of another trainer: 1,000 classes, the prefix of a parallel model, things beside
    the weights.
    """
    state = create_model("resnet8", num_classes=1000, seed=9).state_dict()
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    return path


def test_a_run_starts_from_foreign_weights_and_its_average_too(
    file: Path, ready: Callable[..., Run], capsys: Any
) -> None:
    settings = {"model__init": str(file), "ema__half_life": "9step"}
    run = ready(log=Log(), finetune__head_start="zero", **settings)
    start = create_model("resnet8", num_classes=1000, seed=9)
    assert run.state.ema is not None
    for model in (run.state.model, run.state.ema.model):
        assert torch.equal(model.layer2[0].conv1.weight, start.layer2[0].conv1.weight)
        assert not model.fc.weight.any() and not model.fc.bias.any()
        assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert "; the head starts at zero" in capsys.readouterr().err


def test_a_resumed_run_does_not_read_them_again(
    file: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    settings = {"model": "resnet8", "epochs": "6step", "quiet": True, "model__init": str(file)}
    saccade.train(**settings, out=tmp_path / "whole")
    stop_after(3)
    with pytest.raises(PreemptedError):
        saccade.train(**settings, out=tmp_path / "cut")
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step_00000003"]
    file.unlink()
    saccade.train(**settings, out=tmp_path / "cut")
    whole, cut = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "cut"))
    assert whole == cut
    assert [e["event"] for e in read_events(tmp_path / "cut" / "log.jsonl")].count("init") == 1


def test_a_run_of_ours_is_a_start_and_its_head_too_where_the_classes_are_the_same(
    ready: Callable[..., Run], tmp_path: Path
) -> None:
    for classes, is_taken in (("0123456789", True), ("abcdefghij", False)):
        network = create_model("resnet8", num_classes=10, seed=9)
        recipe = Recipe("resnet8", tuple(classes), 32, 0.9, (0.5,) * 3, (0.5,) * 3, "ignore")  # type: ignore[arg-type]
        (tmp_path / "model.safetensors").write_bytes(Classifier(network, recipe).to_bytes())
        model = ready(model__init=str(tmp_path)).state.model
        assert torch.equal(model.fc.weight, network.fc.weight) == is_taken
        assert torch.equal(model.layer1[0].conv1.weight, network.layer1[0].conv1.weight)


def test_weights_of_another_architecture_are_refused(file: Path, ready: Callable[..., Run]) -> None:
    with pytest.raises(CheckpointError, match="belong to another architecture"):
        ready(model__name="resnet8_x2", model__init=str(file))
    with pytest.raises(CheckpointError, match="no weights at this path"):
        ready(model__init="nowhere.pth")


class Shifted(nn.Module):
    """A network that needs a buffer which is not saved."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)
        self.register_buffer("order", torch.arange(8).flip(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3))[:, self.order])


def test_buffers_that_are_not_saved_survive_the_reading_back(tmp_path: Path) -> None:
    outcome = saccade.train(model=Shifted(), epochs="6step", quiet=True, out=tmp_path / "run")
    again = saccade.evaluate(saccade.load(tmp_path / "run", Shifted()), "digits")
    assert again.correct == outcome.result["correct"] and again.loss == pytest.approx(
        outcome.result["loss"]
    )


def test_a_module_of_ones_own_starts_from_weights(
    ready: Callable[..., Run], tmp_path: Path
) -> None:
    start = Shifted()
    nn.init.constant_(start.fc.weight, 0.25)
    torch.save(start.state_dict(), tmp_path / "own.pt")
    assert (
        ready(Shifted(), model__init=str(tmp_path / "own.pt")).state.model.fc.weight.eq(0.25).all()
    )


def test_a_first_layer_that_stays_random_is_refused_and_the_way_out_works(
    ready: Callable[..., Run], tmp_path: Path
) -> None:
    source = create_model("vit_ti_16", num_classes=10, image_size=64)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    settings = {
        "model__name": "vit_ti_16",
        "data__image_size": 96,
        "model__init": str(tmp_path / "vit.pth"),
    }
    with pytest.raises(ConfigError, match=r"first layer does not fit: conv_proj") as caught:
        ready(**settings)
    assert (
        caught.value.finding == "init-first-layer"
        and "--set model.patch_size=8" in caught.value.fix
    )
    model = ready(**settings, model__patch_size=8).state.model
    assert torch.equal(model.conv_proj.weight, source.conv_proj.weight)


def test_of_a_checkpoint_the_average_is_taken_and_the_raw_weights_are_named(tmp_path: Path) -> None:
    settings = {"model": "resnet8", "epochs": "4step", "batch_size": 32, "quiet": True}
    run = tmp_path / "run"
    saccade.train(**settings, out=run, ema__half_life="2step")
    model, raw = Classifier.load(run).network.state_dict(), run / "checkpoints" / "step_00000004"
    for source in (raw, raw / "model.safetensors"):
        taken = create_model("resnet8", num_classes=10)
        report = load_weights(taken, source)
        assert report.source.endswith("[ema]") and report.others == ("model",)
        assert all(torch.equal(t, model[n]) for n, t in taken.state_dict().items())
    (raw / "ema.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"damaged: ema\.safetensors"):
        load_weights(taken, raw)


def test_a_wrapped_module_is_trained_as_the_network_inside(tmp_path: Path) -> None:
    start = Shifted()
    nn.init.constant_(start.fc.bias, 0.25)
    torch.save(start.state_dict(), tmp_path / "own.pt")
    wrapped, run = nn.DataParallel(Shifted()), tmp_path / "run"
    saccade.train(model=wrapped, init=tmp_path / "own.pt", epochs="1step", quiet=True, out=run)
    facts = json.loads((run / "run.json").read_text())
    assert facts["model"]["name"] == "custom:Shifted" and facts["init"]["share"] == 1.0
    bias = saccade.load(run, Shifted()).network.fc.bias
    assert (bias - 0.25).abs().max() < 0.1, "one step from where it started"


def test_layers_in_the_middle_that_weights_lack_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = create_model("resnet8", num_classes=3, image_size=16)
    whole = create_model("resnet8", num_classes=5, image_size=16).state_dict()
    for lacks in ("fc.", "bn1."):
        state = {n: t for n, t in whole.items() if not n.startswith(("fc.", lacks))}
        initial_weights._warn_of_drawn(model, load_weights(model, state), "w.pth", Log())
        told = capsys.readouterr().err
        # a head that is not there is no surprise
        assert ("2 tensors besides the head" in told and "bn1.weight" in told) == (lacks == "bn1.")


def test_norms_that_would_keep_statistics_of_no_images_are_refused(
    file: Path, ready: Callable[..., Run], tmp_path: Path
) -> None:
    whole = torch.load(file, weights_only=True)["state_dict"]
    lacking = tmp_path / "lacking.pth"
    torch.save({n: t for n, t in whole.items() if "running" not in n}, lacking)
    with pytest.raises(CheckpointError, match="no running statistics of BatchNorm") as caught:
        ready(model__init=str(lacking), finetune__norms="frozen")
    assert "--set finetune.norms=train" in caught.value.fix
    run = ready(model__init=str(lacking), finetune__norms="train")
    assert run.history.init["share"] == 1.0


def test_a_recipe_for_training_from_scratch_is_noted_beside_weights(file: Path) -> None:
    def noted(*words: str) -> set[str]:
        flags = {"model.init": str(file), "model.name": "resnet8"}
        config = compose(Request(words=words, flags=flags)).config
        objective = SimpleNamespace(answers=config.pretrain.method == "none")
        plan: Any = SimpleNamespace(config=config, objective=objective)
        return {finding.id for finding in initial_weights._unusual_recipe(plan)}

    assert noted("digits") == noted("photos-few") == {"recipe-from-scratch"}
    assert not noted() and not noted("finetune-small") and not noted("finetune-fixres")
    assert not noted("simclr")
