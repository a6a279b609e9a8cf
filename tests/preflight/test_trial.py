"""The trial before training: the first loss, time, memory, disk, reading threads."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sets import (
    QUIET,
    Own,
    asked,
    built,
    errors,
    make_set,
    rehearse,
)
from torch import Tensor

from saccade.device import compile
from saccade.errors import ConfigError, DiskError, DivergedError, PreemptedError
from saccade.preflight import checks, out_of_memory, speed


def test_the_trial_changes_nothing_but_says_how_long_it_takes(tmp_path: Path) -> None:
    composed = asked(
        make_set(tmp_path / "set"), "ema.half_life=1ep", "augment.mixup=0.2", "model.dropout=0.1"
    )
    run = built(composed, tmp_path / "run")
    before, generator, threads = run.state.digest(), torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        findings = rehearse(run)
        assert not torch.is_grad_enabled()
    assert run.state.digest() == before and run.state.step == 0
    checksum = run.state.checksum()
    with torch.no_grad():
        next(iter(run.state.model.buffers())).view(-1)[0].nextafter_(torch.tensor(9.0))
    assert not torch.equal(run.state.checksum(), checksum), "one bit of one buffer shows"
    assert torch.equal(torch.get_rng_state(), generator) and torch.get_num_threads() == threads
    assert all(p.grad is None for p in run.state.model.parameters())
    assert not (tmp_path / "run").exists()
    assert "limits" in findings["time"].message and errors(findings) == {}


@pytest.mark.parametrize(("waits_s", "threads"), [(0.001, 2), (0.0, 8)])
def test_fewer_threads_read_where_many_stand_in_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_s: float, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    composed = asked(make_set(tmp_path / "set"))
    run = built(composed, tmp_path / "run")
    run.readers.resize(8)
    split, lock = run.plan.view.split, threading.Lock()

    def read(sample: int) -> Any:
        if waits_s:
            with lock:  # each waits longer the more there are
                time.sleep(waits_s * run.readers.threads)
        else:
            time.sleep(0.01)
        return split.read(sample)

    view = dataclasses.replace(run.plan.view, split=dataclasses.replace(split, read=read))
    slow = dataclasses.replace(run, plan=dataclasses.replace(run.plan, view=view))
    try:
        _, choices = checks.trial(slow, QUIET, lambda: None)
    finally:
        run.readers.close()
    assert run.readers.threads == threads == choices.reader_threads.value


def test_the_estimate_adds_up(tmp_path: Path) -> None:
    composed = asked(
        make_set(tmp_path / "set"),
        "augment.sizes=[0.5, 1.0]",
        **{"batch.global": 4, "batch.cell": 2},
    )
    run = built(composed, tmp_path / "run")
    run.readers.close()
    # 6 steps of two cells; 16 and 24 px are not 12 and 24: sizes are multiples of 8
    assert [run.plan.view.size_at(step) for step in (0, 5)] == [16, 24]
    spent = speed.estimate(
        run.plan, speed.Speed(load_s=0.01, first_cell_s=0.3, next_cell_s=0.1, side=24)
    )
    compute = 0.4 * ((16 / 24) ** 2 + 1) / 2
    assert spent.compute_s == pytest.approx(compute) and spent.load_s == pytest.approx(0.04)
    judged = (1 + 1 + 2) * 4  # after each epoch with one view, and at the end with two
    assert spent.total_s == pytest.approx(6 * (compute + 0.04) + judged * (0.1 / 2 / 3 + 0.01))
    assert spent.limit == "compute"


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e4])
def test_an_absurd_first_loss_is_refused(tmp_path: Path, scale: float) -> None:
    module = Own(scale=scale)
    with torch.no_grad():  # sure of class b, scale or not
        module.head.bias.copy_(torch.tensor([0.0, 1.0]))
    run = built(asked(make_set(tmp_path / "set")), tmp_path / "run", module)
    with pytest.raises(DivergedError) as caught:
        rehearse(run)
    assert caught.value.finding == ("loss-at-start" if math.isfinite(scale) else "not-finite")


def test_an_unusual_first_loss_is_warned_of(tmp_path: Path) -> None:
    run = built(asked(make_set(tmp_path / "set"), **{"batch.global": 12}), tmp_path / "run", Own())
    with torch.no_grad():  # a network that is sure of class a, on as many images of a as of b
        run.state.model.get_parameter("head.bias").copy_(torch.tensor([6.0, 0.0]))
        run.state.model.get_parameter("head.weight").zero_()
    assert rehearse(run)["loss-at-start"].severity == "warning"


class Hungry(Own):
    """A network that runs out of memory in training, as a GPU would say it, with more images
    than ``room``.
    """

    room = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.fault("H1")
def test_a_cell_that_does_not_fit_names_the_way_out(tmp_path: Path) -> None:
    composed = asked(make_set(tmp_path / "set"), **{"batch.global": 8})
    with pytest.raises(ConfigError) as caught:
        rehearse(built(composed, tmp_path / "run", Hungry()))
    assert (
        caught.value.finding == "out-of-memory" and "--set batch.cell=4 or less" in caught.value.fix
    )


@pytest.mark.spec("A5")
@pytest.mark.fault("H1")
def test_the_largest_cell_that_fits_is_found(tmp_path: Path) -> None:
    hungry = Hungry()
    hungry.room = 3
    with pytest.raises(ConfigError, match="8 images") as caught:
        rehearse(
            built(
                asked(make_set(tmp_path / "set"), **{"batch.global": 8}), tmp_path / "run", hungry
            )
        )
    assert "--set batch.cell=2 fits (tried)" in caught.value.fix


@pytest.mark.spec("A5")
def test_memory_that_runs_out_later_is_explained(tmp_path: Path) -> None:
    run = built(asked(make_set(tmp_path / "set"), **{"batch.global": 8}), tmp_path / "run")
    with (
        pytest.raises(ConfigError, match="at step 0, with cells of 8 images") as caught,
        out_of_memory.explained(run.plan, run.state),
    ):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"
        )
    assert (
        "run the same command again" in caught.value.fix and caught.value.finding == "out-of-memory"
    )
    with pytest.raises(RuntimeError, match="sizes"), out_of_memory.explained(run.plan, run.state):
        raise RuntimeError("sizes differ")
    run.readers.close()


def test_the_trial_can_be_stopped(tmp_path: Path) -> None:
    run = built(asked(make_set(tmp_path / "set")), tmp_path / "run")

    def stop() -> None:
        raise PreemptedError("asked to stop")

    with pytest.raises(PreemptedError):
        checks.trial(run, QUIET, stop)
    run.readers.close()


@pytest.mark.spec("A11")
def test_checkpoints_that_do_not_fit_onto_the_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = built(asked(make_set(tmp_path / "set")), tmp_path / "run")
    one = sum(
        t.numel() * t.element_size()
        for group in run.state.tensors().values()
        for t in group.values()
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=4 * one))
    with pytest.raises(DiskError) as caught:
        rehearse(run)
    assert caught.value.finding == "disk-space"


def test_compiling_is_tried_only_within_its_budget_and_kept_only_where_it_pays() -> None:
    assert compile.worth_trying("cpu", 1e9) == (False, "does not help on a CPU")
    assert not compile.worth_trying("cuda", 600)[0] and "2%" in compile.worth_trying("cuda", 600)[1]
    assert compile.worth_trying("cuda", 36000)[0]
    assert compile.worth_keeping(0.100, 0.080)[0] and not compile.worth_keeping(0.100, 0.097)[0]
    assert "80.0 ms compiled" in compile.worth_keeping(0.100, 0.080)[1]
