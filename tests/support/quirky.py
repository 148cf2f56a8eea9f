"""A registry in memory that behaves as strangely as it is told: the ways of real ones, and faults on demand."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from aiohttp import web

from tests.support.images import digest_of

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault: TypeAlias = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
Keeps: TypeAlias = Literal["resumable", "strict", "forgetful"]

_NAME = r"/v2/(?P<name>[a-z0-9/._-]+)"
_ROUTES = [
    ("blob", re.compile(rf"{_NAME}/blobs/(?P<digest>sha(?:256|512):[0-9a-f]+)")),
    ("start", re.compile(rf"{_NAME}/blobs/uploads/")),
    ("session", re.compile(r"/sessions/(?P<session>[0-9]+)")),
    ("manifest", re.compile(rf"{_NAME}/manifests/(?P<reference>[^/]+)")),
    ("tags", re.compile(rf"{_NAME}/tags/list")),
    ("referrers", re.compile(rf"{_NAME}/referrers/(?P<digest>[^/]+)")),
    ("ping", re.compile(r"/v2/")),
]


@dataclass(slots=True)
class Seen:
    """A request as it arrived, and how it was answered."""

    kind: str
    method: str
    path: str
    headers: dict[str, str]
    received: int = 0  # bytes of its body
    status: int = 0  # 0: no answer

    def __str__(self) -> str:
        return f"{self.method} {self.kind} {self.status}"


@dataclass(slots=True)
class Session:
    name: str
    content: bytearray = field(default_factory=bytearray)
    state: int = 0  # a strict registry's idea of how much there must be


@dataclass(slots=True)
class Quirky:
    """The registry's content, its ways, and what it saw."""

    address: str = ""
    scheme: str = "http"
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by repository and digest
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)  # by repository and reference
    sessions: dict[int, Session] = field(default_factory=dict)
    opened: int = 0  # sessions, ever
    seen: list[Seen] = field(default_factory=list)
    faults: list[tuple[str, int, Fault]] = field(default_factory=list)  # "METHOD kind", how many times still, what

    keeps: Keeps = "resumable"  # what becomes of a session whose body broke: distribution 3, distribution 2, zot
    location: str = "{path}"  # how it writes one: {origin}, {path}
    range_format: str = "0-{last}"
    stale_range: bool = False
    patch_status: int = 202
    knows: set[str] = field(default_factory=lambda: {"PUT", "PATCH", "CHUNKS"})
    largest_body: int | None = None
    too_large_status: int = 413
    least_chunk: int | None = None
    mounts: bool = True
    head_status: int | None = None  # for every HEAD
    page: int | None = None  # tags on one
    has_referrers: bool = False

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def on(self, what: str, *faults: Fault, times: int = 1) -> None:
        """Let ``faults`` happen, one after the other, at the next requests that are ``what``: "PATCH session"."""
        self.faults.extend((what, times, fault) for fault in faults)

    def add(self, repository: str, content: bytes) -> str:
        digest = digest_of(content)
        self.blobs.setdefault(repository, {})[digest] = content
        return digest

    def requests(self, method: str = "", kind: str = "") -> list[Seen]:
        return [one for one in self.seen if method in ("", one.method) and kind in ("", one.kind)]

    def received(self) -> int:
        """Bytes of upload bodies."""
        return sum(one.received for one in self.seen)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind, match = next(
            ((kind, found) for kind, pattern in _ROUTES if (found := pattern.fullmatch(request.path))), ("other", None)
        )
        seen = Seen(kind, request.method, request.path_qs, dict(request.headers))
        self.seen.append(seen)
        request["seen"], request["match"] = seen, match.groupdict() if match else {}
        handler = getattr(self, f"_{kind}", self._other)
        for index, (what, times, fault) in enumerate(self.faults):
            if what in (f"{request.method} {kind}", kind, "*"):
                self.faults[index : index + 1] = [(what, times - 1, fault)] if times > 1 else []
                response = await fault(request, handler)
                break
        else:
            response = await handler(request)
        is_open = request.transport is not None and not request.transport.is_closing()
        seen.status = response.status if is_open else 0
        return response

    async def _other(self, request: web.Request) -> web.StreamResponse:
        return problem(404, "NOT_FOUND")

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=200)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        name, digest = request["match"]["name"], request["match"]["digest"]
        if request.method == "HEAD" and self.head_status:
            return web.Response(status=self.head_status)
        content = self.blobs.get(name, {}).get(digest)
        if content is None:
            return problem(404, "BLOB_UNKNOWN")
        if found := re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", request.headers.get("Range", "")):
            start, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            headers = {"Content-Range": f"bytes {start}-{last}/{len(content)}"}
            return web.Response(status=206, body=content[start : last + 1], headers=headers)
        return web.Response(body=content)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        name = request["match"]["name"]
        digest, origin = request.query.get("mount"), request.query.get("from")
        if digest and self.mounts and digest in self.blobs.get(origin or "", {}):
            self.add(name, self.blobs[origin or ""][digest])
            return web.Response(status=201)
        self.opened += 1
        number = self.opened
        self.sessions[number] = Session(name)
        headers = self._told(request, number)
        if self.least_chunk:
            headers["OCI-Chunk-Min-Length"] = str(self.least_chunk)
        return web.Response(status=202, headers=headers)

    async def _session(self, request: web.Request) -> web.StreamResponse:
        number = int(request["match"]["session"])
        session = self.sessions.get(number)
        if session is None:
            return problem(404, "BLOB_UPLOAD_UNKNOWN")
        if self.keeps == "strict" and int(request.query["state"]) != len(session.content):
            return problem(404, "BLOB_UPLOAD_INVALID")
        match request.method:
            case "GET":
                return web.Response(status=204, headers=self._told(request, number))
            case "DELETE":
                del self.sessions[number]
                return web.Response(status=204)
            case "PATCH":
                return await self._patch(request, number, session)
            case _:
                return await self._put(request, session)

    async def _patch(self, request: web.Request, number: int, session: Session) -> web.StreamResponse:
        stretch = request.headers.get("Content-Range")
        if ("CHUNKS" if stretch else "PATCH") not in self.knows:
            return problem(405, "UNSUPPORTED")
        if refused := self._too_large(request):
            return refused
        if stretch and int(stretch.partition("-")[0]) != len(session.content):
            return problem(416, "BLOB_UPLOAD_INVALID")
        await self.take(request, session)
        return web.Response(status=self.patch_status, headers=self._told(request, number))

    async def _put(self, request: web.Request, session: Session) -> web.StreamResponse:
        if request.content_length and "Content-Range" not in request.headers and "PUT" not in self.knows:
            return problem(400, "BLOB_UPLOAD_INVALID")
        if request.content_length and (refused := self._too_large(request)):
            return refused
        await self.take(request, session)
        digest = request.query["digest"]
        if digest_of(bytes(session.content), digest.partition(":")[0]) != digest:
            self.sessions = {number: one for number, one in self.sessions.items() if one is not session}
            return problem(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.blobs.setdefault(session.name, {})[digest] = bytes(session.content)
        self.sessions = {number: one for number, one in self.sessions.items() if one is not session}
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    async def take(self, request: web.Request, session: Session, most: int | None = None) -> None:
        """Read the body into the session, all of it or ``most`` bytes."""
        while piece := await request.content.readany():
            piece = piece if most is None else piece[: most - request["seen"].received]
            request["seen"].received += len(piece)
            session.content += piece
            if request["seen"].received == most:
                return

    def _too_large(self, request: web.Request) -> web.Response | None:
        if self.largest_body is None or (request.content_length or 0) <= self.largest_body:
            return None
        if self.too_large_status == 413:
            return web.Response(status=413, text="<html>413 Request Entity Too Large</html>", content_type="text/html")
        return problem(self.too_large_status, "UNKNOWN", "request body is too large and exceeds 4.00MiB")

    def _told(self, request: web.Request, number: int) -> dict[str, str]:
        session = self.sessions[number]
        path = f"/sessions/{number}?state={len(session.content)}&_state=a%3Db%2Fc"
        told = {"Location": self.location.format(origin=self.url, path=path, host=self.address)}
        if not (self.stale_range and session.state):
            session.state = len(session.content)
        if self.range_format:
            told["Range"] = self.range_format.format(last=session.state - 1)
        return told

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        name, reference = request["match"]["name"], request["match"]["reference"]
        known = self.manifests.setdefault(name, {})
        if request.method == "PUT":
            content = await request.read()
            known[reference] = known[digest_of(content)] = request.content_type, content
            headers = {"Docker-Content-Digest": digest_of(content)}
            if self.has_referrers and (subject := json.loads(content).get("subject")):
                headers["OCI-Subject"] = subject["digest"]
            return web.Response(status=201, headers=headers)
        if request.method == "HEAD" and self.head_status:
            return web.Response(status=self.head_status)
        if reference not in known:
            return problem(404, "MANIFEST_UNKNOWN")
        media_type, content = known[reference]
        headers = {"Docker-Content-Digest": digest_of(content)}
        return web.Response(body=content, content_type=media_type, headers=headers)

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        name = request["match"]["name"]
        every = sorted(tag for tag in self.manifests.get(name, {}) if ":" not in tag)
        after = [tag for tag in every if tag > request.query.get("last", "")]
        page = after[: self.page or len(after)]
        headers = {}
        if len(page) < len(after):
            headers["Link"] = f'</v2/{name}/tags/list?n={self.page}&last={page[-1]}>; rel="next"'
        return web.json_response({"name": name, "tags": page or None}, headers=headers)

    async def _referrers(self, request: web.Request) -> web.StreamResponse:
        return problem(404, "NOT_FOUND")


def problem(status: int, code: str, message: str = "", *, detail: object = None, **headers: str) -> web.Response:
    """An answer as the spec writes errors."""
    errors = {"errors": [{"code": code, "message": message, "detail": detail}]}
    return web.json_response(errors, status=status, headers={key.replace("_", "-"): v for key, v in headers.items()})


def status(number: int, **headers: str) -> Fault:
    """Answer with that status, the body unread."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        return problem(number, "UNKNOWN", "no", **headers)

    return fault


async def proceed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No fault: this request is passed over."""
    return await handler(request)


async def lose_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do what was asked, and break the connection instead of saying so."""
    response = await handler(request)
    _break(request)
    return response


async def reset(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Break the connection at once."""
    _break(request)
    return web.Response(status=500)


def cut_upload(registry: Quirky, after: int) -> Fault:
    """Break the connection when ``after`` bytes of the body have come, which count as the session's."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        number = int(request["match"]["session"])
        session = registry.sessions[number]
        await registry.take(request, session, after)
        if registry.keeps == "forgetful":
            del registry.sessions[number]
        _break(request)
        return web.Response(status=500)

    return fault


def cut_download(after: int, *, with_length: bool = True) -> Fault:
    """Answer as one should, but only ``after`` bytes of it; with no length said, the end looks like any end."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        whole = await handler(request)
        assert isinstance(whole, web.Response)
        assert isinstance(whole.body, bytes)
        if not with_length:  # by hand, since aiohttp would send it in chunks, whose end can be told
            headers = "".join(f"{key}: {value}\r\n" for key, value in whole.headers.items() if key != "Content-Length")
            assert request.transport
            request.transport.write(f"HTTP/1.1 {whole.status} OK\r\n{headers}Connection: close\r\n\r\n".encode())
            request.transport.write(whole.body[:after])
            request.transport.close()
            return whole
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(whole.body)
        await response.prepare(request)
        await response.write(whole.body[:after])
        _break(request)
        return response

    return fault


def stall(release: asyncio.Event, arrived: asyncio.Event | None = None) -> Fault:
    """Do nothing until ``release`` is set; ``arrived`` says that the request is there."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if arrived:
            arrived.set()
        await release.wait()
        return await handler(request)

    return fault


def _break(request: web.Request) -> None:
    assert request.transport
    request.transport.abort()


@asynccontextmanager
async def quirky_registry(
    *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Quirky]:
    """The registry on loopback, for as long as the block lasts."""
    registry = Quirky(scheme="https" if tls else "http")
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", registry.answer)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        await site.start()
        registry.address = f"{host}:{runner.addresses[0][1]}"
        yield registry
    finally:
        await runner.cleanup()


__all__ = [
    "Quirky",
    "cut_download",
    "cut_upload",
    "lose_answer",
    "problem",
    "proceed",
    "quirky_registry",
    "reset",
    "stall",
    "status",
]
