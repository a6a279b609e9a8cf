"""What SIGTERM, SIGHUP and Ctrl-C do: the first and the second one, before, in and after the
time of training.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import console
from saccade import api, files
from saccade.data import packing
from saccade.errors import InterruptedRunError, SaccadeError
from saccade.preflight import checks
from saccade.training.meter import Meter

TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
LIMIT_S = 20.0

# Works in one call that nothing interrupts, as a large product of matrices does; saves when it is
# asked to stop.
WORK = """
import hashlib, sys, time
from saccade.system import signals
from saccade.system.signals import SIGNALS
signals.SAME_WISH_S = 0.3
signals.PATIENCE_S = 1.0
_, phase, rounds = sys.argv
SIGNALS.catch()
SIGNALS.watch()
SIGNALS.phase = phase
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", int(rounds))
while not SIGNALS.first:
    time.sleep(0.01)
print("asked", flush=True)
time.sleep(1)
print("saved", flush=True)
"""
DEEP, SHALLOW = "2000000000", "1000"


def worker(phase: str, rounds: str = SHALLOW, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, phase, rounds],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize(("number", "status"), [(TERM, 75), (HUP, 75), (INT, 130)])
def test_the_first_signal_before_there_is_anything_to_save_ends_a_command_with_a_sentence(
    number: signal.Signals, status: int
) -> None:
    code = (
        "import time; from saccade.cli.main import main; main(lambda: (print('ready', "
        "flush=True), time.sleep(60)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (
        process.returncode == status
        and "before it was finished" in said
        and "Traceback" not in said
    ), said


# Code in C loses what the handler raises, as torch does while it loads NumPy; then something else
# fails.
SWALLOWED = """
import os
from saccade.cli import app as terminal, main as cli
@terminal.app.command()
def odd(number: int) -> None:
    with terminal.explained(False):
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            pass
        raise ImportError("cannot load module more than once per process")
cli.main()
"""


@pytest.mark.parametrize(("number", "status"), [(TERM, 75), (INT, 130)])
def test_a_signal_that_a_library_swallows_is_still_the_reason(
    number: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-c", SWALLOWED, "odd", str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == status and "before it was finished" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_control_c_means_now_even_deep_in_a_computation() -> None:
    process = worker("working", DEEP)
    process.send_signal(INT)
    time.sleep(0.1)  # the kernel joins two that are not delivered yet
    process.send_signal(INT)
    assert ended(process) == (130, "")


@pytest.mark.parametrize(("number", "status"), [(TERM, 75), (INT, 130)])
def test_a_first_signal_ends_a_command_that_does_not_come_back_for_it(
    number: signal.Signals, status: int
) -> None:
    process = worker("nothing to save", DEEP)
    time.sleep(0.3)  # into the long call
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status and "before it was finished" in said, said
    assert "Traceback" not in said


@pytest.mark.fault("A7")
def test_a_second_control_c_means_now_while_saving() -> None:
    process = worker("saving", DEEP)
    process.send_signal(TERM)
    time.sleep(0.1)
    process.send_signal(INT)
    assert ended(process) == (130, "")


@pytest.mark.parametrize("number", [TERM, HUP])
def test_a_second_sigterm_means_now_until_the_saving_begins(number: signal.Signals) -> None:
    process = worker("working", DEEP)
    process.send_signal(TERM)
    time.sleep(0.5)  # sooner, it would be the echo of the first
    process.send_signal(number)
    assert ended(process) == (75, "")


@pytest.mark.parametrize(
    ("phase", "pause_s", "environment"),
    [("working", 0.1, {}), ("saving", 0.5, {}), ("working", 0.5, {"SLURM_JOB_ID": "7"})],
)
@pytest.mark.fault("A7")
def test_a_second_sigterm_that_is_an_echo_or_comes_while_saving_or_from_slurm_is_ignored(
    phase: str, pause_s: float, environment: dict[str, str]
) -> None:
    process = worker(phase, **environment)
    process.send_signal(TERM)
    time.sleep(pause_s)
    process.send_signal(TERM)
    assert ended(process) == (0, "asked\nsaved\n")


def test_a_signal_while_the_interpreter_ends_does_not_change_the_exit_status() -> None:
    """Python gives signals their default meaning before it is gone, and a rank may be told to go
    just then.
    """
    code = """
import atexit, ctypes, os, threading
from saccade.cli import main as cli
libc = ctypes.CDLL(None)

class Late:
    def __del__(self, kill=libc.kill, pid=os.getpid(), number=15):
        kill(pid, number)

cli.late = Late()  # dies with its module, long after the exit handlers
atexit.register(os.kill, os.getpid(), 15)
cli.main(lambda: (_ for _ in ()).throw(SystemExit(75)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (75, "")


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        process = worker("working")
    finally:
        signal.signal(HUP, before)
    process.send_signal(HUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(TERM)  # the control: another signal is still heard
    assert ended(process) == (0, "asked\nsaved\n")


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Return what makes something happen at the end of a step of the next training in this
    process.
    """

    def arrange(step: int, act: Callable[[], None]) -> None:
        record = Meter.step

        def meter(self: Meter, *facts: object) -> None:
            record(self, *facts)  # type: ignore[arg-type]
            if self._state.step == step:
                act()

        monkeypatch.setattr(Meter, "step", meter)

    return arrange


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_control_c_in_python_is_a_keyboard_interrupt_that_no_sweep_swallows(
    tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    at_step(3, send(INT))
    handler = signal.getsignal(INT)

    def sweep() -> None:
        try:
            api.train(data="digits", out=tmp_path / "run", epochs=1, quiet=True)
        except Exception:
            pytest.fail("a sweep would go on with the next training")

    with pytest.raises(KeyboardInterrupt) as caught:
        sweep()
    assert isinstance(caught.value, InterruptedRunError) and "the run is saved" in caught.value.what
    assert not isinstance(caught.value, SaccadeError)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000003"]
    assert signal.getsignal(INT) is handler, "a script gets its signals back"


def test_a_hangup_in_training_saves_and_exits_75(
    tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    at_step(3, send(HUP))
    done = console.run_here("train", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert done.status == 75 and "asked to stop by SIGHUP; the run is saved" in done.stderr, (
        done.stderr
    )
    assert files.read_json(tmp_path / "run" / "run.json")["status"] == "preempted"


def test_a_wish_to_stop_that_cannot_be_saved_does_not_say_that_it_is(
    tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    at_step(
        3, lambda: ((tmp_path / "run" / "checkpoints").write_text("in the way"), send(TERM)())[1]
    )
    done = console.run_here("train", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert done.status == 74 and "the run is saved" not in done.stderr, done.stderr


def test_sigterm_in_the_preflight_exits_75_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), TERM)
            time.sleep(LIMIT_S)
        except Exception:
            pytest.fail("code that expects anything of a user's network must not take it for that")

    monkeypatch.setattr(checks, "examine", examine)
    done = console.run_here("train", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert done.status == 75 and "asked to stop by SIGTERM before it was finished" in done.stderr


def test_a_pack_that_was_stopped_keeps_its_shards_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_IMAGES", 500)
    with monkeypatch.context() as patch:
        patch.setattr(
            files, "stage", lambda name: send(TERM)() if name.startswith("shard") else None
        )
        done = console.run_here("pack", "digits", str(tmp_path / "pack"))
    assert done.status == 75 and "the same command continues from there" in done.stderr
    assert not (tmp_path / "pack" / "pack.json").exists()
    again = console.run_here("pack", "digits", str(tmp_path / "pack"))
    assert again.status == 0 and "1 of them from an earlier run" in again.stdout
