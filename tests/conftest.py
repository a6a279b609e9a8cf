"""What every test gets: its own cache folder, a fixed number of threads, no network."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

THREADS = "2"

# Bits depend on the number of threads. It is set here, before anything imports torch, and child
# processes inherit it.
os.environ.update(OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS, OMP_DYNAMIC="FALSE")
# Waiting threads sleep instead of spinning: on a busy machine spinning makes small networks ten
# times slower.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# The tests are about the CPU, which every machine has; `make test-gpu` runs those that are about a
# GPU as well.
if os.environ.get("SACCADE_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# a busy machine is not a failure
settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        help="run only every n-th of the chosen tests, always the same",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    n = config.getoption("--one-in")
    left_out = [item for item in items if zlib.crc32(item.nodeid.encode()) % n]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Send the caches of this process and of its children to a folder of this session."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, folder)
        yield


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what makes the next training in this process save and end after so many steps, as a
    callback that asks for it would.
    """
    from saccade.errors import StopTraining
    from saccade.listeners import Listeners
    from saccade.training.events import StepDone

    def arrange(count: int) -> None:
        steps: list[StepDone] = []

        def stop(event: object) -> None:
            if isinstance(event, StepDone):
                steps.append(event)
                if len(steps) == count:
                    raise StopTraining("enough")

        monkeypatch.setattr(Listeners, "of_every_run", [stop])

    return arrange


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        inside = self.family not in (socket.AF_INET, socket.AF_INET6) or address[0] in (
            "127.0.0.1",
            "::1",
            "localhost",
        )
        if not inside:
            raise RuntimeError(f"a test wanted to connect to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
