"""The two forms of a tar's bytes in a bundle file: inside zstd frames, or as they are.

A *member* is one entry of the tar, header and padding included.  Positions count within a member,
offsets count in the file.  Writer and reader ask a ``Framing`` for the way between the two, and are the
same for both forms of a bundle.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from syncer.bundle import tar, zstd
from syncer.bundle.zstd import Frame

Format: TypeAlias = Literal["tar.zst", "tar"]


class RangedFile(ABC):
    """A file that this machine does not have, of which ranges can be read, in any thread but the event loop's."""

    size: int  # bytes

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """The ``length`` bytes from ``offset`` on, or those that there are.  Raises a ``SyncerError``."""
        ...

    @abstractmethod
    def keep(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Bring in ``ranges``, each an offset and a length, in few requests; any thread may read them from then on."""
        ...


File: TypeAlias = int | RangedFile
"""An open file of this machine, or one that is elsewhere."""


def read_at(file: File, length: int, offset: int) -> bytes:
    """The ``length`` bytes of ``file`` from ``offset`` on, or those that there are; as ``os.pread``."""
    return os.pread(file, length, offset) if isinstance(file, int) else file.read(offset, length)


_VECTORS = 1000  # buffers in one system call; Linux and macOS take 1024
_WHOLE = 2**63 - 1


class Framing(Protocol):
    """One form of a bundle."""

    @property
    def format(self) -> Format: ...

    @property
    def level(self) -> int:
        """The level at which ``pack`` compresses; 0 when it does not."""
        ...

    def length(self, total: int) -> int:
        """Bytes of file that a stored member of ``total`` bytes takes."""
        ...

    def offset(self, position: int) -> int:
        """The offset of byte ``position`` of a stored member, counted from the member's start."""
        ...

    def header(self, position: int, total: int) -> bytes:
        """The bytes that must stand in the file directly before byte ``position`` of a stored member."""
        ...

    def run(self, position: int) -> int:
        """Bytes of a stored member from ``position`` on that lie in one piece."""
        ...

    def pack(self, member: bytes) -> bytes | None:
        """A whole member in its compressed form; None when it is to be stored."""
        ...

    def frames(self, total: int) -> Iterator[Frame]:
        """The frames of a stored member, as the seek table lists them."""
        ...

    def pad(self, length: int, number: int) -> Iterator[tuple[Frame, bytes]]:
        """The frames that fill ``length`` bytes of file with nothing, each with its header."""
        ...

    def trailer(self, frames: Sequence[Frame]) -> bytes:
        """The bytes that follow the last member."""
        ...


class ZstdFraming(Struct, frozen=True):
    """``NAME.tar.zst``: each member in zstd frames of its own."""

    level: int = 3

    @property
    def format(self) -> Format:
        return "tar.zst"

    def length(self, total: int) -> int:
        return zstd.stored_length(total)

    def offset(self, position: int) -> int:
        return zstd.offset_of(position)

    def header(self, position: int, total: int) -> bytes:
        return zstd.header_before(position, total)

    def run(self, position: int) -> int:
        return zstd.BLOCK - position % zstd.BLOCK

    def pack(self, member: bytes) -> bytes | None:
        return zstd.pack(member, self.level)

    def frames(self, total: int) -> Iterator[Frame]:
        return zstd.stored_frames(total)

    def pad(self, length: int, number: int) -> Iterator[tuple[Frame, bytes]]:  # noqa: ARG002 -- only a tar's pads have names
        for frame in zstd.skippable_frames(length):
            yield frame, zstd.skippable_header(frame[0])

    def trailer(self, frames: Sequence[Frame]) -> bytes:
        return zstd.seek_table(frames)


class PlainFraming(Struct, frozen=True):
    """``NAME.tar``: the members as they are."""

    @property
    def format(self) -> Format:
        return "tar"

    @property
    def level(self) -> int:
        return 0

    def length(self, total: int) -> int:
        return total

    def offset(self, position: int) -> int:
        return position

    def header(self, position: int, total: int) -> bytes:  # noqa: ARG002 -- nothing stands between
        return b""

    def run(self, position: int) -> int:  # noqa: ARG002 -- all is one piece
        return _WHOLE

    def pack(self, member: bytes) -> bytes | None:  # noqa: ARG002 -- a plain tar stores everything
        return None

    def frames(self, total: int) -> Iterator[Frame]:
        yield total, total

    def pad(self, length: int, number: int) -> Iterator[tuple[Frame, bytes]]:
        yield (length, length), tar.header(f".pad/{number}", length - tar.UNIT)

    def trailer(self, frames: Sequence[Frame]) -> bytes:  # noqa: ARG002 -- a tar has no table
        return b""


class Damaged(ValueError):
    """The headers between a stored member's bytes are not what they must be."""


class Stored(Struct, frozen=True):
    """A member that is stored at ``start`` in a file: ``total`` bytes, header and padding included."""

    framing: Framing
    start: int
    total: int

    def write(self, file: int, position: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Write ``pieces`` from byte ``position`` on."""
        write_all(file, self.interleave(position, pieces), self._offset(position))

    def interleave(self, position: int, pieces: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
        """``pieces`` with the headers that belong before and between them; nothing is copied."""
        buffers: list[bytes | memoryview] = []
        for piece in pieces:
            view = memoryview(piece)
            while view:
                if header := self.framing.header(position, self.total):
                    buffers.append(header)
                part = view[: self.framing.run(position)]
                buffers.append(part)
                position += len(part)
                view = view[len(part) :]
        return buffers

    def read(self, file: File, position: int, view: memoryview) -> int:
        """Fill ``view`` from byte ``position`` on; returns the number of bytes, fewer only where the file ends.

        Raises ``Damaged`` when a header in between is not what it must be.
        """
        view = view[: self.total - position]
        filled = 0
        while filled < len(view):
            got = self._read_once(file, position + filled, view[filled:])
            if not got:
                break
            filled += got
        return filled

    def extents(self, position: int, length: int) -> Iterator[tuple[int, int]]:
        """Offsets in the file and lengths of the pieces that ``length`` bytes from ``position`` on lie in."""
        while length:
            run = min(length, self.framing.run(position))
            yield self.start + self.framing.offset(position), run
            position += run
            length -= run

    def read_whole(self, file: int) -> bytes | None:
        """All bytes of the member; None when they, or a header before or between them, are not there.

        It takes memory for the whole member.
        """
        if self.framing.run(0) < self.total:
            whole = bytearray(self.total)
            return bytes(whole) if self.read(file, 0, memoryview(whole)) == self.total else None
        header = self.framing.header(0, self.total)  # the only one: there is less to do for a small member
        content = os.pread(file, len(header) + self.total, self._offset(0))
        return (
            content[len(header) :] if content.startswith(header) and len(content) == len(header) + self.total else None
        )

    def stretch(self, position: int, length: int) -> tuple[int, int]:
        """The range of the file that holds ``length`` bytes (at least one) from ``position`` on, with their headers."""
        start = self._offset(position)
        return start, self.end_of(position + length) - start

    def end_of(self, position: int) -> int:
        """The offset in the file after the first ``position`` bytes (at least one)."""
        return self.start + self.framing.offset(position - 1) + 1

    def _offset(self, position: int) -> int:
        """Where the headers before byte ``position`` start, or the byte itself."""
        header = self.framing.header(position, self.total)
        return self.start + self.framing.offset(position) - len(header)

    def _read_once(self, file: File, position: int, view: memoryview) -> int:
        buffers: list[bytearray | memoryview] = []
        headers: list[tuple[bytes, bytearray, int]] = []  # expected, read, bytes of content before it
        filled = 0
        while filled < len(view) and len(buffers) < _VECTORS:
            if header := self.framing.header(position + filled, self.total):
                read = bytearray(len(header))
                headers.append((header, read, filled))
                buffers.append(read)
            part = view[filled : filled + self.framing.run(position + filled)]
            buffers.append(part)
            filled += len(part)
        return _content_of(_read_into(file, buffers, self._offset(position)), headers)


class Unframed:
    """The content of a stored member as its bytes come, of which the headers in between are checked and left out."""

    def __init__(self, stored: Stored, position: int) -> None:
        self._stored = stored
        self._position = position
        self._header = stored.framing.header(position, stored.total)  # what of it is still to come

    def content(self, piece: memoryview) -> Iterator[memoryview]:
        """Yield what in ``piece``, the next bytes of the file, is content; raises ``Damaged``."""
        framing, total = self._stored.framing, self._stored.total
        while piece:
            if self._header:
                count = min(len(piece), len(self._header))
                if piece[:count] != self._header[:count]:
                    raise Damaged("a block header is wrong")
                self._header = self._header[count:]
            else:
                count = min(len(piece), framing.run(self._position))
                yield piece[:count]
                self._position += count
                self._header = framing.header(self._position, total) if self._position < total else b""
            piece = piece[count:]


def _read_into(file: File, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
    """Fill ``buffers`` one after the other, as ``os.preadv``."""
    if isinstance(file, int):
        return os.preadv(file, buffers, offset)
    content = memoryview(file.read(offset, sum(map(len, buffers))))
    filled = 0
    for buffer in buffers:
        part = content[filled : filled + len(buffer)]
        buffer[: len(part)] = part
        filled += len(part)
    return filled


def write_all(file: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
    """Write ``buffers`` one after the other at ``offset``."""
    left = [memoryview(buffer) for buffer in buffers if buffer]
    while left:
        written = os.pwritev(file, left[:_VECTORS], offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _content_of(got: int, headers: list[tuple[bytes, bytearray, int]]) -> int:
    """Bytes of content among the first ``got`` bytes that were read; raises ``Damaged``."""
    overhead = 0
    for expected, read, before in headers:
        if got <= before + overhead + len(expected):
            return max(0, min(before, got - overhead))
        if read != expected:
            raise Damaged("a block header is wrong")
        overhead += len(expected)
    return got - overhead
