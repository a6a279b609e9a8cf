"""What other programs are shown of a run."""

from __future__ import annotations

import threading
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saccade.runs import tensorboard


def test_a_tensorboard_folder_is_whole_and_its_thread_gone_when_the_run_ends(
    tmp_path: Path,
) -> None:
    before = set(threading.enumerate())
    listen = tensorboard.tensorboard(tmp_path)
    for step in (1, 2):
        listen({"event": "step", "step": step, "loss": 3.0 - step, "lr": 0.1})
    listen({"event": "eval", "step": 2, "top1": 0.5})
    assert set(threading.enumerate()) > before
    listen({"event": "end", "status": "done", "step": 2})
    assert set(threading.enumerate()) == before
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("step/loss")] == [2.0, 1.0]
    assert events.Scalars("eval/top1")[0].value == 0.5
