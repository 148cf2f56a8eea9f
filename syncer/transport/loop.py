"""Connections on the event loop, kept for the next exchange."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import aiohappyeyeballs
import anyio
import anyio.lowlevel

from syncer.errors import Interrupted
from syncer.transport.connecting import Addresses, scope_of, within_reach
from syncer.transport.failures import BROKEN, failure_of, no_connection
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.hosts import Traffic
from syncer.transport.http import AnswerParser, CutOff, Head, NotHTTP
from syncer.transport.request import Body, Request
from syncer.transport.response import Flow, Response, WatchedTransport, count_in, stalled
from syncer.transport.settings import Limits

_BUFFER = 256 * 1024  # bytes of an answer that may wait for their reader; more brings nothing


class Stream(asyncio.Protocol):
    """A connection that carries one exchange after the other."""

    def __init__(self) -> None:
        self.peer = ""
        self.idle_since = 0.0
        self.is_open = False
        self._is_tls = False
        self._answer: AnswerParser | None = None  # to the request that was sent last
        self._is_paused = False
        self._is_full = False  # what was written has not gone out
        self._is_sent = True
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether the last exchange is over, and another one may follow."""
        answer = self._answer
        if answer is None or answer.head is None or self._failure is not None:
            return False
        is_read = answer.is_done and not answer.pieces and not answer.has_overrun
        return self.is_open and answer.head.keeps_connection and self._is_sent and is_read

    async def ask(
        self, request: Request, head: bytes, content: bytes | Body | None, limits: Limits, traffic: Traffic
    ) -> Head:
        """Send ``request`` and wait for the head of its answer.

        Raises ``TimeoutError``, ``OSError``, ``CutOff`` and ``NotHTTP``, and whatever the content to send raises.
        """
        self._failure = None
        answer = self._answer = AnswerParser(request.method)
        if content is None or isinstance(content, bytes):
            self._transport.write(head + content if content else head)
        else:
            self._transport.write(head)
            await self._send(request, content, limits, traffic)
        while answer.head is None:
            await self._wait(request.patience or limits.idle)
        return answer.head

    async def piece(self, seconds: float) -> bytes:
        """The next bytes of the body, none at its end; raises as ``ask``."""
        answer = self._answer
        assert answer is not None
        while not answer.pieces:
            if answer.is_done:
                return b""
            await self._wait(seconds)
        piece = answer.take()
        if self._is_paused and answer.held <= _BUFFER // 2:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def abort(self) -> None:
        self.is_open = False
        self._transport.abort()

    async def _send(self, request: Request, body: Body, limits: Limits, traffic: Traffic) -> None:
        """Send the body; a piece has left our hands before the next one is asked for.

        An answer that comes meanwhile ends it: the server has seen enough.
        """
        # what is written is still ours until it has been sent; a TLS transport has a copy, and never resumes from 0
        self._transport.set_write_buffer_limits(high=1 if self._is_tls else 0)
        self._is_sent = False
        answer, left = self._answer, body.length
        assert answer is not None
        watched = WatchedTransport(self._transport, limits, lambda: self._stall(request, limits))
        try:
            async with aclosing(body.pieces()) as pieces:
                async for piece in pieces:
                    left -= len(piece)
                    if wait := traffic.owed(len(piece)):
                        await anyio.sleep(wait)
                    if answer.head or self._failure:
                        return
                    self._transport.write(piece)
                    watched.is_waiting = True
                    while self._is_full and answer.head is None and self._failure is None:
                        await self._wait(None)
                    watched.is_waiting = False
                    watched.sent += len(piece)
                    traffic.bytes_out += len(piece)
        finally:
            watched.close()
        if left:
            raise Interrupted(f"{request}: the content to send ended {left} bytes early")
        self._is_sent = True

    def _stall(self, request: Request, limits: Limits) -> None:
        self._fail(stalled(request, limits, is_upload=True))

    async def _wait(self, seconds: float | None) -> None:
        """Until anything happens; raises what went wrong, and ``TimeoutError``."""
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._time_out)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if self._failure is not None and (self._answer is None or self._answer.head is None):
            raise self._failure

    def _time_out(self) -> None:
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()  # nobody asked
            return
        try:
            answer.feed(data)
        except NotHTTP as error:
            self._fail(error)
        if answer.held > _BUFFER and not self._is_paused and not answer.is_done:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._is_full = False
        answer = self._answer
        if answer is None or answer.head is None or (exc is not None and not answer.is_done):
            self._failure = self._failure or exc or ConnectionResetError()
        else:
            try:
                answer.end()
            except CutOff as error:
                self._failure = self._failure or error
        self._wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._wake()


IDLE = 15.0
"""Seconds after which a connection may have been closed by the other end."""

_NEXT_ADDRESS = 0.25  # seconds after which another address is tried beside the first (RFC 8305 §5)

Key: TypeAlias = tuple[object, Scope | None]


@dataclass(slots=True)
class _Pool:
    """The connections to one origin."""

    idle: list[Stream] = field(default_factory=list)

    def take(self) -> Stream | None:
        """The connection that was used last, if it can be used again."""
        while self.idle:
            stream = self.idle.pop()
            if stream.is_reusable and time.monotonic() - stream.idle_since < IDLE:
                return stream
            stream.abort()
        return None


class DirectWire:
    """Connections on the event loop."""

    def __init__(self, limits: Limits, addresses: Addresses) -> None:
        self._limits = limits
        self._addresses = addresses
        self._pools: dict[Key, _Pool] = {}

    async def close(self) -> None:
        for pool in self._pools.values():
            while pool.idle:
                pool.idle.pop().abort()
        await anyio.lowlevel.checkpoint()  # the event loop closes the sockets

    async def exchange(
        self, request: Request, head: bytes, context: ssl.SSLContext | None, traffic: Traffic
    ) -> Response:
        """Send ``request`` once; raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        pool = self._pool(request)
        stream = pool.take() or await self._connect(request, context)
        try:
            answer = await stream.ask(request, head, request.body, self._limits, traffic)
        except BaseException as error:
            stream.abort()
            if isinstance(error, BROKEN):
                raise failure_of(error, request) from None
            raise
        if isinstance(request.body, bytes):
            traffic.bytes_out += len(request.body)
        return _DirectResponse(pool, stream, request, answer, traffic)

    def _pool(self, request: Request) -> _Pool:
        """Where an address must not be too near, a connection of another pool may have been made to one that is."""
        key = origin(request.url), request.reach
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool()
        return pool

    async def _connect(self, request: Request, context: ssl.SSLContext | None) -> Stream:
        url, limits = request.url, self._limits
        found = await self._addresses.of(url)
        try:
            found = within_reach(found, request.reach)
            async with asyncio.timeout(limits.connect):
                connected = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS)
                _, stream = await asyncio.get_running_loop().create_connection(
                    Stream, sock=connected, ssl=context, server_hostname=url.raw_host if context else None
                )
        except OSError as error:
            raise no_connection(error, authority(url)) from None
        return stream


class _DirectResponse(Response):
    """An answer on one of our connections."""

    def __init__(self, pool: _Pool, stream: Stream, request: Request, head: Head, traffic: Traffic) -> None:
        super().__init__(request, head.status, head.headers)
        self._pool: _Pool | None = pool
        self._stream = stream
        self._idle = traffic.limits.idle
        self._flow = Flow(request, traffic.limits)
        self._traffic = traffic

    @property
    def scope(self) -> Scope:
        return scope_of(self._stream.peer)

    async def piece(self) -> bytes:
        began = time.monotonic()
        try:
            piece = await self._stream.piece(self._idle)
        except BROKEN as error:
            raise failure_of(error, self.request) from None
        await count_in(piece, time.monotonic() - began, self._flow, self._traffic)
        return piece

    def release(self) -> None:
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        if self._stream.is_reusable:
            self._stream.idle_since = time.monotonic()
            pool.idle.append(self._stream)
        else:
            self._stream.abort()
