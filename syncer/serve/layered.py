"""A bundle beneath a directory: what is pushed goes into the directory and hides what the bundle has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from syncer.oci import Descriptor, Digest
from syncer.oci.manifest import AnyManifest
from syncer.serve.storage import Kept, Storage, StoredBlob, StoredManifest, Upload, Writable

_PIECE = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Layered:
    """Writable storage ``top`` over read-only ``bottom``.

    Nothing that the bottom holds can be deleted, since it would still be there afterwards; a tag that hides the
    bottom's can, which shows the bottom's again.
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
        """From the bundle a mount is a copy, so that what was pushed stays whole without the bundle."""
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
