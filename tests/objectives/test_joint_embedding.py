"""SimCLR and DINO in whole runs, and their learners against plain torch."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import saccade
from saccade.config.schema import Config
from saccade.data.sources import open_source
from saccade.errors import ConfigError, StopTraining
from saccade.models import create_model
from saccade.models.parts.layers import DropPath
from saccade.models.parts.self_distillation import Seen, SelfDistillation
from saccade.objectives.dino import Dino
from saccade.objectives.objective import Cell
from saccade.objectives.simclr import SimClr
from saccade.trainer import Outcome

COMMON: dict[str, Any] = {
    "epochs": "12step",
    "precision": "fp32",
    "devices": "cpu",
    "batch_size": 64,
    "pretrain__evaluations": 3,
    "pretrain__bank": 320,
    "augment__mixup": 0,
    "augment__repeats": 2,
    "quiet": True,
}
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"model": "airbench94", "image_size": 24, "pretrain__projector": [32, 16]},
    "dino": {
        "model": "vit_ti_16",
        "image_size": 16,
        "model__patch_size": 8,
        "model__drop_path": 0.2,
        "optimizer__name": "adamw",
        "optimizer__lr": 0.0005,
        "augment__local_views": 2,
        "augment__local_side": 0.5,
        "pretrain__projector": [48, 24, 96],
        "pretrain__temperature": 0.1,
        "pretrain__fixed_prototypes": "2step",
        "pretrain__teacher_momentum": 0.9,
    },
}


def pretrain(method: str, out: Path, **changes: Any) -> Outcome:
    settings = COMMON | METHODS[method] | {"pretrain__method": method} | changes
    return saccade.pretrain("digits", data="digits", out=out, **settings)


@pytest.fixture(scope="module", params=list(METHODS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(request.param, tmp_path_factory.mktemp(request.param) / "run").folder


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts


def state_of(run: Path, file: str = "model") -> dict[str, torch.Tensor]:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(newest / f"{file}.safetensors")
    return tensors


def test_what_is_kept_is_the_encoder_that_learned_best(run: Path) -> None:
    """SimCLR keeps the network, DINO the teacher."""
    method = facts_of(run)["objective"]
    kept = safetensors.torch.load_file(run / "model.safetensors")
    # the recipe for digits keeps an average of the weights
    whole = state_of(run, "ema")
    prefix = {"simclr": "encoder.", "dino": "teacher."}[method]
    expected = {n.removeprefix(prefix): t for n, t in whole.items() if n.startswith(prefix)}
    assert kept and all(torch.equal(kept[name], expected[name]) for name in kept | expected)
    settings = METHODS[method]
    network = create_model(
        settings["model"],
        num_classes=2,
        image_size=settings["image_size"],
        patch_size=settings.get("model__patch_size", 0),
    )
    assert {n for n in network.state_dict() if not n.startswith("fc.")} == set(kept)


def test_the_loss_begins_below_chance_and_falls(run: Path) -> None:
    facts = facts_of(run)
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "eval"]
    if facts["objective"] == "simclr":
        assert losses[-1] < losses[0] < math.log(63)
    else:
        # the teacher moves, so its loss may rise
        assert max(losses) < math.log(96)


@pytest.mark.full
def test_a_stopped_run_goes_on_exactly(
    run: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    method = facts_of(run)["objective"]
    stop_after(5)
    with pytest.raises(StopTraining):
        pretrain(method, tmp_path / "run")
    stop_after(1000)
    other = facts_of(pretrain(method, tmp_path / "run").folder)
    assert other["attempts"] == 2 and other["digest"] == facts_of(run)["digest"]


class Plain(nn.Module):
    """DINO's head as torch has it, with its own weight norm."""

    def __init__(self, ours: SelfDistillation) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(ours.encoder)
        self.mlp = copy.deepcopy(ours.head.mlp)
        last = nn.Linear(*reversed(ours.head.prototypes.shape), bias=False)
        last.weight.data.copy_(ours.head.prototypes.data)
        self.last = nn.utils.parametrizations.weight_norm(last)
        scale = self.last.parametrizations.weight
        scale.original0.data.fill_(1)
        scale.original0.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(F.normalize(self.mlp(self.encoder(images)), dim=-1, p=2))


def small_dino(**pretrain: Any) -> Dino:
    section = {"method": "dino", "projector": [12, 6, 20], "temperature": 0.1, **pretrain}
    config = Config.model_validate(
        {
            "pretrain": section,
            "augment": {"repeats": 2, "local_views": 3, "local_side": 0.5},
            "batch": {"global": 8, "cell": 8},
        }
    )
    train = open_source("digits").splits["train"]
    return Dino.of(config, train).over(total_steps=10, epoch_steps=2.0)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16), nn.Linear(16, 2))


def cell(step: int) -> Cell:
    draws = np.random.default_rng(step)
    images = torch.from_numpy(draws.integers(0, 256, (8, 3, 16, 16), np.uint8))
    small = torch.from_numpy(draws.integers(0, 256, (12, 3, 8, 8), np.uint8))
    places, labels = np.arange(8), torch.zeros(8, dtype=torch.int64)
    return Cell(images, labels, places % 2, places // 2, step, 0, small)


def test_steps_of_dino_are_those_of_its_published_code() -> None:
    """Loss, weights, teacher and centre of five steps, against main_dino.py written out."""
    dino = small_dino(
        teacher_temperature=[0.04, 0.07], teacher_warmup="4step", fixed_prototypes="2step"
    )
    ours = dino.wrap(network())
    assert isinstance(ours, SelfDistillation)
    ours.start()
    student, teacher, centre = Plain(ours), Plain(ours), torch.zeros(20)
    mine = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], 0.1)
    theirs = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.1)

    for step in range(5):
        inputs, targets = dino.prepare(cell(step))
        loss = dino.total_of_heads(ours(inputs), targets, 0.0) / 8
        mine.zero_grad()
        loss.backward()
        mine.step()
        dino.after_update(ours, step, torch.tensor(True))

        # two large views of each image, then three small ones, each a batch of its own
        assert inputs.small is not None
        large = [inputs.large[view::2] for view in range(2)]
        small = [inputs.small[view::3] for view in range(3)]
        with torch.no_grad():
            said = [teacher(view) for view in large]
        answers = [student(view) for view in (*large, *small)]
        heat = 0.04 + 0.03 * min(step / 4, 1)
        terms = []
        for i, one in enumerate(said):
            wanted = F.softmax((one - centre) / heat, dim=-1)
            for v, answer in enumerate(answers):
                if v != i:
                    terms.append((-wanted * F.log_softmax(answer / 0.1, dim=-1)).sum(-1).mean())
        plain = sum(terms) / len(terms)
        torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)

        theirs.zero_grad()
        plain.backward()
        if step < 2:
            for parameter in student.last.parameters():
                parameter.grad = None
        theirs.step()
        centre = centre * 0.9 + torch.cat(said).mean(0) * 0.1
        momentum = 1 - (1 - 0.996) * (math.cos(math.pi * step / 10) + 1) / 2
        with torch.no_grad():
            for fast, slow in zip(student.parameters(), teacher.parameters(), strict=True):
                slow.mul_(momentum).add_((1 - momentum) * fast)
        torch.testing.assert_close(ours.running_centre, centre, rtol=1e-5, atol=1e-6)

    for (name, fast), slow in zip(
        ours.encoder.named_parameters(), ours.teacher.parameters(), strict=True
    ):
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(fast, student.encoder.get_parameter(name), **close)
        torch.testing.assert_close(slow, teacher.encoder.get_parameter(name), **close)
    assert not torch.equal(ours.head.prototypes, ours.teacher_head.prototypes)


@pytest.mark.parametrize(
    ("model", "has_norms"), [("resnet8", True), ("airbench94", True), ("vit_ti_16", False)]
)
def test_the_head_of_dino_has_batch_norm_where_the_network_has(model: str, has_norms: bool) -> None:
    encoder = create_model(model, num_classes=2, image_size=32, patch_size=8)
    learner = small_dino().wrap(encoder)
    assert isinstance(learner, SelfDistillation)
    for head in (learner.head, learner.teacher_head):
        kinds = [type(module) for module in head.mlp]
        norm = [nn.BatchNorm1d] if has_norms else []
        assert kinds == [nn.Linear, *norm, nn.GELU, nn.Linear]


def test_a_bad_step_does_not_move_the_teacher() -> None:
    dino = small_dino()
    learner = dino.wrap(network())
    assert isinstance(learner, SelfDistillation)
    learner.start()
    with torch.no_grad():
        learner.head.prototypes.add_(1)
    before = learner.teacher_head.prototypes.clone()
    dino.after_update(learner, 0, torch.tensor(False))
    assert torch.equal(learner.teacher_head.prototypes, before)
    dino.after_update(learner, 0, torch.tensor(True))
    assert not torch.equal(learner.teacher_head.prototypes, before)


def test_stochastic_depth_is_the_students_and_each_view_has_its_own() -> None:
    encoder = create_model("vit_ti_16", num_classes=2, image_size=16, patch_size=8, drop_path=0.5)
    dino = small_dino()
    learner = dino.wrap(encoder)
    assert isinstance(learner, SelfDistillation)
    learner.start()
    layers = [m for m in learner.modules() if isinstance(m, DropPath)]
    assert len(layers) == len(learner._drop_paths) > 0
    seen = Seen(torch.rand(8, 3, 16, 16), torch.rand(12, 3, 8, 8), fixed=False)
    assert dino.rows(seen) == 20
    # all paths are kept for the small views only: their answers are those without any chance
    keep = torch.cat([torch.zeros(8), torch.ones(12)])
    for layer in layers:
        layer.keep = keep
    with torch.no_grad():
        dropped = learner.train()(seen).student
        whole = learner.eval()(seen).student
    torch.testing.assert_close(dropped[8:], whole[8:])
    assert not torch.allclose(dropped[:8], whole[:8])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"augment__repeats": 1}, "gives only one"),
        ({"augment__mixup": 0.2}, "mix two images"),
        ({"batch__cell": 2, "batch__global": 32}, "has only one image"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        pretrain("simclr", tmp_path / "run", **change)
    assert SimClr.joins and Dino.joins


def test_pictures_are_the_views_that_are_compared(run: Path) -> None:
    sheets = sorted((run / "visuals").iterdir())
    assert sheets[-1].name == f"step-{facts_of(run)['steps']:08d}.png"
    with Image.open(sheets[-1]) as opened:
        pixels = np.asarray(opened).astype(float)
    # two views of one image beside each other, cut otherwise
    side = pixels.shape[0] // 4
    assert np.abs(pixels[:side, :side] - pixels[:side, side + 4 : 2 * side + 4]).mean() > 1
    assert "the large views" in (run / "report.html").read_text()
