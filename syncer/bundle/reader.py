"""A bundle as a source: any content is read in place, nothing is unpacked."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import AsyncIterator, Iterator, KeysView, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from anyio import from_thread, to_thread
from msgspec import Struct, field

from syncer.bundle import zstd
from syncer.bundle.archives import find_contents, hint_for, is_bundle
from syncer.bundle.compression import PIECE, Checkpoint, SpoolFile
from syncer.bundle.delta import Assumed
from syncer.bundle.framing import Damaged, File, RangedFile, read_at
from syncer.bundle.layout import (
    ASSUMED,
    DEFINITION,
    INDEX,
    OCI_LAYOUT,
    UNFINISHED,
    BundleUrl,
    GivenName,
    Image,
    Nameless,
    blob_name,
    check_layout,
    check_values,
    digest_of_name,
    may_list_digests,
    read_digests,
    read_index,
)
from syncer.bundle.members import Contents, Member
from syncer.content import Blob, FileBlob, Pieces
from syncer.errors import (
    InvalidArchive,
    InvalidBundle,
    InvalidContent,
    InvalidFile,
    NotFound,
    UsageError,
    VerificationError,
)
from syncer.files import InPlace
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from syncer.oci.manifest import MAX_MANIFEST_SIZE, AnyManifest

_SMALL = (OCI_LAYOUT, DEFINITION, INDEX, ASSUMED)
_OF_OTHER_SIZE = ("cut short", "more than the bundle", " follow")  # in errors about the length of a file
_TRIED = 16  # members
_LEVELS = (3, *range(1, 20))  # of zstd; the default first
_MOST_KEPT = 4 * 1024 * 1024  # bytes of manifests that are read for more than one purpose, kept once they are parsed


@contextmanager
def open_bundle(
    path: Path, given: GivenName | None = None, *, may_lack: bool = False, checkpoint: Checkpoint = lambda: None
) -> Iterator[Bundle]:
    """The bundle at ``path``, of either form, or an archive or a directory that another tool wrote (docs/bundle.md).

    ``given`` names its images that have no full name.  Of a bundle, and of an image layout in a tar, only headers are
    read; what must be unpacked goes into a file in the directory of temporary files, and ``checkpoint`` is called now
    and then.  Raises ``InvalidFile`` when there is no such file, ``UsageError`` for a delta unless it ``may_lack`` what
    its target has, and when ``given`` does not fit, ``InvalidBundle`` when it is not whole or holds what a bundle does
    not, ``InvalidArchive`` likewise for what another tool wrote, and ``TargetFull`` when the spool has no room.
    """
    with ExitStack() as stack:
        file = _open(path)
        stack.callback(os.close, file)
        opened = os.fstat(file)
        unpacked = stack.enter_context(closing(SpoolFile(path, checkpoint)))
        directory = path if stat.S_ISDIR(opened.st_mode) else None
        with explaining(path, file if directory is None else None):
            bundle = Bundle(path, file, opened, find_contents(file, opened.st_size, unpacked, directory))
            bundle.load(given)
        refuse_delta(bundle, may_lack=may_lack)
        yield bundle


def refuse_delta(bundle: Bundle, *, may_lack: bool = False) -> None:
    """Raise ``UsageError`` for a delta, unless it ``may_lack`` what its target has."""
    if bundle.assumed is not None and not may_lack:
        raise UsageError(
            f"{bundle.path} is a delta: it lacks {len(bundle.assumed.blobs)} pieces of content that its target has",
            hint="push brings it there; syncer merge makes a whole bundle of it and an older one",
        )


@contextmanager
def explaining(place: Path | BundleUrl, file: File | None) -> Iterator[None]:
    """Say of errors in the block, which opens the bundle at ``place``, whether one of ours is damaged, or what else.

    ``file`` is None for a directory.  Raises ``InvalidBundle``, or ``InvalidArchive`` for what another tool wrote.
    """
    is_own = False
    try:
        is_own = file is not None and is_bundle(file)
        yield
    except InvalidBundle:
        raise
    except (ValueError, VerificationError) as error:
        if is_own and isinstance(place, Path) and place.name.endswith(UNFINISHED):
            raise InvalidBundle(
                f"{place} is the unfinished file of a build, and no bundle yet",
                hint="run the same build again: it goes on with the file, and takes the ending off when all is there",
            ) from None
        if is_own:
            is_of_other_size = any(word in str(error) for word in _OF_OTHER_SIZE)
            again = "copy it again, and compare the sizes of both files" if is_of_other_size else None
            raise InvalidBundle(f"{place} is not a whole bundle: {error}", hint=again) from None
        raise InvalidArchive(
            f"{place} is no whole bundle or archive of images: {error}", hint=hint_for(error, place)
        ) from None
    except OSError as error:
        raise InvalidBundle(f"{place} cannot be read: {error.strerror}") from None


@asynccontextmanager
async def open_archive(path: Path, given: GivenName | None = None, *, may_lack: bool = False) -> AsyncIterator[Bundle]:
    """Open the bundle or archive at ``path`` as ``open_bundle`` does, in a thread, since it may have to be unpacked."""

    def enter() -> Bundle:
        return stack.enter_context(open_bundle(path, given, may_lack=may_lack, checkpoint=from_thread.check_cancelled))

    with ExitStack() as stack:
        yield await to_thread.run_sync(enter)


class Bundle(Struct):
    """An open bundle.  Its methods may be called in any thread."""

    path: Path | BundleUrl
    file: File
    _opened: os.stat_result | None  # None where the file is not this machine's
    contents: Contents
    images: tuple[Image, ...] = ()
    nameless: tuple[
        Nameless, ...
    ] = ()  # entries of index.json that are no images, since nobody knows where they belong
    definition: bytes | None = None
    index_digest: Digest | None = None  # of index.json, which names all of its content
    assumed: Assumed | None = None  # of a delta: the content that it lacks, since its target has it
    has_digests: bool = False  # of the members that no digest names; a bundle of another tool has none
    _members: dict[Digest, Member] = field(default_factory=dict)
    _roots: dict[Reference, Descriptor] = field(default_factory=dict)
    _subjects: dict[str, list[tuple[Reference, Digest | None]]] = field(default_factory=dict)  # by repository
    _manifests: dict[tuple[Digest, str | None], AnyManifest] = field(default_factory=dict)  # the first that were read
    _bytes_kept: int = 0  # of those

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"the open bundle {self.path} belongs to this process: give its path to another one")

    def load(self, given: GivenName | None = None) -> None:
        """Read what names the content; raises ``InvalidContent``, also for what is not what was written."""
        members = self.contents.members
        for name in (OCI_LAYOUT, INDEX)[self.contents.is_haul :]:
            if name not in members:
                raise InvalidContent(f"it has no {name}")
        for name, member in members.items():
            if digest := digest_of_name(name):
                self._members[digest] = member
        small = {name: self._read(members[name], 0, members[name].size) for name in _SMALL if name in members}
        self._check_digests(small)
        if not self.contents.is_haul:
            check_layout(small[OCI_LAYOUT])
        self.images, self.nameless = read_index(small[INDEX], given, self._manifest_if_sound)
        self.definition = small.get(DEFINITION)
        self.index_digest = Digest.of(small[INDEX])
        if ASSUMED in small:
            check_values(small[ASSUMED])
            self.assumed = Assumed.parse(small[ASSUMED])
        for image in self.images:
            self._roots.setdefault(image.reference, image.descriptor)

    def _check_digests(self, small: Mapping[str, bytes]) -> None:
        """Hold the members that no digest names against the list of their digests, if the bundle ends with one."""
        last = next(reversed(self.contents.members.values()))
        if not may_list_digests(last.name, last.size) or isinstance(last.origin, Path):
            return  # a directory has no last one
        listed = read_digests(last.name, self._read(last, 0, last.size))
        if listed is None:
            return
        for name in small.keys() | listed.keys():
            if name not in small or listed.get(name) != Digest.of(small[name]):
                raise InvalidContent(f"its {name[:80]} is not the one that was written")
        self.has_digests = True
        self._members = {digest: member for digest, member in self._members.items() if member is not last}

    @property
    def digests(self) -> KeysView[Digest]:
        """The digests of the bundle's content, in the order of its file."""
        return self._members.keys()

    def names(self, reference: Reference) -> bool:
        """Tell whether the bundle has an image under exactly that name."""
        return reference in self._roots

    def damaged(self, descriptor: Descriptor) -> InvalidBundle:
        """See ``content.Vouching``."""
        return InvalidBundle(f"{self.path} is damaged inside {blob_name(descriptor.digest)}")

    def size(self, digest: Digest) -> int:
        """Bytes of some content; raises ``NotFound``."""
        return self._member(digest).size

    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes:
        """Content from ``offset`` on, ``length`` bytes of it or up to its end."""
        member = self._member(digest)
        left = max(0, member.size - offset)
        return self._read(member, offset, left if length is None else min(length, left))

    def read_into(self, digest: Digest, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from byte ``offset`` on; the number of bytes, short only at the content's end."""
        member = self._member(digest)
        length = min(len(buffer), max(0, member.size - offset))
        self._read_member(member, buffer[:length], member.header + offset)
        return length

    def in_place(self, digest: Digest, offset: int, length: int) -> InPlace | None:
        """The open file and its ranges that hold ``length`` bytes from ``offset`` on.

        None where the content is compressed, as manifests are, or in a file of its own: it must be read.
        """
        member = self._member(digest)
        if member.packed is not None or not isinstance(member.origin, int):
            return None
        length = min(length, max(0, member.size - offset))
        return member.origin, tuple(self.contents.stored(member).extents(member.header + offset, length))

    @property
    def file_size(self) -> int:
        """Bytes of the bundle's file, wherever it is; 0 for a directory."""
        return self.file.size if isinstance(self.file, RangedFile) else self.local_size

    @property
    def local_size(self) -> int:
        """Bytes of the bundle's file on this machine; 0 for a directory, and for a file elsewhere."""
        return self._opened.st_size if self._opened is not None and stat.S_ISREG(self._opened.st_mode) else 0

    def place(self, digest: Digest) -> int | None:
        """The byte of the bundle's file at which some content begins; None where it lies in a file of its own."""
        member = self._member(digest)
        return member.start + member.header if isinstance(member.origin, int) else None

    def manifest_by_digest(self, digest: Digest, media_type: str | None = None) -> AnyManifest:
        """The manifest that ``digest`` names, verified; raises ``NotFound``, and as ``parse_manifest`` does."""
        if found := self._manifests.get((digest, media_type)):
            return found
        if self.size(digest) > MAX_MANIFEST_SIZE:
            raise InvalidContent(f"{digest.short} is no manifest: it is larger than {MAX_MANIFEST_SIZE} bytes")
        check_values(content := self.read(digest))
        manifest = parse_manifest(content, media_type, expected=digest)
        if self._bytes_kept + len(content) <= _MOST_KEPT:
            self._bytes_kept += len(content)
            self._manifests[digest, media_type] = manifest
        return manifest

    def _manifest_if_sound(self, root: Descriptor) -> AnyManifest | None:
        """The manifest, or None for what is none, or not what it should be, which a check finds."""
        if not root.is_manifest:
            return None
        try:
            return self.manifest_by_digest(root.digest, root.media_type)
        except (NotFound, VerificationError):
            return None

    def packed(self, most: int) -> Iterator[tuple[bytes, bytes]]:
        """The largest members that are compressed, at most so many: each as it is in the file, and as it was before."""
        members = [member for member in self.contents.members.values() if member.packed is not None]
        for member in sorted(members, key=lambda member: -member.size)[:most]:
            with self._reading(member) as file:
                yield read_at(file, member.packed or 0, member.start), self._unpack(member)

    def changed(self) -> bool:
        """Tell whether the file at the bundle's path is no longer the one that was opened."""
        assert isinstance(self.path, Path)
        assert isinstance(self.file, int)
        assert self._opened is not None
        try:
            now = self.path.stat()
        except OSError:
            return True
        return _identity(now) != _identity(self._opened) or _identity(os.fstat(self.file)) != _identity(self._opened)

    def subjects(self, name: str) -> Sequence[tuple[Reference, Digest | None]]:
        """The images of the repository ``name``, each with what its manifest speaks about; each is read once."""
        if name not in self._subjects:
            roots = [image for image in self.images if image.reference.name == name]
            read = (self.manifest_by_digest(root.descriptor.digest, root.descriptor.media_type) for root in roots)
            about = [manifest.subject.digest if manifest.subject else None for manifest in read]
            self._subjects[name] = list(zip((root.reference for root in roots), about, strict=True))
        return self._subjects[name]

    def brings(self, layer: Descriptor) -> bool:
        """See ``content.Bringing``: a foreign layer that is in the bundle was put there on purpose."""
        return layer.digest in self._members or self.assumes(layer.digest)

    def assumes(self, digest: Digest) -> bool:
        """Tell whether the bundle is a delta that lacks this content, since its target has it."""
        return self.assumed is not None and digest in self.assumed.blobs

    async def resolve(self, reference: Reference) -> Descriptor:
        """The root of the image that the bundle has under ``reference``; raises ``NotFound``."""
        if root := self._roots.get(reference):
            return root
        if reference.digest in self._members:
            return self.manifest_by_digest(reference.digest).descriptor
        raise NotFound(f"{reference} in {self.path.name}", 404, ["the bundle has no such image"])

    async def manifest(self, reference: Reference) -> AnyManifest:
        """The manifest that ``reference`` names, verified."""
        if root := self._roots.get(reference):
            return self.manifest_by_digest(root.digest, root.media_type)
        if reference.digest is not None:
            return self.manifest_by_digest(reference.digest)
        raise NotFound(f"{reference} in {self.path.name}", 404, ["the bundle has no such image"])

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:  # noqa: ARG002 -- all is in one space
        return BundleBlob(self, descriptor)

    def place_of(self, descriptor: Descriptor) -> Member:
        """The member that holds a blob; raises ``NotFound``, and ``InvalidBundle`` when it has another size."""
        member = self._member(descriptor.digest)
        if member.size != descriptor.size:
            digest, size = descriptor.digest.short, descriptor.size
            raise InvalidBundle(f"{self.path} holds {digest} with another size than {size} bytes")
        return member

    def _member(self, digest: Digest) -> Member:
        try:
            return self._members[digest]
        except KeyError:
            raise NotFound(f"{digest} in {self.path.name}", 404, ["the bundle does not hold it"]) from None

    def _read(self, member: Member, offset: int, length: int) -> bytes:
        if member.packed is not None:
            start = member.header + offset
            return self._unpack(member)[start : start + length]
        content = bytearray(length)
        self._read_member(member, memoryview(content), member.header + offset)
        return bytes(content)

    def _read_member(self, member: Member, buffer: memoryview, position: int) -> None:
        if member.packed is not None:
            buffer[:] = self._unpack(member)[position : position + len(buffer)]
            return
        with self._reading(member) as file:
            if self.contents.stored(member).read(file, position, buffer) != len(buffer):
                raise Damaged("the file was cut short while it was being read")

    def _unpack(self, member: Member) -> bytes:
        with self._reading(member) as file:
            return zstd.unpack(read_at(file, member.packed or 0, member.start), member.total)

    @contextmanager
    def _reading(self, member: Member) -> Iterator[File]:
        try:
            with member.opened() as file:
                yield file
        except ValueError as error:
            raise InvalidBundle(f"{self.path} is damaged inside {member.name}: {error}") from None
        except OSError as error:
            raise InvalidBundle(f"{self.path} cannot be read: {error.strerror}") from None


class BundleView(Struct, frozen=True):
    """A bundle as a source whose blobs are had in another way, which a subclass says."""

    bundle: Bundle

    async def resolve(self, reference: Reference) -> Descriptor:
        """See ``content.Source``."""
        return await self.bundle.resolve(reference)

    async def manifest(self, reference: Reference) -> AnyManifest:
        """See ``content.Source``."""
        return await self.bundle.manifest(reference)

    def brings(self, layer: Descriptor) -> bool:
        """See ``content.Bringing``."""
        return self.bundle.brings(layer)


def find_level(bundle: Bundle) -> int:
    """The level of zstd by which the small members of ``bundle`` were compressed, so that they can be so again."""
    members = list(bundle.packed(_TRIED))
    fitting = (level for level in _LEVELS if all(zstd.pack(whole, level) == packed for packed, whole in members))
    return int(next(fitting, _LEVELS[0]))


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class BundleBlob(FileBlob):
    """A blob that lies in a bundle."""

    bundle: Bundle
    descriptor: Descriptor

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        """See ``content.Blob``; raises ``InvalidBundle`` when the bundle has another size for it."""
        self.bundle.place_of(self.descriptor)
        yield self._pieces(offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See ``content.FileBlob``."""
        return self.bundle.read_into(self.descriptor.digest, buffer, offset)

    def in_place(self, offset: int, length: int) -> InPlace | None:
        """See ``content.FileBlob``."""
        return self.bundle.in_place(self.descriptor.digest, offset, length)

    async def _pieces(self, offset: int) -> AsyncIterator[memoryview]:
        buffer = memoryview(bytearray(min(PIECE, self.descriptor.size)))
        while offset < self.descriptor.size:
            got = await to_thread.run_sync(self.read_into, buffer, offset)
            yield buffer[:got]
            offset += got


def _open(path: Path) -> int:
    try:
        if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise InvalidFile(path, "this is no regular file", hint="name the bundle's file, NAME.tar.zst or NAME.tar")
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InvalidFile(path, "there is no such file") from None
    except OSError as error:
        raise InvalidFile(path, f"it cannot be read: {os.strerror(error.errno or 0).lower()}") from None


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
