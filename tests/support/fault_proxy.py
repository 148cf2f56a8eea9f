"""A proxy in front of a real registry that breaks what a test tells it to, and records what crossed it.

    async with fault_proxy(registry) as proxy:
        proxy.on("PATCH", "/blobs/uploads/", Reset("request", at=100_000))
        proxy.on("GET", "/blobs/", Flip(at=7), first=2, every=5, times=None)
        await client.push(proxy.registry, ...)
        assert proxy.exchanges.kinds()["PATCH upload"] == 2

It speaks HTTP/1.1 itself, byte for byte, so that what it does not break it does not touch.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import socket
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import anyio

from tests.support.exchanges import Exchange, Exchanges
from tests.support.faults import (
    Delay,
    Fault,
    Flip,
    Lose,
    Mark,
    Reply,
    Reset,
    Rewrite,
    Rule,
    Stall,
    Throttle,
    Truncate,
    Where,
    marks_of,
    of_kind,
)
from tests.support.http_wire import (
    LIMIT,
    Framing,
    Head,
    Length,
    UntilClose,
    answer_framing,
    encode_end,
    encode_piece,
    read_body,
    read_head,
    request_framing,
)
from tests.support.registries import Registry
from tests.support.tls import Identity

T = TypeVar("T")

_POLL_SECONDS = 0.01
_FLUSH_SECONDS = 1  # that an end has to take what was sent before its connection closed


@dataclass(slots=True)
class Link:
    """A line between the client and the registry that all connections share.

    Each request, and each new connection, costs one ``round_trip``, in seconds; each direction carries
    ``bytes_per_second``, and one answer alone ``answer_bytes_per_second`` of them.
    """

    round_trip: float = 0.0
    bytes_per_second: float | None = None
    answer_bytes_per_second: float | None = None
    _free: dict[Where, float] = field(default_factory=lambda: {"request": 0.0, "answer": 0.0})

    async def carry(self, size: int, where: Where) -> None:
        """Wait as long as ``size`` bytes take after all that was sent before them."""
        if self.bytes_per_second:
            start = max(time.monotonic(), self._free[where])
            self._free[where] = start + size / self.bytes_per_second
            await anyio.sleep(max(0.0, self._free[where] - time.monotonic()))


@dataclass(slots=True)
class FaultProxy:
    """A running proxy; rules may be added at any time."""

    registry: Registry  # as a client reaches it, through the proxy
    upstream: Registry
    link: Link
    forwards_scheme: bool
    exchanges: Exchanges = field(default_factory=Exchanges)
    rules: list[Rule] = field(default_factory=list)
    connections: int = 0
    resumed: list[bool] = field(default_factory=list)  # whether each connection resumed a session of TLS

    def on(
        self,
        method: str | None,
        path: str,
        fault: Fault,
        *,
        first: int = 1,
        every: int = 1,
        times: int | None = 1,
    ) -> Rule:
        """Let ``fault`` happen to requests whose path and query the regular expression ``path`` finds."""
        rule = Rule(method, re.compile(path), fault, first, every, times)
        self.rules.append(rule)
        return rule

    def faults_for(self, method: str, target: str) -> list[Fault]:
        """What happens to this request, which every rule that matches it counts."""
        return [rule.fault for rule in self.rules if rule.fires(method, target)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, until either end closes it."""
        self.connections += 1
        connection = _Connection(self, self.connections, reader, writer)
        is_tls = (tls := writer.get_extra_info("ssl_object")) is not None
        if is_tls:
            self.resumed.append(tls.session_reused)
        writer.transport.set_write_buffer_limits(high=1 if is_tls else 0)  # a TLS transport never resumes from 0
        await anyio.sleep(self.link.round_trip)
        try:
            while await connection.exchange():
                pass
        except _Cut as cut:
            if isinstance(cut.fault, Reset):
                await connection.reset()
        except (OSError, EOFError):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()


@asynccontextmanager
async def fault_proxy(
    upstream: Registry,
    *,
    link: Link | None = None,
    tls: Identity | None = None,
    authority: Path | None = None,
    forwards_scheme: bool = True,
) -> AsyncIterator[FaultProxy]:
    """A proxy in front of ``upstream``, which speaks plain HTTP.

    With ``tls``, a certificate of ``authority``, it speaks HTTPS to clients, and tells the registry so
    unless ``forwards_scheme`` is False.
    """
    proxy = FaultProxy(upstream, upstream, link or Link(), forwards_scheme=forwards_scheme and tls is not None)
    served: dict[asyncio.Task[None], anyio.CancelScope] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        with anyio.CancelScope() as served[task]:
            await proxy.serve(reader, writer)

    context = tls.server_context() if tls else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, limit=LIMIT)
    port = server.sockets[0].getsockname()[1]
    proxy.registry = replace(upstream, address=f"127.0.0.1:{port}", authority=authority)
    try:
        yield proxy
    finally:
        server.close()
        for scope in served.values():
            scope.cancel()
        ended = await asyncio.gather(*served, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


class _Cut(Exception):
    """The connection ends here, on purpose."""

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass(slots=True)
class _Connection:
    """A client's connection, and the one to the registry that belongs to it."""

    proxy: FaultProxy
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self) -> bool:
        """One request and its answer; False when the client has closed the connection instead."""
        head = await read_head(self.reader)
        if head is None:
            return False
        method, target, _ = head.line.split(" ", 2)
        faults = self.proxy.faults_for(method, target)
        record = Exchange(method, target, _lower(head), time.monotonic(), self.number, faults=[*faults])
        self.proxy.exchanges.log.append(record)
        await anyio.sleep(self.proxy.link.round_trip + sum(delay.seconds for delay in of_kind(faults, Delay)))
        if (head.get("Expect") or "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head.rewrite({"Expect": None})
        replies = of_kind(faults, Reply)
        if replies and not replies[0].forward:
            await self._reply_instead(head, record, replies[0])
        else:
            await self._forward(head, record, faults)
        return True

    async def reset(self) -> None:
        """Reset the client's connection, once the client's machine has all that was sent."""
        connected: socket.socket = self.writer.get_extra_info("socket")
        with suppress(OSError):
            await _delivered(connected)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close both connections."""
        for writer in (self.writer, *([self._upstream[1]] if self._upstream else ())):
            writer.close()
            with anyio.move_on_after(_FLUSH_SECONDS), suppress(OSError):
                await writer.wait_closed()
            writer.transport.abort()

    async def _forward(self, head: Head, record: Exchange, faults: Sequence[Fault]) -> None:
        for fault in of_kind(faults, Reset):
            if fault == Reset("request", 0):
                raise _Cut(fault)
        for rewrite in of_kind(faults, Rewrite):
            if rewrite.where == "request":
                head.rewrite(rewrite.headers)
        if self.proxy.forwards_scheme:
            head.rewrite({"X-Forwarded-Proto": "https"})
        reader, writer = await self._connect()
        sending = asyncio.ensure_future(self._send(head, writer, record, faults))
        try:
            answer = await self._unless_gone(read_head(reader))
            if sending.done():
                sending.result()
            if answer is None:
                raise _Cut
            await self._answer(answer, reader, record, faults)
            if not await sending:
                raise _Cut
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream is None or self._upstream[0].at_eof():
            host, _, port = self.proxy.upstream.address.rpartition(":")
            self._upstream = await asyncio.open_connection(host, int(port), limit=LIMIT)
        return self._upstream

    async def _send(self, head: Head, writer: asyncio.StreamWriter, record: Exchange, faults: Sequence[Fault]) -> bool:
        """Send the request on; False when the registry did not want all of it.

        When the request is cut, the registry sees the end of the connection there.
        """
        framing = request_framing(head)
        try:
            writer.write(head.encode())
            async for piece in self._broken(self._offered(framing, record), faults, "request"):
                await self.proxy.link.carry(len(piece), "request")
                writer.write(encode_piece(piece, framing))
                await writer.drain()
                record.sent += len(piece)
            writer.write(encode_end(framing))
            await writer.drain()
        except OSError:
            return False
        except (_Cut, EOFError):
            writer.write_eof()
            raise
        return True

    async def _offered(self, framing: Framing, record: Exchange) -> AsyncIterator[bytes]:
        async for piece in read_body(self.reader, framing):
            record.offered += len(piece)
            yield piece

    async def _answer(
        self, head: Head, reader: asyncio.StreamReader, record: Exchange, faults: Sequence[Fault]
    ) -> None:
        framing = answer_framing(head, record.method)
        pieces = read_body(reader, framing)
        for reply in of_kind(faults, Reply):
            await _drain(pieces)
            await self._reply(reply, record)
            return
        if of_kind(faults, Lose):
            await _drain(pieces)
            raise _Cut
        for stall in of_kind(faults, Stall):
            if stall.where == "head":
                await self._stall(stall)
        for rewrite in of_kind(faults, Rewrite):
            if rewrite.where == "answer":
                head.rewrite(rewrite.headers)
                head.line = f"HTTP/1.1 {rewrite.status} Rewritten" if rewrite.status else head.line
        if any(not truncate.announced for truncate in of_kind(faults, Truncate)):
            head.rewrite({"Content-Length": None, "Transfer-Encoding": None, "Connection": "close"})
            framing = UntilClose()
        await self._deliver(head, framing, self._broken(pieces, faults, "answer"), record)

    async def _deliver(self, head: Head, framing: Framing, pieces: AsyncIterator[bytes], record: Exchange) -> None:
        """Send an answer to the client."""
        record.status, record.answer = head.status, _lower(head)
        self.writer.write(head.encode())
        async for piece in pieces:
            await self.proxy.link.carry(len(piece), "answer")
            if each := self.proxy.link.answer_bytes_per_second:
                await anyio.sleep(len(piece) / each)
            if self.writer.transport.is_closing():  # the client went away while the line was busy
                raise ConnectionResetError
            self.writer.write(encode_piece(piece, framing))
            await self.writer.drain()
            record.received += len(piece)
        self.writer.write(encode_end(framing))
        await self.writer.drain()
        if isinstance(framing, UntilClose) or (head.get("Connection") or "").lower() == "close":
            raise _Cut

    async def _reply_instead(self, head: Head, record: Exchange, reply: Reply) -> None:
        """Answer without asking the registry."""
        body = self._offered(request_framing(head), record)
        if reply.read is None:
            await _drain(body)
            await self._reply(reply, record)
            return
        while record.offered < reply.read:
            await anext(body)
        with suppress(_Cut):
            await self._reply(replace(reply, headers={**reply.headers, "Connection": "close"}), record)
        if self.writer.can_write_eof():  # TLS cannot
            self.writer.write_eof()
        await _drain(body)  # so that the client is not reset before it has read the answer

    async def _reply(self, reply: Reply, record: Exchange) -> None:
        head = Head(f"HTTP/1.1 {reply.status} Faulty", [*reply.headers.items()])
        if head.get("Content-Length") is None and reply.status not in (204, 304):
            head.rewrite({"Content-Length": str(len(reply.body))})

        async def body() -> AsyncIterator[bytes]:
            if record.method != "HEAD" and reply.body:
                yield reply.body

        await self._deliver(head, Length(len(reply.body)), body(), record)

    async def _broken(
        self, pieces: AsyncIterator[bytes], faults: Sequence[Fault], where: Where
    ) -> AsyncIterator[bytes]:
        """A body with all that happens to it on the way."""
        rates = [fault.bytes_per_second for fault in of_kind(faults, Throttle) if fault.where == where]
        marks = sorted(marks_of(faults, where), key=lambda mark: mark.at)
        position = 0
        async for whole in pieces:
            piece = whole
            while marks and marks[0].at < position + len(piece):
                before = marks[0].at - position
                if before:
                    yield piece[:before]
                position += before
                piece = await self._hit(marks.pop(0), piece[before:])
            for part in _parts(piece, min(rates, default=None)):
                yield part
                position += len(part)
                for rate in rates:
                    await anyio.sleep(len(part) / rate)
        for mark in marks:
            if mark.at == position:
                await self._hit(mark, b"")

    async def _hit(self, mark: Mark, piece: bytes) -> bytes:
        match mark:
            case Flip():
                return bytes([piece[0] ^ 1]) + piece[1:] if piece else piece
            case Stall():
                await self._stall(mark)
                return piece
        raise _Cut(mark)

    async def _stall(self, stall: Stall) -> None:
        if stall.reached:
            stall.reached.set()
        await self._unless_gone(stall.until.wait() if stall.until else anyio.sleep_forever())

    async def _unless_gone(self, awaitable: Awaitable[T]) -> T:
        """What ``awaitable`` gives; raises ``EOFError`` if the client goes away first."""
        work = asyncio.ensure_future(awaitable)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise EOFError
            return work.result()
        finally:
            work.cancel()
            gone.cancel()

    async def _gone(self) -> None:
        while not (self.reader.at_eof() or self.reader.exception()):  # noqa: ASYNC110  # no event tells
            await anyio.sleep(_POLL_SECONDS)


def _parts(piece: bytes, rate: float | None) -> list[bytes]:
    """A piece, cut up so that a slow body moves steadily."""
    size = len(piece) if rate is None else max(1, int(rate / 20))
    return [piece[start : start + size] for start in range(0, len(piece), size or 1)]


def _lower(head: Head) -> dict[str, str]:
    return {name.lower(): value for name, value in head.headers}


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    async for _ in pieces:
        pass


async def _delivered(connected: socket.socket) -> None:
    """Wait until the other end's machine has all that was sent (Linux tells; elsewhere nobody does)."""
    if sys.platform == "linux":
        with anyio.move_on_after(_FLUSH_SECONDS):
            while _queued(connected):  # noqa: ASYNC110  # no event tells
                await anyio.sleep(0.001)


def _queued(connected: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
