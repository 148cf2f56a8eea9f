"""A run over many sites: the bundle is opened and checked once, one transport serves all, and each site is a run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import anyio

from syncer.api.bundles import BundleSource, bundle_name, find_in_file, open_checked
from syncer.api.push import Delivery, deliver
from syncer.api.result import Run, RunOptions, may_pass
from syncer.api.state import Lost
from syncer.api.verify import verify_at
from syncer.bundle import Bundle, BundleCheck, GivenName, verify_bundle
from syncer.errors import InvalidBundle, SyncerError, UsageError
from syncer.files import available_memory
from syncer.fleet import FleetOptions
from syncer.fleet.journal import Cargo, FleetJournal
from syncer.fleet.queue import Convoy, ConvoySource, SiteQueue
from syncer.fleet.result import FleetResult, Lacking, OutOfTime, SiteResult, SiteState, outcome
from syncer.naming import NameMapping, names_at
from syncer.oci import Reference
from syncer.oci.docker_hub import canonical_host
from syncer.profiles.syncfile.site import Site, registry_key
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Report, Status
from syncer.transfer.events import Emit

_IN_FLIGHT = 256  # pieces of content of all sites together
_LEAST_IN_FLIGHT = 4  # of one site
_LEAST_WINDOW = 64 * 1024 * 1024  # bytes
_NAMES_KEPT = 16  # mappings and bases; each has the names of all images
_ANY_REGISTRY = "any.invalid"


Visit: TypeAlias = Callable[[Site, Emit | None, float | None], Awaitable[tuple[SiteResult, Report | None]]]
"""Does the work at one site within so many seconds; None: it may take as long as it takes."""


async def push_fleet(
    file: Path,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
) -> FleetResult:
    """Push the bundle ``file`` to each of ``sites``; a site that fails stops none of the others.

    Raises as ``push_file`` does for the bundle, and ``UsageError`` before anything is sent for names that collide at
    one of the sites.
    """
    options = options or FleetOptions()
    async with open_checked(file, given, warn=options.warn) as bundle:
        if options.rehash:
            await verify_bundle(bundle)
        chosen = find_in_file(bundle, options.annotations)
        names = _Names([item.target for item in chosen.items], options)
        for site in sites:
            names.at(site)
        async with open_registries(_with_limits(settings, sites)) as registries:
            journal = _open_journal(bundle, chosen, options)
            convoy = _open_convoy(bundle, options, len(sites))
            workers = _share_of_workers(sites, options)
            pushing = _Pushing(
                registries, chosen, names, bundle_name(bundle), options, workers, bundle, journal, convoy
            )
            known = [site for site in sites if journal and options.trust_journal and journal.has(site)]
            result = await _visit_all(
                sites,
                pushing.visit,
                registries,
                options,
                command="push",
                bundle=bundle_name(bundle),
                known=[_unchanged(site, len(chosen.items)) for site in known],
            )
        if bundle.changed():
            raise InvalidBundle(f"{file} was changed while it was being pushed", hint="push again, from a file at rest")
    return result


async def verify_fleet(
    file: Path,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
) -> FleetResult:
    """Hash the bundle ``file`` once, and look whether each of ``sites`` has all of it; raises as ``verify`` does."""
    options = options or FleetOptions()
    async with open_checked(file, given, warn=options.warn) as bundle:
        check = await verify_bundle(bundle)
        async with open_registries(_with_limits(settings, sites)) as registries:
            verifying = _Verifying(registries, bundle, check, options, _share_of_workers(sites, options))
            return await _visit_all(
                sites, verifying.visit, registries, options, command="verify", bundle=bundle_name(bundle)
            )


def _share_of_workers(sites: Sequence[Site], options: FleetOptions) -> int:
    """The pieces of content that may be in flight at one site, so that the connections of all stay within bounds."""
    together = max(1, min(options.at_once, len(sites)))
    return min(options.workers, max(_LEAST_IN_FLIGHT, _IN_FLIGHT // together))


def _open_journal(bundle: Bundle, chosen: BundleSource, options: FleetOptions) -> FleetJournal | None:
    """The journal of sites that have ``chosen``; None where nothing is remembered."""
    if options.state is None:
        return None
    cargo = Cargo.of(bundle, chosen, options.platform)
    journal = FleetJournal(options.state / "fleets", cargo, Lost(options.state, options.warn))
    if options.trust_journal:
        journal.load()
    return journal


async def _visit_all(
    sites: Sequence[Site],
    visit: Visit,
    registries: Registries,
    options: FleetOptions,
    *,
    command: str,
    bundle: str,
    known: Iterable[SiteResult] = (),
) -> FleetResult:
    """Do ``visit`` at each of ``sites``; those that failed for what may have passed are visited again at the end.

    ``known`` are the results of sites that need no visit.
    """
    started = datetime.now(UTC)
    run = _Visits(sites, visit, registries, options)
    run.take(known)
    await run.all([site for site in sites if site.key not in run.results])
    again = run.to_visit_again()
    if again:
        hosts = (registries.host_at(_address(site)) for site in again)
        registries.transport.forget_outages(*hosts, is_last=True)
        await run.all(again)
    results = tuple(run.results.get(site.key) or _not_begun(site) for site in sites)
    return FleetResult(
        run_id=options.run_id,
        command=command,
        bundle=bundle,
        started=started,
        ended=datetime.now(UTC),
        sites=results,
    )


class _Visits:
    """Goes to sites, so many at a time, as their queue says."""

    def __init__(self, sites: Sequence[Site], visit: Visit, registries: Registries, options: FleetOptions) -> None:
        self.results: dict[str, SiteResult] = {}
        self._sites = sites
        self._visit = visit
        self._registries = registries
        self._options = options
        self._ends = None if options.timeout is None else time.monotonic() + options.timeout
        self._maybe_again: dict[str, Site] = {}
        self._running = 0
        self._changed = anyio.Event()

    def take(self, known: Iterable[SiteResult]) -> None:
        """Take results that need no visit."""
        for result in known:
            self.results[registry_key(result.registry)] = result
            self._options.watcher.end(result, None, is_last=True)

    async def all(self, sites: Sequence[Site]) -> None:
        """Visit ``sites``, as far as time and failures allow."""
        queue = SiteQueue(sites, datetime.now(UTC))
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._options.at_once, len(sites))):
                tasks.start_soon(self._work, queue)

    def to_visit_again(self) -> list[Site]:
        """The sites that failed for what may have passed, unless there is no time or no patience left."""
        if self._is_over():
            return []
        sites, self._maybe_again = list(self._maybe_again.values()), {}
        return sites

    def _is_over(self) -> bool:
        """Whether no more sites may be begun."""
        if self._ends is not None and time.monotonic() >= self._ends:
            return True
        most = self._options.most_failed
        if most is None:
            return False
        failed = sum(not result.state.is_good for result in self.results.values())
        return not most.allows(failed, of=len(self._sites))

    async def _work(self, queue: SiteQueue) -> None:
        while taken := await self._next(queue):
            site, closes = taken
            self._running += 1
            try:
                await self._go_to(site, closes)
            finally:
                self._running -= 1
                queue.give_back(site)
                self._changed.set()
                self._changed = anyio.Event()

    async def _next(self, queue: SiteQueue) -> tuple[Site, datetime | None] | None:
        while queue and not self._is_over():
            now = datetime.now(UTC)
            if taken := queue.take(now):
                return taken
            opens = queue.opens()
            wait = max(0.0, (opens - now).total_seconds()) if opens else 0.0
            left = None if self._ends is None else self._ends - time.monotonic()
            if not self._running and (left is None or wait > left):
                return None  # no window opens in time
            with anyio.move_on_after(wait or None):
                await self._changed.wait()
        return None

    async def _go_to(self, site: Site, closes: datetime | None) -> None:
        began = time.monotonic()
        emit = self._options.watcher.begin(site)
        limits = [self._ends - began] if self._ends is not None else []
        if closes is not None:
            limits.append((closes - datetime.now(UTC)).total_seconds())
        result, report = await self._visit(site, emit, min(limits, default=None))
        is_last = True
        if before := self.results.get(site.key):
            result = replace(
                result,
                bytes_sent=before.bytes_sent + result.bytes_sent,
                bytes_mounted=before.bytes_mounted + result.bytes_mounted,
                bytes_resumed=before.bytes_resumed + result.bytes_resumed,
                requests=before.requests + result.requests,
                seconds=before.seconds + result.seconds,
                state=SiteState.DONE if result.state is SiteState.UNCHANGED and before.bytes_sent else result.state,
            )
        elif not result.state.is_good and result.error is not None and may_pass(result.error):
            self._maybe_again[site.key] = site
            is_last = False
        self.results[site.key] = result
        self._registries.transport.leave(self._registries.host_at(_address(site)))
        self._options.watcher.end(result, report, is_last=is_last)


class _Names:
    """The names of images at sites: those of sites with one mapping and one base differ in the registry alone."""

    def __init__(self, references: Sequence[Reference], options: FleetOptions) -> None:
        self._references = references
        self._options = options
        self._known = lru_cache(_NAMES_KEPT)(self._make)

    def at(self, site: Site) -> Mapping[Reference, Reference]:
        """The name of each image at ``site``; raises ``UsageError`` for names that collide."""
        delivery = _delivery(site, self._options)
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


@dataclass(frozen=True, slots=True)
class _Pushing:
    """The push of one bundle to a site."""

    registries: Registries
    chosen: BundleSource
    names: _Names
    name: str
    options: FleetOptions
    workers: int
    bundle: Bundle
    journal: FleetJournal | None
    convoy: Convoy | None

    async def visit(self, site: Site, emit: Emit | None, seconds: float | None) -> tuple[SiteResult, Report | None]:
        """Push to ``site`` within ``seconds``; whatever fails there is its result."""
        began = time.monotonic()
        options = RunOptions(
            workers=self.workers,
            run_id=self.options.run_id,
            recheck=self.options.recheck,
            beside_others=True,
            emit=emit,
        )
        run = Run(options, fetches=False, sends=True)
        errors: list[SyncerError] = []
        if self.journal:
            await self.journal.begin(site)
        with _within(seconds, errors):
            delivery, names = _delivery(site, self.options), self.names.at(site)
            with self._reading() as chosen:
                pushed = await deliver(chosen, self.registries, delivery, run, name=self.name, names=names)
            errors += [pushed.problem] if pushed.problem else []
        report = run.report(self.registries, self.registries.host_at(_address(site)))
        errors[:0] = [image.error for image in report.failures if image.error]
        has_some = bool(errors) and any(image.status is Status.SKIPPED for image in report.images)
        state = outcome(errors, has_changed=has_some or _has_changed(report))
        if self.journal and state.is_good:
            await self.journal.finish(site)
        return _result(site, state, began, report, errors), report

    @contextmanager
    def _reading(self) -> Iterator[BundleSource]:
        """The content for one site, which reads it beside others if need be."""
        if self.convoy is None:
            yield self.chosen
            return
        with self.convoy.join() as place:
            yield BundleSource(lambda: self.chosen.definition, self.chosen.items, ConvoySource(self.bundle, place))


def _open_convoy(bundle: Bundle, options: FleetOptions, sites: int) -> Convoy | None:
    """The order in which sites read; None where memory holds the bundle, or where nobody reads beside another."""
    window, size = options.read_window, bundle.file_size
    if window is None:
        available = available_memory()
        window = 0 if available is None or size <= available else max(_LEAST_WINDOW, available // 4)
    return Convoy(size, window) if window and size and min(sites, options.at_once) > 1 else None


@dataclass(frozen=True, slots=True)
class _Verifying:
    """The look whether a site has all of a bundle."""

    registries: Registries
    bundle: Bundle
    check: BundleCheck
    options: FleetOptions
    workers: int

    async def visit(self, site: Site, emit: Emit | None, seconds: float | None) -> tuple[SiteResult, Report | None]:  # noqa: ARG002
        """Ask ``site`` for everything within ``seconds``."""
        began = time.monotonic()
        errors: list[SyncerError] = []
        images = failed = 0
        with _within(seconds, errors):
            delivery = _delivery(site, self.options)
            found = await verify_at(self.registries, delivery, self.bundle, self.check, workers=self.workers)
            images, failed = self.check.images, len({gap.name for gap in found.lacking})
            if found.lacking:
                errors.append(Lacking(len(found.lacking), found.checked))
            errors += [doubt.error for doubt in found.unknown]
        return (
            SiteResult(
                name=site.name,
                registry=site.registry,
                state=outcome(errors, has_changed=failed > 0),
                images=images,
                images_failed=failed,
                seconds=time.monotonic() - began,
                error=errors[0] if errors else None,
            ),
            None,
        )


@contextmanager
def _within(seconds: float | None, errors: list[SyncerError]) -> Iterator[None]:
    """Run the block for so many seconds at most; what ends it early is added to ``errors``."""
    with anyio.move_on_after(seconds) as time_left:
        try:
            yield
        except SyncerError as error:
            errors.append(error)
    if time_left.cancelled_caught:
        errors.append(OutOfTime())


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
    )


def _unchanged(site: Site, images: int) -> SiteResult:
    return SiteResult(name=site.name, registry=site.registry, state=SiteState.UNCHANGED, images=images)


def _not_begun(site: Site) -> SiteResult:
    return SiteResult(name=site.name, registry=site.registry, state=SiteState.NOT_BEGUN)


def _has_changed(report: Report) -> bool:
    """Whether anything was brought to the target."""
    totals = report.totals
    return bool(totals.blobs_copied or totals.blobs_mounted) or any(
        image.status is Status.COPIED for image in report.images
    )


def _address(site: Site) -> RegistryAddress:
    return RegistryAddress.parse(site.registry)


def _delivery(site: Site, options: FleetOptions) -> Delivery:
    return Delivery(address=_address(site), mapping=site.mapping, platform=options.platform, state=options.state)


def _with_limits(settings: RegistrySettings | None, sites: Iterable[Site]) -> RegistrySettings:
    """``settings`` with the bytes a second of ``sites`` and of their groups."""
    settings = settings or RegistrySettings()
    transport = settings.transport
    hosts, groups = dict(transport.hosts), dict(transport.groups)
    for site in sites:
        host = _address(site).host
        if site.group and site.group.bytes_per_second:
            groups[site.group.name] = site.group.bytes_per_second
            hosts[host] = replace(transport.host(host), group=site.group.name)
        elif site.bytes_per_second:
            hosts[host] = replace(transport.host(host), bytes_per_second=site.bytes_per_second)
    return replace(settings, transport=replace(transport, hosts=hosts, groups=groups, one_first=True))
