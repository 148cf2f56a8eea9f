"""A run over many sites: the bundle is opened and checked once, one transport serves all, and each site is a run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
from anyio import to_thread

from syncer.api.bundles import BundleSource, Warn, bundle_name, find_in_file, opened
from syncer.api.push import Delivery, changed_meanwhile, deliver
from syncer.api.result import Run, RunOptions, may_pass, new_run_id
from syncer.api.verify import verify_at
from syncer.bundle import Bundle, BundleCheck, GivenName, verify_bundle
from syncer.errors import SyncerError, UsageError
from syncer.fleet import AT_ONCE, Errand, FleetOptions, Runner, Unwatched, Watcher, name_sites, read_targets
from syncer.fleet.queue import SiteQueue
from syncer.fleet.result import FleetResult, Lacking, OutOfTime, SiteResult, SiteState, outcome
from syncer.formats.units import CountOrShare
from syncer.naming import NameMapping
from syncer.oci import Platform
from syncer.profiles.syncfile.site import Site
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Report, Status
from syncer.transfer.events import Emit
from syncer.transfer.run import WORKERS

_IN_FLIGHT = 256  # pieces of content of all sites together
_LEAST_IN_FLIGHT = 4  # of one site


async def deploy(
    bundle: str | Path | Bundle,
    sites: str | Path | Iterable[str | Site],
    *,
    at_once: int = AT_ONCE,
    runner: Runner | None = None,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    settings: RegistrySettings | None = None,
    environment: Mapping[str, str] | None = None,
    state: Path | None = None,
    most_failed: CountOrShare | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  of the run: it ends what runs, and tells
    rehash: bool = False,
    recheck: bool = False,
    workers: int = WORKERS,
    run_id: str | None = None,
    watcher: Watcher | None = None,
    warn: Warn | None = None,
) -> FleetResult:
    """Push ``bundle``, a path or an open one, to many sites in one run; one that fails stops none of the others.

    ``sites`` are registries (``[http://]HOST[:PORT][/BASE]``), values, or the path of a targets file (docs/sites.md),
    of which the sites that are enabled are taken, and whose variables are looked up in ``environment`` and nowhere
    else.  ``at_once`` of them run at the same time; with ``runner`` on other machines, which have settings of their
    own (``syncer.fleet.dask.DaskRunner``).  ``mapping`` comes before the names that a site has of its own.  After
    ``timeout`` seconds no site is begun, and what runs is ended at its next request; nor is any begun once more than
    ``most_failed`` of them failed.  ``watcher`` hears of each site as it begins and ends.  All else is as for
    ``syncer.push``.  What became of each site is in the result.  Raises ``UsageError`` before anything is sent for
    sites that are named twice and names that collide, ``InvalidFile`` for a targets file, ``InvalidBundle``.
    """
    if runner and settings:
        raise UsageError(
            "settings stay in this process", hint="give the runner a function that makes them where it runs"
        )
    settings = settings or RegistrySettings()
    if isinstance(sites, str | Path):
        read = partial(read_targets, Path(sites), settings, environment or {}, warn=warn)
        listed, settings = await to_thread.run_sync(read)
        chosen = name_sites(listed, mapping)
    else:
        chosen = name_sites(sites, mapping)
    if not chosen:
        raise UsageError("no registry is named")
    options = FleetOptions(
        at_once=at_once,
        workers=workers,
        most_failed=most_failed,
        timeout=timeout,
        platform=platform,
        state=state,
        annotations=annotations,
        rehash=rehash,
        recheck=recheck,
        run_id=run_id or new_run_id(),
        watcher=watcher or Unwatched(),
        warn=warn,
    )
    return await push_fleet(bundle, chosen, settings=settings, options=options, runner=runner)


Visit: TypeAlias = Callable[[Site, Emit | None, float | None], Awaitable[tuple[SiteResult, Report | None]]]
"""Does the work at one site within so many seconds; None: it may take as long as it takes."""


async def push_fleet(
    file: str | Path | Bundle,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
    runner: Runner | None = None,
) -> FleetResult:
    """Push the bundle ``file`` to each of ``sites``; a site that fails stops none of the others.

    With ``runner`` the sites are visited there, and of ``settings`` only the bytes a second count.  Raises as
    ``push_file`` does for the bundle, and ``UsageError`` before anything is sent for names that collide at one of the
    sites.
    """
    options = options or FleetOptions()
    async with opened(file, given, warn=options.warn) as bundle:
        if options.rehash:
            await verify_bundle(bundle)
        chosen = find_in_file(bundle, options.annotations)
        for site in sites:
            _delivery(site, options).names(item.target for item in chosen.items)
        name = bundle_name(bundle)
        if runner:
            async with runner.open(Errand.of("push", bundle, given, settings, options), sites) as visit:
                result = await _visit_all(sites, visit, None, options, command="push", bundle=name)
        else:
            async with open_registries(_with_limits(settings, sites)) as registries:
                pushing = _Pushing(registries, chosen, name, options, _share_of_workers(sites, options))
                result = await _visit_all(sites, pushing.visit, registries, options, command="push", bundle=name)
        if bundle.changed():
            raise changed_meanwhile(bundle)
    return result


async def verify_fleet(
    file: str | Path | Bundle,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
    runner: Runner | None = None,
) -> FleetResult:
    """Hash the bundle ``file`` once, and look whether each of ``sites`` has all of it, with ``runner`` from there.

    Raises as ``verify`` does.
    """
    options = options or FleetOptions()
    async with opened(file, given, warn=options.warn) as bundle:
        check = await verify_bundle(bundle)
        if runner:
            async with runner.open(Errand.of("verify", bundle, given, settings, options, check=check), sites) as visit:
                return await _visit_all(sites, visit, None, options, command="verify", bundle=bundle_name(bundle))
        async with open_registries(_with_limits(settings, sites)) as registries:
            verifying = _Verifying(registries, bundle, check, options, _share_of_workers(sites, options))
            return await _visit_all(
                sites, verifying.visit, registries, options, command="verify", bundle=bundle_name(bundle)
            )


async def visit_alone(
    errand: Errand, site: Site, bundle: Bundle, settings: RegistrySettings, *, workers: int, seconds: float | None
) -> tuple[SiteResult, Report | None]:
    """Do ``errand`` at ``site`` within ``seconds``, with connections of its own, in another process than the run."""
    options = errand.options
    async with open_registries(_with_limits(settings, [site])) as registries:
        if errand.check is not None:
            visit = _Verifying(registries, bundle, errand.check, options, workers).visit
        else:
            chosen = find_in_file(bundle, options.annotations)
            visit = _Pushing(registries, chosen, bundle_name(bundle), options, workers).visit
        result, report = await visit(site, None, seconds)
    if bundle.changed() and not result.error:
        result = replace(result, state=SiteState.PARTIAL, error=changed_meanwhile(bundle))
    return result, report


def _share_of_workers(sites: Sequence[Site], options: FleetOptions) -> int:
    """The pieces of content that may be in flight at one site, so that the connections of all stay within bounds."""
    together = max(1, min(options.at_once, len(sites)))
    return min(options.workers, max(_LEAST_IN_FLIGHT, _IN_FLIGHT // together))


async def _visit_all(
    sites: Sequence[Site],
    visit: Visit,
    registries: Registries | None,
    options: FleetOptions,
    *,
    command: str,
    bundle: str,
) -> FleetResult:
    """Do ``visit`` at each of ``sites``; those that failed for what may have passed are visited again at the end."""
    started = datetime.now(UTC)
    run = _Visits(sites, visit, registries, options)
    await run.all(sites)
    again = run.to_visit_again()
    if again and registries:
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

    def __init__(
        self, sites: Sequence[Site], visit: Visit, registries: Registries | None, options: FleetOptions
    ) -> None:
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
            result = replace(
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
        if self._registries:
            self._registries.transport.leave(self._registries.host_at(_address(site)))
        self._options.watcher.end(result, report, is_last=is_last)


@dataclass(frozen=True, slots=True)
class _Pushing:
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
    return replace(settings, transport=replace(transport, hosts=hosts, groups=groups))
