"""Preempted by a real scheduler: SLURM on one node, without a key or systemd.

Every job is queued again.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import toy

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol")
MISSING = [
    name
    for name in PROGRAMS
    if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None
]
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: no {', '.join(MISSING)}"),
    pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="slurmd needs root"),
]
TRIALS = 4
LIMIT_S = 120.0
SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@contextmanager
def daemon(*command: str, log: Path) -> Iterator[None]:
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    text = SETTINGS.format(
        folder=folder, host=host, ctld=free_port(), slurmd=free_port(), cpus=os.cpu_count()
    )
    (folder / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    with (
        daemon("slurmctld", "-D", log=folder / "slurmctld.log"),
        daemon("slurmd", "-D", "-N", host, log=folder / "slurmd.log"),
    ):
        until(lambda: "idle" in said("sinfo"))
        yield folder


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def facts_of(job: str) -> dict[str, str]:
    return dict(
        re.findall(r"(JobState|Restarts|ExitCode)=(\S+)", said("scontrol", "show", "job", job))
    )


@pytest.mark.usefixtures("scheduler")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks want two cores")
def test_a_preempted_job_of_two_ranks_is_queued_again_every_time(
    images: Path, tmp_path: Path
) -> None:
    settings = [*toy.SETTINGS, "--set", "checkpoint.every=1000step", "--epochs", "4000step"]
    for trial in range(TRIALS):
        out, script = tmp_path / f"run{trial}", tmp_path / f"{trial}.sbatch"
        words = ["--data", str(images), *settings, "--out", str(out)]
        written = [
            sys.executable,
            "-m",
            "saccade",
            "launch",
            "slurm",
            "--no-gpus",
            "--ranks",
            "2",
            "--cpus",
            "1",
            "--time",
            "00:10:00",
            "--script",
            str(script),
            *words,
        ]
        subprocess.run(written, check=True, capture_output=True, cwd=tmp_path)
        job = said("sbatch", "--parsable", f"--output={tmp_path}/{trial}.out", str(script)).strip()
        until(lambda out=out: toy.last_step(out) > 3)  # type: ignore[misc]
        said("scancel", "--signal=TERM", job)
        until(
            lambda job=job: (
                facts_of(job)["Restarts"] == "1" or facts_of(job)["JobState"] == "FAILED"
            )
        )  # type: ignore[misc]
        told = facts_of(job)
        said("scancel", job)
        assert told["Restarts"] == "1", (trial, told, (tmp_path / f"{trial}.out").read_text())
        run = toy.facts(out)
        assert (run["status"], run["exit_status"], run["job"]) == ("preempted", 75, f"{job}.0")
        assert int(toy.checkpoints(out)[0].name.removeprefix("step_")) >= toy.last_step(out)
