"""Files and directories that are on the disk when a function returns, and the words for a disk that refuses."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

from syncer.errors import TargetFull

MAKE_ROOM = "make room and run the same command again: it goes on where it stopped"
_HINTS = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no file of this size",
    errno.EACCES: "choose another directory with --output, or change its permissions",
    errno.EPERM: "choose another directory with --output, or change its permissions",
    errno.EROFS: "choose another directory with --output",
    errno.EIO: "the disk may be failing; its kernel log says more",
}


_STAT_BLOCK = 512  # bytes, whatever the file system's own blocks are


class writing:  # noqa: N801  (used like a function; as a generator it would cost more than what it watches)
    """Turns what the operating system says about writing ``path`` into ``TargetFull``."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else str(error)
            hint = _HINTS.get(error.errno or 0)
            raise TargetFull(f"cannot write {self._path}: {reason.lower()}", hint=hint) from error


def room_for(file: int) -> int | None:
    """Bytes that ``file`` may come to have before its disk is full; None when the disk does not tell."""
    disk = os.fstatvfs(file)
    if not disk.f_blocks:
        return None
    return os.fstat(file).st_blocks * _STAT_BLOCK + disk.f_bavail * disk.f_frsize


def sync(file: int) -> None:
    """Bring what was written to ``file`` to the disk itself; macOS's ``fsync`` stops at the disk's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fsync(file)


def sync_directory(directory: Path) -> None:
    """Make a rename inside ``directory`` last through a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """A directory, and those above it that are missing."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def mark(path: Path) -> None:
    """An empty file, whose name says it all."""
    make_directory(path.parent)
    path.touch()
    _sync(path.parent)


def rename(temporary: Path, path: Path) -> None:
    """Give a finished file its name, at once or not at all."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def removed(path: Path) -> bool:
    """Remove a file; False when there is none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync(path.parent)
    return True
