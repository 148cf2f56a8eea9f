"""A bundle beneath a directory: what is pushed goes into the directory and hides what the bundle has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncer.oci import Descriptor, Digest
from syncer.oci.manifest import AnyManifest
from syncer.serve.storage import Storage, StoredBlob, StoredManifest, Upload, Writable

_PIECE = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Layered:
    """Writable storage ``top`` over read-only ``bottom``; nothing of the bottom can be deleted."""

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

    def put_manifest(self, repository: str, manifest: AnyManifest, tag: str | None) -> None:
        self.top.put_manifest(repository, manifest, tag)

    def delete_tag(self, repository: str, tag: str) -> bool:
        return self.top.delete_tag(repository, tag)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        return self.top.delete_manifest(repository, digest)

    def delete_blob(self, repository: str, digest: Digest) -> bool:
        return self.top.delete_blob(repository, digest)
