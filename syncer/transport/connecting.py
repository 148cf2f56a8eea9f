"""The way to a server: its addresses, its proxy, TLS, and the idle connections to it."""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import anyio
from msgspec import Struct
from yarl import URL

from syncer.errors import NetworkError, Unreachable, UsageError
from syncer.files import PEM, show_certificate
from syncer.transport.failures import OutOfReach, no_connection, no_tunnel
from syncer.transport.guard import Address, Scope, authority
from syncer.transport.http import AnswerParser, NotHTTP, request_head
from syncer.transport.settings import HostSettings

Found: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""An address as ``getaddrinfo`` gives it."""

_KEPT = 60.0  # seconds
_YOUNG = 60.0  # seconds for which a session is not replaced
_IDLE = 15.0  # seconds after which a connection may have been closed by the other end

_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, and how many
_UNACKNOWLEDGED = 50_000  # milliseconds

_RECORD = 16 * 1024  # bytes that TLS puts into one record at most
_RECEIVED = 64 * 1024  # bytes at a time, where nobody knows how many come
_KNOWN_TO_COME = 128 * 1024  # bytes at a time otherwise; with more the cache of a core would be too small
_ENCRYPTED = 64 * 1024  # bytes at a time
_DECRYPTING = threading.Lock()  # ssl lets go of the interpreter for each record; threads would fight for it

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
    tls: ServerTls | None  # with the server; None: plain HTTP
    proxy: URL | None = None
    proxy_tls: ServerTls | None = None

    @property
    def place(self) -> URL:
        """The server that a connection is made to: the proxy, if there is one."""
        return self.url if self.proxy is None else self.proxy.origin()

    @property
    def first_tls(self) -> ServerTls | None:
        """TLS with ``place``; None for a connection without it."""
        return self.tls if self.proxy is None else self.proxy_tls

    @property
    def is_tunnel(self) -> bool:
        return self.proxy is not None and self.tls is not None

    @property
    def is_tls(self) -> bool:
        """True when the connection has TLS, so that the kernel cannot send from or receive into buffers directly."""
        return self.tls is not None or self.proxy_tls is not None

    @property
    def resumes(self) -> bool:
        """True when the next connection offers to resume a session."""
        return any(tls is not None and tls.has_session for tls in (self.tls, self.proxy_tls))

    def forget_sessions(self) -> None:
        """Resume no session any more; see ``ServerTls``."""
        for tls in (self.tls, self.proxy_tls):
            if tls is not None:
                tls.forget()

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


class ServerTls(ssl.SSLContext):
    """TLS with one server: settings, which several servers may share, and the session for its next connection.

    It is a context because that is what an event loop takes, of which it calls ``wrap_bio``.  A connection that resumes
    a session (RFC 8446 §2.2) saves the certificates and their check, and with TLS 1.2 a round trip.  The server proves
    by it that it is the one whose certificate was accepted before, so a session is offered to no other name, port or
    proxy, under no other settings, and in no other run; and to no server with which TLS has failed since (§6), some of
    which can go on with none.  All connections may resume the same one.  Who listens can tell by that that they belong
    together (§C.4), as by their addresses.
    """

    def __new__(cls, _: ssl.SSLContext) -> Self:
        """A context that itself accepts no certificate, since it is the other one that is used."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, settings: ssl.SSLContext) -> None:
        self._settings = settings
        self._session: ssl.SSLSession | None = None
        self._renew_at = 0.0  # monotonic
        self._has_failed = False

    @property
    def has_session(self) -> bool:
        """True when the next connection offers a session."""
        return self._session is not None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """A connection that resumes the last session, if there is one."""
        return self._settings.wrap_bio(incoming, outgoing, server_side, server_hostname, session or self._session)

    def keep_session(self, tls: ssl.SSLObject) -> None:
        """Keep the session of a connection that has been used, unless there is a young one: that takes a while."""
        now = time.monotonic()
        if now < self._renew_at or self._has_failed:
            return
        self._renew_at = now + _YOUNG
        session = tls.session
        if session is not None and (session.has_ticket or session.id):
            self._session = session

    def forget(self) -> None:
        """Offer no session any more, since TLS has failed."""
        self._session, self._has_failed = None, True


class Connection(Protocol):
    """A connection that carries one exchange after the other."""

    route: Route
    idle_since: float  # monotonic; 0 before the first exchange is over

    @property
    def is_reusable(self) -> bool:
        """True when the last exchange is over, and another one may follow."""
        ...

    def keep_session(self) -> None:
        """Keep the TLS sessions for the connections to come."""
        ...

    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


def is_kept(connection: Connection) -> bool:
    """Tell whether a connection that an exchange is done with can be used again; else it is closed."""
    if not connection.idle_since:
        connection.keep_session()
    if not connection.is_reusable:
        connection.close()
        return False
    connection.idle_since = time.monotonic()
    return True


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
        if is_kept(connection):
            self.keep(connection)

    def keep(self, connection: C) -> None:
        """Keep a connection that can be used again."""
        self._by_route.setdefault(connection.route, []).append(connection)

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
        _trust(context, settings.ca_cert)
    if settings.client_cert:
        show_certificate(context, settings.client_cert, settings.client_key)
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    told = f"the certificate authority {authority}"
    try:
        context.load_verify_locations(authority)
    except FileNotFoundError:
        raise UsageError(f"{told} is not there") from None
    except ssl.SSLError:
        raise UsageError(f"{told} cannot be used: it holds no sound certificate", hint=PEM) from None
    except OSError as error:
        raise UsageError(f"{told} cannot be used: {error.strerror or error}", hint=PEM) from None


class TlsSocket:
    """TLS over a blocking socket, or over TLS to a proxy, with the methods of a socket that a connection needs.

    Records go through two buffers, so that one system call brings or sends many of them: ``ssl.SSLSocket`` makes two,
    and works out how much of its timeout is left, for each record of 16 KiB.  The errors are those of ``outer``, with
    its timeouts, and of ``ssl``; ``BlockingIOError`` says that what came is no whole record yet.
    """

    def __init__(self, outer: socket.socket | TlsSocket, tls: ServerTls, host: str | None) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._server = tls
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = memoryview(b"")  # records
        self._owed = 0  # bytes in them

    def handshake(self, deadline: float) -> None:
        """Agree on keys until ``deadline`` (monotonic); raises ``TimeoutError``."""
        while (left := deadline - time.monotonic()) > 0:
            self._outer.settimeout(left)
            with suppress(BlockingIOError):
                self._carry(self._tls.do_handshake)
                self._flush()
                return
        raise TimeoutError

    def keep_session(self) -> None:
        """Keep the session for the next connection to the server, and likewise that with the proxy."""
        self._server.keep_session(self._tls)
        if isinstance(self._outer, TlsSocket):
            self._outer.keep_session()

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``, and return the number of bytes; the next call must go on with the rest.

        None are told of while only what TLS adds to them has gone.
        """
        if not self._unsent:
            self._owed = self._carry(self._tls.write, memoryview(data)[:_ENCRYPTED])
            self._unsent = memoryview(self._outgoing.read())
        self._unsent = self._unsent[(sent := self._outer.send(self._unsent)) :]
        went = min(sent, self._owed - 1) if self._unsent else self._owed
        self._owed -= went
        return went

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of ``data``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest) :]

    def recv(self, size: int) -> bytes:
        """Receive at most ``size`` bytes; none at the end, even if TLS does not announce it, as in ``ssl``."""
        try:
            return self._carry(self._tls.read, size)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:
        """Receive up to ``size`` bytes into ``buffer``, and return the number; 0 at the end, as with ``recv``.

        With ``MSG_WAITALL`` so many are known to come.
        """
        wanted = buffer[:size] if size else buffer
        if (count := self._decrypt_into(wanted)) is None:
            self._refill(wanted if flags & socket.MSG_WAITALL else None)
            count = self._decrypt_into(wanted)
        if count is None:
            raise BlockingIOError
        return count

    def settimeout(self, seconds: float | None) -> None:
        """Set the timeout of the socket."""
        self._outer.settimeout(seconds)

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Set an option of the socket."""
        self._outer.setsockopt(level, option, value)

    def shutdown(self, how: int) -> None:
        """End what another thread waits for."""
        self._outer.shutdown(how)

    def close(self) -> None:
        self._outer.close()

    def _decrypt_into(self, buffer: memoryview) -> int | None:
        """Decrypt the records that are there, as far as they fit; None when there is none."""
        read: Callable[[int, memoryview], Any] = self._tls.read
        count = 0
        try:
            with _DECRYPTING:
                while count < len(buffer) and (size := int(read(len(buffer) - count, buffer[count:]))):
                    count += size
        except ssl.SSLWantReadError:
            return count or None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return count
        except ssl.SSLError:
            self._fail()
            raise
        return count

    def _refill(self, room: memoryview | None) -> None:
        """Receive records, in one go; if bytes that fill ``room`` are to come, wait for those, and use it for them.

        All of what is still to come is at least as long as they are, but for a record that OpenSSL has a part of.
        """
        self._flush()
        piece: bytes | memoryview
        if room is not None and (sure := len(room) - _RECORD) > _RECORD:
            piece = room[: self._outer.recv_into(room, min(sure, _KNOWN_TO_COME), socket.MSG_WAITALL)]
        else:
            piece = self._outer.recv(_RECEIVED)
        if piece:
            self._incoming.write(piece)
        else:
            self._incoming.write_eof()

    def _carry(self, step: Callable[..., T], *arguments: Any) -> T:
        """Do a step of TLS, for which the other end may have to send something first."""
        try:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._refill(None)
                return step(*arguments)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError:
            self._fail()
            raise

    def _fail(self) -> None:
        """Tell the other end by an alert what is wrong."""
        self._server.forget()
        with suppress(OSError):
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._outer.sendall(self._outgoing.read())
