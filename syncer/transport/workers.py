"""Threads that block for an event loop.

What ``concurrent.futures`` does for any number of callers, with a lock and a condition for each piece of work and a
second future to bring its result to the loop, costs a transfer of many small blobs several percent of its CPU.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Workers:
    """At most ``most`` threads, each begun when there is work for it.  All methods are for the event loop's thread."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0  # jobs that wait for a thread or have one

    async def run(self, work: Callable[[], T], abort: Callable[[], None]) -> T:
        """What ``work`` returns or raises, in a thread.

        When this is cancelled, ``abort`` must make an end of the work soon; it is waited for, since what it
        writes to must not be closed under it.
        """
        job = _Job(work, asyncio.get_running_loop())
        self._under_way += 1
        try:
            if len(self._threads) < min(self._under_way, self._most):
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
    """One piece of work, which belongs to whoever claims it first: a thread, or the one who gives it up."""

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
