"""From a definition to items, and from what became of them to the definition that travels in the bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from anyio import to_thread

from syncer.api.contents import Contents, Supplies
from syncer.content import Item
from syncer.errors import DigestMismatch, SyncerError
from syncer.oci import Descriptor, Digest, Platform, Reference
from syncer.profiles.charts import Charts, FailedChart, ResolvedChart, expected_reference
from syncer.profiles.cred_file import Login
from syncer.profiles.definition import (
    ChartRequest,
    DefinedArchive,
    DefinedChart,
    DefinedFile,
    DefinedImage,
    Definition,
    Missing,
)
from syncer.profiles.file_artifact import spool_file
from syncer.profiles.pack_artifact import pack_reference, spool_pack
from syncer.profiles.spool import Spool
from syncer.registry import Registries
from syncer.report import ImageAccount, Report, Status
from syncer.transfer.events import ImageFailed

Local = TypeVar("Local", DefinedArchive, DefinedFile)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A definition as items for a transfer."""

    items: list[Item]
    failures: list[ImageFailed] = field(default_factory=list)  # charts and packs that could not be had
    charts: dict[ChartRequest, Reference] = field(default_factory=dict)  # what each is called
    archives: dict[tuple[str, str], Reference] = field(default_factory=dict)
    files: set[Reference] = field(default_factory=set)


async def wanted_by(
    definition: Definition, contents: Contents, supplies: Supplies, *, platform: Platform | None, referrers: bool
) -> Wanted:
    """The items of ``definition``; charts and packs are put into the spool of ``contents`` first."""
    platforms = (platform,) if platform else ()
    wanted = Wanted(
        [
            Item(image.reference, image.image, image.packs, platforms=platforms, referrers=referrers)
            for image in definition.images
        ]
    )
    await _add_charts(wanted, definition, contents, supplies, referrers=referrers)
    for archive in definition.archives:
        name = pack_reference(archive.name, archive.version)
        if await _add_local(wanted, name, archive.digest, contents, partial(spool_pack, archive)):
            wanted.archives[archive.name, archive.version] = name
    for file in definition.files:
        if await _add_local(wanted, file.artifact, file.digest, contents, partial(spool_file, file)):
            wanted.files.add(file.artifact)
    return wanted


async def _add_charts(
    wanted: Wanted, definition: Definition, contents: Contents, supplies: Supplies, *, referrers: bool
) -> None:
    transport = contents.registries.transport
    finder = Charts(
        transport,
        contents.spool,
        ChartRegistries(contents.registries),
        logins=supplies.chart_logins,
        cache=supplies.chart_cache,
    )
    at_hand = {chart: name for chart in definition.charts if (name := _at_hand(chart, contents))}
    missing = [chart for chart in definition.charts if chart not in at_hand]
    resolved = dict(zip(missing, await finder.resolve_all([chart.request for chart in missing]), strict=True))
    for chart in definition.charts:
        found = resolved.get(chart)
        if isinstance(found, FailedChart):
            name = _name_of(chart)
            wanted.failures.append(ImageFailed(Item(name, name, chart.packs), found.error))
            continue
        reference = found.reference if isinstance(found, ResolvedChart) else at_hand[chart]
        name = replace(reference, digest=None) if reference.tag else reference
        source = name.at(chart.digest) if chart.digest else reference
        wanted.charts[chart.request] = name
        wanted.items.append(Item(source, name, chart.packs, referrers=referrers))


async def _add_local(
    wanted: Wanted, name: Reference, digest: Digest | None, contents: Contents, spool: Callable[[Spool], Reference]
) -> bool:
    """Something from this machine's disk, unless a bundle at hand has it; whether it could be had."""
    bound = name.at(digest) if digest else name
    try:
        reference = bound if contents.has(bound) else await to_thread.run_sync(spool, contents.spool)
        if digest and reference.digest not in (None, digest):
            raise DigestMismatch(f"{name} is not the content whose digest the definition gives")
    except SyncerError as error:
        wanted.failures.append(ImageFailed(Item(name, name), error))
        return False
    wanted.items.append(Item(reference, name, referrers=False))
    return True


def described(definition: Definition, wanted: Wanted, report: Report, sizes: Mapping[Reference, int]) -> Definition:
    """``definition`` with what its parts turned out to be, without those that failed, which are ``missing``.

    It still says where packs and files lie on this machine: see ``without_paths``.
    """
    ends = {image.target: image for image in report.images if image.subject is None}

    def lock_image(image: DefinedImage) -> DefinedImage:
        end = ends[image.image]
        platforms = tuple(map(str, end.platforms))
        return replace(image, digest=end.digest, platforms=platforms, size=sizes.get(image.image), stored=None)

    def lock_chart(chart: DefinedChart) -> DefinedChart:
        name = wanted.charts[chart.request]
        return replace(chart, artifact=name, digest=ends[name].digest, size=sizes.get(name), stored=None)

    def lock_local(entry: Local, name: Reference) -> Local:
        return replace(entry, digest=ends[name].digest, size=sizes.get(name), stored=None)

    def is_there(name: Reference | None) -> bool:
        return name is not None and ends[name].status is not Status.FAILED

    return replace(
        definition,
        images=tuple(lock_image(image) for image in definition.images if is_there(image.image)),
        charts=tuple(lock_chart(chart) for chart in definition.charts if is_there(wanted.charts.get(chart.request))),
        archives=tuple(
            lock_local(archive, name)
            for archive in definition.archives
            if (name := wanted.archives.get((archive.name, archive.version))) and is_there(name)
        ),
        files=tuple(
            lock_local(file, file.artifact)
            for file in definition.files
            if file.artifact in wanted.files and is_there(file.artifact)
        ),
        missing=tuple(map(_missing, report.failures)),
    )


def without_paths(definition: Definition) -> Definition:
    """``definition`` as it may travel, or as it came from elsewhere: nothing in it leads to a file of this machine."""
    return replace(
        definition,
        archives=tuple(replace(archive, path=None) for archive in definition.archives),
        files=tuple(replace(file, path=None) for file in definition.files),
    )


@dataclass(frozen=True, slots=True)
class ChartRegistries:
    """What the finder of charts asks of registries."""

    registries: Registries

    async def resolve(self, reference: Reference) -> Descriptor:
        return await self.registries.resolve(reference)

    async def tags(self, reference: Reference) -> list[str]:
        return [tag async for tag in self.registries.repository(reference).tags()]

    async def login(self, host: str) -> Login | None:
        found = await self.registries.credential(host)
        return Login(found.username, found.password) if found and found.username and found.password else None


def _at_hand(chart: DefinedChart, contents: Contents) -> Reference | None:
    name = chart.artifact or expected_reference(chart.request)
    return name if name and contents.has(name) else None


def _name_of(chart: DefinedChart) -> Reference:
    """What stands for a chart that could not be found."""
    return chart.artifact or expected_reference(chart.request) or Reference("charts.invalid", chart.name or "chart")


def _missing(image: ImageAccount) -> Missing:
    return Missing(name=str(image.source), reason=str(image.error))
