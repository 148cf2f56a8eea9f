"""HTTP messages: a request with its body, its kind and its lane, and the answer, whose body may still be to come.

Also the limits in an answer's headers.  Docker Hub sends ``ratelimit-remaining: 76;w=21600``, which counts manifests
that are fetched by GET, and no HEAD requests (docs.docker.com, "Docker Hub pull usage and limits"); others follow the
drafts of "RateLimit header fields for HTTP", or GitHub.  The headers are read leniently.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import Protocol, TypeAlias

from anyio import to_thread
from msgspec import Struct, field
from multidict import CIMultiDictProxy
from yarl import URL

from syncer.errors import Interrupted
from syncer.files import InPlace
from syncer.transport.guard import Scope, without_secrets
from syncer.transport.settings import Limits

SMALL = 64 * 1024
"""Bytes of an answer's body that are read by default; enough for errors and empty answers."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEPING_THE_METHOD = frozenset({307, 308})
_CONTENT_RANGE = re.compile(r"[ \t]*bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)[ \t]*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*([0-9]{1,12})")
_WINDOW = re.compile(r";\s*w\s*=\s*([0-9]{1,9})")
_FIELDS = re.compile(r";\s*([qrtw])\s*=\s*([0-9]{1,12})")
_POLICY = re.compile(r'\s*("[^"]*"|[^";,=\s]+)((?:\s*;[^;,]*)+)')
_PAIRS = re.compile(r"\b(limit|remaining|reset)\s*=\s*([0-9]{1,12})")
_AN_INSTANT = 1_000_000_000  # seconds since 1970; a smaller number is a time to wait

Sink: TypeAlias = Callable[[memoryview], None]
"""A function that takes pieces of a body in a worker thread; a piece is not used any more when it returns."""

Pour: TypeAlias = Callable[["Request", int, CIMultiDictProxy[str]], Sink | None]
"""A function of an answer's status and headers that returns the sink for its body, or None for no sink.

The thread that reads the answer calls it.
"""


class Kind(Enum):
    """The kinds of requests, each of which has a budget of its own at a host."""

    MANIFESTS = "manifests"  # and tags, lists, pings
    BLOBS = "blobs"
    UPLOADS = "uploads"


class Lane(Enum):
    """The kind of a request, which decides where its permit comes from."""

    REQUEST = auto()
    ERRAND = auto()  # for another request, or for all that wait for one token
    RELAY = auto()  # of work that has its permits already


_lane: ContextVar[Lane] = ContextVar("lane", default=Lane.REQUEST)


class in_lane:  # noqa: N801  it is used as a function is
    """Set the lane of the requests that this task, and the tasks that it starts, make in the ``with`` block."""

    __slots__ = ("_lane", "_token")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __enter__(self) -> None:
        self._token = _lane.set(self._lane)

    def __exit__(self, *_: object) -> None:
        _lane.reset(self._token)


def is_relayed() -> bool:
    """Tell whether this task holds the permits for its requests already."""
    return _lane.get() is Lane.RELAY


def current_lane() -> Lane:
    """The lane of the requests of this task."""
    return _lane.get()


class Body(Protocol):
    """The body of a request: exactly ``length`` bytes, from the start at each call of ``pieces``."""

    @property
    def length(self) -> int: ...

    def pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes; a piece is not used any more when the next one is asked for."""
        ...


class FileBody(ABC):
    """A body in a local file: a worker thread may read it, or let the kernel send it from there."""

    __slots__ = ()

    length: int  # bytes

    @abstractmethod
    def read_into(self, buffer: memoryview, position: int) -> int:
        """Fill ``buffer`` from byte ``position`` on; returns the number of bytes, which is smaller only at the end."""
        ...

    @abstractmethod
    def in_place(self) -> InPlace | None:
        """The file ranges that hold the body; None when it must be read.

        A range was sent when the next one is asked for.
        """
        ...

    @property
    @abstractmethod
    def is_there(self) -> bool:
        """True when the file has all of the body, so that reading it waits for nobody."""
        ...


class Authorizer(Protocol):
    """The credentials for the one host that a request is for."""

    async def authorization(self) -> str | None:
        """The ``Authorization`` header to send now; None for none."""
        ...

    async def challenged(self, answer: Challenged) -> bool:
        """Learn from an answer of status 401, and tell whether another attempt can help."""
        ...

    def elsewhere(self, url: URL) -> Authorizer | None:
        """The authorizer, which knows no login, for a request that is redirected to ``url`` at another origin."""
        ...


class Challenged(Struct, frozen=True, kw_only=True):
    """The parts of an answer of status 401 that an ``Authorizer`` needs."""

    url: URL
    scope: Scope  # of the address that answered
    challenges: tuple[str, ...]  # the WWW-Authenticate headers
    sent: str | None  # the Authorization that was not good enough
    is_first: bool  # what was sent may be old; else it was found for this very request


class Request(Struct, frozen=True, kw_only=True):
    """A request to a server, which can be sent any number of times.

    ``repeatable`` says that a second copy of the request does no harm when the result of the first is not
    known.  If it is false, the transport tries again only when no byte of the first one was sent.
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
    follows: Callable[[URL], bool] | None = None  # says whether a redirect leads to the same thing; None: all do
    is_final: Callable[[Answer], bool] | None = None  # says of an error that could be gone soon that it will not be

    @property
    def length(self) -> int | None:
        """Bytes of the body; None when there is none."""
        if self.body is None or isinstance(self.body, bytes):
            return None if self.body is None else len(self.body)
        return self.body.length

    @property
    def kind(self) -> Kind:
        """The kind, wherever a redirect or a registry's own address for an upload leads."""
        is_read = self.method in ("GET", "HEAD")
        if self.is_blob or (is_read and "/blobs/" in self.url.raw_path):
            return Kind.BLOBS
        return Kind.MANIFESTS if is_read or "/manifests/" in self.url.raw_path else Kind.UPLOADS

    @property
    def is_pull(self) -> bool:
        """True for one that a quota of pulls counts."""
        return self.method == "GET" and "/manifests/" in self.url.raw_path

    def body_patience(self, limits: Limits) -> float:
        """Seconds to wait for the next byte of the answer's body."""
        return limits.stall if self.is_blob else limits.idle

    def head_patience(self, limits: Limits) -> float:
        """Seconds to wait for the whole head of the answer, whatever comes before it."""
        return self.patience or self.body_patience(limits)

    def __str__(self) -> str:
        return f"{self.method} {without_secrets(self.url)}"


class Answer(Struct, frozen=True, kw_only=True):
    """An answer whose body was read to its end, or up to a limit."""

    asked: Request | str  # before redirects
    url: URL  # that answered, after redirects
    status: int
    headers: CIMultiDictProxy[str]
    content: bytes
    is_whole: bool  # False when more came than was asked for
    scope: Scope  # of the address that answered

    @property
    def request(self) -> str:
        """The request that was made, for messages."""
        return str(self.asked)

    @property
    def media_type(self) -> str | None:
        """``Content-Type`` without its parameters, in lower case."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower() or None


class Response(ABC):
    """An answer.  Its reader closes it, and the connection is kept only if the answer was read to its end."""

    def __init__(self, request: Request, status: int, headers: CIMultiDictProxy[str]) -> None:
        self.request = request
        self.status = status
        self.headers = headers
        self.on_close: Callable[[], None] | None = None
        self.began = 0.0  # monotonic: when the request was sent
        self.waited: float | None = None  # seconds for the head, where other answers of its kind take about the same
        self.is_first = False  # on its connection
        self.told: Answer | None = None  # the answer, if it had to be read to judge it

    @property
    @abstractmethod
    def scope(self) -> Scope:
        """The scope of the server's address."""

    @abstractmethod
    async def piece(self) -> bytes:
        """The next bytes of the body, none at its end.

        Raises ``Interrupted`` when the body ends early or hardly moves.
        """

    async def pour(self) -> bool:
        """Wait until the sink of ``Request.pour`` has the whole body; returns False when there is no sink.

        Raises the errors of ``piece``, and those of the sink.
        """
        assert self.request.pour is not None
        sink = self.request.pour(self.request, self.status, self.headers)
        while sink and (piece := await self.piece()):
            await to_thread.run_sync(sink, memoryview(piece))
        return sink is not None

    @abstractmethod
    def release(self) -> None:
        """Give the connection back."""

    async def answer(self, asked: Request, limit: int = SMALL) -> Answer:
        """Read at most ``limit`` bytes of the body; messages name ``asked``, the request before redirects.

        Raises the errors of ``piece``.
        """
        if self.told is not None:
            return self.told
        content, is_whole = await self.read(limit)
        return Answer(
            asked=asked,
            url=self.request.url,
            status=self.status,
            headers=self.headers,
            content=content,
            is_whole=is_whole,
            scope=self.scope,
        )

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """Read at most ``limit`` bytes of the body; returns them, and whether that was the whole body."""
        content = bytearray()  # a list of pieces costs many times their bytes where they are small
        while len(content) <= limit and (piece := await self.piece()):
            content += piece
        return bytes(content[:limit]), len(content) <= limit

    async def read_into_memory(self) -> Response:
        """Read the start of the body into memory, close the answer, and return a copy of it.

        The connection and the permit are free then, so that another request can be made before the copy is read.
        """
        try:
            content, _ = await self.read(SMALL)
        except Interrupted:
            content = b""  # its head says enough
        finally:
            self.close()
        return _InMemory(self, content)

    def close(self) -> None:
        self.release()
        if self.on_close:
            self.on_close()
            self.on_close = None


class _InMemory(Response):
    """An answer whose body is in memory."""

    def __init__(self, answer: Response, content: bytes) -> None:
        super().__init__(answer.request, answer.status, answer.headers)
        self.began, self.told = answer.began, answer.told
        self._scope = answer.scope
        self._content = content

    @property
    def scope(self) -> Scope:
        return self._scope

    async def piece(self) -> bytes:
        piece, self._content = self._content, b""
        return piece

    async def pour(self) -> bool:
        """Return False, since no sink takes the body of a refusal."""
        return False

    def release(self) -> None:
        """Do nothing, since the connection is free already."""


class ContentRange(Struct, frozen=True):
    """The range of bytes in an answer of status 206, both ends included."""

    first: int
    last: int
    total: int | None


def content_range(text: str | None) -> ContentRange | None:
    """``Content-Range`` of a download (RFC 9110 §14.4); None when it makes no sense."""
    found = _CONTENT_RANGE.fullmatch(text or "")
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if first > last or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def resolved(base: URL, location: str) -> URL:
    """The URL of ``location`` in an answer from ``base`` (RFC 3986 §5), its query unchanged; raises ``ValueError``."""
    if not location or not location.isascii() or not location.isprintable() or " " in location:
        raise ValueError(location)
    target = URL(location, encoded=True)
    if not target.scheme:
        return base.join(target)
    if not target.host:
        raise ValueError(location)
    return target


def leads_on(request: Request, location: str) -> bool:
    """Tell whether a redirect to ``location`` is to be followed; one that is not is an answer like others."""
    if request.follows is None:
        return True
    try:
        return request.follows(resolved(request.url, location))
    except ValueError:
        return False


def is_redirect(method: str, status: int, headers: Mapping[str, str]) -> bool:
    """Tell whether an answer to a request of ``method`` sends the same request elsewhere."""
    if status not in _REDIRECTS or "Location" not in headers:
        return False
    return status in _KEEPING_THE_METHOD or method in ("GET", "HEAD")


class Quota(Struct, frozen=True):
    """The number of requests that a host still answers, and the seconds until it answers more."""

    remaining: int
    seconds: float
    is_of_pulls: bool  # only manifests that are fetched count
    limit: int | None = None  # the requests that it answers in each ``window``
    window: float | None = None  # seconds


def read_quota(headers: Mapping[str, str]) -> Quota | None:
    """Read the quota in an answer's headers; None when they have none, or no time with it.

    Of several policies it is the one that leaves the fewest requests.
    """
    combined = headers.get("ratelimit")
    remaining = headers.get("ratelimit-remaining") or headers.get("x-ratelimit-remaining") or ""
    if not remaining and combined is None:
        return None
    if combined and (quotas := list(_policies(combined, headers.get("ratelimit-policy") or ""))):
        return min(quotas, key=lambda quota: (quota.remaining, -quota.seconds))
    allowed = headers.get("ratelimit-limit") or headers.get("x-ratelimit-limit") or ""
    reset = _number(headers.get("ratelimit-reset") or headers.get("x-ratelimit-reset") or "")
    left = _number(remaining)
    found = _WINDOW.search(remaining) or _WINDOW.search(allowed)
    window = float(found[1]) if found else None
    if left is None or (reset is None and window is None):
        return None
    if reset is not None:
        seconds = max(0.0, reset - time.time()) if reset > _AN_INSTANT else float(reset)
    else:
        assert window is not None
        seconds = window
    return Quota(left, seconds, "w=" in remaining, _number(allowed), window)


def _policies(combined: str, policies: str) -> Iterator[Quota]:
    """The quotas of a ``RateLimit`` header, of the drafts since 8 (``"name";r=1;t=2``), and of 7 and before."""
    named = {name: dict(_FIELDS.findall(rest)) for name, rest in _POLICY.findall(policies)}
    for name, rest in _POLICY.findall(combined):
        fields = dict(_FIELDS.findall(rest))
        if "r" in fields:
            policy = named.get(name, {})
            yield _policy(fields["r"], fields.get("t", "0"), policy.get("q"), policy.get("w"))
    older = dict(_PAIRS.findall(combined))
    if "remaining" in older and "reset" in older:
        window = _WINDOW.search(policies)
        yield _policy(older["remaining"], older["reset"], older.get("limit"), window and window[1])


def _policy(remaining: str, seconds: str, limit: str | None, window: str | None) -> Quota:
    allowed, every = int(limit) if limit else None, float(window) if window else None
    return Quota(int(remaining), float(seconds), is_of_pulls=False, limit=allowed, window=every)


def _number(text: str) -> int | None:
    found = _NUMBER.match(text)
    return int(found[1]) if found else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that ``Retry-After`` asks for; None when there is none, or it cannot be read.

    A date is compared with the server's own ``Date``, so that neither clock needs to be right (RFC 9110 §10.2.3).
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    until, now = _date(text), _date(headers.get("Date", ""))
    if until is None:
        return None
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  few answers have a date that matters

    try:
        parsed = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
