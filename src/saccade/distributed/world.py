"""Many processes that train as one: their ranks, their sums, and their agreements.

Started by ``saccade train --devices N``, by torchrun or by srun, a process finds in its environment
that it is one of several *ranks*. All of them run the same program; only the first one writes files
and prints messages.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from saccade.distributed.rendezvous import ALONE_S, Rendezvous
from saccade.errors import (
    ConfigError,
    Explained,
    InterruptedRunError,
    LostRankError,
    SaccadeError,
    StalledError,
)

T = TypeVar("T")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Devices:
    """The value of ``--devices``: a kind, a number, and perhaps which ones.

    ``count`` is 0 if the launcher of the ranks decides it.
    """

    kind: str
    count: int = 0
    numbers: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Devices:
        """Read ``auto``, ``cpu``, ``cuda``, ``mps``, ``8`` (GPUs), ``0,2`` (these GPUs) or
        ``cpu:2`` (processes).
        """
        if text.startswith("cpu:"):
            return cls("cpu", int(text.removeprefix("cpu:")))
        if "," in text:
            numbers = tuple(int(part) for part in text.split(",") if part)
            return cls("cuda", len(numbers), numbers)
        return cls("cuda", int(text)) if text.isdecimal() else cls(text)


@dataclass(frozen=True, slots=True)
class Start:
    """The environment of a rank: its rank of ``size``, its place on this machine, and the address
    to connect to.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0
    agent_store: bool = False
    by: str = ""

    @classmethod
    def read(cls, env: Mapping[str, str] = os.environ) -> Start:
        """Read torchrun's or srun's variables.

        Raises ConfigError when they contradict themselves.
        """
        try:
            if "RANK" in env and "WORLD_SIZE" in env:
                start = cls(
                    int(env["RANK"]),
                    int(env["WORLD_SIZE"]),
                    int(env.get("LOCAL_RANK", 0)),
                    int(env.get("LOCAL_WORLD_SIZE", 1)),
                    env.get("MASTER_ADDR", ""),
                    int(env.get("MASTER_PORT", 0)),
                    env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                    "torchrun",
                )
            # a task of srun, not the batch script
            elif "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env:
                job, step = int(env.get("SLURM_JOB_ID", 0)), int(env.get("SLURM_STEP_ID", 0))
                start = cls(
                    int(env["SLURM_PROCID"]),
                    int(env["SLURM_STEP_NUM_TASKS"]),
                    int(env.get("SLURM_LOCALID", 0)),
                    _tasks_here(env),
                    env.get("MASTER_ADDR") or first_host(env.get("SLURM_STEP_NODELIST", "")),
                    int(env.get("MASTER_PORT") or 20000 + (job + step) % 20000),
                    by="srun",
                )
            else:
                return cls()
        except ValueError as error:
            raise ConfigError(
                f"RANK, WORLD_SIZE and similar variables are not numbers: {error}",
                where="environment",
            ) from error
        if start.size > 1 and not (0 <= start.rank < start.size and start.address and start.port):
            raise ConfigError(
                f"the environment says rank {start.rank} of {start.size}, meeting at "
                f"{start.address or '?'}:{start.port or '?'}",
                where=f"the variables of {start.by}",
                fix="start with torchrun, srun or `saccade train --devices N`, which set them all",
            )
        return start


def _tasks_here(env: Mapping[str, str]) -> int:
    """Return how many tasks this node has, from srun's ``4(x2),3``."""
    counts: list[int] = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        tasks, _, times = part.partition("(x")
        counts += [int(tasks)] * int(times.rstrip(")") or 1)
    return counts[min(int(env.get("SLURM_NODEID", 0)), len(counts) - 1)]


def first_host(nodes: str) -> str:
    """Return the first name in srun's list of nodes: ``gpu[07-09,12],x1`` gives ``gpu07``."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^,]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


@dataclass(frozen=True, slots=True)
class World:
    """The ranks of a run from the view of one of them; the default is a single process.

    Every method that takes part in something must be called by all ranks in the same order. When
    another rank fails or is lost meanwhile, it raises that rank's error, or StalledError naming the
    rank.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    rendezvous: Rendezvous | None = None

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints messages."""
        return self.rank == 0

    def exchange(self, note: Any, limit_s: float = ALONE_S) -> list[Any]:
        """Return the notes, any JSON values, of all ranks in their order."""
        return self.rendezvous.exchange(note, limit_s) if self.rendezvous else [note]

    def broadcast(self, make: Callable[[], T]) -> T:
        """Return the first rank's result, a JSON value, on every rank; the others wait for it."""
        if self.rendezvous is None:
            return make()
        value: T = self.exchange(make() if self.leads else None)[0]
        return value

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.exchange(None)

    def saving(self) -> AbstractContextManager[None]:
        """Return a context in which the other ranks wait for this one to save, although the run is
        over.
        """
        return self.rendezvous.saving() if self.rendezvous else nullcontext()

    def only_first(self, context: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
        """Return a context that only the first rank enters."""
        return context if self.leads else nullcontext()

    def connect(self, device: torch.device, limit_s: float) -> None:
        """Connect the ranks for tensors on a device.

        A collective waits at most ``limit_s`` seconds.
        """
        if self.rendezvous is None:
            return
        backend, place = ("cpu:gloo,cuda:nccl", device) if device.type == "cuda" else ("gloo", None)
        with self._explained():
            torch_dist.init_process_group(
                backend,
                store=self.rendezvous.tensor_store,
                rank=self.rank,
                world_size=self.size,
                timeout=datetime.timedelta(seconds=limit_s),
                device_id=place,
            )

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of any shapes ``(...)`` by their sums over all ranks.

        The layouts must agree.
        """
        if self.rendezvous is None:
            return
        for alike in of_one_kind(tensors):
            joined = flatten(alike)
            with self._explained():
                torch_dist.all_reduce(joined)
            unflatten(joined, alike)

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to sum a tensor ``(n,)`` over all ranks in place.

        Call what is returned to wait for the end.
        """
        with self._explained():
            work = torch_dist.all_reduce(tensor, async_op=True)
        assert work is not None

        def finish() -> None:
            with self._explained():
                work.wait()

        return finish

    def copy_from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors of any shapes ``(...)`` with those of the first rank.

        The layouts must agree.
        """
        self._copy_from(0, tensors)

    def copy_from_last_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors of any shapes ``(...)`` with those of the last rank.

        The layouts must agree.
        """
        self._copy_from(self.size - 1, tensors)

    def _copy_from(self, rank: int, tensors: Sequence[Tensor]) -> None:
        if self.rendezvous is None:
            return
        for alike in of_one_kind(tensors):
            joined = flatten(alike)
            if joined.numel():
                with self._explained():
                    # bytes: not every type can travel as itself
                    torch_dist.broadcast(joined.view(torch.uint8), rank)
            unflatten(joined, alike)

    def highest(self, number: int) -> int:
        """Return the highest of the ranks' numbers."""
        if self.rendezvous is None:
            return number
        flag = torch.tensor(number)
        with self._explained():
            torch_dist.all_reduce(flag, torch_dist.ReduceOp.MAX)
        return int(flag)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the CPU tensors (n, ...) of all ranks, equal in shape, on the first rank.

        An empty list elsewhere.
        """
        if self.rendezvous is None:
            return [rows]
        parts = [torch.empty_like(rows) for _ in range(self.size)] if self.leads else None
        with self._explained():
            torch_dist.gather(rows, parts)
        return parts or []

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            assert self.rendezvous is not None
            raise self.rendezvous.explain(error) from error


ALONE = World()


@contextmanager
def joined(start_limit_s: float) -> Iterator[World]:
    """Connect to the other ranks, if this process is one of several, and tell them when it fails.

    Raises ConfigError if the port is in use, StalledError if ranks are missing after the limit.
    """
    start = Start.read()
    if start.size == 1:
        yield ALONE
        return
    if start.address in LOOPBACK and sys.platform != "win32":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    rendezvous = _meeting_place(start, start_limit_s)
    try:
        rendezvous.meet(start_limit_s)
        yield World(
            rank=start.rank,
            size=start.size,
            local_rank=start.local_rank,
            local_size=start.local_size,
            rendezvous=rendezvous,
        )
    except Explained as error:
        # all ranks leave with the status of the first one that fails
        if other := rendezvous.report(error):
            other.told = True
            error = other
        if start.rank and not isinstance(error, LostRankError):
            rendezvous.await_save()
        raise error
    except KeyboardInterrupt:
        rendezvous.report(InterruptedRunError("interrupted before there was anything to save"))
        raise
    except Exception as error:
        rendezvous.report(
            SaccadeError(f"{type(error).__name__}: {error}", fix="its traceback is above")
        )
        if start.rank:
            rendezvous.await_save()
        raise
    else:
        if torch_dist.is_initialized():
            torch_dist.destroy_process_group()
    finally:
        rendezvous.close()


def _meeting_place(start: Start, limit_s: float) -> Rendezvous:
    hosts = start.rank == 0 and not start.agent_store
    limit = datetime.timedelta(seconds=limit_s)
    place = f"{start.address}:{start.port}"
    try:
        store = TCPStore(start.address, start.port, None, hosts, limit, wait_for_workers=False)
    except RuntimeError as error:
        if hosts:
            raise ConfigError(
                f"the ranks cannot connect at {place}: {str(error).strip().splitlines()[0]}",
                where="MASTER_ADDR, MASTER_PORT",
                fix=("another run may use the port: choose another one, such as MASTER_PORT=29511"),
            ) from error
        raise StalledError(
            f"rank {start.rank} of {start.size} has not reached rank 0 at {place} after "
            f"{limit_s:g} s",
            where="MASTER_ADDR, MASTER_PORT",
            fix=(
                "check that rank 0 has started and that no firewall blocks the port; to wait "
                "longer, use --set ranks.start_limit=5m"
            ),
        ) from error

    under_agent = "TORCHELASTIC_RUN_ID" in os.environ
    return Rendezvous(store, start.rank, start.size, hosts_store=hosts, under_agent=under_agent)


def of_one_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return tensors of any shapes ``(...)`` in groups of one type and one device, which can be
    flattened together.
    """
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Return the values of tensors of any shapes ``(...)`` one after another, shape (n,), each
    in its memory order.
    """
    return torch.cat([in_memory_order(t).reshape(-1) for t in tensors])


def unflatten(joined: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the values of ``joined`` (n,) back into tensors of any shapes ``(...)`` that were
    flattened into it.
    """
    parts = torch.split(joined, [t.numel() for t in tensors])
    places = [in_memory_order(t) for t in tensors]
    with torch.no_grad():
        torch._foreach_copy_(
            places, [part.view(place.shape) for part, place in zip(parts, places, strict=True)]
        )


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return a view of a tensor of any shape ``(...)``, its axes in memory order: cheap to copy
    when channels_last.
    """
    strides = tensor.stride()
    return tensor.detach().permute(sorted(range(tensor.dim()), key=lambda axis: -strides[axis]))
