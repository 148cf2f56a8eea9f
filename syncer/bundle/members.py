"""The members of a bundle, of an archive or of a directory, found by headers alone; what does not agree is refused.

Nothing is extracted, and no name of a member ever becomes a path.  All functions raise ``ValueError``
with what is wrong.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct, field, structs

from syncer.bundle import tar, zstd
from syncer.bundle.framing import File, Framing, PlainFraming, RangedFile, Stored, ZstdFraming, read_at
from syncer.bundle.layout import ASSUMED, DEFINITION, INDEX, MAX_INDEX_SIZE, OCI_LAYOUT, digest_of_name, is_haul, is_pad
from syncer.bundle.zstd import Frame
from syncer.oci.manifest import MAX_MANIFEST_SIZE

MAX_MEMBERS = 100_000
"""A bundle of five hundred images has some ten thousand; each costs memory while a bundle is open."""

_MAX_FRAMES = 2 * MAX_MEMBERS
_MAX_LAYOUT_SIZE = 64 * 1024
_MAX_TRAILING_ZEROS = 1024 * 1024  # other tools fill a tar up to a multiple of 10 KiB
_HEAD = 2048  # bytes of a frame: its headers and the longest tar header
_SMALL = 32 * 1024  # bytes of a frame that is brought in whole from elsewhere: another request would cost more
_ROOM = 32 * 1024 * 1024  # bytes of blobs that are brought in with what is read before them
_DIRECTORY = re.compile(r"(\.|blobs|blobs/(sha256|sha512)|\.pad)?")
_BESIDE = ("manifest.json", "repositories", "store.json", "audit.log")  # docker's and hauler's
_PARTS = (OCI_LAYOUT, INDEX, DEFINITION, ASSUMED, "blobs", ".pad")  # what the names of an image layout start with
_EXTRA = re.compile(r"(?!/)[ -~]{1,1024}(?<!/)")


class Member(Struct, frozen=True):
    """One member of the tar, or one file of a directory, and where its content is."""

    name: str
    size: int
    header: int  # bytes of the member before its content
    start: int
    origin: File | Path  # the open file that the member is in; for a directory's, the file that it is
    packed: int | None = None  # bytes of file, where it is compressed

    @property
    def total(self) -> int:
        """Bytes: header, content and padding."""
        return self.header + self.size + (0 if isinstance(self.origin, Path) else tar.padding(self.size))

    @contextmanager
    def opened(self) -> Iterator[File]:
        """The file that the member is in; one of a directory is open for the block, unless it has become a link."""
        if not isinstance(self.origin, Path):
            yield self.origin
            return
        file = os.open(self.origin, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield file
        finally:
            os.close(file)


class Contents(Struct):
    """The members of a bundle, and the stretches of its file that must be zeros."""

    framing: Framing
    file: File  # that the stretches are in
    members: dict[str, Member] = field(default_factory=dict)
    blanks: list[tuple[int, int]] = field(default_factory=list)  # offset and length
    padding: int = 0  # bytes of the blanks and their headers
    extras: list[str] = field(default_factory=list)  # what a tar holds besides; nobody reads it
    is_haul: bool = False  # hauler leaves oci-layout out
    notes: list[str] = field(default_factory=list)  # what was done to it that its user should know

    def add(self, member: Member) -> None:
        """Take a member in, if it is one that a bundle may have and the first of its name."""
        if member.name in self.members:
            raise ValueError(f"it holds {member.name} twice")
        if len(self.members) >= MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS} members")
        most = _max_size(member.name, packed=member.packed is not None)
        if most is not None and member.size > most:
            raise ValueError(f"its {member.name[:80]} of {member.size} bytes is larger than {most}")
        self.members[member.name] = member

    def add_blank(self, offset: int, header: int, length: int) -> None:
        """Take in padding of ``length`` bytes, ``header`` of them before the zeros."""
        self.blanks.append((offset + header, length - header))
        self.padding += length

    def read(self, member: Member) -> bytes:
        """The content of a small member that is not packed."""
        with member.opened() as file:
            return _read(file, member.start + member.header, member.size)

    def stored(self, member: Member) -> Stored:
        """The place of a member that is not packed."""
        return Stored(self.framing, member.start, member.total)


def scan_zstd(file: File, size: int) -> Contents:
    """The contents of a bundle of ``size`` bytes that is in zstd frames of its own."""
    try:
        frames, end = _seek_table(file, size)
    except zstd.NoSeekTable:
        raise _without_end(file, size) from None
    if isinstance(file, RangedFile):
        file.keep(_needed(frames))
    contents = Contents(ZstdFraming(), file)
    number = offset = 0
    ended = False
    while offset < end:
        length, content = frames[number]
        if ended:
            raise ValueError("something follows the end of its tar")
        if length < zstd.SKIPPABLE_HEADER:
            raise ValueError("its seek table lists a frame that is too short")
        if not content:
            _check_bytes(file, offset, zstd.skippable_header(length))
            contents.add_blank(offset, zstd.SKIPPABLE_HEADER, length)
            taken = 1
        elif (member := _framed_member(file, offset, frames[number])) is None:
            ended, taken = True, 1
        else:
            contents.add(member)
            taken = 1 if member.packed else _check_frames(file, contents.stored(member), frames, number)
        offset += sum(length for length, _ in frames[number : number + taken])
        number += taken
    if not ended or number != len(frames):
        raise ValueError("its tar has no end")
    return contents


def _without_end(file: File, size: int) -> ValueError:
    """The error for a bundle of ``size`` bytes without a seek table, which is cut short if all else is ours."""
    if isinstance(file, RangedFile):  # to look at each frame would take many requests
        return ValueError("it has no seek table at its end: it is cut short, or something follows the bundle in it")
    reached = zstd.reach(partial(_read_some, file), size)
    if reached is not None and reached < size:
        return ValueError(f"it has {size - reached:,} bytes more than the bundle, which ends before them")
    if reached is None:
        return ValueError("something else than a bundle follows in it: it has no seek table at its end")
    return cut_short(size, reached - size)


def cut_short(size: int, missing: int) -> ValueError:
    """The error for a file of ``size`` bytes of which at least ``missing`` bytes, or an unknown number, are missing."""
    lacking = f"at least {missing:,} are missing" if missing > 1 else "its end is missing"
    return ValueError(f"it is cut short ({size:,} bytes are there, and {lacking})")


def _read_some(file: File, offset: int, length: int) -> bytes:
    return read_at(file, length, offset)


def _needed(frames: Iterable[Frame]) -> Iterator[tuple[int, int]]:
    """The ranges that are read of a file before any blob is: whole frames where they are small, else their heads."""
    offset, room = 0, _ROOM
    for length, content in frames:
        is_blob = content > 0 and length == zstd.stored_length(content)
        if not content:
            yield offset, zstd.SKIPPABLE_HEADER
        elif is_blob and length > min(_SMALL, room):
            yield offset, min(length, _HEAD)
        else:
            room -= length if is_blob else 0
            yield offset, length
        offset += length


def _seek_table(file: File, size: int) -> tuple[list[Frame], int]:
    """The frames that the seek table lists, and where they end."""
    footer = _read(file, max(0, size - zstd.SEEK_TABLE_FOOTER), zstd.SEEK_TABLE_FOOTER)
    length = zstd.seek_table_length(footer)
    if length > size:
        raise ValueError("its seek table is longer than the file")
    if length > zstd.seek_table_size(_MAX_FRAMES):
        raise ValueError(f"it has more than {_MAX_FRAMES} frames")
    frames = zstd.parse_seek_table(_read(file, size - length, length))
    if sum(stored for stored, _ in frames) != size - length:
        raise ValueError("its seek table accounts for more or fewer bytes than the file has")
    return frames, size - length


def _framed_member(file: File, offset: int, frame: Frame) -> Member | None:
    """The member whose first frame is ``frame``; None at the end of the tar."""
    length, content = frame
    head = _read(file, offset, min(length, _HEAD))
    if zstd.is_stored(head):
        name, size = tar.parse_own_header(head[len(zstd.header_before(0, content)) :])
        return Member(name, size, tar.header_length(name), offset, file)
    if not zstd.is_packed(head):
        raise ValueError("it has a zstd frame of another form than syncer writes")
    if content > min(length * zstd.MAX_RATIO, 2 * tar.UNIT + MAX_INDEX_SIZE) or length > 2 * MAX_INDEX_SIZE:
        raise ValueError("it has a frame that would grow too much when decompressed")
    start = zstd.unpack_start(_read(file, offset, length), 3 * tar.UNIT)
    if content == len(tar.END) and start == tar.END:
        return None
    name, size = tar.parse_own_header(start)
    member = Member(name, size, tar.header_length(name), offset, file, length)
    if member.total != content:
        raise ValueError(f"the frame of {name} has another size than its tar header says")
    return member


def _check_frames(file: File, stored: Stored, frames: list[Frame], number: int) -> int:
    """How many frames a stored member takes, all of them as they must be."""
    offset = stored.start
    position = 0
    count = 0
    for expected in stored.framing.frames(stored.total):
        if number + count >= len(frames) or frames[number + count] != expected:
            raise ValueError("the frames of a member do not fit its size")
        _check_bytes(file, offset, stored.framing.header(position, stored.total))
        offset += expected[0]
        position += expected[1]
        count += 1
    return count


class Found(Struct):
    """The files of a tar or a directory by their names, whatever they are, and the symbolic links."""

    file: File
    files: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """Take a file in, if it is the first of its name."""
        if member.name in self.files or member.name in self.links:
            raise ValueError(f"it holds {member.name[:160]} twice")
        if len(self.files) + len(self.links) >= MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS} members")
        self.files[member.name] = member

    def add_link(self, name: str, target: str) -> None:
        """Take a symbolic link in; it leads from its own place in the archive to another, and never out of it."""
        self.add(Member(name, 0, 0, 0, self.file))
        del self.files[name]
        self.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))

    def resolve(self, name: str) -> Member | None:
        """The file that ``name`` is, or leads to by one link."""
        return self.files.get(self.links.get(name, name))

    def read(self, member: Member) -> bytes:
        """The content of a small file."""
        with member.opened() as file:
            return _read(file, member.start + member.header, member.size)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class TarWalk:
    """The walk from header to header of a tar, of which only a part may be there yet."""

    file: File
    found: Found = dataclasses.field(init=False)
    end: int = 0  # byte up to which the members reach whose headers were met
    has_ended: bool = False
    _headers: int = 0
    _extension: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.found = Found(self.file)

    def advance(self, there: int) -> None:
        """Take in the members whose headers are among the first ``there`` bytes."""
        while not self.has_ended and self.end + tar.UNIT <= there:
            if not self._step(there):
                return
        if self.has_ended and there - self.end > _MAX_TRAILING_ZEROS:
            raise ValueError(f"more than {_MAX_TRAILING_ZEROS:,} bytes follow the end of its tar")

    def finish(self, size: int) -> Found:
        """The files of the tar, which has ``size`` bytes; raises ``ValueError`` unless it ends as it must."""
        self.advance(size)
        if self.end > size:
            raise cut_short(size, self.end - size)
        if not self.has_ended:
            raise cut_short(size, 0)
        if self._extension:
            raise ValueError("an extended tar header has no member")
        length = size - self.end
        if length < len(tar.END):
            raise ValueError("its tar has no proper end: it is cut short")
        end = _read(self.file, self.end, length)
        if any(end):
            if end.startswith(tar.END):
                raise ValueError("something follows the end of its tar")
            raise ValueError("its tar has no proper end")
        return self.found

    def _step(self, there: int) -> bool:
        """Take in what the next header tells; False when that is not all there."""
        header = tar.parse_header(_read(self.file, self.end, tar.UNIT))
        if header is None:
            self.has_ended = True
            return True
        content = self.end + tar.UNIT
        if header.kind in tar.EXTENSIONS:
            if header.size > tar.MAX_EXTENSION:
                raise ValueError("an extended tar header is too long")
            if content + header.size > there:
                return False
            self._extension |= self._extension_of(header, content)
            length = header.size
        else:
            length = int(self._extension.get("size", header.size)) if header.kind in tar.REGULAR else header.size
            name = self._extension.get("path", header.name).removeprefix("./").rstrip("/")
            self._add(Member(name, length, tar.UNIT, self.end, self.file), header)
            self._extension = {}
        if (headers := self._headers + 1) > _MAX_FRAMES:
            raise ValueError(f"its tar has more than {_MAX_FRAMES} headers")
        self._headers = headers
        self.end = content + length + tar.padding(length)
        return True

    def _extension_of(self, header: tar.Header, offset: int) -> dict[str, str]:
        content = _read(self.file, offset, header.size)
        if header.kind == tar.GNU_LONG_NAME:
            return {"path": tar.parse_text(content)}
        return tar.parse_pax(content, is_global=header.kind == tar.PAX_GLOBAL)

    def _add(self, member: Member, header: tar.Header) -> None:
        name = member.name
        if header.kind == tar.DIRECTORY and (_DIRECTORY.fullmatch(name) or is_plain(name)) and not member.size:
            return
        if header.kind == tar.SYMBOLIC_LINK and is_plain(name) and not member.size:
            self.found.add_link(name, header.link)
            return
        if header.kind not in tar.REGULAR:
            raise ValueError(f"it holds {name[:160]!r}, which is no regular file")
        self.found.add(member)


def scan_directory(path: Path) -> Found:
    """The files of an image layout in the directory ``path``; what else is in it is named, and not looked into."""
    found = Found(-1)
    for folder in (".", "blobs", "blobs/sha256", "blobs/sha512"):
        for entry in _entries(path / folder):
            name = posixpath.normpath(f"{folder}/{entry.name}")
            if entry.is_file(follow_symlinks=False):
                found.add(Member(name, entry.stat().st_size, 0, 0, Path(entry.path)))
            elif not entry.is_dir(follow_symlinks=False):
                raise ValueError(f"it holds {name[:160]!r}, which is no regular file")
    return found


def _entries(path: Path) -> list[os.DirEntry[str]]:
    """What is in a directory, in the order of names; nothing where there is none."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def find_layout(found: Found) -> Contents | None:
    """The image layout among what was found, which may lie in a folder, and the names of all others; None for none."""
    files = found.files
    roots = [name.removesuffix(OCI_LAYOUT) for name in files if name == OCI_LAYOUT or name.endswith(f"/{OCI_LAYOUT}")]
    if not roots:
        return _haul(found)
    root = "" if "" in roots else roots[0]
    if root and len(roots) > 1:
        raise ValueError(f"it holds {len(roots)} image layouts, and none at its top")
    return _layout_at(root, found)


def _layout_at(root: str, found: Found) -> Contents:
    for name in found.links:
        raise ValueError(f"it holds {name[:160]!r}, which is no regular file")
    contents = Contents(PlainFraming(), found.file)
    for name, member in found.files.items():
        own = name.removeprefix(root)
        if name.startswith(root) and own.partition("/")[0] in _PARTS:
            if is_pad(own):
                contents.add_blank(member.start, member.header, member.total)
            else:
                contents.add(structs.replace(member, name=own))
        elif not is_plain(name):
            raise ValueError(f"it holds {name[:160]!r}, which does not belong in a bundle")
        elif own not in _BESIDE:
            contents.extras.append(name)
    return contents


def _haul(found: Found) -> Contents | None:
    """The contents of hauler's store, which is an image layout without ``oci-layout`` (hauler-dev/hauler, save.go)."""
    index = found.files.get(INDEX)
    if index is None or index.size > MAX_INDEX_SIZE or not is_haul(found.read(index)):
        return None
    contents = _layout_at("", found)
    contents.is_haul = True
    return contents


def is_plain(name: str) -> bool:
    """Tell whether an honest tool gives ``name`` to a file beside a layout: it leads nowhere else."""
    return (
        _EXTRA.fullmatch(name) is not None
        and not set(name) & set("\\:")
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def _max_size(name: str, *, packed: bool) -> int | None:
    """Bytes that the member ``name`` may have; None for any number."""
    if name == OCI_LAYOUT:
        return _MAX_LAYOUT_SIZE
    if name in (INDEX, DEFINITION, ASSUMED):
        return MAX_INDEX_SIZE
    if digest_of_name(name) is None:
        raise ValueError(f"it holds {name[:160]!r}, which does not belong in a bundle")
    return MAX_MANIFEST_SIZE if packed else None


def _check_bytes(file: File, offset: int, expected: bytes) -> None:
    if _read(file, offset, len(expected)) != expected:
        raise ValueError(f"the frame at byte {offset} does not start as it must")


def _read(file: File, offset: int, length: int) -> bytes:
    content = read_at(file, length, offset)
    if len(content) != length:
        raise ValueError("it is cut short")
    return content
