"""What a build, a push or a sync would do: the same discovery, with a consumer that only adds up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import anyio

from syncer.api.build import named_definition, open_contents, wanted_by
from syncer.api.bundles import held_in
from syncer.api.prune import prune
from syncer.api.sources import Sources
from syncer.api.state import recalled
from syncer.api.supplies import Pinned, Supplies
from syncer.bundle import BundleSize, Format, check_structure, open_bundle
from syncer.content import Item, Naming, Referring, Source
from syncer.naming import NameMapping, names_at
from syncer.oci import Platform, Reference
from syncer.profiles.definition.definition import Definition, render_definition
from syncer.registry import RegistryAddress, RegistrySettings, open_registries
from syncer.report.forecast import Forecast, ForecastReport
from syncer.transfer.discovery import Discovered, Discovery, Undiscovered
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree
from syncer.transfer.run import WORKERS


async def plan_build(
    images: Sequence[str | Reference] | Definition,
    *,
    platform: str | Platform | None = None,
    format: Format = "tar.zst",  # noqa: A002  the word of the command line
    compression_level: int = 3,
    referrers: bool = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    workers: int = WORKERS,
) -> ForecastReport:
    """What ``build`` with these arguments would fetch, and how large its bundle would be."""
    definition = images if isinstance(images, Definition) else named_definition("bundle", images)
    wanted = Platform.parse(platform) if isinstance(platform, str) else platform
    forecast = Forecast(fetches=True, sends=False, can_mount=False)
    size = BundleSize(format, compression_level)
    async with open_contents(settings, supplies) as contents:
        asked = await wanted_by(definition, contents, supplies or Supplies(), platform=wanted, referrers=referrers)
        for found in await discover(asked.items, contents, size, workers=workers):
            forecast.add(found, "")
            if isinstance(found, Tree):
                size.name(found.item.target, found.root)
                for descriptor in found.content:
                    size.add(descriptor, found.manifests.get(descriptor.digest))
    for failure in asked.failures:
        forecast.add(Undiscovered(failure.item, failure.error), "")
    return forecast.report(disk_bytes=size.total(render_definition(definition).encode()))


async def plan_push(
    file: str | Path,
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    settings: RegistrySettings | None = None,
    workers: int = WORKERS,
) -> ForecastReport:
    """What ``push`` with these arguments would send; raises as it does."""
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    forecast = Forecast(fetches=False, sends=True, can_mount=True)
    with open_bundle(Path(file)) as bundle:
        check_structure(bundle)
        held = held_in(bundle, annotations)
        targets = [item.target for item in held.items]
        named = names_at(address.host, address.base, targets, mapping)
        platforms = (platform,) if platform else ()
        items = [replace(item, target=named[item.target], platforms=platforms) for item in held.items]
        async with open_registries(settings or RegistrySettings()) as registries:
            target = registries.target(address)
            for found in await discover(items, bundle, target, workers=workers):
                forecast.add(found, target.space(found.item.target))
    return forecast.report()


async def plan_sync(
    sources: Sources, *, state: Path | None = None, workers: int = WORKERS, with_prune: bool = False
) -> ForecastReport:
    """What a sync of ``sources`` would fetch, send and mount, and ``with_prune`` what it would delete.

    ``state`` is where earlier runs left their hints.
    """
    forecast = Forecast(fetches=True, sends=True, can_mount=True)
    registries = sources.contents.registries
    targets = {address.host: registries.target(address) for address in sources.addresses.values()}
    items = await sources.look()
    pinned = Pinned(sources.contents)
    memories = {host: recalled(state, host) for host in targets}
    found: dict[str, list[Discovered]] = {}

    async def look(host: str) -> None:
        own = [item for item in items if item.target.registry == host]
        found[host] = await discover(own, pinned, targets[host], memory=memories[host], workers=workers)

    async with anyio.create_task_group() as tasks:
        for host in targets:
            tasks.start_soon(look, host)
    for host, target in targets.items():
        for each in found[host]:
            forecast.add(each, target.space(each.item.target), memories[host])
    for item, error in sources.unknown.items():
        forecast.add(Undiscovered(item, error), "")
    report = forecast.report()
    if with_prune:
        names = [image.target for image in report.images]
        report = replace(report, pruned=tuple(await prune(sources, names, delete=False)))
    return report


async def discover(
    items: Sequence[Item], source: Source, target: Naming, *, memory: Memory | None = None, workers: int
) -> list[Discovered]:
    """All that is to be known of ``items``, in their order; nothing is written."""
    found: list[Discovered] = []

    async def note(each: Discovered) -> None:
        found.append(each)

    referring = source if isinstance(source, Referring) else None
    await Discovery(source, target, memory or Memory(), referring, concurrency=min(16, workers)).run(items, note)
    return found
