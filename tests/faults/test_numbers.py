"""FAULTS G1, G2: a NaN in one image of one step, alone and on one of two ranks, and a burst of
wrong labels.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import toy

from console import Done
from saccade.log import read_events

pytestmark = pytest.mark.full

BAD = 17
SKIP = ("--set", "guard.bad_steps=skip")
NAN = ("--nan", str(BAD))


def two_ranks(arguments: list[str]) -> list[Done]:
    """Run both ranks as torchrun would.

    Those that ``--devices`` starts would have no fault planted in them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    started = []
    for rank in ("0", "1"):
        environment = (
            os.environ | shared | {"OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank}
        )
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, env=environment)
        )
    return [toy.finish(process) for process in started]


def one_rank(arguments: list[str]) -> list[Done]:
    return [toy.run(arguments)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_images(tmp_path_factory.mktemp("images") / "set")


@pytest.fixture(scope="module")
def without(images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of a run that jumped over the step."""
    out = tmp_path_factory.mktemp("reference") / "run"
    assert toy.run(toy.command(images, out, faults=("--leave-out", str(BAD)))).status == 0
    return toy.digest(out)


@pytest.mark.fault("G1")
def test_a_skipped_step_never_happened_even_for_a_run_that_was_killed_after_it(
    images: Path, without: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = toy.command(images, out, *SKIP, faults=NAN)
    toy.signal_after_step(command, out, 40)
    attempt = toy.run(command)
    assert attempt.status == 0, attempt.stderr
    assert toy.resumed_at(out) and toy.resumed_at(out)[0] > BAD
    assert toy.digest(out) == without and toy.facts(out)["skipped_steps"] == [BAD]
    assert [e["step"] for e in read_events(out / "log.jsonl") if e["event"] == "skipped"] == [BAD]


@pytest.mark.fault("G1")
def test_all_ranks_skip_what_is_bad_on_one_of_them(
    images: Path, without: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    attempts = two_ranks(toy.command(images, out, *SKIP, faults=NAN))
    assert [a.status for a in attempts] == [0, 0], attempts
    assert toy.digest(out) == without and toy.facts(out)["skipped_steps"] == [BAD]
    facts = json.loads((out / "bad" / f"step_{BAD:08d}.json").read_text())
    assert facts["loss_by_rank"][0] > 0 and facts["loss_by_rank"][1] == "nan"
    assert [image["rank"] for image in facts["images"]] == [0] * 16 + [1] * 16
    assert all(".jpg" in image["name"] for image in facts["images"])
    kept = safetensors.torch.load_file(out / "bad" / f"step_{BAD:08d}.safetensors")
    assert kept["images"].shape[:2] == (32, 3) and len(set(kept["samples"].tolist())) == 32


@pytest.mark.parametrize("start", [one_rank, two_ranks])
@pytest.mark.fault("G1")
def test_a_run_stops_at_a_bad_step_by_itself(
    images: Path, tmp_path: Path, start: Callable[[list[str]], list[Done]]
) -> None:
    out = tmp_path / "run"
    attempts = start(toy.command(images, out, faults=NAN))
    assert {a.status for a in attempts} == {76}, attempts
    said = "".join(a.stderr for a in attempts)  # by the rank that was first to say it
    assert f"not finite at step {BAD}" in said
    assert toy.facts(out)["status"] == "diverged" and not (out / "model.safetensors").exists()
    assert (out / "bad" / f"step_{BAD:08d}.json").is_file()
    again = start(toy.command(images, out, *SKIP, faults=NAN))
    assert {a.status for a in again} == {0}, "the checkpoint before it goes on with another policy"


def test_too_many_skipped_steps_end_the_run(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    faults = ("--nan", "3", "5", "9", "30")
    attempt = toy.run(toy.command(images, out, *SKIP, "--set", "guard.allowed=2", faults=faults))
    assert attempt.status == 76 and "2 skipped steps before it" in attempt.stderr


@pytest.mark.fault("G2")
def test_a_burst_of_wrong_labels_leaves_no_trace_even_for_a_run_that_was_killed_in_it(
    images: Path, tmp_path: Path
) -> None:
    burst = ("52", "53", "54", "55", "56")  # spikes are looked for from step 50 on
    watch = (*SKIP, "--set", "guard.spike=6")
    without, whole, killed = (tmp_path / name for name in ("without", "whole", "killed"))
    assert toy.run(toy.command(images, without, *watch, faults=("--leave-out", *burst))).status == 0

    command = toy.command(images, whole, *watch, faults=("--burst", *burst))
    attempt = toy.run(command)
    assert attempt.status == 0, attempt.stderr
    assert toy.facts(whole)["skipped_steps"] == [int(step) for step in burst], (
        "found at its first step"
    )
    assert toy.digest(whole) == toy.digest(without)

    command = toy.command(images, killed, *watch, faults=("--burst", *burst))
    toy.signal_after_step(command, killed, 54)
    assert toy.run(command).status == 0
    assert toy.facts(killed)["skipped_steps"] == toy.facts(whole)["skipped_steps"]
    assert toy.digest(killed) == toy.digest(whole), "the same again"
