"""A link between a client and a server: what goes over it is counted, and can be made slow.

Every byte leaves when the link has had the time to send what came before it, and arrives half a round
trip later; the first answer on a connection is a round trip later still, for the handshake that
the client's kernel did with us instead.  There is no loss and no slow start.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from benchmarks.requests import RequestTap
from benchmarks.throttle import Gate, Throttle, Throttled

_PIECE = 64 * 1024
_WINDOW = 1024 * 1024  # bytes of one connection in flight, as a receiver's window would allow


@dataclass(frozen=True, slots=True)
class Link:
    """How slow: a round trip in seconds, and bits a second in each direction, of each connection or of all together."""

    round_trip: float
    bits_per_second: float
    for_each: bool = False  # connection, as object stores and long links give them

    def __str__(self) -> str:
        each = " a connection" if self.for_each else ""
        return f"{self.round_trip * 1000:.0f} ms, {self.bits_per_second / 1e6:.0f} Mbit/s{each}"


@dataclass(slots=True)
class Traffic:
    """What has gone over a link: bytes from the client, bytes to it, connections, and requests by kind."""

    up: int = 0
    down: int = 0
    connections: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # of these, by a throttle

    def clear(self) -> None:
        self.up = self.down = self.connections = self.refused = 0
        self.requests.clear()


@contextmanager
def run_relay(
    address: str, traffic: Traffic, link: Link | Throttle | None = None, *, tap: bool = True
) -> Iterator[str]:
    """The address of a relay to ``address``, at full speed without a ``link``, that counts into ``traffic``.

    ``tap`` reads the requests, which TLS hides, and without which nothing is throttled.
    """
    if isinstance(link, Throttle):
        relay = _Relay(address, traffic, None, gate=Gate(link))
    else:
        relay = _Relay(address, traffic, link, tap=tap)
    thread = threading.Thread(target=lambda: asyncio.run(relay.serve()), daemon=True)
    thread.start()
    relay.started.wait()
    try:
        yield relay.address
    finally:
        relay.stop()
        thread.join()


class _Relay:
    def __init__(
        self, address: str, traffic: Traffic, link: Link | None, *, tap: bool = True, gate: Gate | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self._server = (host, int(port))
        self._traffic = traffic
        self._link = link
        self._tap = tap
        self._gate = gate
        self._up, self._down = _Direction(link, opens=True), _Direction(link)
        self.started = threading.Event()
        self.address = ""

    async def serve(self) -> None:
        listener = socket.create_server((self._server[0], 0), backlog=256)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _PIECE)  # or the kernel swallows megabytes
        self.address = f"{self._server[0]}:{listener.getsockname()[1]}"
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connection = tasks.create_task(self._connection(reader, writer))
                connections.add(connection)
                connection.add_done_callback(connections.discard)

            server = await asyncio.start_server(accept, sock=listener, limit=_PIECE)
            self.started.set()
            await self._stopped.wait()
            server.close()
            for connection in connections:
                connection.cancel()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both directions until both have ended; whoever hangs up is not the relay's business."""
        self._traffic.connections += 1
        try:
            with closing(writer):
                upstream_reader, upstream_writer = await asyncio.open_connection(*self._server, limit=_PIECE)
                with closing(upstream_writer):
                    if self._gate:
                        ends = (reader, writer, upstream_reader, upstream_writer)
                        await Throttled(self._gate, self._traffic, *ends).serve()
                        return
                    up, down = self._up, self._down
                    if self._link and self._link.for_each:
                        up, down = _Direction(self._link, opens=True), _Direction(self._link)
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._carry(self._sent(reader), upstream_writer, up))
                        tasks.create_task(self._carry(self._answered(upstream_reader), writer, down))
        except* OSError:
            pass

    async def _sent(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        tap = RequestTap(self._traffic.requests) if self._tap else None
        while piece := await reader.read(_PIECE):
            self._traffic.up += len(piece)
            if tap:
                tap.feed(piece)
            yield piece

    async def _answered(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while piece := await reader.read(_PIECE):
            self._traffic.down += len(piece)
            yield piece

    async def _carry(self, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter, direction: _Direction) -> None:
        if self._link:
            await self._carry_slowly(self._link, pieces, writer, direction)
        else:
            async for piece in pieces:
                writer.write(piece)
                await writer.drain()
        writer.write_eof()

    async def _carry_slowly(
        self, link: Link, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter, direction: _Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        opened = loop.time() + (link.round_trip if direction.opens else 0.0)
        flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW // _PIECE)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_deliver(flight, writer))
            async for piece in pieces:
                left = direction.leaves_at(max(loop.time(), opened), len(piece))
                await flight.put((left + link.round_trip / 2, piece))
                await asyncio.sleep(left - loop.time())
            await flight.put((loop.time() + link.round_trip / 2, b""))


class _Direction:
    """One direction of a link, of one connection or of all: when what is sent now has left."""

    def __init__(self, link: Link | None, *, opens: bool = False) -> None:
        self.opens = opens  # a connection, for which the client's kernel shakes hands
        self._bytes_per_second = link.bits_per_second / 8 if link else float("inf")
        self._free = 0.0

    def leaves_at(self, now: float, size: int) -> float:
        self._free = max(now, self._free) + size / self._bytes_per_second
        return self._free


async def _deliver(flight: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    """Hand over each piece when it has arrived; an empty one is the end."""
    loop = asyncio.get_running_loop()
    while True:
        arrival, piece = await flight.get()
        await asyncio.sleep(arrival - loop.time())
        if not piece:
            return
        writer.write(piece)
        await writer.drain()
