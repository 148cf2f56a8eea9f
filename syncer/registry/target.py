"""A registry as the target of a transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from http import HTTPStatus

from anyio import to_thread

from syncer.content import Blob, FileBlob, PourableBlob, Progress, SharedBlob, Withdrawn
from syncer.errors import ChildrenUnknown, Denied, RegistryError, SyncerError, TargetAway, TargetError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.registry.answers import hint_for, is_full
from syncer.registry.body import Content, SourceFailed
from syncer.registry.referrers import Referrers, ReferrerSearch
from syncer.registry.repository import Registry, Repository
from syncer.registry.upload import Upload, find_unfinished
from syncer.registry.upload_session import Manner, Session, UploadJournal, opened
from syncer.transport import Budget, Request
from syncer.transport.failures import Absent, Down
from syncer.transport.message import Kind

_WORTH_ASKING = 4 * 1024 * 1024  # bytes; a smaller blob is sent as quickly as asked for
_MOUNTABLE = "sha256"
_IMMUTABLE = (400, 403, 409, 412)
_FEW = 3  # attempts
_OBJECTS = (400, 500)
_ALLOW_URLS = (
    "the image has foreign layers, and the registry may not allow their URLs: distribution takes a list of them in "
    "its configuration, validation.manifests.urls.allow"
)


class RegistryTarget:
    """Implements ``Target``, ``Mounting`` and ``Inspectable`` for one registry; a space is a repository.

    Errors of the registry are ``TargetError``s with its own words and a hint, but for ``Denied`` and
    ``ChildrenUnknown``; one that takes no connections is ``TargetAway``, and an error of the source stays what it is.
    """

    def __init__(
        self,
        registry: Registry,
        manner: Manner,
        *,
        journal: UploadJournal | None = None,
        interrupted: bool = False,
        must_tell: bool = False,
    ) -> None:
        self._registry = registry
        self._manner = manner
        self._journal = journal
        self._interrupted = interrupted
        self._must_tell = must_tell
        self._repositories: dict[str, Repository] = {}
        self._inhabited: set[str] = set()  # repositories that are known to hold something
        self._seen: set[tuple[str, Digest]] = set()  # blobs that were looked for and found, by their repositories
        self._sessions: dict[tuple[str, Digest], Session] = {}  # that mounts have left open
        self._referrers = Referrers()
        self._search = ReferrerSearch()

    @property
    def lanes(self) -> int:
        """The number of pieces of content that the registry may take at once now; see ``content.Taking``."""
        return self._registry.transport.of(self._registry.base).permits.room(Kind.UPLOADS)

    def space(self, name: Reference) -> str:
        return name.repository

    async def current(self, name: Reference) -> Digest | None:
        with self._as_target_errors(name.repository):
            digest = await self._repository(name.repository).current(_tag_or_digest(name), must_tell=self._must_tell)
        if digest is not None:
            self._inhabited.add(name.repository)
        return digest

    async def lists(self, name: Reference, subject: Digest, referrer: Digest) -> bool:
        """Tell whether ``subject`` lists ``referrer``; see ``content.Listing``."""
        with self._as_target_errors(name.repository):
            try:
                return await self._search.lists(self._repository(name.repository), subject, referrer)
            except Denied:
                return True

    def note(self, space: str, digest: Digest) -> None:
        """Take it that ``space`` has the blob, which was looked for and found."""
        self._seen.add((space, digest))

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        """A registry needs no place made."""

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:
        if not force and (space, blob.descriptor.digest) in self._seen:
            return False
        repository = self._repository(space)
        session = self._sessions.pop((space, blob.descriptor.digest), None)
        with self._as_target_errors(space):
            is_worth_asking = session is None and not force and self._may_have(space, blob.descriptor)
            if is_worth_asking and await repository.has_blob(blob.descriptor):
                return False
            if isinstance(blob, SharedBlob):
                await self._send_shared(repository, blob, progress, session)
            else:
                await self._send(repository, blob, progress, session)
        progress.done = blob.descriptor.size
        return True

    @property
    def may_have_begun(self) -> bool:
        """True where ``arrived`` may tell of anything."""
        return self._interrupted or self._journal is not None

    async def arrived(self, space: str, descriptor: Descriptor) -> int:
        """Bytes of a blob that ``write`` would not send, as far as the journal tells of a push that did not end.

        They are all of it where such a push brought it, else those that an upload has which goes on.  Nothing is sent.
        """
        repository = self._repository(space)
        try:
            if self._interrupted and await repository.has_blob(descriptor):
                return descriptor.size
            if self._journal is None or descriptor.size <= self._manner.chunk_size:
                return 0
            budget = self._registry.transport.budget()
            session = await find_unfinished(repository, descriptor, self._journal, budget)
        except SyncerError:
            return 0  # the push meets it again, and tells
        if session is None:
            return 0
        # a registry may have forgotten the place that it told before
        await to_thread.run_sync(self._journal.save, repository.name, descriptor.digest, session.state())
        return session.offset

    async def _send_shared(
        self, repository: Repository, blob: SharedBlob, progress: Progress, session: Session | None
    ) -> None:
        """Send a blob that other targets read, too; when it is withdrawn, it is sent from its beginning."""
        resumed: int | None = None
        while True:
            async with blob.share() as readable:
                progress.is_shared = isinstance(readable, FileBlob)
                try:
                    await self._send(repository, readable, progress, session)
                except SourceFailed as failed:
                    if not isinstance(failed.error, Withdrawn):
                        raise
                    session = None  # it was cancelled
                    resumed = progress.resumed if resumed is None else resumed
                else:
                    break
        if resumed is not None:
            progress.resumed = min(resumed, progress.resumed)  # more than that is of this run

    async def _send(self, repository: Repository, blob: Blob, progress: Progress, session: Session | None) -> None:
        content = Content(blob, progress)
        async with self._relayed(blob):
            upload = Upload(repository, content, self._manner, journal=self._journal, session=session)
            await content.feed(upload.run)

    def _relayed(self, blob: Blob) -> AbstractAsyncContextManager[None]:
        """A block that may send ``blob``: one that is fetched from a server meanwhile holds a request to each."""
        if not isinstance(blob, PourableBlob) or (server := blob.server) is None:
            return nullcontext()
        return self._registry.transport.relay(download=server, upload=self._registry.base)

    async def mount(self, space: str, descriptor: Descriptor, origin: str) -> bool:
        """Ask for a mount; anything but 201 means that the blob must be written.

        A registry that will not mount may have opened an upload instead, which the write takes over.  Only blobs named
        by sha256 are mounted: distribution 2.8 says 201 for others, and has from then on an error in their place.
        """
        if descriptor.digest.algorithm != _MOUNTABLE:
            return False
        repository = self._repository(space)
        url = repository.url(f"blobs/uploads/?mount={descriptor.digest}&from={origin}")
        authorizer = self._registry.auth.for_scopes(space, repository.scope, f"repository:{origin}:pull")
        try:
            with self._as_target_errors(space):
                answer = await self._registry.transport.ask(Request(method="POST", url=url, authorizer=authorizer))
            if answer.status == 202:
                self._sessions[space, descriptor.digest] = opened(repository, answer)
        except (RegistryError, TargetError):  # a token for both repositories may not be had; one for this one may
            return False
        return answer.status == 201

    async def holds(self, space: str, descriptor: Descriptor) -> bool:
        """Tell whether the repository has the manifest or the blob; raises when the registry does not tell."""
        repository = self._repository(space)
        with self._as_target_errors(space):
            if descriptor.is_manifest:
                return await repository.find(str(descriptor.digest)) == descriptor.digest
            return await repository.find_blob(descriptor)

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        repository = self._repository(space)
        references = dict.fromkeys(name.tag for name in names if name.tag) or {str(manifest.descriptor.digest): None}
        with self._as_target_errors(space, about=manifest):
            for reference in references:
                await self._put(repository, reference, manifest)

    async def _put(self, repository: Repository, reference: str, manifest: AnyManifest) -> None:
        try:
            # distribution says 500 where it does not allow a layer's URL, however often it is asked
            budget = Budget(self._registry.transport.limits, _FEW) if _has_urls(manifest) else None
            answer = await repository.put_manifest(reference, manifest, budget=budget)
        except ChildrenUnknown:
            raise
        except RegistryError as error:
            # a tag that may not be moved can be right already
            if error.status in _IMMUTABLE and await repository.current(reference) == manifest.descriptor.digest:
                return
            raise
        if manifest.subject and "OCI-Subject" not in answer.headers:
            await self._referrers.add(repository, manifest)

    def _may_have(self, space: str, descriptor: Descriptor) -> bool:
        return self._interrupted or space in self._inhabited or descriptor.size >= _WORTH_ASKING

    def _repository(self, space: str) -> Repository:
        repository = self._repositories.get(space)
        if repository is None:
            repository = self._repositories[space] = self._registry.repository(space, "pull,push")
        return repository

    @contextmanager
    def _as_target_errors(self, space: str, *, about: AnyManifest | None = None) -> Iterator[None]:
        try:
            yield
        except SourceFailed as failed:
            raise failed.error from None
        except (Absent, Down) as error:
            raise TargetAway(str(error), hint=error.hint) from error
        except ChildrenUnknown as error:
            if about and _has_urls(about) and error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise TargetError(str(error), hint=_ALLOW_URLS) from error  # distribution says both of such a layer
            raise
        except RegistryError as error:
            if isinstance(error, Denied) and not is_full(error):
                raise
            hint = hint_for(self._registry.host, space, error) or error.hint
            if about and _has_urls(about) and error.status in _OBJECTS and not is_full(error):
                hint = _ALLOW_URLS
            raise TargetError(str(error), hint=hint) from error


def _has_urls(manifest: AnyManifest) -> bool:
    """Whether a registry may object to the URLs of foreign layers."""
    return any(layer.urls for layer in manifest.foreign())


def _tag_or_digest(name: Reference) -> str:
    return name.tag or str(name.digest)
