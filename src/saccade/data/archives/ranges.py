"""One file from one address: the server's facts about it, and its parts by several connections.

The parts arrive in order, so what is there after a kill is always the beginning of the file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT_S = 30.0
"""How long a server may be silent."""

ATTEMPTS = 3
"""How often a part is asked for again without a single new byte."""

PAUSE_S = 1.0
BLOCK_BYTES = 1 << 20
PART_BYTES = 1 << 23
"""What one connection fetches at a time; twice as many parts as connections are in memory."""

FAILURES = (OSError, HTTPException, ValueError)
"""What may go better the next time."""

_TRY_AGAIN = (408, 416, 429)


class Useless(Exception):
    """This address does not return the file, so a retry makes no sense."""


class Changed(Exception):
    """The server has another version of the file than the one that was begun."""


class NoParts(Exception):
    """The server returns the whole file instead of the requested part."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The server's facts about a file.

    ``size_bytes`` is None if unknown; ``version`` is the ETag or the date of the last change, empty
    without both; ``has_end`` tells whether a cut would be noticed, ``gives_parts`` whether other
    connections may fetch parts, ``is_part`` whether this answer is one.
    """

    size_bytes: int | None
    version: str
    has_end: bool
    gives_parts: bool
    is_part: bool

    @classmethod
    def of(cls, answer: HTTPResponse, begin: int) -> Offer:
        """Read the head of an answer about the file from byte ``begin``; raises ValueError."""
        head = answer.headers
        etag = head.get("ETag", "")
        # a weak tag is the same for files whose bytes differ
        version = head.get("Last-Modified", "") if etag.startswith("W/") else etag
        version = version or head.get("Last-Modified", "")
        place, _, total = head.get("Content-Range", "").removeprefix("bytes ").partition("/")
        is_part = answer.status == 206 and place.startswith(f"{begin}-")

        length = total if is_part else head.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        has_end = size is not None or head.get("Transfer-Encoding", "").lower() == "chunked"
        gives_parts = is_part or head.get("Accept-Ranges", "").lower() == "bytes"
        return cls(size, version, has_end, gives_parts=gives_parts, is_part=is_part)


def opened(address: str, begin: int = 0, end: int | None = None) -> tuple[HTTPResponse, Offer]:
    """Ask for the bytes of a file from ``begin`` to ``end`` (not included; None = its last).

    The caller closes the answer, whose body may be more than was asked for. Raises Useless, and
    ``FAILURES``.
    """
    headers = {"User-Agent": "saccade"}
    if begin or end is not None:
        headers["Range"] = f"bytes={begin}-{'' if end is None else end - 1}"
    try:
        answer = urlopen(Request(address, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if 400 <= error.code < 500 and error.code not in _TRY_AGAIN:
            raise Useless(str(error)) from error
        raise
    return answer, Offer.of(answer, begin)


def parts(address: str, begin: int, end: int, *, version: str, connections: int) -> Iterator[bytes]:
    """Fetch a file from byte ``begin`` to ``end`` by several connections; yields parts in order.

    Raises Changed, NoParts, Useless, and ``FAILURES``. A caller that stops waits for nothing.
    """
    starts = range(begin, end, PART_BYTES)
    waiting = iter(starts)
    fetched: dict[int, bytes | Exception] = {}
    ready, over = threading.Condition(), threading.Event()
    # how far the connections may be ahead of what was taken
    room = threading.Semaphore(2 * connections)

    def work() -> None:
        while room.acquire() and not over.is_set():
            with ready:
                start = next(waiting, None)
            if start is None:
                return
            try:
                got: bytes | Exception = _part(
                    address, start, min(start + PART_BYTES, end), version=version, over=over
                )
            except Exception as error:
                got = error
            with ready:
                fetched[start] = got
                ready.notify_all()

    # daemons: a process that is told to stop does not wait for a silent server
    for _ in range(min(connections, len(starts))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for start in starts:
            with ready:
                while start not in fetched:
                    ready.wait()
                got = fetched.pop(start)
            room.release()
            if isinstance(got, Exception):
                raise got
            yield got
    finally:
        over.set()
        room.release(connections)


def _part(address: str, begin: int, end: int, *, version: str, over: threading.Event) -> bytes:
    """Return the bytes from ``begin`` to ``end``, continued wherever the connection was cut."""
    got, failures = bytearray(), 0
    while len(got) < end - begin and not over.is_set():
        before = len(got)
        failure: Exception = ConnectionError("the connection was cut")
        try:
            answer, offer = opened(address, begin + before, end)
            with answer:
                if not offer.is_part:
                    raise NoParts
                if offer.version != version:
                    raise Changed
                while len(got) < end - begin and not over.is_set():
                    block = answer.read1(min(BLOCK_BYTES, end - begin - len(got)))
                    if not block:
                        break
                    got += block
        except FAILURES as error:
            failure = error

        # a part that grows is progress: a slow server is not a failing one
        failures = 0 if len(got) > before else failures + 1
        if failures >= ATTEMPTS:
            raise failure
        if failures:
            time.sleep(PAUSE_S * failures)
    return bytes(got)
