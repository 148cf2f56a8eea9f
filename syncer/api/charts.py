"""Charts, packs and files that a definition or a sync file names, put into the spool as artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from anyio import to_thread
from msgspec import Struct, structs
from msgspec.structs import replace

from syncer.api.definitions import Parts
from syncer.api.supplies import Listing, OpenSupplies, Unknown, plain_name
from syncer.content import Along, Item, read_whole
from syncer.errors import DigestMismatch, InvalidContent, SyncerError
from syncer.formats.archive import MAX_UNPACKED
from syncer.formats.yaml import Map
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import Manifest
from syncer.profiles.charts.finder import Charts, FailedChart, ResolvedChart, file_reference, guess_reference
from syncer.profiles.definition.artifacts import CHART_LAYER, Spool, pack_reference, tag_of
from syncer.profiles.definition.definition import ChartRequest, DefinedChart, Definition
from syncer.profiles.definition.local import spool_file, spool_pack
from syncer.profiles.palette.edge_credentials import Login
from syncer.profiles.palette.profile import PackFile, Profile
from syncer.profiles.palette.profile_definition import define_profiles
from syncer.profiles.palette.scan import scan_chart
from syncer.registry import Registries
from syncer.transfer.events import ImageFailed


async def add_artifacts(parts: Parts, definition: Definition, supplies: OpenSupplies, *, referrers: Along) -> None:
    """Add to ``parts`` the charts, packs and files of ``definition``, which are fetched or packed into the spool.

    What could not be had is among ``parts.failures``.
    """
    await _add_charts(parts, definition, supplies, referrers=referrers)
    for archive in definition.archives:
        name = pack_reference(archive.name, archive.version)
        if await _add_local(parts, name, archive.digest, supplies, partial(spool_pack, archive)):
            parts.archives[archive.name, archive.version] = name
    for file in definition.files:
        if await _add_local(parts, file.artifact, file.digest, supplies, partial(spool_file, file)):
            parts.files.add(file.artifact)


async def _add_charts(parts: Parts, definition: Definition, supplies: OpenSupplies, *, referrers: Along) -> None:
    at_hand = {chart: name for chart in definition.charts if (name := _name_at_hand(chart, supplies))}
    missing = [chart for chart in definition.charts if chart not in at_hand]
    resolved = await ChartSearch(supplies).resolve([chart.request for chart in missing])
    found_charts = dict(zip(missing, resolved, strict=True))
    for chart in definition.charts:
        found = found_charts.get(chart)
        if isinstance(found, FailedChart):
            name = _name_of(chart)
            parts.failures.append(ImageFailed(Item(name, name, chart.packs), found.error))
            continue
        reference = found.reference if isinstance(found, ResolvedChart) else at_hand[chart]
        name = replace(reference, digest=None) if reference.tag else reference
        source = name.at(chart.digest) if chart.digest else reference
        parts.charts[chart.request] = name
        parts.items.append(
            Item(source, name, chart.packs, referrers=bool(referrers), requires_referrers=referrers == "require")
        )


async def _add_local(
    parts: Parts, name: Reference, digest: Digest | None, supplies: OpenSupplies, spool: Callable[[Spool], Reference]
) -> bool:
    """Add something from this machine's disk, unless a bundle at hand has it; return whether it could be had."""
    bound = name.at(digest) if digest else name
    try:
        reference = bound if supplies.has(bound) else await to_thread.run_sync(spool, supplies.spool)
        if digest and reference.digest not in (None, digest):
            raise DigestMismatch(f"{name} is not the content whose digest the definition gives")
    except SyncerError as error:
        parts.failures.append(ImageFailed(Item(name, name), error))
        return False
    parts.items.append(Item(reference, name, referrers=False))
    return True


class ChartRegistries(Struct, frozen=True):
    """The registries of a run, as far as the finder of charts asks them."""

    registries: Registries

    async def resolve(self, reference: Reference) -> Descriptor:
        return await self.registries.resolve(reference)

    async def tags(self, reference: Reference) -> list[str]:
        return [tag async for tag in self.registries.repository(reference).tags()]

    async def login(self, host: str) -> Login | None:
        found = await self.registries.credential(host)
        return Login(found.username, found.password) if found and found.username and found.password else None


def _name_at_hand(chart: DefinedChart, supplies: OpenSupplies) -> Reference | None:
    name = chart.artifact or guess_reference(chart.request)
    return name if name and supplies.has(name) else None


def _name_of(chart: DefinedChart) -> Reference:
    """The name that stands for a chart that could not be found."""
    return chart.artifact or chart_name(chart.request)


async def fetch_charts(
    requests: Sequence[ChartRequest], supplies: OpenSupplies
) -> dict[ChartRequest, PackFile | SyncerError]:
    """Fetch the archives of charts for a scan to look into; an error is the reason why one cannot be had.

    An archive with an address of its own is not fetched unless its name is a chart's: installers are large.
    """
    found: dict[ChartRequest, PackFile | SyncerError] = {}
    wanted = [chart for chart in requests if not chart.repo.endswith((".tar.gz", ".zip", ".tar", ".zst", ".xz"))]
    for chart in requests:
        if chart not in wanted:
            found[chart] = InvalidContent("its address is that of an archive, which may be anything")
    for resolved in await ChartSearch(supplies).resolve(wanted):
        if isinstance(resolved, FailedChart):
            found[resolved.request] = resolved.error
            continue
        try:
            content = await _chart_content(resolved.reference, supplies)
        except SyncerError as error:
            found[resolved.request] = error
        else:
            name = resolved.request.name or resolved.reference.path.rpartition("/")[2]
            found[resolved.request] = PackFile(f"{name}-{resolved.version}.tgz", content)
    return found


async def _chart_content(reference: Reference, supplies: OpenSupplies) -> bytes:
    manifest = await supplies.manifest(reference)
    layers = manifest.layers if isinstance(manifest, Manifest) else ()
    layer = next((each for each in layers if each.media_type == CHART_LAYER), None)
    if layer is None:
        raise InvalidContent(f"{reference.name} is no chart")
    if layer.size > MAX_UNPACKED:
        raise InvalidContent(f"it has more than {MAX_UNPACKED} bytes")
    return await read_whole(supplies.blob(reference, layer))


class ChartSearch:
    """The search for charts in their repositories; each index is fetched once."""

    def __init__(self, supplies: OpenSupplies) -> None:
        self._supplies = supplies
        self._charts = Charts(
            supplies.registries.transport,
            supplies.spool,
            ChartRegistries(supplies.registries),
            logins=supplies.settings.chart_logins,
            cache=supplies.settings.chart_cache,
        )

    async def resolve(self, requests: list[ChartRequest]) -> list[ResolvedChart | FailedChart]:
        """The chart that each request means now, in the order of the requests."""
        return await self._charts.resolve_all(requests)

    async def list_profiles(self, profiles: list[Profile], say: Callable[[str], None]) -> Listing:
        """List the images and charts of ``profiles``; ``say`` is told what was odd in them."""
        gathered = define_profiles("sync", profiles)
        for warning in (*gathered.warnings, *gathered.unlisted):
            say(str(warning))
        definition = gathered.definition
        charts = await self.list_charts([chart.request for chart in definition.charts])
        images = tuple(image.reference for image in definition.images)
        return structs.replace(charts, references=(*images, *charts.references))

    async def list_charts(self, requests: list[ChartRequest]) -> Listing:
        """List the charts that ``requests`` mean now; those that cannot be found are unknown."""
        references: list[Reference] = []
        unknown: list[Unknown] = []
        for found in await self.resolve(requests):
            if isinstance(found, FailedChart):
                unknown.append(Unknown(chart_name(found.request), found.error))
            else:
                references.append(replace(found.reference, digest=None))
        return Listing(tuple(references), tuple(unknown))

    async def scan(self, request: ChartRequest, values: Sequence[Any]) -> tuple[Listing, list[Reference], str]:
        """List the chart that ``request`` means now, and find the images in its templates.

        ``values`` are the trees of values files; a later one comes before an earlier one.  The images are those of the
        rendered templates; if some cannot be rendered, all that the chart seems to name.  The text says why they may
        not be all.
        """
        listing = await self.list_charts([request])
        if listing.unknown:
            return listing, [], ""
        (name,) = listing.references
        content = await _chart_content(name, self._supplies)
        overrides = Map()
        overrides["charts"] = Map()
        overrides["charts"]["scanned"] = _merged(values)
        found = await to_thread.run_sync(scan_chart, PackFile("scanned.tgz", content), [overrides])
        images = found.images if found.problem else found.rendered
        return listing, [image.reference for image in images], found.problem

    async def list_file(self, address: str, name: str | None) -> Listing:
        """List the file at ``address``, which is fetched into the spool; raises ``SyncerError``."""
        found = await self._charts.fetch_file(address, name)
        return Listing((replace(found.reference, digest=None),))


def _merged(trees: Sequence[Any]) -> Map:
    """The values in ``trees``, of which a later one comes before an earlier one."""
    merged = Map()
    for tree in trees:
        for key, value in tree.items() if isinstance(tree, Map) else ():
            known = merged.get(key)
            merged[key] = _merged([known, value]) if isinstance(known, Map) and isinstance(value, Map) else value
    return merged


def name_of_file(address: str, name: str | None) -> Reference:
    """The name under which the file at ``address``, which ``name`` may call otherwise, travels."""
    return file_reference(address, name)


def chart_name(request: ChartRequest) -> Reference:
    """The name that stands for a chart whose repository could not be read."""
    tag = tag_of(request.version) if request.version else None
    return guess_reference(request) or Reference("charts.invalid", plain_name(request.name), tag)
