"""Reading archives (packs, charts) in memory: nothing is extracted to the disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from syncer.errors import InvalidFile

MAX_UNPACKED = 256 * 1024 * 1024
"""Bytes of an unpacked archive; known packs and charts stay below 10 MiB."""

_MAX_MEMBER = 32 * 1024 * 1024
_MAX_MEMBERS = 20_000
_GZIP_MAGIC = b"\x1f\x8b"


def read_archive(
    file: IO[bytes], origin: Path | str, wanted: Callable[[str], bool], *, limit: int = MAX_UNPACKED
) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each regular file of a tar whose path is ``wanted``; the tar may be gzipped.

    Paths are relative, without ``./``.  Raises ``InvalidFile``, which names ``origin``, for a file that is not a tar
    and for one that unpacks to more than ``limit`` bytes.
    """
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    plain: Any = gzip.GzipFile(fileobj=file) if magic == _GZIP_MAGIC else file
    limited: Any = _Limited(plain, origin, limit)
    try:
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            for number, member in enumerate(archive):
                if number >= _MAX_MEMBERS:
                    raise InvalidFile(origin, f"it holds more than {_MAX_MEMBERS} files")
                path = member.name.removeprefix("./")
                if member.isreg() and wanted(path):
                    yield path, _content(archive, member, origin)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, RecursionError) as error:
        raise InvalidFile(origin, f"it is not a whole tar archive: {error}") from None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, origin: Path | str) -> bytes:
    if member.size > _MAX_MEMBER:
        raise InvalidFile(origin, f"{member.name[:160]} in it has {member.size} bytes, more than {_MAX_MEMBER}")
    stream = archive.extractfile(member)
    return stream.read() if stream else b""


class _Limited:
    """A stream that raises an error after ``limit`` bytes, so that a gzip bomb does not fill the memory."""

    def __init__(self, file: Any, origin: Path | str, limit: int) -> None:
        self._file = file
        self._origin = origin
        self._limit = limit
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(piece)
        if self._left < 0:
            raise InvalidFile(self._origin, f"it unpacks to more than {self._limit} bytes")
        return piece
