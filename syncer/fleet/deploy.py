"""A run over many sites: the bundle is opened and checked once, one transport serves all, and each site is a run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread
from msgspec import Struct, field, structs
from msgspec.structs import replace

from syncer.api.bundles import BundleSource, Warn, bundle_name, check_definition, find_in_file, opened
from syncer.api.push import changed_meanwhile
from syncer.api.result import bytes_of, looking, may_pass, new_run_id, to_all
from syncer.api.state import Lost
from syncer.bundle import Bundle, BundleUrl, GivenName, bundle_place, verify_bundle
from syncer.errors import SyncerError, UsageError
from syncer.fleet import AT_ONCE, Errand, FleetOptions, Runner, Unwatched, Watcher, name_sites, read_targets
from syncer.fleet.journal import Cargo, FleetJournal
from syncer.fleet.queue import SiteQueue
from syncer.fleet.result import GO_ON, FleetResult, NotBegun, SiteResult, SiteState, Visited, sum_up
from syncer.fleet.visits import (
    IN_FLIGHT,
    Names,
    Planning,
    Pushing,
    Verifying,
    Visit,
    address_of,
    open_convoy,
    share_of_workers,
    with_limits,
)
from syncer.formats.units import CountOrShare
from syncer.naming import NameMapping
from syncer.oci import Platform
from syncer.profiles.syncfile.site import Site
from syncer.registry import Registries, RegistrySettings, open_registries
from syncer.report.account import available_cores
from syncer.report.summary import Reported
from syncer.report.timeline import MOST_BLOBS_OF_SITES, Measured, TimelineRecorder
from syncer.transfer.events import Event
from syncer.transfer.run import WORKERS


async def deploy(
    bundle: str | Path | BundleUrl | Bundle,
    sites: str | Path | Iterable[str | Site],
    *,
    at_once: int = AT_ONCE,
    runner: Runner | None = None,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: str | Platform | None = None,
    settings: RegistrySettings | None = None,
    environment: Mapping[str, str] | None = None,
    state: Path | None = None,
    most_failed: CountOrShare | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  of the run: it ends what runs, and tells
    rehash: bool = False,
    recheck: bool = False,
    trust_journal: bool = False,
    concurrency: int = WORKERS,
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
    ``most_failed`` of them failed.  With ``trust_journal`` nothing is asked of sites to which an earlier run brought
    all of this bundle, as ``state`` has it.  ``watcher`` hears of each site as it begins and ends.  All else is as for
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
        concurrency=concurrency,
        most_failed=most_failed,
        timeout=timeout,
        platform=Platform.of(platform),
        state=state,
        annotations=annotations,
        rehash=rehash,
        recheck=recheck,
        trust_journal=trust_journal,
        run_id=run_id or new_run_id(),
        watcher=watcher or Unwatched(),
        warn=warn,
    )
    return await push_fleet(bundle, chosen, settings=settings, options=options, runner=runner)


async def push_fleet(
    file: str | Path | BundleUrl | Bundle,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
    runner: Runner | None = None,
) -> FleetResult:
    """Push the bundle ``file`` to each of ``sites``; a site that fails stops none of the others.

    With ``runner`` the sites are visited there, and ``settings`` are for a bundle on a web server, but for the bytes a
    second.  Raises as ``push_file`` does for the bundle, and ``UsageError`` before anything is sent for names that
    collide at one of the sites.
    """
    options = options or FleetOptions()
    account = _Account(sites, options, "push", _name_of(file))
    async with _opened(file, given, settings, account) as (registries, bundle):
        chosen, names = _choose(bundle, sites, options)
        journal = _open_journal(bundle, chosen, options)
        if options.rehash:
            await verify_bundle(bundle)
        account.trust(journal, len(chosen.items))
        if runner:
            errand = Errand.of("push", bundle, given, settings, options)
            await _visit_there(account, runner, errand, journal)
        else:
            concurrency, convoy = share_of_workers(len(sites), options), open_convoy(bundle, options, len(sites))
            pushing = Pushing(registries, bundle, chosen, names, options, concurrency, convoy)
            await _visit_all(account, pushing.visit, registries, journal)
        if bundle.changed():
            raise changed_meanwhile(bundle)
    return account.result()


async def plan_fleet(
    file: str | Path | BundleUrl | Bundle,
    sites: Sequence[Site],
    *,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    options: FleetOptions | None = None,
    runner: Runner | None = None,
) -> FleetResult:
    """Foresee what ``push_fleet`` would send to each of ``sites``; raises as it does.

    Nothing is sent, so that sites are asked at any time, whatever their windows are.
    """
    options = options or FleetOptions()
    sites = [replace(site, windows=()) for site in sites]
    account = _Account(sites, options, "plan", _name_of(file))
    async with _opened(file, given, settings, account) as (registries, bundle):
        chosen, _ = _choose(bundle, sites, options)
        account.trust(_open_journal(bundle, chosen, options), len(chosen.items))
        if runner:
            await _visit_there(account, runner, Errand.of("plan", bundle, given, settings, options))
        else:
            planning = Planning(registries, chosen, options, share_of_workers(len(sites), options))
            await _visit_all(account, planning.visit, registries)
    return account.result()


async def verify_fleet(
    file: str | Path | BundleUrl | Bundle,
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
    account = _Account(sites, options, "verify", _name_of(file))
    async with _opened(file, given, settings, account) as (registries, bundle):
        check = await verify_bundle(bundle)
        await to_thread.run_sync(check_definition, bundle)
        if runner:
            errand = Errand.of("verify", bundle, given, settings, options, check=check)
            await _visit_there(account, runner, errand)
        else:
            verifying = Verifying(registries, bundle, check, options, share_of_workers(len(sites), options))
            await _visit_all(account, verifying.visit, registries)
    return account.result()


@asynccontextmanager
async def _opened(
    file: str | Path | BundleUrl | Bundle,
    given: GivenName | None,
    settings: RegistrySettings | None,
    account: _Account,
) -> AsyncIterator[tuple[Registries, Bundle]]:
    """The registries of all sites, and the bundle, which may come by way of them; a run that is cut is told of."""
    async with AsyncExitStack() as stack:
        with account.told_if_cut():
            registries = await stack.enter_async_context(open_registries(with_limits(settings, account.sites)))
            place = opened(file, given, registries=registries, may_lack=True, warn=account.options.warn)
            bundle = await stack.enter_async_context(place)
            with looking(account.recorder, partial(account.seen, registries), _ignore):
                yield registries, bundle


def _ignore(_: Event) -> None:
    """Do nothing with a blob that stands still: the run at its site tells of it."""


def _name_of(file: str | Path | BundleUrl | Bundle) -> str:
    return bundle_name(bundle_place(file) if isinstance(file, str) else file)


def _choose(bundle: Bundle, sites: Iterable[Site], options: FleetOptions) -> tuple[BundleSource, Names]:
    """The items of ``bundle`` that go to ``sites``, and their names there.

    Raises ``UsageError`` for names that collide at one of them.
    """
    chosen = find_in_file(bundle, options.annotations)
    names = Names(chosen, options)
    for site in sites:
        names.at(site)
    return chosen, names


def _open_journal(bundle: Bundle, chosen: BundleSource, options: FleetOptions) -> FleetJournal | None:
    """The journal of sites that have ``chosen``; None where nothing is remembered."""
    if options.state is None:
        return None
    cargo = Cargo.of(bundle, chosen, options.platform)
    journal = FleetJournal(options.state / "fleets", cargo, Lost(options.state, options.warn))
    if options.trust_journal:
        journal.load()
    return journal


def _read_clocks() -> tuple[float, float, float]:
    """The time, and the CPU of this process and of this thread, in seconds."""
    return time.monotonic(), time.process_time(), time.thread_time()


class _Account(Struct, frozen=True):
    """The account of a run, as it grows."""

    sites: Sequence[Site]
    options: FleetOptions
    command: str
    bundle: str  # its name
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    results: dict[str, SiteResult] = field(default_factory=dict)  # by the keys of sites
    clocks: tuple[float, float, float] = field(default_factory=_read_clocks)  # as it began
    recorder: TimelineRecorder = field(default_factory=lambda: TimelineRecorder(most_blobs=MOST_BLOBS_OF_SITES))
    gone: list[int] = field(default_factory=lambda: [0, 0])  # bytes received from, and sent to, hosts that were left

    @property
    def waiting(self) -> list[Site]:
        """The sites of which nothing is known yet."""
        return [site for site in self.sites if site.key not in self.results]

    def trust(self, journal: FleetJournal | None, images: int) -> None:
        """Take ``journal`` at its word, where that is asked for, that sites have all of the bundle's ``images``."""
        if journal is None or not self.options.trust_journal:
            return
        for site in self.sites:
            if journal.has(site):
                result = SiteResult(name=site.name, registry=site.registry, state=SiteState.UNCHANGED, images=images)
                self.results[site.key] = result
                self.options.watcher.end(result, None, is_last=True)

    def result(self) -> FleetResult:
        """What became of all sites so far."""
        return FleetResult(
            run_id=self.options.run_id,
            command=self.command,
            bundle=self.bundle,
            started=self.started,
            ended=datetime.now(UTC),
            sites=tuple(self.results.get(site.key) or _not_begun(site) for site in self.sites),
            measured=self._measured(),
            waited=sum_up(site.waited for site in self.results.values()),
            timeline=self.recorder.timeline(),
        )

    def seen(self, registries: Registries) -> tuple[int, int]:
        """The bytes so far that came from ``registries``, and that went there."""
        received, sent = bytes_of(registries.traffic.values())
        return self.gone[0] + received, self.gone[1] + sent

    def leave(self, registries: Registries, site: Site) -> None:
        """Close the connections to ``site``, whose requests and bytes count from 0 again, and keep its bytes."""
        host = registries.host_at(address_of(site))
        if traffic := registries.traffic.get(host):
            received, sent = bytes_of([traffic])
            self.gone[:] = self.gone[0] + received, self.gone[1] + sent
        registries.transport.leave(host)

    def _measured(self) -> Measured:
        elapsed, cpu, loop = (now - then for now, then in zip(_read_clocks(), self.clocks, strict=True))
        concurrency = share_of_workers(len(self.sites), self.options)
        return Measured(
            # more of them would not be used where the sites together have as many as may be in flight
            workers=concurrency if concurrency == self.options.concurrency else IN_FLIGHT,
            elapsed=elapsed,
            runs=sum(site.seconds for site in self.results.values()) / elapsed if elapsed else 1.0,
            cpu=cpu,
            loop=loop,
            cores=available_cores(),
        )

    @contextmanager
    def told_if_cut(self) -> Iterator[None]:
        """Tell ``options.on_cut`` of it when the block is cancelled."""
        try:
            yield
        except anyio.get_cancelled_exc_class():
            if self.options.on_cut:
                self.options.on_cut(self.result())
            raise


def failed_fleet(
    command: str, bundle: str, sites: Sequence[Site], options: FleetOptions, error: SyncerError
) -> FleetResult:
    """The account of a run that ``error`` ended before any of ``sites`` was gone to, as a damaged bundle does."""
    result = _Account(sites, options, command, bundle).result()
    rows = tuple(structs.replace(site, error=error) for site in result.sites)
    return structs.replace(result, sites=rows, exit_code=int(error.exit), measured=None, timeline=None)


def _not_begun(site: Site, why: NotBegun | None = None) -> SiteResult:
    return SiteResult(name=site.name, registry=site.registry, state=SiteState.NOT_BEGUN, error=why)


async def _visit_there(account: _Account, runner: Runner, errand: Errand, journal: FleetJournal | None = None) -> None:
    """Have ``runner`` do ``errand`` at each site."""
    if sites := account.waiting:
        async with runner.open(errand, sites, warn=account.options.warn) as visit:
            await _visit_all(account, visit, None, journal)


async def _visit_all(
    account: _Account, visit: Visit, registries: Registries | None, journal: FleetJournal | None = None
) -> None:
    """Do ``visit`` at each site; those that failed for what may have passed are visited again at the end.

    ``registries`` are those that are spoken to in this process, and ``journal`` is told which sites have everything.
    """
    run = _Visits(account, journal.noting(visit) if journal else visit, registries)
    await run.all(account.waiting)
    again = run.to_visit_again()
    if again and registries:
        hosts = (registries.host_at(address_of(site)) for site in again)
        registries.transport.forget_outages(*hosts, is_last=True)
    await run.all(again)
    run.tell_of_the_rest()


class _Visits:
    """Goes to sites, so many at a time, as their queue says."""

    def __init__(self, account: _Account, visit: Visit, registries: Registries | None) -> None:
        options = account.options
        self._account = account
        self._results = account.results
        self._sites = account.sites
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

    def tell_of_the_rest(self) -> None:
        """Note of the sites that were not begun why that is so."""
        why = self._is_over() or NotBegun(
            "its window did not open in time", hint="run the same command while it is open, or with a longer --timeout"
        )
        self._results |= {site.key: _not_begun(site, why) for site in self._account.waiting}

    def _is_over(self) -> NotBegun | None:
        """The reason why no more sites may be begun, if there is one."""
        if self._ends is not None and time.monotonic() >= self._ends:
            return NotBegun("the time of the run was over", hint=GO_ON)
        most = self._options.most_failed
        if most is None:
            return None
        failed = sum(not result.state.is_good for result in self._results.values())
        return None if most.allows(failed, of=len(self._sites)) else NotBegun("too many others had failed", hint=GO_ON)

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
        emit = to_all(self._account.recorder.at(site.name), self._options.watcher.begin(site))
        limits = [self._ends - began] if self._ends is not None else []
        if closes is not None:
            limits.append((closes - datetime.now(UTC)).total_seconds())
        await self._visit(site, emit, min(limits, default=None), partial(self._note, site, began))

    def _note(self, site: Site, began: float, result: SiteResult, report: Reported | None) -> None:
        """Note that a visit to ``site``, which began at ``began``, has ended."""
        is_last = True
        at = began - self._account.clocks[0]
        self._account.recorder.left(site.name, at, 0 if self._registries else result.bytes_sent)
        result = structs.replace(result, visits=(Visited(at=at, seconds=time.monotonic() - began),))
        if before := self._results.get(site.key):
            result = result.after(before)
        elif not result.state.is_good and result.error is not None and may_pass(result.error):
            self._maybe_again[site.key] = site
            is_last = False
        self._results[site.key] = result
        if self._registries:
            self._account.leave(self._registries, site)
        self._options.watcher.end(result, report, is_last=is_last)
