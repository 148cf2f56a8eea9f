"""An answer whose body may still be on its way, and the watch for bodies that stand still."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

import anyio
from anyio import to_thread
from multidict import CIMultiDictProxy

from syncer.errors import Interrupted
from syncer.transport.guard import Scope
from syncer.transport.hosts import Traffic
from syncer.transport.request import SMALL, Answer, Request
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


async def count_in(piece: bytes, seconds: float, flow: Flow, traffic: Traffic) -> None:
    """Take note of a piece that was waited for, and keep to the pace of its host; raises ``Interrupted``."""
    if piece:
        flow.moved(len(piece), seconds)
        traffic.bytes_in += len(piece)
        if wait := traffic.owed(len(piece)):
            await anyio.sleep(wait)


class Response(ABC):
    """An answer, to be closed, which frees the connection; that is kept only if the answer was read to its end."""

    def __init__(self, request: Request, status: int, headers: CIMultiDictProxy[str]) -> None:
        self.request = request
        self.status = status
        self.headers = headers
        self.on_close: Callable[[], None] | None = None
        self.told: Answer | None = None  # the answer, if it had to be read to judge it

    @property
    @abstractmethod
    def scope(self) -> Scope:
        """How near the server is."""

    @abstractmethod
    async def piece(self) -> bytes:
        """The next bytes of the body, none at its end; raises ``Interrupted`` when it stops short or all but stands
        still.
        """

    async def pour(self) -> bool:
        """Return when the sink that ``Request.pour`` names has the whole body; False when it names none.

        Raises as ``piece``, and what the sink raises.
        """
        assert self.request.pour is not None
        sink = self.request.pour(self.request, self.status, self.headers)
        while sink and (piece := await self.piece()):
            await to_thread.run_sync(sink, memoryview(piece))
        return sink is not None

    @abstractmethod
    def release(self) -> None:
        """Let go of the connection."""

    async def answer(self, asked: Request, limit: int = SMALL) -> Answer:
        """The answer with at most ``limit`` bytes of its body; messages name ``asked``, the request before redirects.

        Raises as ``piece``.
        """
        if self.told is not None:
            return self.told
        content = await self.piece()
        while content and len(content) <= limit and (piece := await self.piece()):
            content += piece
        return Answer(
            request=str(asked),
            url=self.request.url,
            status=self.status,
            headers=self.headers,
            content=content[:limit],
            is_whole=len(content) <= limit,
            scope=self.scope,
        )

    def close(self) -> None:
        self.make_room()
        self.release()

    def make_room(self) -> None:
        """Let another request take this one's place."""
        if self.on_close:
            self.on_close()
            self.on_close = None
