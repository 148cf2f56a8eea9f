"""Forecasts of a build, a push and a sync: the same discovery, with a consumer that only adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
from msgspec import Struct, field, structs

from syncer.api.build import BundleFile, check_buildable, drop_lacking_guesses, find_parts
from syncer.api.bundles import BundleSource, Warn, find_in_file, opened
from syncer.api.delta import find_rest
from syncer.api.prune import prune
from syncer.api.push import Delivery
from syncer.api.sources import Sources
from syncer.api.state import read_memory
from syncer.api.supplies import Snapshot, Supplies, open_supplies
from syncer.bundle import Assumed, Bundle, BundleSize, BundleUrl, GivenName
from syncer.content import Along, Item, Referring, Source, TargetNames
from syncer.naming import NameMapping
from syncer.oci import Descriptor, Digest, Platform
from syncer.profiles.definition.definition import Definition, render_definition
from syncer.registry import (
    Registries,
    RegistryAddress,
    RegistrySettings,
    RegistryTarget,
    open_registries,
    open_upload_journal,
)
from syncer.report.forecast import Forecast, ForecastReport
from syncer.transfer.discovery import Discovery, DiscoveryFailure, DiscoveryResult
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree
from syncer.transfer.run import WORKERS


async def plan_build(
    definition: Definition,
    file: BundleFile,
    *,
    referrers: Along = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    workers: int = WORKERS,
    warn: Warn | None = None,
) -> ForecastReport:
    """Foresee what a build of ``definition`` would fetch, and the bytes of its bundle; raises as the build does."""
    check_buildable(definition)
    assumption = file.assumption
    left_out: dict[Digest, Descriptor] = {}
    forecast = Forecast(fetches=True, sends=False, can_mount=False, left_out=left_out)
    size = BundleSize(file.format, file.compression_level)
    async with open_supplies(settings, supplies) as opened:
        definition = await drop_lacking_guesses(definition, opened, warn, file.platform)
        parts = await find_parts(definition, opened, platform=file.platform, referrers=referrers)
        for found in await discover(parts.items, opened, size, workers=workers):
            if isinstance(found, Tree):
                size.name(found.item.target, found.root)
                for descriptor in found.content:
                    manifest = found.manifests.get(descriptor.digest)
                    if manifest is None and assumption and assumption.covers(descriptor.digest):
                        left_out[descriptor.digest] = descriptor
                    else:
                        size.add(descriptor, manifest)
            forecast.add(found, "")
    for failure in parts.failures:
        forecast.add(DiscoveryFailure(failure.item, failure.error), "")
    assumed = Assumed.of(left_out.values(), assumption).render() if assumption else None
    return forecast.report(disk_bytes=size.total(render_definition(definition).encode(), assumed))


async def plan(
    file: str | Path | BundleUrl | Bundle,
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    settings: RegistrySettings | None = None,
    state: Path | None = None,
    workers: int = WORKERS,
) -> ForecastReport:
    """Foresee what ``syncer.push`` with these arguments would send; nothing is written.  Raises as it does."""
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    delivery = Delivery(address=address, mapping=mapping, platform=platform, state=state)
    return await plan_push(file, delivery, annotations=annotations, settings=settings, workers=workers)


async def plan_push(
    file: str | Path | BundleUrl | Bundle,
    delivery: Delivery,
    *,
    annotations: Mapping[str, str] | None = None,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    workers: int = WORKERS,
    warn: Warn | None = None,
) -> ForecastReport:
    """Foresee what ``push_file`` with these arguments would send; raises as it does."""
    async with (
        open_registries(settings or RegistrySettings()) as registries,
        opened(file, given, registries=registries, may_lack=True, warn=warn) as bundle,
    ):
        return await plan_push_to(registries, delivery, bundle, annotations=annotations, workers=workers)


async def plan_push_to(
    registries: Registries,
    delivery: Delivery,
    bundle: Bundle,
    *,
    annotations: Mapping[str, str] | None = None,
    workers: int = WORKERS,
) -> ForecastReport:
    """Foresee what ``push_to`` with these arguments would send; raises as it does."""
    return await plan_delivery(find_in_file(bundle, annotations), registries, delivery, workers=workers)


async def plan_delivery(
    bundle: BundleSource,
    registries: Registries,
    delivery: Delivery,
    *,
    workers: int = WORKERS,
    must_tell: bool = False,
) -> ForecastReport:
    """Foresee what ``deliver`` would send of ``bundle``; raises as it does.

    An image about which a registry that ``must_tell`` says nothing has failed; otherwise it is one to copy.
    """
    names = delivery.names(item.target for item in bundle.items)
    items = delivery.place(bundle.items, names)
    source, left_out = bundle.source, {}
    if isinstance(source, Bundle) and source.assumed is not None:
        source = await find_rest(source, items, registries, delivery.address, names=names, workers=workers)
        left_out = source.left_out
    forecast = Forecast(fetches=False, sends=True, can_mount=True, left_out=left_out)
    with _look_at(registries, delivery.address, delivery.state, must_tell=must_tell) as look:
        await look.discover(items, source, workers)
        look.add_to(forecast)
    return forecast.report()


async def plan_sync(
    sources: Sources,
    *,
    state: Path | None = None,
    workers: int = WORKERS,
    with_prune: bool = False,
    shares: bool = True,
) -> ForecastReport:
    """Foresee what a sync of ``sources`` would fetch, send and mount, and ``with_prune`` what it would delete.

    ``state`` is where earlier runs left their hints; ``shares`` says whether a blob is fetched once for all targets.
    Raises ``UsageError`` for names that contradict each other, and for a prune of a shard.
    """
    if with_prune:
        sources.require_all()
    forecast = Forecast(fetches=True, sends=True, can_mount=True, shares=shares)
    registries = sources.supplies.registries
    addresses = {address.host: address for address in sources.addresses.values()}
    items = await sources.find_items()
    snapshot = Snapshot(sources.supplies)
    with ExitStack() as stack:
        looks = {host: stack.enter_context(_look_at(registries, address, state)) for host, address in addresses.items()}
        async with anyio.create_task_group() as tasks:
            for host, look in looks.items():
                own = [item for item in items if item.target.registry == host]
                tasks.start_soon(look.discover, own, snapshot, workers)
        for look in looks.values():
            look.add_to(forecast)
    for item, error in sources.unknown.items():
        forecast.add(DiscoveryFailure(item, error), "")
    report = forecast.report()
    if with_prune:
        names = [image.target for image in report.images]
        report = structs.replace(report, pruned=(await prune(sources, names, delete=False)).pruned)
    return report


class _Look(Struct):
    """The look at one registry as a push or a sync to it would find it, of which nothing is changed."""

    target: RegistryTarget
    memory: Memory
    found: list[DiscoveryResult] = field(default_factory=list)
    arrived: dict[tuple[str, Digest], int] = field(default_factory=dict)  # bytes of blobs, by their spaces

    async def discover(self, items: Sequence[Item], source: Source, workers: int) -> None:
        """Find out all that is to be known of ``items``, and what of their blobs a run brought that did not end."""
        self.found = await discover(items, source, self.target, memory=self.memory, workers=workers)
        trees = [each for each in self.found if isinstance(each, Tree)]
        blobs = {
            (self.target.space(tree.item.target), descriptor.digest): descriptor
            for tree in trees
            for descriptor in tree.content
            if descriptor.digest not in tree.manifests
        }
        limiter = anyio.CapacityLimiter(workers)

        async def ask(space: str, descriptor: Descriptor) -> None:
            async with limiter:
                if arrived := await self.target.arrived(space, descriptor):
                    self.arrived[space, descriptor.digest] = arrived

        async with anyio.create_task_group() as tasks:
            for (space, _), descriptor in blobs.items() if self.target.may_have_begun else ():
                tasks.start_soon(ask, space, descriptor)

    def add_to(self, forecast: Forecast) -> None:
        """Add all that was found."""
        for each in self.found:
            forecast.add(each, self.target.space(each.item.target), self.memory, self.arrived)


@contextmanager
def _look_at(
    registries: Registries, address: RegistryAddress, state: Path | None, *, must_tell: bool = False
) -> Iterator[_Look]:
    """Look at the registry at ``address``, with what earlier runs left in the directory ``state``."""
    if state is None:
        yield _Look(registries.target(address, must_tell=must_tell), Memory())
        return
    with open_upload_journal(state / "uploads", address.host, looks=True) as journal:
        target = registries.target(address, journal=journal, interrupted=journal.was_interrupted, must_tell=must_tell)
        yield _Look(target, read_memory(state, address.host))


async def discover(
    items: Sequence[Item], source: Source, target: TargetNames, *, memory: Memory | None = None, workers: int
) -> list[DiscoveryResult]:
    """Find out all that is to be known of ``items``, in their order; nothing is written."""
    found: list[DiscoveryResult] = []

    async def note(each: DiscoveryResult) -> None:
        found.append(each)

    referring = source if isinstance(source, Referring) else None
    await Discovery(source, target, memory or Memory(), referring, concurrency=min(16, workers)).run(items, note)
    return found
