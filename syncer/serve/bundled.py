"""A bundle as a registry, straight off its file: read-only, nothing is unpacked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, Self

from syncer.errors import NotFound
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest, Descent, referrer_descriptor
from syncer.serve.storage import ReadAt, StoredManifest, Verifying


class NamedImage(Protocol):
    """An image of a bundle: what it was called, and its root."""

    @property
    def reference(self) -> Reference: ...
    @property
    def descriptor(self) -> Descriptor: ...


class OpenBundle(Protocol):
    """What serving needs of a bundle; each method raises ``NotFound`` for content that it does not hold."""

    @property
    def images(self) -> Sequence[NamedImage]: ...

    def size(self, digest: Digest) -> int: ...
    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes: ...
    def manifest_by_digest(self, digest: Digest, media_type: str | None = None) -> AnyManifest: ...


@dataclass(slots=True)
class Bundled:
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
        """Reads and verifies every manifest of the bundle; raises ``VerificationError``.

        ``repositories`` say where images are that are not under their own names.
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
        """Whether the content of ``digest`` was read through once and is what its name says."""
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


@dataclass(frozen=True, slots=True)
class BundledBlob:
    """A blob in a bundle.

    The first time it is read from one end to the other it is hashed on the way, and its last bytes are
    held back if it is not what its name says.
    """

    storage: Bundled
    digest: Digest
    size: int

    @contextmanager
    def open(self) -> Iterator[ReadAt]:
        read = functools.partial(self.storage.bundle.read, self.digest)
        if self.storage.is_verified(self.digest):
            yield read
        else:
            yield Verifying(
                read, self.digest, self.size, when_sound=lambda: self.storage.note_verified(self.digest)
            ).read
