"""The connections to servers: an exchange chooses the route, writes the head, and takes one of the two ways."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Self, TypeAlias

import anyio
from msgspec import structs
from yarl import URL

from syncer.errors import Interrupted, NetworkError, Unsafe
from syncer.transport.connecting import Addresses, Route, ServerTls
from syncer.transport.failures import (
    Absent,
    NoHttp,
    NoTls,
    OtherScheme,
    Unanswered,
    no_tunnel,
    speaks_http,
    speaks_https,
    speaks_neither,
)
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.hosts import Meter, Traffic
from syncer.transport.http import request_head
from syncer.transport.loop import LoopWire
from syncer.transport.message import Request, Response
from syncer.transport.settings import HostSettings, TransportSettings, tls_context, with_certificates
from syncer.transport.threads import ThreadWire, wants_thread

_BAD_REQUEST = 400  # by which servers of HTTPS answer HTTP
_PING = URL("http://registry.invalid/v2/")  # of which only the path is sent

Place: TypeAlias = tuple[object, Scope | None]
"""An origin, and the nearest scope that its address may have."""


class Wire:
    """The connections to all servers, for as long as the ``async with`` block lasts."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._tls: dict[str, ServerTls] = {}  # by host[:port]
        self._tls_settings: dict[HostSettings, ssl.SSLContext] = {}
        self._routes: dict[Place, Route] = {}
        self._proven: set[object] = set()  # origins that are known to speak as they are spoken to
        self._checking: dict[object, anyio.Lock] = {}
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

        Raises ``Unreachable`` when nothing was sent (``ProxyRefused`` when a proxy does not pass it on, ``OtherScheme``
        for HTTP to a server of HTTPS and the other way round), else ``Interrupted``; and ``Unsafe`` for a header with a
        line break in it.
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
        response = await self._exchange(request, head, route, traffic)
        if meter is not None and isinstance(request.body, bytes):
            meter.went(len(request.body), 0.0)
        if response.status == 407 and route.proxy is not None and not route.is_tunnel:
            response.close()
            raise no_tunnel(407, authority(route.place), authority(request.url))
        return response

    async def _exchange(self, request: Request, head: bytes, route: Route, traffic: Traffic) -> Response:
        """Send ``request`` once, and look after the first failure whether its server speaks HTTP or HTTPS."""
        wire = self._threads if wants_thread(request) else self._loop
        try:
            response = await wire.exchange(request, head, route, traffic)
        except Unanswered:
            raise
        except (NoTls, Interrupted) as error:
            await self._check_scheme(request, route, traffic, failure=error)
            raise
        except Absent as error:
            if error.hint and not request.url.path.startswith("/v2/"):
                error.hint = error.hint.replace("a registry", "a server")
            raise
        if response.status != _BAD_REQUEST:
            self._proven.add(origin(request.url))
            return response
        try:
            await self._check_scheme(request, route, traffic)
        except OtherScheme:
            response.close()
            raise
        return response

    async def _check_scheme(
        self, request: Request, route: Route, traffic: Traffic, *, failure: NetworkError | None = None
    ) -> None:
        """Raise ``OtherScheme`` if the server of ``request``, which ended in ``failure``, speaks the other one.

        ``NoTls`` is raised if it speaks neither.  An origin is asked once, without a login; behind a proxy nobody is
        asked.
        """
        place = origin(request.url)
        if route.proxy is not None or place in self._proven:
            return
        async with self._checking.setdefault(place, anyio.Lock()):
            if place not in self._proven:
                await self._ask_in_other_scheme(request, route, traffic, has_no_tls=isinstance(failure, NoTls))
                self._proven.add(place)

    async def _ask_in_other_scheme(self, request: Request, route: Route, traffic: Traffic, *, has_no_tls: bool) -> None:
        """Raise ``OtherScheme`` if the server of ``request`` answers HTTPS instead of HTTP, or HTTP instead of it.

        ``NoTls`` is raised where it ``has_no_tls``, and answers HTTP by something else.
        """
        host, port = authority(request.url), request.url.port
        other = structs.replace(route, tls=ServerTls(_any_certificate()) if route.tls is None else None)
        ping = Request(method="GET", url=_PING, reach=request.reach, patience=self._settings.limits.connect)
        head = request_head("GET", _PING.raw_path_qs, {"Host": host, "Connection": "close"}, None)
        try:
            (await self._loop.exchange(ping, head, other, traffic)).close()
        except NoHttp:
            if has_no_tls:
                raise speaks_neither(host) from None
            return
        except (NetworkError, ValueError):
            return
        settings = self._settings.host(host)
        if other.tls is not None:
            raise speaks_https(request.url, is_told=bool(settings.plain_http))
        certificates = settings.ca_cert or settings.client_cert or settings.client_key
        raise speaks_http(host, port, has_certificates=bool(certificates) and not settings.is_usual)

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
                tls=self._server_tls(url),
                proxy=proxy,
                proxy_tls=None if proxy is None else self._server_tls(proxy.origin()),
            )
        return route

    def _server_tls(self, url: URL) -> ServerTls | None:
        if url.scheme != "https":
            return None
        host = authority(url)
        tls = self._tls.get(host)
        if tls is None:
            settings = with_certificates(self._settings.host(host), self._settings.certificates, host)
            tls = self._tls[host] = ServerTls(self._context(settings))
        return tls

    def _context(self, settings: HostSettings) -> ssl.SSLContext:
        """The one context for all hosts of the same settings: to load what the system trusts takes tens of ms."""
        settings = HostSettings(
            insecure=settings.insecure,
            ca_cert=settings.ca_cert,
            client_cert=settings.client_cert,
            client_key=settings.client_key,
        )
        context = self._tls_settings.get(settings)
        if context is None:
            context = self._tls_settings[settings] = tls_context(settings)
        return context


def _any_certificate() -> ssl.SSLContext:
    """TLS with a server whose certificate is not looked at, since nothing but a ping is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
