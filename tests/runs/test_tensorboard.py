"""What other programs are shown of a run."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saccade.runs.tensorboard import TensorBoard
from saccade.training.events import Evaluated, RunEnded, StepDone


def test_a_tensorboard_folder_is_whole_and_its_thread_gone_when_the_run_ends(
    tmp_path: Path,
) -> None:
    before = set(threading.enumerate())
    listen = TensorBoard(tmp_path, ["top1"], every=2)
    for step in (1, 2, 3, 4):
        listen(
            StepDone(
                step=step,
                total_steps=4,
                epoch=0.1,
                loss=4.0 - step if step < 4 else math.nan,
                lr=0.1,
                images_per_s=9.0,
                wait_share=0.0,
            )
        )
    figures = {"top1": 0.5}
    listen(Evaluated(step=2, epoch=1.0, split="val", views=1, figures=figures, train={}))
    assert set(threading.enumerate()) > before
    listen(RunEnded(tmp_path, "done", 4, figures))
    assert set(threading.enumerate()) == before
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("step/loss")] == [2.5, 1.0]
    assert events.Scalars("eval/top1")[0].value == 0.5
