"""Referrers of an image: OCI 1.1 referrers, by the API or the fallback tag, and cosign's tags.

A registry without the API has a tag that lists a manifest's referrers:
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests-with-subject
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

import anyio
import orjson
from msgspec import Struct, field

from syncer.errors import NetworkError, NotFound, RegistryError, SyncerError
from syncer.oci import Descriptor, Digest, parse_manifest
from syncer.oci.descriptor import OCI_INDEX
from syncer.oci.manifest import AnyManifest, Index, referrer_descriptor
from syncer.oci.reference import cosign_tags, fallback_tag
from syncer.registry.repository import Repository

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
        if index.descriptor.digest == subject:  # GitLab's answer where there is no such tag
            return []
        if not isinstance(index, Index):
            raise RegistryError(
                f"GET {repository.name}:{fallback_tag(subject)}", 200, ["the tag that lists referrers is no index"]
            )
        document = orjson.loads(index.content)
        entries: list[dict[str, object]] = document.get("manifests") or []
        return entries


_THERE_IS_NONE = frozenset({400, 404, 410})
_NO_HEAD = frozenset({405, 501})


class _Known(Struct):
    """What is known of one repository."""

    tags: frozenset[str] | None = None  # all of them
    was_listed: bool = False
    api_trouble: SyncerError | None = None  # why its lists of referrers are not asked for any more
    tag_trouble: SyncerError | None = None  # and single tags
    listing: anyio.Lock = field(default_factory=anyio.Lock)
    locks: dict[Digest, anyio.Lock] = field(default_factory=dict)
    answers: dict[Digest, Found] = field(default_factory=dict)
    listed: dict[Digest, set[Digest]] = field(default_factory=dict)  # by subject, as it was at first
    looked_at_tag: set[Digest] = field(default_factory=set)  # subjects whose fallback tag is among that


class Found(Struct, frozen=True):
    """The referrers of one manifest: those that it lists, in the order of their digests, and tags.

    ``doubt`` is why there may be more.
    """

    listed: tuple[Digest, ...]
    tags: tuple[str, ...]
    doubt: SyncerError | None


class ReferrerSearch:
    """Looks for referrers in the repositories of one registry, and learns what that registry can tell.

    That a registry has no referrers API, or that there is no such tag, is an answer.  Whatever else it says leaves a
    doubt and is no error: an image does not need it.  What took all patience once is not asked again.
    """

    def __init__(self) -> None:
        self._has_api: bool | None = None
        self._api_trouble: SyncerError | None = None
        self._asking = anyio.Lock()
        self._repositories: dict[str, _Known] = {}

    def told(self, repository: Repository, tags: Iterable[str]) -> None:
        """Take in the tags of a repository that was listed for another reason."""
        self._of(repository).tags = frozenset(tags)

    async def find(self, repository: Repository, subjects: Sequence[Digest]) -> dict[Digest, Found]:
        """Find the referrers of each of ``subjects``, which are asked for once a run.

        Tags are looked up in the repository's list of tags if one request has it, since even a single manifest may
        have four of them; else one by one.
        """
        known = self._of(repository)
        tags = await self._tags(repository, known)
        rest = iter(dict.fromkeys(subjects))

        async def look() -> None:
            for subject in rest:
                async with known.locks.setdefault(subject, anyio.Lock()):
                    if subject not in known.answers:
                        known.answers[subject] = await self._find(repository, known, subject, tags)

        if len(subjects) == 1:  # as for most images, which then need no task of their own
            await look()
        else:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_AT_ONCE, len(subjects))):
                    tasks.start_soon(look)
        return {subject: known.answers[subject] for subject in subjects}

    async def lists(self, repository: Repository, subject: Digest, referrer: Digest) -> bool:
        """Tell whether ``subject`` lists ``referrer``, by the API or the fallback tag; raises where that is unknown."""
        known = self._of(repository)
        async with known.locks.setdefault(subject, anyio.Lock()):
            if subject not in known.listed:
                by_api = await self._by_api(repository, known, subject)
                known.listed[subject] = {descriptor.digest for descriptor in by_api or ()}
            listed = known.listed[subject]
            if referrer not in listed and subject not in known.looked_at_tag:
                known.looked_at_tag.add(subject)
                listed |= {descriptor.digest for descriptor in await repository.tagged_referrers(subject)}
            return referrer in listed

    def _of(self, repository: Repository) -> _Known:
        return self._repositories.setdefault(repository.name, _Known())

    async def _tags(self, repository: Repository, known: _Known) -> frozenset[str] | None:
        """All tags of the repository; None where one request does not have them."""
        async with known.listing:
            if known.tags is None and not known.was_listed:
                known.was_listed = True
                known.tags = await repository.first_tags()
            return known.tags

    async def _find(self, repository: Repository, known: _Known, subject: Digest, tags: frozenset[str] | None) -> Found:
        doubts: list[SyncerError] = []
        listed: set[Digest] = set()
        by_api = None
        try:
            by_api = await self._by_api(repository, known, subject)
        except SyncerError as error:
            doubts.append(error)
        try:
            if by_api is not None:
                listed.update(descriptor.digest for descriptor in by_api)
            elif await self._is_there(repository, known, fallback_tag(subject), subject, tags):
                listed.update(descriptor.digest for descriptor in await repository.tagged_referrers(subject))
        except SyncerError as error:
            doubts.append(error)
        found: list[str] = []
        for tag in cosign_tags(subject):
            try:
                if await self._is_there(repository, known, tag, subject, tags):
                    found.append(tag)
            except SyncerError as error:
                doubts.append(error)
        in_order = sorted(listed, key=str)  # registries have orders of their own, and two builds are to be the same
        return Found(tuple(in_order), tuple(found), doubts[0] if doubts else None)

    async def _by_api(self, repository: Repository, known: _Known, subject: Digest) -> tuple[Descriptor, ...] | None:
        """What the referrers API lists; None where there is none.  Raises where that cannot be told."""
        async with self._asking if self._has_api is None else AsyncExitStack():  # the first answer is for all
            if self._has_api is False:
                return None
            if trouble := known.api_trouble or self._api_trouble:
                raise trouble
            try:
                listed = await repository.listed_referrers(subject)
            except SyncerError as error:
                if _took_all_patience(error):
                    known.api_trouble = error
                    self._api_trouble = error if self._has_api is None else None
                raise
            self._has_api = self._has_api or listed is not None
            return listed

    async def _is_there(
        self, repository: Repository, known: _Known, tag: str, subject: Digest, tags: frozenset[str] | None
    ) -> bool:
        if tags is not None:
            return tag in tags
        if known.tag_trouble is not None:
            raise known.tag_trouble
        try:
            return await _has_tag(repository, tag, subject)
        except SyncerError as error:
            if _took_all_patience(error):
                known.tag_trouble = error
            raise


_AT_ONCE = 8  # manifests of one image that are asked about at a time


async def _has_tag(repository: Repository, tag: str, subject: Digest) -> bool:
    """Whether there is such a tag; one that is the subject itself is GitLab's answer for none."""
    answer = await repository.head_manifest(tag)
    if answer.status == 200:
        return answer.headers.get("Docker-Content-Digest") != str(subject)
    if answer.status in _THERE_IS_NONE:
        return False
    if answer.status not in _NO_HEAD:
        raise await repository.refusal(answer)
    try:
        return (await repository.manifest(tag)).descriptor.digest != subject
    except NotFound:
        return False


def _took_all_patience(error: SyncerError) -> bool:
    """Whether ``error`` came after many attempts, or a long wait."""
    is_transient = isinstance(error, RegistryError) and (error.status == 429 or error.status >= 500)
    return is_transient or isinstance(error, NetworkError)
