"""The subject of a demo: the classifier at a path, and its validation images."""

from __future__ import annotations

from pathlib import Path

from saccade.data.sources import Split
from saccade.demo import onnx_answerer
from saccade.demo.answerer import Answerer
from saccade.errors import SaccadeError, UsageError
from saccade.log import Log
from saccade.runs import scoring
from saccade.runs.subject import SETTINGS_FILE, Subject


def opened(path: Path, best: bool, data: str | None) -> tuple[Answerer, Split | None]:
    """Return the answerer, and the images from which examples are chosen: those of ``data``, or of
    the run.

    The images are None if those of the run are not found, which standard error reports. Raises a
    SaccadeError if the classifier cannot be loaded, or if ``data`` cannot be used.
    """
    if path.suffix.lower() == onnx_answerer.SUFFIX:
        if best:
            raise UsageError(
                "an exported file has only one set of weights",
                where="--best",
                fix="remove it, or name the run",
            )
        answerer = onnx_answerer.open_file(path)
        # an export lies in its run folder, unless it was sent elsewhere
        run = path.resolve().parent.parent
        subject = Subject.of(run) if (run / SETTINGS_FILE).is_file() else None
    else:
        subject = Subject.of(path, best)
        answerer = Answerer.of(subject.classifier(), str(path))

    if data is not None:
        return answerer, scoring.find_split(data)
    if subject is None:
        return answerer, None
    try:
        return answerer, scoring.judged_split(subject)
    except SaccadeError as error:
        Log().warn(f"no examples: {error.what} (--data names the images)")
        return answerer, None
