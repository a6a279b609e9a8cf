"""What a run says goes on being said: on a full disk, without standard error, with a listener
that fails.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from saccade import files
from saccade.log import Log, read_events
from saccade.system import growing


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make standard error a pipe that nobody reads any more, as when ``tee`` or ssh has ended."""
    theirs, ours = os.pipe()
    os.close(theirs)
    broken = os.fdopen(ours, "w", buffering=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", broken)
        yield
    with pytest.raises(BrokenPipeError):  # the control: it was broken
        broken.close()


def test_lines_that_find_no_space_are_written_when_there_is_some(tmp_path: Path) -> None:
    lines = files.Appender(tmp_path / "log")
    lines.line("one")
    with full_disk(6):
        lines.line("two")
        assert (tmp_path / "log").read_text() == "one\ntw", (
            "a disk that is nearly full takes a part"
        )
        lines.line("three")
        assert lines.trouble == os.strerror(errno.EFBIG)  # ENOSPC on a real disk
    lines.line("four")
    assert (lines.trouble, lines.lost) == ("", 0)
    lines.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\nfour\n"


def test_lines_without_space_are_bounded_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "PENDING_BYTES", 12)
    lines = files.Appender(tmp_path / "log")
    with full_disk(0):
        for number in range(5):
            lines.line(f"line{number}")
        lines.close()  # gives up, and does not raise
    assert lines.lost == 3


def test_a_cut_line_is_ended_when_the_file_is_opened_again(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"event": "step", "st')
    lines = files.Appender(tmp_path / "log")
    lines.line("next")
    lines.close()
    assert (tmp_path / "log").read_text().splitlines()[1:] == ["next"]


def test_a_log_on_a_full_disk_says_so_once_on_standard_error_and_then_that_it_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log()
    log.open(tmp_path / "log.jsonl")
    with full_disk(0):
        for step in range(3):
            log.event("step", step=step)
    log.event("step", step=3)
    log.close()
    said = capsys.readouterr().err
    assert said.count("log.jsonl cannot be written") == 1 and said.count("no line is missing") == 1
    assert [e["step"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "step"] == [
        0,
        1,
        2,
        3,
    ]


def test_a_run_whose_standard_error_is_gone_says_so_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    log.open(tmp_path / "log.jsonl")
    with no_reader(monkeypatch):
        for step in range(3):
            log.say("hello")
            log.warn("careful")
            log.event("step", step=step)
    log.close()
    events = read_events(tmp_path / "log.jsonl")
    told = [e["text"] for e in events if e["event"] == "warning" and "standard error" in e["text"]]
    assert len(told) == 1 and "Broken pipe" in told[0]
    assert [e["step"] for e in events if e["event"] == "step"] == [0, 1, 2]


def test_a_listener_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    def listen(event: object) -> None:
        raise OSError(28, "No space left on device")

    log = Log(quiet=True)
    log.open(tmp_path / "log.jsonl")
    log.listeners.add(listen)
    for step in range(2):
        log.listeners.tell(step)
        log.event("step", step=step)
    log.close()
    events = read_events(tmp_path / "log.jsonl")
    assert [e["event"] for e in events] == ["warning", "step", "step"]
    assert "No space left" in events[0]["text"]


def test_closed_streams_are_replaced_before_a_file_gets_their_number() -> None:
    code = (
        "from saccade.system import streams; streams.open_missing(); import os; "
        "print(os.open('.', os.O_RDONLY) > 2)"
    )
    done = subprocess.run(
        f'"{sys.executable}" -c "{code}" 2>&- <&-', shell=True, capture_output=True, text=True
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            "recipes >/dev/full",
            74,
            "the result cannot be written to standard output: No space left on device",
        ),
        ("--help >&-", 74, "the result cannot be written to standard output"),
        ("--help | head -c 1", 0, ""),  # who has heard enough is not told of an error
        ("--help 2>&-", 0, ""),
        ("--help 2>/dev/full", 0, ""),
    ],
)
def test_a_result_that_cannot_be_written_is_no_success(words: str, status: int, said: str) -> None:
    command = f'"{sys.executable}" -m saccade {words}'
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert said or done.stderr == ""
