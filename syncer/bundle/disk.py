"""What a disk says when it refuses, in words that help."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syncer.errors import TargetFull

_HINTS = {
    errno.ENOSPC: "make room and run the same command again: it goes on where it stopped",
    errno.EDQUOT: "make room and run the same command again: it goes on where it stopped",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no file of this size",
    errno.EACCES: "choose another directory with --output, or change its permissions",
    errno.EPERM: "choose another directory with --output, or change its permissions",
    errno.EROFS: "choose another directory with --output",
    errno.EIO: "the disk may be failing; its kernel log says more",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing ``path`` into ``TargetFull``."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise TargetFull(f"cannot write {path}: {reason.lower()}", hint=_HINTS.get(error.errno or 0)) from error


def sync_directory(directory: Path) -> None:
    """Make a rename inside ``directory`` last through a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
