"""Slots: where in a bundle file each piece of content belongs, and how much of it is there for certain."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.bundle import layout, tar
from syncer.bundle.framing import Damaged, Format, Framing, PlainFraming, Stored, ZstdFraming
from syncer.bundle.layout import blob_name
from syncer.bundle.zstd import Frame
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest

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

    def total(self, definition: bytes) -> int:
        """Bytes of a file that holds all that was added; ``definition`` is what it will say of itself."""
        frames = list(self._frames)
        for name, content in (
            (layout.OCI_LAYOUT, layout.LAYOUT_CONTENT),
            (layout.DEFINITION, definition),
            (layout.INDEX, layout.write_index(self._roots)),
        ):
            frames += self._framed(tar.header(name, len(content)) + content + bytes(tar.padding(len(content))))
        frames += self._framed(tar.END)
        return sum(length for length, _ in frames) + len(self._framing.trailer(frames))

    def _framed(self, member: bytes) -> list[Frame]:
        if packed := self._framing.pack(member):
            return [(len(packed), len(member))]
        return list(self._framing.frames(len(member)))
