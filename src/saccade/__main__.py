"""``python -m saccade`` and the program ``saccade``: signals are caught before anything slow
begins.
"""

from __future__ import annotations

import sys

from saccade.errors import Explained
from saccade.system import signals


def start() -> None:
    """Run the command line."""
    try:
        signals.SIGNALS.catch()
        from saccade.cli.main import main
    except Explained as early:
        print(early, file=sys.stderr)
        sys.exit(early.status)
    main()


if __name__ == "__main__":
    start()
