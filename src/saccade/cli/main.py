"""The program ``saccade``: all verbs, the streams and signals around them, the exit status.

The order of the imports is the order of the verbs in ``saccade --help``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

# isort: off
from saccade.cli import train as train
from saccade.cli import pretrain as pretrain
from saccade.cli import check as check
from saccade.cli import evaluate as evaluate
from saccade.cli import predict as predict
from saccade.cli import probe as probe
from saccade.cli import embed as embed
from saccade.cli import export as export
from saccade.cli import quantize as quantize
from saccade.cli import demo as demo
from saccade.cli import report as report
from saccade.cli import models as models
from saccade.cli import recipes as recipes
from saccade.cli import lr as lr
from saccade.cli import show_augment as show_augment
from saccade.cli import download as download
from saccade.cli import prepare as prepare
from saccade.cli import verify as verify
from saccade.cli import pack as pack
from saccade.cli import bench as bench
from saccade.cli import launch as launch
from saccade.cli import verify_resume as verify_resume

# isort: on
from saccade.cli.app import app, tell, unheard
from saccade.errors import Explained, UsageError
from saccade.system import signals, streams


def _stand_somewhere() -> None:
    """Raise UsageError if the working directory was deleted: libraries would end the process
    without a message.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "the working directory no longer exists", fix="change to one that exists, such as: cd ~"
        ) from error


def main(run: Callable[[], object] = app) -> NoReturn:
    """Run the command line and leave with the documented exit status."""
    # the streams first: whatever goes wrong below wants to be told
    streams.open_missing()
    streams.open_output()
    streams.show_everything()
    signals.SIGNALS.catch()
    signals.SIGNALS.watch()
    status: object = 0
    try:
        _stand_somewhere()
        run()
    except Explained as error:
        status = tell(error)
    except streams.UnheardError as error:
        status = unheard(error)
    except SystemExit as end:
        status = end.code
        cause = getattr(end.__context__, "__cause__", None)
        if isinstance(cause, Explained):  # Ctrl-C while the arguments were read
            tell(cause)
    signals.SIGNALS.over()
    broken = streams.failure(sys.stdout)
    if broken and not status:
        status = unheard(broken)
    streams.give_up(sys.stdout)
    streams.give_up(sys.stderr)
    sys.exit(status)  # type: ignore[arg-type]
