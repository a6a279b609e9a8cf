"""Features of a backbone at rest: the same numbers as without holding them, in less time."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import PreemptedError
from saccade.evaluation.evaluator import evaluate
from saccade.log import Log
from saccade.models.parts.embedding import embed
from saccade.objectives.classification import Classification, Mixed
from saccade.objectives.objective import Cell
from saccade.setup import build, choosing
from saccade.setup.compose import Request, compose
from saccade.training import datasets, holding
from saccade.training.run import Run
from saccade.training.stop import Stop

DRAWN = np.random.default_rng(5)
SIDE, TRAIN, VAL = 16, 40, 20


def drawn(count: int) -> tuple[Any, Any]:
    images = DRAWN.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(count) % 4
    # something to learn
    images[..., 0] //= 1 + labels[:, None, None].astype(np.uint8)
    return images, labels


DATA = {"train": drawn(TRAIN), "val": drawn(VAL)}
SETTINGS: dict[str, Any] = {
    "freeze": "backbone",
    "data__image_size": SIDE,
    "data__eval_crop": 1.0,
    "batch_size": TRAIN,
    "epochs": "12step",
    "precision": "fp32",
    "devices": "cpu",
    "optimizer__name": "sgd",
    "optimizer__lr": "0.5",
    "optimizer__momentum": 0.0,
    "optimizer__weight_decay": 0.0,
    "schedule__name": "constant",
    "schedule__warmup": "0step",
    "loss__label_smoothing": 0.0,
    "augment__crop": "central",
    "augment__flip": 0.0,
    "ema__half_life": "",
}


class Net(nn.Module):
    """A body with statistics, a dropout that must draw nothing for features, and a head."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(8, 4)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.head(self.body(x).mean((2, 3)))


def trained(folder: Path, **settings: Any) -> dict[str, Tensor]:
    net = Net()
    with warnings.catch_warnings():
        saccade.train(data=DATA, model=net, out=folder, quiet=True, **(SETTINGS | settings))
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("views", [0, 1])
def test_a_head_on_features_is_logistic_regression_by_plain_torch(
    tmp_path: Path, views: int
) -> None:
    """The batch is the whole set, so that the order of the images says nothing."""
    net = Net().eval()
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images, labels = (torch.from_numpy(array) for array in DATA["train"])
    with torch.no_grad():
        features = net.body((images.permute(0, 3, 1, 2) / 255 - mean) / std).mean((2, 3))
    judge = torch.optim.SGD(net.head.parameters(), lr=0.5)
    for _ in range(12):
        judge.zero_grad()
        nn.functional.cross_entropy(net.head(features), labels).backward()
        judge.step()

    found = trained(tmp_path / "run", finetune__views=views)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    untouched = Net().state_dict()
    assert all(torch.equal(found[name], untouched[name]) for name in found if "body" in name)


def test_a_run_on_held_features_that_stops_ends_as_one_that_did_not(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    settings = {"batch_size": 16, "finetune__views": 2, "augment__crop": "random"}
    whole = trained(tmp_path / "whole", **settings)
    stop_after(5)
    with pytest.raises(PreemptedError):
        trained(tmp_path / "stopped", **settings)
    again = trained(tmp_path / "stopped", **settings)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    files = [tmp_path / n / "model.safetensors" for n in ("whole", "stopped")]
    one, other = (safetensors.torch.load_file(file) for file in files)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_objective_that_looks_at_pixels_gets_them(tmp_path: Path) -> None:
    run = built(tmp_path, Ten())
    objective = OfPixels(run.plan.objective.outputs, run.plan.config)
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, objective=objective))
    try:
        assert holding.hold(run, Stop(), Log(quiet=True)).features is None
    finally:
        run.readers.close()


def built(folder: Path, net: nn.Module, *sets: str) -> Run:
    flags = {"data.train": "digits", "finetune.freeze": "backbone", "data.image_size": SIDE}
    composed = compose(Request(["digits"], flags, ["precision=fp32", "device=cpu", *sets]))
    data = datasets.open_data(composed.config, composed.source)
    return build.build(
        composed.config, data, folder, choosing.decide(composed.config, None), module=net
    )


class OfPixels(Classification):
    """An objective that makes something of its own of the images, without asking for views."""

    def prepare(self, cell: Cell) -> tuple[Tensor, Mixed]:
        return cell.images.float().flip(-1), Mixed(cell.labels, 1.0)


class Ten(Net):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(factor)
        self.head = nn.Linear(8, 10)


def test_epochs_see_the_views_in_turn_and_the_first_as_evaluation_does(tmp_path: Path) -> None:
    run = built(tmp_path, Ten(), "finetune.views=3", "augment.flip=0.5")
    try:
        held = holding.hold(run, Stop(), Log(quiet=True))
        assert held.features is not None
        plan, batch = run.plan, run.plan.global_batch
        for epoch in range(5):
            step = -(-epoch * plan.epoch_size // batch)
            seen, tasks = held.features.start(run.readers, step, batch)
            images, loading = plan.view.start(run.readers, step, batch)
            run.readers.wait(loading)
            assert tasks == [] and np.array_equal(seen.samples, images.samples)
            assert torch.equal(seen.labels, images.labels)
            which = [int(e) % 3 for e in seen.epochs]
            assert torch.equal(seen.images, held.features.views[which, seen.samples])

            # an augmented view is that of the epoch with its number
            if epoch in (1, 2):
                run.state.model.eval()
                with torch.no_grad():
                    fresh = embed(run.state.model, plan.recipe.normalised(images.images))
                torch.testing.assert_close(seen.images, fresh, rtol=1e-4, atol=1e-5)
        first, second, third = held.features.views
        assert not torch.equal(first, second) and not torch.equal(second, third)

        # the head alone is judged as the whole network is, to the bit
        split, device = plan.data.chosen_on, plan.device
        whole = evaluate(run.classifier(), split, run.readers, "fp32", device)
        alone = held.features.judge(run.state.model, plan.objective, "fp32", device)
        assert torch.equal(whole.logits, alone.logits) and whole.to_json() == alone.to_json()
    finally:
        run.readers.close()


@pytest.mark.parametrize(
    ("net", "sets", "reason"),
    [
        (Ten(), ["augment.mixup=0.2"], "images are mixed"),
        (Ten(factor=2.0), [], "other layers follow them besides the head"),
        (
            nn.Sequential(
                nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 10, 1), nn.AvgPool2d(7), nn.Flatten()
            ),
            [],
            "not a linear layer",
        ),
    ],
)
def test_features_that_would_not_do_are_not_held_and_the_log_says_why(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    net: nn.Module,
    sets: list[str],
    reason: str,
) -> None:
    run = built(tmp_path, net, *sets)
    try:
        assert holding.hold(run, Stop(), Log()).features is None
    finally:
        run.readers.close()
    assert reason in " ".join(capsys.readouterr().err.split())
    assert run.state.computing is run.state.model
