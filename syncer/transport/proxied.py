"""Exchanges through a proxy, by aiohttp: the only module that knows its client."""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import anyio
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from syncer.errors import Interrupted, NetworkError, Unreachable
from syncer.transport.failures import failure_of, no_connection
from syncer.transport.guard import Scope, authority
from syncer.transport.hosts import Traffic
from syncer.transport.http import CutOff, NotHTTP
from syncer.transport.request import Body, Request
from syncer.transport.response import Flow, Response, WatchedTransport, count_in, stalled
from syncer.transport.settings import Limits

_BUFFER = 256 * 1024  # bytes of an answer that may wait for their reader; more brings nothing
_LARGE = 512 * 1024  # bytes that are not handed to the socket at one go
_MAX_HEADER = 64 * 1024  # a Location of Google's, or a token, is longer than aiohttp's 8 KiB
_MAX_HEADERS = 256


class ProxiedWire:
    """Connections through proxies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def exchange(
        self, request: Request, headers: Mapping[str, str], context: ssl.SSLContext | None, traffic: Traffic, proxy: URL
    ) -> Response:
        """Send ``request`` once; raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        body = request.body
        payload: _Payload | None = None
        data: bytes | io.BytesIO | _Payload | None
        if body is None or isinstance(body, bytes):
            data = io.BytesIO(body) if body and len(body) > _LARGE else body
        else:
            data = payload = _Payload(body, request, self._limits, traffic)
        try:
            inner = await self._session().request(
                request.method,
                request.url,
                headers=headers,
                data=data,
                allow_redirects=False,
                ssl=context or True,
                proxy=proxy.with_user(None),
                proxy_auth=_proxy_login(proxy),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._limits.connect, sock_read=request.patience or self._limits.idle
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if payload is not None and payload.failure is not None:
                raise payload.failure from None
            raise _failure_of(error, request) from None  # aiohttp's words may hold the whole URL, signature and all
        if isinstance(body, bytes):
            traffic.bytes_out += len(body)
        return _ProxiedResponse(request, inner, self._limits, traffic)

    def _session(self) -> aiohttp.ClientSession:
        session = self._sessions.get(True)
        if session is None:
            session = self._sessions[True] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    ttl_dns_cache=60,
                    resolver=aiohttp.ThreadedResolver(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a blob's digest is over the bytes as stored
                requote_redirect_url=False,
                read_bufsize=_BUFFER,
                max_line_size=_MAX_HEADER,
                max_field_size=_MAX_HEADER,
                max_headers=_MAX_HEADERS,
            )
            session._retry_connection = False  # noqa: SLF001  (aiohttp would send a PUT twice without telling us)
        return session


class _ProxiedResponse(Response):
    def __init__(self, request: Request, inner: aiohttp.ClientResponse, limits: Limits, traffic: Traffic) -> None:
        super().__init__(request, inner.status, inner.headers)
        self._inner = inner
        self._flow = Flow(request, limits)
        self._traffic = traffic

    @property
    def scope(self) -> Scope:
        """How near the server is: by the URL, since the address that was connected to is the proxy's."""
        return Scope.of_host(self.request.url.host or "") or Scope.PUBLIC

    async def piece(self) -> bytes:
        began = time.monotonic()
        try:
            piece = await self._inner.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure_of(error, self.request) from None
        await count_in(piece, time.monotonic() - began, self._flow, self._traffic)
        return piece

    def release(self) -> None:
        self._inner.close()


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
        transport = writer.transport
        # what is written is still ours until it has been sent; a TLS transport has a copy, and never resumes from 0
        transport.set_write_buffer_limits(high=1 if transport.get_extra_info("sslcontext") else 0)
        left = self._body.length
        watched = WatchedTransport(transport, self._limits, self._stalled)
        pieces = self._body.pieces()
        try:
            while (piece := await self._next(pieces)) is not None:
                left -= len(piece)
                if wait := self._traffic.owed(len(piece)):
                    await anyio.sleep(wait)
                watched.is_waiting = True
                await writer.write(piece)
                await writer.drain()
                watched.is_waiting = False
                watched.sent += len(piece)
                self._traffic.bytes_out += len(piece)
        finally:
            watched.close()
            await pieces.aclose()
        if left:
            self.failure = Interrupted(f"{self._request}: the content to send ended {left} bytes early")
            raise self.failure

    def _stalled(self) -> None:
        self.failure = stalled(self._request, self._limits, is_upload=True)

    async def _next(self, pieces: AsyncGenerator[bytes | memoryview, None]) -> bytes | memoryview | None:
        try:
            return await anext(pieces, None)
        except Exception as error:
            self.failure = error
            raise


def _failure_of(error: Exception, request: Request) -> NetworkError:
    """What aiohttp says of a failure, as one of our own errors."""
    host = authority(request.url)
    match error:
        case aiohttp.ClientConnectorError():
            via = "the proxy for " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
            return no_connection(_cause(error), host, via)
        case aiohttp.ClientHttpProxyError():
            return Unreachable(f"the proxy will not connect us to {host}: {error.status} {error.message}")
        case aiohttp.ConnectionTimeoutError():
            return no_connection(TimeoutError(), host)
        case aiohttp.ClientPayloadError():
            return failure_of(CutOff(), request)
        case aiohttp.ClientResponseError():
            return failure_of(NotHTTP(), request)
        case _:
            return failure_of(error, request)


def _cause(error: aiohttp.ClientConnectorError) -> OSError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError) and isinstance(error.certificate_error, OSError):
        return error.certificate_error
    return error.os_error


def _proxy_login(proxy: URL) -> aiohttp.BasicAuth | None:
    return None if proxy.user is None else aiohttp.BasicAuth(proxy.user, proxy.password or "")
