"""The distribution spec's paths and answers.

An endpoint is parsed from the path of a request; no other text ever becomes a part of a file's path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote

import orjson
from aiohttp import web
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
