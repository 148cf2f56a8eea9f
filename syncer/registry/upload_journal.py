"""The journal of unfinished uploads, by which the next push goes on after a killed one.

A hint, safe to delete: the registry is asked before it is believed, and the digest has the last word.
Where an upload goes on may be as good as a password to that one upload, so its file is the user's alone.
Credentials are never in it.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import orjson
from msgspec import Struct

from syncer.files import sync, sync_path, try_lock
from syncer.oci import Digest

_KEPT = 8 * 24 * 3600.0  # seconds; distribution throws uploads away after a week
_LARGEST = 64 * 1024 * 1024  # bytes of a file that are looked at


class Unfinished(Struct, frozen=True):
    """An upload session: where it goes on, and how many bytes the registry has taken."""

    location: str
    offset: int
    reach: int | None = None  # how near an address its place may be, where that is another host's


class UploadJournal(Protocol):
    """Keeps the newest state of each upload; its methods may block, and are called in worker threads."""

    def load(self, repository: str, digest: Digest) -> Unfinished | None:
        """The unfinished upload of a blob, if one is known that nobody else is at."""
        ...

    def save(self, repository: str, digest: Digest, state: Unfinished) -> None:
        """Remember ``state``, where the disk has room for it; it survives a power failure once this returns."""
        ...

    def drop(self, repository: str, digest: Digest) -> None:
        """Forget the upload: it is finished, or lost."""
        ...


class FileUploadJournal:
    """A journal in a directory, one file for each upload, to which its states are appended.

    A file is locked as long as we are at its upload; one that another process has locked is left alone, and
    that upload goes unremembered.  ``was_interrupted`` says that an earlier push to this host did not say
    ``finished``.  What cannot be kept or removed is gone without, and ``lost`` is told why.
    """

    def __init__(self, directory: Path, host: str, lost: Callable[[OSError], None] | None = None) -> None:
        self._directory = directory
        self._host = host
        self._lost = lost or _ignore
        self._marker = directory / f"{_name(host)}.running"
        self.was_interrupted = os.path.lexists(self._marker)
        with self._hint():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _clean(directory)
            os.close(os.open(self._marker, os.O_CREAT | os.O_WRONLY, 0o600))
        self._known: set[str] = set()
        with suppress(OSError):
            self._known = {path.name for path in directory.glob("*.upload")}
        self._files: dict[str, _File | None] = {}  # by name; None: somebody else's

    def finished(self) -> None:
        """Everything arrived: the next push need not ask what is there already."""
        with self._hint():
            self._marker.unlink(missing_ok=True)

    def load(self, repository: str, digest: Digest) -> Unfinished | None:
        name = self._name(repository, digest)
        if name not in self._known:
            return None
        file = self._file(name)
        with self._hint():
            return file.newest() if file else None
        return None

    def save(self, repository: str, digest: Digest, state: Unfinished) -> None:
        if file := self._file(self._name(repository, digest)):
            with self._hint():  # a full disk costs the next push some bytes, and this one nothing
                file.append(state)

    def drop(self, repository: str, digest: Digest) -> None:
        name = self._name(repository, digest)
        self._known.discard(name)
        if file := self._files.pop(name, None):
            with self._hint():
                file.remove()

    def close(self) -> None:
        """Unlock what is left; it stays for the next push."""
        for file in self._files.values():
            if file:
                file.close()
        self._files.clear()

    def _file(self, name: str) -> _File | None:
        if name not in self._files:
            self._files[name] = None
            with self._hint():
                self._files[name] = _opened(self._directory / name)
        return self._files[name]

    @contextmanager
    def _hint(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._lost(error)

    def _name(self, repository: str, digest: Digest) -> str:
        return f"{_name(f'{self._host}/{repository}@{digest}')}.upload"


@contextmanager
def open_upload_journal(
    directory: Path, host: str, lost: Callable[[OSError], None] | None = None
) -> Iterator[FileUploadJournal]:
    """The journal of pushes to ``host``, in a directory that only this user can read."""
    journal = FileUploadJournal(directory, host, lost)
    try:
        yield journal
    finally:
        journal.close()


class _File(Struct, frozen=True):
    """One upload's states, each a line with its checksum: a line that a power failure tore is passed over."""

    path: Path
    descriptor: int

    def newest(self) -> Unfinished | None:
        content = os.pread(self.descriptor, _LARGEST, 0)
        states = filter(None, map(_parsed, reversed(content.splitlines())))
        return next(states, None)

    def append(self, state: Unfinished) -> None:
        record = orjson.dumps([state.location, state.offset, state.reach])
        # a torn line before this one ends here at the latest
        os.write(self.descriptor, b"\n%08x %s\n" % (zlib.crc32(record), record))
        sync(self.descriptor)

    def remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        finally:
            self.close()

    def close(self) -> None:
        os.close(self.descriptor)


def _opened(path: Path) -> _File | None:
    """The file, ours until it is closed; None when another process has it.  Raises ``OSError``."""
    descriptor = try_lock(path, mode=0o600, append=True)
    if descriptor is None:
        return None
    try:
        sync_path(path.parent)
    except OSError:
        os.close(descriptor)
        raise
    return _File(path, descriptor)


def _ignore(_: OSError) -> None:
    """Tell nobody that nothing can be kept."""


def _parsed(line: bytes) -> Unfinished | None:
    checksum, _, record = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(record):
        return None
    match orjson.loads(record):
        case [str(location), int(offset), (int() | None) as reach] if offset >= 0:
            return Unfinished(location, offset, reach)
    return None


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _clean(directory: Path) -> None:
    """Remove what no registry remembers any more."""
    for path in directory.glob("*.upload"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _KEPT:
                path.unlink()
