"""One request to one answer: who asks, what for, and may they."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field
from http import HTTPStatus

import anyio
from aiohttp import web
from anyio import to_thread

from syncer.errors import SyncerError
from syncer.serve import reading, uploading, writing
from syncer.serve.endpoint import (
    Base,
    BlobAt,
    Catalog,
    Endpoint,
    ManifestAt,
    Pulled,
    Referrers,
    Tags,
    UploadAt,
    Uploads,
    found_by_namespace,
    parse_endpoint,
)
from syncer.serve.password import Passwords
from syncer.serve.problem import Problem, json_response
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


@dataclass(slots=True)
class Application:
    """A registry over some storage: the handler of each request."""

    storage: Storage
    passwords: Passwords | None = None
    _writable: Writable | None = field(init=False)
    _turns: uploading.Turns = field(default_factory=uploading.Turns)
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
        """Remove what is abandoned and what nobody needs, again and again, until cancelled."""
        storage = self._writable
        while storage:
            try:
                for repository, session in await to_thread.run_sync(storage.stale_uploads):
                    await uploading.purge(storage, self._turns, repository, session)
                await to_thread.run_sync(storage.sweep, lambda: not self._closing)
            except OSError as error:
                _log.error("what nobody needs cannot be removed: %s", error)
            await anyio.sleep(storage.upkeep_seconds)

    def close(self) -> None:
        """Let a sweep end early, since the server does."""
        self._closing = True

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
                return await uploading.post_upload(request, storage, turns, endpoint)
            case "GET" | "HEAD", UploadAt():
                return await uploading.get_upload(storage, turns, endpoint)
            case "PATCH", UploadAt():
                return await uploading.patch_upload(request, storage, turns, endpoint)
            case "PUT", UploadAt():
                return await uploading.put_upload(request, storage, turns, endpoint)
            case "DELETE", UploadAt():
                return await uploading.delete_upload(storage, turns, endpoint)
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
                    return await reading.get_blob(request, self.storage, endpoint)
                case Referrers():
                    return await reading.get_referrers(request, self.storage, endpoint)
        raise Problem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            f"{request.method} is not supported here",
            headers={"Allow": allowed},
        )


def _failed(request: web.BaseRequest, error: SyncerError) -> web.StreamResponse:
    """The storage is damaged: the operator is told how, the client that it is."""
    _log.error("%s", error)
    if request.writer.output_size:
        raise ConnectionError("the rest of the content cannot be sent") from error
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "the content is damaged").response()


async def _continue(request: web.BaseRequest) -> None:
    """Ask for the body of a client that waits to be asked (RFC 9110, Expect)."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
