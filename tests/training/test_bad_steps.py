"""Steps that are not finite: no trace in any tensor, a batch to look at, and an end where there
are too many.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_step import CPU, batch, make
from torch import Tensor

from saccade.config.schema import GuardSection
from saccade.device import precision
from saccade.device.loss_scale import GROW_AFTER, LEAST, MOST, START, LossScale, following
from saccade.errors import ConfigError, DivergedError
from saccade.optim.methods import METHODS
from saccade.training import update
from saccade.training.bad_steps import MOST_KEPT, Archive
from saccade.training.guard import Guard
from saccade.training.loss_spike import LossRecord
from saccade.training.state import State
from saccade.training.step import StepRunner

BAD = 2
LAST = torch.tensor([-1])


def poison(state: State, where: str) -> Any:
    """Make every pass through a layer bad until the returned hook is removed."""
    nan, inf = float("nan"), float("inf")
    if where == "forward":  # reaches BatchNorm's buffers before there is any gradient
        return state.model.get_submodule("conv1").register_forward_hook(lambda *a: a[2] * nan)
    return state.model.get_submodule("fc").register_full_backward_hook(
        lambda *a: tuple(g * inf for g in a[1])
    )


def skipping(runner: StepRunner, allowed: int = 10, archive: Archive | None = None) -> Guard:
    return Guard("lr", GuardSection(bad_steps="skip", allowed=allowed), archive)


def trained(name: str, steps: int, bad: int | None, where: str) -> State:
    """Return a state after some steps, one of which was bad, or, with ``where`` empty, never
    happened.
    """
    state, runner = make(
        8, optimizer__name=name, optimizer__weight_decay=0.1, guard__bad_steps="skip"
    )
    runner = replace(runner, guard=skipping(runner))
    for step in range(steps):
        if step == bad and not where:
            state.step += 1
            continue
        hook = poison(state, where) if step == bad else None
        runner.step(state, batch(seed=step))
        if hook:
            hook.remove()
    return state


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.spec("A19")
@pytest.mark.fault("G1")
def test_a_skipped_step_never_happened(name: str) -> None:
    without = trained(name, 4, BAD, "")
    assert without.skipped == []
    for where in ("forward", "backward"):
        state = trained(name, 4, BAD, where)
        assert state.digest() == without.digest() and state.step == 4 and state.skipped == [BAD], (
            where
        )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_masked_step_leaves_no_trace_where_nothing_waits_for_the_flag(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = update.update
    monkeypatch.setattr("saccade.training.step.update", lambda *a, waits: real(*a, waits=False))
    state, runner = make(8, optimizer__name=name, optimizer__weight_decay=0.1)
    runner = replace(runner, guard=skipping(runner))
    runner.step(state, batch())
    before = state.digest()
    hook = poison(state, where)
    runner.step(state, batch(seed=1))
    assert state.digest() == before, "at the first bad step"
    hook.remove()
    runner.step(state, batch(seed=2))
    assert state.digest() != before and all(
        torch.isfinite(t).all() for t in state.tensors()["model"].values()
    )


def test_masked_and_waiting_steps_agree_where_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = trained("sgd", 3, None, "")
    real = update.update
    monkeypatch.setattr("saccade.training.step.update", lambda *a, waits: real(*a, waits=False))
    masked = trained("sgd", 3, None, "")
    for group, tensors in waiting.tensors().items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(masked.tensors()[group][name], tensor, rtol=1e-6, atol=1e-7)


def test_an_overflowing_statistic_is_seen_though_the_loss_is_fine() -> None:
    state, runner = make(8)
    hook = state.model.get_submodule("conv1").register_forward_hook(lambda *a: a[2] * 1e30)
    with pytest.raises(DivergedError):
        runner.step(state, batch())
    hook.remove()
    assert all(torch.isfinite(t).all() for t in state.tensors()["model"].values())


def test_when_the_bound_is_spent_the_run_ends() -> None:
    state, runner = make(8)
    runner = replace(runner, guard=skipping(runner, allowed=2))
    poison(state, "forward")
    runner.step(state, batch())
    runner.step(state, batch())
    with pytest.raises(DivergedError, match="2 skipped steps before it") as caught:
        runner.step(state, batch())
    assert caught.value.status == 76 and state.skipped == [0, 1]


@pytest.mark.fault("G1")
def test_the_batch_is_kept_with_the_names_of_its_images(tmp_path: Path) -> None:
    state, runner = make(8)
    archive = Archive(tmp_path, lambda sample: f"cats/{sample}.jpg", seed=7)
    runner = replace(runner, guard=skipping(runner, archive=archive))
    poison(state, "forward")
    whole = batch(seed=3)
    for _ in range(MOST_KEPT + 2):
        runner.step(state, whole)
    kept = sorted(p.name for p in (tmp_path / "bad").iterdir())
    assert kept == [
        f"step_{n:08d}.{kind}" for n in range(MOST_KEPT) for kind in ("json", "safetensors")
    ]
    tensors = safetensors.torch.load_file(tmp_path / "bad" / "step_00000001.safetensors")
    assert torch.equal(tensors["images"], whole.images) and torch.equal(
        tensors["labels"], whole.labels
    )
    facts = json.loads((tmp_path / "bad" / "step_00000001.json").read_text())
    assert facts["step"] == 1 and facts["seed"] == 7 and facts["loss_by_rank"] == ["nan"]
    assert facts["images"][5] == {
        "name": "cats/5.jpg",
        "sample": 5,
        "epoch": 0,
        "label": 1,
        "rank": 0,
    }


def scaled(factor: float, good_steps: int, *, finite: bool) -> tuple[float, int]:
    one = following(
        torch.tensor(factor), torch.tensor(good_steps, dtype=torch.int32), torch.tensor(finite)
    )
    return float(one[0]), int(one[1])


def test_the_loss_scale_grows_after_many_good_steps_and_halves_at_an_overflow() -> None:
    assert scaled(START, 5, finite=True) == (START, 6)
    assert scaled(START, GROW_AFTER - 1, finite=True) == (2 * START, 0)
    assert scaled(START, 1000, finite=False) == (START / 2, 0)
    assert scaled(LEAST, 1, finite=False) == (LEAST, 0) and scaled(
        MOST, GROW_AFTER - 1, finite=True
    ) == (MOST, 0)


def with_scale() -> tuple[State, StepRunner]:
    state, runner = make(8, optimizer__clip=1.0)
    state.scale = LossScale(CPU)
    return state, runner


@pytest.mark.spec(27, "A19")
def test_a_scaled_loss_gives_the_same_step() -> None:
    plain, runner = make(8, optimizer__clip=1.0)
    runner.step(plain, batch())
    state, scaling = with_scale()
    scaling.step(state, batch())
    assert state.tensors()["scale"]["good_steps"] == 1
    assert all(
        torch.equal(t, plain.tensors()["model"][n]) for n, t in state.tensors()["model"].items()
    )


@pytest.mark.spec(27)
def test_an_overflow_lowers_the_scale_and_is_no_bad_step_until_it_is_exhausted() -> None:
    state, runner = with_scale()
    assert state.scale
    hook = poison(state, "backward")
    before: dict[str, Tensor] = {n: t.clone() for n, t in state.tensors()["model"].items()}
    for _ in range(16):
        runner.step(state, batch())
    assert float(state.scale.factor) == LEAST and state.skipped == []
    assert all(torch.equal(t, before[n]) for n, t in state.tensors()["model"].items())
    with pytest.raises(DivergedError):
        runner.step(state, batch())
    hook.remove()


def test_a_loss_that_is_not_finite_is_a_bad_step_at_any_scale() -> None:
    state, runner = with_scale()
    poison(state, "forward")
    with pytest.raises(DivergedError):
        runner.step(state, batch())


@pytest.mark.spec(27)
def test_fp16_is_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        precision.choose("fp16", CPU)


def watched(noisy: range, steps: int = 70, limit: float = 6.0) -> tuple[State, list[float]]:
    """Train on images whose labels can be learned, except in some steps, where a tenfold loss is
    all there is.
    """
    state, runner = make(8, guard__spike=limit, guard__bad_steps="skip")
    state.losses = LossRecord(limit, CPU) if limit else None
    runner = replace(runner, guard=skipping(runner))
    losses = []
    for step in range(steps):
        hook = None
        if step in noisy:
            hook = state.model.register_forward_hook(
                lambda *a: a[2] + torch.eye(a[2].shape[1])[0] * 40
            )
        losses.append(float(runner.step(state, batch(seed=step))))
        if hook:
            hook.remove()
    return state, losses


def test_a_burst_of_high_losses_is_passed_over_and_the_same_again() -> None:
    burst = range(60, 65)
    state, losses = watched(burst)
    assert state.skipped == list(burst) and min(losses[60:65]) > 3 * max(losses[50:60])
    again, _ = watched(burst)
    assert again.digest() == state.digest()
    careless, _ = watched(burst, limit=0.0)
    assert careless.skipped == [] and careless.digest() != state.digest(), (
        "the burst should have done harm"
    )


def test_the_first_losses_and_ordinary_noise_are_no_spikes() -> None:
    record = LossRecord(6.0, CPU)
    draws = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    told = []
    for step, noise in enumerate(draws):
        loss = 1.0 + 5.0 * math.exp(-step / 10) + 0.1 * noise  # falls at first, then wanders
        told.append(bool(record.is_spike(loss)))
        record.update(loss, torch.tensor(True))
    assert not any(told)
    assert bool(record.is_spike(torch.tensor(10.0))) and not bool(
        record.is_spike(torch.tensor(1.9))
    )
    early = LossRecord(6.0, CPU)
    assert not bool(early.is_spike(torch.tensor(1e6)))


def test_the_record_has_the_mean_and_deviation_of_what_it_saw_and_forgets_bad_steps() -> None:
    record, seen = LossRecord(6.0, CPU), torch.linspace(1, 3, 40)
    for loss in seen:
        record.update(loss, torch.tensor(True))
        record.update(torch.tensor(99.0), torch.tensor(False))
    values = record.tensors()
    assert int(values["steps"]) == 40
    torch.testing.assert_close(values["mean"], seen.mean())
    torch.testing.assert_close(values["variance"], seen.var(correction=0))


def test_a_spike_ends_the_run_where_the_policy_says_so() -> None:
    state, runner = make(8)
    state.losses = LossRecord(6.0, CPU)
    for _ in range(60):
        state.losses.update(torch.tensor(0.1), torch.tensor(True))
    before = state.tensors()["model"]["fc.weight"].clone()
    with pytest.raises(DivergedError, match="far above its recent mean") as caught:
        runner.step(state, batch())
    assert (caught.value.status, caught.value.finding) == (76, "loss-spike")
    assert torch.equal(state.tensors()["model"]["fc.weight"], before)


def test_an_infinite_loss_is_not_finite_rather_than_a_spike() -> None:
    state, runner = make(8)
    state.losses = LossRecord(6.0, CPU)
    for _ in range(60):
        state.losses.update(torch.tensor(0.1), torch.tensor(True))
    state.model.register_forward_hook(
        lambda *a: a[2] + torch.full_like(a[2][0], -math.inf).index_fill(0, LAST, 0.0)
    )
    with pytest.raises(DivergedError) as caught:
        runner.step(state, batch())
    assert caught.value.finding == "not-finite" and caught.value.status == 76
