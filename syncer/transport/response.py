"""An answer whose body may still be on its way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from anyio import to_thread
from multidict import CIMultiDictProxy

from syncer.errors import Interrupted
from syncer.transport.guard import Scope
from syncer.transport.request import SMALL, Answer, Request


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

    async def answer(self, asked: Request, limit: int = SMALL) -> Answer:
        """The answer with at most ``limit`` bytes of its body; messages name ``asked``, the request before redirects.

        Raises as ``piece``.
        """
        content, is_whole = await self.read(limit)
        return Answer(
            request=str(asked),
            url=self.request.url,
            status=self.status,
            headers=self.headers,
            content=content,
            is_whole=is_whole,
            scope=self.scope,
        )

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """At most ``limit`` bytes of the body, and whether that was all of it."""
        content = bytearray()  # a list of pieces costs many times their bytes where they are small
        while len(content) <= limit and (piece := await self.piece()):
            content += piece
        return bytes(content[:limit]), len(content) <= limit

    async def settled(self) -> Response:
        """This answer with as much of its body as a refusal needs, in memory; the connection and the permit are free.

        Something may be asked then before anybody reads the answer.
        """
        try:
            content, _ = await self.read(SMALL)
        except Interrupted:
            content = b""  # its head says enough
        finally:
            self.close()
        return _Settled(self, content)

    def close(self) -> None:
        self.release()
        if self.on_close:
            self.on_close()
            self.on_close = None


class _Settled(Response):
    """An answer that has been read."""

    def __init__(self, answer: Response, content: bytes) -> None:
        super().__init__(answer.request, answer.status, answer.headers)
        self._scope = answer.scope
        self._content = content

    @property
    def scope(self) -> Scope:
        return self._scope

    async def piece(self) -> bytes:
        piece, self._content = self._content, b""
        return piece

    async def pour(self) -> bool:
        """Nobody takes the body of a refusal."""
        return False

    def release(self) -> None:
        """The connection is free already."""
