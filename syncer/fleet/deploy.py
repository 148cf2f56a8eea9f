"""A run over many sites: the bundle is opened and checked once, one transport serves all, and each site is a run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import anyio
from msgspec import Struct, structs

from syncer.api.bundles import BundleSource, bundle_name, find_in_file, open_checked
from syncer.api.plan import plan_delivery
from syncer.api.push import Delivery, deliver
from syncer.api.result import Run, RunOptions, may_pass
from syncer.api.verify import verify_at
from syncer.bundle import Bundle, BundleCheck, GivenName, verify_bundle
from syncer.errors import InvalidBundle, SyncerError
from syncer.fleet import FleetOptions
from syncer.fleet.queue import SiteQueue
from syncer.fleet.result import FleetResult, Lacking, OutOfTime, SiteResult, SiteState, outcome
from syncer.profiles.syncfile.site import Site
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Report, Status
from syncer.report.forecast import Forecast, ForecastReport
from syncer.report.summary import Reported
from syncer.transfer.events import Emit

_IN_FLIGHT = 256  # pieces of content of all sites together
_LEAST_IN_FLIGHT = 4  # of one site


Visit: TypeAlias = Callable[[Site, Emit | None, float | None], Awaitable[tuple[SiteResult, Reported | None]]]
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
    async with open_checked(file, given, may_lack=True, warn=options.warn) as bundle:
        if options.rehash:
            await verify_bundle(bundle)
        chosen = _choose(bundle, sites, options)
        async with open_registries(_with_limits(settings, sites)) as registries:
            pushing = _Pushing(registries, chosen, bundle_name(bundle), options, _share_of_workers(sites, options))
            result = await _visit_all(
                sites, pushing.visit, registries, options, command="push", bundle=bundle_name(bundle)
            )
        if bundle.changed():
            raise InvalidBundle(f"{file} was changed while it was being pushed", hint="push again, from a file at rest")
    return result


async def plan_fleet(
    file: Path,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
) -> FleetResult:
    """Foresee what ``push_fleet`` would send to each of ``sites``; raises as it does.

    Nothing is sent, so that sites are asked at any time, whatever their windows are.
    """
    options = options or FleetOptions()
    sites = [replace(site, windows=()) for site in sites]
    async with open_checked(file, given, may_lack=True, warn=options.warn) as bundle:
        chosen = _choose(bundle, sites, options)
        async with open_registries(_with_limits(settings, sites)) as registries:
            planning = _Planning(registries, chosen, options, _share_of_workers(sites, options))
            return await _visit_all(
                sites, planning.visit, registries, options, command="plan", bundle=bundle_name(bundle)
            )


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
    async with open_checked(file, given, may_lack=True, warn=options.warn) as bundle:
        check = await verify_bundle(bundle)
        async with open_registries(_with_limits(settings, sites)) as registries:
            verifying = _Verifying(registries, bundle, check, options, _share_of_workers(sites, options))
            return await _visit_all(
                sites, verifying.visit, registries, options, command="verify", bundle=bundle_name(bundle)
            )


def _choose(bundle: Bundle, sites: Iterable[Site], options: FleetOptions) -> BundleSource:
    """The items of ``bundle`` that go to ``sites``; raises ``UsageError`` for names that collide at one of them."""
    chosen = find_in_file(bundle, options.annotations)
    for site in sites:
        _delivery(site, options).names(item.target for item in chosen.items)
    return chosen


def _share_of_workers(sites: Sequence[Site], options: FleetOptions) -> int:
    """The pieces of content that may be in flight at one site, so that the connections of all stay within bounds."""
    together = max(1, min(options.at_once, len(sites)))
    return min(options.workers, max(_LEAST_IN_FLIGHT, _IN_FLIGHT // together))


async def _visit_all(
    sites: Sequence[Site], visit: Visit, registries: Registries, options: FleetOptions, *, command: str, bundle: str
) -> FleetResult:
    """Do ``visit`` at each of ``sites``; those that failed for what may have passed are visited again at the end."""
    started = datetime.now(UTC)
    run = _Visits(sites, visit, registries, options)
    await run.all(sites)
    again = run.to_visit_again()
    if again:
        registries.transport.forget_outages(*(registries.host_at(_address(site)) for site in again))
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
        failed = sum(not result.state.is_good for result in self.results.values())
        most = self._options.most_failed
        return most is not None and not most.allows(failed, of=len(self._sites))

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
            result = structs.replace(
                result,
                bytes_sent=before.bytes_sent + result.bytes_sent,
                bytes_mounted=before.bytes_mounted + result.bytes_mounted,
                bytes_resumed=before.bytes_resumed + result.bytes_resumed,
                seconds=before.seconds + result.seconds,
                state=SiteState.DONE if result.state is SiteState.UNCHANGED and before.bytes_sent else result.state,
            )
        elif not result.state.is_good and result.error is not None and may_pass(result.error):
            self._maybe_again[site.key] = site
            is_last = False
        self.results[site.key] = result
        self._registries.transport.leave(self._registries.host_at(_address(site)))
        self._options.watcher.end(result, report, is_last=is_last)


class _Pushing(Struct, frozen=True):
    """The push of one bundle to a site."""

    registries: Registries
    chosen: BundleSource
    name: str
    options: FleetOptions
    workers: int

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
        with _within(seconds, errors):
            pushed = await deliver(self.chosen, self.registries, _delivery(site, self.options), run, name=self.name)
            errors += [pushed.problem] if pushed.problem else []
        report = run.report(self.registries, self.registries.host_at(_address(site)))
        errors[:0] = [image.error for image in report.failures if image.error]
        state = outcome(errors, has_changed=_has_changed(report))
        return _result(site, state, began, report, errors), report


class _Planning(Struct, frozen=True):
    """The forecast of the push of one bundle to a site."""

    registries: Registries
    chosen: BundleSource
    options: FleetOptions
    workers: int

    async def visit(
        self,
        site: Site,
        emit: Emit | None,  # noqa: ARG002
        seconds: float | None,
    ) -> tuple[SiteResult, ForecastReport]:
        """Ask ``site`` for the names of all images within ``seconds``."""
        began, asked = time.monotonic(), self._requests(site)
        errors: list[SyncerError] = []
        report = Forecast(fetches=False, sends=True, can_mount=True).report()  # of nothing, if time is over before
        with _within(seconds, errors):
            delivery = _delivery(site, self.options)
            report = await plan_delivery(self.chosen, self.registries, delivery, workers=self.workers, must_tell=True)
            errors += [image.error for image in report.images if image.error]
        state = outcome(errors, has_changed=report.has_work)
        return (
            SiteResult(
                name=site.name,
                registry=site.registry,
                state=SiteState.BEHIND if state is SiteState.DONE else state,
                images=report.totals.images,
                images_failed=report.totals.images_failed,
                requests=self._requests(site) - asked,
                seconds=time.monotonic() - began,
                error=errors[0] if errors else None,
                forecast=report.totals,
            ),
            report,
        )

    def _requests(self, site: Site) -> int:
        """The requests so far to the host of ``site``, whose sites follow each other."""
        traffic = self.registries.traffic.get(self.registries.host_at(_address(site)))
        return traffic.requests.total() if traffic else 0


class _Verifying(Struct, frozen=True):
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
            hosts[host] = structs.replace(transport.host(host), group=site.group.name)
        elif site.bytes_per_second:
            hosts[host] = structs.replace(transport.host(host), bytes_per_second=site.bytes_per_second)
    return structs.replace(settings, transport=structs.replace(transport, hosts=hosts, groups=groups))
