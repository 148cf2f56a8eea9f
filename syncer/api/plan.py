"""Forecasts of a build and of a push: the same discovery, with a consumer that only adds up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from syncer.api.build import BundleFile, check_buildable, drop_lacking_guesses, find_parts
from syncer.api.bundles import BundleSource, Warn, find_in_file, opened
from syncer.api.delta import find_rest
from syncer.api.push import Delivery
from syncer.api.result import hearing, open_heard
from syncer.api.state import look_at
from syncer.api.supplies import Supplies, open_supplies
from syncer.bundle import Assumed, Bundle, BundleSize, BundleUrl, GivenName, check_disk
from syncer.content import Along
from syncer.errors import TargetFull
from syncer.naming import NameMapping
from syncer.oci import Descriptor, Digest, Platform
from syncer.profiles.definition.definition import Definition, render_definition
from syncer.registry import Registries, RegistryAddress, RegistrySettings
from syncer.report.forecast import Forecast, ForecastReport
from syncer.transfer.discovery import DiscoveryFailure, discover
from syncer.transfer.events import Emit
from syncer.transfer.plan import Tree
from syncer.transfer.run import WORKERS


async def plan_build(
    definition: Definition,
    file: BundleFile,
    *,
    referrers: Along = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    concurrency: int = WORKERS,
    warn: Warn | None = None,
    emit: Emit | None = None,
) -> ForecastReport:
    """Foresee what a build of ``definition`` would fetch, and the bytes of its bundle; raises as the build does.

    ``emit`` hears of what holds requests up.
    """
    check_buildable(definition)
    assumption = file.assumption
    left_out: dict[Digest, Descriptor] = {}
    forecast = Forecast(fetches=True, sends=False, can_mount=False, left_out=left_out)
    size = BundleSize(file.format, file.compression_level)
    async with open_supplies(settings, supplies) as opened:
        with hearing(opened.registries, emit):
            definition = await drop_lacking_guesses(definition, opened, warn, file.platform)
            parts = await find_parts(definition, opened, platform=file.platform, referrers=referrers)
            discovered = await discover(parts.items, opened, size, concurrency=concurrency)
        for found in discovered:
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
    needed = size.total(render_definition(definition).encode(), assumed)
    return _doubt(forecast.report(disk_bytes=needed), file.path(definition.name), needed)


def _doubt(report: ForecastReport, path: Path, needed: int) -> ForecastReport:
    """``report`` with a warning where the bundle of ``needed`` bytes at ``path`` has no room on its disk."""
    try:
        check_disk(path, needed)
    except TargetFull as full:
        return structs.replace(report, warnings=(*report.warnings, str(full)))
    return report


async def plan(
    file: str | Path | BundleUrl | Bundle,
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: str | Platform | None = None,
    settings: RegistrySettings | None = None,
    state: Path | None = None,
    concurrency: int = WORKERS,
    emit: Emit | None = None,
) -> ForecastReport:
    """Foresee what ``syncer.push`` with these arguments would send; nothing is written.  Raises as it does.

    ``emit`` hears of what holds requests up.
    """
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    delivery = Delivery(address=address, mapping=mapping, platform=Platform.of(platform), state=state)
    return await plan_push(
        file, delivery, annotations=annotations, settings=settings, concurrency=concurrency, emit=emit
    )


async def plan_push(
    file: str | Path | BundleUrl | Bundle,
    delivery: Delivery,
    *,
    annotations: Mapping[str, str] | None = None,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    concurrency: int = WORKERS,
    warn: Warn | None = None,
    emit: Emit | None = None,
) -> ForecastReport:
    """Foresee what ``push_file`` with these arguments would send; raises as it does."""
    async with (
        open_heard(settings, emit) as registries,
        opened(file, given, registries=registries, may_lack=True, warn=warn) as bundle,
    ):
        return await plan_push_to(registries, delivery, bundle, annotations=annotations, concurrency=concurrency)


async def plan_push_to(
    registries: Registries,
    delivery: Delivery,
    bundle: Bundle,
    *,
    annotations: Mapping[str, str] | None = None,
    concurrency: int = WORKERS,
) -> ForecastReport:
    """Foresee what ``push_to`` with these arguments would send; raises as it does."""
    return await plan_delivery(find_in_file(bundle, annotations), registries, delivery, concurrency=concurrency)


async def plan_delivery(
    bundle: BundleSource,
    registries: Registries,
    delivery: Delivery,
    *,
    concurrency: int = WORKERS,
    must_tell: bool = False,
) -> ForecastReport:
    """Foresee what ``deliver`` would send of ``bundle``; raises as it does.

    An image about which a registry that ``must_tell`` says nothing has failed; otherwise it is one to copy.
    """
    names = delivery.names(item.target for item in bundle.items)
    items = delivery.place(bundle.items, names)
    source, left_out = bundle.source, {}
    if isinstance(source, Bundle) and source.assumed is not None:
        source = await find_rest(source, items, registries, delivery.address, names=names, concurrency=concurrency)
        left_out = source.left_out
    forecast = Forecast(fetches=False, sends=True, can_mount=True, left_out=left_out)
    with look_at(registries, delivery.address, delivery.state, must_tell=must_tell) as look:
        await look.discover(items, source, concurrency)
        look.add_to(forecast)
    return forecast.report()
