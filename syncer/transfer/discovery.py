"""Discovery, the producer of a transfer: from references to indexes, manifests and blobs, in the profile's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct, structs

from syncer.content import Bringing, Explaining, Item, Listing, Referral, Referring, Source, TargetNames, read_whole
from syncer.errors import InvalidContent, NotFound, PlatformMissing, SyncerError
from syncer.oci import Descriptor, Digest, Index, Platform, Reference
from syncer.oci.manifest import MAX_MANIFESTS, AnyManifest, Descent, Takes, load_object, never, reduce_index
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree

if TYPE_CHECKING:
    from syncer.transfer.blob_spool import SpoolReader


_MAX_CONFIG = 8 * 1024 * 1024
_IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


_MOST_LEVELS = 8  # of a signature of an SBOM of an image, and so on


class Unchanged(Struct, frozen=True):
    """An image whose name at the target points to this content already."""

    item: Item
    root: Descriptor
    origin: Descriptor  # what the image's name means at its source, of which a platform may have been taken


class DiscoveryFailure(Struct, frozen=True):
    """An image whose content could not be found completely, and the error."""

    item: Item
    error: SyncerError


class ReferrersDoubt(Struct, frozen=True):
    """An image of which not all referrers could be listed, and the error."""

    item: Item
    error: SyncerError


DiscoveryResult = Tree | Unchanged | DiscoveryFailure | ReferrersDoubt
Deliver = Callable[[DiscoveryResult], Awaitable[None]]


def walkers(concurrency: int) -> int:
    """The images of one registry to walk at the same time, where so many pieces of content may be in flight.

    What is asked of the registry at a time is its own affair.
    """
    return max(min(16, concurrency), concurrency // 2)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Discovery:
    """The walk from images to their manifests and blobs; the source is asked for each manifest once."""

    source: Source
    target: TargetNames
    memory: Memory = dataclasses.field(default_factory=Memory)
    referring: Referring | None = None  # lists the referrers of images; None: they are left out
    concurrency: int = 16  # images of one registry that are walked at the same time
    recheck: bool = False  # a name that is right at the target says nothing about what is below it
    patience: float = 10.0  # seconds for which a slow image may hold up the finished ones behind it
    spool: SpoolReader | None = None  # see ``run.Options``
    manifests: dict[Digest, AnyManifest] = dataclasses.field(default_factory=dict)
    roots: dict[Item, Digest] = dataclasses.field(default_factory=dict)  # the digest of each tag when it was read
    _sizes: dict[Digest, int] = dataclasses.field(default_factory=dict)
    _doubted: set[tuple[str, str, bool]] = dataclasses.field(default_factory=set)  # repositories of which that was said
    _takes: Takes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._takes = self.source.brings if isinstance(self.source, Bringing) else never

    async def run(self, items: Sequence[Item], deliver: Deliver) -> None:
        """Call ``deliver`` with the result for each item, one at a time, in the order of ``items``.

        An image that holds up others for too long loses its turn and comes after them.  An image that fails is a
        result too, and raises nothing.
        """
        turns = _Turns(len(items), self.patience)
        by_registry: dict[str, list[int]] = {}  # so that a paused registry does not hold up the others
        for index, item in enumerate(items):
            by_registry.setdefault(item.source.registry, []).append(index)

        async def look(indexes: Iterator[int]) -> None:
            for index in indexes:
                turns.arrive(index, await self._discover_all(items[index]))

        async with anyio.create_task_group() as tasks:
            for own in by_registry.values():
                shared = iter(own)
                for _ in range(min(self.concurrency, len(own))):
                    tasks.start_soon(look, shared)
            while not turns.over:
                for together in await turns.next():
                    for found in together:
                        await deliver(found)

    async def _discover_all(self, item: Item) -> list[DiscoveryResult]:
        """Discover an image and its referrers."""
        found = await self._discover(item)
        if self.referring is None or not item.referrers or isinstance(found, DiscoveryFailure):
            return [found]
        return [found, *await self._find_referrers(self.referring, item, found)]

    async def _find_referrers(
        self, referring: Referring, image: Item, found: Tree | Unchanged
    ) -> list[DiscoveryResult]:
        """Discover what refers to an image or to a manifest in it, what refers to that, and so on to the end.

        What cannot be told fails nothing: the image itself is known.
        """
        results: list[DiscoveryResult] = []
        asked: set[Digest] = set()
        met = {image.source}
        level: list[Tree | Unchanged] = [found]
        for _ in range(_MOST_LEVELS):
            try:
                manifests = [digest for each in level for digest in await self._manifests_of(each)]
                subjects = [digest for digest in dict.fromkeys(manifests) if digest not in asked]
                if not subjects:
                    return results
                asked.update(subjects)
                referrals = await referring.referrers(image.source, subjects)
            except SyncerError as error:
                return [*results, *self._doubt(image, error)]
            if referrals.doubt is not None:
                results += self._doubt(image, referrals.doubt)
            new = [referral for referral in referrals.found if referral.reference not in met]
            met.update(referral.reference for referral in new)
            if len(met) > MAX_MANIFESTS:
                break
            along = [await self._discover(_referrer_item(image, referral)) for referral in new]
            results += along
            level = [each for each in along if isinstance(each, Tree | Unchanged)]
            if not level:
                return results
        problem = f"more than {MAX_MANIFESTS:,} manifests refer to it, or in more than {_MOST_LEVELS} steps"
        return [*results, *self._doubt(image, InvalidContent(f"{image.source}: {problem}"))]

    def _doubt(self, image: Item, error: SyncerError) -> list[ReferrersDoubt]:
        """The doubt about an image; nothing if the same was said of its repository."""
        key = (image.source.name, image.target.name, image.requires_referrers)
        if key in self._doubted:
            return []
        self._doubted.add(key)
        return [ReferrersDoubt(image, error)]

    async def _manifests_of(self, found: Tree | Unchanged) -> Sequence[Digest]:
        """The manifests of an image, its root first; only those that are not known of an unchanged one are fetched."""
        if isinstance(found, Tree):
            return list(found.manifests)
        item, root = found.item, found.root.digest
        if not (found.origin.is_index or item.platforms):
            return [root]
        below = self.memory.manifests_below(root)
        if below is None:
            below = await self._look_below(item, found.origin.digest)
            self.memory.remember_below(root, below)
        return [root, *below]

    async def _look_below(self, item: Item, origin: Digest) -> tuple[Digest, ...]:
        """The manifests below an image's root, as far as it goes to the target; only indexes are fetched."""
        root = await self._manifest(item.source.at(origin))
        if item.platforms:
            root = await self._for_platforms(item, root)
        below: dict[Digest, None] = {}
        descent = Descent(item.source)
        descent.enter(root)
        for child, is_manifest in descent:
            if is_manifest and child.digest not in below:
                below[child.digest] = None
                if child.is_index:
                    descent.enter(await self._manifest(item.source.at(child.digest), child))
        return tuple(below)

    async def _discover(self, item: Item) -> Tree | Unchanged | DiscoveryFailure:
        try:
            current = None if self.recheck else await self.target.current(item.target)
            if current is None:
                return await self._tree(item, item.source)
            origin = await self.source.resolve(item.source)
            unchanged = Unchanged(item, structs.replace(origin, digest=current), origin)
            if current == self._known_digest(item, origin.digest) and await self._is_listed(item, current):
                return unchanged
            tree = await self._tree(item, item.source.at(origin.digest))
            if tree.root.digest != current:
                return tree
            subject = tree.manifests[current].subject
            return unchanged if subject is None or await self._is_listed(item, current) else tree
        except NotFound as error:
            return DiscoveryFailure(item, await self._explained(item, error))
        except SyncerError as error:
            return DiscoveryFailure(item, error)

    async def _explained(self, item: Item, error: NotFound) -> NotFound:
        """The error in better words, if it is the image itself that is not there, and no part of it."""
        is_itself = error.request.endswith(f"/manifests/{item.source.digest or item.source.tag}")
        if not is_itself or item.subject is not None or not isinstance(self.source, Explaining):
            return error
        return await self.source.explain(item.source, error)

    async def _is_listed(self, item: Item, root: Digest) -> bool:
        """Whether all that a commit of ``root`` does is done: for a referrer, that its subject lists it, too."""
        subject = item.refers_to or self.memory.subject(root)
        if subject is None or not isinstance(self.target, Listing):
            return True
        return await self.target.lists(item.target, subject, root)

    def _known_digest(self, item: Item, root: Digest) -> Digest | None:
        """The digest that ``root`` will have at the target, if that is known without reading the index."""
        return self.memory.reduction(root, item.platforms) if item.platforms else root

    async def _tree(self, item: Item, reference: Reference) -> Tree:
        root = await self._manifest(reference)
        self.roots[item] = root.descriptor.digest
        if item.platforms:
            whole = root.descriptor.digest
            root = await self._for_platforms(item, root)
            self.memory.remember_reduction(whole, item.platforms, root.descriptor.digest)
        if root.subject is not None:
            self.memory.remember_subject(root.descriptor.digest, root.subject.digest)
        return await self._walk(item, root)

    async def _walk(self, item: Item, root: AnyManifest) -> Tree:
        """Walk down from ``root``, and return its tree: every manifest and blob of the image once."""
        manifests = {root.descriptor.digest: root}
        content = {root.descriptor.digest: root.descriptor}
        descent = Descent(item.source, self._takes)
        descent.enter(root)
        for child, is_manifest in descent:
            self._check_size(item.source, child)
            if child.digest in content and (not is_manifest or child.digest in manifests):
                continue  # what one document calls a blob may be a manifest for the next
            if is_manifest:
                manifest = await self._manifest(item.source.at(child.digest), child)
                manifests[child.digest] = manifest
                content[child.digest] = manifest.descriptor
                descent.enter(manifest)
            else:
                content[child.digest] = child
        if isinstance(root, Index) or item.platforms:
            self.memory.remember_below(root.descriptor.digest, list(manifests)[1:])
        foreign = {layer.digest: layer for manifest in manifests.values() for layer in manifest.foreign()}
        left_out = tuple(layer for layer in foreign.values() if layer.digest not in content)
        return Tree(item, root.descriptor, manifests, tuple(content.values()), left_out)

    def _check_size(self, reference: Reference, child: Descriptor) -> None:
        size = self._sizes.setdefault(child.digest, child.size)
        if size != child.size:
            raise InvalidContent(
                f"{reference}: it lists {child.digest.short} with {child.size} bytes, and another image with {size}"
            )

    async def _manifest(self, reference: Reference, expected: Descriptor | None = None) -> AnyManifest:
        known = self.manifests.get(reference.digest) if reference.digest else None
        manifest = known or await self.source.manifest(reference)
        found = manifest.descriptor
        if expected is not None and (found.size != expected.size or found.media_type != expected.media_type):
            raise InvalidContent(
                f"{reference}: its index lists {expected.media_type} of {expected.size} bytes, "
                f"but it is {found.media_type} of {found.size} bytes"
            )
        return self.manifests.setdefault(found.digest, manifest)

    async def _for_platforms(self, item: Item, root: AnyManifest) -> AnyManifest:
        if isinstance(root, Index):
            offered = [child.platform for child in root.manifests if child.platform]
            fitting = [child for child in root.manifests if _fits(child.platform, item)]
            if not any(child.may_be_manifest for child in root.manifests):
                return root  # a cache of BuildKit runs nowhere
            if len(item.platforms) > 1 and fitting:
                return reduce_index(root, fitting)
            if fitting:
                found = await self._manifest(item.source.at(fitting[0].digest), fitting[0])
                return await self._for_platforms(item, found) if isinstance(found, Index) else found
        elif root.config.media_type in _IMAGE_CONFIGS:
            built_for = await self._platform_in_config(item, root.config)
            if built_for is None or _fits(built_for, item):
                return root
            offered = [built_for]
        else:
            return root  # a chart or another artifact has no platform
        wanted = " or ".join(map(str, item.platforms))
        has = f"only {', '.join(dict.fromkeys(map(str, offered)))}" if offered else "and names no platform at all"
        raise PlatformMissing(
            f"{item.source} has no {wanted}, {has}",
            hint="ask for a platform that the image has, or for none, which takes all of them",
        )

    async def _platform_in_config(self, item: Item, config: Descriptor) -> Platform | None:
        if config.size > _MAX_CONFIG:
            raise InvalidContent(f"{item.source}: a config of {config.size} bytes is larger than {_MAX_CONFIG}")
        blob = self.source.blob(item.source, config)
        if self.spool:
            self.spool.foresee(item, [config.digest])
            blob = self.spool.shared(blob)
        return Platform.from_json(load_object(await read_whole(blob)))


def _fits(platform: Platform | None, item: Item) -> bool:
    return platform is not None and any(platform.satisfies(wanted) for wanted in item.platforms)


def _referrer_item(item: Item, referral: Referral) -> Item:
    """The item for a referrer of ``item``: it gets the same repository at the target, and keeps its tag or digest."""
    reference = referral.reference
    target = item.target.at(reference.digest) if reference.digest else item.target.tagged(reference.tag or "")
    return Item(reference, target, item.wanted_by, subject=item.source, refers_to=referral.subject)


class _Turns:
    """The order of results: it decides which may be delivered next."""

    def __init__(self, count: int, patience: float) -> None:
        self._patience = patience
        self._waiting_for = dict.fromkeys(range(count))  # in order
        self._arrived: dict[int, list[DiscoveryResult]] = {}
        self._arrival = anyio.Event()

    @property
    def over(self) -> bool:
        return not self._waiting_for

    def arrive(self, index: int, found: list[DiscoveryResult]) -> None:
        self._arrived[index] = found
        self._arrival.set()

    async def next(self) -> list[list[DiscoveryResult]]:
        """Wait for the results whose turn it is, and return them."""
        while not (ready := self._in_turn()):
            arrival = self._arrival = anyio.Event()
            if not self._arrived:  # nobody is held up
                await arrival.wait()
                continue
            with anyio.move_on_after(self._patience) as patience:
                await arrival.wait()
            if patience.cancelled_caught:
                self._give_up_turn()
        return ready

    def _in_turn(self) -> list[list[DiscoveryResult]]:
        ready = []
        for index in list(self._waiting_for):
            if index not in self._arrived:
                break
            del self._waiting_for[index]
            ready.append(self._arrived.pop(index))
        return ready

    def _give_up_turn(self) -> None:
        """Move the images that have not arrived behind the last one that has."""
        for index in [index for index in self._waiting_for if index < max(self._arrived)]:
            if index not in self._arrived:
                del self._waiting_for[index]
                self._waiting_for[index] = None


async def discover(
    items: Sequence[Item], source: Source, target: TargetNames, *, memory: Memory | None = None, concurrency: int
) -> list[DiscoveryResult]:
    """Find out all that is to be known of ``items``, in their order; nothing is written."""
    found: list[DiscoveryResult] = []

    async def note(each: DiscoveryResult) -> None:
        found.append(each)

    referring = source if isinstance(source, Referring) else None
    await Discovery(source, target, memory or Memory(), referring, concurrency=walkers(concurrency)).run(items, note)
    return found
