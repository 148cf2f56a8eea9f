"""A run of a job, from its id to the result that the job gives back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
from msgspec import Struct, structs

from syncer.bundle import Assumed
from syncer.content import Item, Source, Target
from syncer.errors import Exit, NetworkError, SyncerError, Unsafe, refusal_in
from syncer.oci import Reference
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Account, RegistryAccount, Report
from syncer.report.timeline import TimelineRecorder
from syncer.transfer.events import (
    CameBack,
    Emit,
    Event,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Paused,
    Postponed,
    Retried,
    WentAway,
)
from syncer.transfer.memory import Memory
from syncer.transfer.run import WORKERS, Options, transfer
from syncer.transport import Traffic, Wait, WaitKind
from syncer.transport.client import TRANSIENT
from syncer.transport.failures import HOPELESS


class RunOptions(Struct, frozen=True, kw_only=True):
    """The options of a run: its id, its concurrency, and the listener to its events."""

    concurrency: int = WORKERS  # pieces of content in flight
    run_id: str | None = None  # None: a new one is made
    recheck: bool = False  # all content is looked for at a registry that is the target, whatever its tags say
    beside_others: bool = False  # other runs use its registries meanwhile, and somebody else tries again at the end
    emit: Emit | None = None  # hears of every event
    warn: Callable[[str], None] | None = None  # is told what works and may not be meant
    on_cut: Callable[[Report, str], None] | None = None  # is told how far a run came that was cut short, and its name


class Run:
    """The skeleton of every job: transfers, whose events go to the run's account and to all who listen, and a report.

    ``fetches`` and ``sends`` say whether the source and the target are registries; ``listener`` hears of every event
    as ``options.emit`` does.  Several runs may share registries, and each has an account of its own.
    """

    def __init__(
        self, options: RunOptions | None = None, *, fetches: bool, sends: bool, listener: Emit | None = None
    ) -> None:
        options = options or RunOptions()
        self.concurrency = options.concurrency
        self.warn = options.warn
        self.recheck = options.recheck
        self.beside_others = options.beside_others
        self._on_cut = options.on_cut
        self.notices: list[str] = []  # what is odd about the source, for the report
        self.account = Account(
            run_id=options.run_id or new_run_id(), fetches=fetches, sends=sends, workers=options.concurrency
        )
        self.emit = to_all(self.account, listener, options.emit)
        self._target_hosts: set[str] = set()

    def goes_to(self, registries: Registries, *addresses: RegistryAddress) -> None:
        """Note the registries that content goes to."""
        self.account.targets += tuple(map(str, addresses))
        self._target_hosts |= {registries.host_at(address) for address in addresses}

    @contextmanager
    def watching(self, registries: Registries | None) -> Iterator[None]:
        """Hear of what holds requests to ``registries`` up, and look at their traffic, as long as the block lasts.

        Beside other runs only the hosts count that content of this one goes to.
        """
        if registries is None:
            yield
            return

        def seen() -> tuple[int, int]:
            return bytes_of(self._own_traffic(registries).values())

        def is_own(host: str) -> bool:
            return not self.beside_others or host in self._target_hosts

        with looking(self.account.recorder, seen, self.emit), hearing(registries, self.emit, is_own):
            yield

    def _own_traffic(self, registries: Registries) -> Mapping[str, Traffic]:
        if not self.beside_others:
            return registries.traffic
        return {host: traffic for host, traffic in registries.traffic.items() if host in self._target_hosts}

    def tell(self, events: Iterable[Event]) -> None:
        """Tell all listeners of ``events`` that came about outside a transfer."""
        for event in events:
            self.emit(event)

    async def transfer(
        self,
        items: Sequence[Item],
        source: Source,
        target: Target,
        registries: Registries | None,
        memory: Memory | None = None,
    ) -> None:
        """Bring ``items`` from ``source`` to ``target``; ``registries`` are what lies in the network of the two.

        ``memory`` is what earlier runs saw at the target.  Images that failed for trouble which may have passed are
        tried once more at the end; an image that fails is in the report.  Raises ``TargetFull``.
        """
        options = Options(workers=self.concurrency, memory=memory or Memory(), recheck=self.recheck)
        tries_again = registries is not None and not self.beside_others
        failures = Failures(self.emit, may_pass if tries_again else _never)
        try:
            with self.watching(registries):
                await transfer(items, source, target, options=options, emit=failures)
                again = failures.again(items)
                if again and registries:
                    registries.transport.forget_outages()
                    await transfer(again, source, target, options=options, emit=failures)
        except anyio.get_cancelled_exc_class():
            self.account.expect(items)
            raise
        finally:
            failures.tell()

    @contextmanager
    def telling_if_cut(self, registries: Registries | None, name: str) -> Iterator[None]:
        """Tell ``options.on_cut`` how far this run, which is called ``name``, has come when the block is cut short.

        A cancellation does that, or an error.
        """
        try:
            yield
        except BaseException:
            if self._on_cut:
                self._on_cut(self.report(registries), name)
            raise

    def report(self, registries: Registries | None = None, host: str | None = None) -> Report:
        """The account so far, with the traffic of ``registries`` and what was odd about them where they are given.

        Beside other runs that is the traffic of ``host`` alone.
        """
        if registries is None:
            return self.account.report(warnings=self.notices)
        if self.beside_others:
            own = {name: traffic for name, traffic in registries.traffic.items() if name == host}
            return self.account.report(self._registry_accounts(own), warnings=self.notices)
        notices = [*self.notices, *registries.notices]
        return self.account.report(self._registry_accounts(registries.traffic), warnings=notices)

    def _registry_accounts(self, traffic: Mapping[str, Traffic]) -> list[RegistryAccount]:
        """The transport's counters as a report has them."""
        return [
            RegistryAccount(
                registry=host,
                requests=counted.requests.total(),
                requests_by_method=dict(counted.requests),
                retries=counted.retries,
                too_many_requests=counted.throttled,
                pauses=counted.pauses,
                paused_seconds=counted.paused_seconds,
                errors=counted.errors,
                bytes_received=counted.bytes_in,
                bytes_sent=counted.bytes_out,
                role=self._role_of(host),
                waited=_rounded(structs.asdict(counted.spent) | {"pauses": counted.time_paused}),
                concurrency=counted.permits.reached,
            )
            for host, counted in traffic.items()
        ]

    def _role_of(self, host: str) -> str:
        """The part that ``host`` has in the run; one of a run that reads and writes registries may have both."""
        if not self.account.sends:
            return "source"
        if host in self._target_hosts or not self.account.fetches:
            is_source_too = self.account.fetches and host in self.account.source_hosts
            return "registry" if is_source_too else "target"
        return "source"


@contextmanager
def looking(recorder: TimelineRecorder, seen: Callable[[], tuple[int, int]], emit: Emit) -> Iterator[None]:
    """Have ``recorder`` look at the bytes that were ``seen`` now and then, and at the end of the block.

    ``emit`` is told of blobs that stand still.
    """
    loop = asyncio.get_running_loop()
    timer: list[asyncio.TimerHandle] = []

    def look() -> None:
        for stalled in recorder.look(*seen()):
            emit(stalled)
        timer[:] = [loop.call_later(recorder.width, look)]

    look()
    try:
        yield
    finally:
        timer[0].cancel()
        look()
        timer[0].cancel()


@contextmanager
def hearing(
    registries: Registries, emit: Emit | None, is_own: Callable[[str], bool] = lambda _: True
) -> Iterator[None]:
    """Tell ``emit`` of what holds requests to ``registries`` up, at hosts that are its own, while the block lasts."""
    if emit is None:
        yield
        return

    def hear(wait: Wait) -> None:
        if is_own(wait.host):
            emit(_event_of(wait))

    with registries.transport.telling(hear):
        yield


@asynccontextmanager
async def open_heard(settings: RegistrySettings | None, emit: Emit | None) -> AsyncIterator[Registries]:
    """Open registries for a look at them; ``emit`` hears of what holds requests up."""
    async with open_registries(settings or RegistrySettings()) as registries:
        with hearing(registries, emit):
            yield registries


def bytes_of(traffic: Iterable[Traffic]) -> tuple[int, int]:
    """The bytes that came and that went."""
    received = sent = 0
    for each in traffic:
        received += each.bytes_in
        sent += each.bytes_out
    return received, sent


class Failures:
    """The images that failed; ``emit`` hears of those that are not tried again at once, and of the others in the end.

    It hears of an image that is to be tried again as ``Postponed``, and of all other events as they come.
    """

    def __init__(self, emit: Emit, may_pass: Callable[[SyncerError], bool] = lambda _: True) -> None:
        self.errors: dict[Item, SyncerError] = {}  # not tried again yet, or in vain
        self._emit = emit
        self._may_pass = may_pass
        self._told: set[Item] = set()  # which failed for good
        self._postponed: set[Item] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, ImageFailed):
            self._note(event)
            return
        if isinstance(event, ImageCopied | ImageSkipped):
            self.errors.pop(event.item, None)
            self._told.discard(event.item)
        self._emit(event)

    def _note(self, failed: ImageFailed) -> None:
        self.errors[failed.item] = failed.error
        if not self._may_pass(failed.error):
            if failed.item not in self._told:
                self._told.add(failed.item)
                self._emit(failed)
        elif failed.item not in self._postponed:
            self._postponed.add(failed.item)
            self._emit(Postponed(failed.item, failed.error))

    def again(self, items: Iterable[Item]) -> list[Item]:
        """Choose those of ``items`` to try again: they failed for what may pass, or their signatures did."""
        failed = {item for item, error in self.errors.items() if self._may_pass(error)}
        about = {(item.subject, item.target.name) for item in failed if item.subject}
        return [item for item in items if item in failed or (item.source, item.target.name) in about]

    def tell(self) -> None:
        """Tell what failed in the end, and has not been told."""
        for item, error in self.errors.items():
            if item not in self._told:
                self._emit(ImageFailed(item, error))


def _never(_: SyncerError) -> bool:
    """Take every failure for the last word."""
    return False


def may_pass(error: SyncerError) -> bool:
    """Tell whether ``error`` is trouble of the network or of a server, and no refusal."""
    if answered := refusal_in(error):
        return answered.status in TRANSIENT
    return isinstance(error, NetworkError) and not isinstance(error, (*HOPELESS, Unsafe))


class BuildResult(Struct, frozen=True, kw_only=True):
    """The outcome of a build.

    ``path`` is None when images failed and nothing was published; then ``partial`` is the path that the bundle will
    have once the same build was run again and all is there.
    """

    path: Path | None
    partial: Path | None
    report: Report
    bundle: str  # its name
    assumed: Assumed | None = None  # of a delta that was published: what it lacks, since its target has it
    blobs: int = 0  # that are in the bundle that was published
    size: int = 0  # bytes of the file that was published
    padding: int = 0  # bytes of it that are no content, and no part of its form

    @property
    def may_go_on(self) -> bool:
        """True when nothing was published for trouble that may have passed when the same is run again."""
        return self.path is None and any(image.error and may_pass(image.error) for image in self.report.failures)

    @property
    def exit(self) -> Exit:
        """The common code of all failures, else 1; 1 also for a bundle that was published without some images."""
        return Exit.INCOMPLETE if self.path and self.report.failures else self.report.exit


class AssumedThere(Struct, frozen=True, kw_only=True):
    """The content that a delta lacks, and that its target was asked for and has."""

    blobs: int
    bytes: int
    seconds: float  # that the questions took


class PushResult(Struct, frozen=True, kw_only=True):
    """The outcome of a push.

    ``definition`` is where the bundle's definition is now; None when anything failed before it, or when it could
    not be pushed itself, for which ``problem`` is the reason.
    """

    bundle: str
    registry: str
    report: Report
    definition: Reference | None = None
    problem: SyncerError | None = None
    assumed: AssumedThere | None = None  # of a delta: what was found at the registry before anything was sent

    @property
    def exit(self) -> Exit:
        return self.report.exit or (self.problem.exit if self.problem else Exit.OK)


def new_run_id() -> str:
    """A name that tells one run from all others: 12 hexadecimal digits."""
    return uuid.uuid4().hex[:12]


def to_all(*listeners: Callable[[Event], None] | None) -> Emit:
    """One ``Emit`` for several listeners."""
    present = [listener for listener in listeners if listener is not None]

    def emit(event: Event) -> None:
        for listener in present:
            listener(event)

    return emit


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """``seconds`` as a report has them, so that its bound is found again by who reads it."""
    return {state: round(value, 3) for state, value in seconds.items()}


def _event_of(wait: Wait) -> Event:
    """Something that holds requests up, as the listeners of a run hear of it."""
    match wait.kind:
        case WaitKind.PAUSE:
            return Paused(wait.host, wait.seconds, wait.reason)
        case WaitKind.RETRY:
            return Retried(wait.host, wait.retry, wait.retries, wait.seconds, wait.reason)
        case WaitKind.AWAY:
            return WentAway(wait.host, wait.reason)
        case WaitKind.OVER:
            return CameBack(wait.host)


Job = TypeVar("Job")


async def for_each(jobs: Iterable[Job], work: Callable[[Job], Awaitable[None]], concurrency: int) -> None:
    """Do ``work`` for each of ``jobs``, several at a time; raises its first ``SyncerError``, which ends it."""
    rest = iter(list(jobs))
    problems: list[SyncerError] = []

    async def take() -> None:
        for job in rest:
            if problems:
                return
            try:
                await work(job)
            except SyncerError as error:  # kept, since leaving a task group would wrap it
                problems.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(concurrency):
            tasks.start_soon(take)
    if problems:
        raise problems[0]
