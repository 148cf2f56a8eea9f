"""A blob on its way from one registry to another, as a file that the thread of its upload reads.

One thread receives, another sends, and a piece goes from hand to hand between them; the event loop only keeps
their breaks and retries.  The download begins when the upload has its thread and asks for bytes, so whoever holds a
thread for a download has somebody to give to, and none waits for ever.
"""

from __future__ import annotations

import asyncio
import threading

import anyio

from syncer.content import FileBlob, PourableBlob
from syncer.errors import SyncerError


class Relay(FileBlob):
    """Reads ``blob`` in order, from wherever it is asked to; ``run`` fetches it meanwhile."""

    def __init__(self, blob: PourableBlob) -> None:
        self._blob = blob
        self._loop = asyncio.get_running_loop()
        self._asked = anyio.Event()
        self._fetching = anyio.CancelScope()
        self._pipe: _Pipe | None = None
        self._is_over = False

    async def run(self) -> None:
        """Fetch what is read, until ``close`` is called or this is cancelled."""
        try:
            while not self._is_over:
                await self._asked.wait()
                self._asked = anyio.Event()
                if (pipe := self._pipe) is not None:
                    with anyio.CancelScope() as self._fetching:
                        await self._fetch(pipe)
        finally:
            self.close()

    async def _fetch(self, pipe: _Pipe) -> None:
        try:
            await self._blob.pour(pipe.write, pipe.position)
        except _Closed:
            pass
        except SyncerError as error:
            pipe.end(error)
        finally:
            pipe.end()

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Wait for bytes from ``offset`` on, in a thread; raises what their download raises."""
        pipe = self._pipe
        if pipe is None or pipe.position != offset:
            if pipe is not None:
                pipe.close()
            self._pipe = pipe = _Pipe(offset)
            self._loop.call_soon_threadsafe(self._ask)
            if self._is_over:
                pipe.end()
        return pipe.read_into(buffer)

    def close(self) -> None:
        """Nothing more is read."""
        self._is_over = True
        if self._pipe is not None:
            self._pipe.close()
        self._ask()

    def _ask(self) -> None:
        """Go on with the newest pipe, whatever is being fetched."""
        self._asked.set()
        self._fetching.cancel()


class _Closed(Exception):
    """Nobody reads on."""


class _Pipe:
    """Hands pieces from the thread that writes them to the one that reads them, one at a time."""

    def __init__(self, position: int) -> None:
        self.position = position  # of what is read next
        self._changed = threading.Condition()
        self._piece = memoryview(b"")
        self._is_closed = False
        self._has_ended = False
        self._failure: SyncerError | None = None

    def write(self, piece: memoryview) -> None:
        """Return when ``piece`` was read; raises ``_Closed``."""
        with self._changed:
            self._piece = piece
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._piece or self._is_closed)
            self._piece = self._piece[:0]
            if self._is_closed:
                raise _Closed

    def end(self, failure: SyncerError | None = None) -> None:
        """Nothing more comes, because of ``failure`` if there is one."""
        with self._changed:
            self._has_ended = True
            self._failure = self._failure or failure
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def read_into(self, buffer: memoryview) -> int:
        """Wait for bytes; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._piece or self._has_ended or self._is_closed)
            count = min(len(buffer), len(self._piece))
            buffer[:count] = self._piece[:count]
            self._piece = self._piece[count:]
            self.position += count
            if not self._piece:
                self._changed.notify_all()
            if not count and self._failure is not None:
                raise self._failure
            return count
