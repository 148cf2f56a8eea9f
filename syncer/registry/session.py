"""An upload session: the place where a blob's bytes go, which moves with every answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from yarl import URL

from syncer.errors import RegistryError, Unsafe
from syncer.registry.headers import least_chunk, upgraded_location
from syncer.registry.repository import Repository
from syncer.registry.upload_journal import Unfinished
from syncer.transport import Answer, Request
from syncer.transport.guard import Scope, check_hop, origin


@dataclass(slots=True)
class Session:
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
        start = replace(start, reach=answer.scope)
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
