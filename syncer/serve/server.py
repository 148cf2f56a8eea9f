"""The registry as a server: its socket and limits, and the application that calls the handler of each endpoint."""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import anyio
import bcrypt
from aiohttp import StreamReader, web
from anyio import to_thread
from msgspec import Struct, field

from syncer.errors import InvalidFile, SyncerError, UsageError
from syncer.files import show_certificate
from syncer.serve import reading, writing
from syncer.serve.protocol import (
    HEADER_SECONDS,
    Base,
    BlobAt,
    Catalog,
    Connection,
    Endpoint,
    ManifestAt,
    Problem,
    Pulled,
    Referrers,
    Tags,
    UploadAt,
    Uploads,
    found_by_namespace,
    json_response,
    parse_endpoint,
)
from syncer.serve.storage import Storage, Writable

_log = logging.getLogger(__name__)

_READ = "GET, HEAD"
_METHODS: dict[type[Endpoint], str] = {
    ManifestAt: "GET, HEAD, PUT, DELETE",
    BlobAt: "GET, HEAD, DELETE",
    Uploads: "POST",
    UploadAt: "GET, HEAD, PATCH, PUT, DELETE",
}
_BUSY = (errno.EMFILE, errno.ENFILE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IDLE_SECONDS = 60.0
_SHUTDOWN_SECONDS = 0.5  # twice: for requests to end, then for them to notice
_MAX_LINE = 16 * 1024  # bytes, of the request line and of each header
_MAX_HEADERS = 64
_READ_AHEAD = 256 * 1024  # bytes of a body


@dataclasses.dataclass(slots=True)
class Application:
    """A registry over some storage: the handler of each request."""

    storage: Storage
    passwords: Passwords | None = None
    _writable: Writable | None = dataclasses.field(init=False)
    _turns: writing.Turns = dataclasses.field(default_factory=writing.Turns)
    _checks: reading.Checks = dataclasses.field(default_factory=reading.Checks)
    _closing: bool = False

    def __post_init__(self) -> None:
        self._writable = self.storage if isinstance(self.storage, Writable) else None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            await self._check_password(request)
            endpoint = parse_endpoint(request.raw_path.partition("?")[0])
            if request.method in ("GET", "HEAD") and isinstance(endpoint, Pulled) and "ns" in request.query:
                endpoint = found_by_namespace(endpoint, request.query["ns"], self.storage.has_repository)
            if self._writable:
                return await self._answer_writable(request, self._writable, endpoint)
            return await self._answer(request, endpoint, allowed=_READ)
        except Problem as problem:
            return problem.response()
        except SyncerError as error:
            return _failed(request, error)
        except OSError as error:
            if error.errno in _BUSY:
                return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "UNKNOWN", "too many files are open").response()
            if error.errno not in _FULL:
                raise
            return Problem(HTTPStatus.INSUFFICIENT_STORAGE, "UNKNOWN", "the registry's disk is full").response()

    async def upkeep(self) -> None:
        """Remove abandoned uploads and unused content, again and again, until cancelled."""
        storage = self._writable
        while storage:
            try:
                for repository, session in await to_thread.run_sync(storage.stale_uploads):
                    await writing.purge(storage, self._turns, repository, session)
                await to_thread.run_sync(storage.sweep, lambda: not self._closing)
            except OSError as error:
                _log.error("what nobody needs cannot be removed: %s", error)
            await anyio.sleep(storage.upkeep_seconds)

    def close(self) -> None:
        """Let a sweep, and the hashing of blobs, end early, because the server stops."""
        self._closing = True
        self._checks.close()

    async def _check_password(self, request: web.BaseRequest) -> None:
        if self.passwords and not await self.passwords.admit(request.headers.get("Authorization")):
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "a user name and a password are required",
                headers={"WWW-Authenticate": 'Basic realm="syncer", charset="UTF-8"'},
            )

    async def _answer_writable(  # noqa: PLR0911  # one for each endpoint
        self, request: web.BaseRequest, storage: Writable, endpoint: Endpoint
    ) -> web.StreamResponse:
        await _continue(request)
        turns = self._turns
        match request.method, endpoint:
            case "PUT", ManifestAt():
                return await writing.put_manifest(request, storage, endpoint)
            case "DELETE", ManifestAt():
                return await writing.delete_manifest(storage, endpoint)
            case "HEAD", BlobAt(repository, digest):
                storage.asked_for(repository, digest)
            case "DELETE", BlobAt():
                return await writing.delete_blob(storage, endpoint)
            case "POST", Uploads():
                return await writing.post_upload(request, storage, turns, self._checks, endpoint)
            case "GET" | "HEAD", UploadAt():
                return await writing.get_upload(storage, turns, endpoint)
            case "PATCH", UploadAt():
                return await writing.patch_upload(request, storage, turns, endpoint)
            case "PUT", UploadAt():
                return await writing.put_upload(request, storage, turns, endpoint)
            case "DELETE", UploadAt():
                return await writing.delete_upload(storage, turns, endpoint)
        return await self._answer(request, endpoint, allowed=_METHODS.get(type(endpoint), _READ))

    async def _answer(self, request: web.BaseRequest, endpoint: Endpoint, *, allowed: str) -> web.StreamResponse:
        if request.method in ("GET", "HEAD"):
            match endpoint:
                case Base():
                    return json_response({})
                case Catalog():
                    return await reading.get_catalog(request, self.storage)
                case Tags():
                    return await reading.get_tags(request, self.storage, endpoint)
                case ManifestAt():
                    return reading.get_manifest(request, self.storage, endpoint)
                case BlobAt():
                    return await reading.get_blob(request, self.storage, self._checks, endpoint)
                case Referrers():
                    return await reading.get_referrers(request, self.storage, endpoint)
        raise Problem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            f"{request.method} is not supported here",
            headers={"Allow": allowed},
        )


def _failed(request: web.BaseRequest, error: SyncerError) -> web.StreamResponse:
    """Log how the storage is damaged, and tell the client only that it is."""
    _log.error("%s", error)
    if request.writer.output_size:
        raise ConnectionError("the rest of the content cannot be sent") from error
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "the content is damaged").response()


async def _continue(request: web.BaseRequest) -> None:
    """Ask for the body of a client that waits to be asked (RFC 9110, Expect)."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


class Tls(Struct, frozen=True, kw_only=True):
    """A server's certificate, with its chain, and key: two PEM files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """The TLS settings of the server; raises ``InvalidFile``."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        show_certificate(context, self.certificate, self.key)
        return context


class Address(Struct, frozen=True):
    """The address at which a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@asynccontextmanager
async def serve(
    storage: Storage,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    htpasswd: Path | None = None,
    tls: Tls | None = None,
) -> AsyncIterator[Address]:
    """Serve a registry over ``storage`` for as long as the block lasts; port 0 takes a free one.

    With ``htpasswd`` every client needs a login of that file.  Raises ``UsageError`` when the server cannot
    listen at the address, and ``InvalidFile``.
    """
    passwords = Passwords.read(htpasswd) if htpasswd else None
    context = tls.context() if tls else None
    application = Application(storage, passwords)
    server = _Server(
        _then_waiting(application),
        request_factory=_request,
        access_log=None,
        logger=logging.getLogger("syncer.serve"),
        auto_decompress=False,  # a blob's digest is over the bytes as sent
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=HEADER_SECONDS,
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
        max_headers=_MAX_HEADERS,
        read_bufsize=_READ_AHEAD,
    )
    listener = await _listen(server, host, port, context)
    upkeep = asyncio.ensure_future(application.upkeep())
    try:
        bound = listener.sockets[0].getsockname()
        yield Address(bound[0], bound[1])
    finally:
        listener.close()
        application.close()
        upkeep.cancel()
        with anyio.CancelScope(shield=True):
            server.pre_shutdown()
            await server.shutdown(_SHUTDOWN_SECONDS)
            with suppress(asyncio.CancelledError):
                await upkeep


async def _listen(server: _Server, host: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
    handshake = HEADER_SECONDS if context else None
    try:
        return await asyncio.get_running_loop().create_server(
            server, host, port, ssl=context, ssl_handshake_timeout=handshake
        )
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen at {Address(host, port)}: {_reason(error)}", hint="choose another --host or --port"
        ) from None


def _reason(error: OSError | OverflowError) -> str:
    """The reason of an error, without the address, which asyncio and uvloop each add in their own words."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)


def _then_waiting(application: Application) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """A handler that calls the application, and then notes that the client has to act."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await application(request)
        finally:
            if isinstance(request.protocol, Connection):
                request.protocol.wait()

    return answer


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


def _request(
    message: Any, payload: StreamReader, protocol: web.RequestHandler, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    assert isinstance(protocol, Connection)
    protocol.head_arrived(payload)
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_BCRYPT_BYTES = 72  # of a password; the rest never counted
_CHECKS = 2  # at once: each is made to be slow


class Passwords(Struct):
    """User names and bcrypt hashes.

    A correct password is remembered as a keyed hash in memory, since every request of a push
    has it, and bcrypt is slow on purpose.
    """

    hashes: dict[str, bytes]
    _remembered: dict[str, bytes] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_CHECKS))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the users of an htpasswd file; raises ``InvalidFile``, also for hashes other than bcrypt."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidFile(path, f"cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from None
        hashes = {}
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                name, _, hashed = line.strip().partition(":")
                if not (name and _BCRYPT.fullmatch(hashed)):
                    raise InvalidFile(
                        path,
                        "a line must be a user name, a colon and a bcrypt hash",
                        line=number,
                        hint="write the file with: htpasswd -B",
                    )
                hashes[name] = hashed.encode()
        if not hashes:
            raise InvalidFile(path, "it names no user", hint="add one with: htpasswd -B")
        return cls(hashes)

    async def admit(self, authorization: str | None) -> bool:
        """Tell whether the value of an ``Authorization`` header has the name and the password of a user."""
        given = _basic(authorization)
        if given is None:
            return False
        name, password = given
        known = self.hashes.get(name)
        keyed = hmac.digest(self._key, password, hashlib.sha256)
        if hmac.compare_digest(keyed, self._remembered.get(name, b"")):
            return True
        # an unknown user costs as much time as a wrong password
        against = known or next(iter(self.hashes.values()))
        right = await to_thread.run_sync(bcrypt.checkpw, password[:_BCRYPT_BYTES], against, limiter=self._limiter)
        if right and known:
            self._remembered[name] = keyed
        return right and known is not None


def _basic(authorization: str | None) -> tuple[str, bytes] | None:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, UnicodeDecodeError):
        return None
