"""Connections of clients that may be slow but not still, and the bodies that come and go on them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import anyio
from aiohttp import StreamReader, web

from syncer.serve.problem import Problem

HEADER_SECONDS = 10.0
"""How long a connection may take to say what it wants."""

_MAX_CONNECTIONS = 1024

STALL_SECONDS = 60
"""How long a client may neither send a byte that is awaited nor take one that is offered."""


class Connection(web.RequestHandler):
    """One connection of a client.

    It is closed if it sends no whole request head in time, or is one too many: aiohttp limits how long a
    connection may idle between requests, but not before the first.  When it breaks in the middle of a body,
    what arrived of it is kept in ``rest``: aiohttp hands out an error instead.
    """

    __slots__ = ("_deadline", "_payload", "_server", "rest")

    def __init__(self, server: web.Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.rest = b""
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self._payload: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._server.connections) > _MAX_CONNECTIONS:
            self.force_close()
        else:
            self._deadline = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.force_close)

    def head_arrived(self, payload: StreamReader) -> None:
        """A request begins, whose body comes out of ``payload``."""
        self._payload = payload
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
        """Neither a client that is gone nor a request that is no HTTP is worth a line in a log."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        response = Problem(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "this is not a request that HTTP allows").response()
        response.force_close()
        return response


async def next_piece(request: web.BaseRequest) -> bytes:
    """The next bytes of the request's body; none at its end.

    Raises ``TimeoutError`` when the client stalls, another ``OSError`` when it is gone.
    """
    with anyio.fail_after(STALL_SECONDS):
        return await request.content.readany()


def unread(request: web.BaseRequest) -> bytes:
    """What arrived of the request's body and nobody has read, also when its connection is gone."""
    assert isinstance(request.protocol, Connection)
    return request.protocol.rest if request.content.exception() else request.content.read_nowait()


async def write_piece(request: web.BaseRequest, response: web.StreamResponse, piece: bytes) -> None:
    """Send bytes of a response; raises ``ConnectionError`` when the client is gone or does not take them."""
    try:
        with anyio.fail_after(STALL_SECONDS):
            await response.write(piece)
    except TimeoutError:
        if request.transport:
            request.transport.abort()
        raise ConnectionError("the client does not read") from None
