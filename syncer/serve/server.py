"""The socket in front of the registry: addresses, TLS, and limits on what a connection may do."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from aiohttp import StreamReader, web

from syncer.errors import InvalidFile, UsageError
from syncer.serve.app import Application
from syncer.serve.connection import HEADER_SECONDS, Connection
from syncer.serve.password import Passwords
from syncer.serve.storage import Storage

_IDLE_SECONDS = 60.0
_SHUTDOWN_SECONDS = 0.5  # twice: for requests to end, then for them to notice
_MAX_LINE = 16 * 1024  # bytes, of the request line and of each header
_MAX_HEADERS = 64
_READ_AHEAD = 256 * 1024  # bytes of a body


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A server's certificate, with its chain, and key: two PEM files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Raises ``InvalidFile``."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidFile(
                self.certificate, f"with {self.key} it makes no certificate and key: {error.strerror or error}"
            ) from None
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@asynccontextmanager
async def serve(
    storage: Storage,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    htpasswd: Path | None = None,
    tls: Tls | None = None,
) -> AsyncIterator[Address]:
    """A registry over ``storage``, for as long as the block lasts; port 0 takes a free one.

    ``htpasswd`` asks everybody for a password of that file.  Raises ``UsageError`` when the address cannot
    be listened at, and ``InvalidFile``.
    """
    passwords = Passwords.read(htpasswd) if htpasswd else None
    context = tls.context() if tls else None
    application = Application(storage, passwords)
    server = _Server(
        _then_waiting(application),
        request_factory=_request,
        access_log=None,
        logger=logging.getLogger("syncer.serve"),
        auto_decompress=False,  # a blob's digest is over the bytes as sent
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=HEADER_SECONDS,
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
        max_headers=_MAX_HEADERS,
        read_bufsize=_READ_AHEAD,
    )
    listener = await _listen(server, host, port, context)
    upkeep = asyncio.ensure_future(application.upkeep())
    try:
        bound = listener.sockets[0].getsockname()
        yield Address(bound[0], bound[1])
    finally:
        listener.close()
        application.close()
        upkeep.cancel()
        with anyio.CancelScope(shield=True):
            server.pre_shutdown()
            await server.shutdown(_SHUTDOWN_SECONDS)
            with suppress(asyncio.CancelledError):
                await upkeep


async def _listen(server: _Server, host: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
    handshake = HEADER_SECONDS if context else None
    try:
        return await asyncio.get_running_loop().create_server(
            server, host, port, ssl=context, ssl_handshake_timeout=handshake
        )
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen at {Address(host, port)}: {_reason(error)}", hint="choose another --host or --port"
        ) from None


def _reason(error: OSError | OverflowError) -> str:
    """Why, without the address, which asyncio and uvloop repeat each in their own words."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)


def _then_waiting(application: Application) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """The application; when it has answered, it is the client's turn to take the answer and to ask again."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await application(request)
        finally:
            if isinstance(request.protocol, Connection):
                request.protocol.wait()

    return answer


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


def _request(
    message: Any, payload: StreamReader, protocol: web.RequestHandler, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    assert isinstance(protocol, Connection)
    protocol.head_arrived(payload)
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())
