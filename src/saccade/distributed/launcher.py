"""Starting the ranks of one machine through torchrun's elastic agent, and the script that starts
them under SLURM.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

from saccade import files
from saccade.errors import PreemptedError, StalledError
from saccade.system import startup
from saccade.system.signals import SIGNALS, STOPS, early, status

HERE = "127.0.0.1"


def start_ranks(arguments: Sequence[str], count: int) -> int:
    """Run ``saccade`` with these arguments as ``count`` ranks on this machine and return the exit
    status of the ranks.

    SIGTERM, SIGHUP and Ctrl-C are forwarded to the ranks, which agree, save and end. Raises
    StalledError naming a rank that was killed from outside; the others are stopped.
    """
    logging.disable(logging.CRITICAL)  # of this process alone: the ranks explain themselves
    # the agent would not wait for a checkpoint
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # else every rank would compute with all cores of the machine
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    with files.scratch_folder() as scratch, startup.told_to_ranks():
        meeting = RendezvousParameters(
            backend="c10d",
            # port 0: the system picks a free one, so two runs on one machine do not meet
            endpoint=f"{HERE}:0",
            run_id="saccade",
            min_nodes=1,
            max_nodes=1,
            local_addr=HERE,
            is_host=True,
        )
        handler = registry.get_rendezvous_handler(meeting)
        spec = WorkerSpec(
            role="saccade",
            local_world_size=count,
            entrypoint=sys.executable,
            args=("-m", "saccade", *arguments),
            rdzv_handler=handler,
            max_restarts=0,
            monitor_interval=0.1,
            local_addr=HERE,
        )
        agent = LocalElasticAgent(spec, logs_specs=DefaultLogsSpecs(log_dir=str(scratch)))
        signals = _Forward(agent)
        result = agent.run()
        handler.shutdown()
    if not result.is_failed():
        return 0
    rank, failure = next(iter(result.failures.items()))
    # a rank that gave up has said why itself
    if failure.exitcode >= 0:
        return int(failure.exitcode)
    if signals.seen is not None:  # it reached a rank before that could catch it
        return status(signals.seen)
    raise StalledError(
        f"rank {rank} of {count} was ended by {signal.Signals(-failure.exitcode).name}; the "
        "others were stopped",
        where=f"process {failure.pid}",
        fix="if nobody stopped it on purpose, memory may have run out; the same command "
        "continues from the last checkpoint",
    )


class _Forward:
    """Forwards signals to the ranks.

    These have their own sessions: Ctrl-C on a terminal does not reach them.
    """

    def __init__(self, agent: LocalElasticAgent) -> None:
        self.seen: int | None = None
        self._agent = agent
        SIGNALS.release()
        for number in STOPS:
            # what was ignored at the start, as by nohup, stays ignored
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self.seen = number
        pids = [worker.id for worker in self._agent.get_worker_group().workers if worker.id]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        # no rank is there yet to save anything
        if not pids:
            raise early(number)


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """The request to SLURM; empty texts and zeros mean the cluster's defaults."""

    nodes: int = 1
    ranks_per_node: int = 1
    gpus: bool = True
    cpus_per_rank: int = 0
    time: str = ""
    partition: str = ""
    account: str = ""

    def script(self, arguments: Sequence[str]) -> str:
        """Return the batch script that trains with these arguments of ``saccade train``.

        Two minutes before the time limit all ranks are asked to save; a job that saved is queued
        again. Without ``--out`` the run folder is named after the arguments, because the script
        must know it: srun returns the status of only one rank, and ``run.json`` has the status of
        the run.
        """
        options = {
            "job-name": "saccade",
            "nodes": self.nodes,
            "ntasks-per-node": self.ranks_per_node,
            "gpus-per-node": self.ranks_per_node if self.gpus else "",
            "cpus-per-task": self.cpus_per_rank or "",
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            # without "B:" it goes to the ranks and not to the batch script
            "signal": "TERM@120",
            # a job that is queued again goes on in the same output file
            "open-mode": "append",
        }
        lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value != ""]

        run = _run_folder(arguments)
        if not run:
            run = f"runs/slurm-{hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:8]}"
            arguments = [*arguments, "--out", run]

        command = shlex.join(["python", "-m", "saccade", "train", *arguments])
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "#SBATCH --requeue",
                "",
                'export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
                'export MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"',
                'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
                "# since SLURM 22.05 srun does not take this from sbatch by itself",
                'if [ -n "$SLURM_CPUS_PER_TASK" ]; then export '
                'SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
                "",
                "trap : TERM  # this script outlives the ranks, whoever else gets the signal",
                f"srun --kill-on-bad-exit=1 {command}",
                "status=$?",
                "# what srun returns is the status of one rank; run.json says how this start "
                "of the job ended",
                "preempted() {",
                f"    python -c {shlex.quote(_ASK)} {shlex.quote(run + '/run.json')} "
                '"$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" 2> /dev/null',
                "}",
                f'if [ "$status" -eq {PreemptedError.status} ] || preempted; then scontrol '
                'requeue "$SLURM_JOB_ID"; fi',
                'exit "$status"',
                "",
            ]
        )


_ASK = (
    "import json, sys; facts = json.load(open(sys.argv[1])); "
    'sys.exit([facts["job"], facts["status"]] != [sys.argv[2], "preempted"])'
)


def _run_folder(arguments: Sequence[str]) -> str:
    """Return what ``--out`` says among the arguments of ``saccade train``, or the empty string."""
    for place, word in enumerate(arguments):
        if word.startswith("--out="):
            return word.removeprefix("--out=")
        if word == "--out" and place + 1 < len(arguments):
            return arguments[place + 1]
    return ""
