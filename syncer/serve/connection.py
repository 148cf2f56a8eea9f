"""Connections of clients, which may be slow but may not stop, and the bodies of requests and answers on them."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import anyio
from aiohttp import StreamReader, web

from syncer.serve.protocol import Problem

HEADER_SECONDS = 10.0
"""The time in which a new connection must send the head of its first request."""

_MAX_CONNECTIONS = 1024
_OTHER_FILES = 64  # open at once: the listener, the lock, a bundle, uploads that are written

_PATIENCE_SECONDS = 1.0
"""The time for which a connection must have waited for its client before another one may take its place."""

STALL_SECONDS = 60
"""The time for which a client may neither send a byte that is awaited nor take one that is offered."""


class Connection(web.RequestHandler):
    """One connection of a client.

    It is closed if it does not send a whole request head in time: aiohttp limits the time between requests, but not
    the time before the first.  When there are too many connections, a new one replaces the one that has waited longest
    for its client, among those of the client that has most of them waiting; if none waits, the new one is closed.  When
    a connection breaks in the middle of a body, the bytes that arrived are kept in ``rest``, since aiohttp gives only
    an error.
    """

    __slots__ = ("_deadline", "_payload", "_server", "client", "rest", "waiting_since")

    def __init__(self, server: web.Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.waiting_since: float | None = None  # None while it is the server's turn
        self.client = ""
        self.rest = b""
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self._payload: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if peer else ""
        loop = asyncio.get_running_loop()
        if len(self._server.connections) > _most_connections() and not self._make_room(loop.time() - _PATIENCE_SECONDS):
            self.force_close()
            return
        self.wait()
        self._deadline = loop.call_later(HEADER_SECONDS, self.force_close)

    def wait(self) -> None:
        """Note that the client has to act: to send a request or more of a body, or to take more of an answer."""
        self.waiting_since = asyncio.get_running_loop().time()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that the client has to act, for as long as the block lasts."""
        self.wait()
        try:
            yield
        finally:
            self.waiting_since = None

    def _make_room(self, before: float) -> bool:
        """Close a connection whose client has let it wait since ``before`` (a time of the loop)."""
        waiting = [
            (other.waiting_since, other)
            for other in self._server.connections
            if isinstance(other, Connection) and other.waiting_since and other.waiting_since < before
        ]
        if not waiting:
            return False
        of_client = Counter(other.client for _, other in waiting)
        worst, _ = of_client.most_common(1)[0]
        _, longest = min(
            ((since, other) for since, other in waiting if other.client == worst), key=lambda pair: pair[0]
        )
        if longest.transport:
            longest.transport.abort()
        longest.waiting_since = None  # its place is given away once
        return True

    def head_arrived(self, payload: StreamReader) -> None:
        """Note that a request has begun, whose body comes from ``payload``."""
        self._payload = payload
        self.waiting_since = None
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        if self._payload and not self._payload.exception():
            with suppress(RuntimeError):  # somebody waits for the next byte: all before it is read
                self.rest = self._payload.read_nowait()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP; neither this nor a client that is gone needs a line in a log."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        response = Problem(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "this is not a request that HTTP allows").response()
        response.force_close()
        return response


def _most_connections() -> int:
    """The number of connections that the limit of open files allows, with one more file for each connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = (soft - _OTHER_FILES) // 2
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(_MAX_CONNECTIONS, files))


async def next_piece(request: web.BaseRequest) -> bytes:
    """The next bytes of the request's body; none at its end.

    Raises ``TimeoutError`` when the client sends nothing in time, another ``OSError`` when it is gone.
    """
    assert isinstance(request.protocol, Connection)
    with request.protocol.waiting(), anyio.fail_after(STALL_SECONDS):
        return await request.content.readany()


def unread(request: web.BaseRequest) -> bytes:
    """The bytes of the request's body that arrived and were not read, even if the connection is gone."""
    assert isinstance(request.protocol, Connection)
    return request.protocol.rest if request.content.exception() else request.content.read_nowait()


async def write_piece(request: web.BaseRequest, response: web.StreamResponse, piece: bytes) -> None:
    """Send bytes of a response; raises ``ConnectionError`` when the client is gone or does not take them."""
    assert isinstance(request.protocol, Connection)
    try:
        with request.protocol.waiting(), anyio.fail_after(STALL_SECONDS):
            await response.write(piece)
    except TimeoutError:
        if request.transport:
            request.transport.abort()
        raise ConnectionError("the client does not read") from None
