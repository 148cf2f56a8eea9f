"""A prune: the tags at targets that a sync file no longer names are listed, and deleted on demand."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import anyio
from msgspec import Struct, field

from syncer.api.sources import Sources, Warn
from syncer.errors import ListIncomplete, RegistryError, SyncerError, UsageError
from syncer.formats.units import CountOrShare
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import Descent
from syncer.profiles.syncfile.document import Target
from syncer.profiles.syncfile.tags import MOST_DELETED, Removal, find_removals
from syncer.registry import Registries, RegistryAddress, delete_tag, repositories
from syncer.registry.repository import Repository
from syncer.report.figures import PrunedTag, PruneStatus

_AT_ONCE = 16  # requests; nobody waits for a prune


async def prune(
    sources: Sources,
    names: Collection[Reference],
    *,
    delete: bool,
    limit: CountOrShare = MOST_DELETED,
    doubted: Collection[Reference] = (),
) -> PruneOutcome:
    """List the tags below the targets' base paths that are not among ``names``; with ``delete`` they are deleted.

    ``names`` is all that the targets are to have, but for what may refer to images of the repositories at targets that
    are ``doubted``.  Doubtful tags are left alone: targets without a base path,
    repositories of sources that could not be listed, tags whose digest something else needs where the registry
    deletes by digest only.  Before anything is deleted, the sources are asked anew: what one of them names by then
    stays, and so does all that belongs to a source that does not answer wholly.  Where more would go than ``limit``
    allows, nothing does.  Raises ``UsageError`` for a shard of the sources.
    """
    sources.require_all()
    prunings = [_Pruning(sources, target, names, doubted) for target in sources.file.targets]
    for pruning in prunings:
        await pruning.look()
    keep, is_deleting = set(names), delete
    if delete and any(pruning.removals(keep) for pruning in prunings):
        anew = sources.anew()
        try:
            keep |= {item.target for item in await anew.find_items()}
        except UsageError as error:
            sources.warn(f"nothing is deleted: the sources contradict each other by now: {error}")
            is_deleting = False
        for pruning in prunings:
            pruning.doubt(anew)
    pruned: dict[Reference, PrunedTag] = {}  # one target may lie below another one
    refused: list[SyncerError] = []
    for pruning in prunings:
        found = [removal for removal in pruning.removals(keep) if removal.name not in pruned]
        try:
            done = await pruning.carry_out(found, limit) if is_deleting else map(_listed, found)
        except _TooMany as error:
            refused.append(error)
            done = map(_listed, found)
        pruned |= {each.name: each for each in done}
    return PruneOutcome(tuple(pruned.values()), tuple(refused))


class PruneOutcome(Struct, frozen=True):
    """The tags that a prune found and deleted; ``refused`` says for which targets it deleted nothing, and why."""

    pruned: tuple[PrunedTag, ...]
    refused: tuple[SyncerError, ...] = ()


class _TooMany(SyncerError):
    """More tags would go than may."""


class _Inventory(Struct):
    """A repository's tags with their digests, and what each index among them and below them lists.

    ``count`` is the number of all its tags, of which ``tags`` may have none if nothing is to be removed.
    """

    count: int = 0
    tags: dict[str, Digest] = field(default_factory=dict)
    needs: dict[Digest, list[Digest]] = field(default_factory=dict)


class _Pruning:
    """The prune of one target."""

    def __init__(
        self, sources: Sources, target: Target, names: Collection[Reference], doubted: Collection[Reference]
    ) -> None:
        self._sources = sources
        self._target = target
        self._names = names  # that are certain to stay
        self._address: RegistryAddress = sources.addresses[target.title]
        self._registries: Registries = sources.supplies.registries
        self._warn: Warn = sources.warn
        self._inventories: dict[str, _Inventory] = {}  # by repository
        self._doubted = {name.repository for name in doubted if name.registry == self._address.host}
        self._incomplete = set(self._doubted)  # repositories that are left alone
        self._is_doubtful = False  # and so is everything

    async def look(self) -> None:
        """Find out what the target has, and of what the sources are not certain."""
        host, base = self._address.host, self._address.base
        self.doubt(self._sources)
        try:
            find_removals({}, (), registry=host, base=base, needs={})
        except UsageError as error:
            if not self._is_doubtful:
                self._warn(str(error))
            self._is_doubtful = True
        if self._is_doubtful:
            return
        for name in sorted(name for name in self._doubted if name.startswith(f"{base}/")):
            self._warn(f"nothing is pruned in {host}/{name}: it cannot be told what refers to its images")
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def look(name: str) -> None:
            async with limiter:
                try:
                    self._inventories[name] = await self._read(name)
                except SyncerError as error:
                    self._warn(f"nothing is pruned in {host}/{name}: {error}")

        async with anyio.create_task_group() as tasks:
            for name in await self._repositories():
                if name.startswith(f"{base}/") and name not in self._incomplete:
                    tasks.start_soon(look, name)

    def doubt(self, sources: Sources) -> None:
        """Leave alone what ``sources`` are not certain of."""
        if not self._is_doubtful and (extent := sources.doubtful_extent(self._target)):
            self._warn(f"nothing is pruned at {self._target.title}: not all of {extent} could be found")
            self._is_doubtful = True
        self._incomplete |= {item.target.repository for item in sources.doubtful_items(self._target)}

    def removals(self, names: Collection[Reference]) -> list[Removal]:
        """The tags that are not among ``names``, but for those that are left alone."""
        if self._is_doubtful:
            return []
        needs = {digest: below for each in self._inventories.values() for digest, below in each.needs.items()}
        return find_removals(
            {name: inventory.tags for name, inventory in self._inventories.items()},
            names,
            registry=self._address.host,
            base=self._address.base,
            needs=needs,
            incomplete=self._incomplete,
        )

    async def carry_out(self, found: list[Removal], limit: CountOrShare) -> list[PrunedTag]:
        """Delete ``found``; raises ``_TooMany`` if they are more than ``limit`` allows."""
        count = sum(inventory.count for inventory in self._inventories.values())
        if not limit.allows(len(found), of=count):
            raise _TooMany(
                f"nothing was deleted below {self._target.title}: {len(found):,} of its {count:,} tags would go, more "
                f"than {limit.spell('tags')}; if that is right, allow it with --max-delete {len(found)}"
            )
        pruned: list[PrunedTag] = []
        is_refused = False
        for removal in found:
            pruned.append(_listed(removal) if is_refused else await self._remove(removal))
            # what the registry refuses once, or does wrongly, is not asked again
            is_refused = is_refused or pruned[-1].status is PruneStatus.FAILED
        return pruned

    async def _repositories(self) -> Iterable[str]:
        host = self._address.host
        named = {name.repository: None for name in self._names if name.registry == host}
        try:
            return named | dict.fromkeys(await repositories(self._registries.registry(host)))
        except RegistryError:
            problem = f"{host} does not list its repositories"
        except ListIncomplete as error:
            problem = str(error)
        self._warn(f"{problem}: only those that the file names are looked into")
        return named

    async def _read(self, name: str) -> _Inventory:
        """Read the tags of a repository; their digests only if not all of them are wanted."""
        repository = self._registries.registry(self._address.host).repository(name)
        try:
            tags = [tag async for tag in repository.tags()]
        except RegistryError as error:
            if error.status == 404:  # it has not been made, or nothing is left of it
                return _Inventory()
            raise
        wanted = {each.tag for each in self._names if (each.registry, each.repository) == (self._address.host, name)}
        inventory = _Inventory(len(tags))
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
