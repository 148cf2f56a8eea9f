"""Is a bundle what it says?  The structure is cheap to check; every byte takes reading the file once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

import anyio
from anyio import CapacityLimiter, to_thread
from msgspec import Struct, field

from syncer.bundle import zstd
from syncer.bundle.compression import PIECE
from syncer.bundle.delta import Witness
from syncer.bundle.framing import File, RangedFile, read_at
from syncer.bundle.layout import Image, digest_of_name
from syncer.bundle.members import Member
from syncer.bundle.reader import Bundle
from syncer.errors import (
    BundleChanged,
    InvalidBundle,
    InvalidContent,
    NetworkError,
    RegistryError,
    VerificationError,
    first_in,
)
from syncer.oci import Descriptor, Digest
from syncer.oci.manifest import Descent

_MAX_FINDINGS = 100
_AT_A_TIME = 4 * PIECE  # bytes read between two chances to be cancelled
_AT_ONCE_ELSEWHERE = 8  # threads that wait for a server more than they compute
_ZEROS = bytes(PIECE)

Advance = Callable[[int], None]
"""Told how many more bytes of the file have been checked, in any thread."""


class BundleCheck(Struct, frozen=True):
    """The content of a bundle that was found sound, in numbers."""

    images: int
    manifests: int
    blobs: int
    bytes: int  # of distinct content
    file_size: int  # bytes; 0 for a directory
    padding: int  # bytes of the file in which nothing is, where content was dropped
    unreferenced: tuple[Digest, ...]  # content that no image needs
    has_digests: bool  # of index.json and the definition; without them nothing tells whether these were altered
    nameless: tuple[str, ...] = ()  # entries of index.json without a full name
    foreign: int = 0  # layers that the images list and the bundle lacks, since their vendors keep them
    bytes_foreign: int = 0
    extras: tuple[str, ...] = ()  # members that are no part of an image layout, which nobody reads
    notes: tuple[str, ...] = ()  # what was made anew of another tool's archive
    assumed: int = 0  # blobs that a delta lacks, since its target has them
    bytes_assumed: int = 0
    lists: tuple[Witness, ...] = ()  # that say so


def check_structure(bundle: Bundle) -> BundleCheck:
    """Check that every image is whole: each manifest by its digest, each blob by its size alone.

    Raises ``InvalidBundle`` with all that was found.
    """
    findings = _Findings()
    check = _check_trees(bundle, findings)
    findings.end(bundle)
    return check


async def verify_bundle(bundle: Bundle, *, advance: Advance = lambda _: None) -> BundleCheck:
    """Check the structure, hash all content, and account for every byte of the file.

    What the headers say was checked when the bundle was opened; this reads what lies between them.
    Raises ``InvalidBundle`` with all that was found, and of a bundle on a server what keeps it from being read.
    """
    findings = _Findings()
    check = await to_thread.run_sync(_check_trees, bundle, findings)
    groups = _groups(bundle)
    is_elsewhere = isinstance(bundle.file, RangedFile)
    threads = CapacityLimiter(max(os.cpu_count() or 1, _AT_ONCE_ELSEWHERE if is_elsewhere else 0))

    async def work() -> None:
        for group in groups:
            while group:
                advance(await to_thread.run_sync(findings.of, group, limiter=threads))

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(int(threads.total_tokens)):
                tasks.start_soon(work)
    except* (BundleChanged, NetworkError, RegistryError) as failed:  # of one on a server, each thread may have one
        raise first_in(failed) from None
    if bundle.changed():
        findings.add("it was changed while it was being read")
    findings.end(bundle)
    return check


class _Findings:
    """What is wrong, one sentence each; the first hundred are kept."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.count = 0

    def add(self, sentence: str) -> None:
        self.count += 1
        if len(self.sentences) < _MAX_FINDINGS:
            self.sentences.append(sentence)

    def of(self, group: deque[_Reading]) -> int:
        """Read some of ``group``, and take from it what was read to its end or to the first thing that is wrong."""
        done = 0
        while group and done < _AT_A_TIME:
            reading = group[0]
            size = None
            try:
                size = next(reading.steps, None)
            except BundleChanged:
                raise
            except (ValueError, VerificationError) as error:
                self.add(f"{reading.subject}: {error}")
            except OSError as error:
                self.add(f"{reading.subject} cannot be read: {error.strerror}")
            if size is None:
                group.popleft()
            done += size or 0
        return done

    def end(self, bundle: Bundle) -> None:
        """Raise ``InvalidBundle`` if anything was found."""
        if self.count:
            more = f", and {self.count - 1} more things are wrong" if self.count > 1 else ""
            raise InvalidBundle(f"{bundle.path} is not sound: {self.sentences[0]}{more}", findings=self.sentences)


def _check_trees(bundle: Bundle, findings: _Findings) -> BundleCheck:
    walk = _Walk(bundle, findings)
    for image in bundle.images:
        walk.image(image)
    manifests = len(walk.depths)
    size = sum(map(bundle.size, bundle.digests))
    unreferenced = tuple(digest for digest in bundle.digests if digest not in walk.depths and digest not in walk.blobs)
    return BundleCheck(
        images=len(bundle.images),
        manifests=manifests,
        blobs=len(walk.blobs),
        bytes=size,
        file_size=bundle.file_size,
        padding=bundle.contents.padding,
        unreferenced=unreferenced,
        has_digests=bundle.has_digests,
        nameless=tuple(map(str, bundle.nameless)),
        foreign=len(walk.foreign),
        bytes_foreign=sum(walk.foreign.values()),
        extras=tuple(bundle.contents.extras),
        notes=tuple(bundle.contents.notes),
        assumed=len(bundle.assumed.blobs) if bundle.assumed else 0,
        bytes_assumed=bundle.assumed.size if bundle.assumed else 0,
        lists=bundle.assumed.witnesses if bundle.assumed else (),
    )


class _Walk(Struct):
    """Goes down from every root once, however many images share what is below."""

    bundle: Bundle
    findings: _Findings
    depths: dict[Digest, int] = field(default_factory=dict)  # of manifests: how far down they were met
    blobs: dict[Digest, None] = field(default_factory=dict)
    foreign: dict[Digest, int] = field(default_factory=dict)  # layers that are not there, and their bytes

    def image(self, image: Image) -> None:
        """Check one image; the first thing that is wrong with it is a finding."""
        descent = Descent(takes=self.bundle.brings)
        try:
            self._enter(descent, image.descriptor)
            for child, is_manifest in descent:
                if is_manifest:
                    self._enter(descent, child)
                else:
                    self._check_size(child)
                    self.blobs[child.digest] = None
        except VerificationError as error:
            self.findings.add(f"{image.name}: {error}")

    def _enter(self, descent: Descent, descriptor: Descriptor) -> None:
        self._check_size(descriptor)
        if self.depths.get(descriptor.digest, -1) < (depth := descent.depth):
            manifest = self.bundle.manifest_by_digest(descriptor.digest, descriptor.media_type)
            descent.enter(manifest)
            self.foreign |= {layer.digest: layer.size for layer in manifest.foreign() if not self.bundle.brings(layer)}
            self.depths[descriptor.digest] = depth

    def _check_size(self, descriptor: Descriptor) -> None:
        assumed = self.bundle.assumed.blobs.get(descriptor.digest) if self.bundle.assumed else None
        if descriptor.digest in self.bundle.digests:
            size = self.bundle.size(descriptor.digest)
        elif assumed is not None and not descriptor.is_manifest:
            size = assumed.size
        else:
            raise InvalidContent(f"it lacks {descriptor.digest}")
        if size != descriptor.size:
            raise InvalidContent(f"{descriptor.digest.short} has {size} bytes, not {descriptor.size} as is said of it")


class _Reading(Struct, frozen=True):
    """A part of the file that is to be read: its bytes, and the steps that check it and give the bytes they read."""

    subject: str
    size: int
    steps: Iterator[int]


def _groups(bundle: Bundle) -> Iterator[deque[_Reading]]:
    """Everything in the file that is not a header, in its order; what is small goes together.

    A thread for each of many small members would cost more than their digests.
    """
    group: deque[_Reading] = deque()
    size = 0
    for reading in _readings(bundle):
        size += reading.size
        if group and size > PIECE:
            yield group
            group, size = deque(), reading.size
        group.append(reading)
    if group:
        yield group


def _readings(bundle: Bundle) -> Iterator[_Reading]:
    for offset, length in bundle.contents.blanks:
        yield _Reading(f"the padding at byte {offset}", length, _check_blank(bundle, offset, length))
    for member in bundle.contents.members.values():
        yield _Reading(member.name, member.size, _check_member(bundle, member))


def _check_blank(bundle: Bundle, offset: int, length: int) -> Iterator[int]:
    end = offset + length
    while offset < end:
        content = read_at(bundle.contents.file, min(PIECE, end - offset), offset)
        if not content or content != _ZEROS[: len(content)]:
            raise ValueError("it is not empty")
        offset += len(content)
        yield len(content)


def _check_member(bundle: Bundle, member: Member) -> Iterator[int]:
    digest = digest_of_name(member.name)
    hasher = digest.hasher() if digest else None
    left = member.size
    for piece in _pieces(bundle, member):
        if hasher and left:
            hasher.update(piece[:left])
        if any(piece[left:]):
            raise ValueError("the padding after it is not empty")
        left -= min(left, len(piece))
        yield len(piece)
    if digest and hasher and not digest.matches(hasher):
        raise ValueError("its content is not what its digest names")


def _pieces(bundle: Bundle, member: Member) -> Iterator[memoryview]:
    """The content and padding of a member; raises ``ValueError`` where the file is damaged."""
    with member.opened() as file:
        yield from _pieces_in(file, bundle, member)


def _pieces_in(file: File, bundle: Bundle, member: Member) -> Iterator[memoryview]:
    if member.packed is not None:
        packed = read_at(file, member.packed, member.start)
        yield memoryview(zstd.unpack(packed, member.total))[member.header :]
        return
    stored = bundle.contents.stored(member)
    buffer = memoryview(bytearray(min(PIECE, member.total)))
    position = member.header
    while position < member.total:
        got = stored.read(file, position, buffer)
        if not got:
            raise ValueError("the file was cut short while it was being read")
        yield buffer[:got]
        position += got
