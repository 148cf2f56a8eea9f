"""A run over many sites on many machines: each visit to a site is a task of dask.distributed (docs/fleet.md).

Which site begins next is decided here, in the process that began the run: sites of one host follow each other, groups
take turns and windows open whatever the cluster looks like.  A task names the bundle, the site and the run.  A worker
opens the bundle once, and makes the settings of registries itself, so that no login ever leaves its machine.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio
import distributed
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from distributed.client import ClosedClientError
from msgspec import Struct, structs

from syncer import __version__
from syncer.api.bundles import bundle_identity, opened
from syncer.bundle import Bundle
from syncer.errors import SyncerError, Unreachable, UsageError
from syncer.fleet import Errand, MakeWorkplace, Workplace
from syncer.fleet.result import SiteResult, Stopped, outcome
from syncer.fleet.visits import Ended, Visit, open_convoy, pieces_in_flight, visit_alone
from syncer.profiles.syncfile.site import Site
from syncer.registry import open_registries
from syncer.report.summary import Reported
from syncer.transfer.events import Emit

T = TypeVar("T")

_LINGERS = 10.0  # seconds for which a worker keeps a bundle open that no task uses
_LATE = 30.0  # seconds that a worker may take to tell of a site whose time is over
_SECONDS_TO_CLOSE = 10.0
_SECONDS_AFTER_A_SIGNAL = 1.0  # less than a command may take then
_MOST_THREADS = 64  # of one process of our own
_LEAVE_SIGNALS_TO_US = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # a terminal tells all processes
_LOCAL = re.compile(r"local:([0-9]{1,4})")
_ADDRESS = re.compile(r"[a-z]+://[^/\s@]+:[0-9]{1,5}")


def check_cluster(text: str) -> str:
    """Take ``tls://HOST:PORT`` or ``local:N``, and return it; raises ``UsageError``."""
    local = _LOCAL.fullmatch(text)
    if not (1 <= int(local[1]) <= 1024 if local else _ADDRESS.fullmatch(text)):
        raise UsageError(
            f"{text[:80]!r} names no Dask cluster",
            hint="write the address of its scheduler, tls://scheduler:8786, or local:4 for 4 processes of this machine",
        )
    return text


_End: TypeAlias = tuple[SiteResult, Reported | None]  # of a visit
_GIVEN_UP = "the Dask cluster gave the task up"
_GO_ON = "is its scheduler still there? the same command goes on"


class ClusterError(SyncerError):
    """A Dask cluster did not do a task."""


class DaskRunner(Struct, frozen=True, kw_only=True):
    """A Dask cluster as the place where sites are visited; implements ``fleet.Runner``.

    ``cluster`` is the address of its scheduler, or ``local:N`` for N processes of this machine, which live as long as
    the run.  TLS of a scheduler is configured as Dask has it (``DASK_DISTRIBUTED__COMM__TLS__…``).
    """

    cluster: str
    workplace: MakeWorkplace = Workplace

    @asynccontextmanager
    async def open(
        self, errand: Errand, sites: Sequence[Site], *, warn: Callable[[str], None] | None = None
    ) -> AsyncIterator[Visit]:
        """Connect to the cluster; raises ``UsageError`` for workers that have another syncer or bundle.

        Raises ``Unreachable`` for a scheduler that is not there.
        """
        async with connected(self.cluster, _at_once(errand, sites)) as client:
            await compare_workers(client, errand.version, _look, errand, self.workplace, warn=warn)
            yield _Tasks(client, errand, self.workplace, sites).visit
            if client.status == "running":
                with suppress(OSError), anyio.move_on_after(_SECONDS_TO_CLOSE):
                    await client.run(_clear, errand.options.run_id, on_error="ignore")


async def compare_workers(
    client: distributed.Client,
    version: str,
    look: Callable[..., Awaitable[str | None]],
    *arguments: Any,
    warn: Callable[[str], None] | None,
) -> None:
    """Raise ``UsageError`` where a worker has another ``version`` of syncer, or a reason by ``look(*arguments)``.

    Raises ``Unreachable`` for a scheduler that is gone.
    """
    try:
        versions = await client.run(_version, on_error="return")
        if not versions and warn:
            warn("the Dask cluster has no worker yet: the run begins with the first one that comes")
        others = {
            worker: f"syncer cannot be run there: {of}" if isinstance(of, Exception) else f"it has syncer {of}"
            for worker, of in versions.items()
            if of != version and not isinstance(of, OSError)  # a worker that is gone has no task
        }
        if not others:
            looked = await client.run(look, *arguments, on_error="return")
            others = {
                worker: f"{problem}"
                for worker, problem in looked.items()
                if problem is not None and not isinstance(problem, OSError)
            }
    except OSError as error:
        raise Unreachable(f"the Dask scheduler is gone: {error}") from None
    if others:
        worker, problem = min(others.items())
        more = f" (and {len(others) - 1:,} more of {len(versions):,} workers cannot)" if len(others) > 1 else ""
        raise UsageError(
            f"the Dask worker {worker} cannot take part: {problem}{more}",
            hint=f"each worker needs syncer {version}, and the files of the command at the same paths",
        )


@asynccontextmanager
async def connected(cluster: str, at_once: int) -> AsyncIterator[distributed.Client]:
    """A connection to ``cluster``, which is made here where it is a local one; ``at_once`` tasks are run there.

    Raises ``UsageError`` for what names no cluster, and ``Unreachable`` for a scheduler that is not there.
    """
    check_cluster(cluster)
    async with AsyncExitStack() as stack:
        place: Any = cluster
        if local := _LOCAL.fullmatch(cluster):
            processes = int(local[1])
            place = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=processes,
                threads_per_worker=min(_MOST_THREADS, math.ceil(at_once / processes)),
                processes=True,
                asynchronous=True,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # or two clusters here would want port 8787
                memory_limit=None,
                silence_logs=logging.CRITICAL,
                preload=[_LEAVE_SIGNALS_TO_US],
                config={"distributed.worker.profile.enabled": False},  # it looks at all threads every 10 ms
                security=True,  # a scheduler runs what it is sent: nobody else on this machine may send it anything
            )
            await stack.enter_async_context(_closing(place))
            await place
        try:
            client = distributed.Client(place, asynchronous=True, set_as_default=False)  # type: ignore[no-untyped-call]
            await stack.enter_async_context(_closing(client))
            await client
        except (OSError, TypeError, ValueError) as error:
            why = "Dask has no certificates for TLS" if isinstance(error, TypeError) else error
            raise Unreachable(
                f"the Dask scheduler {cluster} cannot be reached: {why}",
                hint="its address is tls://HOST:8786 with TLS, which Dask's own configuration describes, else tcp://",
            ) from None
        yield client


@asynccontextmanager
async def _closing(place: Any) -> AsyncIterator[None]:
    """Close a client or a cluster at the end of the block; after a cancellation only in the time that is left then."""
    seconds = _SECONDS_TO_CLOSE
    try:
        yield
    except BaseException:
        seconds = _SECONDS_AFTER_A_SIGNAL
        raise
    finally:
        with anyio.move_on_after(seconds, shield=True):
            await place.close()


def _at_once(errand: Errand, sites: Sequence[Site]) -> int:
    """The sites that can run at the same time: those of one host follow each other."""
    return max(1, min(errand.options.at_once, len({site.host for site in sites})))


def _shares(errand: Errand, sites: Sequence[Site]) -> dict[str, int | None]:
    """The bytes a second of each site, by its key.

    Workers know nothing of each other, so each of the sites that can run together has an equal share of what they may
    take together.
    """
    together = _at_once(errand, sites)
    hosts: dict[str, set[str]] = {}
    for site in sites:
        if site.group:
            hosts.setdefault(site.group.name, set()).add(site.host)

    def share(site: Site) -> int | None:
        limits = [site.bytes_per_second] if site.bytes_per_second else []
        if errand.bytes_per_second:
            limits.append(int(errand.bytes_per_second / together))
        if site.group and site.group.bytes_per_second:
            beside = min(together, len(hosts[site.group.name]), site.group.at_once or together)
            limits.append(site.group.bytes_per_second // beside)
        return max(1, min(limits)) if limits else None

    return {site.key: share(site) for site in sites}


class _Tasks:
    """Visits sites by way of tasks."""

    def __init__(
        self, client: distributed.Client, errand: Errand, workplace: MakeWorkplace, sites: Sequence[Site]
    ) -> None:
        self._client = client
        self._errand = errand
        self._workplace = workplace
        self._shares = _shares(errand, sites)
        self._visits = Counter[str]()

    async def visit(self, site: Site, emit: Emit | None, seconds: float | None, ended: Ended) -> None:  # noqa: ARG002
        """Have a worker visit ``site`` within ``seconds``; a worker that dies has its task done by another one."""
        began = time.monotonic()
        try:
            end = await self._ask_for(site, seconds)
        except SyncerError as error:
            end = _failed(site, error, began), None
        except anyio.get_cancelled_exc_class():
            ended(_failed(site, Stopped(), began), None)
            raise
        ended(*end)

    async def _ask_for(self, site: Site, seconds: float | None) -> _End:
        self._visits[site.key] += 1
        errand = self._errand
        # of a site, a worker needs no more, and labels might hold anything
        told = Site(site.name, site.registry, mapping=site.mapping, bytes_per_second=self._shares[site.key])
        until = None if seconds is None else time.time() + seconds
        key = (f"syncer-{errand.command}-{errand.options.run_id}", site.name, self._visits[site.key])
        with anyio.move_on_after(time_for(seconds)):
            return await do_task(self._client, visit_site, errand, self._workplace, told, until, key=key)
        raise ClusterError("no worker of the Dask cluster told of it in time")


def time_for(seconds: float | None) -> float | None:
    """The seconds to wait for a task that may take ``seconds``."""
    return None if seconds is None else max(0.0, seconds) + _LATE


async def do_task(client: distributed.Client, work: Callable[..., T], *arguments: Any, key: tuple[str, str, int]) -> T:
    """Have a worker do ``work(*arguments)``; however this ends, the scheduler forgets the task then.

    Raises ``ClusterError`` where the task was given up.
    """
    try:
        task = client.submit(work, *arguments, key=key, pure=False)
    except ClosedClientError:
        raise ClusterError(_GIVEN_UP, hint=_GO_ON) from None
    try:
        return await _end_of(task)
    finally:
        with suppress(ClosedClientError), anyio.move_on_after(_SECONDS_AFTER_A_SIGNAL, shield=True):
            await task.cancel()  # type: ignore[no-untyped-call]


async def _end_of(task: distributed.Future[T]) -> T:
    try:
        end: T = await task
    except distributed.KilledWorker as killed:
        raise ClusterError(
            f"{killed.allowed_failures + 1} workers died while they were at this, the last one "
            f"{killed.last_worker.address}",
            hint="the logs of the workers tell why; the same command goes on",
        ) from None
    except CancelledError:
        raise ClusterError(_GIVEN_UP, hint=_GO_ON) from None
    return end


def _failed(site: Site, error: SyncerError, began: float) -> SiteResult:
    return SiteResult(
        name=site.name,
        registry=site.registry,
        state=outcome([error], has_changed=False),
        seconds=time.monotonic() - began,
        error=error,
    )


# On a worker


def _version() -> str:
    return __version__


async def _look(errand: Errand, workplace: MakeWorkplace, dask_worker: distributed.Worker) -> str | None:
    """The reason why this worker cannot do ``errand``; None when it can."""

    def look() -> str | None:
        try:
            with _at_desk(errand, workplace, dask_worker):
                return None
        except SyncerError as error:
            return str(error)

    return await to_thread.run_sync(look)


def visit_site(errand: Errand, workplace: MakeWorkplace, site: Site, until: float | None) -> _End:
    """Do ``errand`` at ``site``, as a task of a worker, until ``until`` (seconds since 1970)."""
    began = time.monotonic()
    worker = distributed.get_worker()
    concurrency = pieces_in_flight(worker.state.nthreads, errand.options.concurrency)
    seconds = None if until is None else until - time.time()
    try:
        if errand.version != __version__:
            raise UsageError(f"the Dask worker {worker.address} has syncer {__version__}, and not {errand.version}")
        with (
            _at_desk(errand, workplace, worker) as desk,
            given_up_with(worker, desk.begin(site, concurrency, seconds)) as visit,
        ):
            return visit.result()
    except SyncerError as error:
        return _failed(site, error, began), None
    except (
        CancelledError
    ):  # the task was taken back, or the worker ends: if anybody still wants it, another one does it
        raise distributed.Reschedule from None


class _Desk:
    """The place in a worker where an errand is done: an event loop in a thread, with the open bundle."""

    def __init__(self, errand: Errand, workplace: MakeWorkplace, threads: int) -> None:
        self.users = 0
        self._threads = threads
        self._errand = errand
        self._make = workplace
        self._ready: Future[tuple[BlockingPortal, Bundle, Workplace]] = Future()

    def open(self) -> None:
        """Open what is needed; raises ``UsageError`` for another bundle than that of the errand, and as ``opened``."""
        options = {"use_uvloop": sys.platform != "win32"}
        run = partial(anyio.run, self._run, backend_options=options)
        threading.Thread(target=run, name="syncer", daemon=True).start()
        self._portal, self._bundle, workplace = self._ready.result()
        self._settings = workplace.settings
        if workplace.state is not None:
            self._errand = structs.replace(
                self._errand, options=structs.replace(self._errand.options, state=workplace.state)
            )

    def begin(self, site: Site, concurrency: int, seconds: float | None) -> Future[_End]:
        """Begin a visit to ``site``; the future can be cancelled."""

        async def visit() -> _End:
            return await visit_alone(
                self._errand,
                site,
                self._bundle,
                self._settings,
                concurrency=concurrency,
                seconds=seconds,
                convoy=self._convoy,
            )

        try:
            return self._portal.start_task_soon(visit)
        except RuntimeError:  # it was closed meanwhile, since the worker ends
            raise CancelledError from None

    def close(self) -> None:
        """End what runs, and the thread; a worker that is told to stop must not wait for it."""
        self._portal.call(self._portal.stop, True)  # noqa: FBT003  that what runs is cancelled

    async def _run(self) -> None:
        errand = self._errand
        try:
            workplace = await to_thread.run_sync(self._make)
            async with (
                open_registries(workplace.settings) as registries,  # by which a bundle on a web server is read
                opened(errand.file, errand.given, registries=registries, may_lack=True) as bundle,
            ):
                _check_identity(bundle, errand)
                self._convoy = open_convoy(bundle, errand.options, self._threads)
                async with BlockingPortal() as portal:
                    self._ready.set_result((portal, bundle, workplace))
                    await portal.sleep_until_stopped()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


def _check_identity(bundle: Bundle, errand: Errand) -> None:
    if bundle_identity(bundle) != errand.identity:
        raise UsageError(f"{errand.file} is another bundle there than here")


_desks: dict[str, _Desk] = {}  # by the id of the run
_desks_lock = threading.Lock()


@contextmanager
def _at_desk(errand: Errand, workplace: MakeWorkplace, worker: distributed.Worker) -> Iterator[_Desk]:
    """The desk of the errand's run, which stays for a while for the next task."""
    run = errand.options.run_id
    _watch(worker)
    with _desks_lock:
        desk = _desks.get(run)
        if desk is None:
            desk = _Desk(errand, workplace, worker.state.nthreads)
            desk.open()
            _desks[run] = desk
        desk.users += 1
    try:
        yield desk
    finally:
        with _desks_lock:
            desk.users -= 1
            if not desk.users:
                later = threading.Timer(_LINGERS, _clear, (run,))
                later.daemon = True
                later.start()


def _clear(run: str) -> None:
    """Close the desk of a run that nobody uses."""
    with _desks_lock:
        desk = _desks.get(run)
        if desk and not desk.users:
            del _desks[run]
            desk.close()


class _Watch(distributed.WorkerPlugin):
    """Ends the visits whose tasks the scheduler has taken back: the run was stopped, or whoever began it is gone."""

    def __init__(self) -> None:
        self.visits: dict[object, Future[Any]] = {}

    def transition(self, key: object, start: object, finish: object, **_: object) -> None:  # noqa: ARG002
        """See ``WorkerPlugin``: hear of a task that changes its state."""
        if finish in ("released", "cancelled") and (visit := self.visits.pop(key, None)):
            visit.cancel()

    def teardown(self, worker: distributed.Worker) -> None:  # noqa: ARG002
        """See ``WorkerPlugin``: end all when the worker ends."""
        for visit in list(self.visits.values()):
            visit.cancel()
        with _desks_lock:
            for desk in _desks.values():
                desk.close()
            _desks.clear()


def _watch(worker: distributed.Worker) -> _Watch:
    """Our plugin of ``worker``, of which the scheduler knows nothing: it would give it to those that come later too."""
    watch = worker.plugins.setdefault("syncer", _Watch())
    assert isinstance(watch, _Watch)
    return watch


@contextmanager
def given_up_with(worker: distributed.Worker, visit: Future[T]) -> Iterator[Future[T]]:
    """Cancel ``visit`` when the task that this thread does is taken from ``worker``."""
    watch = _watch(worker)
    key = worker.get_current_task()
    watch.visits[key] = visit
    task = worker.state.tasks.get(key)
    if task is None or task.state != "executing":  # it was taken before we could hear of it
        visit.cancel()
    try:
        yield visit
    finally:
        watch.visits.pop(key, None)
