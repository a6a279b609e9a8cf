"""The page over HTTP: for this machine only, and nothing is loaded from elsewhere.

The server is Python's own; docs/architecture.md says why it is not gradio.
"""

from __future__ import annotations

import errno
import json
import sys
from concurrent.futures import CancelledError
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from saccade.demo.conversation import LARGEST_BYTES, Conversation, refusal
from saccade.demo.heat_map import Abandoned
from saccade.errors import InterruptedRunError, SaccadeError, UsageError
from saccade.log import Log

HOST = "127.0.0.1"
OWN_NAMES = {HOST, "localhost"}
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    # whatever a picture or a class name holds, the browser asks nobody else and runs nothing else
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves the page; ``port`` 0 takes a free one."""

    daemon_threads = True
    block_on_close = False
    # another program on the same port would get half of the requests
    allow_reuse_port = False

    def __init__(self, conversation: Conversation, port: int) -> None:
        self.conversation = conversation
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise _refused(port, error) from error

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}"

    def serve(self) -> None:
        """Serve requests until Ctrl-C."""
        try:
            self.serve_forever()
        except InterruptedRunError:
            pass
        finally:
            self.server_close()
            self.conversation.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error of a request; a browser that disconnects is not an error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            Log().warn(f"a request could not be answered: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    """One request of the page."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "saccade", ""
    timeout = 60.0

    def do_GET(self) -> None:
        """Send the page, its first facts, or the small copy of an example."""
        if not self._is_own():
            return
        path = urlsplit(self.path).path
        if path in _FILES:
            name, kind = _FILES[path]
            self._send(resources.files("saccade.demo").joinpath(name).read_bytes(), kind)
        elif path == "/about":
            self._send_json(self.server.conversation.about())
        elif (place := self._example(path)) is not None:
            self._send(self.server.conversation.examples[place].thumbnail, "image/png")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "This page does not exist.")

    def do_POST(self) -> None:
        """Answer for the picture that was sent, or for an example: ``/answer``, ``/heat``,
        ``/answer/examples/3``.
        """
        if not self._is_own():
            return
        path = urlsplit(self.path).path
        asked = self.server.conversation
        ask = {"answer": asked.answer, "heat": asked.heat}.get(path.split("/")[1])
        place = self._example(path.removeprefix("/answer").removeprefix("/heat"))
        if ask is None:
            self._refuse(HTTPStatus.NOT_FOUND, "This page does not exist.")
            return
        data = asked.examples[place].data if place is not None else self._body()
        if data is None:
            return

        try:
            self._send_json(ask(data))
        except SaccadeError as error:
            self._send_json(refusal(error), HTTPStatus.UNPROCESSABLE_ENTITY)
        except (Abandoned, CancelledError):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The program ends.")
        except MemoryError:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, "There is not enough memory.")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: each picture would be a line."""

    def _is_own(self) -> bool:
        """Tell whether the request comes from this page, under a name of this machine; refuse all
        others.

        Another page in the same browser may send requests here, also under a name of its own that
        resolves to this machine.
        """
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        if urlsplit(f"//{host}").hostname in OWN_NAMES and origin in (None, f"http://{host}"):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "Only the page itself may send requests.")
        return False

    def _example(self, path: str) -> int | None:
        """Return the place of the example that a path names, None for any other path."""
        word, _, number = path.removeprefix("/").partition("/")
        if word != "examples" or not number.isascii() or not number.isdecimal():
            return None
        place = int(number[:9])
        return place if place < len(self.server.conversation.examples) else None

    def _body(self) -> bytes | None:
        """Return the body of the request; None if it was refused by its length alone."""
        said = self.headers.get("Content-Length", "")
        length = int(said) if said.isascii() and said.isdecimal() and len(said) < 19 else -1
        if 0 <= length <= LARGEST_BYTES:
            return self.rfile.read(length)
        self._refuse(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"This file is too large: the limit is {LARGEST_BYTES >> 20} MB.",
        )
        return None

    def _refuse(self, status: HTTPStatus, what: str) -> None:
        """Send a sentence and close the connection: the rest of the request was not read."""
        self.close_connection = True
        self._send_json({"error": what}, status)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        close = {"Connection": "close"} if self.close_connection else {}
        own = {"Content-Type": kind, "Content-Length": str(len(body)), **close}
        for name, value in {**own, **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _refused(port: int, error: OSError | OverflowError) -> UsageError:
    fix = "use another port, or --port 0 for a free one"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return UsageError(f"port {port} is used by another program", where="--port", fix=fix)
    return UsageError(f"port {port} cannot be used: {error}", where="--port", fix=fix)
