"""Large bodies by blocking sockets in worker threads.

Reading, hashing and writing a large blob in one thread costs a third less CPU than taking it through the
event loop, carries TLS better and uses every core (benchmarks/README.md).  Only the bytes go this way:
credentials, redirects, retries and pauses are the transport's, whichever way an answer came.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

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

_Found: TypeAlias = tuple[int, tuple[Any, ...]]
"""An address family, and an address as a socket of it takes it."""

PIECE = 512 * 1024
"""Bytes that are read before they are hashed and written; what a killed build may lose of each large blob."""

_IDLE = 15.0  # seconds after which a connection may have been closed by the other end


class ThreadedWire:
    """Connections that block, kept for the next body from the same server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle: dict[tuple[object, Scope | None], list[_Connection]] = {}
        self._threads = ThreadPoolExecutor(limits.requests_per_host, thread_name_prefix="wire")

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.inner.close()
        self._idle.clear()
        self._threads.shutdown()

    async def exchange(
        self, request: Request, headers: dict[str, str], context: ssl.SSLContext | None, traffic: Traffic
    ) -> ThreadedResponse:
        """Send ``request``, which has no body, once; raises as ``Wire.exchange``."""
        connection = self._take(request)
        if connection is None:
            addresses = await _addresses(request.url)  # not in the thread: a look-up there could not be broken off
            connection = _Connection(request, context, self._limits, addresses)
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
        job = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            connection.abort()
            if not job.cancel():  # it is running, or has just ended
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(wait_for, [job])
            raise

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
    addresses: Sequence[_Found]
    inner: http.client.HTTPConnection = field(init=False)
    peer: str = ""
    idle_since: float = 0.0
    aborted: threading.Event = field(default_factory=threading.Event)

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
            raise failure_of(error, request) from None

    def abort(self) -> None:
        """End whatever the connection is waiting for."""
        self.aborted.set()
        if self.inner.sock is not None:
            with suppress(OSError):  # it may have ended already
                self.inner.sock.shutdown(socket.SHUT_RDWR)

    def _connect(self, url: URL) -> None:
        host = authority(url)
        try:
            self._open()
            self.inner.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer = self.inner.sock.getpeername()[0]
            if self.context is not None:
                self.inner.sock = self.context.wrap_socket(self.inner.sock, server_hostname=url.raw_host)
        except OSError as error:
            raise no_connection(error, host) from None

    def _open(self) -> None:
        """Connect to the first address of the host that answers, and that we may go to."""
        failure: OSError = OSError("it has no address")
        for family, address in self.addresses:
            reach = self.request.reach
            if reach is not None and Scope.of(ipaddress.ip_address(str(address[0]).partition("%")[0])) > reach:
                raise OutOfReach
            # known to abort() before it connects
            self.inner.sock = connected = socket.socket(family, socket.SOCK_STREAM)
            connected.settimeout(self.limits.connect)
            try:
                connected.connect(address)
            except OSError as error:
                connected.close()
                failure = error
            else:
                return
            if self.aborted.is_set():
                break
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
        self._waited, self._moved = 0.0, 0  # seconds and bytes since the last look at the flow
        self.on_close: Callable[[], None] | None = None

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
        self.make_room()
        if self._answer.isclosed() and not self._answer.will_close:
            self._wire.keep(self._connection)
        else:
            self._connection.inner.close()
            self._answer.close()

    def make_room(self) -> None:
        """Let another request take this one's place."""
        if self.on_close:
            self.on_close()
            self.on_close = None

    def _pour(self, sink: Sink) -> None:
        buffer = memoryview(bytearray(PIECE))
        while count := self._fill(buffer):
            sink(buffer[:count])

    def _piece(self) -> bytes:
        buffer = bytearray(64 * 1024)
        return bytes(buffer[: self._fill(memoryview(buffer))])

    def _fill(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with the next bytes; what came before a failure is returned first."""
        filled = 0
        while filled < len(buffer):
            began = time.monotonic()
            try:
                count = self._receive(buffer[filled:])
            except (http.client.HTTPException, OSError) as error:
                if filled:
                    break  # the next call meets the failure again
                raise failure_of(error, self.request) from None
            if not count:
                break
            filled += count
            self._traffic.bytes_in += count
            self._watch(count, time.monotonic() - began)
            if pause := self._traffic.owed(count):
                self._connection.aborted.wait(pause)
        return filled

    def _receive(self, buffer: memoryview) -> int:
        """The bytes that are there, at least one of them, straight into ``buffer``; none at the body's end."""
        answer = self._answer
        if answer.isclosed() or answer.chunked:
            return answer.readinto(buffer)
        if answer.length is not None:
            buffer = buffer[: answer.length]
        count = answer.fp.readinto1(buffer)
        if answer.length is not None:
            answer.length -= count
        if answer.length == 0 or (not count and answer.length is None):
            answer.close()
        return count

    def _watch(self, count: int, seconds: float) -> None:
        """Raise ``Interrupted`` if a whole window was spent on all but nothing."""
        limits = self._connection.limits
        self._waited += seconds
        self._moved += count
        if self._waited >= limits.window:
            if self._moved < limits.slowest * self._waited:
                raise Interrupted(f"{self.request}: less than {limits.slowest} bytes a second come in")
            self._waited, self._moved = 0.0, 0


async def _addresses(url: URL) -> Sequence[_Found]:
    try:
        found = await anyio.getaddrinfo(url.raw_host, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise no_connection(error, authority(url)) from None
    return [(family, address) for family, _, _, _, address in found]
