"""A connection on the event loop, which carries one exchange after the other."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import cast

import anyio
from msgspec import Struct

from syncer.files import InPlace
from syncer.transport.blocking import CAN_SEND_FILES
from syncer.transport.connecting import Route, ServerTls
from syncer.transport.failures import BROKEN, ended_early
from syncer.transport.hosts import Meter, Traffic
from syncer.transport.http import AnswerParser, CutOff, Head, NotHTTP
from syncer.transport.message import Body, FileBody, Request

_BUFFER = 256 * 1024  # bytes of an answer that may wait for their reader; more brings nothing
_PIECE = 64 * 1024  # bytes of a file that are written where the kernel cannot send them
_QUICK = 200_000_000  # bytes a second from files in memory, at least
_MOST_OWED = 0.02  # seconds: two looks at a disk
_MANY = 1000  # chunks that come at once, after which the others have their turn


class Files(Struct):
    """The files that the event loop lets the kernel send from, as long as that is about as quick as from memory.

    Files on a slow disk are left to threads from then on.

    >>> files = Files()
    >>> files.took(1_000_000, seconds=0.004)
    >>> files.are_quick
    True
    >>> files.took(100_000, seconds=0.030)
    >>> files.are_quick
    False
    """

    owed: float = 0.0  # seconds that the event loop has waited for disks

    @property
    def are_quick(self) -> bool:
        """False when the event loop has waited too long."""
        return CAN_SEND_FILES and self.owed < _MOST_OWED

    def send(self, out: int, file: int, offset: int, length: int) -> int:
        """Send from ``file``, and return the number of bytes; 0 where they must be written, which tells of errors."""
        began, count = time.monotonic(), 0
        with suppress(OSError):
            count = os.sendfile(out, file, offset, length)
        self.took(count, time.monotonic() - began)
        return count

    def took(self, count: int, seconds: float) -> None:
        """Note that to send ``count`` bytes took so long."""
        self.owed = max(0.0, self.owed + seconds - count / _QUICK)


class Stream(asyncio.Protocol):
    """A connection that carries one exchange after the other."""

    _transport: asyncio.Transport

    def __init__(self, route: Route, files: Files) -> None:
        self.route = route
        self._files = files
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

    async def ask(self, request: Request, head: bytes, found: InPlace | None, traffic: Traffic) -> Head:
        """Send ``request`` and wait for the head of its answer; the kernel can send a body that was ``found`` in place.

        Raises ``TimeoutError``, ``OSError``, ``CutOff`` and ``NotHTTP``, and errors of the content to send.
        """
        if self._failure is not None:
            raise self._failure
        answer, content = AnswerParser(request.method), request.body
        self._answer = answer
        if content is None or isinstance(content, bytes):
            self._transport.write(head + content if content else head)
        elif found and isinstance(content, FileBody) and not self._transport.get_write_buffer_size():
            await self._send_from_file(request, head, content, found, Meter(request, traffic, is_upload=True))
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
            raise ended_early(request, left)
        self._is_sent = True

    async def _send_from_file(
        self, request: Request, head: bytes, body: FileBody, found: InPlace, meter: Meter
    ) -> None:
        """Let the kernel send the body as far as the connection takes it, and write the rest; see ``_send``."""
        answer, position = self._answer, 0
        assert answer is not None
        file, extents = found
        out = self._transport.get_extra_info("socket").fileno()
        self._transport.set_write_buffer_limits(high=0)
        self._is_sent = False
        if wait := meter.due(body.length):
            await anyio.sleep(wait)
        if (count := _write(out, head)) < len(head):
            self._transport.write(head[count:])
            await self._drained(answer, meter, 0)
        for offset, length in extents:
            start, stop = position, position + length
            while position < stop:
                if answer.head or self._failure:
                    return
                if count := self._files.send(out, file, offset + position - start, stop - position):
                    meter.went(count, 0.0)
                else:
                    piece = memoryview(bytearray(min(_PIECE, stop - position)))
                    count = body.read_into(piece, position)
                    self._transport.write(piece[:count])
                    await self._drained(answer, meter, count)
                if not count:
                    raise ended_early(request, body.length - position)
                position += count
        if position < body.length:
            raise ended_early(request, body.length - position)
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


def _write(out: int, data: bytes) -> int:
    """Write to a connection at once, and return the number of bytes that it took."""
    try:
        return os.write(out, data)
    except OSError:
        return 0
