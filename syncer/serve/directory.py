"""The directory of ``serve --disk``: which ones are taken, the mark by which they are known again, and what lies where.

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
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from syncer.errors import InvalidContent, Locked, UsageError
from syncer.files import try_lock, write_whole
from syncer.oci import Digest

MARK = "syncer-registry.json"
_VERSION = 1  # of what lies where
_MARK_CONTENT = json.dumps({"kind": "registry of syncer serve --disk", "version": _VERSION}).encode() + b"\n"

_LOCK = "lock"
_ALGORITHMS = ("sha256", "sha512")
_PARTS = ("blobs", *(f"blobs/{algorithm}" for algorithm in _ALGORITHMS), "repositories", "temporary")
_NOBODYS = "lost+found"  # which mkfs puts into an empty file system
_HINT = "name a new directory, an empty one, or one that serve --disk has made"

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.unfinished|[0-9a-f]{32}")  # the second by earlier versions


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below a directory that is ours."""

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
        """Each repository, and which of the directories that start with an underscore it has."""
        for path, directories, _ in os.walk(self.repositories):
            parts = {name for name in directories if name.startswith("_")}
            directories[:] = [name for name in directories if name not in parts]
            if parts:
                yield os.path.relpath(path, self.repositories), parts

    def links(self, repository: str, kind: str) -> Iterator[Digest]:
        """What a repository has of ``_blobs`` or ``_manifests``."""
        return _digests(self.repositories / repository / kind)

    def contents(self) -> Iterator[Digest]:
        return _digests(self.directory / "blobs")


@contextmanager
def taken(directory: Path) -> Iterator[Layout]:
    """Take ``directory``, which is made if need be, for a registry: it is locked for as long as the block lasts.

    A directory is taken if it bears our mark, is empty, or is what a version of before the mark has made; then it
    is marked.  Raises ``UsageError`` for any other, in which nothing is changed, and ``Locked`` if another process
    has it.
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
        raise Locked(f"another process serves {directory}", hint="end that one, or name another directory")
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
    """Raise ``UsageError`` if the directory is somebody else's."""
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
    """Whether all that ``serve --disk`` made from the first moment on is there, and nothing of an image layout."""
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
    """Whether there is nothing, or nothing but what a first start made that was killed."""
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
    """Remove what killed runs left half written; whatever else is there was not made by us."""
    with os.scandir(temporary) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)  # noqa: PTH108  # an entry, not a path


def open_plain(path: Path) -> int:
    """A descriptor of the file ``path`` for reading; raises ``FileNotFoundError`` for a link, a pipe or a device."""
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
    """All of a file that ``open_plain`` opens."""
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
