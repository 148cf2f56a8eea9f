"""A prune: the tags at targets that a sync file no longer names are listed, and deleted on demand."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import anyio

from syncer.api.sources import Sources, Warn
from syncer.errors import RegistryError, SyncerError, UsageError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import Descent
from syncer.profiles.syncfile.document import Target
from syncer.profiles.syncfile.removals import Removal, find_removals
from syncer.registry import Registries, RegistryAddress, delete_tag, repositories
from syncer.registry.repository import Repository
from syncer.report.figures import PrunedTag, PruneStatus

_AT_ONCE = 16  # requests; nobody waits for a prune


async def prune(sources: Sources, names: Collection[Reference], *, delete: bool) -> list[PrunedTag]:
    """List the tags below the targets' base paths that are not among ``names``; with ``delete`` they are deleted.

    ``names`` is all that the targets are to have.  Doubtful tags are left alone: targets without a base path,
    repositories of sources that could not be listed, tags whose digest something else needs where the registry
    deletes by digest only.
    """
    pruned: dict[Reference, PrunedTag] = {}  # one target may lie below another one
    for target in sources.file.targets:
        pruning = _Pruning(sources, target, names, delete=delete)
        pruned |= {each.name: each for each in await pruning.carry_out() if each.name not in pruned}
    return list(pruned.values())


@dataclass(slots=True)
class _Inventory:
    """A repository's tags with their digests, and what each index among them and below them lists."""

    tags: dict[str, Digest] = field(default_factory=dict)
    needs: dict[Digest, list[Digest]] = field(default_factory=dict)


class _Pruning:
    """The prune of one target."""

    def __init__(self, sources: Sources, target: Target, names: Collection[Reference], *, delete: bool) -> None:
        self._sources = sources
        self._target = target
        self._names = names
        self._delete = delete
        self._address: RegistryAddress = sources.addresses[target.title]
        self._registries: Registries = sources.supplies.registries
        self._warn: Warn = sources.warn

    async def carry_out(self) -> list[PrunedTag]:
        if doubtful := self._sources.doubtful_extent(self._target):
            self._warn(f"nothing is pruned at {self._target.title}: not all of {doubtful} could be found")
            return []
        try:
            found = await self._removals()
        except UsageError as error:
            self._warn(str(error))
            return []
        pruned: list[PrunedTag] = []
        is_refused = not self._delete
        for removal in found:
            pruned.append(_listed(removal) if is_refused else await self._remove(removal))
            # what the registry refuses once, or does wrongly, is not asked again
            is_refused = is_refused or pruned[-1].status is PruneStatus.FAILED
        return pruned

    async def _removals(self) -> list[Removal]:
        """Find the tags to remove; raises ``UsageError`` for a target without a base path, before anything is asked."""
        base, host = self._address.base, self._address.host
        incomplete = {item.target.repository for item in self._sources.doubtful_items(self._target)}
        find_removals({}, (), registry=host, base=base, needs={})
        listing: dict[str, dict[str, Digest]] = {}
        needs: dict[Digest, list[Digest]] = {}
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def look(name: str) -> None:
            async with limiter:
                try:
                    inventory = await self._read(name)
                except SyncerError as error:
                    self._warn(f"nothing is pruned in {host}/{name}: {error}")
                    return
            listing[name] = inventory.tags
            needs.update(inventory.needs)

        async with anyio.create_task_group() as tasks:
            for name in await self._repositories():
                if name.startswith(f"{base}/") and name not in incomplete:
                    tasks.start_soon(look, name)
        return find_removals(listing, self._names, registry=host, base=base, needs=needs, incomplete=incomplete)

    async def _repositories(self) -> Iterable[str]:
        host = self._address.host
        named = {name.repository: None for name in self._names if name.registry == host}
        try:
            return named | dict.fromkeys(await repositories(self._registries.registry(host)))
        except RegistryError:
            self._warn(f"{host} does not list its repositories: only those that the file names are looked into")
            return named

    async def _read(self, name: str) -> _Inventory:
        """Read the tags of a repository; none if all of them are wanted."""
        repository = self._registries.registry(self._address.host).repository(name)
        try:
            tags = [tag async for tag in repository.tags()]
        except RegistryError as error:
            if error.status == 404:  # it has not been made, or nothing is left of it
                return _Inventory()
            raise
        wanted = {each.tag for each in self._names if (each.registry, each.repository) == (self._address.host, name)}
        inventory = _Inventory()
        for tag in tags if set(tags) - wanted else ():
            descriptor = await repository.resolve(tag)
            inventory.tags[tag] = descriptor.digest
            await _add_below(repository, descriptor, inventory)
        return inventory

    async def _remove(self, removal: Removal) -> PrunedTag:
        repository = self._registries.registry(removal.name.registry).repository(removal.name.repository, "pull,delete")
        assert removal.name.tag is not None
        try:
            is_gone = await delete_tag(repository, removal.name.tag, removal.digest, is_free=removal.is_free)
        except SyncerError as error:
            return PrunedTag(name=removal.name, digest=removal.digest, status=PruneStatus.FAILED, error=error)
        status = PruneStatus.DELETED if is_gone else PruneStatus.KEPT
        return PrunedTag(name=removal.name, digest=removal.digest, status=status)


def _listed(removal: Removal) -> PrunedTag:
    return PrunedTag(name=removal.name, digest=removal.digest, status=PruneStatus.LISTED)


async def _add_below(repository: Repository, root: Descriptor, inventory: _Inventory) -> None:
    """Note what an index lists, and what indexes in it do."""
    descent = Descent(f"{repository.name}@{root.digest}")

    async def enter(descriptor: Descriptor) -> None:
        if descriptor.is_index and descriptor.digest not in inventory.needs:
            index = await repository.manifest(str(descriptor.digest), descriptor.digest)
            inventory.needs[descriptor.digest] = [child.digest for child in index.children()]
            descent.enter(index)

    await enter(root)
    for child, _ in descent:
        await enter(child)
