"""An answer whose body may not have arrived yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from anyio import to_thread
from multidict import CIMultiDictProxy

from syncer.errors import Interrupted
from syncer.transport.guard import Scope
from syncer.transport.request import SMALL, Answer, Request


class Response(ABC):
    """An answer.  Its reader closes it, and the connection is kept only if the answer was read to its end."""

    def __init__(self, request: Request, status: int, headers: CIMultiDictProxy[str]) -> None:
        self.request = request
        self.status = status
        self.headers = headers
        self.on_close: Callable[[], None] | None = None
        self.told: Answer | None = None  # the answer, if it had to be read to judge it

    @property
    @abstractmethod
    def scope(self) -> Scope:
        """The scope of the server's address."""

    @abstractmethod
    async def piece(self) -> bytes:
        """The next bytes of the body, none at its end.

        Raises ``Interrupted`` when the body ends early or hardly moves.
        """

    async def pour(self) -> bool:
        """Wait until the sink of ``Request.pour`` has the whole body; returns False when there is no sink.

        Raises the errors of ``piece``, and those of the sink.
        """
        assert self.request.pour is not None
        sink = self.request.pour(self.request, self.status, self.headers)
        while sink and (piece := await self.piece()):
            await to_thread.run_sync(sink, memoryview(piece))
        return sink is not None

    @abstractmethod
    def release(self) -> None:
        """Give the connection back."""

    async def answer(self, asked: Request, limit: int = SMALL) -> Answer:
        """Read at most ``limit`` bytes of the body; messages name ``asked``, the request before redirects.

        Raises the errors of ``piece``.
        """
        if self.told is not None:
            return self.told
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
        """Read at most ``limit`` bytes of the body; returns them, and whether that was the whole body."""
        content = bytearray()  # a list of pieces costs many times their bytes where they are small
        while len(content) <= limit and (piece := await self.piece()):
            content += piece
        return bytes(content[:limit]), len(content) <= limit

    async def read_into_memory(self) -> Response:
        """Read the start of the body into memory, close the answer, and return a copy of it.

        The connection and the permit are free then, so that another request can be made before the copy is read.
        """
        try:
            content, _ = await self.read(SMALL)
        except Interrupted:
            content = b""  # its head says enough
        finally:
            self.close()
        return _InMemory(self, content)

    def close(self) -> None:
        self.release()
        if self.on_close:
            self.on_close()
            self.on_close = None


class _InMemory(Response):
    """An answer whose body is in memory."""

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
        """Return False, since no sink takes the body of a refusal."""
        return False

    def release(self) -> None:
        """Do nothing, since the connection is free already."""
