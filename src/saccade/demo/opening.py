"""The subject of a demo: the classifier at a path, and its validation images."""

from __future__ import annotations

from pathlib import Path

from saccade.data.sources import Split
from saccade.demo import onnx_answerer
from saccade.demo.answerer import Answerer
from saccade.errors import SaccadeError, UsageError
from saccade.log import Log
from saccade.runs import foreign, scoring
from saccade.runs.foreign import Expected
from saccade.runs.subject import SETTINGS_FILE, Subject

NOTHING = Expected()
"""No facts: the path says all."""


def opened(
    path: Path, best: bool, data: str | None, expected: Expected = NOTHING
) -> tuple[Answerer, Split | None]:
    """Return the answerer, and the images from which examples are chosen: those of ``data``, or of
    the run.

    The images are None if those of the run are not found, which standard error reports. Raises a
    SaccadeError if the classifier cannot be loaded, or if ``data`` cannot be used.
    """
    if path.suffix.lower() == onnx_answerer.SUFFIX:
        _refuse_flags(expected)
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
    elif foreign.is_foreign(path, expected):
        return _of_others(path, best, data, expected)
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


def _of_others(
    path: Path, best: bool, data: str | None, expected: Expected
) -> tuple[Answerer, Split | None]:
    """Return the answerer of weights from another program, and the images that the user names."""
    if best:
        raise UsageError(
            "weights from another program have no best checkpoint",
            where="--best",
            fix="remove it",
        )
    split = None if data is None else scoring.find_split(data)
    found = foreign.classifier(path, expected, split, Log())
    return Answerer.of(found, str(path)), split


def _refuse_flags(expected: Expected) -> None:
    flag = "--model" if expected.network is not None else expected.says_pixels()
    if flag:
        raise UsageError(
            "an exported file already says its network and preprocessing",
            where=flag,
            fix="remove it; it is for weights from another program",
        )
