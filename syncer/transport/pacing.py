"""How fast one host may be asked: the arithmetic of rates, and room for a limited number of requests."""

from __future__ import annotations

import threading
import time
from contextlib import AsyncExitStack

import anyio


class Rate:
    """So much a second, evenly spread; worker threads may take from it too."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._next = 0.0  # monotonic: when the next one may go
        self._lock = threading.Lock()

    def take(self, amount: float, now: float | None = None) -> float:
        """Take ``amount``; returns the seconds to wait for it.

        >>> rate = Rate(4)
        >>> [rate.take(1, now=100.0) for _ in range(3)]
        [0.0, 0.25, 0.5]
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            begin = max(self._next, now)
            self._next = begin + amount / self._per_second
        return begin - now


class Room:
    """At most so many requests to one host at a time.

    A blob on its way from one registry to another holds a request to each.  Who holds one and waits for the
    other could wait for ever, so such work is let in beforehand: no more of it than there is room for
    requests.
    """

    def __init__(self, limit: int) -> None:
        self.requests = anyio.Semaphore(limit)
        self._work = anyio.Semaphore(limit)
        self._pairing = anyio.Lock()
        self._is_single = limit == 1

    async def let_in(self, stack: AsyncExitStack, holds: int) -> None:
        """Wait until work that will hold ``holds`` requests, one or two, may begin; it ends with ``stack``."""
        async with self._pairing if holds > 1 else AsyncExitStack():
            if holds > 1 and self._is_single:  # a download that feeds an upload to the same host needs its own request
                self._is_single = False
                self.requests.release()
                self._work.release()
            for _ in range(holds):
                await stack.enter_async_context(self._work)
