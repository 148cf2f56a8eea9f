"""Referrers of an image: OCI 1.1 referrers, by the API or the fallback tag, and cosign's tags.

A registry without the API has a tag that lists a manifest's referrers:
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests-with-subject
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

import anyio
import orjson

from syncer.errors import NotFound, RegistryError
from syncer.oci import Digest, parse_manifest
from syncer.oci.descriptor import OCI_INDEX
from syncer.oci.manifest import AnyManifest, Index, referrer_descriptor
from syncer.oci.referrer_tags import cosign_tags, fallback_tag
from syncer.registry.repository import Repository
from syncer.transport import Request

_ATTEMPTS = 3


class Referrers:
    """Keeps such tags up to date, one writer at a time for each."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, Digest], anyio.Lock] = {}

    async def add(self, repository: Repository, manifest: AnyManifest) -> None:
        """List ``manifest`` under its subject's tag, unless it is there.

        Another client may write the tag at the same time: it is read again afterwards.
        """
        assert manifest.subject is not None
        subject = manifest.subject.digest
        async with self._locks.setdefault((repository.name, subject), anyio.Lock()):
            for _ in range(_ATTEMPTS):
                listed = await self._listed(repository, subject)
                entry = referrer_descriptor(manifest).to_json()
                if any(other["digest"] == entry["digest"] for other in listed):
                    return
                index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*listed, entry]}
                await repository.put_manifest(fallback_tag(subject), parse_manifest(orjson.dumps(index)))

    async def _listed(self, repository: Repository, subject: Digest) -> list[dict[str, object]]:
        try:
            index = await repository.manifest(fallback_tag(subject))
        except NotFound:
            return []
        if not isinstance(index, Index):
            raise RegistryError(
                f"GET {repository.name}:{fallback_tag(subject)}", 200, ["the tag that lists referrers is no index"]
            )
        document = orjson.loads(index.content)
        entries: list[dict[str, object]] = document.get("manifests") or []
        return entries


_NO_API = (400, 404, 405, 501)
_NO_LISTING = (401, 403, 404, 405, 501)
_LARGEST_LIST = 16 * 1024 * 1024


class ReferrerSearch:
    """Looks for referrers in the repositories of one registry, and learns what that registry can tell.

    A repository's tags are listed once: that shows cosign's tags and the fallback tags of all its images.
    """

    def __init__(self) -> None:
        self._has_api: bool | None = None
        self._tags: dict[str, frozenset[str] | None] = {}  # None: the registry does not list them
        self._locks: dict[str, anyio.Lock] = {}
        self._asking = anyio.Lock()

    def told(self, repository: Repository, tags: Iterable[str]) -> None:
        """Take in the tags of a repository that was listed for another reason."""
        self._tags[repository.name] = frozenset(tags)

    async def find(self, repository: Repository, subjects: Sequence[Digest]) -> list[str]:
        """Tags and digests of the manifests that refer to one of ``subjects``; each once.

        Raises a ``RegistryError`` when that cannot be told.
        """
        tags = await self._tags_of(repository)
        found: dict[str, None] = {}
        for subject in subjects:
            listed = await self._listed(repository, subject, tags)
            found |= dict.fromkeys(map(str, listed))
            found |= dict.fromkeys(await self._signed(repository, subject, tags))
        return list(found)

    async def _listed(self, repository: Repository, subject: Digest, tags: frozenset[str] | None) -> list[Digest]:
        async with self._asking if self._has_api is None else AsyncExitStack():  # the first answer is for all
            listed = await self._by_api(repository, subject)
        if listed is not None:
            return listed
        fallback = fallback_tag(subject)
        if tags is not None and fallback not in tags:
            return []
        try:
            index = await repository.manifest(fallback)
        except NotFound:
            return []
        return [child.digest for child in index.children()] if isinstance(index, Index) else []

    async def _by_api(self, repository: Repository, subject: Digest) -> list[Digest] | None:
        """What the referrers API lists; None where there is none."""
        if self._has_api is not False:
            answer = await repository.registry.transport.ask(
                Request(
                    method="GET",
                    url=repository.url(f"referrers/{subject}"),
                    headers={"Accept": OCI_INDEX},
                    authorizer=repository.authorizer,
                ),
                limit=_LARGEST_LIST,
            )
            if answer.status == 200 and answer.media_type == OCI_INDEX:
                self._has_api = True
                if "Link" not in answer.headers:
                    return [child.digest for child in parse_manifest(answer.content, OCI_INDEX).children()]
                return [child.digest for child in await repository.referrers(subject)]
            if answer.status != 200 and answer.status not in _NO_API:
                raise await repository.refusal(answer)
            self._has_api = False
        return None

    async def _signed(self, repository: Repository, subject: Digest, tags: frozenset[str] | None) -> list[str]:
        names = cosign_tags(subject)
        if tags is not None:
            return [name for name in names if name in tags]
        return [name for name in names if await _is_there(repository, name)]

    async def _tags_of(self, repository: Repository) -> frozenset[str] | None:
        async with self._locks.setdefault(repository.name, anyio.Lock()):
            if repository.name not in self._tags:
                try:
                    self._tags[repository.name] = frozenset([tag async for tag in repository.tags()])
                except RegistryError as error:
                    if error.status not in _NO_LISTING:
                        raise
                    self._tags[repository.name] = None
            return self._tags[repository.name]


async def _is_there(repository: Repository, tag: str) -> bool:
    answer = await repository.head_manifest(tag)
    if answer.status not in (200, 404):
        raise await repository.refusal(answer)
    return answer.status == 200
