"""Answers to the requests that write: uploads of blobs (POST opens a session, PATCH appends, PUT commits), manifests
and deletions.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import anyio
from aiohttp import web
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct, field

from syncer.errors import DigestMismatch, InvalidContent
from syncer.oci import Digest, parse_manifest
from syncer.oci.manifest import MAX_MANIFEST_SIZE, AnyManifest
from syncer.serve.protocol import (
    BlobAt,
    ManifestAt,
    Problem,
    UploadAt,
    Uploads,
    empty_response,
    is_repository,
    next_piece,
    parse_digest,
    parse_tag,
    unknown_upload,
    unread,
)
from syncer.serve.reading import Checks, unknown_blob, unknown_manifest
from syncer.serve.storage import Kept, Upload, Writable

_BATCH = 1024 * 1024  # bytes written and hashed at once
_BATCHES = 2  # that wait while one is written
_QUIET_SECONDS = 1.0  # without a byte, after which the batch is written: many stalled bodies fill no memory

_CONTENT_RANGE = re.compile(r"(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})")

_MAX_TAGS = 100  # of one request; the spec asks for ten at least


class _Turn(Struct):
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0
    scope: anyio.CancelScope | None = None


class Turns(Struct):
    """The turns of requests at upload sessions: a session belongs to its newest request.

    A client whose connection broke asks for the state of its session while the server may still wait for the rest of
    the broken request.  The broken request ends, and its bytes are kept, before the new one is answered.
    """

    _turns: dict[str, _Turn] = field(default_factory=dict)

    def are_taken(self, session: str) -> bool:
        return session in self._turns

    @asynccontextmanager
    async def take(self, session: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(session, _Turn())
        turn.users += 1
        if turn.scope:
            turn.scope.cancel()
        try:
            async with turn.lock:
                with anyio.CancelScope() as turn.scope:
                    yield
                if turn.scope.cancelled_caught:
                    raise Problem(HTTPStatus.CONFLICT, "BLOB_UPLOAD_INVALID", "a newer request has taken over")
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[session]


async def purge(storage: Writable, turns: Turns, repository: str, session: str) -> None:
    """Forget a session that has got no byte for too long, unless a request uses it or comes now."""
    if not turns.are_taken(session):
        with suppress(Problem):  # a request has come
            async with turns.take(session):
                await to_thread.run_sync(storage.purge_upload, repository, session)


async def post_upload(
    request: web.BaseRequest, storage: Writable, turns: Turns, checks: Checks, endpoint: Uploads
) -> web.StreamResponse:
    """Mount a blob from another repository, receive one in this request, or open a session."""
    repository, query = endpoint.repository, request.query
    if "mount" in query and is_repository(query.get("from", "")):
        digest = parse_digest(query["mount"])
        is_there = await checks.find(storage, query["from"], digest) is not None
        if is_there and await to_thread.run_sync(storage.mount, repository, digest, query["from"]):
            return _created(repository, digest)
    upload = storage.begin(repository)
    if "digest" in query:
        digest = parse_digest(query["digest"])
        async with turns.take(upload.id):
            try:
                await _receive(request, upload)
                await _commit(upload, digest)
            except BaseException:
                upload.discard()  # nobody knows where it is
                raise
        return _created(repository, digest)
    return _accepted(repository, upload)


async def get_upload(storage: Writable, turns: Turns, endpoint: UploadAt) -> web.StreamResponse:
    """Answer how many bytes the session has."""
    async with turns.take(endpoint.session):
        upload = _find(storage, endpoint)
        return empty_response(HTTPStatus.NO_CONTENT, _standing(endpoint.repository, upload))


async def patch_upload(
    request: web.BaseRequest, storage: Writable, turns: Turns, endpoint: UploadAt
) -> web.StreamResponse:
    """Append to the session; bytes that arrive before a break of the connection are kept."""
    async with turns.take(endpoint.session):
        upload = _find(storage, endpoint)
        _check_range(request, upload, endpoint.repository)
        await _receive(request, upload)
        return _accepted(endpoint.repository, upload)


async def put_upload(
    request: web.BaseRequest, storage: Writable, turns: Turns, endpoint: UploadAt
) -> web.StreamResponse:
    """Append the last bytes, if any, and commit."""
    digest = parse_digest(request.query.get("digest", ""))
    async with turns.take(endpoint.session):
        upload = _find(storage, endpoint)
        _check_range(request, upload, endpoint.repository)
        await _receive(request, upload)
        await _commit(upload, digest)
        return _created(endpoint.repository, digest)


async def delete_upload(storage: Writable, turns: Turns, endpoint: UploadAt) -> web.StreamResponse:
    """Forget the session."""
    async with turns.take(endpoint.session):
        _find(storage, endpoint).discard()
        return empty_response(HTTPStatus.NO_CONTENT)


def _find(storage: Writable, endpoint: UploadAt) -> Upload:
    upload = storage.upload(endpoint.repository, endpoint.session)
    if upload is None:
        raise unknown_upload()
    return upload


def _check_range(request: web.BaseRequest, upload: Upload, repository: str) -> None:
    """Raise ``Problem`` unless a chunk starts at the end of the session and has the length that its header says.

    The rule is in the distribution-spec, "Pushing a blob in chunks".
    """
    text = request.headers.get("Content-Range")
    if text is None:
        return
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise Problem(HTTPStatus.BAD_REQUEST, "BLOB_UPLOAD_INVALID", "a Content-Range must look like 0-1023")
    first, last = int(found["first"]), int(found["last"])
    if first != upload.offset or last < first:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "BLOB_UPLOAD_INVALID",
            f"the upload goes on at byte {upload.offset}",
            headers=_standing(repository, upload),
        )
    if request.content_length is not None and request.content_length != last - first + 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the Content-Range is not as long as the body")


async def _receive(request: web.BaseRequest, upload: Upload) -> None:
    """Append the request's body to the upload; reading continues while earlier bytes are hashed and written.

    All bytes that arrived are kept, even if the connection breaks or a newer request takes the session.
    """
    failures: list[Exception] = []
    send, batches = anyio.create_memory_object_stream[list[bytes]](_BATCHES)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_append, batches, upload, failures)
        async with send:
            await _read(request, send, failures)
    if failures:
        raise failures[0]


async def _read(request: web.BaseRequest, send: MemoryObjectSendStream[list[bytes]], failures: list[Exception]) -> None:
    batch: list[bytes] = []
    size = 0
    try:
        while True:
            with anyio.move_on_after(_QUIET_SECONDS if batch else None) as quiet:
                piece = await next_piece(request)
            if quiet.cancelled_caught:
                full, batch, size = batch, [], 0
                await send.send(full)
                continue
            if not piece:
                break
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                full, batch, size = batch, [], 0
                await send.send(full)
    except (OSError, web.RequestPayloadError):
        failures.append(Problem(HTTPStatus.REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", "the body ended early"))
    except anyio.BrokenResourceError:
        return  # appending failed
    finally:
        with anyio.CancelScope(shield=True), suppress(anyio.BrokenResourceError):
            await send.send([*batch, unread(request)])


async def _append(batches: MemoryObjectReceiveStream[list[bytes]], upload: Upload, failures: list[Exception]) -> None:
    with anyio.CancelScope(shield=True):  # what arrived is kept; it ends when reading does
        async with batches:
            try:
                async for batch in batches:
                    await to_thread.run_sync(upload.append, batch)
            except OSError as error:
                failures.append(error)


async def _commit(upload: Upload, digest: Digest) -> None:
    try:
        await to_thread.run_sync(upload.commit, digest)
    except DigestMismatch as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", str(error)) from None


def _accepted(repository: str, upload: Upload) -> web.Response:
    return empty_response(HTTPStatus.ACCEPTED, _standing(repository, upload))


def _created(repository: str, digest: Digest) -> web.Response:
    location = {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": str(digest)}
    return empty_response(HTTPStatus.CREATED, location)


def _standing(repository: str, upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{repository}/blobs/uploads/{upload.id}",
        "Range": f"0-{max(0, upload.offset - 1)}",  # an empty session's as distribution gives it
        "Docker-Upload-UUID": upload.id,
    }


async def put_manifest(request: web.BaseRequest, storage: Writable, endpoint: ManifestAt) -> web.StreamResponse:
    """Store a manifest under a tag; or under its digest, and the tags that the query names.

    The query is of the distribution-spec, "Pushing Manifests".
    """
    tags = _tags(request, endpoint)
    content = await _body(request)
    media_type = request.content_type if "Content-Type" in request.headers else None
    manifest = await to_thread.run_sync(_store, storage, endpoint, tags, content, media_type)
    digest = str(manifest.descriptor.digest)
    headers = {"Location": f"/v2/{endpoint.repository}/manifests/{digest}", "Docker-Content-Digest": digest}
    if manifest.subject:
        headers["OCI-Subject"] = str(manifest.subject.digest)
    response = empty_response(HTTPStatus.CREATED, headers)
    if isinstance(endpoint.reference, Digest):
        for tag in tags:
            response.headers.add("OCI-Tag", tag)
    return response


async def delete_manifest(storage: Writable, endpoint: ManifestAt) -> web.StreamResponse:
    """Remove a tag, or a manifest with all its tags."""
    repository, reference = endpoint.repository, endpoint.reference
    try:
        if isinstance(reference, Digest):
            deleted = await to_thread.run_sync(storage.delete_manifest, repository, reference)
        else:
            deleted = await to_thread.run_sync(storage.delete_tag, repository, reference)
    except Kept:
        raise _kept() from None
    if not deleted:
        raise unknown_manifest(storage, endpoint)
    return empty_response(HTTPStatus.ACCEPTED)


async def delete_blob(storage: Writable, endpoint: BlobAt) -> web.StreamResponse:
    """Remove a blob from one repository."""
    try:
        deleted = await to_thread.run_sync(storage.delete_blob, endpoint.repository, endpoint.digest)
    except Kept:
        raise _kept() from None
    if not deleted:
        raise unknown_blob(endpoint.digest)
    return empty_response(HTTPStatus.ACCEPTED)


async def _body(request: web.BaseRequest) -> bytes:
    """Read the whole body, whose size may be that of a manifest at most."""
    content = bytearray()
    try:
        while piece := await next_piece(request):
            content += piece
            if len(content) > MAX_MANIFEST_SIZE:
                message = f"a manifest may have {MAX_MANIFEST_SIZE} bytes"
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "SIZE_INVALID", message)
    except (OSError, web.RequestPayloadError) as error:
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "MANIFEST_INVALID", "the body ended early") from error
    return bytes(content)


def _tags(request: web.BaseRequest, endpoint: ManifestAt) -> list[str]:
    """The tags for the manifest; those in the query count only beside a digest."""
    if not isinstance(endpoint.reference, Digest):
        return [endpoint.reference]
    tags = list(dict.fromkeys(request.query.getall("tag", ())))
    if len(tags) > _MAX_TAGS:
        message = f"one request may name {_MAX_TAGS} tags"
        raise Problem(HTTPStatus.REQUEST_URI_TOO_LONG, "UNSUPPORTED", message)
    return [parse_tag(tag, HTTPStatus.BAD_REQUEST) for tag in tags]


def _store(
    storage: Writable, endpoint: ManifestAt, tags: Sequence[str], content: bytes, media_type: str | None
) -> AnyManifest:
    """Store the manifest; this blocks, since a manifest may list tens of thousands of children to look up."""
    expected = endpoint.reference if isinstance(endpoint.reference, Digest) else None
    try:
        manifest = parse_manifest(content, media_type, expected=expected)
    except DigestMismatch as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", str(error)) from None
    except InvalidContent as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", str(error)) from None
    with storage.expecting(child.digest for child in manifest.children()):
        _check_children(storage, endpoint.repository, manifest)
        storage.put_manifest(endpoint.repository, manifest, tags)
    return manifest


def _check_children(storage: Writable, repository: str, manifest: AnyManifest) -> None:
    """Raise ``Problem`` unless the repository has all that a manifest lists; its subject may be absent."""
    missing = [
        str(child.digest)
        for child in manifest.children()
        if not (storage.blob(repository, child.digest) or storage.manifest(repository, child.digest))
    ]
    if missing:
        message = f"{repository} lacks content that the manifest lists"
        raise Problem(HTTPStatus.BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message, details=missing)


def _kept() -> Problem:
    return Problem(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", "the content of a bundle cannot be deleted")
