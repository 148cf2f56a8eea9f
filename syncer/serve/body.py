"""Bodies, in and out, with clients that may be slow but not still."""

from __future__ import annotations

import anyio
from aiohttp import web

from syncer.serve.connection import Connection

STALL_SECONDS = 60
"""How long a client may neither send a byte that is awaited nor take one that is offered."""


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
