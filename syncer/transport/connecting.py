"""The way to a server: its addresses, its proxy, TLS, and the idle connections to it."""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import anyio
from msgspec import Struct, structs
from yarl import URL

from syncer.errors import NetworkError, Unreachable, UsageError
from syncer.transport.failures import OutOfReach, no_connection, no_tunnel
from syncer.transport.guard import Address, Scope, authority
from syncer.transport.http import AnswerParser, NotHTTP, request_head
from syncer.transport.settings import HostSettings

Found: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""An address as ``getaddrinfo`` gives it."""

_KEPT = 60.0  # seconds
_IDLE = 15.0  # seconds after which a connection may have been closed by the other end

_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, and how many
_UNACKNOWLEDGED = 50_000  # milliseconds

_RECORD = 16 * 1024  # bytes that TLS puts into one record at most
_RECEIVED = 64 * 1024

T = TypeVar("T")


class Addresses:
    """The addresses of hosts, looked up once a minute."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], tuple[float, Sequence[Found]]] = {}

    async def of(self, route: Route) -> Sequence[Found]:
        """The addresses of the host that ``route`` connects to; raises ``Unreachable``."""
        key = route.place.raw_host or "", route.place.port
        until, found = self._known.get(key, (0.0, ()))
        if until < time.monotonic():
            try:
                found = await anyio.getaddrinfo(key[0], key[1], type=socket.SOCK_STREAM)
            except OSError as error:
                raise route.failure(error) from None
            self._known[key] = time.monotonic() + _KEPT, found
        return found


def within_reach(found: Sequence[Found], reach: Scope | None) -> Sequence[Found]:
    """The addresses that are not nearer than ``reach``; raises ``OutOfReach`` when there are none of these.

    The check is made on the address of the connection, so that no name can avoid it.
    """
    allowed = [address for address in found if reach is None or scope_of(str(address[4][0])) <= reach]
    if found and not allowed:
        raise OutOfReach
    return allowed


def scope_of(address: str) -> Scope:
    return Scope.of(_parsed(address))


@lru_cache(maxsize=1024)
def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])


class Route(Struct, frozen=True, kw_only=True, eq=False):
    """The way to a server: direct or through a proxy, and with TLS to the server, the proxy or both.

    The proxy passes on a request for plain HTTP; a request for HTTPS goes through a tunnel that the proxy opens.
    """

    url: URL  # of the server's origin
    reach: Scope | None  # how near its address may be; None: where the user said
    context: ssl.SSLContext | None  # for the server; None: plain HTTP
    proxy: URL | None = None
    proxy_context: ssl.SSLContext | None = None

    @property
    def place(self) -> URL:
        """The server that a connection is made to: the proxy, if there is one."""
        return self.url if self.proxy is None else self.proxy.origin()

    @property
    def first_context(self) -> ssl.SSLContext | None:
        """The TLS settings for ``place``; None for a connection without TLS."""
        return self.context if self.proxy is None else self.proxy_context

    @property
    def is_tunnel(self) -> bool:
        return self.proxy is not None and self.context is not None

    @property
    def is_tls(self) -> bool:
        """True when the connection has TLS, so that the kernel cannot send from or receive into buffers directly."""
        return self.context is not None or self.proxy_context is not None

    @property
    def login(self) -> str | None:
        """The ``Proxy-Authorization`` for the proxy: of the tunnel where there is one, else of each request."""
        if self.proxy is None or self.proxy.user is None:
            return None
        login = f"{self.proxy.user}:{self.proxy.password or ''}"
        return f"Basic {base64.b64encode(login.encode()).decode()}"

    def target(self, url: URL) -> str:
        """The address of ``url`` in the first line of a request (RFC 9112 §3.2)."""
        if self.proxy is None or self.is_tunnel:
            return url.raw_path_qs
        return f"{url.scheme}://{authority(url)}{url.raw_path_qs}"

    def tunnel_head(self) -> bytes:
        """The request for a tunnel."""
        host = self.url.raw_host or ""
        target = f"[{host}]:{self.url.port}" if ":" in host else f"{host}:{self.url.port}"
        login = {"Proxy-Authorization": self.login} if self.login else {}
        return request_head("CONNECT", target, {"Host": target, **login}, None)

    def check_tunnel(self, answer: AnswerParser) -> None:
        """Raise ``Unreachable`` unless the proxy opened the tunnel, with any 2xx (RFC 9110 §9.3.6)."""
        assert answer.head is not None
        proxy, host = authority(self.place), authority(self.url)
        if answer.head.status >= 300:
            raise no_tunnel(answer.head.status, proxy, host)
        if answer.has_overrun:  # the server speaks second in TLS
            raise no_tunnel(NotHTTP(), proxy, host)

    def scope(self, peer: str) -> Scope:
        """The scope of the server at ``peer``; behind a proxy, which is the peer, the scope of the URL's host."""
        return scope_of(peer) if self.proxy is None else Scope.of_host(self.url.host or "") or Scope.PUBLIC

    def allowed(self, found: Sequence[Found]) -> Sequence[Found]:
        """The addresses that may be connected to; raises ``OutOfReach``.  A proxy may be anywhere."""
        return within_reach(found, self.reach if self.proxy is None else None)

    def failure(self, error: OSError) -> NetworkError:
        """The error for a connection to ``place`` that could not be made."""
        return no_connection(error, authority(self.place), is_proxy=self.proxy is not None)

    def tunnel_failure(self, error: Exception) -> Unreachable:
        """The error for a request for a tunnel that broke off."""
        return no_tunnel(error, authority(self.place), authority(self.url))


def find_dead_peer(connected: socket.socket) -> None:
    """Have the system end a connection whose other end is gone, within a minute, however long an answer may take."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_PROBES, "TCP_USER_TIMEOUT": _UNACKNOWLEDGED}.items():
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


class Connection(Protocol):
    """A connection that carries one exchange after the other."""

    route: Route
    idle_since: float  # monotonic

    @property
    def is_reusable(self) -> bool:
        """True when the last exchange is over, and another one may follow."""
        ...

    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


class Idle(Generic[C]):
    """The connections that wait for their next exchange; there are at most as many as requests at a time."""

    def __init__(self) -> None:
        self._by_route: dict[Route, list[C]] = {}

    def take(self, route: Route) -> C | None:
        """Take the connection that was used last, if one can be used again."""
        waiting = self._by_route.get(route, [])
        while waiting:
            connection = waiting.pop()
            if connection.is_reusable and time.monotonic() - connection.idle_since < _IDLE:
                return connection
            connection.close()
        return None

    def give(self, connection: C) -> None:
        """Keep a connection that an exchange is done with, or close it."""
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._by_route.setdefault(connection.route, []).append(connection)
        else:
            connection.close()

    def close(self, host: str | None = None) -> None:
        """Close those to ``host``, or all."""
        for route in [route for route in self._by_route if host is None or authority(route.url) == host]:
            for connection in self._by_route.pop(route):
                connection.close()


def tls_context(settings: HostSettings) -> ssl.SSLContext:
    """TLS 1.2 or later with the system's trust (and ``SSL_CERT_FILE``) plus the host's own CA.

    Raises ``UsageError`` for a certificate or key that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ca_cert:
        _load(settings.ca_cert, "certificate authority", lambda: context.load_verify_locations(settings.ca_cert))
    if settings.client_cert:
        certificate, key = settings.client_cert, settings.client_key
        _load(certificate, "client certificate", lambda: context.load_cert_chain(certificate, key))
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def with_certificates(settings: HostSettings, directories: Iterable[Path], host: str) -> HostSettings:
    """``settings`` with the files in ``DIRECTORY/HOST/``: ``*.crt`` is trusted, ``*.cert`` with its ``*.key`` is shown.

    The layout is that of ``/etc/docker/certs.d`` (containers-certs.d(5)).  Settings of the user take precedence.
    """
    for directory in directories:
        files = sorted((directory / host).glob("*")) if (directory / host).is_dir() else []
        for file in files:
            if file.suffix == ".crt" and settings.ca_cert is None:
                settings = structs.replace(settings, ca_cert=file)
            elif file.suffix == ".cert" and settings.client_cert is None:
                settings = structs.replace(settings, client_cert=file, client_key=file.with_suffix(".key"))
    return settings


def _load(path: Path, what: str, load: object) -> None:
    assert callable(load)
    try:
        load()
    except FileNotFoundError:
        raise UsageError(f"the {what} {path} (or its key) is not there") from None
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the {what} {path} cannot be used: {error}", hint="it must be a PEM file") from None


class TlsInTls:
    """The methods of a socket that a connection needs; they raise the same errors as those of ``outer``.

    ``ssl`` can wrap only sockets, so the records of the inner TLS go through two buffers.
    """

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str | None) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def do_handshake(self) -> None:
        self._carry(self._tls.do_handshake)

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``, and return the number of bytes."""
        return self._carry(self._tls.write, memoryview(data)[:_RECORD])

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest) :]

    def recv(self, size: int) -> bytes:
        """Receive at most ``size`` bytes; none at the end, even if TLS does not announce it, as in ``ssl``."""
        try:
            return self._carry(self._tls.read, size)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def recv_into(self, buffer: memoryview) -> int:
        """Receive into ``buffer``, and return the number of bytes; 0 at the end, as with ``recv``."""
        read: Callable[[int, memoryview], Any] = self._tls.read
        try:
            return int(self._carry(read, len(buffer), buffer))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0

    def settimeout(self, seconds: float | None) -> None:
        self._outer.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        self._outer.shutdown(how)

    def close(self) -> None:
        self._outer.close()

    def _carry(self, step: Callable[..., T], *arguments: Any) -> T:
        """Do a step of the inner TLS, and exchange as many records with the other end as it needs."""
        while True:
            try:
                done = step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                if piece := self._outer.recv(_RECEIVED):
                    self._incoming.write(piece)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                self._flush()  # an alert says why
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._outer.sendall(self._outgoing.read())
