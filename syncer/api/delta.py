"""A delta at its target: the look for all that it takes to be there, before anything is sent (docs/delta.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
from msgspec import Struct

from syncer.bundle import AssumedBlob, Bundle
from syncer.content import Blob, Item
from syncer.errors import SyncerError, VerificationError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest, Descent
from syncer.registry import Registries, RegistryAddress
from syncer.transfer.discovery import Discovery, DiscoveryFailure, DiscoveryResult
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree

_SHOWN = 3  # blobs that a message names


class AssumedMissing(VerificationError):
    """A registry lacks what a delta takes to be there; nothing was sent.  ``blobs`` are in the order of the bundle."""

    def __init__(self, registry: str, blobs: Sequence[AssumedBlob], checked: int) -> None:
        names = ", ".join(blob.digest.short for blob in blobs[:_SHOWN])
        more = f" and {len(blobs) - _SHOWN:,} more" if len(blobs) > _SHOWN else ""
        super().__init__(
            f"{registry} lacks {len(blobs):,} of the {checked:,} pieces of content that the delta takes to be there: "
            f"{names}{more}; nothing was sent",
            hint="--missing-out FILE lists them, and build --missing FILE makes a bundle of them",
        )
        self.registry = registry
        self.blobs = tuple(blobs)
        self.checked = checked

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.registry, self.blobs, self.checked)


def render_missing(bundle: str, missing: Iterable[AssumedMissing]) -> dict[str, Any]:
    """The document ``syncer/missing@1``: blobs that registries lack, and which of them lack each (docs/delta.md)."""
    lacking: dict[Digest, tuple[int, list[str]]] = {}
    for error in missing:
        for blob in error.blobs:
            lacking.setdefault(blob.digest, (blob.size, []))[1].append(error.registry)
    return {
        "kind": "syncer/missing@1",
        "bundle": bundle,
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "blobs": [
            {"digest": str(digest), "size": size, "registries": registries}
            for digest, (size, registries) in sorted(lacking.items(), key=lambda each: str(each[0]))
        ],
    }


class DeltaSource(Struct, frozen=True):
    """A delta as a source: what it lacks is read where it was found, should a registry not mount it."""

    bundle: Bundle
    registries: Registries
    host: str
    places: Mapping[Digest, str]  # the repository in which each assumed blob was found

    async def resolve(self, reference: Reference) -> Descriptor:
        """See ``content.Source``."""
        return await self.bundle.resolve(reference)

    async def manifest(self, reference: Reference) -> AnyManifest:
        """See ``content.Source``."""
        return await self.bundle.manifest(reference)

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        """See ``content.Source``."""
        place = self.places.get(descriptor.digest)
        if place is None:
            return self.bundle.blob(reference, descriptor)
        return self.registries.blob(Reference(self.host, place, digest=descriptor.digest), descriptor)

    def brings(self, layer: Descriptor) -> bool:
        """See ``content.Bringing``."""
        return self.bundle.brings(layer)


async def find_assumed(
    bundle: Bundle,
    items: Sequence[Item],
    registries: Registries,
    address: RegistryAddress,
    *,
    places: Mapping[Reference, Reference],
    workers: int,
) -> dict[Digest, str]:
    """The repository at ``address`` in which each blob is that ``bundle`` lacks and ``items`` need, by one HEAD each.

    A blob that is not where an image needs it is looked for where the list of the delta says, and in ``places``: the
    names that original names have there.  Raises ``AssumedMissing`` with all that is nowhere, and what the registry
    raises when it does not tell.
    """
    assert bundle.assumed is not None
    registry = registries.registry(address.host, plain_http=address.plain_http)
    repositories = {place.name: target.repository for place, target in places.items()}
    wanted = await _needed(bundle, items)
    found: dict[Digest, str] = {}
    lacking: dict[Digest, AssumedBlob] = {}
    limiter = anyio.CapacityLimiter(workers)

    problems: list[SyncerError] = []

    async def look(blob: AssumedBlob, descriptor: Descriptor, spaces: Iterable[str]) -> None:
        async with limiter:
            try:
                for space in spaces if not problems else ():
                    if await registry.repository(space, "pull").find_blob(descriptor):
                        found[blob.digest] = space
                        return
                lacking[blob.digest] = blob
            except SyncerError as error:  # kept, since leaving a task group would wrap it
                problems.append(error)

    async with anyio.create_task_group() as tasks:
        for digest, (descriptor, spaces) in wanted.items():
            blob = bundle.assumed.blobs[digest]
            tasks.start_soon(look, blob, descriptor, _candidates(blob, spaces, repositories))
    if problems:
        raise problems[0]
    if lacking:
        missing = [blob for digest, blob in bundle.assumed.blobs.items() if digest in lacking]
        raise AssumedMissing(str(address), missing, len(wanted))
    return found


def _candidates(blob: AssumedBlob, spaces: Iterable[str], repositories: Mapping[str, str]) -> Iterable[str]:
    """The repositories to look into for a blob, the likeliest first."""
    listed = dict.fromkeys([*blob.repositories, *(repositories[name] for name in blob.names if name in repositories)])
    both = [space for space in spaces if space in listed]
    return dict.fromkeys([*both, *spaces, *listed])


async def _needed(bundle: Bundle, items: Sequence[Item]) -> dict[Digest, tuple[Descriptor, dict[str, None]]]:
    """Each blob that ``bundle`` lacks, with the repositories of the target that need it."""
    needed: dict[Digest, tuple[Descriptor, dict[str, None]]] = {}

    async def note(found: DiscoveryResult) -> None:
        match found:
            case Tree(item):
                content: Iterable[Descriptor] = found.content
            case DiscoveryFailure(item):  # the push tells why; of an image whose config is not here all is asked for
                content = _content(bundle, item)
            case _:
                return
        for each in content:
            if bundle.assumes(each.digest) and each.digest not in bundle.digests:
                needed.setdefault(each.digest, (each, {}))[1][item.target.repository] = None

    await Discovery(bundle, _Nowhere(), Memory(), None, concurrency=1).run(items, note)
    return needed


class _Nowhere:
    """A target at which no name is taken yet."""

    def space(self, name: Reference) -> str:
        return name.repository

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002  there is none
        return None


def _content(bundle: Bundle, item: Item) -> Iterator[Descriptor]:
    """The content of one image, of all its platforms."""
    root = next((image.descriptor for image in bundle.images if image.reference == item.source), None)
    if root is None:
        return
    descent = Descent(takes=bundle.brings)
    descent.enter(bundle.manifest_by_digest(root.digest, root.media_type))
    for child, is_manifest in descent:
        if is_manifest:
            descent.enter(bundle.manifest_by_digest(child.digest, child.media_type))
        yield child
