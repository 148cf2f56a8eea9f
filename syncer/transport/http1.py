"""HTTP/1.1 as bytes: heads that are sent, heads and bodies that come back.  No I/O (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from multidict import CIMultiDict, CIMultiDictProxy

MAX_HEAD = 128 * 1024
"""Bytes of the head of an answer; a Location of Google's, or a token, alone may take 60 KiB."""

_MAX_FIELDS = 256
_MAX_LINE = 64 * 1024  # bytes of a chunk's size, its extensions included, and of a trailer
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_FIELD = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)$", re.MULTILINE)
_FOLD = re.compile(r"\n[ \t]+")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_FORBIDDEN = re.compile(r"[\r\n\0]")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class NotHTTP(ValueError):
    """What came is no answer of HTTP/1.1."""


class CutOff(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer, and how its body ends."""

    status: int
    headers: CIMultiDictProxy[str]
    is_chunked: bool
    length: int | None  # bytes of the body; None: it ends with its last chunk, or with the connection
    keeps_connection: bool


def request_head(method: str, target: str, headers: Mapping[str, str], length: int | None) -> bytes:
    """The head of a request whose body has ``length`` bytes, None for no body.

    Raises ``ValueError`` for what would break out of its line.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if length is not None or method in _WITH_BODY:
        lines.append(f"Content-Length: {length or 0}")
    if any(map(_FORBIDDEN.search, lines)):
        raise ValueError("a line break in a header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class HeadReader:
    """Finds the head of the answer to one request in the bytes that come; ``rest`` is what followed it."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._buffer = bytearray()
        self.rest = b""

    def feed(self, piece: bytes | memoryview) -> Head | None:
        """The head once it is whole; raises ``NotHTTP``.  Answers of status 1xx are passed over."""
        self._buffer += piece
        while (end := _end_of_head(self._buffer)) >= 0:
            block = bytes(self._buffer[:end])
            del self._buffer[:end]
            head = _parsed_head(block, self._method)
            if head.status >= 200:
                self.rest = bytes(self._buffer)
                return head
        if len(self._buffer) > MAX_HEAD or not b"HTTP/1.".startswith(bytes(self._buffer[:7]).strip(b"\r\n")):
            raise NotHTTP("a head without an end, or of no HTTP")
        return None


class BodyReader:
    """Takes what comes after a head apart: ``feed`` gives the body's bytes, ``is_done`` says that it has ended."""

    def __init__(self, head: Head) -> None:
        self._left = head.length  # bytes; None: not known
        self._chunks = _Chunks() if head.is_chunked else None
        self.is_done = head.length == 0
        self.overran = False  # more came than the answer has

    @property
    def left(self) -> int | None:
        """Bytes that are still to come, one after the other; None where that is not known."""
        return self._left

    def took(self, count: int) -> None:
        """``count`` bytes of a body whose length is known went past ``feed``."""
        assert self._left is not None
        self._left -= count
        self.is_done = self._left == 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The body's bytes in ``piece``; raises ``NotHTTP`` when its chunks are none."""
        if self._chunks is not None:
            yield from self._chunks.feed(piece)
            self.is_done, self.overran = self._chunks.is_done, self._chunks.overran
        elif self._left is None:
            yield piece
        else:
            self.overran = len(piece) > self._left
            wanted = piece[: self._left]
            self.took(len(wanted))
            if wanted:
                yield wanted

    def end(self) -> None:
        """The connection has ended, and with it a body that says nothing else; raises ``CutOff``."""
        if self._chunks is not None or self._left:
            raise CutOff
        self.is_done = True


class _Line(Enum):
    """What the next line of a chunked body is."""

    SIZE = auto()
    END_OF_CHUNK = auto()
    TRAILER = auto()


class _Chunks:
    """The chunked coding (RFC 9112 §7.1)."""

    def __init__(self) -> None:
        self._line = b""  # as much as has come
        self._next = _Line.SIZE
        self._left = 0  # bytes of the chunk
        self.is_done = False
        self.overran = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        position = 0
        while position < len(piece) and not self.is_done:
            if self._left:
                part = piece[position : position + self._left]
                self._left -= len(part)
                position += len(part)
                yield part
            else:
                end = piece.find(b"\n", position) + 1
                self._line += piece[position : end or len(piece)]
                position = end or len(piece)
                if len(self._line) > _MAX_LINE:
                    raise NotHTTP("a line without an end among the chunks")
                if end:
                    line, self._line = self._line.rstrip(b"\r\n"), b""
                    self._take(line)
        self.overran = position < len(piece)

    def _take(self, line: bytes) -> None:
        if self._next is _Line.TRAILER:
            self.is_done = not line
        elif self._next is _Line.END_OF_CHUNK:
            if line:
                raise NotHTTP("a chunk that is longer than it says")
            self._next = _Line.SIZE
        elif size := _CHUNK_SIZE.fullmatch(line):
            self._left = int(size[1], 16)
            self._next = _Line.END_OF_CHUNK if self._left else _Line.TRAILER
        else:
            raise NotHTTP("a chunk without a size")


def _end_of_head(buffer: bytearray) -> int:
    """Where the body starts; -1 while the head is not whole.  Lines may end without CR (RFC 9112 §2.2)."""
    end = buffer.find(b"\r\n\r\n")
    if end >= 0:
        return end + 4
    end = buffer.find(b"\n\n")
    return end + 2 if end >= 0 else -1


def _parsed_head(block: bytes, method: str) -> Head:
    text = block.decode("latin-1").replace("\r\n", "\n").strip("\n")
    status_line, _, lines = text.partition("\n")
    status = _STATUS_LINE.fullmatch(status_line)
    if not status or len(block) > MAX_HEAD:
        raise NotHTTP("a head of another form")
    headers = _fields(lines)
    code = int(status[2])
    length, is_chunked = _ending(method, code, headers)
    options = {option.strip().lower() for value in headers.getall("Connection", ()) for option in value.split(",")}
    keeps = "close" not in options and (status[1] == "1" or "keep-alive" in options)
    is_clear = (is_chunked or length is not None) and not (is_chunked and "Content-Length" in headers)
    return Head(code, headers, is_chunked, length, keeps and is_clear and code != 101)


def _fields(lines: str) -> CIMultiDictProxy[str]:
    if "\n " in lines or "\n\t" in lines:  # a field that goes on in the next line (RFC 9112 §5.2)
        lines = _FOLD.sub(" ", lines)
    if " \n" in lines or "\t\n" in lines or lines.endswith((" ", "\t")):
        # not in the pattern of a field, which would be slow for all answers, and hostile ones could make it slower
        lines = "\n".join(line.rstrip(" \t") for line in lines.split("\n"))
    fields = _FIELD.findall(lines)
    if len(fields) > _MAX_FIELDS or len(fields) != (lines.count("\n") + 1 if lines else 0):
        raise NotHTTP("a field without a name, or too many of them")
    return CIMultiDictProxy(CIMultiDict(fields))


def _ending(method: str, status: int, headers: CIMultiDictProxy[str]) -> tuple[int | None, bool]:
    """The length of the body where it is known, and whether it comes in chunks (RFC 9112 §6.3)."""
    if method == "HEAD" or status < 200 or status in (204, 304):
        return 0, False
    codings = headers.getall("Transfer-Encoding", ())
    if codings:
        return None, codings[-1].rpartition(",")[2].strip().lower() == "chunked"
    lengths = {part.strip() for value in headers.getall("Content-Length", ()) for part in value.split(",")}
    if not lengths:
        return None, False
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise NotHTTP("a body of more than one length, or of none")
    return int(length), False
