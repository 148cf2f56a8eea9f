"""An upload session: the place where a blob's bytes go, which moves with every answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from yarl import URL

from syncer.errors import RegistryError, Unsafe
from syncer.registry.headers import least_chunk
from syncer.registry.repository import Repository
from syncer.transport import Answer, Request
from syncer.transport.guard import origin
from syncer.transport.transport import resolved


@dataclass(slots=True)
class Session:
    """Where the upload stands.  ``at`` is the request that goes on, but for its method, headers and body."""

    repository: Repository
    at: Request
    least: int = 0  # bytes that a chunk, but the last, must have
    offset: int = 0  # bytes that the registry has taken
    offered: int = 0  # bytes that were ever sent

    def moved(self, answer: Answer) -> None:
        """Follow the answer's ``Location``, if there is one; the newest one counts."""
        if location := answer.headers.get("Location"):
            self.at = _located(self.repository, answer, location)


def opened(repository: Repository, answer: Answer) -> Session:
    """The session that an answer of status 202 offers; raises ``RegistryError`` if it does not say where."""
    location = answer.headers.get("Location")
    if not location:
        raise RegistryError(answer.request, answer.status, ["an upload was accepted, but not said where to"])
    at = _located(repository, answer, location)
    return Session(repository, at, least_chunk(answer.headers.get("OCI-Chunk-Min-Length")))


def _located(repository: Repository, answer: Answer, location: str) -> Request:
    """The place that ``location`` names, with credentials only if it is the registry's own origin.

    A registry behind a TLS proxy that it knows nothing of names itself with http://: the same host is then
    spoken to by https (distribution/distribution#2225).
    """
    base = repository.registry.base
    location = _upgraded(base, answer.url, location)
    start = Request(method="GET", url=answer.url)
    if origin(answer.url) != origin(base):
        start = replace(start, reach=answer.scope)
    followed = repository.registry.transport.redirected(start, location, answer.scope, what="an upload's location")
    is_own = origin(followed.url) == origin(base)
    return replace(
        followed,
        authorizer=repository.authorizer if is_own else None,
        reach=None if is_own else followed.reach,
        repeatable=False,
        patience=repository.registry.transport.limits.commit,
    )


def _upgraded(base: URL, answered: URL, location: str) -> str:
    try:
        target = resolved(answered, location)
    except ValueError:
        raise Unsafe(f"{answered.host} names no address for an upload") from None
    if (base.scheme, target.scheme) != ("https", "http") or target.host != base.host:
        return location
    if target.explicit_port not in (None, 80, base.port):
        return location
    rest = str(target.relative()) if target.raw_path_qs else "/"
    return f"{base.origin()}{rest}"
