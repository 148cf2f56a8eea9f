"""What a registry's content looks like from outside, whatever holds it.

All methods are plain and blocking; those that touch more than a few kilobytes are called in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from syncer.errors import DigestMismatch
from syncer.oci import Descriptor, Digest
from syncer.oci.manifest import AnyManifest

if TYPE_CHECKING:
    from hashlib import _Hash

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""``read(offset, length)``: exactly those bytes of a blob."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest's exact bytes, and what they are called."""

    digest: Digest
    media_type: str
    content: bytes


class StoredBlob(Protocol):
    """A blob that is there."""

    @property
    def size(self) -> int: ...

    def open(self) -> AbstractContextManager[ReadAt]:
        """Read it, for as long as the block lasts."""
        ...


@dataclass(slots=True)
class Verifying:
    """Reads a blob that nobody has hashed yet.

    Read from its first byte to its last it is hashed on the way, and the last bytes are held back if it is not what
    its name says: ``read`` raises ``DigestMismatch`` then.
    """

    inner: ReadAt
    digest: Digest
    size: int
    when_sound: Callable[[], None]
    when_damaged: Callable[[], None] | None = None
    _hasher: _Hash = field(init=False)
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


class Kept(Exception):
    """Content that is served and cannot be deleted: a bundle holds it."""


class Storage(Protocol):
    """Repositories of manifests, blobs and tags, to be read."""

    def repositories(self) -> Sequence[str]:
        """The names of all repositories that have a manifest."""
        ...

    def has_repository(self, repository: str) -> bool: ...

    def tags(self, repository: str) -> Sequence[str]: ...

    def resolve(self, repository: str, tag: str) -> Digest | None:
        """The manifest that ``tag`` names."""
        ...

    def manifest(self, repository: str, digest: Digest) -> StoredManifest | None: ...

    def blob(self, repository: str, digest: Digest) -> StoredBlob | None: ...

    def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        """The manifests whose subject that is, as the referrers API lists them."""
        ...


class Upload(Protocol):
    """One upload session; its methods are never called concurrently."""

    @property
    def id(self) -> str: ...

    @property
    def offset(self) -> int:
        """How many bytes are kept."""
        ...

    def append(self, pieces: Sequence[bytes]) -> None:
        """Keep more bytes; all of them, or none and an ``OSError``."""
        ...

    def commit(self, digest: Digest) -> None:
        """Make the bytes a blob of the repository, durably.  Raises ``DigestMismatch``; the session is over
        either way.
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
        """Take a blob over from the repository ``origin``; False when it has none."""
        ...

    def expecting(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        """What is there of ``digests`` when the block begins is there when it ends, whatever is swept."""
        ...

    def asked_for(self, repository: str, digest: Digest) -> None:
        """A client has asked whether a blob is there, and will rely on it: it counts as young again."""
        ...

    def put_manifest(self, repository: str, manifest: AnyManifest, tags: Sequence[str]) -> None:
        """Keep a manifest, whose children are there, and let ``tags`` name it."""
        ...

    def delete_tag(self, repository: str, tag: str) -> bool:
        """False when there is none; raises ``Kept``; likewise the next two."""
        ...

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest and the tags that name it."""
        ...

    def delete_blob(self, repository: str, digest: Digest) -> bool: ...

    @property
    def upkeep_seconds(self) -> float:
        """How often the next three are to be called."""
        ...

    def stale_uploads(self) -> Sequence[tuple[str, str]]:
        """The repository and the name of each session that has got no byte for too long."""
        ...

    def purge_upload(self, repository: str, identifier: str) -> None:
        """Forget that session, if it still has got none."""
        ...

    def sweep(self, going_on: Callable[[], bool]) -> None:
        """Free the content that nobody needs; end early when ``going_on`` says no."""
        ...
