"""Worker threads that send and receive large bodies by blocking sockets.

Reading, hashing and writing a large blob in one thread, or reading it from a file and sending it, costs far less
CPU than taking it through the event loop, carries TLS better and uses every core (benchmarks/README.md).  Only
the bytes go this way: credentials, redirects, retries and pauses are the client's, whichever way an answer
came.

The threads are not those of ``concurrent.futures``, because its lock and its condition for each piece of work, and
the second future that brings the result to the loop, cost a transfer of many small blobs several percent of its CPU.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

import anyio

from syncer.transport.blocking import BlockingConnection, Pieces
from syncer.transport.connecting import Addresses, Idle, Route
from syncer.transport.guard import Scope
from syncer.transport.hosts import Traffic
from syncer.transport.http import Head
from syncer.transport.message import SMALL, FileBody, Request, Response
from syncer.transport.settings import Limits

T = TypeVar("T")


class Workers:
    """A pool of threads; a new one starts when there is work and none is free.  Only the event loop's thread calls it.

    Their number is not limited here, since the thread of an upload may wait for the one that fetches its content; there
    are at most as many threads as requests, which have permits (``hosts.Permits``).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0  # jobs that wait for a thread or have one

    async def run(self, work: Callable[[], T], abort: Callable[[], None]) -> T:
        """Run ``work`` in a thread, and return its result or raise its error.

        After a cancellation ``abort`` must end the work soon.  The end is waited for, since files that the work
        uses must not be closed before.
        """
        job = _Job(work, asyncio.get_running_loop())
        self._under_way += 1
        try:
            if len(self._threads) < self._under_way:
                self._begin_thread()
            self._jobs.put(job.carry_out)
            return await job.result
        except asyncio.CancelledError:
            abort()
            if not job.claim():
                with anyio.CancelScope(shield=True):
                    await job.has_ended.wait()
            raise
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """End the threads, all of whose work is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (carry_out := self._jobs.get()) is not None:
            carry_out()
            del carry_out  # or what it holds would stay until the next one comes


class _Job(Generic[T]):
    """One piece of work; either a thread claims it, or the caller who cancels it."""

    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.result: asyncio.Future[T] = loop.create_future()
        self.has_ended = asyncio.Event()
        self._work = work
        self._loop = loop
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        return self._claimed.acquire(blocking=False)

    def carry_out(self) -> None:
        if not self.claim():
            return
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001  it is the waiting task's
            self._loop.call_soon_threadsafe(self._fail, error)
        else:
            self._loop.call_soon_threadsafe(self._succeed, result)

    def _succeed(self, result: T) -> None:
        self.has_ended.set()
        if not self.result.done():
            self.result.set_result(result)

    def _fail(self, error: BaseException) -> None:
        self.has_ended.set()
        if not self.result.done():
            self.result.set_exception(error)


WORTH_A_THREAD = 64 * 1024
"""The size in bytes from which on a thread sends a body that lies in a file."""


def wants_thread(request: Request) -> bool:
    """Tell whether a thread is the better way for ``request`` than the event loop."""
    body = request.body
    return request.pour is not None or (isinstance(body, FileBody) and body.length >= WORTH_A_THREAD)


class ThreadWire:
    """The way for large bodies: blocking connections, each in a thread while it is used."""

    def __init__(self, limits: Limits, addresses: Addresses) -> None:
        self._limits = limits
        self._addresses = addresses
        self._idle: Idle[BlockingConnection] = Idle()
        self._workers = Workers("body")
        self._pieces = Pieces()

    def close(self) -> None:
        self._idle.close()
        self._workers.close()

    def leave(self, host: str) -> None:
        """Close the connections to ``host`` that nobody uses."""
        self._idle.close(host)

    async def exchange(self, request: Request, head: bytes, route: Route, traffic: Traffic) -> Response:
        """Send ``request`` once; raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        connection = self._idle.take(route)
        if is_first := connection is None:
            found = await self._addresses.of(route)  # in a thread the look-up could not be broken off
            connection = BlockingConnection(route, self._limits, found, self._pieces)
        try:
            answer = await self._workers.run(partial(connection.exchange, request, head, traffic), connection.abort)
        except BaseException:
            connection.close()
            raise
        response = _ThreadResponse(self, connection, request, answer)
        response.is_first = is_first
        if (request.length or 0) <= SMALL:  # else the time for what is still on its way is a part of it
            response.waited = connection.answered_in
        return response

    async def piece(self, connection: BlockingConnection) -> bytes:
        """The next bytes of a body that was not given to a sink."""
        return await self._workers.run(connection.piece, connection.abort)

    def give(self, connection: BlockingConnection) -> None:
        """Take back a connection after its exchange."""
        self._idle.give(connection)


class _ThreadResponse(Response):
    """An answer whose body is taken in a worker thread."""

    def __init__(self, wire: ThreadWire, connection: BlockingConnection, request: Request, head: Head) -> None:
        super().__init__(request, head.status, head.headers)
        self._wire: ThreadWire | None = wire
        self._connection = connection

    @property
    def scope(self) -> Scope:
        return self._connection.route.scope(self._connection.peer)

    async def piece(self) -> bytes:
        """The next bytes of a body that is not given to a sink."""
        if self._wire is None or self._connection.is_done:
            return b""
        return await self._wire.piece(self._connection)

    async def pour(self) -> bool:
        """Return or raise the result for the body, which the worker thread gave to the sink already."""
        if self._connection.failure is not None:
            raise self._connection.failure
        return self._connection.was_poured

    def release(self) -> None:
        if self._wire is not None:
            self._wire.give(self._connection)
            self._wire = None
