"""The transfer of items: one producer, a bounded channel of jobs, and a bounded pool of workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct, field

from syncer.content import (
    Inspectable,
    Item,
    Limiting,
    Mounting,
    Pausing,
    Progress,
    Ranking,
    Referring,
    Roomy,
    Source,
    Taking,
    Target,
    Vouching,
)
from syncer.errors import (
    BundleChanged,
    ChildrenUnknown,
    DamagedAtSource,
    NotFound,
    SyncerError,
    TargetError,
    TargetFull,
    first_in,
)
from syncer.oci import Index, Platform, Reference
from syncer.oci.manifest import AnyManifest
from syncer.transfer.discovery import (
    Discovery,
    DiscoveryFailure,
    DiscoveryResult,
    ReferrersDoubt,
    Unchanged,
    walkers,
)
from syncer.transfer.events import (
    Committed,
    Copied,
    Emit,
    Event,
    Failed,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    ReferrersUnknown,
    Skipped,
    Started,
)
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Node, Plan, Tree, any_number, largest_first, no_pause

if TYPE_CHECKING:
    from syncer.transfer.blob_spool import SpoolReader


WORKERS = 128
"""The number of blobs and manifests that are transferred at the same time, where both ends take so many."""

_PLENTY = 4  # times the room that the images still to be found would need, if they were as those that are found


class Options(Struct, frozen=True, kw_only=True):
    """The options of a transfer."""

    workers: int = WORKERS  # blobs and manifests that are transferred at the same time, at most
    memory: Memory = field(default_factory=Memory)  # from earlier runs to this target
    recheck: bool = False  # each piece of content is looked for at the target, whatever its names say
    spool: SpoolReader | None = None  # the target's part in the spool of a run to several


async def transfer(items: Sequence[Item], source: Source, target: Target, *, options: Options, emit: Emit) -> None:
    """Bring ``items`` from ``source`` to ``target``: blobs, then manifests, then names.

    Every item ends in exactly one of ImageCopied, ImageSkipped and ImageFailed; one that fails never
    stops the others.  Raises ``TargetFull`` when the target cannot store anything more, and ``BundleChanged`` when the
    source is no more what it was.
    """
    running = _Transfer(source, target, options, emit)
    try:
        await running.run(items)
        if moved := await running.moved():
            await _Transfer(source, target, options, emit, is_second=True).run(moved)
    except* (TargetFull, BundleChanged) as last:
        raise first_in(last) from None


class _Transfer:
    def __init__(
        self, source: Source, target: Target, options: Options, emit: Emit, *, is_second: bool = False
    ) -> None:
        self.source = source
        self.target = target
        self._emit = emit
        self.workers = options.workers
        self.mounting = target if isinstance(target, Mounting) else None
        rank = source.rank if isinstance(source, Ranking) else largest_first
        self.plan = Plan(options.workers, self.mounting is not None, options.memory, rank)
        self.inspected = target if options.recheck and isinstance(target, Inspectable) else None
        self.discovery = Discovery(
            source,
            target,
            options.memory,
            source if isinstance(source, Referring) else None,
            concurrency=walkers(options.workers),
            recheck=self.inspected is not None,
            spool=options.spool,
        )
        self.spool = options.spool
        self.vouching = source if isinstance(source, Vouching) else None
        self.pause = source.pause if isinstance(source, Pausing) else no_pause
        self.capacity = source.capacity if isinstance(source, Limiting) else any_number
        self.taking = target if isinstance(target, Taking) else None
        self.at_work = 0  # nodes that workers have, or are about to have
        self.changed = anyio.Event()
        self.lost: dict[Item, ImageFailed] = {}
        self.is_second = is_second
        self.full: TargetFull | None = None  # when the target will have no room for all
        self.roomy = target if isinstance(target, Roomy) else None
        self.wanted = self.found = 0  # images

    async def run(self, items: Sequence[Item]) -> None:
        self.wanted = len(items)
        send, receive = anyio.create_memory_object_stream[Node](max_buffer_size=0)
        async with anyio.create_task_group() as tasks:
            async with receive:
                for _ in range(self.workers):
                    tasks.start_soon(self._work, receive.clone())
            tasks.start_soon(self._feed, send)
            await self.discovery.run(items, self._deliver)
            if self.full:
                raise self.full
            self.plan.complete = True
            self.changed.set()

    async def moved(self) -> list[Item]:
        """The images that lost content during the run because their tags moved; for the others it emits the failure."""
        moved: list[Item] = []
        for item, failure in self.lost.items():
            try:
                now = (await self.source.resolve(item.source)).digest
            except SyncerError:
                now = self.discovery.roots[item]
            if now == self.discovery.roots[item]:
                self._emit(failure)
            else:
                moved.append(item)
        return moved

    def emit(self, event: Event) -> None:
        if isinstance(event, ImageFailed) and self._may_have_moved(event):
            self.lost[event.item] = event
        else:
            self._emit(event)

    def _may_have_moved(self, failed: ImageFailed) -> bool:
        """Tell whether the content may be gone because somebody pushed the tag anew during the run."""
        is_tag = failed.item.source.digest is None and failed.item in self.discovery.roots
        return is_tag and isinstance(failed.error, NotFound) and not self.is_second

    async def _deliver(self, found: DiscoveryResult) -> None:
        self.found += 1
        if self.spool and isinstance(found, Unchanged | DiscoveryFailure):
            self.spool.come_to(found.item)
        match found:
            case Unchanged(item, root):
                self.emit(ImageSkipped(item, root))
            case DiscoveryFailure(item, error):
                self.emit(ImageFailed(item, error))
            case ReferrersDoubt(item, error):
                self.emit(ReferrersUnknown(item, error))
            case Tree() as tree:
                await self._enter(tree)

    async def _enter(self, tree: Tree) -> None:
        space = self.target.space(tree.item.target)
        added = self.plan.add(tree, space)
        counts = added.blobs, added.bytes, added.deduplicated
        self.emit(Found(tree.item, tree.root, *counts, _platforms(tree), tree.left_out))
        if self.spool:
            needed = [node.descriptor.digest for node in added.new if node.manifest is None]
            self.spool.come_to(tree.item, tree.blobs, needed)
        for node in added.new:
            await self._reserve(node)
        if self.full:
            return
        if error := self.plan.start(tree, added, space):
            self.emit(ImageFailed(tree.item, error))
        self.changed.set()

    async def _reserve(self, node: Node) -> None:
        """Have the target make a place; after one that has no room, to know how much room all of it would need."""
        try:
            await self.target.reserve(node.space, node.descriptor, node.manifest)
        except TargetFull as full:
            is_foreseen = full.__cause__ is None  # and not said by the disk
            if self.full is None and not is_foreseen:
                raise
            self.full = full if is_foreseen else self.full

    async def _feed(self, send: MemoryObjectSendStream[Node]) -> None:
        """Move nodes that are ready into the channel; nodes that wait are not in it yet."""
        async with send:
            while not (self.plan.finished or self.full):
                if node := self._take(self._lanes):
                    await send.send(node)
                else:
                    self.changed = anyio.Event()
                    with anyio.move_on_after(self.plan.shortest_pause(self.pause)):
                        await self.changed.wait()

    @property
    def _lanes(self) -> int:
        """The number of nodes that may be worked on at a time."""
        return min(self.workers, self.taking.lanes) if self.taking else self.workers

    def _take(self, lanes: int) -> Node | None:
        """Take the node to work on next; None when there is none, or no fewer than ``lanes`` are at work."""
        if self.full or self.at_work >= lanes or not self._may_fetch():
            return None
        node = self.plan.take(self.pause, self.capacity, lanes)
        self.at_work += node is not None
        return node

    def _may_fetch(self) -> bool:
        """Tell whether the target has plenty of room for all, as far as what was found of it lets foresee.

        Else nothing is fetched before all is found, so that a disk that is too small is told of first.
        """
        if self.roomy is None or self.plan.complete:
            return True
        return self.found > 0 and self.roomy.is_roomy(_PLENTY * max(1, self.wanted / self.found))

    async def _work(self, jobs: MemoryObjectReceiveStream[Node]) -> None:
        """Work on a node of the channel, and then on the next one that is ready, which costs less than the channel."""
        async with jobs:
            async for given in jobs:
                node: Node | None = given
                while node:
                    await self._finish(node)
                    self.at_work -= 1
                    lanes = self._lanes
                    node = self._take(lanes)
                    if node is None or self.at_work < lanes:
                        self.changed.set()
                    await anyio.lowlevel.checkpoint()

    async def _finish(self, node: Node) -> None:
        is_blob = node.manifest is None
        try:
            await self._perform(node)
        except (TargetFull, BundleChanged):
            raise
        except SyncerError as met:
            error = self._explained(met, node)
            self.emit(Failed(node.descriptor, node.space, error))
            for item in self.plan.fail(node, error):
                self.emit(ImageFailed(item, error))
        else:
            self.plan.done(node)
        if is_blob and self.spool:
            self.spool.done(node.descriptor.digest)

    def _explained(self, error: SyncerError, node: Node) -> SyncerError:
        """``error`` in the words of a source that knows better where the content of ``node`` is wrong."""
        return self.vouching.damaged(node.descriptor) if self.vouching and isinstance(error, DamagedAtSource) else error

    async def _perform(self, node: Node) -> None:
        if node.manifest is not None:
            await self._commit(node, node.manifest)
        elif self.inspected and await self.inspected.holds(node.space, node.descriptor):
            self.emit(Skipped(node.descriptor, node.space))
        elif node.mount_from is None or not await self._mount(node, node.mount_from):
            await self._write(node, force=self.inspected is not None)

    async def _mount(self, node: Node, origin: str) -> bool:
        if self.mounting is None or not await self.mounting.mount(node.space, node.descriptor, origin):
            self.plan.memory.forget(node.descriptor.digest)
            if self.spool:
                self.spool.refuses_mounts()
            return False
        if self.inspected and not await self.inspected.holds(node.space, node.descriptor):
            return False  # the registry believes of another repository what is not so
        node.is_new = True
        self.emit(Mounted(node.descriptor, node.space, origin))
        return True

    async def _write(self, node: Node, *, force: bool = False) -> None:
        progress = Progress(node.descriptor)
        self.emit(Started(progress, node.origin, node.space))
        began = time.monotonic()
        blob = self.source.blob(node.origin, node.descriptor)
        if self.spool:
            blob = self.spool.shared(blob)
        if await self.target.write(node.space, blob, progress, force=force):
            node.is_new = True
            seconds = time.monotonic() - began
            self.emit(Copied(node.descriptor, node.space, seconds, progress.resumed, progress.is_shared))
        else:
            self.emit(Skipped(node.descriptor, node.space))

    async def _commit(self, node: Node, manifest: AnyManifest) -> None:
        node.committing, node.names = node.names, []
        right: list[Item] = []
        if self.inspected:
            node.is_new = node.is_new or not await self.inspected.holds(node.space, node.descriptor)
            right = [] if node.is_new else await self._rightly_named(node)
        names = [item.target for item in node.committing if item not in right]
        if names or node.is_new or not self.inspected:
            await self._store(node, manifest, names)
        for item in node.committing:
            self.emit((ImageSkipped if item in right else ImageCopied)(item, node.descriptor))

    async def _rightly_named(self, node: Node) -> list[Item]:
        """The images that ``node`` is at the target already."""
        digest = node.descriptor.digest
        return [item for item in node.committing if await self.target.current(item.target) == digest]

    async def _store(self, node: Node, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        try:
            await self.target.commit(node.space, manifest, names)
        except ChildrenUnknown as unknown:
            await self._send_again(node, manifest, unknown)
            await self.target.commit(node.space, manifest, names)
        self.emit(Committed(node.descriptor, node.space))

    async def _send_again(self, node: Node, manifest: AnyManifest, unknown: ChildrenUnknown) -> None:
        """Send the children that the target lacks, once: it may have said wrongly that it has them."""
        children = manifest.children(lambda layer: self.plan.has(node.space, layer.digest))
        missing = [child for child in children if str(child.digest) in unknown.digests]
        left_out = {str(layer.digest) for layer in manifest.foreign()} - {str(child.digest) for child in children}
        if not missing and left_out & set(unknown.digests):
            raise TargetError(str(unknown), hint="it wants the foreign layers too: --include-foreign brings them along")
        for child in missing or children:
            if child.digest in self.discovery.manifests:
                await self.target.commit(node.space, self.discovery.manifests[child.digest], [])
            else:
                await self._write(Node(child, node.space, node.origin, None), force=True)


def _platforms(tree: Tree) -> tuple[Platform, ...]:
    root = tree.manifests[tree.root.digest]
    listed = root.manifests if isinstance(root, Index) else ()
    return tuple(child.platform for child in listed if child.platform)
