"""Manifests' way in, and everything's way out."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import web
from anyio import to_thread

from syncer.errors import DigestMismatch, InvalidContent
from syncer.oci import Digest, parse_manifest
from syncer.oci.manifest import MAX_MANIFEST_SIZE, AnyManifest
from syncer.serve.connection import next_piece
from syncer.serve.endpoint import BlobAt, ManifestAt, parse_tag
from syncer.serve.problem import Problem, empty_response
from syncer.serve.reading import unknown_blob, unknown_manifest
from syncer.serve.storage import Kept, Writable

_MAX_TAGS = 100  # of one request; the spec asks for ten at least


async def put_manifest(request: web.BaseRequest, storage: Writable, endpoint: ManifestAt) -> web.StreamResponse:
    """Keep a manifest under a tag; or under its digest, and the tags that the query names (distribution-spec,
    "Pushing Manifests").
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
    """The whole body, which is a manifest's size at most."""
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
    """What the manifest is to be called; the query counts only beside a digest."""
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
    """Blocking: a manifest may list tens of thousands of children, each of which is looked up."""
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
    """Everything that a manifest lists must be in its repository; its subject need not."""
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
