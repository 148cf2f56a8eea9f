"""A bundle as a target: every piece of content has its slot, and workers write into theirs in parallel.

The slots lie in the order of ``reserve``, so the same calls make the same file, whatever arrives first.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread

from syncer.bundle.framing import Format, PlainFraming, ZstdFraming
from syncer.bundle.landing import Landing
from syncer.bundle.layout import DEFINITION, INDEX, write_index
from syncer.bundle.partial import Partial, open_partial
from syncer.bundle.slots import Slot
from syncer.content import Blob, Progress
from syncer.errors import DigestMismatch, InvalidContent, SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest

if TYPE_CHECKING:
    from hashlib import _Hash

_STEPS = 16  # marks that are proven between two chances to be cancelled


@asynccontextmanager
async def open_writer(
    final: Path,
    *,
    format: Format = "tar.zst",  # noqa: A002 -- the word of the command line
    compression_level: int = 3,
    resume: bool = True,
    force: bool = False,
) -> AsyncIterator[BundleWriter]:
    """A writer of the bundle ``final``, which appears only when it is published.

    Until then it is ``final`` with ``.partial`` appended, beside its journal; both stay when the block
    ends without ``publish``, and the next writer goes on with them if ``resume`` is set.  Raises
    ``AlreadyThere`` when ``final`` exists, unless ``force`` is set, ``Locked`` when another process is
    writing it, and ``TargetFull`` when the disk refuses.
    """
    framing = ZstdFraming(compression_level) if format == "tar.zst" else PlainFraming()
    with open_partial(final, framing, resume=resume, force=force) as partial:
        yield BundleWriter(partial)


class BundleWriter:
    """The target of a build.  It has one space, and no names before it is published."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._slots = {slot.digest: slot for slot in partial.slots}
        self._asked: dict[Digest, int] = {}  # what this run reserved, counted in its order
        self._kept: dict[Digest, Slot] = {}  # what committed manifests need
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
        first = descriptor.digest not in self._asked
        self._asked.setdefault(descriptor.digest, len(self._asked))
        slot = self._slots.get(descriptor.digest)
        if slot is not None and first and slot.size != descriptor.size:
            slot = None  # an earlier run was told another size
        if manifest is not None:
            self._put(slot, manifest)
        elif slot is None:
            self._slots[descriptor.digest] = self._partial.allot(descriptor.digest, descriptor.size)
        self._partial.check_room()

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:  # noqa: ARG002
        """Bring ``blob`` into its slot; False when it is there, having been hashed by this run.

        What an earlier run left is hashed, and only the rest is asked for.  Content with another digest
        is asked for once more, from the start; raises ``DigestMismatch`` when it is wrong again.
        """
        slot = self._slots[blob.descriptor.digest]
        if slot.size != blob.descriptor.size:
            raise InvalidContent(f"{slot.digest.short} is listed with the sizes {slot.size} and {blob.descriptor.size}")
        if slot.complete and not force:
            return False
        done, hasher = (0, slot.digest.hasher()) if force else await self._proven(slot)
        if slot.size and done == slot.size:
            slot.complete = True
            return False
        for _ in range(2):
            landing = Landing(self._partial, slot, done, hasher, progress, self._threads)
            slot.complete = await landing.receive(blob)
            if slot.complete:
                return True
            done, hasher = 0, slot.digest.hasher()
            self._partial.mark(slot, done, hasher)
        raise DigestMismatch(
            f"{slot.digest.short} arrived twice with bytes that are not those of its digest",
            hint="the registry, or something on the way to it, alters content; try another source",
        )

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:  # noqa: ARG002
        """Remember ``names`` for ``index.json``; the manifest itself is in its slot since ``reserve``."""
        for descriptor in (manifest.descriptor, *manifest.children()):
            slot = self._slots.get(descriptor.digest)
            if slot is None or not slot.complete:
                raise InvalidContent(f"{manifest.descriptor.digest.short} lacks its {descriptor.digest.short}")
            self._kept[slot.digest] = slot
        self._roots |= dict.fromkeys(names, manifest.descriptor)

    async def publish(self, definition: bytes, *, allow_partial: bool = False) -> None:
        """Write ``bundle-definition.yaml`` and ``index.json``, and give the file its name.

        Content that no committed manifest needs, as of a failed image, gives way to padding; unless
        ``allow_partial`` is set, it is an error that anything was reserved and not committed.
        """
        missing = len(self._asked.keys() - self._kept.keys())
        if missing and not allow_partial:
            raise SyncerError(
                f"{missing} of {len(self._asked)} pieces of content are missing, so nothing is published",
                hint="run the same command again to go on, or publish the rest with --allow-partial",
            )
        roots = sorted(self._roots.items(), key=lambda root: self._asked[root[1].digest])
        tail = [(DEFINITION, definition), (INDEX, write_index(roots))]
        await to_thread.run_sync(self._partial.finish, list(self._kept.values()), tail)
        await to_thread.run_sync(self._partial.sync, abandon_on_cancel=True)
        await to_thread.run_sync(self._partial.publish)

    async def _proven(self, slot: Slot) -> tuple[int, _Hash]:
        """How many bytes of the slot's content are in place, and their hash."""
        proven = 0, slot.digest.hasher()
        proofs = self._partial.prove(slot)
        while slot.marks and (steps := await to_thread.run_sync(list, islice(proofs, _STEPS), limiter=self._threads)):
            proven = steps[-1]
        return proven

    def _put(self, slot: Slot | None, manifest: AnyManifest) -> None:
        """Write a manifest into ``slot``, or into a new one where its compressed form does not fit."""
        digest, content = manifest.descriptor.digest, manifest.content
        draft = slot or Slot(0, digest, len(content), 0)
        packed = self._partial.framing.pack(draft.member(content))
        length = len(packed) if packed else None
        if slot is None or slot.size != len(content) or slot.packed not in (length, None):
            slot = self._slots[digest] = self._partial.allot(digest, len(content), length)
        if slot.packed is None or packed is None:
            self._partial.write(slot, 0, [content])
        else:
            self._partial.write_packed(slot, packed)
        slot.complete = True
