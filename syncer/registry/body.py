"""The content of an upload: from a file, or relayed from another registry by two threads."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from syncer.content import Blob, FileBlob, Pieces, PourableBlob, Progress, WaitingBlob, Withdrawn
from syncer.errors import DigestMismatch, SyncerError
from syncer.files import InPlace
from syncer.oci import Descriptor
from syncer.transport import FileBody

_PIECE = 512 * 1024  # bytes read from a file at a time
_RELAYED = 128 * 1024  # bytes from which on two threads carry a blob from registry to registry


class SourceFailed(Exception):
    """The content to send could not be had: the target is not to blame for ``error``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Content:
    """The bytes of one blob.  ``progress`` says how many of them are on their way."""

    def __init__(self, blob: Blob, progress: Progress) -> None:
        self.descriptor: Descriptor = blob.descriptor
        self._blob = blob
        self._waiting: WaitingBlob | None = blob if isinstance(blob, WaitingBlob) else None
        if isinstance(blob, PourableBlob) and blob.descriptor.size >= _RELAYED:
            self._waiting = Relay(blob)
        self._file = blob if isinstance(blob, FileBlob) else self._waiting
        self._progress = progress
        self._open = AsyncExitStack()
        self._pieces: Pieces | None = None
        self._rest: bytes | memoryview = b""  # of a piece that went beyond a part
        self._position = 0

    @property
    def is_there(self) -> bool:
        """True when a file has all of the content, so that reading it waits for nobody."""
        return self._file is not None and self._file.is_there

    async def turn(self, offset: int) -> None:
        """Wait until the bytes from ``offset`` on should be read, where others read the same file."""
        if isinstance(self._blob, FileBlob):
            await self._blob.turn(offset)

    def goes_on_from(self, offset: int) -> None:
        """Note that an earlier run has brought the first ``offset`` bytes."""
        self._progress.resumed = offset

    def part(self, start: int, length: int) -> Part:
        """``length`` bytes from ``start`` on, as a body."""
        return Part(self, start, length) if self._file is None else FilePart(self, start, length)

    def read_into(self, buffer: memoryview, position: int) -> int:
        """Fill ``buffer`` from byte ``position`` of a blob in a file on, in any thread; raises ``SourceFailed``."""
        assert self._file is not None
        try:
            count = self._file.read_into(buffer, position)
        except (SyncerError, OSError, Withdrawn) as error:
            raise SourceFailed(error) from error
        if not count:
            raise SourceFailed(self._short(position))
        self._progress.done = position + count
        return count

    def in_place(self, start: int, length: int) -> InPlace | None:
        """The file ranges that hold a part of a blob, as in ``FileBlob.in_place``; raises ``SourceFailed``."""
        assert self._file is not None
        try:
            found = self._file.in_place(start, length)
        except (SyncerError, OSError, Withdrawn) as error:
            raise SourceFailed(error) from error
        return None if found is None else (found[0], self._counted(start, found[1]))

    def _counted(self, position: int, extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for offset, length in extents:
            yield offset, length
            position += length
            self._progress.done = position

    async def feed(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work``, which reads this content, and fetch what it reads."""
        if self._waiting is None:
            await work()
            return
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._waiting.run)
            try:
                await work()
            except (SyncerError, SourceFailed) as error:  # kept, since leaving a task group would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Let go of the source."""
        if isinstance(self._blob, FileBlob):
            self._blob.over()
        if self._waiting is not None:
            self._waiting.close()
        self._pieces, self._rest = None, b""
        stack, self._open = self._open, AsyncExitStack()
        await stack.aclose()

    async def is_intact(self) -> bool:
        """Read the blob again, and tell whether the source's bytes have the digest."""
        hasher = self.descriptor.digest.hasher()
        pieces = self.read(0, self.descriptor.size)
        try:
            async for piece in pieces:
                await anyio.to_thread.run_sync(hasher.update, piece)
        except SourceFailed as failed:
            if isinstance(failed.error, DigestMismatch):
                return False
            raise
        return self.descriptor.digest.matches(hasher)

    async def whole(self, start: int, length: int) -> bytes:
        """A short stretch at once; raises ``SourceFailed``."""
        if self._file is None:
            return b"".join([bytes(piece) async for piece in self.read(start, length)])
        if self._file is self._waiting:
            return await anyio.to_thread.run_sync(self._read, start, length, limiter=_unlimited())
        return self._read(start, length)  # not in a thread: to wake one takes longer

    def _read(self, start: int, length: int) -> bytes:
        content = bytearray(length)
        filled = 0
        while filled < length:
            filled += self.read_into(memoryview(content)[filled:], start + filled)
        return bytes(content)

    async def read(self, start: int, length: int) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes themselves; raises ``SourceFailed``."""
        pieces = self._from_file(start, length) if self._file else self._from_stream(start, length)
        try:
            async for piece in pieces:
                yield piece
        except (SyncerError, OSError, Withdrawn) as error:
            raise SourceFailed(error) from error
        finally:
            await pieces.aclose()

    async def _from_file(self, start: int, length: int) -> AsyncGenerator[memoryview, None]:
        assert self._file is not None
        buffer = memoryview(bytearray(min(_PIECE, length)))
        position, stop = start, start + length
        while position < stop:
            wanted = buffer[: min(_PIECE, stop - position)]
            limiter = None if self._waiting is None else _unlimited()
            count = await anyio.to_thread.run_sync(self._file.read_into, wanted, position, limiter=limiter)
            if count == 0:
                raise self._short(position)
            yield wanted[:count]
            position += count
            self._progress.done = position

    async def _from_stream(self, start: int, length: int) -> AsyncGenerator[bytes | memoryview, None]:
        if self._pieces is None or self._position != start:
            await self.close()
            self._pieces = await self._open.enter_async_context(self._blob.open(start))
            self._position = start
        stop = start + length
        while self._position < stop:
            piece = self._rest or await anext(self._pieces, b"")
            if not piece:
                raise self._short(self._position)
            wanted = stop - self._position
            piece, self._rest = piece[:wanted], piece[wanted:]
            self._position += len(piece)
            yield piece
            self._progress.done = self._position

    def _short(self, position: int) -> DigestMismatch:
        return DigestMismatch(f"the content of {self.descriptor} ends at byte {position}")


def _unlimited() -> anyio.CapacityLimiter:
    """For threads that wait for another one: no number of them may keep that one from starting."""
    return anyio.CapacityLimiter(math.inf)


@dataclass(slots=True, eq=False, repr=False)
class Part:
    """A stretch of a blob's content, as the transport sends it."""

    content: Content
    start: int
    length: int

    def pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        return self.content.read(self.start, self.length)


@dataclass(slots=True, eq=False, repr=False)
class FilePart(Part, FileBody):
    """A stretch of a blob that lies in a file."""

    def read_into(self, buffer: memoryview, position: int) -> int:
        return self.content.read_into(buffer[: self.length - position], self.start + position)

    def in_place(self) -> InPlace | None:
        return self.content.in_place(self.start, self.length)

    @property
    def is_there(self) -> bool:
        return self.content.is_there


class Relay(WaitingBlob):
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
