"""When a program was started, as it and the ranks that it starts know it."""

from __future__ import annotations

import os
import time

import pytest

from saccade.system import startup


def test_ranks_count_from_the_start_of_the_program_that_started_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(startup, "_marked", [])
    before = time.monotonic()
    assert startup.begun() >= before, "a part of another program begins when it is called"

    startup.mark()
    begun = startup.begun()
    with startup.told_to_ranks():
        time.sleep(0.01)
        # a rank has the environment of its program; what the rank starts is no rank
        startup.mark()
        assert startup.begun() == begun and startup.VARIABLE not in os.environ
    assert startup.VARIABLE not in os.environ
    startup.mark()
    assert startup.begun() > begun
