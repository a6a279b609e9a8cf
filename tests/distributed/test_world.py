"""Several ranks: who they are, what they add up and agree on, and that none waits for ever."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gang
import numpy as np
import pytest
import torch
from torch.distributed import TCPStore

from saccade.config.layers import Layers
from saccade.data.loader import TrainingView, batches
from saccade.data.order import Order, RankSlice
from saccade.data.readers import Readers
from saccade.data.sources import open_source
from saccade.distributed import rendezvous as boards
from saccade.distributed.launcher import SlurmJob
from saccade.distributed.rendezvous import Rendezvous
from saccade.distributed.world import (
    ALONE,
    Devices,
    Start,
    World,
    first_host,
    flatten,
    joined,
    unflatten,
)
from saccade.errors import ConfigError, DataError, SaccadeError, StalledError, StoppedEarlyError
from saccade.setup import agreement


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def variables(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def run_gang(size: int, out: Path) -> list[dict[str, Any]]:
    port = free_port()
    command = [sys.executable, gang.__file__, str(out)]
    started = [
        subprocess.Popen(command, env=os.environ | variables(r, size, port)) for r in range(size)
    ]
    assert [process.wait(timeout=200) for process in started] == [0] * size
    return list(json.loads(out.read_text()))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_gang(2, tmp_path_factory.mktemp("gang") / "two.json")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", gang.KINDS)
@pytest.mark.spec(29)
@pytest.mark.fault("C1")
def test_two_ranks_are_bit_for_bit_one_rank_with_two_cells(
    kind: str, two: list[dict[str, Any]]
) -> None:
    alone = gang.digest(kind, ALONE, 2)
    assert [seen[kind] for seen in two] == [alone, alone]


def test_synced_norms_see_all_ranks_as_one_batch(two: list[dict[str, Any]]) -> None:
    alone = gang.synced(ALONE)
    for place in ("0", "1"):  # outputs and gradients of the images, rank after rank
        joined_up = [value for seen in two for value in seen["synced"][place]]
        np.testing.assert_allclose(joined_up, alone[place], rtol=1e-4, atol=1e-5)
    for place in ("2", "3"):  # each rank has its share of the gradients of scale and bias
        total = np.sum([seen["synced"][place] for seen in two], axis=0)
        np.testing.assert_allclose(total, alone[place], rtol=1e-4, atol=1e-4)
    for seen in two:  # mean, variance and count
        for place in ("4", "5", "6"):
            np.testing.assert_allclose(seen["synced"][place], alone[place], rtol=1e-5)


def check_every_image_counts_once(everyone: list[dict[str, Any]]) -> None:
    for n in gang.SIZES:
        alone = gang.figures(n, ALONE)
        assert alone["n"] == n and all(seen[str(n)] == alone for seen in everyone)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.spec("A13")
@pytest.mark.fault("C4")
def test_an_evaluation_counts_every_image_once(two: list[dict[str, Any]]) -> None:
    check_every_image_counts_once(two)


def test_ranks_agree_on_what_stops_them(two: list[dict[str, Any]]) -> None:
    for seen in two:
        assert "not finite at step 0" in seen["diverged"] and "SIGTERM" in seen["stopped"]
        assert seen["skipped"], "a bad step of one rank leaves a trace"
        assert seen["copied"] == 0 and seen["highest"] == 10


def test_more_ranks_than_two_agree_with_each_other(two: list[dict[str, Any]]) -> None:
    assert two[0]["more cells"] == two[1]["more cells"]


@pytest.mark.full
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", [3, 4])
def test_more_ranks_do_all_this_too(size: int, tmp_path: Path) -> None:
    everyone = run_gang(size, tmp_path / "seen.json")
    check_every_image_counts_once(everyone)
    assert len({seen["more cells"] for seen in everyone}) == 1
    assert all(
        "SIGTERM" in seen["stopped"] and "not finite" in seen["diverged"] for seen in everyone
    )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.spec(22)
def test_ranks_together_see_the_same_images_as_one(size: int) -> None:
    split, readers = open_source("digits").splits["train"], Readers(2)
    section = Layers().resolve().augment

    def part(rank_slice: RankSlice) -> list[Any]:
        view = TrainingView(split, Order(len(split), 3), section, 16, 50, "ignore", rank_slice)
        return list(batches(view, readers, 64, 20, 25))

    whole, parts = part(RankSlice()), [part(RankSlice(8, rank, size)) for rank in range(size)]
    for step, everything in enumerate(whole):
        for rank, mine in enumerate(parts):
            places = RankSlice(8, rank, size).places(64)
            assert np.array_equal(mine[step].samples, everything.samples[places])
            assert torch.equal(mine[step].images, everything.images[places])
    readers.close()
    assert sorted(
        np.concatenate([RankSlice(8, rank, size).places(64) for rank in range(size)])
    ) == list(range(64))


def test_flattened_tensors_come_back_in_their_own_layout() -> None:
    tensors = [
        torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.randn(5),
        torch.randn(()),
    ]
    copies = [torch.zeros_like(t) for t in tensors]
    unflatten(flatten(tensors), copies)
    assert all(
        torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(tensors, copies, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("auto", Devices("auto")),
        ("cpu:2", Devices("cpu", 2)),
        ("8", Devices("cuda", 8)),
        ("0,2", Devices("cuda", 2, (0, 2))),
        ("3,", Devices("cuda", 1, (3,))),
    ],
)
def test_devices_are_read(text: str, devices: Devices) -> None:
    assert Devices.parse(text) == devices


def test_a_wrong_spelling_of_devices_names_the_right_ones() -> None:
    layers = Layers()
    layers.set("device=gpu7")
    with pytest.raises(ConfigError, match="device") as caught:
        layers.resolve()
    assert "cpu:2" in caught.value.fix


@pytest.mark.spec(29)
def test_torchrun_and_srun_say_who_a_process_is() -> None:
    assert Start.read({}) == Start()
    start = Start.read(variables(1, 4, 29500))
    assert (start.rank, start.size, start.address, start.port) == (1, 4, "127.0.0.1", 29500)
    task = {
        "SLURM_PROCID": "9",
        "SLURM_STEP_NUM_TASKS": "11",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "2",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
        "SLURM_STEP_NODELIST": "gpu[07-09]",
        "SLURM_JOB_ID": "41",
    }
    start = Start.read(task)
    assert (start.rank, start.size, start.local_rank, start.local_size) == (9, 11, 1, 3)
    assert (start.address, start.port) == ("gpu07", 20041)
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "41"}
    assert Start.read(batch_script).size == 1, "a batch script is not one of its own tasks"
    with pytest.raises(ConfigError, match="rank 1 of 2"):
        Start.read({"RANK": "1", "WORLD_SIZE": "2"})
    assert [first_host(n) for n in ("a1", "a1,a2", "n[003,7-9]-ib,b", "")] == [
        "a1",
        "a1",
        "n003-ib",
        "",
    ]


@pytest.mark.fault("C7")
def test_a_taken_port_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for name, value in variables(0, 2, other.getsockname()[1]).items():
            monkeypatch.setenv(name, value)
        begun = time.monotonic()
        with pytest.raises(ConfigError, match="cannot connect") as caught, joined(20):
            pass
    assert "MASTER_PORT" in caught.value.fix and time.monotonic() - begun < 10


@pytest.mark.spec(29)
@pytest.mark.fault("C7")
def test_a_rank_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StalledError, match="rank 1 of 2 has not started after 1 s"), joined(1):
        pass


@pytest.mark.fault("C7")
def test_a_first_rank_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(1, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StalledError, match="has not reached rank 0"), joined(1):
        pass


@pytest.fixture
def pair() -> Iterator[tuple[Rendezvous, Rendezvous]]:
    port = free_port()
    stores = [
        TCPStore("127.0.0.1", port, None, first, wait_for_workers=False) for first in (True, False)
    ]
    both = [
        Rendezvous(store, rank, 2, hosts_store=rank == 0, under_agent=False)
        for rank, store in enumerate(stores)
    ]
    together(lambda: both[0].meet(20), lambda: both[1].meet(20))
    yield both[0], both[1]
    together(both[0].close, both[1].close)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Return what the works returned or raised, each in a thread of its own."""
    results: list[Any] = [None] * len(works)

    def run(place: int) -> None:
        try:
            results[place] = works[place]()
        except SaccadeError as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_notes_are_exchanged_in_the_order_of_the_ranks(pair: tuple[Rendezvous, Rendezvous]) -> None:
    for number in range(3):
        works = [partial(board.exchange, {"rank": board.rank, "x": 0.1 + number}) for board in pair]
        assert together(*works) == [[{"rank": rank, "x": 0.1 + number} for rank in (0, 1)]] * 2


def test_the_error_of_one_rank_is_everyones(pair: tuple[Rendezvous, Rendezvous]) -> None:
    def fail() -> object:
        time.sleep(0.1)
        return pair[1].report(
            DataError("an image cannot be decoded", where="a/b.jpg", fix="remove it")
        )

    heard, before = together(lambda: pair[0].exchange(None), fail)
    assert before is None and isinstance(heard, DataError)
    first = pair[0].report(StoppedEarlyError("asked to stop by SIGTERM"))
    assert isinstance(first, DataError), (
        "whoever is told to go meanwhile leaves with the status of the first"
    )
    assert (heard.what, heard.where) == ("rank 1: an image cannot be decoded", "a/b.jpg")
    assert isinstance(pair[0].explain(RuntimeError("Connection closed by peer")), DataError)


def test_a_lost_connection_between_living_ranks_is_said(
    pair: tuple[Rendezvous, Rendezvous],
) -> None:
    error = pair[0].explain(RuntimeError("Connection reset by peer"))
    assert isinstance(error, StalledError) and "network" in error.fix and "reset" in error.what


def test_a_rank_that_says_nothing_is_named(
    pair: tuple[Rendezvous, Rendezvous], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "ANSWER_S", 0.1)
    with pytest.raises(StalledError, match=r"rank 1 of 2 does not answer after 0\.2 s"):
        pair[0].exchange(None, 0.2)


@pytest.mark.fault("C6")
def test_other_settings_and_other_images_on_one_rank_are_named(
    pair: tuple[Rendezvous, Rendezvous],
) -> None:
    def look(rank: int, fingerprint: str, seed: int) -> Callable[[], None]:
        layers = Layers()
        layers.set(f"seed={seed}")
        layers.set(f"device=cpu{':2' * rank}")  # may differ
        data = type("Data", (), {"fingerprint": fingerprint})()
        world = World(rank, 2, rank, 2, pair[rank])
        return lambda: agreement.check_same(layers.resolve(), data, world)

    assert together(look(0, "aa", 1), look(1, "aa", 1)) == [None, None]
    for errors in (
        together(look(0, "aa", 1), look(1, "aa", 2)),
        together(look(0, "aa", 1), look(1, "bb", 1)),
    ):
        assert all(
            isinstance(error, ConfigError) and "rank 1 differs" in error.what for error in errors
        )
    assert "images: aa -> bb" in errors[0].what


def test_cells_that_the_ranks_cannot_share_are_refused_with_the_numbers_that_can() -> None:
    layers = Layers()
    layers.set("batch.global=96")
    layers.set("batch.cell=16")
    with pytest.raises(
        ConfigError, match="6 cells of 16 images cannot be shared equally by 4 ranks"
    ) as caught:
        agreement.check_number(layers.resolve(), World(0, 4, 0, 4))
    assert "1, 2, 3, 6 ranks" in caught.value.fix and "batch.cell=24" in caught.value.fix
    agreement.check_number(layers.resolve(), World(0, 3, 0, 3))
    layers.set("device=8")
    with pytest.raises(ConfigError, match="asks for 8 ranks per machine, but 3 were started"):
        agreement.check_number(layers.resolve(), World(0, 3, 0, 3))


TRAIN = ["resnet50", "--data", "my photos.zip"]


def test_the_batch_script_starts_ranks_saves_in_time_and_queues_again() -> None:
    script = SlurmJob(2, 8, time="12:00:00").script([*TRAIN, "--out", "my run"])
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --time=12:00:00",
        "#SBATCH --signal=TERM@120",
        "srun --kill-on-bad-exit=1 python -m saccade train resnet50 --data 'my photos.zip' "
        "--out 'my run'",
    ):
        assert line in script.splitlines(), line
    assert "partition" not in script and "'my run/run.json'" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_the_run_folder_of_a_batch_script_follows_from_its_arguments() -> None:
    first, again, other = (
        SlurmJob().script(words) for words in (TRAIN, TRAIN, [*TRAIN, "--seed", "1"])
    )
    assert first == again != other and "--out runs/slurm-" in first
    assert "runs/slurm" not in SlurmJob().script([*TRAIN, "--out=there"])


@pytest.mark.parametrize(
    ("status", "facts", "queued"),
    [
        (75, None, True),  # stopped before there was a run
        # one rank was slower than srun's patience
        (143, {"job": "7.0", "status": "preempted"}, True),
        (143, {"job": "7.0", "status": "data"}, False),
        # of an earlier job: this one did not come so far
        (65, {"job": "6.0", "status": "preempted"}, False),
        (143, {"job": None, "status": "preempted"}, False),
        (143, None, False),
        (0, {"job": "7.0", "status": "done"}, False),
    ],
)
def test_a_job_is_queued_again_when_run_json_says_that_it_was_preempted(
    status: int, facts: dict[str, str] | None, queued: bool, tmp_path: Path
) -> None:
    place = tmp_path / "my run"
    place.mkdir()
    if facts:
        (place / "run.json").write_text(json.dumps(facts))
    programs = {
        "srun": f"exit {status}",
        "scontrol": f'if [ "$1" = requeue ]; then echo "$2" > "{tmp_path}/queued"; fi',
        "python": f'exec "{sys.executable}" "$@"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "a",
    }
    script = SlurmJob().script([*TRAIN, "--out", str(place)])
    assert subprocess.run(["bash"], input=script, text=True, env=env).returncode == status
    assert (tmp_path / "queued").exists() == queued
