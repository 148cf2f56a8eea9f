"""An answer whose body may still be on its way, whichever way it comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import anyio
from anyio import to_thread
from multidict import CIMultiDictProxy

from syncer.transport.flow import Flow
from syncer.transport.guard import Scope
from syncer.transport.message import Request
from syncer.transport.traffic import Traffic


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

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """At most ``limit`` bytes of the body, and whether that was all of it."""
        content = await self.piece()
        while content and len(content) <= limit and (piece := await self.piece()):
            content += piece
        return content[:limit], len(content) <= limit

    def close(self) -> None:
        self.make_room()
        self.release()

    def make_room(self) -> None:
        """Let another request take this one's place."""
        if self.on_close:
            self.on_close()
            self.on_close = None
