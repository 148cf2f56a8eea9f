"""The directory of ``serve --disk``: the check that it may be used, its mark, its layout, and the sweep.

::

    syncer-registry.json                                    the mark: serve has made what is here
    lock                                                    empty, locked by the process that serves it
    blobs/<algorithm>/<hex>                                 content, manifests included
    repositories/<name>/_blobs/<algorithm>/<hex>            empty: this repository has that blob
    repositories/<name>/_manifests/<algorithm>/<hex>        the manifest's media type
    repositories/<name>/_referrers/<algorithm>-<hex>/<algorithm>-<hex>   subject, referrer
    repositories/<name>/_tags/<tag>                         a digest
    repositories/<name>/_uploads/<session>                  the bytes that arrived so far
    temporary/                                              files on their way to their name

The sweep removes content that no repository needs, while requests are served.  A blob belongs to a repository as long
as a manifest of that repository lists it, or as long as it is young, since the manifest of a push comes last.  Content
stays as long as a repository has it.  Only ``DELETE`` removes a manifest.  Content in doubt stays.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from msgspec import Struct, field

from syncer.errors import InvalidContent, Locked, SyncerError, UsageError
from syncer.files import lock_holder, try_lock, write_whole
from syncer.oci import Digest, parse_manifest
from syncer.oci.manifest import Manifest

MARK = "syncer-registry.json"
_VERSION = 1  # of what lies where
_MARK_CONTENT = json.dumps({"kind": "registry of syncer serve --disk", "version": _VERSION}).encode() + b"\n"

_LOCK = "lock"
_ALGORITHMS = ("sha256", "sha512")
_PARTS = ("blobs", *(f"blobs/{algorithm}" for algorithm in _ALGORITHMS), "repositories", "temporary")
_NOBODYS = "lost+found"  # which mkfs puts into an empty file system
_HINT = "name a new directory, an empty one, or one that serve --disk has made"

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.unfinished|[0-9a-f]{32}")  # the second by earlier versions


class Layout(Struct, frozen=True):
    """The paths below a directory of ``serve --disk``."""

    directory: Path

    @property
    def temporary(self) -> Path:
        return self.directory / "temporary"

    @property
    def repositories(self) -> Path:
        return self.directory / "repositories"

    def content(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def link(self, repository: str, kind: str, digest: Digest) -> Path:
        return self.repositories / repository / kind / digest.algorithm / digest.hex

    def names(self) -> Iterator[tuple[str, set[str]]]:
        """Each repository, and the names of its directories that start with an underscore."""
        for path, directories, _ in os.walk(self.repositories):
            parts = {name for name in directories if name.startswith("_")}
            directories[:] = [name for name in directories if name not in parts]
            if parts:
                yield os.path.relpath(path, self.repositories), parts

    def links(self, repository: str, kind: str) -> Iterator[Digest]:
        """The digests in ``_blobs`` or ``_manifests`` of a repository."""
        return _digests(self.repositories / repository / kind)

    def contents(self) -> Iterator[Digest]:
        return _digests(self.directory / "blobs")


@contextmanager
def taken(directory: Path) -> Iterator[Layout]:
    """Use ``directory`` for a registry: it is made if it does not exist, and locked for as long as the block lasts.

    A directory may be used if it has the mark, is empty, or was made by a version before there was a mark; then it
    is marked.  Raises ``UsageError`` for any other directory, in which nothing is changed, and ``Locked`` if another
    process uses it.
    """
    try:
        lock, layout = _take(directory)
    except OSError as error:
        raise UsageError(f"{directory} cannot be served: {_reason(directory, error)}", hint=_HINT) from None
    try:
        yield layout
    finally:
        os.close(lock)


def _take(directory: Path) -> tuple[int, Layout]:
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve(strict=True)  # wherever a symbolic link leads later
    _check(directory)
    lock = try_lock(directory / _LOCK)
    if lock is None:
        holder = lock_holder(directory / _LOCK)
        raise Locked(f"another run{holder} serves {directory}", hint="end that one, or name another directory")
    try:
        if not _is_marked(directory):
            write_whole(directory / MARK, _MARK_CONTENT)
        layout = Layout(directory)
        for part in _PARTS:
            (directory / part).mkdir(exist_ok=True)
        _remove_unfinished(layout.temporary)
    except BaseException:
        os.close(lock)
        raise
    return lock, layout


def _check(directory: Path) -> None:
    """Raise ``UsageError`` if the directory belongs to something else."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    if not (_is_marked(directory) or _is_of_before_the_mark(directory) or _is_empty(directory, names)):
        others = [name for name in names if name != _NOBODYS]
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UsageError(
            f"{directory} is not empty and no registry of syncer's: it holds {', '.join(others[:3])}{more}", hint=_HINT
        )
    for part in _PARTS:
        if (directory / part).is_symlink():
            raise UsageError(
                f"{directory / part} is a symbolic link, which serve does not follow",
                hint="put the directory itself there, or mount its file system there",
            )


def _is_marked(directory: Path) -> bool:
    try:
        mark = json.loads(read_plain(directory / MARK))
        version = mark["version"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    if version != _VERSION:
        raise UsageError(
            f"{directory} was made by a version of syncer that keeps content in another way",
            hint="serve it with that version, and copy its images with syncer sync",
        )
    return True


def _is_of_before_the_mark(directory: Path) -> bool:
    """Tell whether the directory has all that early versions of ``serve --disk`` made, and no image layout."""
    parts = [*_PARTS[:-1]]
    return (
        _is_empty_file(directory / _LOCK)
        and all((directory / part).is_dir() for part in parts)
        and not (directory / "oci-layout").exists()
        and all(
            not entry.is_dir() for algorithm in _ALGORITHMS for entry in (directory / "blobs" / algorithm).iterdir()
        )
    )


def _is_empty(directory: Path, names: Sequence[str]) -> bool:
    """Tell whether the directory is empty, or has only files of a first start that was killed."""
    for name in names:
        path = directory / name
        if name == _NOBODYS or (name == _LOCK and _is_empty_file(path)):
            continue
        if name in _PARTS and path.is_dir() and not any(files for _, _, files in os.walk(path)):
            continue
        if name.startswith(f".{MARK}.") and _TEMPORARY.fullmatch(name):
            continue
        return False
    return True


def _is_empty_file(path: Path) -> bool:
    with suppress(FileNotFoundError):
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_size == 0
    return False


def _remove_unfinished(temporary: Path) -> None:
    """Remove unfinished files of runs that were killed; other files there do not belong to syncer."""
    with os.scandir(temporary) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)  # noqa: PTH108  # an entry, not a path


def open_plain(path: Path) -> int:
    """Open the file ``path`` for reading, and return its descriptor.

    Raises ``FileNotFoundError`` for a symbolic link, a pipe or a device as well.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise FileNotFoundError(errno.ENOENT, "no plain file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(errno.ENOENT, "no plain file", str(path))
    return file


def read_plain(path: Path) -> bytes:
    """Read the whole file ``path``; raises the errors of ``open_plain``."""
    with open(open_plain(path), "rb", buffering=0) as file:  # a descriptor, not a path
        return file.readall()


def _digests(directory: Path) -> Iterator[Digest]:
    """The digests that files below ``directory`` are named after."""
    for algorithm in _ALGORITHMS:
        with suppress(FileNotFoundError):
            for name in os.listdir(directory / algorithm):  # noqa: PTH208  # thousands of them
                with suppress(InvalidContent):
                    yield Digest.parse(f"{algorithm}:{name}")


def _reason(directory: Path, error: OSError) -> str:
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "it leads nowhere" if directory.is_symlink() and not directory.exists() else "it is not a directory"
    return (error.strerror or str(error)).lower()


class Arrivals(Struct):
    """Digests that requests need now, or have needed since the sweep began: none of them is removed.

    A sweep reads a repository once.  A request that makes a link, or relies on one, must add its digest here first.
    """

    _lock: Lock = field(default_factory=Lock)  # held for a moment at a time
    _now: Counter[Digest] = field(default_factory=Counter)
    _since: set[Digest] | None = None  # None while nothing is swept

    @contextmanager
    def of(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keep ``digests`` while the block lasts, and until the end of a sweep that runs at that time."""
        needed = set(digests)
        with self._lock:
            self._now.update(needed)
        try:
            yield
        finally:
            with self._lock:
                self._now -= Counter(needed)
                if self._since is not None:
                    self._since |= needed

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember the digests that requests need, for as long as the block lasts."""
        with self._lock:
            self._since = set()
        try:
            yield
        finally:
            with self._lock:
                self._since = None

    def remove(self, digest: Digest, path: Path, before: float) -> bool:
        """Remove the file ``path`` of ``digest``, unless it is needed or younger than ``before``."""
        with self._lock:
            if digest in self._now or digest in (self._since or ()) or not _is_older(path, before):
                return False
            path.unlink()
            return True


class Sweep(Struct, frozen=True):
    """One walk over a registry's directory, which removes content older than ``before`` (seconds since 1970).

    It ends early, with no step half done, when ``going_on`` returns False.
    """

    layout: Layout
    arrivals: Arrivals
    before: float
    going_on: Callable[[], bool]

    def run(self) -> int:
        """Remove unneeded content, and return the number of blobs and manifests that were removed."""
        removed = 0
        with self.arrivals.watched():
            kept: set[Digest] = set()
            for repository, parts in list(self.layout.names()):
                if not self.going_on():
                    return removed
                if "_blobs" in parts:
                    self._unlink(repository)
                for kind in parts & {"_blobs", "_manifests"}:
                    kept.update(self.layout.links(repository, kind))
            for digest in self.layout.contents():
                if not self.going_on():
                    break
                if digest not in kept:
                    removed += self.arrivals.remove(digest, self.layout.content(digest), self.before)
        return removed

    def _unlink(self, repository: str) -> None:
        """Remove the links of a repository to blobs that none of its manifests lists."""
        links = {digest: self.layout.link(repository, "_blobs", digest) for digest in self._blobs(repository)}
        if not links:
            return
        for manifest in self.layout.links(repository, "_manifests"):
            listed = self._listed(repository, manifest)
            if listed is None or not self.going_on():
                return
            for digest in listed:
                links.pop(digest, None)
        for digest, link in links.items():
            self.arrivals.remove(digest, link, self.before)

    def _blobs(self, repository: str) -> Iterator[Digest]:
        """The blobs of a repository that are old enough to be removed."""
        for digest in self.layout.links(repository, "_blobs"):
            if _is_older(self.layout.link(repository, "_blobs", digest), self.before):
                yield digest

    def _listed(self, repository: str, digest: Digest) -> set[Digest] | None:
        """The digests that a manifest lists, foreign layers included; None when it cannot be read."""
        try:
            media_type = read_plain(self.layout.link(repository, "_manifests", digest)).decode()
            manifest = parse_manifest(read_plain(self.layout.content(digest)), media_type, expected=digest)
        except FileNotFoundError:
            # deleted a moment ago; or damaged, if only its content is missing
            return None if self.layout.link(repository, "_manifests", digest).exists() else set()
        except (SyncerError, UnicodeDecodeError):
            return None
        if isinstance(manifest, Manifest):
            return {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return {child.digest for child in manifest.manifests}


def _is_older(path: Path, before: float) -> bool:
    """Tell whether ``path`` is a regular file that was last changed before that; False when it is gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime < before
