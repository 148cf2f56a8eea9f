"""The list of what a registry has, by which a build elsewhere leaves that out: ``syncer have`` (docs/delta.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct, field

from syncer.api.bundles import read_contents_at
from syncer.api.definitions import StoredBundle
from syncer.api.delta import blobs_below
from syncer.api.result import for_each
from syncer.content import Item
from syncer.errors import Denied, NetworkError, NotFound, RegistryError, SyncerError, UsageError
from syncer.naming import REPOSITORY, NameMapping, complete_mapping
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.oci.reference import subject_tag
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries, repositories
from syncer.registry.repository import Repository
from syncer.report.figures import instant
from syncer.transfer.memory import Contents, Have
from syncer.transfer.run import WORKERS

_MOST_LEVELS = 8  # of referrers of referrers


class Inventory(Struct, frozen=True, kw_only=True):
    """The list of a registry's content, and what the look at it came upon."""

    have: Have
    images: int  # that were found, by their names
    gone: int = 0  # images that definitions name and the registry lacks
    lost: int = 0  # blobs that manifests name and a repository lacks; known only if each was asked for
    troubles: tuple[str, ...] = ()  # the problems of the list, with the registry's own words


async def have(
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    deep: bool = False,
    tags: bool = False,
    settings: RegistrySettings | None = None,
    concurrency: int = WORKERS,
) -> Inventory:
    """List the content at ``registry`` (``[http://]HOST[:PORT][/BASE]``), by its definitions or else by its catalog.

    Each manifest is read once, and the blobs that it names are taken to be there, since a registry takes no manifest
    without them; with ``deep`` each of them is asked for as well, and so is all that refers to an image.  ``mapping``
    is noted as the rules by which content landed there, and ``tags`` brings the tags into the list.  What could not be
    seen is not in the list, which says so.  Raises ``Denied`` where nothing at all may be seen, and ``NetworkError``
    when the registry does not answer.
    """
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    async with open_registries(settings or RegistrySettings()) as registries:
        registries.registry(address.host, plain_http=address.plain_http)
        look = _Look(registries, address, concurrency, deep=deep)
        await look.at_images()
        await look.at_referrers()
        if deep:
            await look.at_blobs()
        if tags:
            await look.at_tags()
        return look.result(mapping, with_tags=tags)


class _Image(Struct, frozen=True):
    """An image that was read: its repository, and its manifests with the root first."""

    repository: str
    manifests: Sequence[Digest]


class _Look(Struct):
    """The look at one registry."""

    registries: Registries
    address: RegistryAddress
    concurrency: int
    deep: bool
    blobs: dict[Digest, set[str]] = field(default_factory=dict)  # with their repositories
    manifests: dict[Digest, set[str]] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)  # of the repositories whose tags were listed
    has_usual_names: bool = False  # all is where it lands if names are not mapped
    gone: int = 0
    lost: int = 0
    _images: list[_Image] = field(default_factory=list)
    _descriptors: dict[Digest, Descriptor] = field(default_factory=dict)  # of the blobs
    _contents: list[Contents] = field(default_factory=list)  # that pushes left beside the definitions
    _met: set[tuple[str, str]] = field(default_factory=set)  # repositories, with what was asked for in them
    _problems: set[str] = field(default_factory=set)
    _troubles: dict[str, None] = field(default_factory=dict)  # the problems in the registry's own words

    async def at_images(self) -> None:
        """Look at the images that the definitions name, or where there are none at those of the catalog."""
        denied: Denied | None = None
        try:
            definitions = [tag async for tag in self._repository(f"{self._prefix}{REPOSITORY}").tags()]
        except NotFound:
            definitions = []
        except Denied as error:  # as some registries say of a repository that they lack
            definitions, denied = [], error
        except NetworkError:
            raise
        except SyncerError as error:
            definitions = []
            self._note("the definitions could not be listed", error)
        items = await self._items(sorted(definitions))
        if items is None:
            await self._at_catalog(denied)
            return
        usual = complete_mapping(None, self.address.base)
        self.has_usual_names = all(self._is_named_by(usual, item) for item in items)
        places = [item.source for item in items if item.source.repository.startswith(self._prefix)]
        wanted = dict.fromkeys((place.repository, str(place.digest or place.tag)) for place in places)
        await for_each(wanted, self._at_image, self.concurrency)

    async def at_referrers(self) -> None:
        """Look at what refers to the images, wherever one image of the same origin has any; ``deep`` looks at all.

        A request for each image would double the number of requests, mostly in vain: whoever signs signs all.
        """
        origins: dict[str, list[_Image]] = {}
        for image in sorted(self._images, key=lambda image: (image.repository, image.manifests[0])):
            path = image.repository.removeprefix(self._prefix).split("/")
            origins.setdefault("/".join(path[:2]), []).append(image)
        first = [images[0] for images in origins.values()]
        signed: set[str] = set()

        async def try_first(image: _Image) -> None:
            if await self._at_referrers_of(image.repository, image.manifests[:1]):
                signed.add(image.repository)

        if not self.deep:
            await for_each(first, try_first, self.concurrency)
        rest = [images for images in origins.values() if self.deep or images[0].repository in signed]
        await for_each([image for images in rest for image in images], self._at_all_referrers_of, self.concurrency)

    async def at_blobs(self) -> None:
        """Ask for each blob in each of its repositories, and forget those that are not said to be there."""

        async def ask(job: tuple[Digest, str]) -> None:
            digest, repository = job
            is_there = False
            try:
                is_there = await self._repository(repository).find_blob(self._descriptors[digest])
                self.lost += not is_there
            except NetworkError:
                raise
            except SyncerError as error:
                self._note(f"not all blobs of {repository} could be asked for", error)
            if not is_there:
                self.blobs[digest].discard(repository)

        jobs = [(digest, repository) for digest, places in self.blobs.items() for repository in sorted(places)]
        await for_each(jobs, ask, self.concurrency)

    async def at_tags(self) -> None:
        """List the tags of all repositories that have anything."""
        names = {name for places in (self.blobs, self.manifests) for found in places.values() for name in found}
        await for_each(sorted(names - self.tags.keys()), self._list_tags, self.concurrency)

    def result(self, mapping: NameMapping | None, *, with_tags: bool) -> Inventory:
        """The list of all that was seen."""
        usual = NameMapping() if self.has_usual_names else None
        rules = mapping or usual
        tags = {name.removeprefix(self._prefix): sorted(tags) for name, tags in self.tags.items() if tags}
        found = Have(
            registry=self.address.host,
            base=self.address.base,
            date=instant(datetime.now(UTC), "seconds"),
            mapping=rules.fingerprint if rules else None,
            problems=tuple(sorted(self._problems)),
            blobs=self._below(self.blobs),
            manifests=self._below(self.manifests),
            tags=tags if with_tags else None,
        )
        troubles = tuple(sorted(self._troubles))
        return Inventory(have=found, images=len(self._images), gone=self.gone, lost=self.lost, troubles=troubles)

    @property
    def _prefix(self) -> str:
        return f"{self.address.base}/" if self.address.base else ""

    def _below(self, places: Mapping[Digest, set[str]]) -> dict[str, list[str]]:
        """``places`` with the names of repositories below the base path."""
        return {
            str(digest): sorted(name.removeprefix(self._prefix) for name in names)
            for digest, names in places.items()
            if names
        }

    def _repository(self, name: str) -> Repository:
        return self.registries.repository(Reference(self.address.host, name))

    async def _items(self, definitions: Sequence[str]) -> list[Item] | None:
        """What the definitions name; None where none of them can be read."""
        read: dict[str, Sequence[Item]] = {}

        async def ask(tag: str) -> None:
            stored = Reference(self.address.host, f"{self._prefix}{REPOSITORY}", tag)
            try:
                read[tag], contents = await read_contents_at(StoredBundle(stored), self.registries)
                if not self.deep:
                    self._contents.append(contents)
            except NotFound:
                pass  # it was deleted meanwhile
            except NetworkError:
                raise
            except SyncerError as error:
                self._note("a definition could not be read", error, about=f"{stored}: ")

        await for_each(definitions, ask, self.concurrency)
        return [item for tag in definitions if tag in read for item in read[tag]] if read else None

    def _is_named_by(self, mapping: NameMapping, item: Item) -> bool:
        try:
            place = mapping.target(item.target, registry=self.address.host, base=self.address.base)
        except UsageError:
            return False
        return place.repository == item.source.repository

    async def _at_catalog(self, denied: Denied | None) -> None:
        """Look at what the catalog and the tags name; raises ``denied`` where the catalog is forbidden as well."""
        try:
            catalog = await repositories(self.registries.registry(self.address.host))
        except Denied as error:
            if denied is not None:
                raise denied from None
            self._note("there is no definition, and the catalog is forbidden", error)
            return
        except NetworkError:
            raise
        except SyncerError as error:
            self._note("there is no definition, and the catalog could not be listed", error)
            return
        names = [name for name in catalog if name.startswith(self._prefix) and name != f"{self._prefix}{REPOSITORY}"]
        if not names:
            place = f"below {self.address.base}" if self.address.base else "at all"
            problem = f"there is no definition, and the catalog has nothing {place}"
            self._problems.add(problem)
            self._troubles[f"{problem}: it may be empty, or not show all to this login"] = None
        await for_each(names, self._list_tags, self.concurrency)
        tagged = [(name, tag) for name in names for tag in self.tags.get(name, ())]
        await for_each(tagged, self._at_image, self.concurrency)

    async def _list_tags(self, name: str) -> None:
        try:
            self.tags[name] = await self.registries.tags(Reference(self.address.host, name))
        except NotFound:
            pass  # nothing is left of it
        except NetworkError:
            raise
        except SyncerError as error:
            self._note(f"the tags of {name} could not be listed", error)

    async def _at_image(self, job: tuple[str, str]) -> None:
        repository, name = job
        manifests = await self._at_listed(repository, name)
        if manifests is None:
            manifests = await self._at_manifest(repository, name)
        if manifests is None:
            self.gone += 1
        elif manifests and not subject_tag(name):
            self._images.append(_Image(repository, manifests))

    async def _at_all_referrers_of(self, image: _Image) -> None:
        await self._at_referrers_of(image.repository, image.manifests)

    async def _at_referrers_of(self, repository: str, subjects: Sequence[Digest]) -> bool:
        """Look at what refers to any of ``subjects``, and to that in turn; tells whether there is anything."""
        reference = Reference(self.address.host, repository)
        has_any = False
        for _ in range(_MOST_LEVELS):
            found = await self.registries.referrers(reference, subjects)
            if found.doubt is not None:
                self._note(f"what refers to the images of {repository} could not be told", found.doubt)
            has_any = has_any or bool(found.found)
            names = [str(each.reference.digest or each.reference.tag) for each in found.found]
            read = [await self._at_manifest(repository, name) for name in names]
            subjects = [digest for manifests in read for digest in manifests or ()]
            if not subjects:
                break
        return has_any

    async def _at_listed(self, repository: str, name: str) -> Sequence[Digest] | None:
        """Ask for an image whose content a push has listed, and take that for what is there.

        Returns its manifests, the root first; None where they must be read: nothing is listed, or it is not there.
        """
        root = Digest.parse(name) if ":" in name else None
        listed = next((found for contents in self._contents if root and (found := contents.of(root))), None)
        if listed is None or await self._repository(repository).current(name) != root:
            return None
        manifests, blobs = listed
        self._met.update((repository, str(digest)) for digest in manifests)
        for places, digests in ((self.manifests, manifests), (self.blobs, blobs)):
            for digest in digests:
                places.setdefault(digest, set()).add(repository)
        return manifests

    async def _at_manifest(self, repository: str, name: str) -> list[Digest] | None:
        """Read the manifest under a tag or a digest and those below it, with all that they name.

        Returns the digests of those that were read, without any that were met before; None where it is not there.
        """
        if (repository, name) in self._met:
            return []
        self._met.add((repository, name))
        try:
            digest = Digest.parse(name) if ":" in name else None
            root = await self._repository(repository).manifest(name, digest)
            self._met.add((repository, str(root.descriptor.digest)))
            self.manifests.setdefault(root.descriptor.digest, set()).add(repository)
            read = [root.descriptor.digest]

            async def enter(child: Descriptor) -> AnyManifest | None:
                if (repository, str(child.digest)) in self._met:
                    return None
                self._met.add((repository, str(child.digest)))
                try:
                    inner = await self._repository(repository).manifest(str(child.digest), child.digest)
                except NotFound:
                    return None
                self.manifests.setdefault(child.digest, set()).add(repository)
                read.append(child.digest)
                return inner

            async for blob in blobs_below(root, enter, takes=lambda _: self.deep, name=repository):
                self._descriptors.setdefault(blob.digest, blob)
                self.blobs.setdefault(blob.digest, set()).add(repository)
        except NotFound:
            return None
        except NetworkError:
            raise
        except SyncerError as error:
            self._note(f"not all manifests of {repository} could be read", error)
            return []
        return read

    def _note(self, problem: str, error: SyncerError, about: str = "") -> None:
        """Note what could not be seen: in words of ours for the list, which leaves the site."""
        why = f" (status {error.status})" if isinstance(error, RegistryError) else ""
        self._problems.add(f"{problem}{why}")
        self._troubles[f"{problem}: {about}{error}"] = None
