"""The sources of a sync file: tags are listed and chosen, profiles read, charts found, names mapped."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
import orjson
from anyio import to_thread
from msgspec import Struct, structs

from syncer.api.supplies import Listing, OpenSupplies, Supplies, Unknown, open_supplies, plain_name
from syncer.content import Item
from syncer.errors import InvalidFile, SyncerError, UsageError
from syncer.formats.text import read_images_file, read_text
from syncer.formats.units import Shard
from syncer.formats.yaml import parse_yaml
from syncer.oci import Reference
from syncer.oci.docker_hub import api_host
from syncer.profiles.definition.definition import ChartRequest, DefinedChart
from syncer.profiles.syncfile.document import Chart, Registry, Source, Target
from syncer.profiles.syncfile.sync_file import RegistriesFile, SyncFile, merge_items, select_images
from syncer.profiles.syncfile.variables import Helper, absent_certificates, find_login
from syncer.registry import Credential, RegistryAddress, RegistrySettings
from syncer.transport import HostSettings

if TYPE_CHECKING:
    from syncer.api.charts import ChartSearch
    from syncer.profiles.palette.profile import Profile


Warn: TypeAlias = Callable[[str], None]


class Console(Protocol):
    """The part of Palette's console that a sync needs."""

    async def profiles(self, uids: Iterable[str], project_uid: str) -> list[Profile]:
        """The profiles with those uids; ``project_uid`` is empty for the project of the login."""
        ...


class Leg(Struct, frozen=True):
    """The part of a sync file that goes to one target from the sources at one registry."""

    target: str  # its title
    registry: str  # empty: sources that may name images of any registry, which is known once they are read

    def __str__(self) -> str:
        return f"{self.target} from {self.registry or 'sources of several registries'}"


@dataclasses.dataclass(eq=False, repr=False)
class Sources:
    """The sources of a sync file; each one is listed once, and again when it could not be listed."""

    file: SyncFile
    supplies: OpenSupplies
    warn: Warn
    console: Console | None = None
    strict: bool = False
    environment: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # for variables in manifests and compose files
    shard: Shard | None = None  # None: all source repositories
    leg: Leg | None = None  # None: all targets and source registries
    addresses: dict[str, RegistryAddress] = dataclasses.field(init=False)  # by the target's title
    _listings: dict[int, Listing] = dataclasses.field(init=False, default_factory=dict)  # by the number of the source
    _read: dict[int, Any] = dataclasses.field(init=False, default_factory=dict)  # its file, likewise
    _mistakes: list[UsageError] = dataclasses.field(init=False, default_factory=list)
    _said: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        if self.leg is not None:
            self.file = self.file.for_target(self.leg.target)
        self.addresses = {target.title: RegistryAddress.parse(target.registry) for target in self.file.targets}

    def anew(self) -> Sources:
        """The same sources, of which nothing is known yet; a rule that fits no tag is no error there."""
        return dataclasses.replace(self, strict=False)

    def require_all(self) -> None:
        """Raise ``UsageError`` for a shard of the sources: what the others bring would seem to be named by nobody."""
        if self.shard is not None:
            raise UsageError(
                "a shard knows only some of what the targets are to have, so that it prunes nothing",
                hint="when all shards are through, prune in a run without --shard",
            )

    async def find_items(self) -> list[Item]:
        """Find the images to mirror, as far as the sources tell, in the order of the file.

        Of a shard or a leg that is only its own.  A source that cannot be asked stops no other one.  A rule that fits
        no tag is a warning, or with ``strict`` an ``InvalidFile``; raises ``UsageError`` for names that contradict
        each other.
        """
        await self._read_files()
        async with anyio.create_task_group() as tasks:
            for number, source in enumerate(self.file.sources):
                if number not in self._listings or self._listings[number].unknown:
                    tasks.start_soon(self._list_source, number, source)
        _refuse(self._mistakes)
        items = merge_items(self._items(lambda listing: listing.references))
        if self.shard is None and self.leg is None:
            return items
        # chosen after the merge, since names that contradict each other do so in every shard that knows of them
        ours = {(item.source, item.target) for item in self._items(lambda listing: listing.references, ours=True)}
        return [item for item in items if (item.source, item.target) in ours]

    @property
    def unknown(self) -> dict[Item, SyncerError]:
        """The parts of sources that could not be found out: an item for each at each target, and the reason."""
        reasons = {unknown.name: unknown.error for listing in self._listings.values() for unknown in listing.unknown}
        names = self._items(lambda listing: [unknown.name for unknown in listing.unknown])
        return {item: reasons[item.source] for item in names}

    @property
    def unasked(self) -> list[Item]:
        """Items that stand for the sources that have not answered yet."""
        return [
            self._item(source, stand_in, target)
            for number, source in enumerate(self.file.sources)
            if number not in self._listings
            for target in self.file.targets_of(source)
            for stand_in in _stand_ins(source)
            if self._is_on_leg(source, stand_in) and (_whole(source) is None or self._is_ours(source, stand_in))
        ]

    def doubtful_items(self, target: Target) -> list[Item]:
        """Items that stand, at ``target``, for repositories of which perhaps not all tags are known."""
        return [
            self._item(source, stand_in, target)
            for source in self._doubtful(target)
            if source.repository is not None
            for stand_in in _stand_ins(source)
        ]

    def doubtful_extent(self, target: Target) -> str:
        """The sources that may have more images for ``target``, nobody knows in which repositories; empty for none."""
        return ", ".join(self.file.place(source) for source in self._doubtful(target) if source.repository is None)

    def _doubtful(self, target: Target) -> list[Source]:
        return [
            source
            for number, source in enumerate(self.file.sources)
            if target in self.file.targets_of(source)
            and ((listing := self._listings.get(number)) is None or listing.unknown or listing.is_doubtful)
        ]

    def _is_ours(self, source: Source, name: Reference) -> bool:
        """Tell whether the image that ``source`` calls ``name`` belongs to the shard and to the leg."""
        is_in_shard = self.shard is None or self.shard.takes((_whole(source) or name).name)
        return is_in_shard and self._is_on_leg(source, name)

    def _is_on_leg(self, source: Source, name: Reference) -> bool:
        return self.leg is None or self.leg.registry == _registry_of(source, name)

    def _is_others(self, source: Source) -> bool:
        """Tell whether somebody would have to be asked about a source of another shard or leg as a whole."""
        if self.leg is not None and self.leg.registry and _is_of_several(source):
            return True
        whole = _whole(source)
        if whole is None or self._is_ours(source, whole):
            return False
        is_named = source.image is not None and not source.imgpkg
        return not is_named and (source.tags is None or source.tags.rules().needs_listing)

    def _items(self, of: Callable[[Listing], Iterable[Reference]], *, ours: bool = False) -> Iterator[Item]:
        """The items of ``of`` each listing; ``ours``: those of the shard only.

        Names that no registry can have are told when all others are there.
        """
        mistakes: list[UsageError] = []
        for number, source in enumerate(self.file.sources):
            for target in self.file.targets_of(source):
                listing = self._listings.get(number, Listing())
                for reference in of(listing):
                    if ours and not self._is_ours(source, reference):
                        continue
                    try:
                        item = self._item(source, reference, target)
                    except UsageError as mistake:
                        mistakes.append(self.file.blame(source, mistake))
                        continue
                    if origin := listing.origins.get(reference):
                        item = structs.replace(item, source=origin, target=structs.replace(item.target, tag=None))
                    yield item
        _refuse(mistakes)

    def _item(self, source: Source, reference: Reference, target: Target) -> Item:
        address = self.addresses[target.title]
        return self.file.item(source, reference, target, registry=address.host, base=address.base)

    async def _read_files(self) -> None:
        """Read the lists and profiles that are files; what is wrong in them is told before anybody is asked."""
        for number, source in enumerate(self.file.sources):
            if number in self._read or self._is_others(source):
                continue
            try:
                if source.images_file is not None:
                    path = self.file.beside(source.images_file)
                    self._read[number] = await to_thread.run_sync(read_images_file, path)
                elif source.profile_file is not None:
                    path = self.file.beside(source.profile_file)
                    self._read[number] = await to_thread.run_sync(_read_profile, path, self.environment)
            except UsageError as mistake:
                self._mistakes.append(mistake)
        _refuse(self._mistakes)

    async def _list_source(self, number: int, source: Source) -> None:
        try:
            self._listings[number] = Listing() if self._is_others(source) else await self._ask(number, source)
        except UsageError as mistake:
            self._mistakes.append(mistake)
        except SyncerError as error:
            self._listings[number] = Listing(unknown=tuple(Unknown(name, error) for name in _stand_ins(source)))

    async def _ask(self, number: int, source: Source) -> Listing:
        if source.image is not None:
            return await self._of_image(source.image, imgpkg=source.imgpkg)
        if source.repository is not None:
            return await self._tags(source, source.repository)
        if source.images_file is not None:
            references = tuple(image.reference for image in self._read[number])
            self.supplies.registries.settle(references)
            return Listing(references)
        if source.profile_file is not None:
            return await self._of_profiles(source, [self._read[number]])
        if source.chart is not None or source.file is not None:
            return await self._of_web(source)
        if self.console is None:
            raise UsageError(
                f"{self.file.place(source)}: profiles are at Palette, and there is no login for it",
                hint="log in with syncer login, or export the profile and name it as a profile_file",
            )
        return await self._of_profiles(source, await self.console.profiles(source.profiles, source.project_id or ""))

    async def _of_image(self, image: Reference, *, imgpkg: bool) -> Listing:
        self.supplies.registries.settle([image])
        if not imgpkg:
            return Listing((image,))
        from syncer.api.imgpkg import list_bundle  # noqa: PLC0415  rarely needed

        return await list_bundle(image, self.supplies)

    async def _of_web(self, source: Source) -> Listing:
        if source.file is not None:
            return await self._charts.list_file(source.file.url, source.file.name)
        if source.chart is not None and source.chart.scan:
            return await self._scanned(source, source.chart)
        return await self._charts.list_charts([_request(source)])

    async def _scanned(self, source: Source, chart: Chart) -> Listing:
        """The chart and the images that its templates name; those that no registry gives are left out and told."""
        from syncer.api.build import drop_lacking_guesses, make_definition  # noqa: PLC0415  rarely needed

        files = [self.file.beside(path) for path in chart.values_files]
        values = [await to_thread.run_sync(_read_values, path) for path in files]
        listing, images, problem = await self._charts.scan(_request(source), values)
        if problem:
            self._say(source, f"chart {chart.name}: {problem}")
        request = _request(source)
        definition = make_definition("scan", images)
        guesses = structs.replace(
            definition,
            images=tuple(structs.replace(image, guessed=True) for image in definition.images),
            charts=(DefinedChart(repo=request.repo, name=request.name),),
        )
        platforms = self.file.document.platforms if source.platforms is None else source.platforms
        left = await drop_lacking_guesses(
            guesses,
            self.supplies,
            lambda text: self._say(source, text),
            platforms[0] if len(platforms) == 1 else None,
        )
        found = tuple(image.image for image in left.images)
        is_doubtful = bool(problem) or len(found) < len(guesses.images)
        return structs.replace(listing, references=(*listing.references, *found), is_doubtful=is_doubtful)

    async def _tags(self, source: Source, repository: Reference) -> Listing:
        assert source.tags is not None
        tags: list[str] = []
        if source.tags.rules().needs_listing:
            tags = await self.supplies.registries.tags(repository)
        chosen = select_images(source, tags)
        for pattern in chosen.unmatched:
            problem = f"{pattern} fits no tag of {repository.name}"
            if self.strict:
                raise InvalidFile(self.file.place(source), problem)
            self._say(source, problem)
        return Listing(chosen.references, is_doubtful=bool(chosen.unmatched) or not chosen.references)

    @cached_property
    def _charts(self) -> ChartSearch:
        from syncer.api.charts import ChartSearch  # noqa: PLC0415  slow to import, and images need none of it

        return ChartSearch(self.supplies)

    async def _of_profiles(self, source: Source, profiles: list[Profile]) -> Listing:
        return await self._charts.list_profiles(profiles, partial(self._say, source))

    def _say(self, source: Source, text: str) -> None:
        """Warn of something once, also when the source is asked again."""
        warning = f"{self.file.place(source)}: {text}"
        if warning not in self._said:
            self._said.add(warning)
            self.warn(warning)


@asynccontextmanager
async def open_sources(
    file: SyncFile,
    settings: RegistrySettings,
    warn: Warn,
    *,
    supplies: Supplies | None = None,
    console: Console | None = None,
    strict: bool = False,
    environment: Mapping[str, str] | None = None,
    shard: Shard | None = None,
    leg: Leg | None = None,
) -> AsyncIterator[Sources]:
    """The sources of ``file``, and connections to all registries, open for as long as the block lasts.

    Of a ``shard`` they have only the images whose source repositories belong to it, and of a ``leg`` only those of its
    source registry, for its target.
    """
    for warning in file.warnings:
        warn(warning)
    async with open_supplies(settings, supplies) as opened:
        known = environment or {}
        yield Sources(file, opened, warn, console, strict=strict, environment=known, shard=shard, leg=leg)


def find_legs(file: SyncFile) -> dict[Leg, list[Item]]:
    """The legs of ``file`` in its order, each with items that stand for what it brings.

    Lists of images are read for it, and nobody is asked.  Raises ``InvalidFile`` for such a list.
    """
    legs: dict[Leg, list[Item]] = {}
    for source in file.sources:
        if source.images_file is not None:
            names = [image.reference for image in read_images_file(file.beside(source.images_file))]
        elif source.profile_file is not None:
            names = [Reference("file.invalid", plain_name(source.profile_file.name))]
        else:
            names = _stand_ins(source)
        for target in file.targets_of(source):
            address = RegistryAddress.parse(target.registry)
            for name in names:
                leg = Leg(target.title, _registry_of(source, name))
                item = file.item(source, name, target, registry=address.host, base=address.base)
                legs.setdefault(leg, []).append(item)
    return legs


def identify(file: SyncFile) -> str:
    """A digest of what ``file`` says, with its lists of images, by which another machine knows that it has the same.

    The values of its variables are in it, but for those of ``registries``, which may be another machine's own.
    Blocks; raises ``InvalidFile`` for a file that cannot be read.
    """
    digest = hashlib.sha256()
    if file.tree is not None:
        settled = {name: part for name, part in file.tree.items() if name != "registries"}
        digest.update(orjson.dumps(settled, default=str, option=orjson.OPT_NON_STR_KEYS))
        digest.update(read_text(file.path).encode())
    for source in file.sources:
        if source.images_file is not None:
            digest.update(b"\0" + read_text(file.beside(source.images_file)).encode())
    return digest.hexdigest()


def _refuse(mistakes: Sequence[UsageError]) -> None:
    """Raise those of ``mistakes`` that tell their places, or else the first one, if there is any."""
    of_files = [each for mistake in mistakes if isinstance(mistake, InvalidFile) for each in mistake.all]
    if mistakes:
        raise InvalidFile.of(of_files) if of_files else mistakes[0]


def _registry_of(source: Source, name: Reference) -> str:
    """The registry of the leg to which the image belongs that ``source`` calls ``name``."""
    return "" if _is_of_several(source) else (_whole(source) or name).registry


def _is_of_several(source: Source) -> bool:
    """Tell whether only reading ``source`` tells at which registries its images are."""
    has_images = source.imgpkg or (source.chart is not None and source.chart.scan)
    return has_images or bool(source.profiles) or source.profile_file is not None


def _stand_ins(source: Source) -> list[Reference]:
    """Names that stand for a source that could not be listed."""
    if source.profiles:
        return [Reference("palette.invalid", f"profiles/{plain_name(uid)}") for uid in source.profiles]
    if source.chart is not None or source.file is not None:
        from syncer.api import charts  # noqa: PLC0415  as above

        if source.chart is not None:
            return [charts.chart_name(_request(source))]
        return [charts.name_of_file(source.file.url, source.file.name)] if source.file else []
    named = source.repository or source.image
    return [structs.replace(named, tag=None, digest=None)] if named else []


def _whole(source: Source) -> Reference | None:
    """The repository whose shard has all of ``source``, an imgpkg bundle with the images that land beside it included.

    None for a source with images of many repositories.
    """
    if source.profiles or (source.chart is not None and source.chart.scan):
        return None
    return next(iter(_stand_ins(source)), None)


def _read_values(path: Path) -> Any:
    return parse_yaml(read_text(path), path)


def _read_profile(path: Path, environment: Mapping[str, str]) -> Profile:
    from syncer.profiles.palette.profile_files import read_profile_file  # noqa: PLC0415  slow to import

    return read_profile_file(path, environment)


def _request(source: Source) -> ChartRequest:
    assert source.chart is not None
    return ChartRequest(source.chart.repository, source.chart.name, source.chart.version)


def sync_settings(file: RegistriesFile, settings: RegistrySettings, environment: Mapping[str, str]) -> RegistrySettings:
    """``settings`` with those that ``file`` has for single registries, its credentials looked up.

    Raises ``InvalidFile`` with all credentials and certificates that are not where the file says.
    """
    hosts: dict[str, HostSettings] = dict(settings.transport.hosts)
    logins = dict(settings.credentials.logins)
    helpers = dict(settings.credentials.helpers)
    mistakes: list[InvalidFile] = []
    for written, host in file.registry_names():
        registry = file.by_host[host]
        wanted = _host_settings(file, registry, settings.transport.default)
        mistakes += [
            file.mistake(problem, "registries", written, name)
            for name, problem in absent_certificates(registry, file.path.parent)
        ]
        hosts |= {host: wanted, api_host(host): wanted}
        if registry.credentials is None or host in logins:
            continue
        directory = file.path.parent
        try:
            found = find_login(registry.credentials, host=host, environment=environment, directory=directory)
        except UsageError as mistake:
            mistakes.append(file.mistake(str(mistake), "registries", written, "credentials"))
            continue
        if isinstance(found, Helper):
            helpers[host] = found.name
        else:
            logins[host] = Credential(username=found.username, password=found.password)
    if mistakes:
        raise InvalidFile.of(mistakes)
    return structs.replace(
        settings,
        transport=structs.replace(settings.transport, hosts=hosts),
        credentials=structs.replace(settings.credentials, logins=logins, helpers=helpers),
    )


def _host_settings(file: RegistriesFile, registry: Registry, default: HostSettings) -> HostSettings:
    return structs.replace(
        default,
        plain_http=default.plain_http if registry.plain_http is None else registry.plain_http,
        insecure=registry.insecure or default.insecure,
        ca_cert=file.beside(registry.ca_cert) if registry.ca_cert else default.ca_cert,
        client_cert=file.beside(registry.client_cert) if registry.client_cert else default.client_cert,
        client_key=file.beside(registry.client_key) if registry.client_key else default.client_key,
        concurrency=registry.concurrency,
        requests_per_second=registry.requests_per_second,
        bytes_per_second=registry.bytes_per_second,
    )
