"""What a registry's content looks like from outside, whatever holds it.

All methods are plain and blocking; those that touch more than a few kilobytes are called in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from syncer.oci import Descriptor, Digest
from syncer.oci.manifest import AnyManifest

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

    def put_manifest(self, repository: str, manifest: AnyManifest, tag: str | None) -> None:
        """Keep a manifest, whose children are there, and let ``tag`` name it."""
        ...

    def delete_tag(self, repository: str, tag: str) -> bool:
        """False when there is none; likewise the next two."""
        ...

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest and the tags that name it."""
        ...

    def delete_blob(self, repository: str, digest: Digest) -> bool: ...
