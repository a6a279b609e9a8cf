"""``python -m saccade`` and the program ``saccade``: signals are caught before anything slow
begins.
"""

from __future__ import annotations

import gc
import sys

from saccade.errors import Explained
from saccade.system import signals, startup


def start() -> None:
    """Run the command line."""
    startup.mark()
    try:
        signals.SIGNALS.catch()
        from saccade.cli.main import main
    except Explained as early:
        print(early, file=sys.stderr)
        sys.exit(early.status)
    try:
        main()
    finally:
        # the interpreter would look through all that torch holds before it ends
        gc.freeze()


if __name__ == "__main__":
    start()
