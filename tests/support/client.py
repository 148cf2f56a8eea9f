"""A minimal registry client of the tests' own: puts images into a registry, and reads them back."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tests.support.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Image, digest_of
from tests.support.registries import Registry

Broken = (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)
"""What aiohttp raises when an answer ends early, or none comes."""

ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, read to its end."""

    status: int
    headers: CIMultiDict[str]
    content: bytes

    def all_of(self, header: str) -> list[str]:
        """The values of a header that is a list, whether they come on one line or on several."""
        return [value.strip() for line in self.headers.getall(header, ()) for value in line.split(",")]

    def __bool__(self) -> bool:
        return 200 <= self.status < 300


@asynccontextmanager
async def open_session(registry: Registry) -> AsyncIterator[aiohttp.ClientSession]:
    """Plain aiohttp, trusting what the registry's certificate needs."""
    context: ssl.SSLContext | bool = True
    if registry.authority:
        context = ssl.create_default_context(cafile=registry.authority)
        if registry.client:
            context.load_cert_chain(registry.client.certificate, registry.client.key)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        session._retry_connection = False  # a request that was lost is not sent again behind the test's back
        yield session


async def ask(
    registry: Registry,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    data: bytes | AsyncIterator[bytes] | None = None,
    scopes: tuple[str, ...] = (),
    session: aiohttp.ClientSession | None = None,
) -> Answer:
    """One request, the path (or whole URL) sent as it is written here, redirects not followed."""
    if session is None:
        async with open_session(registry) as opened:
            return await ask(registry, method, path, headers=headers, data=data, scopes=scopes, session=opened)
    url = URL(path if "://" in path else registry.url + path, encoded=True)
    given = {"Accept-Encoding": "identity"} | registry.authorization(*scopes) | dict(headers or {})
    body = io.BytesIO(data) if isinstance(data, bytes) else data  # aiohttp warns of large bytes
    async with session.request(method, url, headers=given, data=body, allow_redirects=False) as response:
        return Answer(response.status, response.headers.copy(), await response.read())


async def push(registry: Registry, repository: str, image: Image, *tags: str) -> str:
    """Put ``image``, with all under it, into ``repository`` and name it ``tags``; returns its digest."""
    async with open_session(registry) as session:
        for digest, blob in image.all_blobs().items():
            await push_blob(registry, repository, blob, digest=digest, session=session)
        for manifest in image.manifests():
            await push_manifest(registry, repository, manifest, manifest.digest, session=session)
        for tag in tags:
            await push_manifest(registry, repository, image, tag, session=session)
    return image.digest


async def push_blob(
    registry: Registry,
    repository: str,
    content: bytes,
    *,
    digest: str | None = None,
    session: aiohttp.ClientSession | None = None,
) -> str:
    """One blob by POST and PUT; returns its digest."""
    digest = digest or digest_of(content)
    scopes = (f"repository:{repository}:pull,push",)
    opened = await ask(registry, "POST", f"/v2/{repository}/blobs/uploads/", scopes=scopes, session=session)
    assert opened.status == 202, opened
    location = opened.headers["Location"]
    location += f"{'&' if '?' in location else '?'}digest={digest}"
    octets = {"Content-Type": "application/octet-stream"}
    stored = await ask(registry, "PUT", location, headers=octets, data=content, scopes=scopes, session=session)
    assert stored.status == 201, stored
    return digest


async def push_manifest(
    registry: Registry,
    repository: str,
    image: Image,
    reference: str,
    *,
    session: aiohttp.ClientSession | None = None,
) -> Answer:
    """One manifest, whose children are there, under a tag or its digest."""
    stored = await ask(
        registry,
        "PUT",
        f"/v2/{repository}/manifests/{reference}",
        headers={"Content-Type": image.media_type},
        data=image.content,
        scopes=(f"repository:{repository}:pull,push",),
        session=session,
    )
    assert stored.status == 201, stored
    return stored


async def tags(registry: Registry, repository: str) -> list[str]:
    """The repository's tags, sorted; none when there is no such repository."""
    scope = f"repository:{repository}:pull"
    answer = await ask(registry, "GET", f"/v2/{repository}/tags/list", scopes=(scope,))
    if answer.status == 404:
        return []
    assert answer.status == 200, answer
    return sorted(parsed(answer)["tags"] or [])


async def repositories(registry: Registry) -> list[str]:
    """All repositories that the registry lists."""
    answer = await ask(registry, "GET", "/v2/_catalog?n=1000", scopes=("registry:catalog:*",))
    assert answer.status == 200, answer
    return sorted(parsed(answer)["repositories"] or [])


async def manifest(
    registry: Registry, repository: str, reference: str, *, session: aiohttp.ClientSession | None = None
) -> Answer:
    """The manifest under a tag or digest, whatever the status."""
    return await ask(
        registry,
        "GET",
        f"/v2/{repository}/manifests/{reference}",
        headers={"Accept": ACCEPT},
        scopes=(f"repository:{repository}:pull",),
        session=session,
    )


async def blob(
    registry: Registry, repository: str, digest: str, *, session: aiohttp.ClientSession | None = None
) -> Answer:
    """The blob, whatever the status."""
    scopes = (f"repository:{repository}:pull",)
    return await ask(registry, "GET", f"/v2/{repository}/blobs/{digest}", scopes=scopes, session=session)


async def assert_holds(registry: Registry, repository: str, image: Image, *tags: str) -> None:
    """``image`` is in ``repository`` under ``tags`` with all that lies under it, byte for byte."""
    async with open_session(registry) as session:
        for digest, content in image.all_blobs().items():
            answer = await blob(registry, repository, digest, session=session)
            assert answer.status == 200, f"{repository} lacks the blob {digest}: {answer.status}"
            assert answer.content == content, f"{repository} has other bytes as {digest}"
        for wanted, reference in [
            *((item, item.digest) for item in image.manifests()),
            *((image, tag) for tag in tags),
        ]:
            answer = await manifest(registry, repository, reference, session=session)
            assert answer.status == 200, f"{repository} lacks the manifest {reference}: {answer.status}"
            assert answer.content == wanted.content, f"{repository} has another manifest as {reference}"
            assert answer.headers["Content-Type"] == wanted.media_type


def parsed(answer: Answer) -> Any:
    """The JSON of an answer."""
    return json.loads(answer.content)
