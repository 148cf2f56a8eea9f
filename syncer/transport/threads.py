"""Large bodies by blocking sockets in worker threads.

Reading, hashing and writing a large blob in one thread costs a third less CPU than taking it through the
event loop, carries TLS better and uses every core (benchmarks/README.md).  Only the bytes go this way:
credentials, redirects, retries and pauses are the transport's, whichever way an answer came.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import to_thread
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from syncer.errors import Interrupted
from syncer.transport.failures import OutOfReach, failure_of, no_connection
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.message import Request, Sink
from syncer.transport.settings import Limits
from syncer.transport.traffic import Traffic

T = TypeVar("T")

PIECE = 512 * 1024
"""Bytes that are read before they are hashed and written; what a killed build may lose of each large blob."""

_IDLE = 15.0  # seconds after which a connection may have been closed by the other end


class ThreadedWire:
    """Connections that block, kept for the next body from the same server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle: dict[tuple[object, Scope | None], list[_Connection]] = {}
        self._threads = anyio.CapacityLimiter(limits.requests_per_host)

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.inner.close()
        self._idle.clear()

    async def exchange(
        self, request: Request, headers: dict[str, str], context: ssl.SSLContext | None, traffic: Traffic
    ) -> ThreadedResponse:
        """Send ``request``, which has no body, once; raises as ``Wire.exchange``."""
        connection = self._take(request) or _Connection(request, context, self._limits)
        try:
            answer = await self.run(connection, lambda: connection.ask(request, headers))
        except BaseException:
            connection.inner.close()
            raise
        return ThreadedResponse(self, connection, request, answer, traffic)

    async def run(self, connection: _Connection, work: Callable[[], T]) -> T:
        """``work`` in a thread.  A cancellation breaks the connection, which ends the work soon; it is waited for,
        since what it writes to must not be closed under it.
        """
        outcome: list[T | Exception] = []

        def attempt() -> None:
            try:
                outcome.append(work())
            except Exception as error:  # noqa: BLE001  raised again below, past the task group
                outcome.append(error)

        async def break_off() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                if not outcome:
                    connection.abort()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(break_off)
            await to_thread.run_sync(attempt, limiter=self._threads)
            tasks.cancel_scope.cancel()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def keep(self, connection: _Connection) -> None:
        """Take back a connection whose answer was read to its end."""
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.key, []).append(connection)

    def _take(self, request: Request) -> _Connection | None:
        idle = self._idle.get((origin(request.url), request.reach), [])
        while idle:
            connection = idle.pop()
            if time.monotonic() - connection.idle_since < _IDLE:
                return connection
            connection.inner.close()
        return None


@dataclass(slots=True, eq=False)
class _Connection:
    """One socket; its methods block."""

    request: Request
    context: ssl.SSLContext | None
    limits: Limits
    inner: http.client.HTTPConnection = field(init=False)
    peer: str = ""
    idle_since: float = 0.0

    def __post_init__(self) -> None:
        self.inner = http.client.HTTPConnection(self.request.url.raw_host or "", self.request.url.port)

    @property
    def key(self) -> tuple[object, Scope | None]:
        return origin(self.request.url), self.request.reach

    def ask(self, request: Request, headers: dict[str, str]) -> http.client.HTTPResponse:
        """The head of the answer to ``request``."""
        if self.inner.sock is None:
            self._connect(request.url)
        try:
            self.inner.sock.settimeout(request.patience or self.limits.idle)
            self.inner.request(
                request.method, request.url.raw_path_qs, headers={"Host": authority(request.url), **headers}
            )
            return self.inner.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise failure_of(error, request) from error

    def abort(self) -> None:
        """End whatever the connection is waiting for."""
        if self.inner.sock is not None:
            with suppress(OSError):  # it may have ended already
                self.inner.sock.shutdown(socket.SHUT_RDWR)

    def _connect(self, url: URL) -> None:
        host = authority(url)
        try:
            self.inner.sock = self._socket(url)
            self.inner.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer = self.inner.sock.getpeername()[0]
            if self.context is not None:
                self.inner.sock = self.context.wrap_socket(self.inner.sock, server_hostname=url.raw_host)
        except OSError as error:
            raise no_connection(error, host) from error

    def _socket(self, url: URL) -> socket.socket:
        """A connection to the first address of the host that answers, and that we may go to."""
        failure: OSError = OSError("it has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM):
            reach = self.request.reach
            if reach is not None and Scope.of(ipaddress.ip_address(str(address[0]).partition("%")[0])) > reach:
                raise OutOfReach
            connected = socket.socket(family, kind, protocol)
            connected.settimeout(self.limits.connect)
            try:
                connected.connect(address)
            except OSError as error:
                connected.close()
                failure = error
            else:
                return connected
        raise failure


class ThreadedResponse:
    """An answer whose body is taken in a worker thread; otherwise as ``wire.Response``."""

    def __init__(
        self,
        wire: ThreadedWire,
        connection: _Connection,
        request: Request,
        answer: http.client.HTTPResponse,
        traffic: Traffic,
    ) -> None:
        self.request = request
        self.status = answer.status
        self.headers = CIMultiDictProxy(CIMultiDict(answer.getheaders()))
        self._wire = wire
        self._connection = connection
        self._answer = answer
        self._traffic = traffic

    @property
    def scope(self) -> Scope:
        return Scope.of(ipaddress.ip_address(self._connection.peer.partition("%")[0]))

    async def piece(self) -> bytes:
        """The next bytes of the body, for who does not pour it."""
        return await self._wire.run(self._connection, self._piece)

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """At most ``limit`` bytes of the body, and whether that was all of it."""
        content = b""
        while len(content) <= limit and (piece := await self.piece()):
            content += piece
        return content[:limit], len(content) <= limit

    async def pour(self, sink: Sink) -> None:
        """Give the whole body to ``sink``, piece by piece, in a worker thread.

        Raises ``Interrupted`` when it breaks off or all but stands still, and whatever ``sink`` raises.
        """
        await self._wire.run(self._connection, lambda: self._pour(sink))

    def close(self) -> None:
        """Free the connection; it is kept only if the answer was read to its end."""
        if self._answer.isclosed() and not self._answer.will_close:
            self._wire.keep(self._connection)
        else:
            self._connection.inner.close()
            self._answer.close()

    def _pour(self, sink: Sink) -> None:
        buffer = memoryview(bytearray(PIECE))
        limits = self._connection.limits
        began, moved = time.monotonic(), 0
        while count := self._fill(buffer):
            sink(buffer[:count])
            moved += count
            if (waited := time.monotonic() - began) >= limits.window:
                if moved < limits.slowest * waited:
                    raise Interrupted(f"{self.request}: less than {limits.slowest} bytes a second come in")
                began, moved = time.monotonic(), 0

    def _piece(self) -> bytes:
        buffer = bytearray(64 * 1024)
        return bytes(buffer[: self._fill(memoryview(buffer))])

    def _fill(self, buffer: memoryview) -> int:
        try:
            count = self._answer.readinto(buffer)
        except (http.client.HTTPException, OSError) as error:
            raise failure_of(error, self.request) from error
        self._traffic.bytes_in += count
        return count
