"""Slots: where in a bundle file each piece of content belongs, and how much of it is there for certain."""

from __future__ import annotations

import dataclasses
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field

from syncer.bundle import layout, tar, zstd
from syncer.bundle.framing import Damaged, Format, Framing, PlainFraming, Stored, ZstdFraming
from syncer.bundle.layout import blob_name
from syncer.bundle.zstd import Frame
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest

if TYPE_CHECKING:
    from hashlib import _Hash


_PROOF = 16  # bytes of a hash that a mark keeps
_READ = 1024 * 1024
_SMALL = 128 * 1024  # bytes of content that is hashed once more before a bundle is published


def proof_of(hasher: _Hash) -> bytes:
    """The bytes of a hash that a mark keeps, for all content that went into ``hasher``."""
    return hasher.digest()[:_PROOF]


class Marks(Struct):
    """The progress of a slot's content: sizes in bytes, each with the start of the prefix's hash."""

    sizes: array[int] = field(default_factory=lambda: array("Q"))
    proofs: bytearray = field(default_factory=bytearray)

    def add(self, size: int, proof: bytes) -> None:
        """Add a mark; later marks are dropped, since their bytes have been written over."""
        kept = bisect_left(self.sizes, size)
        del self.sizes[kept:], self.proofs[kept * _PROOF :]
        self.sizes.append(size)
        self.proofs += proof

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, size in enumerate(self.sizes):
            yield size, bytes(self.proofs[number * _PROOF : (number + 1) * _PROOF])

    def __bool__(self) -> bool:
        return bool(self.sizes)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Slot:
    """The place of one piece of content in the file."""

    number: int  # counted from 0, in the order of the file
    digest: Digest
    size: int
    offset: int
    packed: int | None = None  # bytes of file, where the content is compressed
    marks: Marks = dataclasses.field(default_factory=Marks)
    complete: bool = False
    header_length: int = dataclasses.field(init=False)
    total: int = dataclasses.field(init=False)  # bytes of the slot's member: header, content and padding

    def __post_init__(self) -> None:
        self.header_length = tar.header_length(blob_name(self.digest))
        self.total = self.header_length + self.size + tar.padding(self.size)

    @property
    def header(self) -> bytes:
        """The tar header that the slot's member starts with."""
        return tar.header(blob_name(self.digest), self.size)

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
        """The offset at which the next slot may start."""
        return self.offset + self.length(framing)

    def frames(self, framing: Framing) -> Iterator[Frame]:
        """The frames of the slot, as the seek table lists them."""
        if self.packed:
            yield self.packed, self.total
        else:
            yield from framing.frames(self.total)


def prove(file: int, framing: Framing, slot: Slot) -> Iterator[tuple[int, _Hash]]:
    """The number of bytes of a stored slot's content that are certainly in place, and their hash, step by step.

    Reads the slot as far as its marks go, headers and padding included, and believes each mark only if
    the bytes before it have its hash: after a power failure, blocks that never reached the disk read as
    zeros.  All bytes are in place only if they have the slot's digest.
    """
    stored, header = slot.stored(framing), slot.header
    buffer = memoryview(bytearray(min(_READ, slot.total)))
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


def is_in_place(file: int, framing: Framing, slot: Slot, holes: Sequence[tuple[int, int]]) -> bool:
    """Tell whether a completed slot still has its content, as far as a cheap check can know.

    Small content is hashed.  Of large content the start and the end are looked at, and all of it is hashed only where
    one of the ``holes`` of the file is, which it has after it was cut short and written on.
    """
    try:
        if slot.packed is not None:
            return _is_member(slot, zstd.unpack(os.pread(file, slot.packed, slot.offset), slot.total))
        stored = slot.stored(framing)
        if slot.size <= _SMALL:
            member = stored.read_whole(file)
            return member is not None and _is_member(slot, member)
        end = slot.end(framing)
        if any(start < end and stop > slot.offset for start, stop in holes):
            return _is_proven(file, framing, slot)
        header = slot.header
        start, last = bytearray(len(header)), bytearray(slot.total - len(header) - slot.size)
        got = stored.read(file, 0, memoryview(start)) + stored.read(file, slot.total - len(last), memoryview(last))
    except ValueError:  # Damaged among them
        return False
    return got == len(start) + len(last) and start == header and not any(last)


def _is_member(slot: Slot, member: bytes) -> bool:
    """Whether ``member`` is the whole member that the slot is to hold."""
    start = slot.header_length
    content = memoryview(member)[start : start + slot.size]
    around = member[:start] + member[start + slot.size :]
    return around == slot.member(b"") and Digest.of(content, slot.digest.algorithm) == slot.digest


def _is_proven(file: int, framing: Framing, slot: Slot) -> bool:
    """Whether all of a stored slot's content is there, whatever was known of it."""
    whole = Slot(slot.number, slot.digest, slot.size, slot.offset)
    whole.marks.add(slot.size, bytes.fromhex(slot.digest.hex)[:_PROOF])
    return any(True for _ in prove(file, framing, whole))


def find_holes(file: int) -> list[tuple[int, int]]:
    """Find the start and the end of each hole in the file by one walk; none where the system does not tell."""
    holes: list[tuple[int, int]] = []
    position, size = 0, os.fstat(file).st_size
    with suppress(OSError):
        while (start := os.lseek(file, position, os.SEEK_HOLE)) < size:
            holes.append((start, size))  # to its end, unless there is data behind it
            position = os.lseek(file, start, os.SEEK_DATA)
            holes[-1] = (start, position)
    return holes


def _is_whole(stored: Stored, file: int, slot: Slot, hasher: _Hash) -> bool:
    padding = bytearray(tar.padding(slot.size))
    got = stored.read(file, slot.total - len(padding), memoryview(padding))
    return got == len(padding) and not any(padding) and slot.digest.matches(hasher)


def _part(stored: Stored, file: int, position: int, view: memoryview) -> memoryview:
    return view[: stored.read(file, position, view)]


class BundleSize:
    """Adds up the places that content takes in a bundle, each digest once; implements ``content.TargetNames``."""

    def __init__(self, format: Format, compression_level: int) -> None:  # noqa: A002  the word of the command line
        self._framing: Framing = ZstdFraming(compression_level) if format == "tar.zst" else PlainFraming()
        self._frames: list[Frame] = []
        self._seen: set[Digest] = set()
        self._roots: list[tuple[Reference, Descriptor]] = []

    def space(self, name: Reference) -> str:  # noqa: ARG002  everything in a bundle is one space
        return ""

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002  nothing is there before
        return None

    def add(self, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        """Count one piece of content; ``manifest`` is the document where the content is one."""
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        slot = Slot(0, descriptor.digest, descriptor.size, 0)
        if manifest is not None:
            slot.packed = len(self._framing.pack(slot.member(manifest.content)) or b"") or None
        self._frames += slot.frames(self._framing)

    def name(self, name: Reference, root: Descriptor) -> None:
        """Count an image's entry in ``index.json``."""
        self._roots.append((name, root))

    def total(self, definition: bytes, assumed: bytes | None = None) -> int:
        """Bytes of a file that holds all that was added; ``definition`` is what it will say of itself.

        ``assumed`` is what a delta will say of the content that it lacks.
        """
        frames = list(self._frames)
        small = [
            (layout.OCI_LAYOUT, layout.LAYOUT_CONTENT),
            *([] if assumed is None else [(layout.ASSUMED, assumed)]),
            (layout.DEFINITION, definition),
            (layout.INDEX, layout.write_index(self._roots)),
        ]
        for name, content in (*small, layout.digests_member(small)):
            frames += self._framed(tar.header(name, len(content)) + content + bytes(tar.padding(len(content))))
        frames += self._framed(tar.END)
        return sum(length for length, _ in frames) + len(self._framing.trailer(frames))

    def _framed(self, member: bytes) -> list[Frame]:
        if packed := self._framing.pack(member):
            return [(len(packed), len(member))]
        return list(self._framing.frames(len(member)))
