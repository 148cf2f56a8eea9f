"""A request, and what is known of its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeAlias

from multidict import CIMultiDictProxy
from yarl import URL

from syncer.files import InPlace
from syncer.transport.guard import Scope, without_secrets
from syncer.transport.settings import Limits

SMALL = 64 * 1024
"""Bytes that are read of an answer unless its reader asks for more: errors, empty answers."""


class Body(Protocol):
    """What a request sends: exactly as many bytes as it says, from the start whenever it is asked."""

    @property
    def length(self) -> int: ...

    def pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes; a piece is done with when the next one is asked for."""
        ...


class FileBody(ABC):
    """A body that lies in a local file: a worker thread may read it, or have the kernel send it from there."""

    __slots__ = ()

    @abstractmethod
    def read_into(self, buffer: memoryview, position: int) -> int:
        """Fill ``buffer`` from byte ``position`` of the body on; the number of bytes, short only at its end."""
        ...

    @abstractmethod
    def in_place(self) -> InPlace | None:
        """Where the body lies; None where it must be read.  A stretch has been sent when the next one is asked for."""
        ...


Sink: TypeAlias = Callable[[memoryview], None]
"""Takes pieces of a body in a worker thread; a piece is done with when it returns."""

Pour: TypeAlias = Callable[["Request", int, CIMultiDictProxy[str]], Sink | None]
"""Told status and headers of an answer, in the thread that reads it, says who takes its body; None for nobody."""


class Authorizer(Protocol):
    """Knows what to say to the one host that a request is for."""

    async def authorization(self) -> str | None:
        """The ``Authorization`` header to send now; None for none."""
        ...

    async def challenged(self, answer: Challenged) -> bool:
        """Learn from an answer of status 401; whether asking again can help."""
        ...

    def elsewhere(self, url: URL) -> Authorizer | None:
        """The authorizer, which knows no login, for a request that is redirected to ``url`` at another origin."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenged:
    """A 401 as an ``Authorizer`` needs it."""

    url: URL
    scope: Scope  # of the address that answered
    challenges: tuple[str, ...]  # the WWW-Authenticate headers
    sent: str | None  # the Authorization that was not good enough
    is_first: bool  # what was sent may be old; else it was found for this very request


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing to ask a server, as often as it takes.

    ``repeatable`` says that a second copy of the request does no harm when nobody knows what became of the
    first.  Where it is false, the transport tries again only if the first one never left.
    """

    method: str
    url: URL
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes | Body | None = None
    authorizer: Authorizer | None = None
    repeatable: bool = True
    patience: float | None = None  # seconds to wait for the head of the answer; None: as for its body
    is_blob: bool = False  # Limits.stall holds for its answer, and else Limits.idle
    pour: Pour | None = None  # takes the answer's body in a worker thread
    reach: Scope | None = None  # how near an address it may go to; None: where the user said

    @property
    def length(self) -> int | None:
        """Bytes of the body; None when there is none."""
        if self.body is None or isinstance(self.body, bytes):
            return None if self.body is None else len(self.body)
        return self.body.length

    def body_patience(self, limits: Limits) -> float:
        """Seconds to wait for the next byte of the answer's body."""
        return limits.stall if self.is_blob else limits.idle

    def head_patience(self, limits: Limits) -> float:
        """Seconds to wait for the whole head of the answer, whatever comes before it."""
        return self.patience or self.body_patience(limits)

    def __str__(self) -> str:
        return f"{self.method} {without_secrets(self.url)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that was read to its end, or as far as its reader cared."""

    request: str  # for messages
    url: URL  # that answered, after redirects
    status: int
    headers: CIMultiDictProxy[str]
    content: bytes
    is_whole: bool  # False when more came than was asked for
    scope: Scope  # of the address that answered

    @property
    def media_type(self) -> str | None:
        """``Content-Type`` without its parameters, in lower case."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower() or None
