"""The connections to servers: an exchange chooses the route, writes the head, and takes one of the two ways."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Self, TypeAlias

import anyio
from yarl import URL

from syncer.errors import Unsafe
from syncer.transport.connecting import Addresses, Route, tls_context, with_certificates
from syncer.transport.failures import no_tunnel
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.hosts import Meter, Traffic
from syncer.transport.http import request_head
from syncer.transport.loop import LoopWire
from syncer.transport.message import Request, Response
from syncer.transport.settings import TransportSettings
from syncer.transport.threads import ThreadWire, wants_thread

Place: TypeAlias = tuple[object, Scope | None]
"""An origin, and the nearest scope that its address may have."""


class Wire:
    """The connections to all servers, for as long as the ``async with`` block lasts."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._routes: dict[Place, Route] = {}
        addresses = Addresses()
        self._loop = LoopWire(settings.limits, addresses)
        self._threads = ThreadWire(settings.limits, addresses)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.close()
        await self._loop.close()

    def leave(self, host: str) -> None:
        """Close the connections to ``host`` that nobody uses."""
        self._threads.leave(host)
        self._loop.leave(host)

    async def exchange(self, request: Request, authorization: str | None, traffic: Traffic) -> Response:
        """Send ``request`` once.

        Raises ``Unreachable`` when nothing was sent (``ProxyRefused`` when a proxy does not pass it on), else
        ``Interrupted``; and ``Unsafe`` for a header with a line break in it.
        """
        route = self._route(request)
        headers = {"Accept-Encoding": "identity", "User-Agent": self._settings.user_agent, **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        if route.login and not route.is_tunnel:
            headers["Proxy-Authorization"] = route.login
        try:
            head = request_head(
                request.method, route.target(request.url), {"Host": authority(request.url), **headers}, request.length
            )
        except ValueError:
            raise Unsafe(f"{request}: what would be sent breaks out of its header") from None
        traffic.requests[request.method] += 1
        meter = None
        if isinstance(request.body, bytes):
            meter = Meter(request, traffic)
            if wait := meter.due(len(request.body)):
                await anyio.sleep(wait)
        wire = self._threads if wants_thread(request) else self._loop
        response = await wire.exchange(request, head, route, traffic)
        if meter is not None and isinstance(request.body, bytes):
            meter.went(len(request.body), 0.0)
        if response.status == 407 and route.proxy is not None and not route.is_tunnel:
            response.close()
            raise no_tunnel(407, authority(route.place), authority(request.url))
        return response

    async def probe(self, request: Request) -> None:
        """Make a connection to where ``request`` goes, and drop it; raises ``Unreachable``."""
        await self._loop.probe(self._route(request))

    def _route(self, request: Request) -> Route:
        """The one route to a place, so that connections can be kept by it."""
        url = request.url
        place = origin(url), request.reach
        route = self._routes.get(place)
        if route is None:
            proxy = self._settings.proxies.for_url(url)
            route = self._routes[place] = Route(
                url=url.origin(),
                reach=request.reach,
                context=self._context(url),
                proxy=proxy,
                proxy_context=None if proxy is None else self._context(proxy.origin()),
            )
        return route

    def _context(self, url: URL) -> ssl.SSLContext | None:
        if url.scheme != "https":
            return None
        host = authority(url)
        context = self._contexts.get(host)
        if context is None:
            settings = with_certificates(self._settings.host(host), self._settings.certificates, host)
            context = self._contexts[host] = tls_context(settings)
        return context
