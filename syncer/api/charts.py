"""Charts, packs and files that a definition or a sync file names, put into the spool as artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from anyio import to_thread

from syncer.api.definitions import Wanted
from syncer.api.supplies import Contents, Had, Supplies, Unknown, plain_name
from syncer.content import Item
from syncer.errors import DigestMismatch, SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.profiles.charts.finder import Charts, FailedChart, ResolvedChart, expected_reference
from syncer.profiles.definition.artifacts import pack_reference
from syncer.profiles.definition.definition import ChartRequest, DefinedChart, Definition
from syncer.profiles.definition.local import spool_file, spool_pack
from syncer.profiles.definition.spool import Spool
from syncer.profiles.palette.edge_credentials import Login
from syncer.profiles.palette.gather import gather
from syncer.profiles.palette.profile import Profile
from syncer.registry import Registries
from syncer.transfer.events import ImageFailed


async def add_spooled(
    wanted: Wanted, definition: Definition, contents: Contents, supplies: Supplies, *, referrers: bool
) -> None:
    """Add the items of all that is no image to ``wanted``."""
    await _add_charts(wanted, definition, contents, supplies, referrers=referrers)
    for archive in definition.archives:
        name = pack_reference(archive.name, archive.version)
        if await _add_local(wanted, name, archive.digest, contents, partial(spool_pack, archive)):
            wanted.archives[archive.name, archive.version] = name
    for file in definition.files:
        if await _add_local(wanted, file.artifact, file.digest, contents, partial(spool_file, file)):
            wanted.files.add(file.artifact)


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


class Charted:
    """Finds charts, fetching each index once."""

    def __init__(self, contents: Contents, supplies: Supplies) -> None:
        registries = contents.registries
        self._charts = Charts(
            registries.transport,
            contents.spool,
            ChartRegistries(registries),
            logins=supplies.chart_logins,
            cache=supplies.chart_cache,
        )

    async def had_by_profiles(self, profiles: list[Profile], say: Callable[[str], None]) -> Had:
        """The images and charts of ``profiles``; ``say`` is told what was odd in them."""
        gathered = gather("sync", profiles)
        for warning in (*gathered.warnings, *gathered.unlisted):
            say(str(warning))
        definition = gathered.definition
        charts = await self.had_by_charts([chart.request for chart in definition.charts])
        images = tuple(image.reference for image in definition.images)
        return replace(charts, references=(*images, *charts.references))

    async def had_by_charts(self, requests: list[ChartRequest]) -> Had:
        references: list[Reference] = []
        unknown: list[Unknown] = []
        for found in await self._charts.resolve_all(requests):
            if isinstance(found, FailedChart):
                unknown.append(Unknown(chart_name(found.request), found.error))
            else:
                references.append(replace(found.reference, digest=None))
        return Had(tuple(references), tuple(unknown))


def chart_name(request: ChartRequest) -> Reference:
    """What stands for a chart of which nothing could be learned."""
    return expected_reference(request) or Reference("charts.invalid", plain_name(request.name))
