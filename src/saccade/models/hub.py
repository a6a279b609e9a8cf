"""The hub from which timm fetches weights: asked only while it can be reached."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit
from urllib.request import getproxies

REACH_S = 5.0
"""A server that accepts no connection for this many seconds counts as unreachable."""


@contextmanager
def within_reach() -> Iterator[None]:
    """Use only the cache of the hub client while its server cannot be reached.

    The client itself would try for a minute. Behind a proxy this cannot be known in advance; there
    the client decides. Raises ConnectionError if the server cannot be reached and the cache lacks
    the file.
    """
    from huggingface_hub import constants

    server, offline = urlsplit(constants.ENDPOINT), constants.HF_HUB_OFFLINE
    if offline or getproxies() or _answers(server.hostname or "", server.port or 443):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:  # the client's many ways to say that it has no such file
        raise ConnectionError(
            f"{server.hostname} cannot be reached, and they are not in the cache"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers(host: str, port: int) -> bool:
    """Tell whether a server takes connections.

    Looking up its name can outlast any timeout, so a thread does it.
    """
    answers: list[bool] = []

    def knock() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=REACH_S):
            answers.append(True)

    # a daemon: a look-up that never ends must not keep the process alive
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(REACH_S)
    return bool(answers)
