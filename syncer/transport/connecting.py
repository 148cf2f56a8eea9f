"""The way to a server: its addresses, its proxy, TLS, and the idle connections to it."""

from __future__ import annotations

import base64
import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import anyio
from msgspec import Struct
from yarl import URL

from syncer.errors import NetworkError, Unreachable
from syncer.transport.failures import OutOfReach, end_after, no_connection, no_tunnel
from syncer.transport.guard import Scope, authority, scope_of
from syncer.transport.http import AnswerParser, NotHTTP, request_head
from syncer.transport.settings import IN_KERNEL

Found: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""An address as ``getaddrinfo`` gives it."""

_KEPT = 60.0  # seconds
_YOUNG = 60.0  # seconds for which a session is not replaced
_IDLE = 15.0  # seconds after which a connection may have been closed by the other end

_RECEIVED = _SENT = 64 * 1024  # bytes at a time, of a stream of records
_SOL_TLS, _TLS_TX = 282, 1  # of <linux/socket.h> and <linux/tls.h>
A_MOMENT = 0.001
"""Seconds of the shortest timeout; none at all would mean never to wait."""

T = TypeVar("T")

_TURNS: SimpleQueue[None] = SimpleQueue()  # of threads that receive TLS: more at once are slower (benchmarks/README.md)
for _ in range(min(4, os.cpu_count() or 1)):
    _TURNS.put(None)


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
        return any(tls.has_session for tls in (self.tls, self.proxy_tls) if tls)

    def forget_sessions(self) -> None:
        """Resume no session any more; see ``ServerTls``."""
        for tls in filter(None, (self.tls, self.proxy_tls)):
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
        """The addresses that may be connected to; raises ``OutOfReach`` when none may.  A proxy may be anywhere.

        The check is made on the address of the connection, so that no name can avoid it.
        """
        reach = self.reach if self.proxy is None else None
        allowed = [address for address in found if reach is None or scope_of(str(address[4][0])) <= reach]
        if found and not allowed:
            raise OutOfReach
        return allowed

    def failure(self, error: OSError) -> NetworkError:
        """The error for a connection to ``place`` that could not be made."""
        return no_connection(error, authority(self.place), is_proxy=self.proxy is not None)

    def tunnel_failure(self, error: Exception) -> Unreachable:
        """The error for a request for a tunnel that broke off."""
        return no_tunnel(error, authority(self.place), authority(self.url))


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

    def over(self, connected: socket.socket, host: str | None) -> ssl.SSLSocket:
        """Likewise a connection over a socket, without its handshake."""
        return self._settings.wrap_socket(
            connected, server_hostname=host, do_handshake_on_connect=False, session=self._session
        )

    def keep_session(self, tls: ssl.SSLObject | ssl.SSLSocket) -> None:
        """Keep the session of a connection that has been used, unless there is a young one: that takes a while."""
        now = time.monotonic()
        if now < self._renew_at or self._has_failed:
            return
        self._renew_at = now + _YOUNG
        session = tls.session
        if session is not None and (session.has_ticket or session.id):
            self._session = session

    def forget(self, *, was_in_kernel: bool = False) -> None:
        """Offer no session any more, since TLS has failed; and let the kernel do none of it any more, if it did."""
        self._session, self._has_failed = None, True
        self._settings.options &= ~(IN_KERNEL if was_in_kernel else 0)


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


class TlsSocket:
    """TLS over a blocking socket, with the methods of a socket that a connection needs.

    It is ``ssl.SSLSocket``, which receives a record of 16 KiB at a time and lets go of the interpreter for each.
    Threads take turns, or they would fight for the interpreter; none keeps its turn while it waits for the network.
    """

    sends_files = False
    """True when the kernel encrypts, with the keys that OpenSSL gave it: then it can also send from files."""

    def __init__(self, connected: socket.socket, tls: ServerTls, host: str | None) -> None:
        self._server = tls
        self._tls = tls.over(connected, host)
        self._arrivals = select.poll()
        self._arrivals.register(self._tls, select.POLLIN)
        self._timeout = self._receiving = self._sending = connected.gettimeout()  # seconds
        self._failure: OSError | None = None  # that came after bytes which were handed out first
        self._has_ended = False

    def handshake(self, deadline: float) -> None:
        """Agree on keys until ``deadline`` (monotonic); raises ``TimeoutError``."""
        self.settimeout(max(A_MOMENT, deadline - time.monotonic()))
        self._do(self._sending, self._tls.do_handshake)
        with suppress(OSError):  # which says that the kernel has no keys
            self.sends_files = bool(self._tls.getsockopt(_SOL_TLS, _TLS_TX, 4))  # version and cipher, but no key

    def fileno(self) -> int:
        """The descriptor through which the kernel sends from files, until the timeout."""
        self._within(None)
        return self._tls.fileno()

    def keep_session(self) -> None:
        """Keep the session for the next connection to the server."""
        self._server.keep_session(self._tls)

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``, and return the number of bytes."""
        return self._do(self._sending, self._tls.send, memoryview(data)[:_SENT])

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of ``data``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest) :]

    def recv(self, size: int) -> bytes:
        """Receive at most ``size`` bytes; none at the end, even if TLS does not announce it, as in ``ssl``."""
        return self._do(self._receiving, self._tls.recv, size)

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:  # noqa: ARG002  it waits for all
        """Receive ``size`` bytes into ``buffer``, or those that come within the timeout, and return the number.

        It is 0 at the end, as with ``recv``; bytes before an error are returned first.
        """
        if self._failure is not None:
            raise self._failure
        rest = wanted = buffer[:size] if size else buffer
        until = time.monotonic() + (self._receiving or math.inf)
        read: Callable[[int, memoryview], Any] = self._tls.read
        self._within(0.0)
        _TURNS.get()
        try:
            while rest and not self._has_ended:
                try:
                    received = read(len(rest), rest)
                except ssl.SSLWantReadError:
                    self._await(until)
                else:
                    rest, self._has_ended = rest[received:], not received
        except OSError as error:
            self._note(error)
            if len(rest) == len(wanted):
                raise
            self._failure = None if isinstance(error, TimeoutError) else error
        finally:
            _TURNS.put(None)
        return len(wanted) - len(rest)

    def _await(self, until: float) -> None:
        """Give up the turn until more has come; raises ``TimeoutError`` at ``until`` (monotonic)."""
        _TURNS.put(None)
        try:
            left = until - time.monotonic()
            if left <= 0 or not self._arrivals.poll(None if left == math.inf else 1000 * left):
                raise TimeoutError
        finally:
            _TURNS.get()

    def settimeout(self, seconds: float | None) -> None:
        """Set the timeout of both directions; see ``limit``."""
        self._receiving = self._sending = seconds

    def limit(self, seconds: float, *, is_sending: bool) -> None:
        """Let an operation in one direction end after ``seconds``, by ``TimeoutError``."""
        if is_sending:
            self._sending = seconds
            end_after(seconds, self._tls, is_sending=True)  # of files
        else:
            self._receiving = seconds

    def shutdown(self, how: int) -> None:
        """End what another thread waits for."""
        socket.socket.shutdown(self._tls, how)  # that of ``ssl`` would take away what the thread works with

    def close(self) -> None:
        self._tls.close()

    def _within(self, seconds: float | None) -> None:
        if seconds != self._timeout:
            self._timeout = seconds
            self._tls.settimeout(seconds)

    def _do(self, seconds: float | None, step: Callable[..., T], *arguments: Any) -> T:
        self._within(seconds)
        try:
            return step(*arguments)
        except OSError as error:
            self._note(error)
            raise

    def _note(self, error: OSError) -> None:
        """Offer no session to the server again if TLS itself failed."""
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            self._server.forget(was_in_kernel=self.sends_files)


class NestedTls(TlsSocket):
    """TLS over TLS to a proxy, as ``TlsSocket``.

    ``BlockingIOError`` says that what came is no whole record yet.
    """

    def __init__(self, outer: TlsSocket, tls: ServerTls, host: str | None) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._server = tls
        self._nested = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self, deadline: float) -> None:
        """Agree on keys until ``deadline`` (monotonic); raises ``TimeoutError``."""
        while (left := deadline - time.monotonic()) > 0:
            self._outer.settimeout(left)
            with suppress(BlockingIOError):
                self._carry(self._nested.do_handshake)
                self._flush()
                return
        raise TimeoutError

    def keep_session(self) -> None:
        """Keep the session for the next connection to the server, and likewise that with the proxy."""
        self._server.keep_session(self._nested)
        self._outer.keep_session()

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``, and return the number of bytes."""
        sent = self._carry(self._nested.write, memoryview(data)[:_SENT])
        self._flush()
        return sent

    def recv(self, size: int) -> bytes:
        """Receive at most ``size`` bytes; none at the end, even if TLS does not announce it, as in ``ssl``."""
        try:
            return self._carry(self._nested.read, size)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:  # noqa: ARG002  a record at a time
        """Receive at most ``size`` bytes into ``buffer``, and return the number; 0 at the end, as with ``recv``."""
        piece = self.recv(size or len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def settimeout(self, seconds: float | None) -> None:
        self._outer.settimeout(seconds)

    def limit(self, seconds: float, *, is_sending: bool) -> None:
        self._outer.limit(seconds, is_sending=is_sending)

    def shutdown(self, how: int) -> None:
        """End what another thread waits for."""
        self._outer.shutdown(how)

    def close(self) -> None:
        self._outer.close()

    def _refill(self) -> None:
        self._flush()
        if piece := self._outer.recv(_RECEIVED):
            self._incoming.write(piece)
        else:
            self._incoming.write_eof()

    def _carry(self, step: Callable[..., T], *arguments: Any) -> T:
        """Do a step of TLS, for which the other end may have to send something first."""
        try:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._refill()
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
