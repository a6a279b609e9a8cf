"""A fresh head starts as the linear probe of what the weights see, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from saccade.evaluation import passes, probe
from saccade.evaluation.features import features_of
from saccade.log import Log
from saccade.models import create_model
from saccade.setup import build, head_start
from saccade.setup.choosing import decide
from saccade.setup.compose import Request, compose
from saccade.setup.initial_weights import initialise
from saccade.setup.steps import Length, lengthened
from saccade.training import datasets
from saccade.training.run import Run


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return what builds a run on the digits that starts from weights of eight classes."""
    runs: list[Run] = []

    def make(
        model: str,
        classes: int = 8,
        module: nn.Module | None = None,
        source: nn.Module | None = None,
        **flags: Any,
    ) -> Run:
        place = tmp_path / f"{model}.safetensors"
        source = source or create_model(model, num_classes=classes, image_size=20, seed=5)
        place.write_bytes(safetensors.torch.save(source.state_dict()))
        asked = {"model.name": model, "model.init": str(place), "data.image_size": 20}
        # a tenth of the images will do
        asked |= {"precision": "fp32", "data.minival": 0.9}
        asked |= {k.replace("__", "."): v for k, v in flags.items()}
        composed = compose(Request(flags=asked))
        config, data = composed.config, datasets.open_data(composed.config, composed.source)
        chosen = decide(config, None)
        runs.append(build.build(config, data, tmp_path / "run", chosen, module=module))
        initialise(runs[-1], Log(quiet=True))
        return runs[-1]

    threads = torch.get_num_threads()
    yield make
    torch.set_num_threads(threads)
    for run in runs:
        run.readers.close()


@pytest.mark.parametrize("model", ["resnet8", "airbench94"])
def test_a_fresh_head_answers_as_the_probe_of_the_training_images(
    model: str, ready: Callable[..., Run]
) -> None:
    run = ready(model)
    plan, network = run.plan, run.state.model
    assert run.history.init["head"] == "probe"
    seen = features_of(
        network,
        plan.recipe,
        plan.data.train,
        run.readers,
        precision="fp32",
        device=plan.device,
    )
    found = probe.fit(seen, 10, plan.config.seed)
    answers = passes.rows(
        network,
        plan.recipe,
        plan.data.train,
        run.readers,
        ask=network,
        precision="fp32",
        device=plan.device,
    )

    # airbench multiplies its logits by 1/9 and has no bias
    wanted = found.logits(seen.vectors)
    alike = (answers.argmax(1) == wanted.argmax(1)).double().mean()
    assert alike > (0.97 if model == "airbench94" else 0.999)
    assert found.top1(seen) > 0.6
    centred, judge = (t - t.mean(1, keepdim=True) for t in (answers, wanted))
    assert float(centred.norm() / judge.norm()) == pytest.approx(1, abs=0.05)


def test_a_head_that_the_weights_give_stays_as_it_is(ready: Callable[..., Run]) -> None:
    run = ready("resnet8", classes=10)
    theirs = create_model("resnet8", num_classes=10, image_size=20, seed=5)
    assert run.history.init["head"] == "loaded"
    assert torch.equal(run.state.model.fc.weight, theirs.fc.weight)


def test_a_head_that_may_start_at_zero_does(ready: Callable[..., Run]) -> None:
    run = ready("resnet8", finetune__head_start="zero")
    assert run.history.init["head"] == "zero" and not run.state.model.fc.weight.any()


def test_the_average_of_the_weights_starts_with_the_same_head(ready: Callable[..., Run]) -> None:
    run = ready("resnet8", ema__half_life="9step")
    assert run.state.ema is not None
    assert run.state.model.fc.weight.any()
    assert torch.equal(run.state.ema.model.fc.weight, run.state.model.fc.weight)


class Twisted(nn.Module):
    """A network that does more behind its last linear layer than to scale it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(3 * 400, 32), nn.Linear(32, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images.flatten(1)).relu()).square()


def test_a_head_that_is_not_the_end_of_the_network_starts_at_zero(
    ready: Callable[..., Run],
) -> None:
    run = ready("custom:Twisted", module=Twisted(10), source=Twisted(8))
    assert run.history.init["head"] == "zero" and not run.state.model.fc.weight.any()


class Crowded(nn.Module):
    """A network whose features hardly differ between images, as those of a ViT that learned little:
    logits are then small differences of large numbers.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(3 * 400, 32), nn.Linear(32, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(1 + self.body(images.flatten(1)).tanh() / 50)


def test_a_head_is_compared_with_the_probe_without_the_rounding_of_the_run(
    ready: Callable[..., Run],
) -> None:
    run = ready("custom:Crowded", module=Crowded(10), source=Crowded(8), precision="bf16")
    assert run.history.init["head"] == "probe"


@pytest.mark.parametrize(("steps", "warmup"), [(1, 10), (40, 10), (200, 20)])
def test_a_short_run_does_not_undo_the_probe_in_one_step(
    steps: int, warmup: int, ready: Callable[..., Run]
) -> None:
    rates = ready("resnet8", epochs=f"{steps}step").stepper.schedule
    assert rates.warmup == warmup
    assert rates.factor(0) <= 0.1


def test_a_warm_up_that_is_named_in_steps_is_taken_as_it_is(ready: Callable[..., Run]) -> None:
    assert ready("resnet8", epochs="40step", schedule__warmup="1step").stepper.schedule.warmup == 1


def test_rates_are_lower_where_frozen_features_answer_nearly_all(
    ready: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # of drawn weights the features answer less than nearly all
    monkeypatch.setattr(head_start, "FULL_RATE_ERROR", 0.9)
    run = ready("resnet8")
    plan = run.plan
    seen = features_of(
        run.state.model,
        plan.recipe,
        plan.data.train,
        run.readers,
        precision="fp32",
        device=plan.device,
    )
    wrong = 1 - probe.fit(seen, 10, plan.config.seed).held_out_top1
    assert run.history.init["rate_scale"] == pytest.approx(max(wrong / 0.9, 0.2), abs=1e-3)

    # the whole curve is lower, also when the run gets another length
    full, gentle = run.stepper, head_start.eased(run).stepper
    other = lengthened(run.state, gentle, Length(100, 77))
    assert lengthened(run.state, full, Length(100, 77)).schedule.factor(20) > 0
    for step in (0, 20, 76):
        low, high = gentle.schedule.factor(step), full.schedule.factor(step)
        assert low == pytest.approx(run.history.init["rate_scale"] * high)
    assert other.schedule.scale == gentle.schedule.scale


def test_a_rate_that_the_user_gave_is_never_scaled(
    ready: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_start, "FULL_RATE_ERROR", 0.9)
    run = ready("resnet8", optimizer__lr="0.001")
    assert "rate_scale" not in run.history.init
    assert head_start.eased(run).stepper.schedule.scale == 1
