"""The members of a bundle file, found by its headers alone; a file whose parts do not agree is refused.

Nothing is extracted, and no name of a member ever becomes a path.  All functions raise ``ValueError``
with what is wrong.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace

from syncer.bundle import tar, zstd
from syncer.bundle.framing import Framing, PlainFraming, Stored, ZstdFraming
from syncer.bundle.layout import DEFINITION, INDEX, MAX_INDEX_SIZE, OCI_LAYOUT, digest_of_name, is_pad
from syncer.bundle.zstd import Frame
from syncer.oci.manifest import MAX_MANIFEST_SIZE

MAX_MEMBERS = 100_000
"""A bundle of five hundred images has some ten thousand; each costs memory while a bundle is open."""

_MAX_FRAMES = 2 * MAX_MEMBERS
_MAX_LAYOUT_SIZE = 64 * 1024
_MAX_TRAILING_ZEROS = 1024 * 1024  # other tools fill a tar up to a multiple of 10 KiB
_HEAD = 2048  # bytes of a frame: its headers and the longest tar header
_DIRECTORY = re.compile(r"(\.|blobs|blobs/(sha256|sha512)|\.pad)?")
_DOCKER = ("manifest.json", "repositories")
_PARTS = (OCI_LAYOUT, INDEX, DEFINITION, "blobs", ".pad")  # what the names of an image layout start with
_EXTRA = re.compile(r"(?!/)[ -~]{1,1024}(?<!/)")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the tar, and where its content is."""

    name: str
    size: int
    header: int  # bytes of the member before its content
    start: int
    packed: int | None = None  # bytes of file, where it is compressed

    @property
    def total(self) -> int:
        """Bytes: header, content and padding."""
        return self.header + self.size + tar.padding(self.size)


@dataclass(slots=True)
class Contents:
    """The members of a bundle, and the stretches of its file that must be zeros."""

    framing: Framing
    members: dict[str, Member] = field(default_factory=dict)
    blanks: list[tuple[int, int]] = field(default_factory=list)  # offset and length
    extras: list[str] = field(default_factory=list)  # what a tar holds besides; nobody reads it

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

    def stored(self, member: Member) -> Stored:
        """The place of a member that is not packed."""
        return Stored(self.framing, member.start, member.total)


def scan(file: int, size: int) -> Contents:
    """The contents of a bundle of ``size`` bytes, of either form."""
    start = _read(file, 0, min(size, tar.UNIT))
    if zstd.is_zstd(start):
        return _scan_zstd(file, size)
    if len(start) == tar.UNIT and tar.is_header(start):
        return _scan_tar(file, size)
    raise ValueError("it is neither a tar file nor one in zstd frames")


def _scan_zstd(file: int, size: int) -> Contents:
    frames, end = _seek_table(file, size)
    contents = Contents(ZstdFraming())
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
            contents.blanks.append((offset + zstd.SKIPPABLE_HEADER, length - zstd.SKIPPABLE_HEADER))
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


def _seek_table(file: int, size: int) -> tuple[list[Frame], int]:
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


def _framed_member(file: int, offset: int, frame: Frame) -> Member | None:
    """The member whose first frame is ``frame``; None at the end of the tar."""
    length, content = frame
    head = _read(file, offset, min(length, _HEAD))
    if zstd.is_stored(head):
        name, size = tar.parse_own_header(head[len(zstd.header_before(0, content)) :])
        return Member(name, size, tar.header_length(name), offset)
    if not zstd.is_packed(head):
        raise ValueError("it has a zstd frame of another form than syncer writes")
    if content > min(length * zstd.MAX_RATIO, 2 * tar.UNIT + MAX_INDEX_SIZE) or length > 2 * MAX_INDEX_SIZE:
        raise ValueError("it has a frame that would grow too much when decompressed")
    start = zstd.unpack_start(_read(file, offset, length), 3 * tar.UNIT)
    if content == len(tar.END) and start == tar.END:
        return None
    name, size = tar.parse_own_header(start)
    member = Member(name, size, tar.header_length(name), offset, length)
    if member.total != content:
        raise ValueError(f"the frame of {name} has another size than its tar header says")
    return member


def _check_frames(file: int, stored: Stored, frames: list[Frame], number: int) -> int:
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


def _scan_tar(file: int, size: int) -> Contents:
    found: dict[str, Member] = {}
    offset = headers = 0
    extension: dict[str, str] = {}
    while (header := tar.parse_header(_read(file, offset, tar.UNIT))) is not None:
        if (headers := headers + 1) > _MAX_FRAMES:
            raise ValueError(f"its tar has more than {_MAX_FRAMES} headers")
        content = offset + tar.UNIT
        length = int(extension.get("size", header.size)) if header.kind in tar.REGULAR else header.size
        end = content + length + tar.padding(length)
        if end > size:
            raise ValueError("a member of its tar reaches beyond the end of the file")
        if header.kind in tar.EXTENSIONS:
            extension |= _extension(file, header, content)
        else:
            name = extension.get("path", header.name).removeprefix("./").rstrip("/")
            _add_plain(found, Member(name, length, tar.UNIT, offset), header.kind)
            extension = {}
        offset = end
    if extension:
        raise ValueError("an extended tar header has no member")
    if not len(tar.END) <= size - offset <= _MAX_TRAILING_ZEROS or any(_read(file, offset, size - offset)):
        raise ValueError("its tar has no proper end")
    return _layout_among(found)


def _extension(file: int, header: tar.Header, offset: int) -> dict[str, str]:
    if header.size > tar.MAX_EXTENSION:
        raise ValueError("an extended tar header is too long")
    content = _read(file, offset, header.size)
    if header.kind == tar.GNU_LONG_NAME:
        return {"path": tar.parse_text(content)}
    return tar.parse_pax(content, is_global=header.kind == tar.PAX_GLOBAL)


def _add_plain(found: dict[str, Member], member: Member, kind: bytes) -> None:
    if kind == tar.DIRECTORY and (_DIRECTORY.fullmatch(member.name) or _is_plain(member.name)) and not member.size:
        return
    if kind not in tar.REGULAR:
        raise ValueError(f"it holds {member.name[:160]!r}, which is no regular file")
    if member.name in found:
        raise ValueError(f"it holds {member.name[:160]} twice")
    if len(found) >= MAX_MEMBERS:
        raise ValueError(f"it has more than {MAX_MEMBERS} members")
    found[member.name] = member


def _layout_among(found: dict[str, Member]) -> Contents:
    """The image layout among the members of a tar, which may lie in a folder, and the names of all others."""
    roots = [name.removesuffix(OCI_LAYOUT) for name in found if name == OCI_LAYOUT or name.endswith(f"/{OCI_LAYOUT}")]
    root = "" if "" in roots or not roots else roots[0]
    if root and len(roots) > 1:
        raise ValueError(f"it holds {len(roots)} image layouts, and none at its top")
    contents = Contents(PlainFraming())
    for name, member in found.items():
        own = name.removeprefix(root)
        if name.startswith(root) and own.partition("/")[0] in _PARTS:
            if is_pad(own):
                contents.blanks.append((member.start + member.header, member.total - member.header))
            else:
                contents.add(replace(member, name=own))
        elif not _is_plain(name):
            raise ValueError(f"it holds {name[:160]!r}, which does not belong in a bundle")
        elif own not in _DOCKER:
            contents.extras.append(name)
    return contents


def _is_plain(name: str) -> bool:
    """Whether ``name`` is one that an honest tool gives to a file beside a layout: nothing that leads elsewhere."""
    return (
        _EXTRA.fullmatch(name) is not None
        and not set(name) & set("\\:")
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def _max_size(name: str, *, packed: bool) -> int | None:
    """Bytes that the member ``name`` may have; None for any number."""
    if name == OCI_LAYOUT:
        return _MAX_LAYOUT_SIZE
    if name in (INDEX, DEFINITION):
        return MAX_INDEX_SIZE
    if digest_of_name(name) is None:
        raise ValueError(f"it holds {name[:160]!r}, which does not belong in a bundle")
    return MAX_MANIFEST_SIZE if packed else None


def _check_bytes(file: int, offset: int, expected: bytes) -> None:
    if _read(file, offset, len(expected)) != expected:
        raise ValueError(f"the frame at byte {offset} does not start as it must")


def _read(file: int, offset: int, length: int) -> bytes:
    content = os.pread(file, length, offset)
    if len(content) != length:
        raise ValueError("it is cut short")
    return content
