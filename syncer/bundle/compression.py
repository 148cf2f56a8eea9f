"""Archives that are compressed as a whole: unpacked into a spool file, as far as they say that they will reach.

No byte is written beyond what the headers of the tar inside have announced, and nothing is begun for which the disk
has no room.  So what grows without end is given up at its first header that lies.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

from msgspec import Struct, field

from syncer.bundle import tar, zstd
from syncer.bundle.framing import File, read_at, write_all
from syncer.errors import TargetError, TargetFull, human_bytes
from syncer.files import room_for

PIECE = 1024 * 1024
"""Bytes that are read, and made of them, at a time."""

_MAX_XZ_MEMORY = 256 * 1024 * 1024  # bytes; `xz -9` needs 65 MiB
_KEPT_FREE = 64 * 1024 * 1024  # bytes of the spool's disk that are left to others
_GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, an unknown system
_GZIP_LEVEL = 6
_DICTIONARY = 32 * 1024  # bytes that deflate looks back
_LAST_BLOCK = b"\x03\x00"  # an empty one

Checkpoint = Callable[[], None]
"""Called between two pieces of work; raises when nobody waits for it any more."""


class Decoder(Protocol):
    """One stream, as ``bz2``, ``lzma`` and ``zstd`` decode it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """A member of a gzip file, with the methods of the other decoders."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


def _xz_decoder() -> Decoder:
    return lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)


Make = Callable[[], Decoder]


def decoder_of(start: bytes) -> tuple[str, Make] | None:
    """The name of the compression of a file that begins with ``start``, and what undoes it; None for none of four."""
    if start.startswith(b"\x1f\x8b"):
        return "gzip", _Gzip
    if zstd.is_zstd(start) or zstd.is_skippable(start):
        return "zstd", zstd.stream_decoder
    if start.startswith(b"\xfd7zXZ\0"):
        return "xz", _xz_decoder
    if start.startswith(b"BZh"):
        return "bzip2", bz2.BZ2Decompressor
    return None


class SpoolFile:
    """A file without a name in the directory of temporary files, made when it is first needed, gone with the process.

    ``path`` is the archive for which it is, and only named in errors; ``checkpoint`` is called at each piece.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self._path = path
        self._directory = Path()  # where it is, once it is
        self.checkpoint = checkpoint
        self._opened: IO[bytes] | None = None
        self.size = 0  # bytes

    @property
    def file(self) -> int:
        """The open file; raises ``TargetError`` when it cannot be made."""
        if self._opened is None:
            try:
                self._directory = Path(tempfile.gettempdir())
                self._opened = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  see close()
            except OSError as error:
                raise TargetError(
                    f"no temporary file can be made for what is in {self._path}: {error.strerror or error}",
                    hint="set TMPDIR to a directory on a disk with more room",
                ) from None
        return self._opened.fileno()

    def close(self) -> None:
        if self._opened:
            self._opened.close()

    def need(self, size: int) -> None:
        """Raise ``TargetFull`` unless the file can grow to ``size`` bytes."""
        room = room_for(self.file)
        if room is not None and size + _KEPT_FREE > room:
            free = human_bytes(max(0, room - _KEPT_FREE))
            raise TargetFull(
                f"{self._path} must be unpacked, which needs at least {human_bytes(size)}, and {free} are free in "
                f"{self._directory}",
                hint="set TMPDIR to a directory on a disk with more room",
            )

    def append(self, piece: bytes | memoryview) -> None:
        """Write ``piece`` at the end."""
        self.checkpoint()
        try:
            write_all(self.file, [piece], self.size)
        except OSError as error:
            raise TargetFull(f"cannot write in {self._directory}: {error.strerror}") from None
        self.size += len(piece)

    def add(self, content: Iterable[bytes | memoryview]) -> tuple[int, int]:
        """Write ``content`` with the zeros after it that a tar has; returns where it begins, and how long it is."""
        start = self.size
        for piece in content:
            self.append(piece)
        length = self.size - start
        self.append(bytes(tar.padding(length)))
        return start, length


class Streams(Struct):
    """The content of a file of one compressed stream, or of many one after the other."""

    file: File
    size: int  # bytes of the file
    make: Make
    _read: int = field(default=0)

    def __iter__(self) -> Iterator[bytes]:
        """Yield what is in it, piece by piece; raises ``ValueError`` when it is damaged or cut short."""
        try:
            yield from self._pieces()
        except (zlib.error, lzma.LZMAError, zstd.Error, OSError, EOFError) as error:
            raise ValueError(f"it cannot be decompressed: {error}") from None

    def _pieces(self) -> Iterator[bytes]:
        data = self._next()
        while data:
            decoder = self.make()
            yield from self._stream(decoder, data)
            data = decoder.unused_data.lstrip(b"\0")  # gzip and xz files may be filled up with zeros
            while not data and self._read < self.size:
                data = self._next().lstrip(b"\0")

    def _stream(self, decoder: Decoder, data: bytes) -> Iterator[bytes]:
        while True:
            piece = decoder.decompress(data, PIECE)
            if piece:
                yield piece
            if decoder.eof:
                return
            data = self._next() if decoder.needs_input else b""
            if decoder.needs_input and not data and not piece:
                raise ValueError("it is cut short")

    def _next(self) -> bytes:
        data = read_at(self.file, PIECE, self._read)
        self._read += len(data)
        return data


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``pieces``, each of the same length but the last, as one gzip stream that is the same every time and everywhere.

    Its header tells neither time nor machine.  Pieces are compressed beside each other, each with the end of the one
    before as its dictionary, as pigz does it.
    """
    workers = os.cpu_count() or 1
    checksum = size = 0
    before = b""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        yield _GZIP
        for piece in pieces:
            waiting.append(pool.submit(_deflate, piece, before))
            before = piece[-_DICTIONARY:]
            checksum = zlib.crc32(piece, checksum)
            size += len(piece)
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        yield from (each.result() for each in waiting)
    yield _LAST_BLOCK + struct.pack("<II", checksum, size % 2**32)


def _deflate(piece: bytes, before: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -15, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY, before)
    return packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
