"""The content of a registry: the interface of whatever keeps it, and a bundle that does, alone or beneath a directory.

A bundle is read straight from its file.  All methods are plain and blocking; those that touch more than a few kilobytes
are called in a thread.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

from msgspec import Struct, field

from syncer.errors import DigestMismatch, NotFound
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest, Descent, referrer_descriptor

if TYPE_CHECKING:
    from hashlib import _Hash


_PIECE = 1024 * 1024  # bytes

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""``read(offset, length)``: exactly those bytes of a blob."""


class StoredManifest(Struct, frozen=True):
    """A manifest's exact bytes, with their digest and media type."""

    digest: Digest
    media_type: str
    content: bytes


class StoredBlob(Protocol):
    """A blob that a storage has."""

    @property
    def size(self) -> int: ...

    @property
    def is_verified(self) -> bool:
        """True when the content was hashed, agreed with its digest, and has not changed since."""
        ...

    def open(self) -> AbstractContextManager[ReadAt]:
        """Open the blob for reading, for as long as the block lasts."""
        ...


@dataclasses.dataclass(slots=True)
class Verifying:
    """The reader of a blob that was not hashed yet.

    A read from the first byte to the last hashes the blob, and does not give the last bytes if they do not agree with
    the digest: ``read`` raises ``DigestMismatch`` then.
    """

    inner: ReadAt
    digest: Digest
    size: int
    when_sound: Callable[[], None]
    when_damaged: Callable[[], None] | None = None
    _hasher: _Hash = dataclasses.field(init=False)
    _hashed: int = 0  # bytes

    def __post_init__(self) -> None:
        self._hasher = self.digest.hasher()

    def read(self, offset: int, length: int) -> bytes:
        content = self.inner(offset, length)
        if offset == self._hashed:
            self._hasher.update(content)
            self._hashed += len(content)
            if self._hashed == self.size:
                self._check()
        return content

    def _check(self) -> None:
        if self.digest.matches(self._hasher):
            self.when_sound()
            return
        if self.when_damaged:
            self.when_damaged()
        raise DigestMismatch(f"the content that is stored as {self.digest} is not what its name says")


def verify(blob: StoredBlob, going_on: Callable[[], bool]) -> None:
    """Read the whole blob, so that it is hashed; end early when ``going_on`` returns False.

    Raises ``DigestMismatch``.
    """
    with blob.open() as read:
        for offset in range(0, blob.size, _PIECE):
            if not going_on():
                return
            read(offset, min(_PIECE, blob.size - offset))


class Kept(Exception):
    """The content cannot be deleted, because a bundle holds it."""


class Storage(Protocol):
    """Repositories of manifests, blobs and tags, to be read."""

    def repositories(self) -> Sequence[str]:
        """The names of all repositories that have a manifest."""
        ...

    def has_repository(self, repository: str) -> bool: ...

    def tags(self, repository: str) -> Sequence[str]: ...

    def resolve(self, repository: str, tag: str) -> Digest | None:
        """The digest of the manifest that ``tag`` names."""
        ...

    def manifest(self, repository: str, digest: Digest) -> StoredManifest | None: ...

    def blob(self, repository: str, digest: Digest) -> StoredBlob | None: ...

    def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        """The manifests with that subject, as the referrers API lists them."""
        ...


class Upload(Protocol):
    """One upload session; its methods are never called concurrently."""

    @property
    def id(self) -> str: ...

    @property
    def offset(self) -> int:
        """The number of bytes that are kept."""
        ...

    def append(self, pieces: Sequence[bytes]) -> None:
        """Keep more bytes, or none of them and raise an ``OSError``."""
        ...

    def commit(self, digest: Digest) -> None:
        """Make the bytes a blob of the repository, which survives a power failure.

        Raises ``DigestMismatch``.  The session is over in both cases.
        """
        ...

    def discard(self) -> None:
        """Forget the bytes."""
        ...


@runtime_checkable
class Writable(Storage, Protocol):
    """Storage that takes pushes."""

    def begin(self, repository: str) -> Upload:
        """Open a new upload session."""
        ...

    def upload(self, repository: str, identifier: str) -> Upload | None:
        """The open session of that name, also one from before a restart."""
        ...

    def mount(self, repository: str, digest: Digest, origin: str) -> bool:
        """Add the blob of the repository ``origin`` to ``repository``; False when ``origin`` has none."""
        ...

    def expecting(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        """Protect ``digests``: those that exist when the block begins exist when it ends, whatever a sweep removes."""
        ...

    def asked_for(self, repository: str, digest: Digest) -> None:
        """Note that a client has asked for a blob and relies on it: its age counts from now on."""
        ...

    def put_manifest(self, repository: str, manifest: AnyManifest, tags: Sequence[str]) -> None:
        """Keep a manifest, whose children are there, and let ``tags`` name it."""
        ...

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Remove a tag; returns False when it does not exist, and raises ``Kept``, like the next two."""
        ...

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest and the tags that name it."""
        ...

    def delete_blob(self, repository: str, digest: Digest) -> bool: ...

    @property
    def upkeep_seconds(self) -> float:
        """The seconds between two calls of the next three methods."""
        ...

    def stale_uploads(self) -> Sequence[tuple[str, str]]:
        """The repository and the name of each session that has got no byte for too long."""
        ...

    def purge_upload(self, repository: str, identifier: str) -> None:
        """Forget that session, if it still has got no byte."""
        ...

    def sweep(self, going_on: Callable[[], bool]) -> None:
        """Remove content that no repository needs; end early when ``going_on`` returns False."""
        ...


class NamedImage(Protocol):
    """An image of a bundle: its original name, and its root."""

    @property
    def reference(self) -> Reference: ...
    @property
    def descriptor(self) -> Descriptor: ...


class OpenBundle(Protocol):
    """The parts of a bundle that serving needs; each method raises ``NotFound`` for content that it does not have."""

    @property
    def images(self) -> Sequence[NamedImage]: ...

    def size(self, digest: Digest) -> int: ...
    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes: ...
    def manifest_by_digest(self, digest: Digest, media_type: str | None = None) -> AnyManifest: ...


class Bundled(Struct):
    """Storage over a bundle, whose images lie where a push without a base path would put them.

    All of a bundle is one space: each of its repositories has all of its content.
    """

    bundle: OpenBundle
    _tags: dict[str, dict[str, Digest]] = field(default_factory=dict)  # by repository
    _manifests: dict[Digest, str] = field(default_factory=dict)  # their media types
    _referrers: dict[Digest, list[Descriptor]] = field(default_factory=dict)  # by subject
    _verified: set[Digest] = field(default_factory=set)

    @classmethod
    def load(cls, bundle: OpenBundle, repositories: Mapping[Reference, str] | None = None) -> Self:
        """Read and verify every manifest of the bundle; raises ``VerificationError``.

        ``repositories`` has the repository of each image that is not under its own name.
        """
        storage = cls(bundle)
        for image in bundle.images:
            place = (repositories or {}).get(image.reference, image.reference.path)
            tags = storage._tags.setdefault(place, {})
            if image.reference.tag:
                tags[image.reference.tag] = image.descriptor.digest
        for image in bundle.images:
            storage._walk(image)
        return storage

    def repositories(self) -> Sequence[str]:
        return list(self._tags)

    def has_repository(self, repository: str) -> bool:
        return repository in self._tags

    def tags(self, repository: str) -> Sequence[str]:
        return list(self._tags.get(repository, ()))

    def resolve(self, repository: str, tag: str) -> Digest | None:
        return self._tags.get(repository, {}).get(tag)

    def manifest(self, repository: str, digest: Digest) -> StoredManifest | None:
        if repository not in self._tags or digest not in self._manifests:
            return None
        media_type = self._manifests[digest]
        return StoredManifest(digest, media_type, self.bundle.manifest_by_digest(digest, media_type).content)

    def blob(self, repository: str, digest: Digest) -> BundledBlob | None:
        if repository not in self._tags:
            return None
        try:
            return BundledBlob(self, digest, self.bundle.size(digest))
        except NotFound:
            return None

    def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        return self._referrers.get(subject, ()) if repository in self._tags else ()

    def is_verified(self, digest: Digest) -> bool:
        """Tell whether the content of ``digest`` was hashed once, and agrees with the digest."""
        return digest in self._verified

    def note_verified(self, digest: Digest) -> None:
        self._verified.add(digest)

    def _walk(self, image: NamedImage) -> None:
        """Find every manifest of ``image``; those that a partial bundle lacks are left out."""
        descent = Descent(image.reference)
        self._enter(descent, image.descriptor)
        for child, _ in descent:
            self._enter(descent, child)

    def _enter(self, descent: Descent, descriptor: Descriptor) -> None:
        if descriptor.digest in self._manifests or not descriptor.is_manifest:
            return
        try:
            manifest = self.bundle.manifest_by_digest(descriptor.digest, descriptor.media_type)
        except NotFound:
            return
        self._manifests[descriptor.digest] = descriptor.media_type
        descent.enter(manifest)
        if manifest.subject:
            self._referrers.setdefault(manifest.subject.digest, []).append(referrer_descriptor(manifest))


class BundledBlob(Struct, frozen=True):
    """A blob in a bundle.

    The first read from the start to the end hashes it, and does not give the last bytes if the content does not
    agree with the digest.
    """

    storage: Bundled
    digest: Digest
    size: int

    @property
    def is_verified(self) -> bool:
        return self.storage.is_verified(self.digest)

    @contextmanager
    def open(self) -> Iterator[ReadAt]:
        read = functools.partial(self.storage.bundle.read, self.digest)
        if self.storage.is_verified(self.digest):
            yield read
        else:
            yield Verifying(
                read, self.digest, self.size, when_sound=lambda: self.storage.note_verified(self.digest)
            ).read


class Layered(Struct, frozen=True):
    """Writable storage ``top`` over read-only ``bottom``.

    Content of the bottom cannot be deleted, since it would still be there afterwards.  A tag in the top that hides one
    of the bottom can be deleted, and the tag of the bottom is visible again then.
    """

    top: Writable
    bottom: Storage

    def repositories(self) -> Sequence[str]:
        return list({*self.top.repositories(), *self.bottom.repositories()})

    def has_repository(self, repository: str) -> bool:
        return self.top.has_repository(repository) or self.bottom.has_repository(repository)

    def tags(self, repository: str) -> Sequence[str]:
        return list({*self.top.tags(repository), *self.bottom.tags(repository)})

    def resolve(self, repository: str, tag: str) -> Digest | None:
        return self.top.resolve(repository, tag) or self.bottom.resolve(repository, tag)

    def manifest(self, repository: str, digest: Digest) -> StoredManifest | None:
        return self.top.manifest(repository, digest) or self.bottom.manifest(repository, digest)

    def blob(self, repository: str, digest: Digest) -> StoredBlob | None:
        return self.top.blob(repository, digest) or self.bottom.blob(repository, digest)

    def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        found = [*self.bottom.referrers(repository, subject), *self.top.referrers(repository, subject)]
        return list({descriptor.digest: descriptor for descriptor in found}.values())

    def begin(self, repository: str) -> Upload:
        return self.top.begin(repository)

    def upload(self, repository: str, identifier: str) -> Upload | None:
        return self.top.upload(repository, identifier)

    def mount(self, repository: str, digest: Digest, origin: str) -> bool:
        """Mount a blob; one from the bundle is copied, so that pushed images stay whole without the bundle."""
        if self.top.mount(repository, digest, origin):
            return True
        blob = self.bottom.blob(origin, digest)
        if blob is None:
            return False
        upload = self.top.begin(repository)
        try:
            with blob.open() as read:
                for offset in range(0, blob.size, _PIECE):
                    upload.append([read(offset, min(_PIECE, blob.size - offset))])
        except BaseException:
            upload.discard()
            raise
        upload.commit(digest)
        return True

    def expecting(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        return self.top.expecting(digests)

    def asked_for(self, repository: str, digest: Digest) -> None:
        self.top.asked_for(repository, digest)

    def put_manifest(self, repository: str, manifest: AnyManifest, tags: Sequence[str]) -> None:
        self.top.put_manifest(repository, manifest, tags)

    def delete_tag(self, repository: str, tag: str) -> bool:
        below = self.bottom.resolve(repository, tag)
        if below and self.top.resolve(repository, tag) in (None, below):
            raise Kept
        return self.top.delete_tag(repository, tag)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        if self.bottom.manifest(repository, digest):
            raise Kept
        return self.top.delete_manifest(repository, digest)

    def delete_blob(self, repository: str, digest: Digest) -> bool:
        if self.bottom.blob(repository, digest):
            raise Kept
        return self.top.delete_blob(repository, digest)

    @property
    def upkeep_seconds(self) -> float:
        return self.top.upkeep_seconds

    def stale_uploads(self) -> Sequence[tuple[str, str]]:
        return self.top.stale_uploads()

    def purge_upload(self, repository: str, identifier: str) -> None:
        self.top.purge_upload(repository, identifier)

    def sweep(self, going_on: Callable[[], bool]) -> None:
        self.top.sweep(going_on)
