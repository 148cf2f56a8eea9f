"""An upload session, the ways in which a registry takes the bytes of a blob, and the journal of unfinished uploads.

By the journal the next push goes on after a killed one.  It is a hint, safe to delete: the registry is asked before it
is believed, and the digest has the last word.  Where an upload goes on may be as good as a password to that one upload,
so its file is the user's alone.  Credentials are never in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Protocol

import orjson
from msgspec import Struct, structs
from yarl import URL

from syncer.errors import RegistryError, Unsafe
from syncer.files import sync, sync_path, try_lock
from syncer.oci import Digest
from syncer.registry.answers import least_chunk, upgraded_location
from syncer.registry.repository import Repository
from syncer.transport import Answer, Request
from syncer.transport.guard import Scope, check_hop, origin

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
    ``finished``; from now on this one has not, unless it only ``looks``.  What cannot be kept or removed is gone
    without, and ``lost`` is told why.
    """

    def __init__(
        self, directory: Path, host: str, lost: Callable[[OSError], None] | None = None, *, looks: bool = False
    ) -> None:
        self._directory = directory
        self._host = host
        self._lost = lost or _ignore
        self._marker = directory / f"{_name(host)}.running"
        self.was_interrupted = os.path.lexists(self._marker)
        if not looks:
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
    directory: Path, host: str, lost: Callable[[OSError], None] | None = None, *, looks: bool = False
) -> Iterator[FileUploadJournal]:
    """The journal of pushes to ``host``, in a directory that only this user can read; a plan only ``looks``."""
    journal = FileUploadJournal(directory, host, lost, looks=looks)
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


MIB = 1024 * 1024
CHUNK_SIZE = 16 * MIB
_LEAST_CHUNK = MIB
_BREAKS = 2  # bodies cut off one after the other, after which a smaller one is tried
_IN_ONE_PIECE = re.compile(
    r"(?:.*\.)?(?:pkg\.dev|gcr\.io)|ghcr\.io|.*\.dkr\.ecr(?:-fips)?\..*\.amazonaws\.com(?:\.cn)?|public\.ecr\.aws"
)
"""Registries that refuse chunks, or take only small ones (dotnet/sdk-container-builds#287, ocx-sh/ocx#237)."""


class Way(Enum):
    """The requests that bring the bytes of a blob."""

    PUT = "one PUT"
    PATCH = "one PATCH, then an empty PUT"
    CHUNKS = "PATCHes, the last bytes in the PUT"


class Manner:
    """The ways that one registry takes.  A way that has worked before is not given up after a failure."""

    def __init__(self, host: str, chunk_size: int = CHUNK_SIZE) -> None:
        self.chunk_size = chunk_size
        self.range_is_stale = False  # it does not tell how much it has (Amazon's: aws/containers-roadmap#2831)
        self._in_chunks_from = None if _IN_ONE_PIECE.fullmatch(host) else 2 * chunk_size + 1  # bytes of a blob
        self._largest_whole: int | None = None
        self._refused: set[Way] = set()
        self._works: set[Way] = set()
        self._breaks = 0

    def way(self, size: int) -> Way:
        """The way for a blob of ``size`` bytes."""
        too_large = self._largest_whole is not None and size > self._largest_whole
        wants_chunks = self._in_chunks_from is not None and size >= self._in_chunks_from
        if (too_large or wants_chunks) and Way.CHUNKS not in self._refused:
            return Way.CHUNKS
        return next((way for way in (Way.PUT, Way.PATCH) if way not in self._refused), Way.CHUNKS)

    def takes_whole(self, size: int) -> bool:
        """Tell whether a blob of ``size`` bytes may go in one PUT, as far as is known."""
        return Way.PUT not in self._refused and (self._largest_whole is None or size <= self._largest_whole)

    def takes(self, way: Way) -> bool:
        """Tell whether the registry has not refused this way."""
        return way not in self._refused

    def worked(self, way: Way) -> None:
        """The registry took a body that came this way."""
        self._works.add(way)
        self._breaks = 0

    def refuse(self, way: Way) -> bool:
        """The registry does not take this way; whether there is another one left."""
        if way in self._works or len(self._refused | {way}) == len(Way):
            return False
        self._refused.add(way)
        return True

    def too_large(self, way: Way, length: int, least: int) -> bool:
        """A body of ``length`` bytes is too large; whether something smaller can be tried."""
        floor = max(_LEAST_CHUNK, least)
        if length <= floor:
            return False
        if way is not Way.CHUNKS:
            if Way.CHUNKS in self._refused:
                return False
            self._largest_whole = min(length - 1, self._largest_whole or length)
        self.chunk_size = max(floor, min(self.chunk_size, length // 2))
        return True

    def broke(self, way: Way) -> None:
        """A body was cut off.  After some in a row, blobs go in chunks, and chunks get smaller: less is lost, and
        a limit that shows itself by nothing else is found.
        """
        self._breaks += 1
        if self._breaks < _BREAKS or Way.CHUNKS in self._refused:
            return
        if way is Way.CHUNKS:
            self.chunk_size = max(_LEAST_CHUNK, self.chunk_size // 2)
        self._in_chunks_from = self.chunk_size + 1


class Session(Struct):
    """One upload session.  ``at`` is the request that goes on, but for its method, headers and body."""

    repository: Repository
    at: Request
    least: int = 0  # bytes that a chunk, but the last, must have
    offset: int = 0  # bytes that the registry has taken
    offered: int = 0  # bytes that were ever sent

    def moved(self, answer: Answer) -> None:
        """Follow the answer's ``Location``, if there is one; the newest one counts."""
        if location := answer.headers.get("Location"):
            self.at = _located(self.repository, answer, location)

    def state(self) -> Unfinished:
        """The state that a later run needs to go on."""
        return Unfinished(str(self.at.url), self.offset, self.at.reach)


def opened(repository: Repository, answer: Answer) -> Session:
    """The session that an answer of status 202 offers; raises ``RegistryError`` if it does not say where."""
    location = answer.headers.get("Location")
    if not location:
        raise RegistryError(answer.request, answer.status, ["an upload was accepted, but not said where to"])
    at = _located(repository, answer, location)
    return Session(repository, at, least_chunk(answer.headers.get("OCI-Chunk-Min-Length")))


def continued(repository: Repository, state: Unfinished, size: int) -> Session | None:
    """The session that a journal remembers; None when its place is not one that we would go to today."""
    base = repository.registry.base
    try:
        url = URL(state.location, encoded=True)
        check_hop(base, url, None, "the journal of uploads")
        reach = None if state.reach is None else Scope(state.reach)
    except (ValueError, Unsafe):
        return None
    is_own = origin(url) == origin(base)
    if not is_own and reach is None:
        return None
    at = _request(repository, url, None if is_own else reach)
    return Session(repository, at, offset=state.offset, offered=size)


def _located(repository: Repository, answer: Answer, location: str) -> Request:
    """The place that ``location`` names, with credentials only if it is the registry's own origin."""
    base = repository.registry.base
    try:
        location = upgraded_location(base, answer.url, location)
    except ValueError:
        raise Unsafe(f"{answer.url.host} names no address for an upload") from None
    start = Request(method="GET", url=answer.url)
    if origin(answer.url) != origin(base):
        start = structs.replace(start, reach=answer.scope)
    followed = repository.registry.transport.redirected(start, location, answer.scope, what="an upload's location")
    return _request(repository, followed.url, followed.reach)


def _request(repository: Repository, url: URL, reach: Scope | None) -> Request:
    is_own = origin(url) == origin(repository.registry.base)
    return Request(
        method="GET",
        url=url,
        authorizer=repository.authorizer if is_own else None,
        reach=None if is_own else reach,
        repeatable=False,
        patience=repository.registry.transport.limits.commit,
    )
