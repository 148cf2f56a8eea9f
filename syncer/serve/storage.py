"""The interface of a registry's content, whatever keeps it.

All methods are plain and blocking; those that touch more than a few kilobytes are called in a thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from syncer.errors import DigestMismatch
from syncer.oci import Descriptor, Digest
from syncer.oci.manifest import AnyManifest

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
