"""One blob's way out of a registry, however often the connection breaks; and of a foreign layer, from its vendor."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass

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
from syncer.transport.message import content_range


@dataclass(frozen=True, slots=True)
class RegistryBlob(PourableBlob):
    """A blob in a registry's repository."""

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
        return registry.transport.relay(registry.base)

    async def pour(self, sink: Sink, offset: int = 0) -> None:
        """The bytes from ``offset`` on, given to ``sink`` in a worker thread; otherwise as ``open``."""
        await _Download(self.descriptor, self.repository, offset).pour(sink)


class _Download:
    def __init__(self, descriptor: Descriptor, repository: Repository, offset: int) -> None:
        self._descriptor = descriptor
        self._repository = repository
        self._position = self._mark = offset
        self._ranges = True  # until the registry answers one wrongly
        self._budget: Budget = repository.registry.transport.budget()
        self._places = [] if descriptor.is_distributable else list(descriptor.urls)  # that were not tried yet
        self._scope: Scope | None = None  # of the registry, once it has said that it does not have a foreign layer
        self._place: Request | None = None  # a vendor's, which is asked instead

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes until the blob's end; nothing is asked for an empty rest, which some registries do not have."""
        transport = self._repository.registry.transport
        while self._position < self._descriptor.size:
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

        while self._position < self._descriptor.size:
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
        await transport.back_off(self._repository.registry.base, self._budget, error)

    def count(self, length: int, request: Request) -> None:
        self._position += length
        if self._position > self._descriptor.size:
            raise DigestMismatch(f"{request}: more than the {self._descriptor.size} bytes of the blob came")
        if self._position - self._mark >= PROGRESS:
            self._mark = self._position
            self._budget.progressed()

    def _check_end(self, request: Request) -> None:
        if self._position < self._descriptor.size:  # a body without a length just ends when it is cut off
            raise Interrupted(f"{request}: the answer was cut off")

    def _request(self) -> Request:
        is_part = self._position > 0 and self._ranges
        headers = {"Range": f"bytes={self._position}-"} if is_part else {}
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
        if status == 200:
            self._check_length(request, headers)
            return self._position
        is_the_part = status == 206 and "Range" in request.headers and self._is_the_part(headers)
        return 0 if is_the_part else None

    async def _refused(self, response: Response) -> None:
        """Return when the blob is to be asked for in another way; else raise what the answer says."""
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
            raise Interrupted(f"{response.request}: {authority(response.request.url)} answers {response.status}")
        raise await self._repository.refusal(await response.answer(response.request))

    def _is_the_part(self, headers: CIMultiDictProxy[str]) -> bool:
        found = content_range(headers.get("Content-Range"))
        size = self._descriptor.size
        if found is None or found.first != self._position or found.last != size - 1 or found.total not in (size, None):
            return False
        return headers.get("Content-Length") in (None, str(size - self._position))

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
