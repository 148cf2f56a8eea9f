"""Files: written whole, locked, flushed to the disk; and the errors for those that cannot be read or written."""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from io import FileIO
from pathlib import Path
from typing import TypeAlias

from syncer.errors import InvalidFile, OutOfFiles, TargetError, TargetFull, human_bytes, is_out_of_files
from syncer.failpoints import reach

MAKE_ROOM = "make room and run the same command again: it goes on where it stopped"
_HINTS = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EFBIG: "the file system or a limit (ulimit -f) does not allow a file of this size",
    errno.EACCES: "choose another directory with --output, or change its permissions",
    errno.EPERM: "choose another directory with --output, or change its permissions",
    errno.EROFS: "choose another directory with --output",
    errno.EIO: "the disk may be failing; look into the kernel's log (dmesg)",
}

_FLUSHED = 32 * 1024 * 1024  # bytes that are brought to the disk at once
_STAT_BLOCK = 512  # bytes, whatever the file system's own blocks are
_UNFINISHED = ".unfinished"
_ABANDONED = 3600.0  # seconds; a file that is in memory already is written in far less


InPlace: TypeAlias = tuple[int, Iterable[tuple[int, int]]]
"""Ranges of an open file: its descriptor, and the offset and the length in bytes of each range."""


class writing:  # noqa: N801  (used like a function; as a generator it would cost more than what it watches)
    """Raise ``TargetFull`` for an ``OSError`` in the block, which writes a bundle to ``path``."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            if is_out_of_files(error):
                raise OutOfFiles from error
            reason = os.strerror(error.errno) if error.errno else str(error)
            hint = _HINTS.get(error.errno or 0)
            raise TargetFull(f"cannot write {self._path}: {reason.lower()}", hint=hint) from error


@contextmanager
def saving(path: Path, *, hint: str | None = None) -> Iterator[None]:
    """Raise ``TargetError`` for an ``OSError`` in the block, which writes any other file than a bundle to ``path``."""
    try:
        yield
    except OSError as error:
        if is_out_of_files(error):
            raise OutOfFiles from None
        raise TargetError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from None


@contextmanager
def reading(path: Path, *, hint: str | None = None) -> Iterator[None]:
    """Raise ``InvalidFile`` for an ``OSError`` in the block, which reads a user's file at ``path``."""
    try:
        yield
    except OSError as error:
        if is_out_of_files(error):
            raise OutOfFiles from None
        problem = f"it cannot be read: {error.strerror or error}"
        if isinstance(error, IsADirectoryError):
            problem = "it is a directory, where a file is wanted"
        raise InvalidFile(path, problem, hint=hint) from None


def unreadable(path: Path, *, or_directory: bool = False) -> str | None:
    """The reason why the file, ``or_directory``, at ``path`` cannot be read, as a sentence; None when it can.

    It is not opened: what is in a pipe is read once.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is not there"
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISDIR(mode) and not or_directory:
        return f"{path} is a directory, where a file is wanted"
    return None if os.access(path, os.R_OK) else f"{path} cannot be read: {os.strerror(errno.EACCES)}"


def write_whole(
    path: Path, content: bytes, *, mode: int | None = None, is_hint: bool = False, by_way_of: Path | None = None
) -> None:
    """Write ``content`` as the file ``path``, whole or not at all: see ``open_whole``."""
    with open_whole(path, mode=mode, is_hint=is_hint, by_way_of=by_way_of) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]


@contextmanager
def open_whole(
    path: Path, *, mode: int | None = None, is_hint: bool = False, by_way_of: Path | None = None
) -> Iterator[FileIO]:
    """Open a new file for the block, which writes it; after that it is the file ``path``.

    A reader finds the old content or the new; a run that is killed leaves the old content.

    The file has the permissions ``mode`` from its first byte on, or those that the user's umask allows.  It is on
    the disk when the block has ended, unless it ``is_hint``, which may be lost by a power failure.  The content
    is first written to a hidden file beside ``path``; when a run was killed in between, a later one that writes
    ``path`` removes that.  With ``by_way_of`` it is written to that directory, of the same file system, which
    the caller clears.  A symbolic link at ``path`` is replaced.

    Raises ``OSError``, and leaves nothing behind then, nor when the block raises.
    """
    if by_way_of is None:
        remove_abandoned(path.parent, f".{path.name}.")
    temporary = (by_way_of or path.parent) / f".{path.name}.{os.urandom(6).hex()}{_UNFINISHED}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(temporary, flags, 0o666 if mode is None else mode)
    try:
        with open(file, "wb", buffering=0) as raw:  # noqa: PTH123 - a descriptor, not a path
            if mode is not None:
                os.fchmod(file, mode)  # whatever the umask takes away
            yield raw
            if not is_hint:
                sync(file)
        reach("files.written")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not is_hint:
        sync_path(path.parent)


def remove_abandoned(directory: Path, start: str = ".") -> None:
    """Remove the hidden files that killed runs left in ``directory``, of those whose names begin with ``start``."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not (entry.name.startswith(start) and entry.name.endswith(_UNFINISHED)):
                continue
            with suppress(FileNotFoundError):  # another run was faster
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - _ABANDONED:
                    os.unlink(entry)  # noqa: PTH108 - an entry, not a path


def lock(path: Path, *, mode: int = 0o666) -> int:
    """Lock the file like ``try_lock``, but wait while another process has locked it."""
    file = _open_locked(path, mode, fcntl.LOCK_EX)
    assert file is not None
    return file


def try_lock(path: Path, *, mode: int = 0o666, append: bool = False) -> int | None:
    """Open the file ``path``, which is made if need be, and lock it; None where another process has locked it.

    Returns a descriptor for reading and writing.  The lock is the kernel's: it ends when the descriptor is closed,
    or with the process, however that ends.  A locked file may be renamed or removed by its owner; what is at
    ``path`` at the end is the file that was locked.  Raises ``OSError``, also for a symbolic link.
    """
    return _open_locked(path, mode, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_APPEND if append else 0)


def _open_locked(path: Path, mode: int, operation: int, flags: int = 0) -> int | None:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, mode)
        try:
            fcntl.flock(file, operation)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its owner renamed or removed it before we had the lock


def lock_holder(path: Path) -> str:
    """The process that has locked the file ``path``, such as `` (process 4711, begun 22:01)``, for a message.

    Empty where that cannot be told: by a system without ``/proc/locks``, or for a process in another container.
    """
    try:
        file = path.stat()
        place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        locks = map(str.split, Path("/proc/locks").read_text().splitlines())
        number = next(int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5] == place)
        ticks = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19])  # proc(5): starttime
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return ""
    began = datetime.fromtimestamp(int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")).astimezone()
    form = "%H:%M" if began.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M"
    return f" (process {number}, begun {began:{form}})"


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """The bytes of memory that files may be kept in; None where the system does not tell.

    What ``/proc/meminfo`` says is available, or the limit of the control group, as in a container (cgroup v2).
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)


def room_for(file: int) -> int | None:
    """The size in bytes that ``file`` can reach before its disk is full; None when the file system does not know."""
    disk = os.fstatvfs(file)
    if not disk.f_blocks:
        return None
    found = os.fstat(file)
    own = found.st_blocks * _STAT_BLOCK if stat.S_ISREG(found.st_mode) else 0
    return own + disk.f_bavail * disk.f_frsize


def room_at(path: Path) -> int | None:
    """The size in bytes that the file ``path``, or a new one in the directory ``path``, can reach.

    The file need not be there, nor its directory.  None when the file system does not know, or nobody may look.
    """
    with suppress(OSError):
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        file = os.open(there, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return room_for(file)
        finally:
            os.close(file)
    return None


def no_room(path: Path, needed: int, room: int, *, hint: str = MAKE_ROOM) -> TargetFull:
    """The error for the file ``path`` of ``needed`` bytes or more, where its disk can hold ``room`` bytes of it."""
    return TargetFull(f"{path} needs {human_bytes(needed)}, and {human_bytes(room)} are free", hint=hint)


def require_room(directory: Path, needed: int, what: str) -> None:
    """Raise ``TargetError`` unless a new file in ``directory``, one of temporary files, can hold ``what``."""
    room = room_at(directory)
    if room is not None and needed > room:
        raise TargetError(
            f"{what} needs {human_bytes(needed)} in {directory}, and {human_bytes(room)} are free",
            hint="set TMPDIR to a directory on a disk with more room",
        )


class BlockFile:
    """An open file of which contents take as many blocks as they need, wherever these are; ``limit`` is in bytes."""

    BLOCK = 128 * 1024  # bytes

    def __init__(self, file: int, limit: int) -> None:
        self.file = file
        self.limit = limit // self.BLOCK  # blocks
        self.taken = 0
        self._top = 0  # the first block that was never taken
        self._free: list[int] = []  # a heap of the free ones before it

    @classmethod
    def count(cls, size: int) -> int:
        """The number of blocks that ``size`` bytes need."""
        return -(-size // cls.BLOCK)

    def take(self, count: int) -> list[int] | None:
        """Take ``count`` blocks, those at the front first; None when there are not so many."""
        if self.taken + count > self.limit:
            return None
        self.taken += count
        again = [heapq.heappop(self._free) for _ in range(min(count, len(self._free)))]
        new = range(self._top, self._top + count - len(again))
        self._top = new.stop
        return [*again, *new]

    def give(self, blocks: Iterable[int]) -> None:
        """Give ``blocks`` back; when all are back, the disk has its room back.  Raises ``OSError``."""
        for block in blocks:
            self.taken -= 1
            heapq.heappush(self._free, block)
        if not self.taken:
            self._top, self._free = 0, []
            os.ftruncate(self.file, 0)

    def shrink(self) -> None:
        """Take no more of the disk than it has granted, since it refuses more."""
        granted = os.fstat(self.file).st_blocks * _STAT_BLOCK
        self.limit = min(max(0, self.limit - 1), granted // self.BLOCK)

    def ranges(self, blocks: Sequence[int], position: int, length: int) -> Iterator[tuple[int, int]]:
        """The offsets in the file, and the lengths, of ``length`` bytes from ``position`` on of what has ``blocks``."""
        while length:
            index, within = divmod(position, self.BLOCK)
            count = min(length, self.BLOCK - within)
            yield blocks[index] * self.BLOCK + within, count
            position, length = position + count, length - count

    def write(self, blocks: Sequence[int], position: int, piece: memoryview) -> None:
        """Write ``piece`` at ``position`` of what has ``blocks``.  Raises ``OSError``."""
        for offset, length in self.ranges(blocks, position, len(piece)):
            done = 0
            while done < length:
                done += os.pwrite(self.file, piece[done:length], offset + done)
            piece = piece[length:]

    def read(self, blocks: Sequence[int], position: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``position`` on of what has ``blocks``.  Raises ``OSError``."""
        for offset, length in self.ranges(blocks, position, len(buffer)):
            done = 0
            while done < length:
                count = os.preadv(self.file, [buffer[done:length]], offset + done)
                if not count:
                    raise OSError(errno.EIO, "the file was cut short")
                done += count
            buffer = buffer[length:]


def allocate(file: int, offset: int, length: int) -> None:
    """Have the file system allocate ``length`` bytes of ``file`` from ``offset`` on, which then read as zeros.

    A file system that looks for room with every write may take several times as long for them (benchmarks/README.md).
    Nothing happens where the system or the file system has no ``fallocate``, or the disk is full, which the writes
    will say.
    """
    if (fallocate := _fallocate()) is not None:
        fallocate(file, 0, offset, length)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """The system's ``fallocate`` (fallocate(2)).

    Not ``os.posix_fallocate``: where a file system cannot allocate, as an NFS share, the C library then writes into
    every block.
    """
    import ctypes  # noqa: PLC0415  only large content needs it

    library = ctypes.CDLL(None)
    for name in ("fallocate64", "fallocate"):  # of 64 bits everywhere; musl has the second alone
        with suppress(AttributeError):
            function = getattr(library, name)
            function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
            return function  # type: ignore[no-any-return]
    return None


class Flusher:
    """Brings a file to the disk while it is written, so that the ``sync`` at its end has little to do.

    Any thread may tell of what was written.  One flush at a time runs in a thread of its own.  The file is opened
    anew for it, since a lock on the file would last as long as a flush that nobody waits for, and Linux tells an
    error of the disk once to each opening of a file: the ``sync`` at the end still gets it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0  # bytes, since the last flush began
        self._is_busy = False
        self._lock = threading.Lock()

    def wrote(self, size: int) -> None:
        """Count ``size`` bytes that were written, and begin a flush when there are enough of them."""
        with self._lock:
            self._written += size
            if self._written < _FLUSHED or self._is_busy:
                return
            self._written, self._is_busy = 0, True
        with suppress(RuntimeError):  # no thread is to be had: the end brings everything
            threading.Thread(target=self._flush, name="flush", daemon=True).start()

    def _flush(self) -> None:
        with suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                (os.fsync if sys.platform == "darwin" else os.fdatasync)(file)
            finally:
                os.close(file)
        self._is_busy = False


def sync(file: int) -> None:
    """Flush ``file`` to the disk itself; on macOS ``fsync`` alone would stop at the disk's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fsync(file)


def sync_path(path: Path) -> None:
    """Flush a file to the disk; for a directory the names in it, so that a rename survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems, shares of Windows among them, sync no directory
            raise
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents; all of them are on the disk afterwards."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_path(path.parent)


def mark(path: Path) -> None:
    """Make an empty file, which says something by its name alone; its directory is made if need be."""
    make_directory(path.parent)
    path.touch()
    sync_path(path.parent)


def rename(temporary: Path, path: Path) -> None:
    """Rename the finished file ``temporary`` to ``path``; both content and name are on the disk afterwards."""
    sync_path(temporary)
    temporary.replace(path)
    sync_path(path.parent)


def remove_file(path: Path) -> bool:
    """Remove a file; returns False when there is none.  Raises ``OSError``."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    sync_path(path.parent)
    return True
