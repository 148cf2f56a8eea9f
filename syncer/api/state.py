"""The state of this machine between runs: hints in files that are safe to delete, and locks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import orjson

from syncer.errors import Locked
from syncer.files import lock_holder, remove_abandoned, try_lock, write_whole
from syncer.transfer.memory import Memory

_HINT = "--state-dir names another directory"


class Lost:
    """The listener to errors of hints that cannot be kept; it warns of the first, and the run goes on without them."""

    def __init__(self, directory: Path, warn: Callable[[str], None] | None) -> None:
        self._directory = directory
        self._warn = warn

    def __call__(self, error: OSError) -> None:
        warn, self._warn = self._warn, None
        if warn:
            warn(f"{_why(self._directory, error)}: the next run will not know what this one did; {_HINT}")


def _why(directory: Path, error: OSError) -> str:
    return f"{directory} cannot be written ({error.strerror or error})"


@contextmanager
def hold_lock(directory: Path, subject: str, warn: Callable[[str], None]) -> Iterator[Path | None]:
    """Let one run at a time do ``subject``, such as a sync file; raises ``Locked``.

    The lock is the kernel's: it ends with the process, however that ends.  The block gets ``directory``, or None
    where that cannot be written: then there is no lock, of which ``warn`` is told.
    """
    path = _file(directory / "locks", subject, "lock")
    usable: Path | None = directory
    file = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = try_lock(path)
    except OSError as error:
        usable = None
        warn(f"{_why(directory, error)}: nothing is kept for the next run, nor another run kept away; {_HINT}")
    if usable and file is None:
        raise Locked(
            f"another run{lock_holder(path)} is using {subject}", hint="wait for it to end; if it hangs, end it"
        )
    try:
        yield usable
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def open_memory(directory: Path | None, subject: str, lost: Callable[[OSError], None]) -> Iterator[Memory]:
    """Open the memory of earlier runs about the target ``subject``; however the block ends, the next runs have it.

    Without a directory nothing is remembered; ``lost`` is told why nothing can be.
    """
    if directory is None:
        yield Memory()
        return
    path = _file(directory / "targets", subject, "json")
    memory = read_memory(directory, subject)
    before = orjson.dumps(memory.to_json())
    try:
        yield memory
    finally:
        if (after := orjson.dumps(memory.to_json())) != before:
            try:  # a full disk costs the next run some requests, and this one nothing
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(path, after, is_hint=True, by_way_of=_cleared(path.parent))
            except OSError as error:
                lost(error)


@lru_cache
def _cleared(directory: Path) -> Path:
    """``directory`` without what killed runs left there, which is looked for once: thousands of hosts may be in it."""
    remove_abandoned(directory)
    return directory


def read_memory(directory: Path | None, subject: str) -> Memory:
    """The memory of earlier runs about the target ``subject``, for looking only."""
    try:
        content = _file(directory / "targets", subject, "json").read_bytes() if directory else b""
        return Memory.from_json(orjson.loads(content))
    except (OSError, ValueError):
        return Memory()


def _file(directory: Path, subject: str, suffix: str) -> Path:
    return directory / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.{suffix}"
