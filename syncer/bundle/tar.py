"""Tar headers: written one way only, read strictly.

What is written is POSIX ustar, with sizes of 8 GiB and more in GNU's base-256, and an extended header
(pax) for the one kind of name that does not fit, a blob's under its sha512.
"""

from __future__ import annotations

import re

from msgspec import Struct

UNIT = 512
"""Bytes: everything in a tar file is aligned to this."""

END = bytes(2 * UNIT)
"""What ends a tar file."""

MAX_EXTENSION = 64 * 1024
"""Bytes that an extended header may have."""

REGULAR = (b"0", b"\0")
SYMBOLIC_LINK = b"2"
DIRECTORY = b"5"
PAX = b"x"
PAX_GLOBAL = b"g"
GNU_LONG_NAME = b"L"
EXTENSIONS = (PAX, PAX_GLOBAL, GNU_LONG_NAME)

_MAX_OCTAL_SIZE = 8**11
_MAX_SIZE = 2**63 - 1
_MAX_NAME = 100
_RECORD = re.compile(rb"([0-9]{1,5}) ([^=\n]*)=")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_MAGICS = (b"ustar\x0000", b"ustar  \x00")
_MEANINGLESS_PAX = ("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment", "LIBARCHIVE.creationtime")
_ATTRIBUTES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.", "RHT.security.")  # of a file on the machine that packed it


class Header(Struct, frozen=True):
    """The fields of one 512-byte header."""

    name: str
    size: int
    kind: bytes
    link: str = ""  # where a symbolic link leads


def padding(size: int) -> int:
    """Zero bytes that follow ``size`` bytes of content."""
    return -size % UNIT


def header(name: str, size: int) -> bytes:
    """The header of a regular file: 512 bytes, or 1536 when its name needs an extended header."""
    if len(name) <= _MAX_NAME:
        return _block(name, size, b"0")
    record = _pax_record("path", name)
    extension = _block("pax", len(record), PAX) + record + bytes(padding(len(record)))
    return extension + _block(name[:_MAX_NAME], size, b"0")


def header_length(name: str) -> int:
    """Bytes of ``header`` for ``name``."""
    return UNIT if len(name) <= _MAX_NAME else 3 * UNIT


def parse_own_header(start: bytes) -> tuple[str, int]:
    """Name and size of the member that starts with ``start``; raises ``ValueError``.

    Takes nothing but what ``header`` writes, byte for byte.
    """
    found = parse_header(start[:UNIT])
    if found is None:
        raise ValueError("zeros stand where a tar header must be")
    name, size = found.name, found.size
    if found.kind == PAX and size <= UNIT:
        name = parse_pax(start[UNIT : UNIT + size]).get("path", "")
        if (wrapped := parse_header(start[2 * UNIT : 3 * UNIT])) is not None:
            size = wrapped.size
    own = header(name, size)
    if start[: len(own)] != own:
        raise ValueError(f"the tar header of {name[:160]!r} is not one that syncer writes")
    return name, size


def is_header(block: bytes) -> bool:
    """Tell whether a file that starts with ``block`` is likely a tar."""
    return block[257:265] in _MAGICS


def parse_header(block: bytes) -> Header | None:
    """Parse a header; None for a block of zeros.  Raises ``ValueError`` for anything malformed."""
    if len(block) != UNIT:
        raise ValueError("a tar header is cut short")
    if not any(block):
        return None
    if block[257:265] not in _MAGICS:
        raise ValueError("a tar header is neither ustar's nor GNU's")
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156]) != unsigned:
        raise ValueError("the checksum of a tar header is wrong")
    name = parse_text(block[:100])
    if block[257:265] == _MAGICS[0] and (prefix := parse_text(block[345:500])):
        name = f"{prefix}/{name}"
    kind = block[156:157]
    return Header(name, _number(block[124:136]), kind, parse_text(block[157:257]) if kind == SYMBOLIC_LINK else "")


def parse_pax(content: bytes, *, is_global: bool = False) -> dict[str, str]:
    """The records of an extended header that matter, ``path`` and ``size``; raises ``ValueError``.

    Times, owners and attributes are read over; anything else could change what the entry means and is refused.
    """
    records: dict[str, str] = {}
    start = 0
    while start < len(content):
        found = _RECORD.match(content, start)
        end = start + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise ValueError("an extended tar header is malformed")
        key, value = found[2].decode("ascii", "replace"), content[found.end() : end - 1]
        start = end
        if key in _MEANINGLESS_PAX or key.startswith(_ATTRIBUTES):
            continue
        if key not in ("path", "size") or key in records or is_global:
            raise ValueError(f"an extended tar header has the key {key[:60]!r}, which a bundle does not use")
        records[key] = parse_text(value)
    if not re.fullmatch(r"[0-9]{1,18}", records.get("size", "0")):
        raise ValueError("an extended tar header has a size that is no number")
    return records


def _block(name: str, size: int, kind: bytes) -> bytes:
    octal = b"%011o\0" % size if size < _MAX_OCTAL_SIZE else b"\x80" + size.to_bytes(11, "big")
    before = b"".join((name.encode("ascii").ljust(_MAX_NAME, b"\0"), b"0000644\0", b"0000000\0" * 2, octal, b"0" * 11))
    after = kind + bytes(100) + _MAGICS[0]
    after += bytes(64) + b"0000000\0" * 2
    unsigned = sum(before) + sum(after) + 8 * ord(" ")
    return (before + b"\0" + b"%06o\0 " % unsigned + after).ljust(UNIT, b"\0")


def _pax_record(key: str, value: str) -> bytes:
    length = len(key) + len(value) + 3  # a space, an equals sign and a newline
    digits = len(str(length + len(str(length))))
    return f"{length + digits} {key}={value}\n".encode("ascii")


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base-256 for what is positive and fits into 63 bits."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value > _MAX_SIZE:
            raise ValueError("a number in a tar header is too large")
        return value
    digits = _OCTAL.fullmatch(field)
    if digits is None:
        raise ValueError("a number in a tar header is malformed or negative")
    return int(digits[1] or b"0", 8)


def parse_text(field: bytes) -> str:
    """A name, and zeros after it; raises ``ValueError``."""
    try:
        text = field.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("a name in a tar header is not ASCII") from None
    if "\0" in text:
        raise ValueError("a name in a tar header has a zero byte inside")
    return text
