"""The spool of a run to several targets: a blob that more than one of them needs is read from its source once.

The blob is written to a file on this machine as it comes in, and each target reads it there at its own speed, while it
still grows if need be; nobody gets its last byte before its digest was checked.  The file has no name, so that it is
gone with the process, however that ends.  Where it has no more room, targets that are left behind read from the
source themselves what they lack; and so does every target where the file cannot be written.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, field

from syncer.content import Blob, FileBlob, Item, Pieces, PourableBlob, SharedBlob, WaitingBlob, Withdrawn
from syncer.errors import DigestMismatch, SyncerError, human_bytes
from syncer.files import BlockFile, InPlace, room_for
from syncer.oci import Descriptor, Digest, Reference
from syncer.transfer.events import Emit, Fetched
from syncer.transfer.plan import Needs

MOST = 10_000_000_000
"""The bytes that a spool has at most, unless it is told; and it never has more than half of what its disk has free."""

_AT_ONCE = 8 * BlockFile.BLOCK  # bytes that may be sent before it is looked whether the blob is still there
_PIECE = 512 * 1024  # bytes read at a time

# A target is left behind if it takes so many times as long as the fastest one, and some seconds.
_BEHIND = 3.0
_GRACE = 1.0
_PATIENCE = 2.0  # seconds for which a target that reads nothing waits for room
_LOOK = 0.2  # seconds after which one that waits looks again who is left behind

Warn: TypeAlias = Callable[[str], None]


class _Entry:
    """One blob in the file.  Any thread may call ``grow``, ``wait`` and ``wake``."""

    def __init__(self, blob: Blob, blocks: list[int]) -> None:
        self.blob = blob
        self.descriptor = blob.descriptor
        self.blocks = blocks
        self.readers = 0  # that have it open
        self.is_leaving = False  # it was withdrawn, and they still have it open
        self.began = time.monotonic()
        self.completed: float | None = None
        self.first_read: float | None = None  # when the fastest target had all of it
        self.begun = anyio.Event()  # the source delivers it, and nothing else is waited for
        self.ended = anyio.Event()  # nothing is written any more
        self.fetch = anyio.CancelScope()
        self.failure: Exception | None = None
        self._ready = 0  # bytes that may be read
        self._changed = threading.Condition()

    @property
    def is_small(self) -> bool:
        """True for a blob that is fetched whole before anybody reads it."""
        return self.descriptor.size <= BlockFile.BLOCK

    def grow(self, ready: int) -> None:
        with self._changed:
            self._ready = ready
            self._changed.notify_all()

    def end(self, failure: Exception | None = None) -> None:
        """Let everything be read, or nothing more because of ``failure``."""
        with self._changed:
            if failure is None and self.failure is None:
                self._ready, self.completed = self.descriptor.size, time.monotonic()
            self.failure = self.failure or failure
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, position: int, reader: _SpooledBlob) -> int:
        """The number of bytes that may be read, once it is more than ``position``; raises why it will not be."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready > position or self.failure or reader.has_left)
            if self.failure is not None:
                raise self.failure if reader.has_same_source else Withdrawn
            if self._ready <= position:
                raise Withdrawn
            return self._ready

    def is_left_behind(self, *, by_idle: bool) -> bool:
        """Tell whether the targets that still need the blob are much slower than others were, or do not read it.

        While nobody has read it, they are compared with its source; but only for a target that reads nothing itself.
        """
        if self.completed is None:
            return False
        if self.first_read is None and not self.readers:
            return True
        end = self.first_read or (self.completed if by_idle else None)
        return end is not None and time.monotonic() > end + _GRACE + _BEHIND * (end - self.began)


@dataclass(slots=True, eq=False, repr=False)
class _SpooledBlob(FileBlob):
    """A blob as one target reads it from the spool."""

    descriptor: Descriptor
    file: BlockFile
    entry: _Entry
    has_same_source: bool  # the target would read the blob where the spool reads it
    has_left: bool = False
    is_there = False

    def read_into(self, buffer: memoryview, offset: int) -> int:
        if offset >= self.descriptor.size:
            return 0
        wanted = buffer[: self.entry.wait(offset, self) - offset]
        try:
            self.file.read(self.entry.blocks, offset, wanted)
        except OSError:
            self.entry.end(Withdrawn())
            raise Withdrawn from None
        return len(wanted)

    def in_place(self, offset: int, length: int) -> InPlace | None:
        return self.file.file, self._extents(offset, offset + length)

    def _extents(self, position: int, stop: int) -> Iterator[tuple[int, int]]:
        """The file ranges of a part as they come; they end early where nothing more comes, of which a read tells."""
        while position < stop:
            try:
                end = min(stop, self.entry.wait(position, self), position + _AT_ONCE)
            except (SyncerError, Withdrawn):
                return
            yield from self.file.ranges(self.entry.blocks, position, end - position)
            position = end

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            buffer, position = memoryview(bytearray(min(_PIECE, self.descriptor.size))), offset
            while count := await to_thread.run_sync(self.read_into, buffer, position):
                position += count
                yield buffer[:count]

        yield pieces()

    def close(self) -> None:
        """Let go of those who wait for bytes."""
        self.has_left = True
        self.entry.wake()


class _GrowingBlob(_SpooledBlob, WaitingBlob):
    """A blob that the source still delivers."""

    __slots__ = ()

    async def run(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.close()


class _Writing:
    """A sink that writes a blob into the spool, in any thread, and hashes it."""

    def __init__(self, file: BlockFile, entry: _Entry) -> None:
        self._file = file
        self._entry = entry
        self._size = entry.descriptor.size
        self._hasher = entry.descriptor.digest.hasher()
        self._position = 0

    def __call__(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        self._file.write(self._entry.blocks, self._position, piece)
        self._position += len(piece)
        self._entry.grow(min(self._position, self._size - 1))

    @property
    def is_right(self) -> bool:
        return self._position == self._size and self._entry.descriptor.digest.matches(self._hasher)


class SpoolSettings(Struct, frozen=True, kw_only=True):
    """The directory in which a spool has its file, and the bytes of it at most; None: as ``MOST`` says."""

    directory: Path
    size: int | None = None


class BlobSpool:
    """The spool of one run, whose file is made when the first blob needs it; see ``open_spool``."""

    def __init__(
        self,
        settings: SpoolSettings,
        items: Iterable[tuple[str, Item]],
        fetching: TaskGroup,
        files: ExitStack,
        *,
        emit: Emit,
        warn: Warn,
    ) -> None:
        self.needs = Needs(items, self._forsake)
        self._settings = settings
        self._fetching = fetching
        self._files = files
        self._emit = emit
        self._warn: Warn | None = warn
        self._file: BlockFile | None = None
        self._is_off = False
        self._entries: dict[Digest, _Entry] = {}
        self._spoilt: set[Digest] = set()  # blobs that came once, and were not what their digests say
        self._reading = Counter[str]()  # blobs that each target has open
        self.unmounting: set[str] = (
            set()
        )  # targets that have refused a mount, each repository of which reads for itself
        self._leaving = 0  # blocks of blobs that were withdrawn, and are still open
        self._freed = anyio.Event()
        self._next_look = 0.0  # monotonic: when it may be looked again who is left behind
        self._is_stuck = False  # those who should leave did not, while somebody waited

    def shared(self, target: str, blob: Blob) -> Blob:
        """``blob`` as ``target`` reads it: by way of the spool if that spares the source something."""
        digest = blob.descriptor.digest
        if self._is_off or isinstance(blob, FileBlob) or not blob.descriptor.size:
            return blob
        wanted = self.needs.of(digest)
        is_wanted_again = target in self.unmounting and wanted[target] > 1
        if len(wanted) > 1 or is_wanted_again or digest in self._entries:
            return _Shared(blob.descriptor, blob, self, target)
        return blob

    @asynccontextmanager
    async def open(self, target: str, blob: Blob) -> AsyncIterator[_SpooledBlob | None]:
        """``blob`` in the spool for the length of the block, in which ``target`` reads it; None without room for it.

        Waits until the source delivers it, and for a small blob until all of it is there.
        """
        entry = await self._find(target, blob)
        if entry is None:
            yield None
            return
        assert self._file is not None
        entry.readers += 1
        self._reading[target] += 1
        try:
            await (entry.ended if entry.is_small else entry.begun).wait()
            if isinstance(entry.failure, Withdrawn) and not entry.failure.is_spoilt:
                yield None
                return
            kind = _SpooledBlob if entry.ended.is_set() else _GrowingBlob
            spooled = kind(entry.descriptor, self._file, entry, has_same_source=blob == entry.blob)
            try:
                yield spooled
            finally:
                spooled.close()
            entry.first_read = entry.first_read or time.monotonic()
        finally:
            entry.readers -= 1
            self._reading[target] -= 1
            self._tidy(entry)

    async def _find(self, target: str, blob: Blob) -> _Entry | None:
        """The entry of a blob, which is made if need be; waits for room while ``target`` has others to read."""
        count = BlockFile.count(blob.descriptor.size)
        busy_until = time.monotonic()
        while True:
            if entry := self._entries.get(blob.descriptor.digest):
                return entry
            file = self._open_file()
            if file is None or count > file.limit:
                return None
            now = time.monotonic()
            if self._reading[target]:
                busy_until = now
            self._withdraw(file.taken + count - file.limit, by_idle=not self._reading[target])
            if (blocks := file.take(count)) is not None:
                return self._begin(blob, blocks)
            if not self._reading[target] and (self._is_stuck or now > busy_until + _PATIENCE):
                self._is_stuck = True
                return None
            with anyio.move_on_after(_LOOK):
                await self._freed.wait()

    def _begin(self, blob: Blob, blocks: list[int]) -> _Entry:
        entry = self._entries[blob.descriptor.digest] = _Entry(blob, blocks)
        self._fetching.start_soon(self._fetch, entry)
        return entry

    async def _fetch(self, entry: _Entry) -> None:
        """Bring a blob into the file; its readers are told what goes wrong."""
        blob = entry.blob
        failure: Exception | None = Withdrawn()
        try:
            with entry.fetch:
                # or those who wait for its bytes could hold what it waits for
                async with blob.permit() if isinstance(blob, PourableBlob) else nullcontext():
                    entry.begun.set()
                    failure = await self._write(entry)
        except OSError as refusal:  # of the file: a source raises none
            assert self._file is not None
            self._file.shrink()
            self._cannot(refusal)
        except SyncerError as error:
            failure = error
        finally:
            entry.end(failure)
            entry.begun.set()
            entry.ended.set()
            if entry.failure is not None and not isinstance(entry.failure, DigestMismatch):
                self._forget(entry)
            self._tidy(entry)

    async def _write(self, entry: _Entry) -> Exception | None:
        """Write a blob into its entry, and return what is wrong with it; raises ``OSError`` when the file refuses."""
        assert self._file is not None
        blob, descriptor = entry.blob, entry.descriptor
        writing = _Writing(self._file, entry)
        if isinstance(blob, PourableBlob) and not entry.is_small:
            await blob.pour(writing)
        else:
            async with blob.open() as pieces:
                async for piece in pieces:
                    writing(memoryview(piece))
        if writing.is_right:
            self._emit(Fetched(descriptor))
            return None
        if descriptor.digest not in self._spoilt:  # on the way, perhaps: it is fetched once more
            self._spoilt.add(descriptor.digest)
            return Withdrawn(is_spoilt=True)
        return DigestMismatch(f"the content of {descriptor} at its source is not what its digest says")

    def _open_file(self) -> BlockFile | None:
        if self._file is None and not self._is_off:
            directory, size = self._settings.directory, self._settings.size
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=directory, buffering=0) as unnamed:
                    file = os.dup(unnamed.fileno())
                self._files.callback(os.close, file)
                free = room_for(file)
                wanted = size if size is not None else MOST if free is None else min(MOST, free // 2)
                limit = wanted if free is None else min(wanted, free)
                if limit < wanted:
                    self._tell(f"has room for {human_bytes(limit)} and not {human_bytes(wanted)}: what does not fit")
                self._file = BlockFile(file, limit)
            except OSError as error:
                self._is_off = True
                self._cannot(error)
        return self._file

    def _cannot(self, error: OSError) -> None:
        self._tell(f"cannot be written ({error.strerror or error}): what several targets need")

    def _tell(self, why: str) -> None:
        if warn := self._warn:
            again = "is read from its source again; --state-dir names another directory"
            warn(f"the spool in {self._settings.directory} {why} {again}")
        self._warn = None

    def _withdraw(self, lacking: int, *, by_idle: bool) -> None:
        """Withdraw blobs from those who are left behind, so that ``lacking`` blocks become free; unread ones first."""
        lacking -= self._leaving
        now = time.monotonic()
        if lacking <= 0 or now < self._next_look:
            return
        self._next_look = now + _LOOK / 4  # many may wait
        behind = [entry for entry in self._entries.values() if entry.is_left_behind(by_idle=by_idle)]
        for entry in sorted(behind, key=lambda entry: (entry.readers > 0, entry.began)):
            if lacking <= 0:
                break
            lacking -= len(entry.blocks)
            entry.is_leaving = True
            self._leaving += len(entry.blocks)
            entry.end(Withdrawn())
            self._forget(entry)
            self._tidy(entry)

    def _forsake(self, digest: Digest) -> None:
        if entry := self._entries.get(digest):
            self._tidy(entry)

    def _forget(self, entry: _Entry) -> None:
        """Let the next reader fetch the blob anew."""
        if self._entries.get(entry.descriptor.digest) is entry:
            del self._entries[entry.descriptor.digest]

    def _tidy(self, entry: _Entry) -> None:
        """Free the blocks of a blob that nobody reads, or will read."""
        digest = entry.descriptor.digest
        if entry.readers or (self._entries.get(digest) is entry and digest in self.needs):
            return
        self._forget(entry)
        if not entry.ended.is_set():
            entry.fetch.cancel()  # which comes back here
            return
        assert self._file is not None
        self._leaving -= len(entry.blocks) if entry.is_leaving else 0
        with suppress(OSError):
            self._file.give(entry.blocks)
        entry.blocks, entry.is_leaving = [], False
        self._is_stuck = False
        self._freed.set()
        self._freed = anyio.Event()


@asynccontextmanager
async def open_spool(
    settings: SpoolSettings, items: Iterable[tuple[str, Item]], *, emit: Emit, warn: Warn
) -> AsyncIterator[BlobSpool]:
    """Open a spool for the block, in which ``items`` are transferred, each to the target that stands before it.

    ``emit`` hears of each blob that was fetched; ``warn`` is told, once, why the file cannot be written.
    """
    with ExitStack() as files:
        async with anyio.create_task_group() as fetching:
            yield BlobSpool(settings, items, fetching, files, emit=emit, warn=warn)
            fetching.cancel_scope.cancel()


class SpoolReader(Struct):
    """One target's part in a spool: the engine tells what the target needs, and gets blobs for it."""

    spool: BlobSpool
    target: str
    _image: Reference | None = field(default=None)  # to which the target has come

    def shared(self, blob: Blob) -> Blob:
        """``blob`` as the target reads it: by way of the spool if that spares the source something."""
        return self.spool.shared(self.target, blob)

    def foresee(self, item: Item, blobs: Iterable[Digest]) -> None:
        """Note that ``item`` has ``blobs``, which other targets may need as well."""
        self.spool.needs.foresee(item.subject or item.source, blobs)

    def come_to(self, item: Item, blobs: Iterable[Digest] = (), needed: Iterable[Digest] = ()) -> None:
        """Note what discovery found of ``item``, whose referrers come after it.

        It has ``blobs``, and the target needs each of ``needed`` as often as it is named.
        """
        self.foresee(item, blobs)
        self.spool.needs.add(self.target, needed)
        if item.subject is None:
            if self._image is not None:
                self.spool.needs.come_to(self.target, self._image)
            self._image = item.source

    def done(self, digest: Digest) -> None:
        """Note that the target needs a blob once less."""
        self.spool.needs.remove(self.target, digest)

    def refuses_mounts(self) -> None:
        """Note that the target does not mount, so that it needs a blob once for each of its repositories."""
        self.spool.unmounting.add(self.target)

    def close(self) -> None:
        """Note that the target needs nothing more."""
        self.spool.needs.leave(self.target)


@dataclass(slots=True, eq=False, repr=False)
class _Shared(SharedBlob):
    """A blob that one target reads from the spool, or from its source if it must."""

    descriptor: Descriptor
    own: Blob
    spool: BlobSpool
    target: str
    _is_withdrawn: bool = False

    @asynccontextmanager
    async def share(self) -> AsyncIterator[Blob]:
        if self._is_withdrawn:
            yield self.own
            return
        async with self.spool.open(self.target, self.own) as spooled:
            try:
                yield spooled or self.own
            finally:
                failure = spooled.entry.failure if spooled else None
                is_spoilt = isinstance(failure, Withdrawn) and failure.is_spoilt
                self._is_withdrawn = failure is not None and not is_spoilt

    def open(self, offset: int = 0) -> AbstractAsyncContextManager[Pieces]:
        """The bytes from ``offset`` on, from the source."""
        return self.own.open(offset)
