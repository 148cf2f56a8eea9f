"""The bundle as a target: each blob is received, hashed and written into its slot at the same time."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import CapacityLimiter, from_thread, to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, field

from syncer.bundle.delta import Assumed, Assumption
from syncer.bundle.framing import Format, PlainFraming, ZstdFraming
from syncer.bundle.layout import ASSUMED, DEFINITION, INDEX, LAYOUT_CONTENT, OCI_LAYOUT, digests_member, write_index
from syncer.bundle.partial import Partial, open_partial
from syncer.bundle.slots import Slot
from syncer.content import Blob, FileProgress, PourableBlob, Progress
from syncer.errors import DamagedAtSource, DigestMismatch, InvalidContent, SyncerError, TargetFull
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest

if TYPE_CHECKING:
    from hashlib import _Hash


_STEPS = 16  # marks that are proven between two chances to be cancelled

BATCH = 512 * 1024
"""Bytes that are hashed and written together; while that happens, as many may arrive."""

_AT_RISK = 2 * BATCH  # bytes, at most, that a killed build has to fetch again of each blob that was under way
_WORTH_A_THREAD = 128 * 1024  # bytes from which on a blob is read, hashed and written in one thread
_WORTH_ALLOCATING = 1024 * 1024  # bytes from which on the place of a blob is allocated as a whole
_INLINE = 64 * 1024  # what is done faster than a thread is woken

_TOLD = 512  # bytes that the last members of a bundle tell of each manifest, more or less


@asynccontextmanager
async def open_writer(
    final: Path,
    *,
    format: Format = "tar.zst",  # noqa: A002 -- the word of the command line
    compression_level: int = 3,
    resume: bool = True,
    force: bool = False,
    assumption: Assumption | None = None,
) -> AsyncIterator[BundleWriter]:
    """A writer of the bundle ``final``, which appears only when it is published.

    Until then it is ``final`` with ``.partial`` appended, beside its journal; both stay when the block
    ends without ``publish``, and the next writer goes on with them if ``resume`` is set.  With an ``assumption`` it is
    a delta: blobs that the target is said to have are left out, and listed in ``assumed.json``.  Raises
    ``AlreadyThere`` when ``final`` exists, unless ``force`` is set, ``Locked`` when another process is
    writing it, and ``TargetFull`` when the disk refuses.
    """
    framing = ZstdFraming(compression_level) if format == "tar.zst" else PlainFraming()
    with open_partial(final, framing, resume=resume, force=force) as partial:
        yield BundleWriter(partial, assumption)


class Published(Struct, frozen=True):
    """The file that a bundle was published as."""

    size: int  # bytes
    padding: int  # bytes of it that are no content, and no part of its form
    is_cramped: bool  # more of it is padding than should be, since the disk had no room for a copy without


class BundleWriter:
    """The target of a build.  It has one space, and no names before it is published."""

    def __init__(self, partial: Partial, assumption: Assumption | None = None) -> None:
        self._partial = partial
        self._assumption = assumption
        self._assumed: dict[Digest, Descriptor] = {}  # what is left out, in the order in which it was reserved
        self._slots = {slot.digest: slot for slot in partial.slots}
        self._needed: set[Digest] = set()  # of these, what committed manifests need
        self._asked: dict[Digest, int] = {}  # what this run reserved, counted in its order
        self._reserved = 0  # bytes of the file that it takes
        self._kept: dict[Digest, Slot] = {}  # what committed manifests need
        self._manifests: set[Digest] = set()
        self._roots: dict[Reference, Descriptor] = {}
        self._threads = CapacityLimiter(max(4, os.cpu_count() or 1))

    def space(self, name: Reference) -> str:  # noqa: ARG002 -- everything in a bundle is one space
        return ""

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002 -- names are written last
        return None

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:  # noqa: ARG002
        """Allot a slot, unless the content has one; a manifest, which is in hand, is written at once.

        Raises ``TargetFull`` when the disk could not hold it, before anything of it is fetched.
        """
        if manifest is not None:
            self._manifests.add(descriptor.digest)
        elif self._assumption and self._assumption.covers(descriptor.digest):
            self._assumed[descriptor.digest] = descriptor
            return
        first = descriptor.digest not in self._asked
        self._asked.setdefault(descriptor.digest, len(self._asked))
        slot = self._slots.get(descriptor.digest)
        is_packed = slot is not None and slot.packed is not None
        if slot is not None and first and (slot.size != descriptor.size or (is_packed and manifest is None)):
            slot = None  # an earlier run was told something else of it
        if manifest is not None:
            self._put(slot, manifest, first=first)
        elif slot is None:
            self._slots[descriptor.digest] = self._partial.allot(descriptor.digest, descriptor.size)
        if first:
            self._reserved += self._slots[descriptor.digest].length(self._partial.framing)
        self._check_room()

    def is_roomy(self, times: float) -> bool:
        return self._partial.has_room(self._partial.end + self._reserved * (times - 1))

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:  # noqa: ARG002
        """Bring ``blob`` into its slot; False when it is there, having been hashed by this run.

        What an earlier run left is hashed, and only the rest is asked for.  Content with another digest
        is asked for once more, from the start; raises ``DigestMismatch`` when it is wrong again.
        """
        if blob.descriptor.digest in self._assumed:
            return False
        slot = self._slots[blob.descriptor.digest]
        if slot.size != blob.descriptor.size:
            raise InvalidContent(f"{slot.digest.short} is listed with the sizes {slot.size} and {blob.descriptor.size}")
        if slot.complete and not force:
            return False
        done, hasher = (0, slot.digest.hasher()) if force else await self._proven(slot)
        if slot.size and done == slot.size:
            slot.complete = True
            return False
        progress.resumed = done
        for _ in range(2):
            landing = Landing(self._partial, slot, done, hasher, progress, self._threads)
            slot.complete = await landing.receive(blob)
            if slot.complete:
                return True
            progress.resumed, done, hasher = 0, 0, slot.digest.hasher()
            self._partial.mark(slot, done, hasher)
        raise DamagedAtSource(
            f"{slot.digest.short} arrived twice with bytes that are not those of its digest",
            hint="the registry, or something on the way to it, alters content; try another source",
        )

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:  # noqa: ARG002
        """Remember ``names`` for ``index.json``; the manifest itself is in its slot since ``reserve``."""
        for descriptor in (manifest.descriptor, *manifest.children(self._takes)):
            if descriptor.digest in self._assumed:
                self._needed.add(descriptor.digest)
                continue
            slot = self._slots.get(descriptor.digest)
            if slot is None or not slot.complete:
                raise InvalidContent(f"{manifest.descriptor.digest.short} lacks its {descriptor.digest.short}")
            self._kept[slot.digest] = slot
        self._roots |= dict.fromkeys(names, manifest.descriptor)

    @property
    def assumed(self) -> Assumed | None:
        """The content that committed manifests need and a delta lacks; None for a whole bundle."""
        if self._assumption is None:
            return None
        left_out = [blob for digest, blob in self._assumed.items() if digest in self._needed]
        return Assumed.of(left_out, self._assumption)

    @property
    def blobs(self) -> int:
        """The number of blobs that committed manifests need and the bundle has."""
        return len(self._kept.keys() - self._manifests)

    def _takes(self, layer: Descriptor) -> bool:
        return layer.digest in self._asked or layer.digest in self._assumed

    async def publish(
        self,
        definition: bytes,
        *,
        allow_partial: bool = False,
        begun: Callable[[FileProgress], None] = lambda _: None,
    ) -> Published:
        """Write ``bundle-definition.yaml``, ``index.json`` and their digests, and give the file its name.

        Content that no committed manifest needs, as of a failed image, gives way to padding, and where that would be
        more than 2 % of the file, the rest is copied into a file without it: ``begun`` is told of that.  Unless
        ``allow_partial`` is set, it is an error that anything was reserved and not committed.  Raises ``TargetFull``
        when another process altered the unfinished file.
        """
        missing = len(self._asked.keys() - self._kept.keys())
        if missing and not allow_partial:
            raise SyncerError(
                f"{missing} of {len(self._asked)} pieces of content are missing, so nothing is published",
                hint="run the same command again to go on, or publish the rest with --allow-partial",
            )
        roots = sorted(self._roots.items(), key=lambda root: self._asked[root[1].digest])
        tail = [(DEFINITION, definition), (INDEX, write_index(roots))]
        if (assumed := self.assumed) is not None:
            tail.insert(0, (ASSUMED, assumed.render()))
        tail.append(digests_member([(OCI_LAYOUT, LAYOUT_CONTENT), *tail]))
        kept = sorted(self._kept.values(), key=lambda slot: self._asked[slot.digest])

        def tell(progress: FileProgress) -> None:
            from_thread.run_sync(begun, progress)

        await to_thread.run_sync(self._partial.check, kept)
        with ExitStack() as stack:
            finished = self._partial.finished(kept, tail, from_thread.check_cancelled, tell)
            partial = await to_thread.run_sync(stack.enter_context, finished)
            await to_thread.run_sync(partial.sync, abandon_on_cancel=True)
            await to_thread.run_sync(partial.publish)
        return Published(size=partial.reached, padding=partial.padding, is_cramped=partial.is_cramped)

    def _check_room(self) -> None:
        """Raise ``TargetFull``, which tells of what an earlier build left and this one has not asked for."""
        try:
            self._partial.check_room(_TOLD * len(self._manifests))
        except TargetFull as full:
            left = [slot for slot in self._partial.slots if slot.digest not in self._asked]
            size = sum(slot.length(self._partial.framing) for slot in left) // 2**20
            if not size:
                raise
            removed = f"removing {self._partial.path} gives back {size} MiB or less, of an earlier build"
            raise TargetFull(str(full), hint=f"{full.hint}; {removed}") from None

    async def _proven(self, slot: Slot) -> tuple[int, _Hash]:
        """How many bytes of the slot's content are in place, and their hash."""
        proven = 0, slot.digest.hasher()
        proofs = self._partial.prove(slot)
        while slot.marks and (steps := await to_thread.run_sync(list, islice(proofs, _STEPS), limiter=self._threads)):
            proven = steps[-1]
        return proven

    def _put(self, slot: Slot | None, manifest: AnyManifest, *, first: bool) -> None:
        """Write a manifest into ``slot``, or into a new one where its compressed form does not fit.

        Where this run asks for it for the ``first`` time, an earlier one may have taken it for a blob.
        """
        digest, content = manifest.descriptor.digest, manifest.content
        draft = slot or Slot(0, digest, len(content), 0)
        packed = self._partial.framing.pack(draft.member(content))
        length = len(packed) if packed else None
        if slot is None or slot.size != len(content) or slot.packed not in (length, length if first else None):
            slot = self._slots[digest] = self._partial.allot(digest, len(content), length)
        if slot.packed is None or packed is None:
            self._partial.write(slot, 0, [content])
        else:
            self._partial.write_packed(slot, packed)
        slot.complete = True


class Landing(Struct):
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
        began = time.monotonic()
        if self.done == self.progress.resumed and self.slot.size >= _WORTH_ALLOCATING:  # nothing has been written yet
            self.partial.allocate(self.slot)
        self.done = self.partial.write(self.slot, self.done, batch)
        written = time.monotonic()
        for piece in batch:  # written first: what the disk refused must not be in the hash of what is there
            self.hasher.update(piece)
        self.progress.done = self.done
        self.progress.writing += written - began
        self.progress.hashing += time.monotonic() - written

    def _mark(self) -> None:
        self.partial.mark(self.slot, self.done, self.hasher)
        self._marked = self.done
