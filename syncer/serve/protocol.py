"""The protocol of a registry's clients: the distribution spec's paths and answers, and the connections they come by.

An endpoint is parsed from the path of a request; no other text ever becomes a part of a file's path.  A client may be
slow but may not stop.
"""

from __future__ import annotations

import asyncio
import re
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote

import anyio
import orjson
from aiohttp import StreamReader, web
from msgspec import Struct, structs

from syncer.errors import InvalidContent, InvalidReference
from syncer.oci import Digest, Reference

COMMON_HEADERS = {
    "Docker-Distribution-Api-Version": "registry/2.0",
    "Server": "syncer",
    "X-Content-Type-Options": "nosniff",
}

# distribution-spec, "Pulling manifests"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_UPLOAD = re.compile(r"[0-9a-f]{32}")
_MAX_NAME = 255

HEADER_SECONDS = 10.0
"""The time in which a new connection must send the head of its first request."""

_MAX_CONNECTIONS = 1024
_OTHER_FILES = 64  # open at once: the listener, the lock, a bundle, uploads that are written

_PATIENCE_SECONDS = 1.0
"""The time for which a connection must have waited for its client before another one may take its place."""

STALL_SECONDS = 60
"""The time for which a client may neither send a byte that is awaited nor take one that is offered."""


class Problem(Exception):
    """A request that is answered with one of the distribution spec's errors.

    With ``details`` the answer lists the error once for each.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        details: Sequence[Any] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details
        self.headers = headers or {}

    def response(self) -> web.Response:
        """The answer with the error as the spec's JSON."""
        error = {"code": self.code, "message": str(self)}
        errors = [error | {"detail": detail} for detail in self.details] or [error]
        return json_response({"errors": errors}, status=self.status, headers=self.headers)


def json_response(
    document: Any,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    return web.Response(
        body=orjson.dumps(document),
        status=status,
        headers=COMMON_HEADERS | {"Content-Type": content_type} | dict(headers or {}),
    )


def not_modified(headers: Mapping[str, str]) -> web.Response:
    """Answer that the client has the current content already."""
    return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=dict(headers))


def empty_response(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, headers=COMMON_HEADERS | {"Content-Length": "0"} | dict(headers or {}))


class Base(Struct, frozen=True):
    """``/v2/``: is this a registry?"""


class Catalog(Struct, frozen=True):
    """``/v2/_catalog``"""


class Tags(Struct, frozen=True):
    """``/v2/<name>/tags/list``"""

    repository: str
    namespace: str | None = None


class ManifestAt(Struct, frozen=True):
    """``/v2/<name>/manifests/<reference>``"""

    repository: str
    reference: str | Digest
    namespace: str | None = None


class BlobAt(Struct, frozen=True):
    """``/v2/<name>/blobs/<digest>``"""

    repository: str
    digest: Digest
    namespace: str | None = None


class Uploads(Struct, frozen=True):
    """``/v2/<name>/blobs/uploads/``"""

    repository: str


class UploadAt(Struct, frozen=True):
    """``/v2/<name>/blobs/uploads/<session>``"""

    repository: str
    session: str


class Referrers(Struct, frozen=True):
    """``/v2/<name>/referrers/<digest>``"""

    repository: str
    subject: Digest
    namespace: str | None = None


Pulled: TypeAlias = Tags | ManifestAt | BlobAt | Referrers
"""The endpoints that a client asks for when it uses this registry as a mirror.

``namespace`` is the host that the client names with ``?ns=``, if ``repository`` was found by it.
"""

Endpoint: TypeAlias = Base | Catalog | Tags | ManifestAt | BlobAt | Uploads | UploadAt | Referrers


def parse_endpoint(raw_path: str) -> Endpoint:  # noqa: PLR0911  # one for each endpoint
    """Parse the path of a request, percent-encoded and without its query; raises ``Problem``."""
    segments = [_decoded(segment) for segment in raw_path.split("/")]
    match segments:
        case ["", "v2"] | ["", "v2", ""]:
            return Base()
        case ["", "v2", "_catalog"]:
            return Catalog()
        case ["", "v2", *name, "tags", "list"]:
            return Tags(_repository(name))
        case ["", "v2", *name, "blobs", "uploads"] | ["", "v2", *name, "blobs", "uploads", ""]:
            return Uploads(_repository(name))
        case ["", "v2", *name, "blobs", "uploads", session]:
            return UploadAt(_repository(name), _session(session))
        case ["", "v2", *name, "manifests", reference]:
            return ManifestAt(_repository(name), _reference(reference))
        case ["", "v2", *name, "blobs", digest]:
            return BlobAt(_repository(name), parse_digest(digest))
        case ["", "v2", *name, "referrers", digest]:
            return Referrers(_repository(name), parse_digest(digest))
    raise Problem(HTTPStatus.NOT_FOUND, "UNSUPPORTED", "this registry has nothing at that path")


def parse_digest(text: str) -> Digest:
    """Parse a digest that a client sent; raises ``Problem``."""
    try:
        return Digest.parse(text)
    except InvalidContent as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", str(error)) from None


def parse_tag(text: str, status: HTTPStatus) -> str:
    """Check a tag that a client sent; raises ``Problem`` with that status."""
    if not _TAG.fullmatch(text):
        raise Problem(status, "TAG_INVALID", f"{text[:80]!r} is not a tag")
    return text


def is_repository(name: str) -> bool:
    """Tell whether ``name`` is a repository's name in the spec's grammar."""
    return len(name) <= _MAX_NAME and all(map(_COMPONENT.fullmatch, name.split("/")))


def found_by_namespace(endpoint: Pulled, namespace: str, has_repository: Callable[[str], bool]) -> Pulled:
    """The endpoint of the repository that a push of an image of the host ``namespace`` has filled, if there is one.

    A client asks its mirror for ``library/busybox`` of ``docker.io`` (distribution-spec, "Registry Proxying"); a push
    brought it to ``docker.io/library/busybox``, below its base path.  Without such a repository, as when the path has
    the host already, the endpoint is returned unchanged.
    """
    if not (set(namespace) & set(".:[") or namespace == "localhost") or "/" in namespace:
        return endpoint
    components = endpoint.repository.split("/")
    for split in range(len(components)):
        try:
            pushed = Reference.parse(f"{namespace}/{'/'.join(components[split:])}").path
        except InvalidReference:
            return endpoint
        repository = "/".join([*components[:split], pushed])
        if is_repository(repository) and has_repository(repository):
            return structs.replace(endpoint, repository=repository, namespace=namespace)
    return endpoint


def _decoded(segment: str) -> str:
    """Decode percent-encoding once; a text that is still encoded afterwards is not legal anywhere."""
    decoded = unquote(segment) if "%" in segment else segment
    if "/" in decoded:
        raise Problem(HTTPStatus.BAD_REQUEST, "NAME_INVALID", "a slash in a path must not be encoded")
    return decoded


def _repository(components: list[str]) -> str:
    name = "/".join(components)
    if not is_repository(name):
        raise Problem(HTTPStatus.BAD_REQUEST, "NAME_INVALID", f"{name[:80]!r} is not the name of a repository")
    return name


def _reference(text: str) -> str | Digest:
    if ":" in text:
        return parse_digest(text)
    return parse_tag(text, HTTPStatus.NOT_FOUND)


def _session(text: str) -> str:
    if not _UPLOAD.fullmatch(text):
        raise unknown_upload()
    return text


def unknown_upload() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "there is no such upload session")


class Connection(web.RequestHandler):
    """One connection of a client.

    It is closed if it does not send a whole request head in time: aiohttp limits the time between requests, but not
    the time before the first.  When there are too many connections, a new one replaces the one that has waited longest
    for its client, among those of the client that has most of them waiting; if none waits, the new one is closed.  When
    a connection breaks in the middle of a body, the bytes that arrived are kept in ``rest``, since aiohttp gives only
    an error.
    """

    __slots__ = ("_deadline", "_payload", "_server", "client", "rest", "waiting_since")

    def __init__(self, server: web.Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.waiting_since: float | None = None  # None while it is the server's turn
        self.client = ""
        self.rest = b""
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self._payload: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if peer else ""
        loop = asyncio.get_running_loop()
        if len(self._server.connections) > _most_connections() and not self._make_room(loop.time() - _PATIENCE_SECONDS):
            self.force_close()
            return
        self.wait()
        self._deadline = loop.call_later(HEADER_SECONDS, self.force_close)

    def wait(self) -> None:
        """Note that the client has to act: to send a request or more of a body, or to take more of an answer."""
        self.waiting_since = asyncio.get_running_loop().time()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that the client has to act, for as long as the block lasts."""
        self.wait()
        try:
            yield
        finally:
            self.waiting_since = None

    def _make_room(self, before: float) -> bool:
        """Close a connection whose client has let it wait since ``before`` (a time of the loop)."""
        waiting = [
            (other.waiting_since, other)
            for other in self._server.connections
            if isinstance(other, Connection) and other.waiting_since and other.waiting_since < before
        ]
        if not waiting:
            return False
        of_client = Counter(other.client for _, other in waiting)
        worst, _ = of_client.most_common(1)[0]
        _, longest = min(
            ((since, other) for since, other in waiting if other.client == worst), key=lambda pair: pair[0]
        )
        if longest.transport:
            longest.transport.abort()
        longest.waiting_since = None  # its place is given away once
        return True

    def head_arrived(self, payload: StreamReader) -> None:
        """Note that a request has begun, whose body comes from ``payload``."""
        self._payload = payload
        self.waiting_since = None
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        if self._payload and not self._payload.exception():
            with suppress(RuntimeError):  # somebody waits for the next byte: all before it is read
                self.rest = self._payload.read_nowait()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP; neither this nor a client that is gone needs a line in a log."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        response = Problem(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "this is not a request that HTTP allows").response()
        response.force_close()
        return response


def _most_connections() -> int:
    """The number of connections that the limit of open files allows, with one more file for each connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = (soft - _OTHER_FILES) // 2
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(_MAX_CONNECTIONS, files))


async def next_piece(request: web.BaseRequest) -> bytes:
    """The next bytes of the request's body; none at its end.

    Raises ``TimeoutError`` when the client sends nothing in time, another ``OSError`` when it is gone.
    """
    assert isinstance(request.protocol, Connection)
    with request.protocol.waiting(), anyio.fail_after(STALL_SECONDS):
        return await request.content.readany()


def unread(request: web.BaseRequest) -> bytes:
    """The bytes of the request's body that arrived and were not read, even if the connection is gone."""
    assert isinstance(request.protocol, Connection)
    return request.protocol.rest if request.content.exception() else request.content.read_nowait()


async def write_piece(request: web.BaseRequest, response: web.StreamResponse, piece: bytes) -> None:
    """Send bytes of a response; raises ``ConnectionError`` when the client is gone or does not take them."""
    assert isinstance(request.protocol, Connection)
    try:
        with request.protocol.waiting(), anyio.fail_after(STALL_SECONDS):
            await response.write(piece)
    except TimeoutError:
        if request.transport:
            request.transport.abort()
        raise ConnectionError("the client does not read") from None
