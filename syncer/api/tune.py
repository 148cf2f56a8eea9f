"""The tuning for a registry and the link to it: pushes and pulls of content made for it, by one setting after another.

The content lies in a repository of its own, and is removed again.  ``api/trials.py`` has what the trials prove.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus

import anyio
import orjson
from anyio import from_thread, lowlevel, to_thread
from anyio.abc import TaskStatus
from msgspec import Struct, structs

from syncer.api.delta import Nowhere
from syncer.api.result import for_each, hearing
from syncer.api.trials import (
    DEFAULT,
    Mix,
    Search,
    Setting,
    Stopped,
    Throttled,
    Trial,
    Tuning,
    candidates,
)
from syncer.content import Blob, Item, PourableBlob, Progress
from syncer.errors import Denied, DigestMismatch, SyncerError, TargetError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.profiles.definition.artifacts import Spool, artifact_manifest, open_spool
from syncer.registry import Registries, RegistryAddress, RegistrySettings, RegistryTarget, check_login, open_registries
from syncer.registry.repository import Registry, is_success
from syncer.registry.upload_session import Manner
from syncer.report import human_bytes
from syncer.report.summary import quantity
from syncer.transfer.events import Event, ImageFailed, Paused
from syncer.transfer.run import WORKERS, Options, transfer
from syncer.transport.client import TROUBLE
from syncer.transport.failures import spelt_status

_MIB = 1024 * 1024

_FIRST = _MIB  # bytes of the first push, which is to find out how many bytes take how long
_TRIALS = 28  # for which there is to be time
_PROBE = 4.0  # shares of the time that the second push may take
_LEAP = 8  # times the size, at most
_WORTH_GROWING = 2.0  # times the size, to be tried once more before it counts
_DOUBT = 16.0  # the part of the time that bytes take at least, however little it seems
_QUARTER_MORE = 1.25
_OVERTIME = 1.25
_SECONDS_TO_ANSWER = 1.0  # what was asked when the trials are stopped
_SECONDS_TO_CLEAN = 6.5  # with which, and with what an upload takes to be cancelled, ``LONGER_TO_STOP`` is not exceeded
_SECONDS_TO_STORE = 3.0  # that a registry may need for a manifest after its connection was cut
_LOOK, _TICK = 0.25, 0.01  # seconds
_DELETED_AT_ONCE = 8
_IN_MEMORY = _MIB  # bytes of a larger layer are in a file, as those of a bundle are
_WORTH_A_THREAD = 256 * 1024
_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)

_IN_TROUBLE = frozenset(map(spelt_status, TROUBLE))
"""The reasons of pauses that say nothing about limits."""

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Limits(Struct, frozen=True, kw_only=True):
    """The limits of the trials in time and bytes, and the content that they send."""

    seconds: float = 120.0
    size: int = 64 * _MIB  # bytes of one push, at most
    most: int = 4096 * _MIB  # bytes of all pushes
    mix: Mix = Mix.MIXED
    kept: tuple[str, ...] = ()  # options that are given, and not to be tried


class Told(Struct, frozen=True):
    """A trial that has ended: its settings, its result, and the part of all that is spent."""

    push: Setting
    pull: Setting
    trial: Trial
    seconds: float  # since the beginning
    size: int  # bytes of the push
    counts: bool  # False: it was to find out how large a push may be


async def tune(
    address: RegistryAddress,
    *,
    settings: RegistrySettings | None = None,
    limits: Limits | None = None,
    tell: Callable[[Told], None] | None = None,
    warn: Callable[[str], None] | None = None,
    on_cut: Callable[[Tuning], None] | None = None,
) -> Tuning:
    """Find the options that suit the registry at ``address``, in a repository of its own below the base path.

    ``tell`` hears of each trial, ``warn`` of what stays at the registry, and ``on_cut`` what was found until it was
    cancelled, or until the error that it raises.  What was sent is removed, however it ends.  Raises a ``SyncerError``
    where not even the first, small push succeeds: ``Denied`` and ``TargetError`` where nothing may be written.
    """
    settings = settings or RegistrySettings()
    few = structs.replace(settings.transport.limits, attempts=3, outage=min(settings.transport.limits.outage, 10.0))
    settings = structs.replace(settings, transport=structs.replace(settings.transport, limits=few))
    async with open_registries(settings) as registries:
        bench = _Bench(registries, address, settings, limits=limits or Limits(), tell=tell, warn=warn or _ignore)
        async with bench.cleaning(on_cut or _ignore):
            await check_login(registries, address)
            return await bench.run()


def _ignore(_: object) -> None:
    """Say nothing."""


class Growth:
    """The growth of pushes, until a trial takes its ``share`` of the time, which is in seconds.

    Small pushes are bound by their requests, of which larger ones need hardly more: how long a trial takes says little
    about what more bytes cost.  So that is measured by a second push, which is as large as the time allows where it is
    bytes that take it.  Where requests alone take the share, pushes grow by what takes a quarter more.
    """

    def __init__(self, first: int, most: int, share: float) -> None:
        self.size = first  # bytes of a push
        self._first, self._most, self._share = first, most, share
        self._least: float | None = None  # seconds that the first one took

    def goes_on(self, seconds: float) -> bool:
        """Set ``size`` after a trial of the size so far; tells whether one of the new size is to be made as well."""
        size, goal, of_a_byte = self.size, _PROBE * self._share, seconds / self.size
        if self._least is None:
            self._least = seconds
        else:
            of_a_byte = max((seconds - self._least) / (size - self._first), of_a_byte / _DOUBT)
            goal = max(self._share, _QUARTER_MORE * (seconds - of_a_byte * size))
        fitting = size + (goal - seconds) / of_a_byte
        self.size = int(max(self._first, min(fitting, _LEAP * size, self._most)))
        return self.size >= _WORTH_GROWING * size


class _Bench:
    """The content, the registry, and what has been spent."""

    def __init__(
        self,
        registries: Registries,
        address: RegistryAddress,
        settings: RegistrySettings,
        *,
        limits: Limits,
        tell: Callable[[Told], None] | None,
        warn: Callable[[str], None],
    ) -> None:
        self._address = address
        self._settings = settings
        self._limits = limits
        self._tell = tell
        self._warn = warn
        base = f"{address.base}/" if address.base else ""
        self.name = f"{base}syncer-tune-{os.urandom(4).hex()}"
        registry = registries.registry(address.host, plain_http=address.plain_http)
        self._repository = registry.repository(self.name, "pull,push,delete")
        self._began, self._started = time.monotonic(), datetime.now(UTC)
        self._largest = max(1, min(limits.size, limits.most // _TRIALS))
        self._size = min(_FIRST, self._largest)
        self._sent = 0
        self._there: dict[Digest, None] = {}  # manifests that may be at the registry
        self._storing: set[Digest] = set()  # manifests whose storing has begun, and has not ended well
        self._open = 0  # uploads that may be open at the registry
        self._keeps: str | None = None  # why it deletes nothing
        self._search = Search((), self._attempt, self._spent)

    async def run(self) -> Tuning:
        """All trials, in the time that there is; a first small one takes as long as it takes."""
        ended: SyncerError | None = None
        try:
            seconds = await self._first()
        except Throttled as error:
            ended = error
        else:
            with anyio.move_on_after(_OVERTIME * self._limits.seconds):
                try:
                    await self._search_from(seconds)
                except SyncerError as error:
                    ended = error
        await self._clean(is_cut=True)
        return self._tuning(ended)

    async def _search_from(self, seconds: float) -> None:
        await self._find_size(seconds)
        mix = self._limits.mix
        wanted = candidates(mix.largest(self._size), mix.blobs(self._size), kept=self._limits.kept)
        self._search = Search(wanted, self._attempt, self._spent)
        await self._search.run()

    def _tuning(self, ended: SyncerError | None) -> Tuning:
        seconds = time.monotonic() - self._began
        return Tuning(
            registry=str(self._address),
            repository=f"{self._address.host}/{self.name}",
            started=self._started,
            seconds=seconds,
            mix=self._limits.mix,
            kept=self._limits.kept,
            size=self._size,
            sent=self._sent,
            is_short_of_bytes=self._sent / self._limits.most > seconds / self._limits.seconds,
            search=self._search,
            ended=ended,
            left=self._left(),
        )

    def _spent(self) -> float:
        """The part of the time, or of the bytes, that is spent."""
        return max((time.monotonic() - self._began) / self._limits.seconds, self._sent / self._limits.most)

    async def _first(self) -> float:
        """The seconds of the first trial, which shows what may be done; raises a ``SyncerError`` if it fails."""
        began = time.monotonic()
        await self._attempt(DEFAULT, DEFAULT, counts=False)
        if self._keeps:
            self._warn(f"{self._keeps}: what is sent stays in {self._address.host}/{self.name}")
        return time.monotonic() - began

    async def _find_size(self, seconds: float) -> None:
        """Let pushes grow until as many trials as are needed fit into the time, after one of so many ``seconds``."""
        growth = Growth(self._size, self._largest, self._limits.seconds / _TRIALS)
        while growth.goes_on(seconds):
            self._size = growth.size
            began = time.monotonic()
            await self._attempt(DEFAULT, DEFAULT, counts=False)
            seconds = time.monotonic() - began
        self._size = growth.size

    async def _attempt(self, push: Setting, pull: Setting, *, counts: bool = True) -> Trial:
        """Push new content by one setting and pull it by the other; raises a ``SyncerError``, such as ``Throttled``."""
        trial = await self._carry_out(push, pull)
        if self._tell:
            told = Told(push, pull, trial, seconds=time.monotonic() - self._began, size=self._size, counts=counts)
            self._tell(told)
        return trial

    async def _carry_out(self, push: Setting, pull: Setting) -> Trial:
        with open_spool() as spool:
            names = await to_thread.run_sync(self._make, spool)
            self._sent += self._size
            pushed, tried = await self._time(names, push, spool)
            pulled, again = await self._time(names, pull)
        if not self._keeps:
            await self._clean()
        return Trial(self._size / pushed, self._size / pulled, tried + again)

    async def _time(
        self, names: Sequence[Reference], setting: Setting, spool: Spool | None = None
    ) -> tuple[float, int]:
        """The seconds that a push of ``names`` from ``spool`` takes, else a pull; and the retries of its requests."""
        failures: list[SyncerError] = []
        pauses: list[Paused] = []
        items = [Item(name, name, referrers=False) for name in names]
        number = setting.concurrency or self._settings.transport.limits.requests_per_host
        options = Options(workers=number or WORKERS)
        began = time.monotonic()
        async with open_registries(setting.applied_to(self._settings)) as registries:
            registry = registries.registry(self._address.host, plain_http=self._address.plain_http)
            manner = Manner(self._address.host, setting.chunk_size or self._settings.chunk_size)
            course = _Course(registries, _SECONDS_TO_ANSWER if spool else 0.0)
            target = _Scratch(registry, manner, course, self._there, self._storing) if spool else _Checker()

            def hear(event: Event) -> None:
                if isinstance(event, ImageFailed):
                    failures.append(event.error)
                elif isinstance(event, Paused) and event.reason not in _IN_TROUBLE:
                    pauses.append(event)
                    course.ends.set()

            async with course.watched():
                try:
                    with hearing(registries, hear):
                        await transfer(items, spool or registries, target, options=options, emit=hear)
                except SyncerError as error:  # kept, since leaving a task group would wrap it
                    failures.insert(0, error)
            self._open += course.unanswered_uploads
            await lowlevel.checkpoint_if_cancelled()
            seconds = time.monotonic() - began
            retries = sum(traffic.retries for traffic in registries.traffic.values())
        if pauses:
            raise Throttled(f"{pauses[0].host} limits requests ({pauses[0].reason})")
        if failures:
            raise failures[0]
        return seconds, retries

    def _make(self, spool: Spool) -> list[Reference]:
        """Make images that no registry has, and that nothing compresses; the function blocks."""
        names = []
        for sizes in self._limits.mix.layers(self._size):
            layers = [_make_layer(spool, size) for size in sizes]
            rootfs = {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]}
            config = orjson.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs})
            manifest = artifact_manifest(spool.add_bytes(config, _CONFIG), layers)
            name = Reference(self._address.host, self.name, None, manifest.descriptor.digest)
            names.append(spool.add_artifact(name, manifest))
        return names

    @asynccontextmanager
    async def cleaning(self, on_cut: Callable[[Tuning], None]) -> AsyncIterator[None]:
        """A block after which nothing of ours is at the registry, as far as it lets that be done.

        ``on_cut`` is told what was found where an error or a cancellation ends the block.
        """
        try:
            yield
        except BaseException as error:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_SECONDS_TO_CLEAN):
                await self._clean(is_cut=True)
            if isinstance(error, SyncerError) and (left := self._left()):
                self._warn(left)
            if isinstance(error, SyncerError | anyio.get_cancelled_exc_class()):
                on_cut(self._tuning(error if isinstance(error, SyncerError) else Stopped("it was stopped")))
            raise

    async def _clean(self, *, is_cut: bool = False) -> None:
        """Delete what may be at the registry; after a push that was cut, also what it may still be about to store."""
        absent: set[Digest] = set()

        async def delete(digest: Digest) -> None:
            await self._delete(digest, absent)

        await for_each(list(self._there), delete, _DELETED_AT_ONCE)
        with anyio.move_on_after(_SECONDS_TO_STORE if is_cut else 0):
            while self._storing & absent:
                await anyio.sleep(_LOOK)
                await for_each(self._storing & absent, delete, _DELETED_AT_ONCE)

    async def _delete(self, digest: Digest, absent: set[Digest]) -> None:
        if self._keeps:
            return
        try:
            answer = await self._repository.delete_manifest(str(digest))
        except Denied as error:
            self._keeps = f"the registry does not let this login delete anything ({error})"
            return
        except SyncerError:
            return
        if is_success(answer) or answer.status == HTTPStatus.NOT_FOUND:
            self._there.pop(digest, None)
            absent.add(digest)
            if answer.status != HTTPStatus.NOT_FOUND:
                self._storing.discard(digest)
        elif answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            self._keeps = f"the registry does not let this login delete anything (status {answer.status})"
        elif answer.status in _REFUSED:
            self._keeps = f"the registry deletes nothing (status {answer.status})"

    def _left(self) -> str | None:
        """A sentence about what stays at the registry; None when nothing does."""
        place = f"{self._address.host}/{self.name}"
        if not self._there:
            if not self._open:
                return None
            uploads = quantity(self._open, "upload")
            return f"{uploads} may stay open in {place} for some days, since the registry did not answer in time"
        if self._keeps:
            return f"{human_bytes(self._sent)} stay in {place}, since {self._keeps}: remove that repository there"
        return f"{quantity(len(self._there), 'image')} may be left in {place}, since the registry could not be asked"


class _Course:
    """The course of a transfer, which ends before its time when ``ends`` is set, or when it is cancelled.

    Nothing new begins then, and what was asked gets ``patience`` seconds to be answered: an upload whose first answer
    is not waited for stays open at the registry, since that answer alone says where it can be cancelled.
    """

    def __init__(self, registries: Registries, patience: float) -> None:
        self.ends = anyio.Event()
        self.uploads: dict[Digest, Progress] = {}  # under way
        self.unanswered_uploads = 0  # in the end, of which nothing was sent yet
        self._registries = registries
        self._patience = patience
        self._is_over = False

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """A block with the transfer, which a cancellation from outside reaches only after that."""
        scope = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._watch, scope)
            with scope:
                yield
            self._is_over = True
            tasks.cancel_scope.cancel()

    async def go_on(self) -> None:
        """Return at once, or never once the end has come."""
        if self.ends.is_set():
            await anyio.sleep_forever()

    async def _watch(self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        try:
            task_status.started()
            await self.ends.wait()
        finally:
            if not self._is_over:
                self.ends.set()
                with anyio.CancelScope(shield=True), anyio.move_on_after(self._patience) as wait:
                    quiet = 0
                    while quiet < 2:  # the body of an answer may come a moment after its head
                        await anyio.sleep(_TICK)
                        quiet = 0 if self._unanswered else quiet + 1
                if wait.cancelled_caught:
                    begun = sum(not progress.done for progress in self.uploads.values())  # or waiting for a permit
                    self.unanswered_uploads = min(begun, self._unanswered)
                scope.cancel()

    @property
    def _unanswered(self) -> int:
        return sum(traffic.pace.unanswered for traffic in self._registries.traffic.values())


class _Scratch(RegistryTarget):
    """A registry as a target, of which it is known which manifests it may have, and may be storing still."""

    def __init__(
        self,
        registry: Registry,
        manner: Manner,
        course: _Course,
        there: dict[Digest, None],
        storing: set[Digest],
    ) -> None:
        super().__init__(registry, manner)
        self._course = course
        self._there = there
        self._storing = storing

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:
        await self._course.go_on()
        self._course.uploads[blob.descriptor.digest] = progress
        try:
            return await super().write(space, blob, progress, force=force)
        finally:
            del self._course.uploads[blob.descriptor.digest]

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        await self._course.go_on()
        self._there[manifest.descriptor.digest] = None
        self._storing.add(manifest.descriptor.digest)
        await super().commit(space, manifest, names)
        self._storing.discard(manifest.descriptor.digest)


class _Checker(Nowhere):
    """A target that checks what it gets, and keeps nothing."""

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        """A place is not needed."""

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:  # noqa: ARG002
        hasher = blob.descriptor.digest.hasher()
        if isinstance(blob, PourableBlob) and blob.descriptor.size >= _WORTH_A_THREAD:
            await blob.pour(hasher.update)
        else:
            async with blob.open() as pieces:
                async for piece in pieces:
                    hasher.update(piece)
        if not blob.descriptor.digest.matches(hasher):
            raise DigestMismatch(f"{blob.descriptor.digest.short} came back with other bytes")
        return True

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        """A manifest was checked as it came."""


def _make_layer(spool: Spool, size: int) -> Descriptor:
    """Put a new layer into ``spool``; raises ``TargetError``."""
    if size <= _IN_MEMORY:
        return spool.add_bytes(os.urandom(size), _LAYER)
    path = spool.directory / "layer"
    hasher = Digest.of(b"").hasher()
    try:
        with path.open("wb") as file:
            for start in range(0, size, _MIB):
                from_thread.check_cancelled()
                hasher.update(piece := os.urandom(min(_MIB, size - start)))
                file.write(piece)
    except OSError as error:
        raise TargetError(f"{path.parent} has no room for a layer of {human_bytes(size)}: {error.strerror}") from None
    layer = Descriptor(_LAYER, Digest("sha256", hasher.hexdigest()), size)
    spool.add_file(path, layer)
    return layer
