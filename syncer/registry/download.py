"""One blob's way out of a registry, however often the connection breaks; and of a foreign layer, from its vendor."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, structs
from multidict import CIMultiDictProxy
from yarl import URL

from syncer.content import Pieces, PourableBlob
from syncer.errors import DigestMismatch, Interrupted, NetworkError, SyncerError, Unsafe
from syncer.oci import Descriptor
from syncer.registry.answers import refusal
from syncer.registry.repository import Repository
from syncer.transport import PROGRESS, Budget, Request, Response, Sink
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.message import Kind, content_range, is_relayed

SPREAD_FROM = 64 * 1024 * 1024
"""The bytes from which on a blob may come by several connections."""

_RANGE = 1024 * 1024  # bytes asked for at a time: what a kill costs for each connection, and what memory holds
_SPARE = 2  # ranges that may wait beyond one for each connection
_LOOK = 1.0  # seconds after which it is looked whether more connections brought more
_GAIN = 1.25  # the growth of the bytes a second for which twice as many connections are kept
_WORTH = 3.0  # seconds that the rest must take for more connections to be tried
_AHEAD = 0.2  # seconds of the one stream, after which the ranges begin


@dataclass(frozen=True, slots=True, repr=False)
class RegistryBlob(PourableBlob):
    """A blob in a registry's repository; two are equal when they are read from the same place."""

    descriptor: Descriptor
    repository: Repository

    @property
    def server(self) -> URL:
        """See ``content.PourableBlob``."""
        return self.repository.registry.base

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        """The bytes from ``offset`` on.  A broken connection is taken up again at the byte where it broke.

        A foreign layer that the registry does not have comes from the URLs of its descriptor, each followed by the
        rules for redirects and asked without any login.  Raises ``NotFound``; ``DigestMismatch`` when the registry has
        more or fewer bytes than the descriptor says; a ``NetworkError`` when attempt after attempt brings nothing.
        """
        async with aclosing(_Download(self.descriptor, self.repository, offset).pieces()) as pieces:
            yield pieces

    def permit(self) -> AbstractAsyncContextManager[None]:
        """A block that holds what the registry's limit of requests asks for."""
        registry = self.repository.registry
        return registry.transport.relay(download=registry.base)

    async def pour(self, sink: Sink, offset: int = 0) -> None:
        """The bytes from ``offset`` on, given to ``sink`` in a worker thread; otherwise as ``open``.

        A large blob comes in ranges by several connections, while more of them bring more (``Limits.ranges``).
        """
        if self.descriptor.is_distributable and self.descriptor.size - offset >= SPREAD_FROM:
            offset = await _Spread(self.descriptor, self.repository, sink, offset).run()
        await _Download(self.descriptor, self.repository, offset).pour(sink)


class _NotInRanges(SyncerError):
    """The registry gave something else than the range of a blob that it was asked for."""


class _Download:
    """One way from byte ``offset`` of a blob to its end; or to ``end``, by nothing but ranges whose ETag is right."""

    def __init__(
        self,
        descriptor: Descriptor,
        repository: Repository,
        offset: int,
        *,
        end: int | None = None,
        has_etag: Callable[[str | None], bool] | None = None,
        hosts: set[str] | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._repository = repository
        self._position = self._mark = offset
        self._end = descriptor.size if end is None else end
        self._is_range = end is not None
        self._has_etag = has_etag
        self._hosts = set[str]() if hosts is None else hosts  # that answered
        self._ranges = True  # until the registry answers one wrongly
        self._was_refused = False  # by where the registry led to
        self._budget: Budget = repository.registry.transport.budget()
        self._places = [] if descriptor.is_distributable else list(descriptor.urls)  # that were not tried yet
        self._scope: Scope | None = None  # of the registry, once it has said that it does not have a foreign layer
        self._place: Request | None = None  # a vendor's, which is asked instead

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes until the blob's end; nothing is asked for an empty rest, which some registries do not have."""
        transport = self._repository.registry.transport
        while self._position < self._end:
            try:
                async with transport.open(self._request(), budget=self._budget) as response:
                    skip = self._skipped(response.request, response.status, response.headers)
                    if skip is None:
                        await self._refused(response)
                        continue
                    while piece := await response.piece():
                        wanted, skip = piece[skip:] if skip else piece, max(0, skip - len(piece))
                        self.count(len(wanted), response.request)
                        if wanted:
                            yield wanted
                    self._check_end(response.request)
            except NetworkError as error:
                await self._again(error)

    async def pour(self, sink: Sink) -> None:
        """As ``pieces``, but in a worker thread."""
        transport = self._repository.registry.transport

        def found(request: Request, status: int, headers: CIMultiDictProxy[str]) -> Sink | None:
            skip = self._skipped(request, status, headers)
            return None if skip is None else _Skipping(self, sink, request, skip)

        while self._position < self._end:
            try:
                request = structs.replace(self._request(), pour=found)
                async with transport.open(request, budget=self._budget) as response:
                    if await response.pour():
                        self._check_end(response.request)
                    else:
                        await self._refused(response)
            except NetworkError as error:
                await self._again(error)

    async def _again(self, error: NetworkError) -> None:
        transport = self._repository.registry.transport
        transport.note_stall(self._request(), self._budget, error)
        if not isinstance(error, Interrupted) or self._budget.is_spent:
            if self._place is None or not self._goes_elsewhere(error):
                raise error
            return
        await transport.back_off(self._repository.registry.base, self._budget, error, kind=Kind.BLOBS)

    def count(self, length: int, request: Request) -> None:
        self._position += length
        if self._position > self._end:
            if self._is_range:
                raise _NotInRanges(f"{request}: more bytes came than were asked for")
            raise DigestMismatch(f"{request}: more than the {self._descriptor.size} bytes of the blob came")
        if self._position - self._mark >= PROGRESS:
            self._mark = self._position
            self._budget.progressed()

    def _check_end(self, request: Request) -> None:
        if self._position < self._end:  # a body without a length just ends when it is cut off
            raise Interrupted(f"{request}: the answer was cut off")

    def _request(self) -> Request:
        headers = {}
        if self._is_range:
            headers = {"Range": f"bytes={self._position}-{self._end - 1}"}
        elif self._position > 0 and self._ranges:
            headers = {"Range": f"bytes={self._position}-"}
        return structs.replace(self._place, headers=headers) if self._place else self._own(headers)

    def _own(self, headers: Mapping[str, str]) -> Request:
        """Ask the registry itself."""
        url = self._repository.url(f"blobs/{self._descriptor.digest}")
        return Request(method="GET", url=url, headers=headers, authorizer=self._repository.authorizer, is_blob=True)

    def _goes_elsewhere(self, error: SyncerError | None = None) -> bool:
        """Whether a vendor has one more place for the layer, which is asked from now on.

        Raises ``Unsafe`` when the registry may not send us to the last of them.
        """
        assert self._scope is not None
        while self._places:
            url = self._places.pop(0)
            try:
                place = self._repository.registry.transport.redirected(
                    self._own({}), url, self._scope, what="the URL of a foreign layer"
                )
            except Unsafe as unsafe:
                error = unsafe
                continue
            self._place = structs.replace(place, authorizer=None)
            self._budget, self._ranges = self._repository.registry.transport.budget(), True
            return True
        if isinstance(error, Unsafe):
            raise error
        return False

    def _skipped(self, request: Request, status: int, headers: CIMultiDictProxy[str]) -> int | None:
        """How many bytes of the body come before the one that is wanted; None when the body is of no use.

        It is used only if it is exactly the blob, or exactly the part that was asked for.
        """
        self._hosts.add(authority(request.url))
        if status == 200 and not self._is_range:
            self._check_length(request, headers)
            return self._position
        is_the_part = status == 206 and "Range" in request.headers and self._is_the_part(headers)
        return 0 if is_the_part else None

    async def _refused(self, response: Response) -> None:
        """Return when the blob is to be asked for in another way; else raise what the answer says."""
        if self._is_range and response.status in (200, 206, 416):
            raise _NotInRanges(f"{response.request}: a range was asked for, and something else came")
        if "Range" in response.request.headers and response.status in (206, 416):
            self._ranges = False
            return
        if not self._descriptor.is_distributable and 400 <= response.status < 500:
            answer = await response.answer(response.request)
            self._scope = answer.scope if self._scope is None else self._scope
            if self._goes_elsewhere():
                return
            raise refusal(answer, hint="neither the registry nor the layer's vendor has it")
        is_foreign = origin(response.request.url) != origin(self._repository.registry.base)
        if is_foreign and response.status in (400, 401, 403, 404, 410):  # a signed URL that has expired
            if self._is_range and self._was_refused:  # and a new one does not help
                raise _NotInRanges(f"{response.request}: a range is refused where a whole blob is not")
            self._was_refused = True
            raise Interrupted(f"{response.request}: {authority(response.request.url)} answers {response.status}")
        raise await self._repository.refusal(await response.answer(response.request))

    def _is_the_part(self, headers: CIMultiDictProxy[str]) -> bool:
        found = content_range(headers.get("Content-Range"))
        size = self._descriptor.size
        if found is None or (found.first, found.last) != (self._position, self._end - 1):
            return False
        if found.total not in (size, None) or headers.get("Content-Encoding", "identity") != "identity":
            return False
        if self._has_etag is not None and not self._has_etag(headers.get("ETag")):
            return False
        return headers.get("Content-Length") in (None, str(self._end - self._position))

    def _check_length(self, request: Request, headers: CIMultiDictProxy[str]) -> None:
        """Raise before a byte is read if these cannot be the blob's."""
        length = headers.get("Content-Length")
        encoding = headers.get("Content-Encoding", "identity")
        size = self._descriptor.size
        if length is None or length == str(size):
            return
        why = f" (something on the way encodes it as {encoding[:20]!r})" if encoding != "identity" else ""
        if headers.get("Content-Type", "").startswith("text/html"):
            why = " (a web page: does a proxy on the way want a login?)"
        raise DigestMismatch(f"{request}: {length[:20]} bytes are on offer, where the blob has {size}{why}")


class _Skipping(Struct):
    """A sink that passes on what comes after the first ``skip`` bytes of a body."""

    download: _Download
    sink: Sink
    request: Request
    skip: int

    def __call__(self, piece: memoryview) -> None:
        wanted, self.skip = piece[self.skip :], max(0, self.skip - len(piece))
        self.download.count(len(wanted), self.request)
        if wanted:
            self.sink(wanted)


class _Enough(Exception):
    """The first connection has brought what the others do not."""


class _Spread:
    """One large blob by several connections, given to ``sink`` in its order, as long as more of them bring more.

    It begins as one stream.  When that goes on for a while, what comes later is asked for in ranges by two connections,
    then by twice as many, while the bytes a second of all that comes in grow: so neither a link that is full
    nor a registry that is slow gets more connections than help it.  Ranges that came wait in memory until all before
    them was taken.

    A relay has one permit, which the first stream leaves to a connection for ranges.  The others get one each that is
    free at that moment, and hold it, since a relay may not wait for any.
    """

    def __init__(self, descriptor: Descriptor, repository: Repository, sink: Sink, offset: int) -> None:
        self._descriptor = descriptor
        self._repository = repository
        self._sink = sink
        self._done = offset  # bytes that the sink has
        self._begun = offset  # bytes that it has or takes now
        self._stop_at: int | None = None  # the byte at which the ranges begin
        self._next = offset  # the byte at which the next range begins
        self._ready: dict[int, bytearray] = {}  # ranges that came, by their first byte
        self._wanted = 1  # connections
        self._fetching = 0  # those that there are for ranges
        self._hosts = {authority(repository.registry.base)}  # that have the blob: the registry, and where it led to
        self._etag: str | None = None
        self._failure: SyncerError | None = None  # of a range
        self._is_first_held = is_relayed()  # the permit that the first stream has, and ranges get
        self._permits = AsyncExitStack()  # those that a relay has beyond its own
        self._changed = anyio.Event()
        self._lock = threading.Lock()
        transport = repository.registry.transport
        self._traffic = transport.of(repository.registry.base)
        self._most = transport.limits.ranges

    async def run(self) -> int:
        """Fetch what is worth it in this way; returns the byte from which on one stream is to go on."""
        if self._ceiling <= 1:
            return self._done
        error: Exception | None = None
        async with self._permits, anyio.create_task_group() as tasks:
            tasks.start_soon(self._adjust, tasks)
            try:
                first = _Download(self._descriptor, self._repository, self._done, hosts=self._hosts)
                await first.pour(self._take_first)
            except _Enough:
                if self._is_first_held:
                    self._is_first_held = False
                    self._add_connection(tasks, AsyncExitStack())
                error = await self._take_in_order()
            except Exception as failure:  # noqa: BLE001  kept, since leaving a task group would wrap it
                error = failure
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error
        if self._failure is not None and not isinstance(self._failure, NetworkError):
            self._traffic.most_ranges = 1  # it gives no ranges, or not to several at a time
        return self._done

    @property
    def _ceiling(self) -> int:
        """The connections that the host may have for one blob."""
        return min(self._most, self._traffic.most_ranges or self._most)

    def _take_first(self, piece: memoryview) -> None:
        """Take a piece of the one stream, in its thread, up to where the ranges begin."""
        with self._lock:
            stop_at = self._stop_at
            if stop_at is not None:
                piece = piece[: stop_at - self._done]
            self._begun = self._done + len(piece)
        if piece:
            self._sink(piece)
        self._done += len(piece)
        if self._done == stop_at:
            raise _Enough

    async def _adjust(self, tasks: TaskGroup) -> None:
        """Look now and then whether more connections bring more."""
        best, before = 0.0, 1
        await anyio.sleep(_LOOK)  # in which a connection becomes as fast as it can
        while True:
            (moved, throttled), began = self._counted(), time.monotonic()
            await anyio.sleep(_LOOK)
            moved_now, throttled_now = self._counted()
            rate = (moved_now - moved) / (time.monotonic() - began)
            if throttled_now > throttled:
                self._traffic.most_ranges = self._wanted = before
                return
            if self._wanted > before and rate < best * _GAIN:
                self._wanted = before
                return
            if self._descriptor.size - max(self._begun, self._next) < rate * _WORTH:
                return
            best, before = rate, self._wanted
            if before >= self._ceiling:
                return
            self._wanted = min(2 * before, self._ceiling, before + self._traffic.permits.free(Kind.BLOBS))
            if self._wanted > before:
                await self._add_connections(tasks, rate)

    def _counted(self) -> tuple[int, int]:
        """Bytes that came from all hosts, which may share a link; and answers of 429, of those that have the blob."""
        traffic = self._repository.registry.transport.traffic
        throttled = sum(host.throttled for name, host in traffic.items() if name in self._hosts)
        return sum(host.bytes_in for host in traffic.values()), throttled

    async def _add_connections(self, tasks: TaskGroup, rate: float) -> None:
        if self._stop_at is None:
            with self._lock:
                self._next = self._stop_at = self._begun + max(_RANGE, int(rate * _AHEAD))
        while self._fetching + self._is_first_held < self._wanted:
            permit = await self._permits.enter_async_context(AsyncExitStack())  # for a connection that never begins
            if is_relayed():
                if not self._traffic.permits.free(Kind.BLOBS):
                    return
                await self._traffic.permits.hold(permit, [Kind.BLOBS])
            self._add_connection(tasks, permit)

    def _add_connection(self, tasks: TaskGroup, permit: AsyncExitStack) -> None:
        self._fetching += 1
        tasks.start_soon(self._fetch, permit)

    async def _fetch(self, permit: AsyncExitStack) -> None:
        """Fetch one range after another, as long as so many connections are wanted, and give back ``permit``."""
        async with permit:
            await self._fetch_ranges()
        self._fetching -= 1
        self._wake()

    async def _fetch_ranges(self) -> None:
        assert self._stop_at is not None
        size = self._descriptor.size
        while 1 < self._wanted >= self._fetching and self._failure is None and self._next < size:
            start = self._next
            if start - max(self._done, self._stop_at) >= _RANGE * (self._wanted + _SPARE):
                await self._changed.wait()
                continue
            end = self._next = min(start + _RANGE, size)
            content = bytearray()
            part = _Download(
                *(self._descriptor, self._repository, start), end=end, has_etag=self._is_of_etag, hosts=self._hosts
            )
            try:
                await part.pour(content.extend)
            except SyncerError as error:
                self._failure = error
                break
            self._ready[start] = content
            self._wake()

    def _is_of_etag(self, etag: str | None) -> bool:
        """Whether a range is of the same content as those before it, as far as the server says."""
        with self._lock:
            self._etag = self._etag or etag
        return etag in (None, self._etag)

    async def _take_in_order(self) -> Exception | None:
        """Give the ranges to the sink, up to the first one that does not come; returns the error of the sink."""
        limiter = CapacityLimiter(1)  # a sink that waits may not keep others from a thread
        while self._done < self._descriptor.size:
            content = self._ready.pop(self._done, None)
            if content is None:
                if self._failure is not None or self._fetching == 0 or self._wanted == 1:
                    break
                await self._changed.wait()
                continue
            try:
                await to_thread.run_sync(self._sink, memoryview(content), limiter=limiter)
            except Exception as error:  # noqa: BLE001  as above
                return error
            self._done += len(content)
            self._wake()
        return None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
