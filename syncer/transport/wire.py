"""One request, one answer, by the way that suits it: the event loop, a worker thread, or aiohttp through a proxy.

Whatever another HTTP stack would have to do is below here, and nothing else is: retries, redirects and
credentials are the transport's.
"""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio
from yarl import URL

from syncer.errors import Unsafe
from syncer.transport.connecting import Addresses
from syncer.transport.direct import DirectWire
from syncer.transport.guard import authority
from syncer.transport.http1 import request_head
from syncer.transport.message import Request
from syncer.transport.response import Response
from syncer.transport.settings import TransportSettings
from syncer.transport.threads import ThreadedWire, wants_thread
from syncer.transport.tls import tls_context, with_certificates
from syncer.transport.traffic import Traffic

if TYPE_CHECKING:
    from types import TracebackType

    from syncer.transport.proxied import ProxiedWire


class Wire:
    """The connections, for as long as the ``async with`` block lasts."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._contexts: dict[str, ssl.SSLContext] = {}
        addresses = Addresses()
        self._direct = DirectWire(settings.limits, addresses)
        self._threaded = ThreadedWire(settings.limits, addresses)
        self._proxied: ProxiedWire | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._stack.push_async_callback(self._direct.close)
        self._stack.callback(self._threaded.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def exchange(self, request: Request, authorization: str | None, traffic: Traffic) -> Response:
        """Send ``request`` once.  Raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        headers = {"Accept-Encoding": "identity", "User-Agent": self._settings.user_agent, **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        context = self._context(request.url) if request.url.scheme == "https" else None
        traffic.requests[request.method] += 1
        if isinstance(request.body, bytes) and (wait := traffic.owed(len(request.body))):
            await anyio.sleep(wait)
        if (proxy := self._settings.proxies.for_url(request.url)) is not None:
            return await self._through_proxies().exchange(request, headers, context, traffic, proxy)
        target = request.url.raw_path_qs
        try:
            head = request_head(request.method, target, {"Host": authority(request.url), **headers}, request.length)
        except ValueError:
            raise Unsafe(f"{request}: what would be sent breaks out of its header") from None
        wire = self._threaded if wants_thread(request) else self._direct
        return await wire.exchange(request, head, context, traffic)

    def _through_proxies(self) -> ProxiedWire:
        if self._proxied is None:
            from syncer.transport.proxied import ProxiedWire  # noqa: PLC0415  aiohttp takes 0.2 s to import

            self._proxied = ProxiedWire(self._settings.limits)
            self._stack.push_async_callback(self._proxied.close)
        return self._proxied

    def _context(self, url: URL) -> ssl.SSLContext:
        host = authority(url)
        context = self._contexts.get(host)
        if context is None:
            settings = with_certificates(self._settings.host(host), self._settings.certificates, host)
            context = self._contexts[host] = tls_context(settings)
        return context
