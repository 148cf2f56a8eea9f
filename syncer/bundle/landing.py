"""One blob's way into its slot: received, hashed and written at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup

from syncer.bundle.partial import Partial
from syncer.bundle.slots import Slot
from syncer.content import Blob, PourableBlob, Progress
from syncer.errors import DigestMismatch, SyncerError

if TYPE_CHECKING:
    from hashlib import _Hash

BATCH = 512 * 1024
"""Bytes that are hashed and written together; while that happens, as many may arrive."""

_AT_RISK = 2 * BATCH  # bytes, at most, that a killed build has to fetch again of each blob that was under way

_WORTH_A_THREAD = 128 * 1024  # bytes from which on a blob is read, hashed and written in one thread
_INLINE = 64 * 1024  # what is done faster than a thread is woken


@dataclass(slots=True)
class Landing:
    """Brings the bytes after the first ``done``, which are in ``hasher`` already, into ``slot``."""

    partial: Partial
    slot: Slot
    done: int
    hasher: _Hash
    progress: Progress
    threads: CapacityLimiter
    _batch: list[bytes] = field(default_factory=list)
    _received: int = 0
    _marked: int = 0
    _failure: SyncerError | None = None
    _idle: anyio.Event = field(default_factory=anyio.Event)

    async def receive(self, blob: Blob) -> bool:
        """Read ``blob`` to its end; whether the slot now has the content that its digest names.

        What arrived before an error of either end is in the slot all the same.
        """
        self.progress.done = self._received = self._marked = self.done
        if isinstance(blob, PourableBlob) and self.slot.size - self.done >= _WORTH_A_THREAD:
            await self._pour(blob)
            return self._is_right()
        if self.slot.size - self.done <= _INLINE:
            async with blob.open(self.done) as pieces:
                async for piece in pieces:
                    self._take(piece)
            self._land(self._batch)
        else:
            await self._receive_in_batches(blob)
        if self._failure:
            raise self._failure
        return self._is_right()

    async def _pour(self, blob: PourableBlob) -> None:
        """Read, hash and write piece by piece in one thread."""
        try:
            await blob.pour(self._accept, self.done)
        finally:
            if self._marked < self.done:
                self._mark()

    async def _receive_in_batches(self, blob: Blob) -> None:
        """Hash and write one batch in a thread while the next one arrives."""
        self._idle.set()
        async with blob.open(self.done) as pieces, anyio.create_task_group() as tasks:
            try:
                pending = 0
                async for piece in pieces:
                    if pending + len(piece) > BATCH:
                        await self._hand_over(tasks)
                        pending = 0
                    if self._failure:
                        break
                    self._take(piece)
                    pending += len(piece)
            except SyncerError as error:  # kept, since leaving a task group would wrap it
                self._failure = error
            await self._hand_over(tasks)

    def _accept(self, piece: memoryview) -> None:
        """Land one piece, in the thread that read it."""
        self._received += len(piece)
        self._check_size()
        self._write([piece])
        if self.done == self.slot.size or self.done - self._marked >= _AT_RISK:
            self._mark()

    def _is_right(self) -> bool:
        return self.done == self.slot.size and self.slot.digest.matches(self.hasher)

    def _check_size(self) -> None:
        if self._received > self.slot.size:
            raise DigestMismatch(f"{self.slot.digest.short} has more bytes than the {self.slot.size} it should have")

    def _take(self, piece: bytes | memoryview) -> None:
        self._received += len(piece)
        self._check_size()
        self._batch.append(bytes(piece))  # bytes stay what they are; a view lasts until the next piece only

    async def _hand_over(self, tasks: TaskGroup) -> None:
        """Land what has been received, once what was received before it has landed."""
        await self._idle.wait()
        batch, self._batch = self._batch, []
        if not batch and self.slot.size:
            return
        if self._received - self.done <= _INLINE:
            self._land(batch)
        else:
            self._idle = anyio.Event()
            tasks.start_soon(self._land_in_thread, batch)

    async def _land_in_thread(self, batch: list[bytes]) -> None:
        try:
            await to_thread.run_sync(self._land, batch, limiter=self.threads)
        finally:
            self._idle.set()

    def _land(self, batch: Sequence[bytes | memoryview]) -> None:
        try:
            self._write(batch)
            self._mark()
        except SyncerError as error:
            self._failure = error

    def _write(self, batch: Sequence[bytes | memoryview]) -> None:
        self.done = self.partial.write(self.slot, self.done, batch)
        for piece in batch:  # written first: what the disk refused must not be in the hash of what is there
            self.hasher.update(piece)
        self.progress.done = self.done

    def _mark(self) -> None:
        self.partial.mark(self.slot, self.done, self.hasher)
        self._marked = self.done
