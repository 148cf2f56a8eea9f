"""Whether a body moves: what all but stands still for a whole window is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from syncer.errors import Interrupted
from syncer.transport.message import Request
from syncer.transport.settings import Limits

_CHECKS = 6  # how often within the window the flow of an upload is looked at


class Flow:
    """Adds up what moved and how long it was waited for."""

    def __init__(self, request: Request, limits: Limits, *, is_upload: bool = False) -> None:
        self._request = request
        self._limits = limits
        self._is_upload = is_upload
        self._waited, self._moved = 0.0, 0  # seconds and bytes since the last look

    def moved(self, count: int, seconds: float) -> None:
        """``count`` bytes moved after ``seconds`` of waiting for the other end; raises ``Interrupted``."""
        self._waited += seconds
        self._moved += count
        if self._waited >= self._limits.window:
            if self._moved < self._limits.slowest * self._waited:
                raise stalled(self._request, self._limits, is_upload=self._is_upload)
            self._waited, self._moved = 0.0, 0


class WatchedTransport:
    """Breaks a connection off whose other end has all but stopped to take what an event loop sends."""

    def __init__(self, transport: asyncio.WriteTransport, limits: Limits, broken_off: Callable[[], None]) -> None:
        self.sent = 0  # bytes handed over
        self.is_waiting = False  # for the other end, and not for the content to send
        self._transport = transport
        self._broken_off = broken_off
        self._interval = limits.window / _CHECKS
        self._least = limits.slowest * limits.window
        self._seen = 0
        self._checks = 0
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def _check(self) -> None:
        if self.is_waiting:
            self._checks += 1
        if self._checks == _CHECKS:
            moved = self.sent - self._transport.get_write_buffer_size()
            if moved - self._seen < self._least:
                self._broken_off()
                self._transport.abort()
                return
            self._checks, self._seen = 0, moved
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def close(self) -> None:
        self._timer.cancel()


def stalled(request: Request, limits: Limits, *, is_upload: bool) -> Interrupted:
    way = "get through" if is_upload else "come in"
    return Interrupted(f"{request}: less than {limits.slowest} bytes a second {way}")
