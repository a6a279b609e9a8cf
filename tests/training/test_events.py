"""What a run tells those who listen, and what they can and cannot do to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import saccade
from saccade.listeners import Listeners
from saccade.training.events import CheckpointSaved, Event, RunEnded, StepDone
from saccade.training.stop import Stop

SAVED = CheckpointSaved(3, Path("step_00000003"))
STEP = StepDone(
    step=3, total_steps=9, epoch=0.5, loss=1.0, lr=0.1, images_per_s=10.0, wait_share=0.0
)


def test_a_callback_that_fails_is_named_with_its_place_and_left_out() -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise KeyError("no such figure")

    warnings: list[str] = []
    listeners = Listeners(warnings.append)
    listeners.add(broken)
    listeners.add(heard.append)
    for _ in range(2):
        listeners.tell(SAVED)
    assert heard == [SAVED, SAVED] and listeners.wish is None
    (warning,) = warnings
    line = broken.__code__.co_firstlineno + 1
    for part in ("broken", "CheckpointSaved", "KeyError", "no such figure", f"{__file__}:{line}"):
        assert part in warning


def test_a_callback_asks_to_stop_and_the_others_still_hear_the_event() -> None:
    heard: list[Event] = []

    def enough(event: Event) -> None:
        raise saccade.StopTraining("the loss is low")

    listeners = Listeners(print)
    listeners.add(enough)
    listeners.add(heard.append)
    listeners.tell(STEP)
    assert listeners.wish is not None
    assert listeners.wish.what == "enough asked to stop: the loss is low" and heard == [STEP]


def test_a_wish_is_fulfilled_at_the_next_check_in_the_words_of_the_callback() -> None:
    def enough(event: Event) -> None:
        raise saccade.StopTraining("the loss is low")

    listeners = Listeners(print)
    listeners.add(enough)
    stop = Stop(listeners=listeners)
    stop.check()  # nobody has asked for anything yet
    listeners.tell(STEP)
    with pytest.raises(saccade.StopTraining) as caught:
        stop.check()
    assert caught.value.what == "enough asked to stop: the loss is low"
    assert "same command continues" in caught.value.fix and caught.value.status == 75


def test_ctrl_c_inside_a_callback_is_no_failure_of_it() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    listeners = Listeners(print)
    listeners.add(interrupted)
    with pytest.raises(KeyboardInterrupt):
        listeners.tell(STEP)


def test_a_listener_may_choose_what_it_hears() -> None:
    heard: list[Event] = []
    listeners = Listeners(print)
    listeners.add(heard.append, CheckpointSaved)
    assert listeners.want(CheckpointSaved) and not listeners.want(StepDone)
    listeners.tell(STEP)
    listeners.tell(SAVED)
    assert heard == [SAVED]


def test_events_are_public_and_cannot_be_changed() -> None:
    assert saccade.StepDone is StepDone and saccade.RunEnded is RunEnded
    with pytest.raises(dataclasses.FrozenInstanceError):
        STEP.loss = 0.0  # type: ignore[misc]
