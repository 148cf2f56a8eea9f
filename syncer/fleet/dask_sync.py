"""A sync on many machines: what goes from one source registry to one target is a task of dask.distributed.

Which of these legs begins next is decided here, in the process that began the run, so that a target is never written
by two tasks, and a registry that the file limits is never used by two.  A task names its leg and the run.  A worker
reads the sync file itself, and takes the logins that it finds for it, so that none ever leaves its machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, TypeAlias

import anyio
import distributed
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from msgspec import Struct, field, structs

from syncer import __version__
from syncer.api.result import new_run_id
from syncer.api.sources import Leg, Warn, find_legs, identify
from syncer.api.sync import Mirroring, SyncPlace, SyncResult, run_sync
from syncer.content import Item
from syncer.errors import SyncerError, UsageError, without_secrets
from syncer.fleet.dask import compare_workers, connected, do_task, given_up_with, time_for
from syncer.fleet.visits import pieces_in_flight
from syncer.oci import Descriptor
from syncer.profiles.syncfile.sync_file import SyncFile
from syncer.registry import RegistryAddress
from syncer.report import Account, ImageAccount, Report, Status
from syncer.report.account import join_reports
from syncer.report.figures import Told, reason
from syncer.report.summary import shown
from syncer.transfer.events import Emit, Event, ImageCopied, ImageFailed, ImageSkipped

MakeSyncPlace: TypeAlias = Callable[[], SyncPlace]
"""Makes the place on a worker, as ``fleet.MakeWorkplace`` does."""


class SyncErrand(Struct, frozen=True, kw_only=True):
    """The work of a run, as a worker is told of it: there is no login in it."""

    identity: str  # of the file, by which a worker knows that it has the same one
    how: Mirroring
    run_id: str
    version: str = __version__


class LegEnd(Struct, frozen=True, kw_only=True):
    """The end of a task, in which nothing is left that the worker knows as a secret.

    ``error`` is the reason why there is no ``report``, which is the document of one.
    """

    report: Mapping[str, Any] | None = None
    hints: Mapping[str, str] = field(default_factory=dict)  # by the messages of errors in the report
    warnings: tuple[str, ...] = ()
    timed_out: bool = False
    error: SyncerError | None = None


async def sync_there(
    cluster: str,
    make_place: MakeSyncPlace,
    file: SyncFile,
    how: Mirroring,
    *,
    run_id: str | None = None,
    emit: Emit | None = None,
    warn: Warn | None = None,
    expect: Callable[[int], None] | None = None,
    on_cut: Callable[[SyncResult], None] | None = None,
) -> SyncResult:
    """Have the workers of ``cluster`` do what ``syncer.api.sync.run_sync`` does, and make one result of theirs.

    ``make_place`` makes on each of them what it needs, of the same ``file``.  ``emit`` hears of the images of a leg
    when that has ended; ``on_cut`` is told the result so far when the run is cancelled.  Raises ``UsageError`` before
    anything is sent for workers with another syncer or another file, and ``Unreachable`` for a scheduler that is not
    there.  A task that fails as a whole is a failure of its images.
    """
    legs = await to_thread.run_sync(find_legs, file)
    identity = await to_thread.run_sync(identify, file)
    sent = structs.replace(how, state=None, prune=False, delete=False)
    errand = SyncErrand(identity=identity, how=sent, run_id=run_id or new_run_id())
    run = _Run(file, legs, errand, emit=emit, expect=expect, warn=warn)
    async with connected(cluster, len(run.hosts)) as client:
        await compare_workers(client, errand.version, _look, errand, make_place, warn=warn)
        try:
            await run.go(client, make_place)
        except anyio.get_cancelled_exc_class():
            if on_cut:
                on_cut(run.result())
            raise
    return run.result()


class _Run:
    """The legs of a run: which of them may begin, and what became of each."""

    def __init__(
        self,
        file: SyncFile,
        legs: Mapping[Leg, Sequence[Item]],
        errand: SyncErrand,
        *,
        emit: Emit | None,
        expect: Callable[[int], None] | None,
        warn: Warn | None,
    ) -> None:
        self.hosts = {target.title: RegistryAddress.parse(target.registry).host for target in file.targets}
        self._limited = {
            host
            for host, registry in file.by_host.items()
            if registry.requests_per_second or registry.bytes_per_second or registry.concurrency
        }
        self._legs = legs
        self._errand = errand
        self._emit = emit
        self._expect = expect
        self._warn = warn
        self._waiting = list(legs)
        self._in_use: set[str] = set()  # hosts that no other leg may use now
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._account = Account(run_id=errand.run_id, fetches=True, sends=True)  # of what no task tells
        self._reports: dict[Leg, Report] = {}
        self._failed: set[Leg] = set()
        self._warned: set[str] = set()
        timeout = errand.how.timeout
        self._ends = None if timeout is None else time.monotonic() + timeout
        self._timed_out = False

    async def go(self, client: distributed.Client, make_place: MakeSyncPlace) -> None:
        """Do all legs, as far as time allows; each begins when nobody uses what it must have for itself."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                while self._waiting:
                    for leg in self._take():
                        tasks.start_soon(self._do, client, make_place, leg)
                    if self._waiting:
                        await self._changed.wait()

    def result(self) -> SyncResult:
        """The result so far: images of legs that have not ended are unfinished."""
        for leg, items in self._legs.items():
            if leg not in self._reports and leg not in self._failed:
                self._account.expect(items)
        reports = [self._reports[leg] for leg in self._legs if leg in self._reports]
        joined, _ = join_reports([*reports, self._account.report()])
        report = structs.replace(joined, run_id=self._errand.run_id, parts=())
        return SyncResult(report=report, timed_out=self._timed_out)

    def _take(self) -> list[Leg]:
        """The legs that begin now, in the order of the file."""
        if self._left() == 0:
            self._waiting, self._timed_out = [], True
        begin = []
        for leg in list(self._waiting):
            if self._in_use.isdisjoint(alone := self._alone_at(leg)):
                self._in_use |= alone
                self._waiting.remove(leg)
                begin.append(leg)
        return begin

    def _alone_at(self, leg: Leg) -> set[str]:
        """The registries that ``leg`` must have for itself: its target, and what it reads of those with a limit.

        The limit of a registry holds in the process that keeps to it, and no worker knows of the others.
        """
        return {self.hosts[leg.target]} | (self._limited & {leg.registry} if leg.registry else self._limited)

    def _left(self) -> float | None:
        """The seconds that are left; None where there is no end."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    async def _do(self, client: distributed.Client, make_place: MakeSyncPlace, leg: Leg) -> None:
        errand, left = self._errand, self._left()
        until = None if left is None else time.time() + left
        key = (f"syncer-sync-{errand.run_id}", str(leg), 1)
        try:
            with anyio.move_on_after(time_for(left)):
                end = await do_task(client, bring_leg, errand, make_place, leg, until, key=key)
                self._note(leg, end)
                return
            self._timed_out = True
        except SyncerError as error:
            self._note(leg, LegEnd(error=error))
        finally:
            self._in_use -= self._alone_at(leg)
            self._changed.set()
            self._changed = anyio.Event()

    def _note(self, leg: Leg, end: LegEnd) -> None:
        """Take the end of ``leg`` into the account, and tell of its images."""
        for text in end.warnings:
            if self._warn and text not in self._warned:
                self._warn(text)
            self._warned.add(text)
        self._timed_out |= end.timed_out
        if end.report is not None:
            report = Report.from_json(end.report)
            self._reports[leg] = report
            self._tell(_events(report.images, end.hints))
        else:
            error = end.error or SyncerError("the worker told nothing of it")
            self._failed.add(leg)
            failures = [ImageFailed(item, error) for item in self._legs[leg]]
            for failure in failures:
                self._account(failure)
            self._tell(failures)

    def _tell(self, events: Sequence[Event]) -> None:
        if self._expect:
            self._expect(sum(_is_image(event) for event in events))
        for event in events:
            if self._emit:
                self._emit(event)
        if self._errand.how.fail_fast and any(isinstance(event, ImageFailed) for event in events):
            self._waiting.clear()
            self._scope.cancel()


def _is_image(event: Event) -> bool:
    return isinstance(event, ImageCopied | ImageSkipped | ImageFailed) and event.item.subject is None


def _events(images: Iterable[ImageAccount], hints: Mapping[str, str]) -> list[Event]:
    """The events by which ``images`` ended; their errors get their hints again."""
    events: list[Event] = []
    for image in images:
        item = Item(image.source, image.target, subject=image.subject)
        if image.error:
            image.error.hint = hints.get(str(image.error))
            events.append(ImageFailed(item, image.error))
        elif image.digest and image.status in (Status.COPIED, Status.SKIPPED):
            root = Descriptor("", image.digest, 0)  # a report has the digest alone, and nobody asks for more
            events.append(ImageCopied(item, root) if image.status is Status.COPIED else ImageSkipped(item, root))
    return events


# On a worker


async def _look(errand: SyncErrand, make_place: MakeSyncPlace) -> str | None:
    """The reason why this worker cannot do ``errand``; None when it can."""

    def look() -> str | None:
        try:
            _make(errand, make_place)
        except SyncerError as error:
            return without_secrets(str(error))
        return None

    return await to_thread.run_sync(look)


def _make(errand: SyncErrand, make_place: MakeSyncPlace) -> SyncPlace:
    """The place of this worker; raises ``UsageError`` for another file than that of the errand."""
    place = make_place()
    if identify(place.file) != errand.identity:
        raise UsageError(f"{place.file.path}, or a file that it names, is another one there than here")
    return place


def bring_leg(errand: SyncErrand, make_place: MakeSyncPlace, leg: Leg, until: float | None) -> LegEnd:
    """Mirror what belongs to ``leg``, as a task of a worker, until ``until`` (seconds since 1970)."""
    worker = distributed.get_worker()
    warnings: list[str] = []
    try:
        if errand.version != __version__:
            raise UsageError(f"the Dask worker {worker.address} has syncer {__version__}, and not {errand.version}")
        place = _make(errand, make_place)
        how = structs.replace(
            errand.how,
            state=place.state,
            concurrency=pieces_in_flight(worker.state.nthreads, errand.how.concurrency),
            timeout=None if until is None else max(0.0, until - time.time()),
        )
        job = partial(_bring, place, leg, how, errand.run_id, warnings.append)
        options = {"use_uvloop": sys.platform != "win32"}
        with (
            start_blocking_portal(backend_options=options, name="syncer") as portal,
            given_up_with(worker, portal.start_task_soon(job)) as brought,
        ):
            result = brought.result()
    except SyncerError as error:
        told = Told(without_secrets(str(error)), reason(error))
        told.hint = error.hint and without_secrets(error.hint)
        return LegEnd(error=told, warnings=tuple(map(without_secrets, warnings)))
    except CancelledError:  # as in ``dask.visit_site``
        raise distributed.Reschedule from None
    errors = [image.error for image in result.report.images if image.error]
    return LegEnd(
        report=shown(result.report.to_json()),
        hints={without_secrets(str(error)): without_secrets(error.hint) for error in errors if error.hint},
        warnings=tuple(map(without_secrets, warnings)),
        timed_out=result.timed_out,
    )


async def _bring(place: SyncPlace, leg: Leg, how: Mirroring, run_id: str, warn: Warn) -> SyncResult:
    async with place.open(leg, warn) as sources:
        return await run_sync(sources, how, run_id=run_id)
