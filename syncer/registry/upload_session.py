"""An upload session, and the ways in which a registry takes the bytes of a blob."""

from __future__ import annotations

import re
from enum import Enum

from msgspec import Struct, structs
from yarl import URL

from syncer.errors import RegistryError, Unsafe
from syncer.registry.answers import least_chunk, upgraded_location
from syncer.registry.repository import Repository
from syncer.registry.upload_journal import Unfinished
from syncer.transport import Answer, Request
from syncer.transport.guard import Scope, check_hop, origin

MIB = 1024 * 1024
CHUNK_SIZE = 16 * MIB
_LEAST_CHUNK = MIB
_BREAKS = 2  # bodies cut off one after the other, after which a smaller one is tried
_IN_ONE_PIECE = re.compile(
    r"(?:.*\.)?(?:pkg\.dev|gcr\.io)|ghcr\.io|.*\.dkr\.ecr(?:-fips)?\..*\.amazonaws\.com(?:\.cn)?|public\.ecr\.aws"
)
"""Registries that refuse chunks, or take only small ones (dotnet/sdk-container-builds#287, ocx-sh/ocx#237)."""


class Way(Enum):
    """The requests that bring the bytes of a blob."""

    PUT = "one PUT"
    PATCH = "one PATCH, then an empty PUT"
    CHUNKS = "PATCHes, the last bytes in the PUT"


class Manner:
    """The ways that one registry takes.  A way that has worked before is not given up after a failure."""

    def __init__(self, host: str, chunk_size: int = CHUNK_SIZE) -> None:
        self.chunk_size = chunk_size
        self.range_is_stale = False  # it does not tell how much it has (Amazon's: aws/containers-roadmap#2831)
        self._in_chunks_from = None if _IN_ONE_PIECE.fullmatch(host) else 2 * chunk_size + 1  # bytes of a blob
        self._largest_whole: int | None = None
        self._refused: set[Way] = set()
        self._works: set[Way] = set()
        self._breaks = 0

    def way(self, size: int) -> Way:
        """The way for a blob of ``size`` bytes."""
        too_large = self._largest_whole is not None and size > self._largest_whole
        wants_chunks = self._in_chunks_from is not None and size >= self._in_chunks_from
        if (too_large or wants_chunks) and Way.CHUNKS not in self._refused:
            return Way.CHUNKS
        return next((way for way in (Way.PUT, Way.PATCH) if way not in self._refused), Way.CHUNKS)

    def takes_whole(self, size: int) -> bool:
        """Tell whether a blob of ``size`` bytes may go in one PUT, as far as is known."""
        return Way.PUT not in self._refused and (self._largest_whole is None or size <= self._largest_whole)

    def takes(self, way: Way) -> bool:
        """Tell whether the registry has not refused this way."""
        return way not in self._refused

    def worked(self, way: Way) -> None:
        """The registry took a body that came this way."""
        self._works.add(way)
        self._breaks = 0

    def refuse(self, way: Way) -> bool:
        """The registry does not take this way; whether there is another one left."""
        if way in self._works or len(self._refused | {way}) == len(Way):
            return False
        self._refused.add(way)
        return True

    def too_large(self, way: Way, length: int, least: int) -> bool:
        """A body of ``length`` bytes is too large; whether something smaller can be tried."""
        floor = max(_LEAST_CHUNK, least)
        if length <= floor:
            return False
        if way is not Way.CHUNKS:
            if Way.CHUNKS in self._refused:
                return False
            self._largest_whole = min(length - 1, self._largest_whole or length)
        self.chunk_size = max(floor, min(self.chunk_size, length // 2))
        return True

    def broke(self, way: Way) -> None:
        """A body was cut off.  After some in a row, blobs go in chunks, and chunks get smaller: less is lost, and
        a limit that shows itself by nothing else is found.
        """
        self._breaks += 1
        if self._breaks < _BREAKS or Way.CHUNKS in self._refused:
            return
        if way is Way.CHUNKS:
            self.chunk_size = max(_LEAST_CHUNK, self.chunk_size // 2)
        self._in_chunks_from = self.chunk_size + 1


class Session(Struct):
    """One upload session.  ``at`` is the request that goes on, but for its method, headers and body."""

    repository: Repository
    at: Request
    least: int = 0  # bytes that a chunk, but the last, must have
    offset: int = 0  # bytes that the registry has taken
    offered: int = 0  # bytes that were ever sent

    def moved(self, answer: Answer) -> None:
        """Follow the answer's ``Location``, if there is one; the newest one counts."""
        if location := answer.headers.get("Location"):
            self.at = _located(self.repository, answer, location)

    def state(self) -> Unfinished:
        """The state that a later run needs to go on."""
        return Unfinished(str(self.at.url), self.offset, self.at.reach)


def opened(repository: Repository, answer: Answer) -> Session:
    """The session that an answer of status 202 offers; raises ``RegistryError`` if it does not say where."""
    location = answer.headers.get("Location")
    if not location:
        raise RegistryError(answer.request, answer.status, ["an upload was accepted, but not said where to"])
    at = _located(repository, answer, location)
    return Session(repository, at, least_chunk(answer.headers.get("OCI-Chunk-Min-Length")))


def continued(repository: Repository, state: Unfinished, size: int) -> Session | None:
    """The session that a journal remembers; None when its place is not one that we would go to today."""
    base = repository.registry.base
    try:
        url = URL(state.location, encoded=True)
        check_hop(base, url, None, "the journal of uploads")
        reach = None if state.reach is None else Scope(state.reach)
    except (ValueError, Unsafe):
        return None
    is_own = origin(url) == origin(base)
    if not is_own and reach is None:
        return None
    at = _request(repository, url, None if is_own else reach)
    return Session(repository, at, offset=state.offset, offered=size)


def _located(repository: Repository, answer: Answer, location: str) -> Request:
    """The place that ``location`` names, with credentials only if it is the registry's own origin."""
    base = repository.registry.base
    try:
        location = upgraded_location(base, answer.url, location)
    except ValueError:
        raise Unsafe(f"{answer.url.host} names no address for an upload") from None
    start = Request(method="GET", url=answer.url)
    if origin(answer.url) != origin(base):
        start = structs.replace(start, reach=answer.scope)
    followed = repository.registry.transport.redirected(start, location, answer.scope, what="an upload's location")
    return _request(repository, followed.url, followed.reach)


def _request(repository: Repository, url: URL, reach: Scope | None) -> Request:
    is_own = origin(url) == origin(repository.registry.base)
    return Request(
        method="GET",
        url=url,
        authorizer=repository.authorizer if is_own else None,
        reach=None if is_own else reach,
        repeatable=False,
        patience=repository.registry.transport.limits.commit,
    )
