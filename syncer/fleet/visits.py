"""The work at one site of a run: a push, its plan, or a verification, within a time and with an end of its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import anyio
from msgspec import Struct, structs

from syncer.api.bundles import BundleSource, bundle_name, find_in_file
from syncer.api.plan import plan_delivery
from syncer.api.push import Delivery, changed_meanwhile, deliver
from syncer.api.result import Run, RunOptions, hearing
from syncer.api.verify import VerifyResult, verify_at
from syncer.bundle import Bundle, BundleCheck
from syncer.bundle.remote import RemoteBundle
from syncer.errors import SyncerError, UsageError
from syncer.fleet import Errand, FleetOptions
from syncer.fleet.queue import Convoy, ConvoySource
from syncer.fleet.result import NOTHING_FORESEEN, Lacking, OutOfTime, SiteResult, SiteState, Stopped, outcome, sum_up
from syncer.naming import NameMapping, names_at
from syncer.oci import Reference
from syncer.oci.docker_hub import canonical_host
from syncer.profiles.syncfile.site import Site
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Report, Status
from syncer.report.forecast import Forecast
from syncer.report.summary import Reported
from syncer.transfer.events import Emit

_LEAST_IN_FLIGHT = 4  # of one site
_LEAST_WINDOW = 64 * 1024 * 1024  # bytes
_NAMES_KEPT = 16  # mappings and bases; each has the names of all images
_ANY_REGISTRY = "any.invalid"

IN_FLIGHT = 256
"""The pieces of content of all sites of a process together, at most."""

Ended: TypeAlias = Callable[[SiteResult, Reported | None], None]
Visit: TypeAlias = Callable[[Site, Emit | None, float | None, Ended], Awaitable[None]]
"""Does the work at one site within so many seconds, None being as long as it takes, and says how it ended.

It says that also when it is cancelled, of as much as was done.
"""


async def visit_alone(
    errand: Errand,
    site: Site,
    bundle: Bundle,
    settings: RegistrySettings,
    *,
    concurrency: int,
    seconds: float | None,
    convoy: Convoy | None = None,
) -> tuple[SiteResult, Reported | None]:
    """Do ``errand`` at ``site`` within ``seconds``, with connections of its own, in another process than the run."""
    ends: list[tuple[SiteResult, Reported | None]] = []
    async with open_registries(with_limits(settings, [site])) as registries:
        visit = _visit_for(errand, registries, bundle, concurrency, convoy)
        await visit(site, None, seconds, lambda result, report: ends.append((result, report)))
    ((result, report),) = ends
    if bundle.changed() and not result.error:
        result = structs.replace(result, state=SiteState.PARTIAL, error=changed_meanwhile(bundle))
    return result, report


def _visit_for(
    errand: Errand, registries: Registries, bundle: Bundle, concurrency: int, convoy: Convoy | None
) -> Visit:
    options = errand.options
    if errand.check is not None:
        return Verifying(registries, bundle, errand.check, options, concurrency).visit
    chosen = find_in_file(bundle, options.annotations)
    if errand.command == "plan":
        return Planning(registries, chosen, options, concurrency).visit
    return Pushing(registries, bundle, chosen, Names(chosen, options), options, concurrency, convoy).visit


class Names:
    """The names of images at sites: those of sites with one mapping and one base differ in the registry alone."""

    def __init__(self, chosen: BundleSource, options: FleetOptions) -> None:
        self._references = [item.target for item in chosen.items]
        self._options = options
        self._known = lru_cache(_NAMES_KEPT)(self._make)

    def at(self, site: Site) -> Mapping[Reference, Reference]:
        """The name of each image at ``site``; raises ``UsageError`` for names that collide."""
        delivery = delivery_at(site, self._options)
        host = delivery.address.host
        if any(canonical_host(rule.replacement.partition("/")[0]) == host for rule in site.mapping.rules):
            return delivery.names(self._references)
        try:
            known = self._known(site.mapping, delivery.address.base)
        except UsageError:
            return delivery.names(self._references)  # whose error names the site
        return {reference: Reference(host, name.repository, name.tag, name.digest) for reference, name in known.items()}

    def _make(self, mapping: NameMapping, base: str) -> Mapping[Reference, Reference]:
        return names_at(_ANY_REGISTRY, base, self._references, mapping)


class Pushing(Struct, frozen=True):
    """The push of one bundle to a site."""

    registries: Registries
    bundle: Bundle
    chosen: BundleSource  # of it
    names: Names
    options: FleetOptions
    concurrency: int
    convoy: Convoy | None = None

    async def visit(self, site: Site, emit: Emit | None, seconds: float | None, ended: Ended) -> None:
        """Push to ``site`` within ``seconds``; whatever fails there is its result."""
        began = time.monotonic()
        options = RunOptions(
            concurrency=self.concurrency,
            run_id=self.options.run_id,
            recheck=self.options.recheck,
            beside_others=True,
            emit=emit,
        )
        run = Run(options, fetches=isinstance(self.bundle, RemoteBundle), sends=True)
        errors: list[SyncerError] = []

        def end() -> None:
            report = run.report(self.registries, self.registries.host_at(address_of(site)))
            errors[:0] = [image.error for image in report.failures if image.error]
            has_some = bool(errors) and any(image.status is Status.SKIPPED for image in report.images)
            state = outcome(errors, has_changed=has_some or _has_changed(report))
            ended(_result(site, state, began, report, errors), report)

        with _within(seconds, errors, end):
            delivery, names = delivery_at(site, self.options), self.names.at(site)
            with self._reading() as chosen:
                name = bundle_name(self.bundle)
                pushed = await deliver(chosen, self.registries, delivery, run, name=name, names=names)
            errors += [pushed.problem] if pushed.problem else []

    @contextmanager
    def _reading(self) -> Iterator[BundleSource]:
        """The content for one site, which reads it beside others if need be."""
        if self.convoy is None:
            yield self.chosen
            return
        with self.convoy.join() as place:
            yield BundleSource(lambda: self.chosen.definition, self.chosen.items, ConvoySource(self.bundle, place))


def share_of_workers(sites: int, options: FleetOptions) -> int:
    """The pieces of content that may be in flight at one of ``sites``.

    So the connections of all that run together stay within bounds.
    """
    return pieces_in_flight(max(1, min(options.at_once, sites)), options.concurrency)


def pieces_in_flight(together: int, most: int) -> int:
    """The pieces of content that each of ``together`` transfers of a process may have in flight, ``most`` at most."""
    return min(most, max(_LEAST_IN_FLIGHT, IN_FLIGHT // together))


def _available_memory() -> int | None:
    """The bytes of memory that files may be kept in; None where the system does not tell.

    What ``/proc/meminfo`` says is available, or the limit of the control group, as in a container (cgroup v2).
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)


def open_convoy(bundle: Bundle, options: FleetOptions, sites: int) -> Convoy | None:
    """The order in which ``sites`` read; None where memory holds the bundle, or where nobody reads beside another."""
    window, size = options.read_window, bundle.local_size
    if bundle.assumed is not None:
        return None  # a delta is small
    if window is None:
        available = _available_memory()
        window = 0 if available is None or size <= available else max(_LEAST_WINDOW, available // 4)
    return Convoy(size, window) if window and size and min(sites, options.at_once) > 1 else None


class Planning(Struct, frozen=True):
    """The forecast of the push of one bundle to a site."""

    registries: Registries
    chosen: BundleSource
    options: FleetOptions
    concurrency: int

    async def visit(self, site: Site, emit: Emit | None, seconds: float | None, ended: Ended) -> None:
        """Ask ``site`` for the names of all images within ``seconds``."""
        began, asked = time.monotonic(), self._requests(site)
        errors: list[SyncerError] = []
        report = Forecast(fetches=False, sends=True, can_mount=True).report()  # of nothing, if time is over before

        def end() -> None:
            state = outcome(errors, has_changed=report.has_work)
            result = SiteResult(
                name=site.name,
                registry=site.registry,
                state=SiteState.BEHIND if state is SiteState.DONE else state,
                images=report.totals.images,
                images_failed=report.totals.images_failed,
                requests=self._requests(site) - asked,
                seconds=time.monotonic() - began,
                error=errors[0] if errors else None,
                foreseen={name: getattr(report.totals, name) for name in NOTHING_FORESEEN},
            )
            ended(result, report)

        with _within(seconds, errors, end), hearing(self.registries, emit, _at_host_of(self.registries, site)):
            delivery = delivery_at(site, self.options)
            report = await plan_delivery(
                self.chosen, self.registries, delivery, concurrency=self.concurrency, must_tell=True
            )
            errors += [image.error for image in report.images if image.error]

    def _requests(self, site: Site) -> int:
        """The requests so far to the host of ``site``, whose sites follow each other."""
        traffic = self.registries.traffic.get(self.registries.host_at(address_of(site)))
        return traffic.requests.total() if traffic else 0


class Verifying(Struct, frozen=True):
    """The look whether a site has all of a bundle."""

    registries: Registries
    bundle: Bundle
    check: BundleCheck
    options: FleetOptions
    concurrency: int

    async def visit(self, site: Site, emit: Emit | None, seconds: float | None, ended: Ended) -> None:
        """Ask ``site`` for everything within ``seconds``."""
        began = time.monotonic()
        errors: list[SyncerError] = []
        found: VerifyResult | None = None
        images = failed = 0

        def end() -> None:
            result = SiteResult(
                name=site.name,
                registry=site.registry,
                state=outcome(errors, has_changed=failed > 0),
                images=images,
                images_failed=failed,
                seconds=time.monotonic() - began,
                error=errors[0] if errors else None,
            )
            ended(result, found)

        with _within(seconds, errors, end), hearing(self.registries, emit, _at_host_of(self.registries, site)):
            delivery = delivery_at(site, self.options)
            found = await verify_at(self.registries, delivery, self.bundle, self.check, concurrency=self.concurrency)
            images, failed = self.check.images, len({gap.name for gap in found.lacking})
            if found.lacking:
                errors.append(Lacking(len(found.lacking), found.checked))
            errors += [doubt.error for doubt in found.unknown]


def _at_host_of(registries: Registries, site: Site) -> Callable[[str], bool]:
    """Whether a host is that of ``site``."""
    own = registries.host_at(address_of(site))
    return lambda host: host == own


@contextmanager
def _within(seconds: float | None, errors: list[SyncerError], end: Callable[[], None]) -> Iterator[None]:
    """Run the block for so many seconds at most, and call ``end``; what ends it early is added to ``errors``."""
    try:
        with anyio.move_on_after(seconds) as time_left:
            try:
                yield
            except SyncerError as error:
                errors.append(error)
    except anyio.get_cancelled_exc_class():
        errors.append(Stopped())
        end()
        raise
    if time_left.cancelled_caught:
        errors.append(OutOfTime())
    end()


def _result(site: Site, state: SiteState, began: float, report: Report, errors: Sequence[SyncerError]) -> SiteResult:
    totals = report.totals
    return SiteResult(
        name=site.name,
        registry=site.registry,
        state=state,
        images=totals.images,
        images_failed=totals.images_failed,
        bytes_sent=totals.bytes_sent,
        bytes_mounted=totals.bytes_mounted,
        bytes_resumed=totals.bytes_resumed,
        requests=totals.requests,
        seconds=time.monotonic() - began,
        error=errors[0] if errors else None,
        waited=sum_up(registry.waited for registry in report.registries),
    )


def _has_changed(report: Report) -> bool:
    """Whether anything was brought to the target."""
    totals = report.totals
    return bool(totals.blobs_copied or totals.blobs_mounted) or any(
        image.status is Status.COPIED for image in report.images
    )


def address_of(site: Site) -> RegistryAddress:
    return RegistryAddress.parse(site.registry)


def delivery_at(site: Site, options: FleetOptions) -> Delivery:
    return Delivery(address=address_of(site), mapping=site.mapping, platform=options.platform, state=options.state)


def with_limits(settings: RegistrySettings | None, sites: Iterable[Site]) -> RegistrySettings:
    """``settings`` with the bytes a second of ``sites`` and of their groups."""
    settings = settings or RegistrySettings()
    transport = settings.transport
    hosts, groups = dict(transport.hosts), dict(transport.groups)
    for site in sites:
        host = address_of(site).host
        if site.group and site.group.bytes_per_second:
            groups[site.group.name] = site.group.bytes_per_second
            hosts[host] = structs.replace(transport.host(host), group=site.group.name)
        elif site.bytes_per_second:
            hosts[host] = structs.replace(transport.host(host), bytes_per_second=site.bytes_per_second)
    return structs.replace(settings, transport=structs.replace(transport, hosts=hosts, groups=groups, one_first=True))
