"""A registry's content in a directory (its layout is in ``directory.py``), which survives restarts and kills.

A file gets its name when it is complete and flushed to the disk.  A deletion removes the link of a repository; a
sweep removes the content later, if no other repository has it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct, field

from syncer.errors import DigestMismatch, InvalidContent
from syncer.files import make_directory, remove_file, rename, sync_path, write_whole
from syncer.oci import Descriptor, Digest, parse_manifest
from syncer.oci.manifest import AnyManifest, referrer_descriptor
from syncer.serve.directory import Arrivals, Layout, Sweep, open_plain, read_plain, taken
from syncer.serve.storage import ReadAt, StoredManifest, Verifying

if TYPE_CHECKING:
    from hashlib import _Hash


KEEP_SECONDS = 24 * 3600.0
"""The time for which an upload that gets no byte, and a blob that no manifest lists, are kept."""

_UPKEEP_SECONDS = 3600.0
_PIECE = 1024 * 1024
_SMALL = 128 * 1024  # bytes: hashed before a word is said about them

_log = logging.getLogger(__name__)

_Look: TypeAlias = tuple[int, ...]
"""The properties of a file that change when it is written to or replaced."""


@contextmanager
def open_disk(directory: Path, *, keep_seconds: float = KEEP_SECONDS) -> Iterator[Disk]:
    """Open the registry in ``directory``, which is made if it does not exist.

    Uploads that get no byte and blobs that no manifest lists are removed after ``keep_seconds``.  Raises ``UsageError``
    for a directory that belongs to something else or cannot be used, and ``Locked`` if another process uses it.
    """
    with taken(directory) as layout:
        disk = Disk(layout, keep_seconds)
        for repository, session in disk.stale_uploads():
            disk.purge_upload(repository, session)
        yield disk


class Disk(Struct):
    """Writable storage in one directory, for one process at a time (``open_disk`` locks the directory)."""

    _layout: Layout
    _keep_seconds: float
    _open: dict[str, DiskUpload] = field(default_factory=dict)
    _arrivals: Arrivals = field(default_factory=Arrivals)
    _sound: dict[Digest, _Look] = field(default_factory=dict)  # files that were hashed
    _damaged: dict[Digest, _Look] = field(default_factory=dict)

    def repositories(self) -> Sequence[str]:
        return [name for name, parts in self._layout.names() if "_manifests" in parts]

    def has_repository(self, repository: str) -> bool:
        path = self._layout.repositories / repository
        return (path / "_blobs").is_dir() or (path / "_manifests").is_dir()

    def tags(self, repository: str) -> Sequence[str]:
        return _names(self._layout.repositories / repository / "_tags")

    def resolve(self, repository: str, tag: str) -> Digest | None:
        try:
            return Digest.parse(read_plain(self._tag(repository, tag)).decode())
        except FileNotFoundError:
            return None

    def manifest(self, repository: str, digest: Digest) -> StoredManifest | None:
        """The manifest; None also when its file is damaged, so that it can be pushed again."""
        try:
            media_type = read_plain(self._layout.link(repository, "_manifests", digest)).decode()
        except FileNotFoundError:
            return None
        content = self._read(digest)
        return None if content is None else StoredManifest(digest, media_type, content)

    def blob(self, repository: str, digest: Digest) -> DiskBlob | None:
        """The blob; None also when its file is known to be damaged, so that it can be pushed again."""
        path = self._layout.content(digest)
        try:
            self._layout.link(repository, "_blobs", digest).lstat()
            found = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode) or self._damaged.get(digest) == _look(found):
            return None
        if found.st_size <= _SMALL and self._sound.get(digest) != _look(found) and self._read(digest) is None:
            return None
        return DiskBlob(self, digest, path, found.st_size)

    def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        digests = [Digest.parse(name.replace("-", ":")) for name in _names(self._referrers(repository, subject))]
        stored = filter(None, (self.manifest(repository, digest) for digest in sorted(digests)))
        return [referrer_descriptor(parse_manifest(found.content, found.media_type)) for found in stored]

    def begin(self, repository: str) -> DiskUpload:
        path = self._upload(repository, uuid.uuid4().hex)
        make_directory(path.parent)
        path.touch()
        self._open[path.name] = upload = DiskUpload(self, repository, path)
        return upload

    def upload(self, repository: str, identifier: str) -> DiskUpload | None:
        path = self._upload(repository, identifier)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        return self._open.setdefault(identifier, DiskUpload(self, repository, path, size))

    def mount(self, repository: str, digest: Digest, origin: str) -> bool:
        with self._arrivals.of([digest]):
            if self.blob(origin, digest) is None:
                return False
            _mark(self._layout.link(repository, "_blobs", digest))
            return True

    def expecting(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        return self._arrivals.of(digests)

    def asked_for(self, repository: str, digest: Digest) -> None:
        link = self._layout.link(repository, "_blobs", digest)
        with self._arrivals.of([digest]):
            try:
                if link.lstat().st_mtime < time.time() - self._keep_seconds / 2:
                    os.utime(link)
            except FileNotFoundError:
                pass

    def put_manifest(self, repository: str, manifest: AnyManifest, tags: Sequence[str]) -> None:
        digest, media_type = manifest.descriptor.digest, manifest.descriptor.media_type
        with self._arrivals.of([digest]):
            if self._read(digest) is None:
                self._write(self._layout.content(digest), manifest.content)
            self._write(self._layout.link(repository, "_manifests", digest), media_type.encode())
        if manifest.subject:
            _mark(self._referrers(repository, manifest.subject.digest) / _flat(digest))
        for tag in tags:
            self._write(self._tag(repository, tag), str(digest).encode())

    def delete_tag(self, repository: str, tag: str) -> bool:
        return remove_file(self._tag(repository, tag))

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        for tag in self.tags(repository):
            if self.resolve(repository, tag) == digest:
                self.delete_tag(repository, tag)
        for subject in _names(self._layout.repositories / repository / "_referrers"):
            remove_file(self._layout.repositories / repository / "_referrers" / subject / _flat(digest))
        return remove_file(self._layout.link(repository, "_manifests", digest))

    def delete_blob(self, repository: str, digest: Digest) -> bool:
        return remove_file(self._layout.link(repository, "_blobs", digest))

    @property
    def upkeep_seconds(self) -> float:
        return min(_UPKEEP_SECONDS, self._keep_seconds / 4)

    def stale_uploads(self) -> Sequence[tuple[str, str]]:
        found = []
        for repository, parts in self._layout.names():
            if "_uploads" in parts:
                names = _names(self._layout.repositories / repository / "_uploads")
                found += [(repository, name) for name in names if self._is_stale(self._upload(repository, name))]
        return found

    def purge_upload(self, repository: str, identifier: str) -> None:
        upload = self.upload(repository, identifier)
        if upload and self._is_stale(upload.path):
            upload.discard()

    def sweep(self, going_on: Callable[[], bool]) -> None:
        removed = Sweep(self._layout, self._arrivals, time.time() - self._keep_seconds, going_on).run()
        if removed:
            _log.info("freed %d blobs and manifests that no repository has", removed)

    def adopt(self, upload: DiskUpload, digest: Digest) -> None:
        """Give a finished upload, whose bytes have ``digest``, its name."""
        path = self._layout.content(digest)
        with self._arrivals.of([digest]):
            rename(upload.path, path)
            self.note_sound(digest, path.lstat())
            _mark(self._layout.link(upload.repository, "_blobs", digest))
        self.forget(upload)

    def forget(self, upload: DiskUpload) -> None:
        self._open.pop(upload.id, None)

    def is_sound(self, digest: Digest, found: os.stat_result) -> bool:
        """Tell whether the file was hashed with the properties in ``found``, and agrees with its digest."""
        return self._sound.get(digest) == _look(found)

    def note_sound(self, digest: Digest, found: os.stat_result) -> None:
        self._sound[digest] = _look(found)

    def note_damaged(self, digest: Digest, found: os.stat_result) -> None:
        """Log the damage once; from now on the content counts as absent."""
        if self._damaged.get(digest) != _look(found):
            self._damaged[digest] = _look(found)
            _log.error(
                "%s is damaged: its content is not what its name says; push it again", self._layout.content(digest)
            )

    def _read(self, digest: Digest) -> bytes | None:
        """Read and hash the content of a manifest or a small blob; None when it is absent or damaged."""
        try:
            file = open_plain(self._layout.content(digest))
        except FileNotFoundError:
            return None
        with open(file, "rb", buffering=0) as opened:  # noqa: PTH123  # a descriptor, not a path
            content = opened.readall()
            found = os.fstat(file)
        if Digest.of(content, digest.algorithm) != digest:
            self.note_damaged(digest, found)
            return None
        self.note_sound(digest, found)
        return content

    def _is_stale(self, path: Path) -> bool:
        try:
            return path.lstat().st_mtime < time.time() - self._keep_seconds
        except FileNotFoundError:
            return False

    def _tag(self, repository: str, tag: str) -> Path:
        return self._layout.repositories / repository / "_tags" / tag

    def _upload(self, repository: str, identifier: str) -> Path:
        return self._layout.repositories / repository / "_uploads" / identifier

    def _referrers(self, repository: str, subject: Digest) -> Path:
        return self._layout.repositories / repository / "_referrers" / _flat(subject)

    def _write(self, path: Path, content: bytes) -> None:
        make_directory(path.parent)
        write_whole(path, content, by_way_of=self._layout.temporary)


class DiskBlob(Struct, frozen=True):
    """A blob in a file of its own.

    The first read from the start to the end hashes it, and so does the first one after its file has changed; such a
    read does not give the last bytes if the content does not agree with the digest.
    """

    disk: Disk
    digest: Digest
    path: Path
    size: int

    @property
    def is_verified(self) -> bool:
        try:
            return self.disk.is_sound(self.digest, self.path.lstat())
        except FileNotFoundError:
            return False

    @contextmanager
    def open(self) -> Iterator[ReadAt]:
        with open(open_plain(self.path), "rb", buffering=0) as file:  # noqa: PTH123  # a descriptor, not a path
            read = functools.partial(_read_at, file.fileno())
            found = os.fstat(file.fileno())
            if found.st_size != self.size:
                raise InvalidContent("a blob's file was replaced a moment ago")
            if self.disk.is_sound(self.digest, found):
                yield read
                return
            yield Verifying(
                read,
                self.digest,
                self.size,
                when_sound=lambda: self.disk.note_sound(self.digest, found),
                when_damaged=lambda: self.disk.note_damaged(self.digest, found),
            ).read


class DiskUpload(Struct):
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
            # a file that somebody removed is not made again, without its first bytes
            opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(opened, "ab") as file:  # noqa: PTH123  # a descriptor, not a path
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
            size = os.fstat(file.fileno()).st_size
        if not digest.matches(hasher) or size != self.offset:
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


def _look(found: os.stat_result) -> _Look:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _names(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []


def _flat(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"


def _mark(path: Path) -> None:
    """Make an empty file, which says something by its name alone; its directory is made if need be."""
    make_directory(path.parent)
    path.touch()
    sync_path(path.parent)
