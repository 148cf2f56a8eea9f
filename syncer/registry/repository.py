"""The distribution spec's requests, as methods of the repository that they are for.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from http import HTTPStatus

import anyio
from msgspec import Struct, field, structs
from yarl import URL

from syncer.errors import (
    ChildrenUnknown,
    DigestMismatch,
    InvalidContent,
    NotFound,
    RegistryError,
    SyncerError,
    TargetError,
)
from syncer.oci import Descriptor, Digest, parse_manifest
from syncer.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX
from syncer.oci.manifest import MAX_MANIFEST_SIZE, MAX_MANIFESTS, AnyManifest, Index
from syncer.oci.reference import fallback_tag
from syncer.registry.answers import (
    COMPRESSED,
    COMPRESSED_HINT,
    LARGEST_PAGE,
    PAGE,
    Pages,
    is_compressed,
    is_web_page,
    names_in,
    problems_of,
    refusal,
    with_parameters,
)
from syncer.registry.auth import RegistryAuth
from syncer.transport import Answer, Budget, Request, Transport

_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
_FIRST_PATIENCE = 15.0  # seconds to wait for a list that only may be cheaper than something else
_SOME = 10_000  # tags, of which the nearest are looked for
_NO_REFERRERS_API = frozenset({200, 400, 404, 405, 406, 410, 501})
_CHILDREN_CODES = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


class Registry(Struct, frozen=True):
    """One registry: where its API is, and what it wants to hear."""

    host: str  # as references write it
    base: URL  # …/v2/
    transport: Transport
    auth: RegistryAuth
    notices: dict[str, None] = field(default_factory=dict)  # what is odd about registries and does no harm, once each

    def repository(self, name: str, actions: str = "pull") -> Repository:
        """The repository ``name``, asked with a token for ``actions``."""
        return Repository(self, name, actions)

    def notice(self, text: str) -> None:
        """Note something odd, for the report."""
        self.notices[text] = None


class Repository:
    """One repository of a registry."""

    def __init__(self, registry: Registry, name: str, actions: str) -> None:
        self.registry = registry
        self.name = name
        self.scope = f"repository:{name}:{actions}"
        self.authorizer = registry.auth.for_scopes(name, self.scope)
        self._base = f"{registry.base}{name}"

    def url(self, path: str) -> URL:
        return URL(f"{self._base}/{path}", encoded=True)

    async def head_manifest(self, reference: str) -> Answer:
        """HEAD of a tag or digest, whatever the status."""
        return await self._ask("HEAD", f"manifests/{reference}", headers={"Accept": _ACCEPT})

    async def manifest(self, reference: str, expected: Digest | None = None) -> AnyManifest:
        """The manifest under a tag or digest by one GET, its bytes verified against ``expected``.

        Raises ``NotFound``, and ``InvalidContent`` for what is no manifest.
        """
        answer = await self._ask(
            "GET", f"manifests/{reference}", headers={"Accept": _ACCEPT}, limit=MAX_MANIFEST_SIZE + 1
        )
        if answer.status != 200:
            raise await self.refusal(answer)
        if is_web_page(answer):
            raise await self.refusal(answer)
        if is_compressed(answer):
            raise InvalidContent(f"{answer.request}: {COMPRESSED}", hint=COMPRESSED_HINT)
        try:
            return parse_manifest(answer.content, answer.media_type, expected=expected)
        except DigestMismatch as error:
            raise DigestMismatch(f"{answer.request}: {error}") from None
        except InvalidContent as error:
            raise InvalidContent(f"{answer.request}: {error}") from None

    async def resolve(self, reference: str) -> Descriptor:
        """The descriptor that a tag or digest names now: by HEAD, else by GET.  Raises ``NotFound``."""
        answer = await self.head_manifest(reference)
        if answer.status == 200 and (found := _described(answer)):
            return found
        # a registry may know no HEAD, answer it wrongly, or leave the digest out; and only GET says what is wrong
        return (await self.manifest(reference)).descriptor

    async def find(self, reference: str) -> Digest | None:
        """Find the digest that a tag or digest names; None when there is none.

        Raises ``Denied`` and the like when that cannot be told.
        """
        try:
            return (await self.resolve(reference)).digest
        except NotFound:
            return None

    async def current(self, reference: str, *, must_tell: bool = False) -> Digest | None:
        """The digest that a tag points to; None when there is none, or when the registry does not tell: a hint.

        A registry that ``must_tell`` and does not is a ``RegistryError``.
        """
        answer = await self.head_manifest(reference)
        if answer.status == 200:
            found = _described(answer)
            return found.digest if found else (await self.manifest(reference)).descriptor.digest
        if not must_tell or answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise await self.refusal(answer)
        return await self.find(reference)  # it may know no HEAD, and tells only in answer to a GET what is wrong

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the repository says that it has the blob, in its right size.

        A hint that saves bytes, no more: False also when the registry does not tell.
        """
        answer = await self._ask("HEAD", f"blobs/{descriptor.digest}")
        return answer.status == 200 and bool(_told(answer.headers, descriptor))

    async def find_blob(self, descriptor: Descriptor, *, budget: Budget | None = None) -> bool:
        """Tell whether the repository has the blob, in its right size: by HEAD, else by the head of a GET.

        Raises ``Denied`` and other ``RegistryError``s when the registry does not tell.
        """
        budget = budget or self.registry.transport.budget()
        path = f"blobs/{descriptor.digest}"
        answer = await self._ask("HEAD", path, budget=budget)
        if answer.status == 404:
            return False
        if answer.status == 200 and _told(answer.headers, descriptor):
            return True
        # a registry may know no HEAD, answer it wrongly, or leave the length out; and only GET says what is wrong
        request = Request(method="GET", url=self.url(path), authorizer=self.authorizer)
        async with self.registry.transport.open(request, budget=budget) as response:
            told = _told(response.headers, descriptor) if response.status == 200 else None
            if told is not None:
                return told
            answer = await response.answer(request)
        if answer.status == 404:
            return False
        if answer.status == 200 and not is_web_page(answer):
            raise RegistryError(str(request), answer.status, ["the registry does not say how large the blob is"])
        raise await self.refusal(answer)

    async def put_manifest(self, reference: str, manifest: AnyManifest, *, budget: Budget | None = None) -> Answer:
        """Store ``manifest`` under a tag or digest.

        Status 201 says that it was done, and so does its digest in the answer; after any other success it is looked
        for.  Raises ``ChildrenUnknown`` when the registry misses what it names.
        """
        answer = await self._ask(
            "PUT",
            f"manifests/{reference}",
            headers={"Content-Type": manifest.descriptor.media_type},
            body=manifest.content,
            budget=budget,
            is_final=_lacks_children,  # some registries say so with status 500
        )
        if not is_success(answer):
            if _lacks_children(answer):
                problems = problems_of(answer)
                words = tuple(dict.fromkeys(f"{problem.code}: {problem.message}" for problem in problems))
                digests = [digest for problem in problems for digest in problem.digests]
                raise ChildrenUnknown(answer.request, answer.status, words, digests)
            raise await self.refusal(answer)
        if not says_stored(answer, manifest.descriptor.digest) and not await self._holds(reference, manifest):
            raise unproven(answer)
        return answer

    async def _holds(self, reference: str, manifest: AnyManifest) -> bool:
        """Whether the tag or digest ``reference`` is ``manifest``, which the registry may know by another algorithm."""
        found = await self.find(reference)
        return found is not None and found == Digest.of(manifest.content, found.algorithm)

    async def delete_manifest(self, reference: str) -> Answer:
        """DELETE of a tag or digest, whatever the status."""
        return await self._ask("DELETE", f"manifests/{reference}")

    async def tags(self) -> AsyncGenerator[str, None]:
        """Every tag, page by page; raises ``ListIncomplete`` where that may not be all."""
        bare = self.url("tags/list")
        request = self._request("GET", with_parameters(bare, ("n", str(PAGE))))
        answer = await self._transport.ask(request, limit=LARGEST_PAGE)
        if answer.status != 200:
            raise await self.refusal(answer)
        pages = Pages(self._transport, request, partial(names_in, key="tags"), bare, self.registry.notice)
        async for page in pages.entries(answer):
            for tag in page:
                yield tag

    async def some_tags(self) -> list[str] | None:
        """Tags for a message, as many as come soon; None where they are not told.  Raises ``NotFound``."""
        found: list[str] = []
        try:
            with anyio.move_on_after(_FIRST_PATIENCE) as limit:
                async with aclosing(self.tags()) as tags:
                    async for tag in tags:
                        found.append(tag)
                        if len(found) == _SOME:
                            break
        except NotFound:
            raise
        except SyncerError:
            return found or None
        return None if limit.cancelled_caught and not found else found

    async def first_tags(self) -> frozenset[str] | None:
        """All tags, if one request can tell them; None if it cannot, whatever the reason.  Nothing is tried twice."""
        request = self._request("GET", with_parameters(self.url("tags/list"), ("n", str(PAGE))))
        request = structs.replace(request, patience=_FIRST_PATIENCE)
        budget = Budget(self._transport.limits, attempts=1)
        try:
            answer = await self._transport.ask(request, limit=LARGEST_PAGE, budget=budget)
            names = names_in(answer, "tags") if answer.status == 200 else []
        except SyncerError:
            return None
        return frozenset(names) if 0 < len(names) < PAGE and "Link" not in answer.headers else None

    async def listed_referrers(self, digest: Digest) -> tuple[Descriptor, ...] | None:
        """The manifests whose subject is ``digest``, by the referrers API; None where there is no such API.

        Raises ``ListIncomplete``, and a ``RegistryError`` or ``NetworkError`` where that cannot be told.
        """
        request = self._request("GET", f"referrers/{digest}", headers={"Accept": OCI_INDEX})
        request = structs.replace(request, follows=lambda url: url.path.endswith(f"/referrers/{digest}"))
        answer = await self._transport.ask(request, limit=LARGEST_PAGE)
        if answer.status == 200 and answer.media_type == OCI_INDEX:
            pages = Pages(self._transport, request, _listed, None, self.registry.notice, most=MAX_MANIFESTS)
            return tuple([found async for page in pages.entries(answer) for found in page])
        if _has_no_referrers_api(answer):
            return None
        raise await self.refusal(answer)

    async def tagged_referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """The manifests that the fallback tag of ``digest`` lists, where there is no referrers API.

        GitLab's registry answers for the tag with the subject itself where there is no such tag, and an index lists
        its children, who are no referrers (oras-project/oras-go#1396).
        """
        try:
            index = await self.manifest(fallback_tag(digest))
        except NotFound:
            return ()
        return index.children() if isinstance(index, Index) and index.descriptor.digest != digest else ()

    @property
    def _transport(self) -> Transport:
        return self.registry.transport

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int = 64 * 1024,
        budget: Budget | None = None,
        is_final: Callable[[Answer], bool] | None = None,
    ) -> Answer:
        return await self._transport.ask(
            self._request(method, path, headers, body, is_final), limit=limit, budget=budget
        )

    def _request(
        self,
        method: str,
        path: str | URL,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        is_final: Callable[[Answer], bool] | None = None,
    ) -> Request:
        url = self.url(path) if isinstance(path, str) else path
        return Request(
            method=method, url=url, headers=headers or {}, body=body, authorizer=self.authorizer, is_final=is_final
        )

    async def refusal(self, answer: Answer, *, hint: str | None = None) -> RegistryError:
        """The error for ``answer``; where the login is to blame, with what can be done about it."""
        if hint is None and answer.status in (401, 403):
            hint = await self.registry.auth.hint(self.name)
        return refusal(answer, hint=hint)


def _described(answer: Answer) -> Descriptor | None:
    """The descriptor that the headers of a HEAD give; None when they do not."""
    digest = answer.headers.get("Docker-Content-Digest", "")
    length = answer.headers.get("Content-Length", "")
    known = (*INDEX_TYPES, *MANIFEST_TYPES)
    if answer.media_type not in known or not (length.isascii() and length.isdigit()):
        return None
    try:
        return Descriptor(answer.media_type or "", Digest.parse(digest), int(length))
    except InvalidContent:
        return None


def _told(headers: Mapping[str, str], descriptor: Descriptor) -> bool | None:
    """Whether an answer of status 200 is the blob, by its head; None when that does not tell."""
    length, named = headers.get("Content-Length"), headers.get("Docker-Content-Digest", "")
    is_named = named == str(descriptor.digest)
    if not is_named and (length is None or headers.get("Content-Type", "").lower().startswith("text/html")):
        return None
    return length in (None, str(descriptor.size))


def _lacks_children(answer: Answer) -> bool:
    """Whether a manifest was refused because content that it names is missing."""
    is_denied = answer.status in (401, 403)
    return not is_denied and any(problem.code in _CHILDREN_CODES for problem in problems_of(answer))


def is_success(answer: Answer) -> bool:
    """Tell whether the status says that something was done, if only with a page to log in at."""
    return HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES


def says_stored(answer: Answer, digest: Digest) -> bool:
    """Tell whether a successful answer to a PUT is evidence that the content of ``digest`` is stored.

    Only 201 is (distribution-spec, "Pushing manifests"), and the digest in the answer, which some registries send with
    another status.  Raises ``DigestMismatch`` when other content was stored.
    """
    stored = answer.headers.get("Docker-Content-Digest", "")
    if stored.startswith(f"{digest.algorithm}:") and stored != str(digest):
        raise DigestMismatch(f"{answer.request}: the registry stored {stored[:80]!r} instead")
    return answer.status == HTTPStatus.CREATED or stored == str(digest)


def unproven(answer: Answer) -> RegistryError:
    """The error for a success after which nothing has changed."""
    came = "a web page came, and " if is_web_page(answer) else ""
    return RegistryError(
        answer.request,
        answer.status,
        [f"{came}what was asked for is not done"],
        hint=f"is {answer.url.host} a registry, or does something on the way want a login?",
    )


def _has_no_referrers_api(answer: Answer) -> bool:
    """Whether an answer says that a registry has no referrers API; what else it says cannot be told from it.

    Registries say so in many ways: GHCR by 303 to a page of its web site (artifacthub/hub#4785), Artifactory by 406
    (google/go-containerregistry#1962), Harbor up to 2.7 by 401 without a challenge (goharbor/harbor#18305), and others
    by an answer of another type.
    """
    is_elsewhere = 300 <= answer.status < 400
    is_unasked = answer.status == 401 and "WWW-Authenticate" not in answer.headers
    return answer.status in _NO_REFERRERS_API or is_elsewhere or is_unasked


def _listed(answer: Answer) -> tuple[Descriptor, ...]:
    if answer.media_type != OCI_INDEX:
        raise InvalidContent(f"{answer.request}: a page of referrers is {answer.media_type}, and no index")
    children = parse_manifest(answer.content, OCI_INDEX).children()
    return tuple(structs.replace(child, annotations={}) for child in children)  # which nobody reads, and may be long


async def repositories(registry: Registry) -> list[str]:
    """The names of all repositories that we may see.

    Raises ``RegistryError`` where there is no list of them, ``ListIncomplete`` where that may not be all.
    """
    bare = registry.base.join(URL("_catalog"))
    authorizer = registry.auth.for_scopes("", "registry:catalog:*")
    request = Request(method="GET", url=with_parameters(bare, ("n", str(PAGE))), authorizer=authorizer)
    answer = await registry.transport.ask(request, limit=LARGEST_PAGE)
    if answer.status != 200:
        raise refusal(answer)
    pages = Pages(registry.transport, request, partial(names_in, key="repositories"), bare, registry.notice)
    return [name async for page in pages.entries(answer) for name in page]


_GONE = 404
_BY_DIGEST_ONLY = (400, 405, 501)
"""What registries answer that delete no tag: DIGEST_INVALID, UNSUPPORTED."""


async def delete_tag(repository: Repository, tag: str, digest: Digest, *, is_free: bool) -> bool:
    """Delete ``tag`` if it still points to ``digest``; False when that cannot be done without harm.

    ``is_free`` says that nothing else needs the digest, so that a registry that deletes by digest only may be asked
    to.  Status 202 says that it was done; after any other success the tag is looked for.  Raises ``RegistryError`` when
    the registry refuses or does not tell, ``TargetError`` when it took more than the tag.
    """
    current = await repository.find(tag)
    if current is None:
        return True
    if current != digest:
        return False
    answer = await repository.delete_manifest(tag)
    if answer.status in _BY_DIGEST_ONLY:
        if not is_free:
            return False
        answer = await repository.delete_manifest(str(digest))
    elif is_success(answer) and not is_free and await repository.find(str(digest)) is None:
        raise TargetError(
            f"{repository.registry.host} deleted {repository.name}@{digest.short} with its tag {tag}, and other tags "
            "need it",
            hint="sync once more to bring it back, and do not prune there",
        )
    if not is_success(answer) and answer.status != _GONE:
        hint = "the registry's configuration does not allow deletion" if answer.status == 405 else None
        raise await repository.refusal(answer, hint=hint)
    if is_success(answer) and answer.status != HTTPStatus.ACCEPTED and await repository.find(tag) == digest:
        raise unproven(answer)
    return True
