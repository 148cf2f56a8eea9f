"""A bundle that lies on a web server, read by requests for ranges of it; nothing of it is stored here.

The bundle's index, its manifests and all that is small come into memory as it is opened, in few requests; a large
blob streams from a request for its range straight into the upload that wants it.  A range counts only if it is one of
the file that was there at the beginning (``ETag``, ``Last-Modified`` and size, RFC 9110 §13).
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import anyio
from anyio import from_thread, to_thread
from msgspec import Struct, structs
from multidict import CIMultiDictProxy
from yarl import URL

from syncer.bundle.archives import find_contents
from syncer.bundle.compression import SpoolFile
from syncer.bundle.framing import Damaged, RangedFile, Unframed
from syncer.bundle.layout import BundleUrl, GivenName
from syncer.bundle.members import Member
from syncer.bundle.reader import Bundle, explaining
from syncer.content import Pieces, PourableBlob
from syncer.errors import (
    BundleChanged,
    Denied,
    Interrupted,
    InvalidArchive,
    InvalidBundle,
    NameMissing,
    NetworkError,
    NotFound,
    RegistryError,
    SyncerError,
    UsageError,
)
from syncer.oci import Descriptor, Digest, Reference
from syncer.transport import PROGRESS, Authorizer, Request, Response, Sink, Transport
from syncer.transport.guard import authority
from syncer.transport.message import content_range

_WINDOW = 16 * 1024  # bytes that are read where a few are wanted: the next few lie behind them
_TAIL = 64 * 1024  # bytes at the end of the file that are read first: they are a seek table, or a part of one
_GROUP = 1024 * 1024  # bytes from which on ranges that lie side by side are not added to a request any more
_AT_ONCE = 16  # requests for ranges that are kept
_MOST_HELD = 128 * 1024 * 1024
_LEAST_PART = 64 * 1024  # bytes of a range that a server may cut short: fewer would make too many requests
_EXPIRED = (400, 401, 403, 404, 410)  # the answers of an address that was good for a while
_DOWNLOAD = "download it first (curl -fLO URL), and name the file"


@asynccontextmanager
async def open_remote(
    place: BundleUrl, transport: Transport, authorizer: Authorizer, given: GivenName | None = None
) -> AsyncIterator[RemoteBundle]:
    """Open the bundle at ``place``, which must be one of ours or an image layout in a tar that is not compressed.

    ``given`` names its images that have no full name.  Raises ``UsageError`` when the server gives no ranges,
    ``InvalidBundle`` and ``InvalidArchive`` as ``open_bundle`` does, also for what would have to be unpacked,
    ``Denied``, ``NotFound`` and other refusals, and ``NetworkError``.
    """
    file = RemoteFile(place, transport, authorizer)
    await file.begin()
    yield await to_thread.run_sync(_load, file, given)


def _load(file: RemoteFile, given: GivenName | None) -> RemoteBundle:
    with explaining(file.place, file):
        bundle = RemoteBundle(file.place, file, None, find_contents(file, file.size, _NoSpool(file.place)))
        bundle.load(given)
    return bundle


class _NoSpool(SpoolFile):
    """Stands for the file that archives are unpacked into, which is not made for a bundle on a server."""

    def __init__(self, place: BundleUrl) -> None:
        super().__init__(Path(place.name), lambda: None)
        self._place = place

    @property
    def file(self) -> int:
        raise InvalidArchive(f"{self._place} must be unpacked, and nothing of it is stored here", hint=_DOWNLOAD)


class RemoteBundle(Bundle):
    """An open bundle whose file is on a server.  What its manifests say can be read in any thread."""

    @property
    def remote(self) -> RemoteFile:
        assert isinstance(self.file, RemoteFile)
        return self.file

    def changed(self) -> bool:
        """Tell whether the file on the server was found to be another one than at the beginning."""
        return self.remote.has_changed

    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes:
        """Content as ``Bundle.read`` has it; it stays in memory, so that the event loop's thread may ask again."""
        if stretch := self.stretch(self._member(digest)):
            self.remote.keep([stretch])
        return super().read(digest, offset, length)

    def blob(self, reference: Reference, descriptor: Descriptor) -> RemoteBlob:  # noqa: ARG002 -- all is in one space
        return RemoteBlob(self, descriptor)

    def stretch(self, member: Member) -> tuple[int, int] | None:
        """The range of the file that holds the content of ``member``; None for none."""
        if member.packed is not None:
            return member.start, member.packed
        return self.contents.stored(member).stretch(member.header, member.size) if member.size else None


@dataclass(slots=True, eq=False, repr=False)
class RemoteBlob(PourableBlob):
    """A blob of a bundle on a server."""

    bundle: RemoteBundle
    descriptor: Descriptor

    @property
    def server(self) -> URL | None:
        """See ``content.PourableBlob``; what is in memory already costs no request."""
        member = self.bundle.place_of(self.descriptor)
        stretch = self.bundle.stretch(member)
        return self.bundle.remote.place.url if stretch and not self.bundle.remote.holds(*stretch) else None

    def permit(self) -> AbstractAsyncContextManager[None]:
        """See ``content.PourableBlob``: the block holds what the server's limit of requests asks for."""
        return nullcontext() if self.server is None else self.bundle.remote.transport.relay(download=self.server)

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        """The bytes from ``offset`` on.  A broken connection is taken up again at the byte where it broke.

        Raises ``InvalidBundle`` when the bundle is damaged there, or has another size for the blob, ``BundleChanged``
        when the file is no more the one that was opened, and a ``NetworkError`` when attempt after attempt brings
        nothing.
        """
        async with aclosing(self._pieces(offset)) as pieces:
            yield pieces

    async def pour(self, sink: Sink, offset: int = 0) -> None:
        """The bytes from ``offset`` on, given to ``sink`` in a worker thread; otherwise as ``open``."""
        member = self.bundle.place_of(self.descriptor)
        if (content := await self._in_memory(member)) is not None:
            await to_thread.run_sync(sink, memoryview(content)[offset:])
        elif offset < member.size:
            taken, reading = self._streamed(member, offset)

            def take(piece: memoryview) -> None:
                for part in self._content(taken, piece):
                    sink(part)

            await reading.pour(take)

    async def _pieces(self, offset: int) -> AsyncGenerator[bytes | memoryview, None]:
        member = self.bundle.place_of(self.descriptor)
        if (content := await self._in_memory(member)) is not None:
            yield memoryview(content)[offset:]
        elif offset < member.size:
            taken, reading = self._streamed(member, offset)
            async with aclosing(reading.pieces()) as pieces:
                async for piece in pieces:
                    for part in self._content(taken, memoryview(piece)):
                        yield part

    async def _in_memory(self, member: Member) -> bytes | None:
        """The content of what is empty, compressed, or was read already; None for what is to be streamed."""
        stretch = self.bundle.stretch(member)
        if stretch is None:
            return b""
        if self.bundle.remote.holds(*stretch):
            return self.bundle.read(self.descriptor.digest)
        if member.packed is not None:
            return await to_thread.run_sync(self.bundle.read, self.descriptor.digest)
        return None

    def _streamed(self, member: Member, offset: int) -> tuple[Unframed, _Reading]:
        stored = self.bundle.contents.stored(member)
        position = member.header + offset
        start, length = stored.stretch(position, member.size - offset)
        return Unframed(stored, position), _Reading(self.bundle.remote, start, length)

    def _content(self, taken: Unframed, piece: memoryview) -> Iterator[memoryview]:
        try:
            yield from taken.content(piece)
        except Damaged as error:
            raise InvalidBundle(f"{self.bundle.path} is damaged inside {self.descriptor.digest}: {error}") from None


class _Version(Struct, frozen=True):
    """The signs by which a file is told from another one under the same address."""

    size: int
    etag: str | None
    modified: str | None

    @classmethod
    def of(cls, size: int, headers: Mapping[str, str]) -> Self:
        return cls(size, headers.get("ETag"), headers.get("Last-Modified"))

    @property
    def condition(self) -> dict[str, str]:
        """The header by which a server is asked for this version and no other; a weak tag never fits (§8.8.3.2)."""
        return {"If-Match": self.etag} if self.etag and self.etag.startswith('"') else {}

    def is_same(self, headers: Mapping[str, str]) -> bool:
        """Tell whether an answer with ``headers`` is about this version, as far as it says."""
        if self.etag and (etag := headers.get("ETag")):
            return etag == self.etag
        return self.modified is None or headers.get("Last-Modified") in (None, self.modified)


class RemoteFile(RangedFile):
    """A file on a web server.  ``read`` and ``keep`` are for worker threads; the event loop's gets what is kept."""

    def __init__(self, place: BundleUrl, transport: Transport, authorizer: Authorizer) -> None:
        self.place = place
        self.transport = transport
        self.has_changed = False
        self.size = 0
        self.version: _Version | None = None
        self._start = Request(method="GET", url=place.url, authorizer=authorizer, is_blob=True)
        self._elsewhere: Request | None = None  # where the server sends us, as long as that is good
        self._held: dict[int, bytes] = {}
        self._offsets: list[int] = []  # of what is held, in order
        self._bytes_held = 0
        self._lock = threading.Lock()
        self._recent = threading.local()  # the window that a thread reads in

    async def begin(self) -> None:
        """Bring in the start and the end of the file, and learn its size and version."""
        self._hold(0, await self.fetch(0, _WINDOW))
        if self.size > _WINDOW:
            start = max(_WINDOW, self.size - _TAIL)
            self._hold(start, await self.fetch(start, self.size - start))

    def read(self, offset: int, length: int) -> bytes:
        """See ``RangedFile``."""
        length = max(0, min(length, self.size - offset))
        if (held := self._find(offset, length)) is not None:
            return held
        if length >= _WINDOW:
            return from_thread.run(self.fetch, offset, length)
        start, window = getattr(self._recent, "window", (0, b""))
        if not start <= offset <= offset + length <= start + len(window):
            start, window = offset, from_thread.run(self.fetch, offset, min(_WINDOW, self.size - offset))
            self._recent.window = start, window
        return window[offset - start :][:length]

    def keep(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See ``RangedFile``; raises ``InvalidBundle`` for more than fits into memory."""
        wanted = sorted((offset, length) for offset, length in ranges if not self.holds(offset, length))
        if self._bytes_held + sum(length for _, length in wanted) > _MOST_HELD:
            most = _MOST_HELD // 2**20
            raise InvalidBundle(f"{self.place} has more than {most} MiB of manifests and headers", hint=_DOWNLOAD)
        if wanted:
            from_thread.run(self._bring, wanted)

    def holds(self, offset: int, length: int) -> bool:
        """Tell whether a range is in memory."""
        return self._find(offset, length) is not None

    async def fetch(self, offset: int, length: int) -> bytes:
        """The bytes of a range that fits into memory."""
        async with aclosing(_Reading(self, offset, length).pieces()) as pieces:
            return b"".join([piece async for piece in pieces])

    async def _bring(self, wanted: list[tuple[int, int]]) -> None:
        groups = _grouped(wanted)
        failures: list[SyncerError] = []

        async def work() -> None:
            for group in groups:
                start, end = group[0][0], max(offset + length for offset, length in group)
                try:
                    content = await self.fetch(start, end - start)
                except SyncerError as error:
                    failures.append(error)
                    tasks.cancel_scope.cancel()
                    return
                for offset, length in group:
                    self._hold(offset, content[offset - start :][:length])

        async with anyio.create_task_group() as tasks:
            for _ in range(_AT_ONCE):
                tasks.start_soon(work)
        if failures:
            raise failures[0]

    def _hold(self, offset: int, content: bytes) -> None:
        with self._lock:
            before = self._held.get(offset)
            if before is None:
                self._offsets.insert(bisect_left(self._offsets, offset), offset)
            if before is None or len(before) < len(content):
                self._held[offset] = content
                self._bytes_held += len(content) - len(before or b"")

    def _find(self, offset: int, length: int) -> bytes | None:
        with self._lock:
            at = bisect_right(self._offsets, offset) - 1
            if at < 0:
                return None
            start = self._offsets[at]
            held = self._held[start]
        return held[offset - start :][:length] if offset + length <= start + len(held) else None

    def request(self, first: int, last: int, *, anew: bool) -> Request:
        """The request for the bytes from ``first`` to ``last``, ``anew`` to the server that was named.

        Raises ``BundleChanged`` once that was found.
        """
        if self.has_changed:
            raise self._changed()
        condition = self.version.condition if self.version else {}
        place = self._start if anew else self._elsewhere or self._start
        return structs.replace(place, headers={"Range": f"bytes={first}-{last}", **condition})

    def answered(self, asked: Request, request: Request) -> None:
        """Go on asking where ``asked`` led to, which became ``request`` in the end."""
        if asked.url == self._start.url and request.url != asked.url:
            self._elsewhere = structs.replace(request, headers={}, pour=None)

    def goes_back(self, asked: Request) -> bool:
        """Tell whether the server itself is to be asked again, since ``asked`` went to where it had sent us before."""
        if asked.url == self._start.url:
            return False
        if self._elsewhere is not None and self._elsewhere.url == asked.url:
            self._elsewhere = None
        return True

    def refusal(self, request: Request, status: int, headers: Mapping[str, str]) -> SyncerError:
        """The error for an answer that does not bring the range that was asked for."""
        if self.version and (status in (412, 416) or (status in (200, 206) and self._is_another(headers))):
            return self._changed()
        host = authority(request.url)
        if status in (401, 403):
            hint = f"syncer registry-login {host} keeps a login for it"
            if request.url.raw_query_string:
                hint = "a signed address may have expired: ask for a new one"
            return Denied(str(request), status, hint=hint)
        if status in (404, 410):
            return NameMissing(f"there is no file at {self.place}", NotFound(str(request), status))
        why = {200: "gives it as a whole only", 206: "gives other parts than those that are asked for"}.get(status)
        if why and (encoding := headers.get("Content-Encoding", "identity")) != "identity":
            why = f"encodes it as {encoding[:20]!r}"
        if status == 416:
            why = "says that it is empty"
        if why:
            return UsageError(f"{self.place} cannot be read in parts: {host} {why}", hint=_DOWNLOAD)
        return RegistryError(str(request), status)

    def _is_another(self, headers: Mapping[str, str]) -> bool:
        assert self.version is not None
        found = content_range(headers.get("Content-Range"))
        size = found.total if found else None
        return not self.version.is_same(headers) or size not in (None, self.version.size)

    def _changed(self) -> BundleChanged:
        self.has_changed = True
        return BundleChanged(
            f"{self.place} was changed on its server while it was being read", hint="run again when it stays as it is"
        )


def _grouped(wanted: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Ranges, in their order, of which those that lie side by side are asked for together."""
    group: list[tuple[int, int]] = []
    end = 0
    for offset, length in wanted:
        if group and (offset > end or end - group[0][0] >= _GROUP):
            yield group
            group, end = [], 0
        group.append((offset, length))
        end = max(end, offset + length)
    if group:
        yield group


class _Reading:
    """One range's way to this machine, however often the connection breaks."""

    def __init__(self, file: RemoteFile, offset: int, length: int) -> None:
        self._file = file
        self._position = self._mark = offset
        self._end = offset + length
        self._part = offset  # where the answer that comes ends
        self._anew = False  # what the server led to is good no more: it is asked itself
        self._was_lost = False  # what it led to broke down, and nothing came since
        self._budget = file.transport.budget()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the range."""
        while self._position < self._end:
            asked = self._next()
            try:
                async with self._file.transport.open(asked, budget=self._budget) as response:
                    if not self._takes(asked, response.request, response.status, response.headers):
                        self._refused(asked, response)
                        continue
                    while piece := await response.piece():
                        self._count(len(piece), response.request)
                        yield piece
                    self._check_end(response.request)
            except NetworkError as error:
                await self._again(asked, error)

    async def pour(self, sink: Sink) -> None:
        """As ``pieces``, but in a worker thread."""
        while self._position < self._end:
            asked = self._next()

            def found(
                request: Request, status: int, headers: CIMultiDictProxy[str], asked: Request = asked
            ) -> Sink | None:
                return partial(self._pass_on, sink, request) if self._takes(asked, request, status, headers) else None

            try:
                async with self._file.transport.open(
                    structs.replace(asked, pour=found), budget=self._budget
                ) as response:
                    if await response.pour():
                        self._check_end(response.request)
                    else:
                        self._refused(asked, response)
            except NetworkError as error:
                await self._again(asked, error)

    def _next(self) -> Request:
        return self._file.request(self._position, self._end - 1, anew=self._anew)

    def _pass_on(self, sink: Sink, request: Request, piece: memoryview) -> None:
        self._count(len(piece), request)
        sink(piece)

    def _takes(self, asked: Request, request: Request, status: int, headers: CIMultiDictProxy[str]) -> bool:
        """Whether the body is a part of the file from the position on, and how far it goes.

        The first answer of all tells the file's size and version.
        """
        found = content_range(headers.get("Content-Range"))
        if status != 206 or found is None or headers.get("Content-Encoding", "identity") != "identity":
            return False
        file = self._file
        if file.version is None:
            if found.total is None:
                return False
            file.size, file.version = found.total, _Version.of(found.total, headers)
            self._end = min(self._end, found.total)
        elif not file.version.is_same(headers) or found.total not in (None, file.size):
            return False
        end = found.last + 1
        is_cut = end < self._end and end - found.first < _LEAST_PART
        if found.first != self._position or end > self._end or is_cut:
            return False
        file.answered(asked, request)
        self._anew = False
        self._part = end
        return True

    def _refused(self, asked: Request, response: Response) -> None:
        """Return when the range is to be asked for again; else raise what the answer says."""
        self._anew = response.status in _EXPIRED and self._file.goes_back(asked)
        if not self._anew:
            raise self._file.refusal(response.request, response.status, response.headers)

    def _count(self, length: int, request: Request) -> None:
        self._position += length
        if self._position > self._part:
            raise InvalidBundle(f"{request}: more bytes came than the answer had announced")
        if self._position - self._mark >= PROGRESS:
            self._mark = self._position
            self._was_lost = False
            self._budget.progressed()

    def _check_end(self, request: Request) -> None:
        if self._position < self._part:  # a body without a length just ends when it is cut off
            raise Interrupted(f"{request}: the answer was cut off")

    async def _again(self, asked: Request, error: NetworkError) -> None:
        transport = self._file.transport
        transport.note_stall(asked, self._budget, error)
        if not isinstance(error, Interrupted) or self._budget.is_spent:
            self._anew = not self._was_lost and self._file.goes_back(asked)
            if not self._anew:
                raise error
            self._was_lost, self._budget = True, transport.budget()
            return
        await transport.back_off(asked.url, self._budget, error)
