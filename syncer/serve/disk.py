"""A registry's content in a directory, kept across restarts and kills.

::

    blobs/<algorithm>/<hex>                                 content, manifests included
    repositories/<name>/_blobs/<algorithm>/<hex>            empty: this repository has that blob
    repositories/<name>/_manifests/<algorithm>/<hex>        the manifest's media type
    repositories/<name>/_referrers/<algorithm>-<hex>/<algorithm>-<hex>   subject, referrer
    repositories/<name>/_tags/<tag>                         a digest
    repositories/<name>/_uploads/<session>                  the bytes that arrived so far
    temporary/                                              files on their way to their name

A file gets its name when it is complete and on the disk.  Deleting removes a repository's link and leaves
the content, which other repositories may have.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from syncer.errors import DigestMismatch, InvalidContent, Locked
from syncer.files import make_directory, mark, remove_file, rename, try_lock, write_whole
from syncer.oci import Descriptor, Digest, parse_manifest
from syncer.oci.manifest import AnyManifest, referrer_descriptor
from syncer.serve.storage import ReadAt, StoredManifest

if TYPE_CHECKING:
    from hashlib import _Hash


_ABANDONED_SECONDS = 7 * 24 * 3600  # as distribution purges uploads
_PIECE = 1024 * 1024


@contextmanager
def open_disk(directory: Path) -> Iterator[Disk]:
    """The registry in ``directory``, which is made if need be; raises ``Locked`` if another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = try_lock(directory / "lock")
    if lock is None:
        raise Locked(f"another process serves {directory}")
    try:
        disk = Disk(directory)
        disk.tidy()
        yield disk
    finally:
        os.close(lock)


@dataclass(slots=True)
class Disk:
    """Writable storage in one directory; one process at a time (``open_disk`` sees to it)."""

    directory: Path
    _open: dict[str, DiskUpload] = field(default_factory=dict)

    def tidy(self) -> None:
        """Make the directories, and remove what an earlier run left half done or forgot."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        for algorithm in ("sha256", "sha512"):
            (self.directory / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
        self._repositories.mkdir(exist_ok=True)
        for path in self._repositories.glob("**/_uploads/*"):
            if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                path.unlink()

    def repositories(self) -> Sequence[str]:
        names = []
        for path, directories, _ in os.walk(self._repositories):
            if "_manifests" in directories:
                names.append(os.path.relpath(path, self._repositories))
            directories[:] = [name for name in directories if not name.startswith("_")]
        return names

    def has_repository(self, repository: str) -> bool:
        path = self._repositories / repository
        return (path / "_blobs").is_dir() or (path / "_manifests").is_dir()

    def tags(self, repository: str) -> Sequence[str]:
        return _names(self._repositories / repository / "_tags")

    def resolve(self, repository: str, tag: str) -> Digest | None:
        try:
            return Digest.parse((self._repositories / repository / "_tags" / tag).read_text())
        except FileNotFoundError:
            return None

    def manifest(self, repository: str, digest: Digest) -> StoredManifest | None:
        try:
            media_type = self._link(repository, "_manifests", digest).read_text()
            return StoredManifest(digest, media_type, self._content(digest).read_bytes())
        except FileNotFoundError:
            return None

    def blob(self, repository: str, digest: Digest) -> DiskBlob | None:
        path = self._content(digest)
        try:
            self._link(repository, "_blobs", digest).stat()
            return DiskBlob(path, path.stat().st_size)
        except FileNotFoundError:
            return None

    def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        digests = [Digest.parse(name.replace("-", ":")) for name in _names(self._referrers(repository, subject))]
        stored = filter(None, (self.manifest(repository, digest) for digest in sorted(digests)))
        return [referrer_descriptor(parse_manifest(found.content, found.media_type)) for found in stored]

    def begin(self, repository: str) -> DiskUpload:
        path = self._repositories / repository / "_uploads" / uuid.uuid4().hex
        make_directory(path.parent)
        path.touch()
        self._open[path.name] = upload = DiskUpload(self, repository, path)
        return upload

    def upload(self, repository: str, identifier: str) -> DiskUpload | None:
        path = self._repositories / repository / "_uploads" / identifier
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        return self._open.setdefault(identifier, DiskUpload(self, repository, path, size))

    def mount(self, repository: str, digest: Digest, origin: str) -> bool:
        if self.blob(origin, digest) is None:
            return False
        mark(self._link(repository, "_blobs", digest))
        return True

    def put_manifest(self, repository: str, manifest: AnyManifest, tag: str | None) -> None:
        digest, media_type = manifest.descriptor.digest, manifest.descriptor.media_type
        if not self._content(digest).exists():
            self._write(self._content(digest), manifest.content)
        self._write(self._link(repository, "_manifests", digest), media_type.encode())
        if manifest.subject:
            mark(self._referrers(repository, manifest.subject.digest) / _flat(digest))
        if tag:
            self._write(self._repositories / repository / "_tags" / tag, str(digest).encode())

    def delete_tag(self, repository: str, tag: str) -> bool:
        return remove_file(self._repositories / repository / "_tags" / tag)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        stored = self.manifest(repository, digest)
        if stored is None:
            return False
        for tag in self.tags(repository):
            if self.resolve(repository, tag) == digest:
                self.delete_tag(repository, tag)
        subject = parse_manifest(stored.content, stored.media_type).subject
        if subject:
            remove_file(self._referrers(repository, subject.digest) / _flat(digest))
        return remove_file(self._link(repository, "_manifests", digest))

    def delete_blob(self, repository: str, digest: Digest) -> bool:
        return remove_file(self._link(repository, "_blobs", digest))

    def adopt(self, upload: DiskUpload, digest: Digest) -> None:
        """Give a finished upload, whose bytes are those of ``digest``, its name."""
        rename(upload.path, self._content(digest))
        mark(self._link(upload.repository, "_blobs", digest))
        self.forget(upload)

    def forget(self, upload: DiskUpload) -> None:
        self._open.pop(upload.id, None)

    @property
    def _temporary(self) -> Path:
        return self.directory / "temporary"

    @property
    def _repositories(self) -> Path:
        return self.directory / "repositories"

    def _content(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def _link(self, repository: str, kind: str, digest: Digest) -> Path:
        return self._repositories / repository / kind / digest.algorithm / digest.hex

    def _referrers(self, repository: str, subject: Digest) -> Path:
        return self._repositories / repository / "_referrers" / _flat(subject)

    def _write(self, path: Path, content: bytes) -> None:
        make_directory(path.parent)
        write_whole(path, content, by_way_of=self._temporary)


@dataclass(frozen=True, slots=True)
class DiskBlob:
    """A blob in a file of its own."""

    path: Path
    size: int

    @contextmanager
    def open(self) -> Iterator[ReadAt]:
        with self.path.open("rb", buffering=0) as file:
            yield functools.partial(_read_at, file.fileno())


@dataclass(slots=True)
class DiskUpload:
    """An upload session: a file that grows.  After a restart its bytes are hashed again, from the file."""

    disk: Disk
    repository: str
    path: Path
    offset: int = 0
    _hasher: _Hash = field(default_factory=hashlib.sha256)
    _hashed: int = 0  # bytes

    @property
    def id(self) -> str:
        return self.path.name

    def append(self, pieces: Sequence[bytes]) -> None:
        try:
            with self.path.open("ab") as file:
                file.writelines(pieces)
        except OSError:
            os.truncate(self.path, self.offset)
            raise
        size = sum(map(len, pieces))
        if self._hashed == self.offset:
            for piece in pieces:
                self._hasher.update(piece)
            self._hashed += size
        self.offset += size

    def commit(self, digest: Digest) -> None:
        hasher, hashed = (self._hasher, self._hashed) if digest.algorithm == "sha256" else (digest.hasher(), 0)
        with self.path.open("rb") as file:
            file.seek(hashed)
            while piece := file.read(_PIECE):
                hasher.update(piece)
        if not digest.matches(hasher):
            self.discard()
            raise DigestMismatch(f"the {self.offset} bytes that were uploaded are not {digest}")
        self.disk.adopt(self, digest)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.disk.forget(self)


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    content = os.pread(descriptor, length, offset)
    if len(content) != length:
        raise InvalidContent("a blob's file was cut short")
    return content


def _names(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []


def _flat(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"
