"""The connections to servers: an exchange chooses the route, writes the head, and takes one of the two ways."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

import aiohappyeyeballs
import anyio
import anyio.lowlevel
from msgspec import Struct, field, structs
from yarl import URL

from syncer.errors import Interrupted, NetworkError, Unreachable, Unsafe
from syncer.files import InPlace
from syncer.transport.connecting import Addresses, Found, Idle, Route, ServerTls, is_kept
from syncer.transport.failures import (
    BROKEN,
    Absent,
    CertificateRefused,
    NoHttp,
    NoTls,
    OtherScheme,
    Silent,
    Unanswered,
    failure_of,
    find_dead_peer,
    no_connection,
    no_tunnel,
    speaks_http,
    speaks_https,
    speaks_neither,
)
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.hosts import Meter, Traffic
from syncer.transport.http import Head, request_head
from syncer.transport.loop import Files, Stream
from syncer.transport.message import SMALL, FileBody, Request, Response
from syncer.transport.settings import HostSettings, Limits, TransportSettings, tls_context, with_certificates
from syncer.transport.threads import ThreadWire, wants_thread

_BAD_REQUEST = 400  # by which servers of HTTPS answer HTTP
_PING = URL("http://registry.invalid/v2/")  # of which only the path is sent

_AT_ONCE = 1024 * 1024  # bytes of a body that is sent while the event loop waits

_FEW = 4  # connections to a server, beyond which one is opened only if those do not answer at once
_QUICK = 0.003  # seconds in which they do, on an average
_BUSY = 2  # an answer waits for this process about as long before it is read as after
_NEW = 0.1  # weight of an answer in these averages
_LOOK = 0.01  # seconds in which something must have come
_NEXT_ADDRESS = 0.25  # seconds after which another address is tried beside the first (RFC 8305 §5)

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
        found = self._loop.in_place(request, route)
        try:
            if found is None and wants_thread(request):
                response = await self._threads.exchange(request, head, route, traffic)
            else:
                response = await self._loop.exchange(request, head, route, traffic, found)
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


class Turns(Struct, eq=False):
    """The connections to a server that are in use, and the exchanges that wait for one of them.

    A connection costs both ends a handshake, time and memory.  Where answers come so quickly that a few connections
    keep this process busy, exchanges take turns on them; as soon as that is not so, each opens its own.
    """

    busy: int = 0  # connections in use, and those that are being made
    typical: float = 0.0  # seconds to an answer, lately
    lag: float = 0.0  # seconds of these in which this process did other things
    answers: int = 0
    seen: int = 0  # answers at the last look
    waiting: deque[asyncio.Future[Stream | None]] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None

    @property
    def is_enough(self) -> bool:
        """True while no more connections should be opened."""
        return self.busy >= _FEW and self.typical - _BUSY * self.lag <= _QUICK

    async def turn(self) -> Stream | None:
        """Wait for a connection that becomes free; None when the caller is to open one.  Either is counted as busy."""
        turn: asyncio.Future[Stream | None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        if self.timer is None:
            self._look_later()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and (stream := self.over(turn.result())):
                stream.close()
            raise

    def answered(self, seconds: float, lag: float) -> None:
        """Note the time that an answer took, and the part of it in which it was there already."""
        new = _NEW if self.answers else 1.0
        self.answers += 1
        self.typical += new * (seconds - self.typical)
        self.lag += new * (lag - self.lag)

    def over(self, stream: Stream | None) -> Stream | None:
        """Note that an exchange is over; returns its connection if nobody waits for it."""
        self.busy -= 1
        return None if self._give(stream) else stream

    def _give(self, stream: Stream | None) -> bool:
        """Give a connection to the first that waits, or have it open one for None; False when nobody waits."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                self.busy += 1
                turn.set_result(stream)
                return True
        return False

    def _look_later(self) -> None:
        self.seen = self.answers
        self.timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self.timer = None
        if self.is_enough and self.answers > self.seen:
            if self.waiting:
                self._look_later()
        else:
            while self._give(None):
                pass


class LoopWire:
    """The way for requests, and for small bodies: connections on the event loop."""

    def __init__(self, limits: Limits, addresses: Addresses) -> None:
        self._limits = limits
        self._addresses = addresses
        self._idle: Idle[Stream] = Idle()
        self._turns: dict[Route, Turns] = defaultdict(Turns)
        self._files = Files()

    async def close(self) -> None:
        self._idle.close()
        await anyio.lowlevel.checkpoint()  # the event loop closes the sockets

    def leave(self, host: str) -> None:
        """Close the connections to ``host`` that nobody uses."""
        self._idle.close(host)

    def in_place(self, request: Request, route: Route) -> InPlace | None:
        """The place of a body that is best sent from its file here, at once, since a thread costs more; else None."""
        body = request.body
        if not isinstance(body, FileBody) or body.length > _AT_ONCE or route.is_tls:
            return None
        return body.in_place() if body.is_there and self._files.are_quick else None

    async def exchange(
        self, request: Request, head: bytes, route: Route, traffic: Traffic, found: InPlace | None = None
    ) -> Response:
        """Send ``request`` once; raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        turns = self._turns[route]
        began, queued = time.monotonic(), 0.0
        stream = self._idle.take(route)
        if stream is None and turns.is_enough:
            stream = await turns.turn()
            queued = time.monotonic() - began
        else:
            turns.busy += 1
        is_first = stream is None
        try:
            if stream is None:
                stream = await self._connect(route)
            if queued or is_first:
                traffic.spent.answers += time.monotonic() - began
            answer = await stream.ask(request, head, found, traffic)
        except BaseException as error:
            turns.over(None)
            if stream is not None:
                stream.close()
                if isinstance(error, BROKEN):
                    raise failure_of(error, request) from None
            raise
        turns.answered(stream.answered_in, stream.lag)
        response = _LoopResponse(self, stream, request, answer, traffic)
        response.is_first = is_first
        if (request.length or 0) <= SMALL:  # else the time for what is still on its way is a part of it
            response.waited = queued + stream.answered_in
        return response

    def give(self, stream: Stream) -> None:
        """Take back a connection after its exchange."""
        kept = self._turns[stream.route].over(stream if is_kept(stream) else None)
        if kept is not None:
            self._idle.keep(kept)

    async def probe(self, route: Route) -> None:
        """Make a connection and drop it; raises ``Unreachable``."""
        (await self._connect(route)).close()

    async def _connect(self, route: Route) -> Stream:
        """Make a connection; a server that fails to resume a session is tried once more, without one."""
        resumes = route.resumes
        try:
            return await self._reach(route)
        except Unreachable as error:
            if resumes:
                route.forget_sessions()
            if not resumes or not isinstance(error, CertificateRefused):
                raise
        return await self._reach(route)

    async def _reach(self, route: Route) -> Stream:
        found = await self._addresses.of(route)
        connected: socket.socket | None = None
        stream: Stream | None = None
        try:
            async with asyncio.timeout(self._limits.connect):
                connected = await self._dial(route, found)
                stream = await self._open(route, connected)
                if route.is_tunnel:
                    await stream.tunnel()
        except BaseException as error:
            if stream is not None:
                stream.close()
            if isinstance(error, TimeoutError):
                if stream is not None:
                    raise route.tunnel_failure(error) from None
                raise route.failure(error if connected is None else Silent()) from None
            if isinstance(error, OSError):
                raise no_connection(error, authority(route.url)) from None
            raise
        return stream

    async def _dial(self, route: Route, found: Sequence[Found]) -> socket.socket:
        try:
            return await aiohappyeyeballs.start_connection(route.allowed(found), happy_eyeballs_delay=_NEXT_ADDRESS)
        except OSError as error:
            raise route.failure(error) from None

    async def _open(self, route: Route, connected: socket.socket) -> Stream:
        tls = route.first_tls
        try:
            _, stream = await asyncio.get_running_loop().create_connection(
                lambda: Stream(route, self._files),
                sock=connected,
                ssl=tls,
                server_hostname=route.place.raw_host if tls else None,
            )
        except OSError as error:
            raise route.failure(error) from None
        find_dead_peer(connected)
        return stream


class _LoopResponse(Response):
    """An answer on a connection of the event loop."""

    def __init__(self, wire: LoopWire, stream: Stream, request: Request, head: Head, traffic: Traffic) -> None:
        super().__init__(request, head.status, head.headers)
        self._wire: LoopWire | None = wire
        self._stream = stream
        self._patience = request.body_patience(traffic.limits)
        self._meter = Meter(request, traffic)

    @property
    def scope(self) -> Scope:
        return self._stream.route.scope(self._stream.peer)

    async def piece(self) -> bytes:
        began = time.monotonic()
        try:
            piece = await self._stream.piece(self._patience)
        except BROKEN as error:
            raise failure_of(error, self.request) from None
        if piece and (wait := self._meter.came(len(piece), time.monotonic() - began)):
            await anyio.sleep(wait)
        return piece

    def release(self) -> None:
        if self._wire is not None:
            self._wire.give(self._stream)
            self._wire = None
