"""FAULTS A5, A6, A8, C1, C2, C4 to C7 with real ranks: all of them go on together, or all end
soon, and say why.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import toy
from victim import BROKEN_LOADER_AT

from console import Done
from saccade.log import read_events

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks in /proc")

TWO = ("--devices", "cpu:2")
SOON_S = 30.0  # a machine with four times as many processes as cores missed 15


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """Return the process numbers of the ranks that a launcher started, in their order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = {}
    for pid in children:
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                found[int(variable[5:])] = int(pid)
    return [found[rank] for rank in sorted(found)]


@contextmanager
def running(arguments: list[str], out: Path, step: int) -> Iterator[subprocess.Popen[str]]:
    """Start ranks and wait until the log says that a step is done.

    At the end nothing of them is left.
    """
    process = toy.start_and_reach(arguments, out, step)
    pids = ranks_of(process)
    try:
        yield process
    finally:
        process.kill()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[Done, float]:
    """Wait for the end; return it with the seconds that it took."""
    begun = time.monotonic()
    return toy.finish(process), time.monotonic() - begun


@pytest.mark.full
@pytest.mark.fault("A6")
def test_two_ranks_stopped_by_sigterm_to_one_end_as_one_rank(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with running(toy.command(images, out, *TWO), out, 17) as process:
        os.kill(ranks_of(process)[1], signal.SIGTERM)
        attempt, _ = ended(process)
    assert attempt.status == 75, attempt.stderr
    assert attempt.stderr.count("asked to stop by SIGTERM") == 1, "exactly one rank says it"
    assert toy.facts(out)["batch"]["ranks"] == 2 and toy.last_step(out) < 25
    assert toy.run(toy.command(images, out)).status == 0
    assert toy.digest(out) == toy.digest(reference)


@pytest.mark.spec("A1")
@pytest.mark.fault("A5")
def test_a_killed_rank_ends_all_within_seconds_with_the_cause(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(toy.command(images, out, *TWO), out, 17) as process:
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        attempt, seconds = ended(process)
    assert attempt.status == 70 and seconds < SOON_S
    assert (
        "rank 1 of 2" in attempt.stderr
        and "SIGKILL" in attempt.stderr
        and "Traceback" not in attempt.stderr
    )
    assert toy.checkpoints(out)[0].name == f"step_{toy.last_step(out):08d}", (
        "the last whole step is saved first"
    )


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_and_gives_its_status(
    number: int, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with running(toy.command(images, out, *TWO), out, 10) as process:
        process.send_signal(number)
        attempt, _ = ended(process)
    assert attempt.status == (130 if number == signal.SIGINT else 75), attempt.stderr
    assert toy.checkpoints(out)[0].name == f"step_{toy.last_step(out):08d}"


@pytest.mark.full
def test_a_killed_launcher_leaves_no_rank_behind(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with running(toy.command(images, out, *TWO), out, 10) as process:
        pids = ranks_of(process)
        process.kill()
        process.wait()
        deadline = time.monotonic() + SOON_S
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert toy.run(toy.command(images, out, *TWO)).status == 0
    assert toy.digest(out) == toy.digest(reference)


@pytest.mark.full
@pytest.mark.fault("A8")
def test_a_rank_that_pauses_goes_on(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(
        toy.command(images, out, *TWO, "--set", "ranks.step_limit=20s"), out, 10
    ) as process:
        pid = ranks_of(process)[1]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        assert ended(process)[0].status == 0
    assert toy.digest(out) == toy.digest(reference)


@pytest.mark.full
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.fault("A8")
def test_a_rank_that_stops_for_good_ends_all(rank: int, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(
        toy.command(images, out, *TWO, "--set", "ranks.step_limit=10s"), out, 10
    ) as process:
        os.kill(ranks_of(process)[rank], signal.SIGSTOP)
        attempt, seconds = ended(process)
    assert attempt.status == 70 and seconds < 10 + SOON_S, attempt.stderr
    assert f"rank {rank} of 2 does not answer" in attempt.stderr
    assert attempt.stderr.count("Thread 0x") > 1, "what the threads of the other one are doing"


@pytest.mark.full
@pytest.mark.fault("C5")
def test_a_bad_image_on_one_rank_stops_all_with_its_name(images: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(images, copy)
    with running(toy.command(copy, out, *TWO, "--set", "data.processes=0"), out, 3) as process:
        for image in (copy / "train").rglob("*.jpg"):
            image.write_bytes(bytes(image.stat().st_size))
        attempt, seconds = ended(process)
    assert attempt.status == 65 and seconds < SOON_S, attempt.stderr
    assert "unreadable-image" in attempt.stderr and "Traceback" not in attempt.stderr
    assert toy.checkpoints(out)[0].name == f"step_{toy.last_step(out):08d}", (
        "the last whole step is saved first"
    )


def losses(out: Path) -> list[float]:
    """Return the loss of every step of a run, which shows whether its images, crops and mixes
    were the same.
    """
    return [e["loss"] for e in read_events(out / "log.jsonl") if e["event"] == "step"]


# A network without batch statistics only amplifies the order of summation a little; BatchNorm does
# a lot.
LENET = ("--model", "lenet5", "--set", "model.drop_path=null", "--set", "augment.sizes=[1.0]")


@pytest.mark.full
@pytest.mark.parametrize(
    ("network", "limit"), [(LENET, 1e-3), ((), 0.05)], ids=["lenet5", "resnet8"]
)
@pytest.mark.spec(31)
@pytest.mark.fault("C2")
def test_resume_on_other_numbers_of_ranks_continues_the_same_order(
    network: tuple[str, ...], limit: float, images: Path, tmp_path: Path
) -> None:
    """1, 2, 4, then 1 rank again."""
    plain = ("--set", "batch.cell=8", "--set", "ema.half_life=", "--precision", "fp32", *network)
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert toy.run(toy.command(images, whole, *plain)).status == 0
    for devices, step in (("cpu", 8), ("cpu:2", 22), ("cpu:4", 38)):
        with running(toy.command(images, out, *plain, "--devices", devices), out, step) as process:
            process.send_signal(signal.SIGTERM)
            assert ended(process)[0].status == 75
    assert toy.run(toy.command(images, out, *plain)).status == 0

    expected, found = losses(whole), losses(out)
    assert len(expected) == len(found) == toy.STEPS
    apart = max(abs(a - b) / a for a, b in zip(expected, found, strict=True))
    assert apart < limit, "other images would be further apart than rounding"


@pytest.mark.full
@pytest.mark.fault("C2")
def test_control_other_images_are_further_apart_than_rounding(images: Path, tmp_path: Path) -> None:
    plain = ("--set", "batch.cell=8", "--set", "ema.half_life=", "--precision", "fp32", *LENET)
    out, other = tmp_path / "run", tmp_path / "other"
    assert toy.run(toy.command(images, out, *plain)).status == 0
    assert toy.run(toy.command(images, other, *plain, faults=("--other-images", "30"))).status == 0
    apart = max(abs(a - b) / a for a, b in zip(losses(out), losses(other), strict=True))
    assert apart > 1e-3


def start_by_hand(*commands: list[str]) -> list[subprocess.Popen[str]]:
    """Start ranks as srun would, each by a command of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank, command in enumerate(commands):
        task = {
            "SLURM_PROCID": rank,
            "SLURM_STEP_NUM_TASKS": len(commands),
            "SLURM_LOCALID": rank,
            "SLURM_JOB_ID": 7,
            "SLURM_STEP_TASKS_PER_NODE": len(commands),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        environment = os.environ | {name: str(value) for name, value in task.items()}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        )
    return started


def meet_by_hand(images: Path, out: Path, *second: str, first: tuple[str, ...] = ()) -> list[Done]:
    """Start two ranks, each with arguments of its own, and wait for their ends."""
    started = start_by_hand(toy.command(images, out, *first), toy.command(images, out, *second))
    return [toy.finish(process) for process in started]


@pytest.mark.full
def test_tasks_of_srun_train_together(images: Path, reference: Path, tmp_path: Path) -> None:
    attempts = meet_by_hand(images, tmp_path / "run")
    assert [a.status for a in attempts] == [0, 0], attempts
    assert attempts[1].stderr == "", "only the first rank talks"
    assert toy.digest(tmp_path / "run") == toy.digest(reference)


@pytest.mark.full
@pytest.mark.fault("C6")
def test_ranks_with_other_settings_or_other_images_are_refused(
    images: Path, tmp_path: Path
) -> None:
    attempts = meet_by_hand(images, tmp_path / "run", "--lr", "0.06")
    assert [a.status for a in attempts] == [78, 78]
    said = "".join(a.stderr for a in attempts)
    assert said.count("rank 1 differs from rank 0: optimizer.lr: 0.05 -> 0.06") == 1
    # two ranks could not share that
    attempts = meet_by_hand(images, tmp_path / "run", "--set", "batch.cell=32")
    assert [a.status for a in attempts] == [78, 78]
    assert "rank 1 differs from rank 0: batch.cell: 16 -> 32" in "".join(a.stderr for a in attempts)
    other = toy.make_images(tmp_path / "waves", num_train=446)
    attempts = meet_by_hand(images, tmp_path / "run", "--data", str(other))
    assert [a.status for a in attempts] == [78, 78] and "images:" in "".join(
        a.stderr for a in attempts
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        (("--set", "bogus=1"), 78, "unknown setting 'bogus'"),
        (("--data", "nowhere"), 65, "there is no data"),
    ],
)
def test_a_rank_that_cannot_even_begin_ends_all_with_its_reason(
    wrong: tuple[str, ...], status: int, words: str, images: Path, tmp_path: Path
) -> None:
    begun = time.monotonic()
    attempts = meet_by_hand(images, tmp_path / "run", *wrong)
    assert [a.status for a in attempts] == [status, status]
    assert "".join(a.stderr for a in attempts).count(words) == 1
    assert time.monotonic() - begun < 45, "nobody waits a minute for a rank that is gone"


@pytest.mark.full
def test_an_image_that_only_one_rank_cannot_read_stops_all(images: Path, tmp_path: Path) -> None:
    """Each rank reads a copy of its own, as on local disks; one of these is damaged in mid-run."""
    copy, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(images, copy)
    started = start_by_hand(toy.command(images, out), toy.command(copy, out))
    deadline = time.monotonic() + toy.LIMIT_S
    while toy.last_step(out) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    for image in (copy / "train").rglob("*.jpg"):
        image.write_bytes(bytes(image.stat().st_size))
    begun = time.monotonic()
    attempts = [toy.finish(process) for process in started]
    assert [a.status for a in attempts] == [65, 65] and time.monotonic() - begun < SOON_S, attempts
    said = "".join(a.stderr for a in attempts)
    assert said.count("unreadable-image") == 1 and "train/" in said and "Traceback" not in said
    assert "unreadable-image" in toy.facts(out)["message"], (
        "the first rank wrote down what ended the other"
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "words"),
    [("bug", "RuntimeError: the loader broke"), ("dry", "the loader ended at step 20 of 60")],
)
@pytest.mark.fault("C5")
def test_a_loader_that_breaks_or_runs_dry_on_one_rank_stops_all(
    kind: str, words: str, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    started = start_by_hand(
        toy.command(images, out), toy.command(images, out, faults=("--loader", kind))
    )
    deadline = time.monotonic() + toy.LIMIT_S
    while toy.last_step(out) < BROKEN_LOADER_AT - 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    begun = time.monotonic()
    attempts = [toy.finish(process) for process in started]
    assert [a.status for a in attempts] == [1, 1] and time.monotonic() - begun < SOON_S, attempts
    assert words in "".join(a.stderr for a in attempts)
    assert not (out / "model.safetensors").exists()


@pytest.mark.full
@pytest.mark.spec(29)
def test_two_agents_meet_over_a_port_as_two_hosts_would(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--rdzv-id",
        "saccade",
        "--local-addr",
        "127.0.0.1",
    ]
    command = toy.command(images, tmp_path / "run")
    arguments = ["-m", "saccade", *command[command.index("--") + 1 :]]
    started = [toy.start([*agent, *arguments]) for _ in range(2)]
    attempts = [toy.finish(process) for process in started]
    assert [a.status for a in attempts] == [0, 0], attempts
    assert toy.facts(tmp_path / "run")["batch"]["ranks"] == 2
    assert toy.digest(tmp_path / "run") == toy.digest(reference)


@pytest.mark.full
@pytest.mark.spec(29, "A1")
def test_what_cannot_work_is_refused_within_seconds(images: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    cells = toy.run(toy.command(images, tmp_path / "run", "--devices", "cpu:3"))
    assert (
        cells.status == 78
        and cells.stderr.count("2 cells of 16 images cannot be shared equally by 3 ranks") == 1
    )
    gpus = toy.run(toy.command(images, tmp_path / "run", "--devices", "64"))
    assert gpus.status == 78 and "--devices 64" in gpus.stderr
    assert time.monotonic() - begun < 4 * SOON_S


@pytest.mark.full
def test_the_figures_are_printed_once(images: Path, tmp_path: Path) -> None:
    attempt = toy.run(toy.command(images, tmp_path / "run", *TWO, "--epochs", "3step", "--json"))
    assert attempt.status == 0 and attempt.stderr.count("top-1") == 1
    assert json.loads(attempt.stdout)["n"] == 64
