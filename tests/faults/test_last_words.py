"""FAULTS A5, A8, B5: an error in mid-run saves what is well first.

A folder that is gone is not made anew.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from saccade.data import readers
from saccade.data.decoded_cache import Decoded
from saccade.system import held
from saccade.training.meter import Meter

RARE = ("--set", "checkpoint.every=1000step", "--set", "data.threads=2")
STEP = 9
"""Neither the end of an epoch nor a step at which the toy saves."""

AtStep = Callable[[Callable[[], object]], None]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> AtStep:
    """Return what makes something happen after a step of the next training in this process."""

    def arrange(act: Callable[[], object]) -> None:
        record = Meter.step

        def meter(self: Meter, *facts: object) -> None:
            record(self, *facts)  # type: ignore[arg-type]
            if self._state.step == STEP:
                act()

        monkeypatch.setattr(Meter, "step", meter)

    return arrange


def spoil(images: Path) -> Callable[[], None]:
    def act() -> None:
        for image in (images / "train").rglob("*.jpg"):
            image.write_bytes(bytes(image.stat().st_size))

    return act


def newest(out: Path) -> int:
    return int(toy.checkpoints(out)[0].name.removeprefix("step_"))


def test_a_bad_image_in_mid_run_saves_the_last_whole_step_first(
    images: Path, reference: Path, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(images, copy)
    at_step(spoil(copy))
    attempt = toy.run_here(toy.command(copy, out, *RARE))
    assert attempt.status == 65 and "unreadable-image" in attempt.stderr, attempt.stderr
    assert newest(out) >= STEP, "hours may lie between this and the last checkpoint of the rhythm"
    assert toy.facts(out)["status"] == "data"
    monkeypatch.undo()
    shutil.copytree(images, copy, dirs_exist_ok=True)
    assert toy.run_here(toy.command(copy, out, *RARE)).status == 0
    assert toy.digest(out) == toy.digest(reference)


def test_a_stall_saves_first_and_shows_what_every_thread_does(
    images: Path,
    tmp_path: Path,
    at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, frozen, take = tmp_path / "run", threading.Event(), Decoded.take
    monkeypatch.setattr(readers, "STALL_LIMIT_S", 0.5)

    def hang(*arguments: Any, **more: Any) -> Any:
        frozen.wait(60)
        return take(*arguments, **more)

    at_step(lambda: monkeypatch.setattr(Decoded, "take", hang))
    try:
        attempt = toy.run_here(toy.command(images, out, *RARE))
    finally:
        frozen.set()
    assert attempt.status == 70 and "no image arrived" in attempt.stderr, attempt.stderr
    assert newest(out) >= STEP and toy.facts(out)["status"] == "stalled"
    said = capfd.readouterr().err
    assert "in hang" in said and said.count("Thread 0x") > 2, (
        "the stack of the thread that is stuck"
    )


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.fault("B5")
def test_a_run_folder_that_is_gone_ends_the_run_and_is_not_made_anew(
    how: str, images: Path, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(held, "LOOK_EVERY_S", 0.0)

    def act() -> None:
        shutil.rmtree(out)
        if how == "replaced":
            out.mkdir()

    at_step(act)
    attempt = toy.run_here(toy.command(images, out, *RARE))
    assert (
        attempt.status == 74
        and "deleted or replaced" in attempt.stderr
        and str(out) in attempt.stderr
    )
    assert not out.exists() if how == "deleted" else not list(out.iterdir())


@pytest.mark.fault("B5")
def test_a_folder_of_checkpoints_that_cannot_be_written_is_an_alarm_until_the_third_time(
    images: Path, tmp_path: Path, at_step: AtStep
) -> None:
    out = tmp_path / "run"

    def act() -> None:
        shutil.rmtree(out / "checkpoints")
        (out / "checkpoints").write_text("in the way")

    at_step(act)
    attempt = toy.run_here(toy.command(images, out))
    assert attempt.status == 74 and attempt.stderr.count("could not be saved") == 3, attempt.stderr
    assert toy.last_step(out) > STEP + 7, "it went on after the first alarm"


@pytest.mark.full
@pytest.mark.fault("A8")
def test_a_process_that_pauses_goes_on(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = toy.start_and_reach(toy.command(images, out), out, 10)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert toy.finish(process).status == 0
    assert toy.digest(out) == toy.digest(reference)


@pytest.mark.full
def test_standard_error_that_is_gone_and_a_closed_terminal_do_not_end_a_run(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with toy.start_and_reach(toy.command(images, out, "--set", "log.every=1"), out, 10) as process:
        assert process.stderr
        process.stderr.close()  # whoever read it is gone
        assert process.wait(toy.LIMIT_S) == 0
    assert toy.digest(out) == toy.digest(reference)
