"""A sync: from registries to registries, with no bundle between."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
from anyio import to_thread
from msgspec import Struct, structs

from syncer.api.result import Failures, Run, RunOptions, hearing
from syncer.api.sources import Leg, Sources, Warn, open_sources, sync_settings
from syncer.api.state import Lost, OpenTarget, look_at, open_target
from syncer.api.supplies import Snapshot
from syncer.content import Item
from syncer.errors import Exit, UsageError
from syncer.formats.units import CountOrShare, Shard
from syncer.oci import Reference
from syncer.profiles.syncfile.sync_file import SyncFile, read_sync_file
from syncer.profiles.syncfile.tags import MOST_DELETED
from syncer.registry import RegistrySettings
from syncer.report import Report
from syncer.report.forecast import Forecast, ForecastReport
from syncer.transfer.blob_spool import BlobSpool, SpoolReader, SpoolSettings, open_spool
from syncer.transfer.discovery import DiscoveryFailure
from syncer.transfer.events import Emit, Event, ImageFailed, ReferrersUnknown
from syncer.transfer.run import WORKERS, Options, transfer

if TYPE_CHECKING:
    from syncer.api.prune import PruneOutcome


Expect: TypeAlias = Callable[[int], None]


class Mirroring(Struct, frozen=True, kw_only=True):
    """The options of a sync: its state directory, its concurrency and its limits, and whether it prunes."""

    state: Path | None = None  # a directory in which hints are kept from run to run
    concurrency: int = WORKERS  # pieces of content in flight to each target
    recheck: bool = False  # all content is looked for at the targets, whatever their tags say
    fail_fast: bool = False  # the first failure ends the run
    prune: bool = False  # list what the targets have and nobody names any more
    delete: bool = False  # and delete it
    max_delete: CountOrShare = MOST_DELETED  # unless it is more than this of a target's tags
    timeout: float | None = None  # seconds, after which the run ends, and the next one goes on
    spool_size: int | None = None  # bytes of the spool in the state directory; 0: each target reads from the source


class SyncPlace(Struct, frozen=True, kw_only=True):
    """The part of a sync that is a machine's own: the file as it is there, its logins, and its directory of hints."""

    file: SyncFile
    state: Path
    open: Callable[[Leg, Warn], AbstractAsyncContextManager[Sources]]  # opens the sources of a leg


class SyncResult(Struct, frozen=True, kw_only=True):
    """The outcome of a sync.  ``timed_out``: the time that was given was up first."""

    report: Report
    timed_out: bool = False

    @property
    def exit(self) -> Exit:
        return Exit.INCOMPLETE if self.timed_out else self.report.exit


async def sync(
    file: str | Path | SyncFile,
    how: Mirroring | None = None,
    *,
    settings: RegistrySettings | None = None,
    environment: Mapping[str, str] | None = None,
    strict: bool = False,
    shard: Shard | None = None,
    warn: Warn | None = None,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> SyncResult:
    """Mirror what a sync file says (docs/sync.md); its variables are looked up in ``environment``, and nowhere else.

    Of a ``shard`` only images whose source repositories belong to it are mirrored, and nothing is pruned.
    Raises ``UsageError`` for a file that asks for what cannot be; an image that fails is an entry in the report.
    """
    known = environment or {}
    read = file if isinstance(file, SyncFile) else await to_thread.run_sync(read_sync_file, Path(file), known)
    own = sync_settings(read, settings or RegistrySettings(), known)
    async with open_sources(read, own, warn or _ignore, strict=strict, environment=known, shard=shard) as sources:
        return await run_sync(sources, how or Mirroring(), run_id=run_id, emit=emit)


def _ignore(_: str) -> None:
    """Listen to no warnings."""


async def run_sync(
    sources: Sources,
    how: Mirroring,
    *,
    run_id: str | None = None,
    emit: Emit | None = None,
    expect: Expect | None = None,
    on_cut: Callable[[Report], None] | None = None,
) -> SyncResult:
    """Bring the content of ``sources`` to all of their targets at the same time.

    Images that failed, and sources that could not be listed, are tried once more at the end.  Raises ``UsageError``
    before anything is sent when the file asks for something impossible.  ``expect`` is called with the number of
    images, once it is known; ``on_cut`` with the result so far, when a cancellation or an error cuts the run short.
    """
    if how.prune:
        sources.require_all()
    run = Run(RunOptions(concurrency=how.concurrency, run_id=run_id, emit=emit), fetches=True, sends=True)
    registries = sources.supplies.registries
    run.goes_to(registries, *sources.addresses.values())
    with _open_targets(sources, how.state, Lost(how.state or Path(), sources.warn)) as targets:
        passes = _Passes(sources, targets, how, run, expect)
        try:
            with anyio.move_on_after(how.timeout) as limit, run.watching(registries):
                await passes.carry_out()
        except BaseException:
            passes.close()
            if on_cut:
                on_cut(run.report(registries))
            raise
        passes.close()
        report = run.report(registries)
        if pruned := passes.pruned:
            report = structs.replace(report, pruned=pruned.pruned, prune_refused=pruned.refused)
    return SyncResult(report=report, timed_out=limit.cancelled_caught)


@contextmanager
def _open_targets(sources: Sources, state: Path | None, lost: Lost) -> Iterator[dict[str, OpenTarget]]:
    """Open the registry of each target, by its host, before anything is asked of them."""
    with ExitStack() as stack:
        targets: dict[str, OpenTarget] = {}
        for address in sources.addresses.values():
            if address.host not in targets:
                registries = sources.supplies.registries
                targets[address.host] = stack.enter_context(open_target(registries, address, state, lost))
        yield targets


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class _Passes:
    """The passes of one run: one over everything, and one over what failed."""

    sources: Sources
    targets: dict[str, OpenTarget]
    how: Mirroring
    run: Run
    expect: Expect | None
    scope: anyio.CancelScope = dataclasses.field(default_factory=anyio.CancelScope)
    failures: Failures = dataclasses.field(init=False)
    was_cut: bool = True  # until everything was tried
    pruned: PruneOutcome | None = None
    doubted: set[Reference] = dataclasses.field(
        default_factory=set
    )  # targets of images about which something may be missing

    def __post_init__(self) -> None:
        self.failures = Failures(self.run.emit)

    async def carry_out(self) -> None:
        with self.scope:
            items = await self.sources.find_items()
            self._announce(items)
            if self.how.fail_fast and self.sources.unknown:
                return
            await self._pass(items)
            if self.failures.errors or self.sources.unknown:
                self.sources.supplies.registries.transport.forget_outages()
                found = await self._find_more(items)
                await self._pass([*self.failures.again(items), *found])
            self.was_cut = False
            if self.how.prune:
                names = [image.target for image in self.run.report().images]
                self.pruned = await _prune(self.sources, names, self.how, self.doubted)

    async def _find_more(self, items: Iterable[Item]) -> list[Item]:
        """Ask the sources again that could not be asked at first; names that contradict what is there already fail."""
        known = {(item.source, item.target) for item in items}
        lost = list(self.sources.unknown)
        try:
            found = [item for item in await self.sources.find_items() if (item.source, item.target) not in known]
        except UsageError as mistake:
            self.failures.errors |= dict.fromkeys(lost, mistake)
            return []
        self._announce(found)
        return found

    def close(self) -> None:
        """Report the images that failed in the end, and the sources that were not reached."""
        self.failures.errors |= self.sources.unknown
        self.failures.tell()
        self.run.account.expect(self.sources.unasked)
        for host, target in self.targets.items():
            if not self.was_cut and not self._left_content_at(host):
                target.finish()

    def _left_content_at(self, host: str) -> bool:
        """Tell whether the registry may hold parts of an image that did not arrive."""
        return any(
            item.target.registry == host and error.exit not in (Exit.MISSING, Exit.DENIED)
            for item, error in self.failures.errors.items()
        )

    def _announce(self, items: Sequence[Item]) -> None:
        self.run.account.expect(items)
        if self.expect:
            self.expect(len(items))

    async def _pass(self, items: Iterable[Item]) -> None:
        """Bring ``items``; a name means to all targets what it meant first in this pass."""
        source = Snapshot(self.sources.supplies)
        by_host: dict[str, list[Item]] = {}
        for item in items:
            by_host.setdefault(item.target.registry, []).append(item)
        async with self._open_spool(by_host) as spool, anyio.create_task_group() as tasks:
            for host, own in by_host.items():
                tasks.start_soon(self._bring, own, source, host, spool)

    @asynccontextmanager
    async def _open_spool(self, by_host: Mapping[str, Sequence[Item]]) -> AsyncIterator[BlobSpool | None]:
        """The spool of a pass; None where there is nowhere to have it."""
        if self.how.state is None or self.how.spool_size == 0:
            yield None
            return
        items = [(host, item) for host, own in by_host.items() for item in own]
        settings = SpoolSettings(directory=self.how.state, size=self.how.spool_size)
        async with open_spool(settings, items, emit=self._note, warn=self.sources.warn) as spool:
            yield spool

    async def _bring(self, items: Sequence[Item], source: Snapshot, host: str, spool: BlobSpool | None) -> None:
        target = self.targets[host]
        reader = SpoolReader(spool, host) if spool else None
        options = Options(workers=self.run.concurrency, memory=target.memory, recheck=self.how.recheck, spool=reader)
        await transfer(items, source, target.target, options=options, emit=self._note)
        if reader:
            reader.close()

    def _note(self, event: Event) -> None:
        """Pass an event on; a failure is kept back, since the second pass may bring the image."""
        if isinstance(event, ReferrersUnknown):
            self.doubted.add(event.item.target)
        self.failures(event)
        if self.how.fail_fast and isinstance(event, ImageFailed):
            self.scope.cancel()


async def _prune(
    sources: Sources, names: Collection[Reference], how: Mirroring, doubted: Collection[Reference] = ()
) -> PruneOutcome:
    """Find what the targets of ``sources`` have beside ``names``, and delete it if ``how`` says so."""
    from syncer.api.prune import prune  # noqa: PLC0415  rarely used

    return await prune(sources, names, delete=how.delete, limit=how.max_delete, doubted=doubted)


async def plan_sync(
    sources: Sources,
    *,
    state: Path | None = None,
    concurrency: int = WORKERS,
    with_prune: bool = False,
    shares: bool = True,
    emit: Emit | None = None,
) -> ForecastReport:
    """Foresee what a sync of ``sources`` would fetch, send and mount, and ``with_prune`` what it would delete.

    ``state`` is where earlier runs left their hints; ``shares`` says whether a blob is fetched once for all targets;
    ``emit`` hears of what holds requests up.  Raises ``UsageError`` for names that contradict each other, and for a
    prune of a shard.
    """
    if with_prune:
        sources.require_all()
    forecast = Forecast(fetches=True, sends=True, can_mount=True, shares=shares)
    registries = sources.supplies.registries
    addresses = {address.host: address for address in sources.addresses.values()}
    with ExitStack() as stack:
        stack.enter_context(hearing(registries, emit))
        items = await sources.find_items()
        snapshot = Snapshot(sources.supplies)
        looks = {host: stack.enter_context(look_at(registries, address, state)) for host, address in addresses.items()}
        async with anyio.create_task_group() as tasks:
            for host, look in looks.items():
                own = [item for item in items if item.target.registry == host]
                tasks.start_soon(look.discover, own, snapshot, concurrency)
        for look in looks.values():
            look.add_to(forecast)
    for item, error in sources.unknown.items():
        forecast.add(DiscoveryFailure(item, error), "")
    report = forecast.report()
    if with_prune:
        found_now = await _prune(sources, [image.target for image in report.images], Mirroring())
        report = structs.replace(report, pruned=found_now.pruned)
    return report
