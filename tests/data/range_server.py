"""A web server on this machine that gives parts of a file, and misbehaves as it is told to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DATA = np.random.default_rng(7).bytes(1_000_000)


@dataclass
class Behaviour:
    """What the server does with ``/<name>``.

    ``content`` is by name; ``etag`` and ``date`` are its version; ``length`` what it says ("" =
    nothing). ``cut_after`` ends each answer early, ``block_s`` slows it down, ``moved`` sends to
    another path, ``change_at`` replaces the contents after so many answers.
    """

    content: dict[str, bytes] = field(default_factory=lambda: {"set.bin": DATA})
    etag: str = '"one"'
    date: str = ""
    ranges: bool = True
    keeps_to_ranges: bool = True
    length: str = "true"
    chunked: bool = False
    cut_after: int = 0
    block_s: float = 0.0
    silent: bool = False
    moved: dict[str, str] = field(default_factory=dict)
    change_at: int = 0
    changed: bytes = b""


class Server(ThreadingHTTPServer):
    """Remembers what it was ``asked`` for, how many bytes it ``sent``, and how many answers ran at
    the same time.
    """

    daemon_threads = True

    def __init__(self, handler: type[Quiet]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.does = Behaviour()
        self.asked: list[tuple[str, str | None]] = []
        self.sent = self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.site = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients go away here."""


class Quiet(BaseHTTPRequestHandler):
    """An answer of the server, which leaves no line on the terminal."""

    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Handler(Quiet):
    def do_GET(self) -> None:
        with self.server.lock:
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            self._answer()
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def _answer(self) -> None:
        does, name = self.server.does, self.path[1:].partition("?")[0]
        wanted = self.headers.get("Range")
        with self.server.lock:
            self.server.asked.append((name, wanted))
            if does.change_at and len(self.server.asked) > does.change_at:
                does.content, does.etag = {name: does.changed}, '"two"'
        if name in does.moved:
            self.send_response(302)
            self.send_header("Location", does.moved[name])
            self.end_headers()
            return
        if name not in does.content:
            self.send_error(404)
            return
        self._give(does.content[name], wanted if does.ranges and does.keeps_to_ranges else None)

    def _give(self, data: bytes, wanted: str | None) -> None:
        does, (begin, end) = self.server.does, (0, len(data))
        if wanted:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()  # type: ignore[union-attr]
            begin, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
            if begin >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        for head, value in (("ETag", does.etag), ("Last-Modified", does.date)):
            if value:
                self.send_header(head, value)
        if does.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if does.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif does.length:
            said = str(end - begin) if does.length == "true" else does.length
            self.send_header("Content-Length", said)
        self.end_headers()
        self._send(data[begin:end])

    def _send(self, data: bytes) -> None:
        does = self.server.does
        if does.silent:
            time.sleep(60)
        if does.cut_after:
            data = data[: does.cut_after]
        for place in range(0, len(data), 16_384):
            block = data[place : place + 16_384]
            frame = b"%x\r\n%s\r\n" % (len(block), block) if does.chunked else block
            self.wfile.write(frame)
            with self.server.lock:
                self.server.sent += len(block)
            if does.block_s:
                time.sleep(does.block_s)
        if does.chunked:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving(handler: type[Quiet] = Handler) -> Iterator[Server]:
    """Serve until the end of the block."""
    made = Server(handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
