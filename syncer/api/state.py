"""The state of this machine between runs: hints in files that are safe to delete, and locks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from syncer.errors import Locked
from syncer.files import saving, try_lock, write_whole
from syncer.transfer.memory import Memory

_HINT = "name another with --state-dir"


@contextmanager
def hold_lock(directory: Path, subject: str) -> Iterator[None]:
    """Let one run at a time do ``subject``, such as a sync file; raises ``Locked`` and ``TargetError``.

    The lock is the kernel's: it ends with the process, however that ends.
    """
    path = _file(directory / "locks", subject, "lock")
    with saving(directory, hint=_HINT):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = try_lock(path)
    if file is None:
        raise Locked(f"another run is at {subject}", hint="wait for it to end; if it hangs, end that process")
    try:
        yield
    finally:
        os.close(file)


@contextmanager
def open_memory(directory: Path | None, subject: str) -> Iterator[Memory]:
    """Open the memory of earlier runs about the target ``subject``; however the block ends, the next runs have it.

    Without a directory nothing is remembered.  Raises ``TargetError`` for a directory that cannot be written.
    """
    if directory is None:
        yield Memory()
        return
    path = _file(directory / "targets", subject, "json")
    with saving(directory, hint=_HINT):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    memory = read_memory(directory, subject)
    try:
        yield memory
    finally:
        with suppress(OSError):  # a full disk costs the next run some requests, and this one nothing
            write_whole(path, orjson.dumps(memory.to_json()), is_hint=True)


def read_memory(directory: Path | None, subject: str) -> Memory:
    """The memory of earlier runs about the target ``subject``, for looking only."""
    try:
        content = _file(directory / "targets", subject, "json").read_bytes() if directory else b""
        return Memory.from_json(orjson.loads(content))
    except (OSError, ValueError):
        return Memory()


def _file(directory: Path, subject: str, suffix: str) -> Path:
    return directory / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.{suffix}"
