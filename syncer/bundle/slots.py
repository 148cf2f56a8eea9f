"""Slots: where in a bundle file each piece of content belongs, and how much of it is there for certain."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.bundle import tar
from syncer.bundle.framing import Damaged, Framing, Stored
from syncer.bundle.layout import blob_name
from syncer.bundle.zstd import Frame
from syncer.oci import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

_PROOF = 16  # bytes of a hash that a mark keeps
_READ = 1024 * 1024


def proof_of(hasher: _Hash) -> bytes:
    """What a mark keeps of everything that went into ``hasher``."""
    return hasher.digest()[:_PROOF]


@dataclass(slots=True)
class Marks:
    """How far a slot's content is in place: sizes in bytes, each with the start of the prefix's hash."""

    sizes: array[int] = field(default_factory=lambda: array("Q"))
    proofs: bytearray = field(default_factory=bytearray)

    def add(self, size: int, proof: bytes) -> None:
        """Whatever was known from ``size`` on has been written over since."""
        kept = bisect_left(self.sizes, size)
        del self.sizes[kept:], self.proofs[kept * _PROOF :]
        self.sizes.append(size)
        self.proofs += proof

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, size in enumerate(self.sizes):
            yield size, bytes(self.proofs[number * _PROOF : (number + 1) * _PROOF])

    def __bool__(self) -> bool:
        return bool(self.sizes)


@dataclass(slots=True)
class Slot:
    """The place of one piece of content in the file."""

    number: int  # counted from 0, in the order of the file
    digest: Digest
    size: int
    offset: int
    packed: int | None = None  # bytes of file, where the content is compressed
    marks: Marks = field(default_factory=Marks)
    complete: bool = False

    @property
    def header(self) -> bytes:
        """The tar header that the slot's member starts with."""
        return tar.header(blob_name(self.digest), self.size)

    @property
    def total(self) -> int:
        """Bytes of the slot's member: header, content and padding."""
        return self.header_length + self.size + tar.padding(self.size)

    @property
    def header_length(self) -> int:
        return tar.header_length(blob_name(self.digest))

    def member(self, content: bytes) -> bytes:
        """The whole member that holds ``content``."""
        return self.header + content + bytes(tar.padding(self.size))

    def stored(self, framing: Framing) -> Stored:
        """The slot's member, where it is not packed."""
        return Stored(framing, self.offset, self.total)

    def length(self, framing: Framing) -> int:
        """Bytes of file that the slot takes."""
        return self.packed or framing.length(self.total)

    def end(self, framing: Framing) -> int:
        """Where the next slot may start."""
        return self.offset + self.length(framing)

    def frames(self, framing: Framing) -> Iterator[Frame]:
        """What the seek table lists for the slot."""
        if self.packed:
            yield self.packed, self.total
        else:
            yield from framing.frames(self.total)


def prove(file: int, framing: Framing, slot: Slot) -> Iterator[tuple[int, _Hash]]:
    """How many bytes of a stored slot's content are in place for certain, and their hash, step by step.

    Reads the slot as far as its marks go, headers and padding included, and believes each mark only if
    the bytes before it have its hash: after a power failure, blocks that never reached the disk read as
    zeros.  All bytes are in place only if they have the slot's digest.
    """
    stored, header = slot.stored(framing), slot.header
    buffer = memoryview(bytearray(_READ))
    position, hasher = 0, slot.digest.hasher()
    try:
        if _part(stored, file, 0, buffer[: len(header)]) != header:
            return
        for size, proof in slot.marks:
            while position < size:
                part = _part(stored, file, len(header) + position, buffer[: size - position])
                if not part:
                    return
                hasher.update(part)
                position += len(part)
            if proof_of(hasher) != proof or (size == slot.size and not _is_whole(stored, file, slot, hasher)):
                return
            yield size, hasher.copy()
    except Damaged:
        return  # what was proven before it counts


def _is_whole(stored: Stored, file: int, slot: Slot, hasher: _Hash) -> bool:
    padding = bytearray(tar.padding(slot.size))
    got = stored.read(file, slot.total - len(padding), memoryview(padding))
    return got == len(padding) and not any(padding) and slot.digest.matches(hasher)


def _part(stored: Stored, file: int, position: int, view: memoryview) -> memoryview:
    return view[: stored.read(file, position, view)]
