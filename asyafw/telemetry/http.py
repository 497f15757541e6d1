"""A small HTTP server for probes and scrapers, in a thread of its own.

It answers even while the event loop is blocked, which is when health matters most.
"""

import logging
import socket
import socketserver
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final, Self, cast

from msgspec import Struct

from asyafw.exceptions import ConfigurationError

__all__ = ["StatusServer"]

_MOST_CONNECTIONS = 64
_TICK_S = 1.0
_TEXT = "text/plain; charset=utf-8"
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"

_logger = logging.getLogger("asyafw.status")


class StatusServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` between ``with`` and its end.

    `healthy` and `ready` give None, or the reason why not, which is answered with status 503.
    The callables run in the server's threads and must not wait for the event loop.
    A client gets `timeout_s` seconds for its request and the answer.
    Port 0 takes a free one; `port` tells which.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[], bytes],
        healthy: Callable[[], str | None],
        ready: Callable[[], str | None],
        timeout_s: float = 5.0,
    ) -> None:
        self.host = host
        self.port = port
        self._pages: dict[str, Callable[[], _Page]] = {
            "/metrics": lambda: _Page(HTTPStatus.OK, metrics(), _EXPOSITION),
            "/healthz": lambda: _verdict(healthy()),
            "/readyz": lambda: _verdict(ready()),
        }
        self._timeout_s = timeout_s
        self._server: _Server | None = None
        self._closing = False
        self._thread = Thread(target=self._serve, name="asyafw-status", daemon=True)

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        try:
            self._server = _Server(self.host, self.port, self._pages, self._timeout_s)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"the status server cannot listen on {self.host}:{self.port}: {error}; "
                "choose another address, or port 0 for any that is free"
            ) from error
        self.port = self._server.server_port
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        server = self._server
        if server is None:
            return
        self._closing = True
        # Wakes the thread at once where the system allows it, else at its next tick.
        with suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        server.server_close()
        server.drop(older_than_s=-1)

    def _serve(self) -> None:
        server = self._server
        while server is not None and not self._closing:
            server.handle_request()
            server.drop(older_than_s=self._timeout_s)


class _Page(Struct, frozen=True):
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


def _verdict(problem: str | None) -> _Page:
    if problem is None:
        return _Page(HTTPStatus.OK, b"ok\n")
    return _Page(HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}\n".encode())


class _Server(ThreadingHTTPServer):
    """Counts its connections, so that it can end those that take too long."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CONNECTIONS

    def __init__(
        self, host: str, port: int, pages: dict[str, Callable[[], _Page]], timeout_s: float
    ) -> None:
        self.pages = pages
        self.timeout_s = timeout_s
        self.timeout = min(_TICK_S, timeout_s)
        self._open: dict[Any, float] = {}
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family, address = found[0][0], found[0][4]
        super().__init__((str(address[0]), port), _Handler)

    def server_bind(self) -> None:
        # http.server would look its own name up, for which a broken resolver takes seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        del request, client_address
        return len(self._open) < _MOST_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def drop(self, *, older_than_s: float) -> None:
        """End connections, whose threads end with them."""
        latest = time.monotonic() - older_than_s
        for request, since in self._open.copy().items():
            if since < latest:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        # Called while the exception is handled; a client that went away is no news.
        _logger.debug("lost the client %s: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    server_version = "asyafw"
    sys_version = ""

    def setup(self) -> None:
        self.request.settimeout(cast("_Server", self.server).timeout_s)
        super().setup()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        page = cast("_Server", self.server).pages.get(path)
        if page is None:
            self._reply(_Page(HTTPStatus.NOT_FOUND, b"see /metrics, /healthz, /readyz\n"))
            return
        try:
            found = page()
        except Exception:
            _logger.exception("cannot answer %s", path)
            found = _Page(HTTPStatus.INTERNAL_SERVER_ERROR, b"an error, see the log\n")
        self._reply(found)

    do_HEAD = do_GET  # noqa: N815 — the base class calls it by this name

    def _refuse(self) -> None:
        self._reply(_Page(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n"))

    # The base class calls them by these names.
    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815
    do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _reply(self, page: _Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the base class's name
        """Probes come every few seconds; nobody wants to read of each."""
