"""One request, one answer: the only module that knows aiohttp's client, but for failures.py.

Whatever another HTTP stack would have to do is here, and nothing else is: retries, redirects and
credentials are the transport's.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import anyio
from aiohttp.abc import AbstractStreamWriter
from anyio import to_thread
from multidict import CIMultiDictProxy
from yarl import URL

from syncer.errors import Interrupted
from syncer.transport.failures import OutOfReach, failure_of
from syncer.transport.guard import Address, Scope, authority
from syncer.transport.message import Body, Request, Sink
from syncer.transport.settings import Limits, TransportSettings
from syncer.transport.threads import ThreadedResponse, ThreadedWire
from syncer.transport.tls import tls_context, with_certificates
from syncer.transport.traffic import Traffic

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp.connector import AddrInfoType, Connection

_BUFFER = 256 * 1024  # bytes of an answer that may wait for their reader; more brings nothing
_LARGE = 512 * 1024  # bytes that are not handed to the socket at one go
_MAX_HEADER = 64 * 1024  # a Location of Google's, or a token, is longer than aiohttp's 8 KiB
_MAX_HEADERS = 256
_CHECKS = 6  # how often within the window the flow of an upload is looked at


class Response:
    """An answer whose body may still be on its way; to be closed, which frees the connection."""

    def __init__(self, request: Request, inner: _Inner, limits: Limits, traffic: Traffic, proxy: URL | None) -> None:
        self.request = request
        self.status: int = inner.status
        self.headers: CIMultiDictProxy[str] = inner.headers
        self._inner = inner
        self._limits = limits
        self._traffic = traffic
        self._proxy = proxy
        self._waited, self._moved = 0.0, 0  # seconds and bytes since the last look at the flow
        self.on_close: Callable[[], None] | None = None

    @property
    def scope(self) -> Scope:
        """How near the server is: by the address that was connected to, by the URL behind a proxy."""
        if self._proxy is None and self._inner.peer:
            return _scope(self._inner.peer)
        return Scope.of_host(self.request.url.host or "") or Scope.PUBLIC

    async def piece(self) -> bytes:
        """The next bytes of the body, none at its end; raises ``Interrupted`` when it stops short or all but stands
        still.
        """
        began = time.monotonic()
        try:
            piece = await self._inner.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise failure_of(error, self.request) from None
        self._waited += time.monotonic() - began
        self._moved += len(piece)
        if self._waited >= self._limits.window:
            if self._moved < self._limits.slowest * self._limits.window:
                raise Interrupted(f"{self.request}: less than {self._limits.slowest} bytes a second come in")
            self._waited, self._moved = 0.0, 0
        self._traffic.bytes_in += len(piece)
        if wait := self._traffic.owed(len(piece)):
            await anyio.sleep(wait)
        return piece

    async def pour(self, sink: Sink) -> None:
        """Give the whole body to ``sink``, as ``ThreadedResponse`` does for answers that come by no proxy."""
        while piece := await self.piece():
            await to_thread.run_sync(sink, memoryview(piece))

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """At most ``limit`` bytes of the body, and whether that was all of it."""
        parts: list[bytes] = []
        left = limit
        while piece := await self.piece():
            parts.append(piece[:left])
            left -= len(piece)
            if left < 0:
                return b"".join(parts), False
        return b"".join(parts), True

    def close(self) -> None:
        """Free the connection; it is kept only if the answer was read to its end."""
        self.make_room()
        self._inner.close()

    def make_room(self) -> None:
        """Let another request take this one's place."""
        if self.on_close:
            self.on_close()
            self.on_close = None


class Wire:
    """The connections, for as long as the ``async with`` block lasts."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._sessions: dict[tuple[Scope | None, bool], aiohttp.ClientSession] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._threaded = ThreadedWire(settings.limits)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._stack.callback(self._threaded.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def exchange(
        self, request: Request, authorization: str | None, traffic: Traffic
    ) -> Response | ThreadedResponse:
        """Send ``request`` once.  Raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        proxy = self._settings.proxies.for_url(request.url)
        headers = {"Accept-Encoding": "identity", "User-Agent": self._settings.user_agent, **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        if request.is_poured and proxy is None:
            traffic.requests[request.method] += 1
            context = self._context(request.url)
            return await self._threaded.exchange(
                request, headers, context if isinstance(context, ssl.SSLContext) else None, traffic
            )
        body = request.body
        payload: _Payload | None = None
        data: bytes | io.BytesIO | _Payload | None
        if body is None or isinstance(body, bytes):
            data = io.BytesIO(body) if body and len(body) > _LARGE else body
        else:
            data = payload = _Payload(body, request, self._limits, traffic)
        traffic.requests[request.method] += 1
        if isinstance(body, bytes) and (wait := traffic.owed(len(body))):
            await anyio.sleep(wait)
        try:
            inner = await self._session(request, proxy).request(
                request.method,
                request.url,
                headers=headers,
                data=data,
                allow_redirects=False,
                ssl=self._context(request.url),
                proxy=proxy and proxy.with_user(None),
                proxy_auth=_proxy_login(proxy),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._limits.connect, sock_read=request.patience or self._limits.idle
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if payload is not None and payload.failure is not None:
                raise payload.failure from None
            raise failure_of(error, request) from None  # aiohttp's words may hold the whole URL, signature and all
        if isinstance(body, bytes):
            traffic.bytes_out += len(body)
        assert isinstance(inner, _Inner)
        return Response(request, inner, self._limits, traffic, proxy)

    def _session(self, request: Request, proxy: URL | None) -> aiohttp.ClientSession:
        """The pool for this kind of request.  Where an address must not be too near, no connection of another
        pool will do, since it may have been made to such an address.
        """
        reach = None if proxy else request.reach
        relayed = request.body is not None and not isinstance(request.body, bytes) and request.body.is_relayed
        session = self._sessions.get((reach, relayed))
        if session is None:
            session = self._sessions[reach, relayed] = self._new_session(reach)
            self._stack.push_async_callback(session.close)
        return session

    def _new_session(self, reach: Scope | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._limits.connections,
            limit_per_host=self._limits.requests_per_host,
            ttl_dns_cache=60,
            resolver=aiohttp.ThreadedResolver(),
            socket_factory=None if reach is None else _Sockets(reach),
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a blob's digest is over the bytes as stored
            requote_redirect_url=False,
            response_class=_Inner,
            read_bufsize=_BUFFER,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            max_headers=_MAX_HEADERS,
        )
        session._retry_connection = False  # noqa: SLF001  (aiohttp would send a PUT twice without telling us)
        return session

    def _context(self, url: URL) -> ssl.SSLContext | bool:
        if url.scheme != "https":
            return True
        host = authority(url)
        context = self._contexts.get(host)
        if context is None:
            settings = with_certificates(self._settings.host(host), self._settings.certificates, host)
            context = self._contexts[host] = tls_context(settings)
        return context


class _Sockets:
    """Makes sockets for addresses at most as near as ``reach``; the check that no name can get around."""

    def __init__(self, reach: Scope) -> None:
        self._reach = reach

    def __call__(self, target: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = target
        if _scope(str(address[0])) > self._reach:
            raise OutOfReach
        return socket.socket(family, kind, protocol)


class _Inner(aiohttp.ClientResponse):
    """aiohttp's response, which also remembers the address that it came from."""

    peer: str | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        name = connection.transport.get_extra_info("peername") if connection.transport else None
        if isinstance(name, tuple):
            self.peer = name[0]
        return await super().start(connection)


class _Payload(aiohttp.Payload):
    """A ``Body`` as aiohttp sends it.  ``failure`` is the error of the body itself, when it is to blame."""

    def __init__(self, body: Body, request: Request, limits: Limits, traffic: Traffic) -> None:
        super().__init__(body)
        self._size = body.length
        self._body = body
        self._request = request
        self._limits = limits
        self._traffic = traffic
        self.failure: Exception | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        raise TypeError("the body of an upload is no text")

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002
        await self.write(writer)

    async def write(self, writer: Any) -> None:
        """Send the body piece by piece; a piece has left our hands before the next one is asked for."""
        transport: asyncio.Transport = writer.transport
        # what is written is still ours until it has been sent; a TLS transport has a copy, and never resumes from 0
        transport.set_write_buffer_limits(high=1 if transport.get_extra_info("sslcontext") else 0)
        left = self._body.length
        flow = _Flow(transport, self._limits, self._stalled)
        pieces = self._body.pieces()
        try:
            while (piece := await self._next(pieces)) is not None:
                left -= len(piece)
                if wait := self._traffic.owed(len(piece)):
                    await anyio.sleep(wait)
                flow.is_waiting = True
                await writer.write(piece)
                await writer.drain()
                flow.is_waiting = False
                flow.sent += len(piece)
                self._traffic.bytes_out += len(piece)
        finally:
            flow.close()
            await pieces.aclose()
        if left:
            self.failure = Interrupted(f"{self._request}: the content to send ended {left} bytes early")
            raise self.failure

    def _stalled(self) -> None:
        self.failure = Interrupted(f"{self._request}: less than {self._limits.slowest} bytes a second get through")

    async def _next(self, pieces: AsyncGenerator[bytes | memoryview, None]) -> bytes | memoryview | None:
        try:
            return await anext(pieces, None)
        except Exception as error:
            self.failure = error
            raise


class _Flow:
    """Breaks a connection off whose other end has all but stopped to take what we send."""

    def __init__(self, transport: asyncio.Transport, limits: Limits, stalled: Callable[[], None]) -> None:
        self.sent = 0
        self.is_waiting = False
        self._transport = transport
        self._stalled = stalled
        self._interval = limits.window / _CHECKS
        self._least = limits.slowest * limits.window
        self._seen = 0
        self._checks = 0
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def _check(self) -> None:
        if self.is_waiting:  # for the other end, and not for the content to send
            self._checks += 1
        if self._checks == _CHECKS:
            moved = self.sent - self._transport.get_write_buffer_size()
            if moved - self._seen < self._least:
                self._stalled()
                self._transport.abort()
                return
            self._checks, self._seen = 0, moved
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def close(self) -> None:
        self._timer.cancel()


def _scope(address: str) -> Scope:
    return Scope.of(_parsed(address))


@lru_cache(maxsize=1024)
def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])


def _proxy_login(proxy: URL | None) -> aiohttp.BasicAuth | None:
    if proxy is None or proxy.user is None:
        return None
    return aiohttp.BasicAuth(proxy.user, proxy.password or "")
