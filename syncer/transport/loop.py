"""Connections on the event loop, which are kept for the next exchange."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import cast

import aiohappyeyeballs
import anyio
import anyio.lowlevel
from msgspec import Struct, field

from syncer.errors import Interrupted, Unreachable
from syncer.transport.connecting import Addresses, Found, Idle, Route, ServerTls, find_dead_peer, is_kept
from syncer.transport.failures import BROKEN, CertificateRefused, Silent, failure_of, no_connection
from syncer.transport.guard import Scope, authority
from syncer.transport.hosts import Meter, Traffic
from syncer.transport.http import AnswerParser, CutOff, Head, NotHTTP
from syncer.transport.message import SMALL, Body, Request, Response
from syncer.transport.settings import Limits

_BUFFER = 256 * 1024  # bytes of an answer that may wait for their reader; more brings nothing
_MANY = 1000  # chunks that come at once, after which the others have their turn
_FEW = 4  # connections to a server, beyond which one is opened only if those do not answer at once
_QUICK = 0.003  # seconds in which they do, on an average
_BUSY = 2  # an answer waits for this process about as long before it is read as after
_NEW = 0.1  # weight of an answer in these averages
_LOOK = 0.01  # seconds in which something must have come
_NEXT_ADDRESS = 0.25  # seconds after which another address is tried beside the first (RFC 8305 §5)


class Stream(asyncio.Protocol):
    """A connection that carries one exchange after the other."""

    _transport: asyncio.Transport

    def __init__(self, route: Route) -> None:
        self.route = route
        self.peer = ""
        self.idle_since = 0.0
        self.answered_in = 0.0  # seconds, the last time
        self.lag = 0.0  # seconds of these in which this process did other things
        self.is_open = False
        self._is_tls = False
        self._sessions: list[tuple[ServerTls, ssl.SSLObject]] = []
        self._answer: AnswerParser | None = None  # to the request that was sent last
        self._is_paused = False
        self._is_full = False  # what was written has not gone out
        self._is_sent = True
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._woken_at = 0.0  # monotonic

    @property
    def is_reusable(self) -> bool:
        """True when the last exchange is over, and another one may follow."""
        answer = self._answer
        if answer is None or answer.head is None or self._failure is not None:
            return False
        is_read = answer.is_done and not answer.pieces and not answer.has_overrun
        return self.is_open and answer.head.keeps_connection and self._is_sent and is_read

    async def ask(self, request: Request, head: bytes, content: bytes | Body | None, traffic: Traffic) -> Head:
        """Send ``request`` and wait for the head of its answer.

        Raises ``TimeoutError``, ``OSError``, ``CutOff`` and ``NotHTTP``, and errors of the content to send.
        """
        if self._failure is not None:
            raise self._failure
        answer = self._answer = AnswerParser(request.method)
        if content is None or isinstance(content, bytes):
            self._transport.write(head + content if content else head)
        else:
            self._transport.write(head)
            await self._send(request, content, Meter(request, traffic, is_upload=True))
        sent = time.monotonic()
        deadline = sent + request.head_patience(traffic.limits)
        while answer.head is None:
            await self._wait(deadline - time.monotonic())
        now = time.monotonic()
        self.answered_in, self.lag = now - sent, now - self._woken_at
        traffic.spent.answers += self.answered_in
        return answer.head

    async def piece(self, seconds: float) -> bytes:
        """The next bytes of the body, none at its end; raises the errors of ``ask``."""
        answer = self._answer
        assert answer is not None
        deadline = time.monotonic() + seconds  # neither trailers nor the sizes of chunks put it off
        while not answer.pieces:
            if answer.is_done:
                return b""
            await self._wait(deadline - time.monotonic())
        piece = answer.take()
        if self._is_paused and answer.held <= _BUFFER // 2:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def keep_session(self) -> None:
        """Keep the TLS sessions for the connections to come."""
        for tls, connection in self._sessions:
            tls.keep_session(connection)

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    async def tunnel(self) -> None:
        """Turn a connection to a proxy into one to the server beyond it.

        Raises ``Unreachable`` when the proxy refuses, ``OSError`` when TLS to the server fails.
        """
        answer = self._answer = AnswerParser("CONNECT")
        self._transport.write(self.route.tunnel_head())
        try:
            while answer.head is None:
                await self._wait(None)
        except BROKEN as error:
            raise self.route.tunnel_failure(error) from None
        self.route.check_tunnel(answer)
        self._answer = None
        tls = self.route.tls
        assert tls is not None
        upgraded = await asyncio.get_running_loop().start_tls(
            self._transport, self, tls, server_hostname=self.route.url.raw_host
        )
        assert upgraded is not None
        self._transport = upgraded
        self._is_encrypted_by(tls)

    async def _send(self, request: Request, body: Body, meter: Meter) -> None:
        """Send the body; each piece is sent before the next one is asked for.

        An answer that comes before the end of the body stops it, since the server needs no more.
        """
        # what is written is still ours until it has been sent; a TLS transport has a copy, and never resumes from 0
        self._transport.set_write_buffer_limits(high=1 if self._is_tls else 0)
        self._is_sent = False
        answer, left = self._answer, body.length
        assert answer is not None
        async with aclosing(body.pieces()) as pieces:
            async for piece in pieces:
                left -= len(piece)
                if wait := meter.due(len(piece)):
                    await anyio.sleep(wait)
                if answer.head or self._failure:
                    return
                self._transport.write(piece)
                await self._drained(answer, meter, len(piece))
        if left:
            raise Interrupted(f"{request}: the content to send ended {left} bytes early")
        self._is_sent = True

    async def _drained(self, answer: AnswerParser, meter: Meter, size: int) -> None:
        """Wait until ``size`` bytes that were written are sent, or are not needed any more."""
        left = size
        while self._is_full and answer.head is None and self._failure is None:
            began = time.monotonic()
            await self._change(meter.interval, self._wake)
            still = min(self._transport.get_write_buffer_size(), left)
            meter.went(left - still, time.monotonic() - began)
            left = still
        if not self._is_full:
            meter.went(left, 0.0)

    async def _wait(self, seconds: float | None) -> None:
        """Wait until anything happens; raises the connection's failure, and ``TimeoutError``."""
        if self._failure is not None:
            raise self._failure
        await self._change(seconds, self._time_out)
        if self._failure is not None and (self._answer is None or self._answer.head is None):
            raise self._failure

    async def _change(self, seconds: float | None, at_the_end: Callable[[], None]) -> None:
        """Wait until anything happens; after ``seconds`` call ``at_the_end``, which must end the wait."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, at_the_end)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _time_out(self) -> None:
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            self._woken_at = time.monotonic()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        if (tls := self.route.first_tls) is not None:
            self._is_encrypted_by(tls)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""

    def _is_encrypted_by(self, tls: ServerTls) -> None:
        self._is_tls = True
        self._sessions.append((tls, self._transport.get_extra_info("ssl_object")))

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._fail(NotHTTP())  # nobody asked
            self.close()
            return
        try:
            answer.feed(data)
        except NotHTTP as error:
            self._fail(error)
        if not self._is_paused and not answer.is_done:
            if answer.held > _BUFFER:
                self._is_paused = True
                self._transport.pause_reading()
            elif answer.brought > _MANY:  # else the loop would read on, and all others stand still
                self._is_paused = True
                self._transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._resume)
        self._wake()

    def _resume(self) -> None:
        answer = self._answer
        if self._is_paused and self.is_open and answer is not None and answer.held <= _BUFFER:
            self._is_paused = False
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._is_full = False
        if isinstance(exc, ssl.SSLError):
            self.route.forget_sessions()
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

    async def close(self) -> None:
        self._idle.close()
        await anyio.lowlevel.checkpoint()  # the event loop closes the sockets

    def leave(self, host: str) -> None:
        """Close the connections to ``host`` that nobody uses."""
        self._idle.close(host)

    async def exchange(self, request: Request, head: bytes, route: Route, traffic: Traffic) -> Response:
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
            answer = await stream.ask(request, head, request.body, traffic)
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
                lambda: Stream(route),
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
