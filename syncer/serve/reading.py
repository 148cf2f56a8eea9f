"""Answers to GET and HEAD."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import quote

import anyio
from aiohttp import ETag, web
from anyio import to_thread
from msgspec import Struct, field

from syncer.errors import DigestMismatch
from syncer.oci import Digest
from syncer.oci.descriptor import OCI_INDEX
from syncer.serve.protocol import (
    COMMON_HEADERS,
    BlobAt,
    ManifestAt,
    Problem,
    Pulled,
    Referrers,
    Tags,
    empty_response,
    json_response,
    not_modified,
    write_piece,
)
from syncer.serve.storage import Storage, StoredBlob, StoredManifest, verify

_PIECES = (128 * 1024, 1024 * 1024)  # bytes that a slow and a quick client is sent at a time
_QUICK_SECONDS = 0.1
_CHECKS = 2  # blobs that are hashed at a time; each takes a core
_MAX_PAGE = 1000  # entries; a larger n is cut, CVE-2023-2253 is what happens otherwise

_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})")


async def get_catalog(request: web.BaseRequest, storage: Storage) -> web.StreamResponse:
    names, headers = _page(await to_thread.run_sync(storage.repositories), request.query, "/v2/_catalog")
    return json_response({"repositories": names}, headers=headers)


async def get_tags(request: web.BaseRequest, storage: Storage, endpoint: Tags) -> web.StreamResponse:
    repository = endpoint.repository
    if not storage.has_repository(repository):
        raise unknown_repository(repository)
    tags, headers = _page(
        await to_thread.run_sync(storage.tags, repository), request.query, f"/v2/{repository}/tags/list"
    )
    return json_response({"name": repository, "tags": tags}, headers=headers | _namespace(endpoint))


async def get_referrers(request: web.BaseRequest, storage: Storage, endpoint: Referrers) -> web.StreamResponse:
    found = await to_thread.run_sync(storage.referrers, endpoint.repository, endpoint.subject)
    headers = _namespace(endpoint)
    if wanted := request.query.get("artifactType"):
        found = [descriptor for descriptor in found if descriptor.artifact_type == wanted]
        headers["OCI-Filters-Applied"] = "artifactType"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor.to_json() for descriptor in found],
    }
    return json_response(document, headers=headers, content_type=OCI_INDEX)


def get_manifest(request: web.BaseRequest, storage: Storage, endpoint: ManifestAt) -> web.StreamResponse:
    manifest = find_manifest(storage, endpoint)
    headers = _content_headers(manifest.digest, manifest.media_type) | _namespace(endpoint)
    if _is_known(request, manifest.digest):
        return not_modified(headers)
    return web.Response(body=manifest.content, headers=headers)


class Checks(Struct):
    """The hashing of blobs of which something is to be said that no reader can check: that they are there, or a part.

    Each blob is hashed once, and a few of them at a time.
    """

    _running: dict[Digest, anyio.Event] = field(default_factory=dict)
    _limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_CHECKS))
    _closing: bool = False

    async def find(self, storage: Storage, repository: str, digest: Digest) -> StoredBlob | None:
        """The blob, whose content agrees with its digest; None when the repository lacks it, or it was damaged.

        Raises ``DigestMismatch`` for a damaged blob that stays where it is, in a bundle.
        """
        while (blob := storage.blob(repository, digest)) and not blob.is_verified:
            if running := self._running.get(digest):
                await running.wait()
                continue
            self._running[digest] = anyio.Event()
            try:
                await to_thread.run_sync(verify, blob, lambda: not self._closing, limiter=self._limiter)
            except DigestMismatch:
                if storage.blob(repository, digest):
                    raise
            finally:
                self._running.pop(digest).set()
            if self._closing:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "UNKNOWN", "the registry stops")
        return blob

    def close(self) -> None:
        """Let all hashing end early, because the server stops."""
        self._closing = True


async def get_blob(request: web.BaseRequest, storage: Storage, checks: Checks, endpoint: BlobAt) -> web.StreamResponse:
    """Answer with a blob, or a part of it; what is sent whole is hashed on its way, all else before."""
    blob = storage.blob(endpoint.repository, endpoint.digest)
    if blob and (request.method == "HEAD" or "Range" in request.headers):
        blob = await checks.find(storage, endpoint.repository, endpoint.digest)
    if blob is None:
        raise unknown_blob(endpoint.digest)
    headers = _content_headers(endpoint.digest, "application/octet-stream") | {"Accept-Ranges": "bytes"}
    headers |= _namespace(endpoint)
    if _is_known(request, endpoint.digest):
        return not_modified(headers)
    if request.method == "HEAD":
        return empty_response(HTTPStatus.OK, headers | {"Content-Length": str(blob.size)})
    ranges = request.headers.getall("Range", ()) if _is_still(request, endpoint.digest) else ()
    wanted = wanted_range(ranges, blob.size)
    if wanted is None:
        return await _send(request, blob, range(blob.size), HTTPStatus.OK, headers)
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{blob.size}"
    return await _send(request, blob, wanted, HTTPStatus.PARTIAL_CONTENT, headers)


def find_manifest(storage: Storage, endpoint: ManifestAt) -> StoredManifest:
    """The manifest at an endpoint; raises ``Problem``."""
    repository, reference = endpoint.repository, endpoint.reference
    digest = reference if isinstance(reference, Digest) else storage.resolve(repository, reference)
    manifest = digest and storage.manifest(repository, digest)
    if not manifest:
        raise unknown_manifest(storage, endpoint)
    return manifest


def unknown_manifest(storage: Storage, endpoint: ManifestAt) -> Problem:
    repository = endpoint.repository
    if not storage.has_repository(repository):
        return unknown_repository(repository)
    return Problem(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", f"{repository} has no manifest {endpoint.reference}")


def unknown_repository(repository: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", f"there is no repository {repository}")


def unknown_blob(digest: Digest) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", f"there is no blob {digest}")


async def _send(
    request: web.BaseRequest, blob: StoredBlob, wanted: range, status: HTTPStatus, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send a part of the blob; an error after the first piece breaks the connection.

    Pieces grow while the client takes them quickly, so that a thousand slow clients do not fill the memory.
    """
    size, largest = _PIECES
    with blob.open() as read:
        piece = await to_thread.run_sync(read, wanted.start, min(size, len(wanted)))
        if len(piece) == len(wanted):
            return web.Response(body=piece, status=status, headers=headers)
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(wanted)
        await response.prepare(request)
        offset = wanted.start
        while True:
            started = anyio.current_time()
            await write_piece(request, response, piece)
            quick = anyio.current_time() - started < _QUICK_SECONDS
            offset += len(piece)
            if offset == wanted.stop:
                return response
            size = min(2 * size, largest) if quick else _PIECES[0]
            piece = await to_thread.run_sync(read, offset, min(size, wanted.stop - offset))


def _content_headers(digest: Digest, media_type: str) -> dict[str, str]:
    return COMMON_HEADERS | {
        "Content-Type": media_type,
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
    }


def _namespace(endpoint: Pulled) -> dict[str, str]:
    """The header that says that the host of ``?ns=`` was used (distribution-spec, "Registry Proxying")."""
    return {"OCI-Namespace": endpoint.namespace} if endpoint.namespace else {}


def _is_known(request: web.BaseRequest, digest: Digest) -> bool:
    """Tell whether the client has this content already (RFC 9110, If-None-Match).

    Raises ``Problem`` when the client wants other content than this (If-Match).  Content has no date of change, so
    conditions on dates are ignored.
    """
    wanted = request.if_match
    if wanted is not None and not any(tag.value == "*" or _is_tag(tag, digest) for tag in wanted):
        raise Problem(HTTPStatus.PRECONDITION_FAILED, "UNSUPPORTED", f"the content is {digest}")
    return any(tag.value in ("*", str(digest)) for tag in request.if_none_match or ())


def _is_still(request: web.BaseRequest, digest: Digest) -> bool:
    """Tell whether the client has a part of this very content (RFC 9110, If-Range); if not, it gets all of it.

    A date never agrees, since content has none.
    """
    conditions = request.headers.getall("If-Range", ())
    return all(condition.strip() == f'"{digest}"' for condition in conditions)


def _is_tag(tag: ETag, digest: Digest) -> bool:
    return tag.value == str(digest) and not tag.is_weak


def wanted_range(headers: Sequence[str], size: int) -> range | None:
    """Read the range of bytes that the client asks for; None for all of them.

    Several ranges at once, and units other than bytes, are ignored, as RFC 9110 allows.
    """
    found = _RANGE.fullmatch(headers[0]) if len(headers) == 1 else None
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        wanted = range(max(0, size - int(found["last"])), size)
    else:
        last = int(found["last"]) if found["last"] else size - 1
        wanted = range(int(found["first"]), min(last + 1, size))
    if not wanted:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "SIZE_INVALID",
            f"the blob has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return wanted


def _page(names: Sequence[str], query: Mapping[str, str], path: str) -> tuple[list[str], dict[str, str]]:
    """One page of ``names`` in lexical order, and the link to the next (distribution-spec, "Listing Tags")."""
    text = query.get("n", str(_MAX_PAGE))
    if not (text.isascii() and text.isdigit()):
        raise Problem(HTTPStatus.BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n must be a whole number")
    count = min(int(text[:10]), _MAX_PAGE)
    last = query.get("last", "")
    rest = sorted(name for name in names if name > last)
    page = rest[:count]
    if not page or len(page) == len(rest):
        return page, {}
    return page, {"Link": f'<{path}?n={count}&last={quote(page[-1], safe="")}>; rel="next"'}
