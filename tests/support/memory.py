"""Ends in memory, for tests of the engine: they hold content, keep the rules of a registry, and count."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from syncer.content import Blob, Pieces, Progress
from syncer.errors import ChildrenUnknown, NotFound, SyncerError
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from syncer.oci.manifest import AnyManifest
from tests.support.images import Image


@dataclass(slots=True)
class MemoryBlob:
    descriptor: Descriptor
    content: bytes

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            yield self.content[offset:]

        yield pieces()


@dataclass(slots=True)
class MemorySource:
    """Holds images; counts how often each digest was asked for."""

    names: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, Image] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, image: Image) -> Reference:
        reference = Reference.parse(name)
        self.names[str(reference)] = image.digest
        self.manifests |= {manifest.digest: manifest for manifest in image.manifests()}
        self.blobs |= image.all_blobs()
        return reference

    async def resolve(self, reference: Reference) -> Descriptor:
        return self._find(reference).descriptor

    async def manifest(self, reference: Reference) -> AnyManifest:
        found = self._find(reference)
        self.reads[str(found.descriptor.digest)] += 1
        return found

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        digest = str(descriptor.digest)
        self.reads[digest] += 1
        if digest not in self.blobs:
            raise NotFound(f"GET {digest}", 404)
        return MemoryBlob(descriptor, self.blobs[digest])

    def _find(self, reference: Reference) -> AnyManifest:
        image = self.manifests.get(str(reference.digest) if reference.digest else self.names.get(str(reference), ""))
        if image is None:
            raise NotFound(f"GET {reference}", 404)
        return parse_manifest(image.content, image.media_type, expected=reference.digest)


@dataclass(slots=True)
class MemoryTarget:
    """Refuses a manifest whose children are missing, as a registry does."""

    names: dict[str, str] = field(default_factory=dict)
    content: dict[str, set[str]] = field(default_factory=dict)  # by space
    reserved: list[str] = field(default_factory=list)
    received: Counter[str] = field(default_factory=Counter)
    refuses: dict[str, SyncerError] = field(default_factory=dict)  # by space and digest
    forgets: set[str] = field(default_factory=set)  # digests it claims to have, until it must name them

    def space(self, name: Reference) -> str:
        return name.name

    async def current(self, name: Reference) -> Digest | None:
        digest = self.names.get(str(name))
        return Digest.parse(digest) if digest else None

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        self.reserved.append(str(descriptor.digest))

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:
        digest = str(blob.descriptor.digest)
        if error := self.refuses.get(f"{space} {digest}"):
            raise error
        if digest in self.forgets and not force:
            return False
        async with blob.open() as pieces:
            async for piece in pieces:
                progress.done += len(piece)
        self.received[digest] += 1
        self.content.setdefault(space, set()).add(digest)
        return True

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        held = self.content.setdefault(space, set())
        missing = [str(child.digest) for child in manifest.children() if str(child.digest) not in held]
        if missing:
            raise ChildrenUnknown(f"PUT {space}", 400, ["unknown"], missing)
        held.add(str(manifest.descriptor.digest))
        self.names |= {str(name): str(manifest.descriptor.digest) for name in names}


@dataclass(slots=True)
class MountingTarget(MemoryTarget):
    mounted: list[tuple[str, str, str]] = field(default_factory=list)

    async def mount(self, space: str, descriptor: Descriptor, origin: str) -> bool:
        digest = str(descriptor.digest)
        if digest not in self.content.get(origin, ()):
            return False
        self.content.setdefault(space, set()).add(digest)
        self.mounted.append((space, digest, origin))
        return True
