"""HTTP/1.1 as bytes, without I/O (RFC 9112): heads of requests, and answers, which ``httptools`` parses."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping

import httptools
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

MAX_HEAD = 128 * 1024
"""Bytes of the head of an answer at most; a Location of Google's, or a token, alone may take 60 KiB."""

_MAX_FIELDS = 256
_MAX_LINE = 64 * 1024  # bytes between two pieces of a body: a chunk's size and extensions, or trailers
_TOO_LARGE = "a head that is too large"
_FIELD_OVERHEAD = 4  # bytes of ": " and of the end of the line
_FORBIDDEN = re.compile(r"[\r\n\0]")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_WITHOUT_BODY = frozenset({204, 304})


class NotHTTP(ValueError):
    """The received bytes are not an answer of HTTP/1.1."""


class CutOff(Exception):
    """The connection ended before the answer did."""


class Head(Struct, frozen=True):
    """The head of an answer, and whether another exchange may follow on its connection."""

    status: int
    headers: CIMultiDictProxy[str]
    keeps_connection: bool


def request_head(method: str, target: str, headers: Mapping[str, str], length: int | None) -> bytes:
    """The head of a request whose body has ``length`` bytes, None for no body.

    Raises ``ValueError`` for text that would break out of its line.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if length is not None or method in _WITH_BODY:
        lines.append(f"Content-Length: {length or 0}")
    if any(map(_FORBIDDEN.search, lines)):
        raise ValueError("a line break in a header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class AnswerParser:
    """The parser of one answer: it takes bytes, and gives the head and then the pieces of the body.

    A parser serves one answer, since ``httptools`` cannot be told that a request was a HEAD.  Answers of status
    1xx are ignored.  When the head tells the length of the body, the bytes of the body are only counted.
    """

    __slots__ = (
        "_fields", "_method", "_parser", "_piece_size", "_since_piece", "_size", "brought", "has_overrun", "head",
        "held", "is_chunked", "is_done", "left", "pieces",
    )  # fmt: skip

    def __init__(self, method: str) -> None:
        self.head: Head | None = None
        self.pieces: deque[bytes] = deque()  # of the body, that nobody has taken yet
        self.held = 0  # bytes in them
        self.left: int | None = None  # bytes of the body that are still to come; None: not known
        self.is_chunked = False
        self.is_done = False  # the body has come to its end
        self.has_overrun = False  # more came than the answer has
        self.brought = 0  # pieces of the body in what was fed last, each of which takes its time
        self._method = method
        self._fields: list[bytes] = []  # names and values in turn
        self._size = 0  # bytes fed without a head in them
        self._since_piece = 0  # bytes fed without a piece of the body in them
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,  # a field that goes on in the next line (RFC 9112 §5.2)
            lenient_chunked_length=True,  # chunks that come with a length: the connection is not used again (§6.3)
            lenient_data_after_close=True,
            lenient_optional_cr_before_lf=True,  # lines may end like this (§2.2)
            lenient_spaces_after_chunk_size=True,
        )

    def feed(self, data: bytes) -> None:
        """Parse the next bytes; raises ``NotHTTP``."""
        if self.is_done:
            self.has_overrun = True
        elif self._parser is None:
            assert self.left is not None
            self.has_overrun = len(data) > self.left
            self._keep(data[: self.left] if self.has_overrun else data)
            self.took(min(len(data), self.left))
        else:
            self._parse(data)

    def take(self) -> bytes:
        """Take the next piece of the body that was fed."""
        piece = self.pieces.popleft()
        self.held -= len(piece)
        return piece

    def take_into(self, buffer: memoryview) -> int:
        """Copy as much of the next piece as fits into ``buffer``, and return the number of bytes."""
        piece = self.take()
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if count < len(piece):
            self.pieces.appendleft(piece[count:])
            self.held += len(piece) - count
        return count

    def took(self, count: int) -> None:
        """Count ``count`` bytes of a body of known length that were received without ``feed``."""
        assert self.left is not None
        self.left -= count
        self.is_done = self.left == 0

    def end(self) -> None:
        """Note that the connection has ended, which also ends a body without a length; raises ``CutOff``."""
        self._parser = None
        if self.head is None or not (self.is_done or (self.left is None and not self.is_chunked)):
            raise CutOff
        self.is_done = True

    def _keep(self, piece: bytes) -> None:
        if piece:
            self.pieces.append(piece)
            self.held += len(piece)

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        had_head, had_pieces = self.head is not None, len(self.pieces)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._parser = None
            raise (error.__context__ or error) from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._parser = None
            if not self.is_done:  # else it is of what came after the answer
                raise NotHTTP(str(error)) from None
            self.has_overrun = True
        if self.head is None:
            self._size += len(data)
            if self._size > MAX_HEAD:
                raise NotHTTP("a head without an end")
        elif self.is_done or self.left is not None:
            self._parser = None  # the two hold each other
        else:
            self._joined(had_pieces, len(data) if had_head else max(0, len(data) - self._size))

    def _joined(self, had_pieces: int, size: int) -> None:
        """Make one piece of all that ``size`` bytes of a chunked body brought; raises ``NotHTTP``."""
        self.brought = brought = len(self.pieces) - had_pieces
        if brought > 1:
            self.pieces.append(b"".join([self.pieces.pop() for _ in range(brought)][::-1]))
        self._since_piece = 0 if brought else self._since_piece + size
        if self._since_piece > _MAX_LINE:
            raise NotHTTP("a line without an end among the chunks")

    # what the parser calls

    def on_message_begin(self) -> None:
        self.has_overrun = self.head is not None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is not None:
            return  # a trailer
        self._fields += (name, value)
        if len(self._fields) > 2 * _MAX_FIELDS:
            raise NotHTTP(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.head is not None:
            return  # of another answer, for which nobody asked
        status = self._parser.get_status_code()
        if status < 200:
            self._fields.clear()
            return
        self._size += sum(map(len, self._fields)) + len(self._fields) // 2 * _FIELD_OVERHEAD
        if self._size > MAX_HEAD:
            raise NotHTTP(_TOO_LARGE)
        texts = [field.decode("latin-1").strip(" \t") for field in self._fields]
        headers = CIMultiDictProxy(CIMultiDict(zip(texts[::2], texts[1::2], strict=True)))
        keeps = self._parser.should_keep_alive()
        codings = headers.get("Transfer-Encoding")
        length = headers.get("Content-Length")
        if self._method == "HEAD" or status in _WITHOUT_BODY or (self._method == "CONNECT" and status < 300):
            self.left, self.is_done = 0, True
            keeps = keeps or _stays_open(self._parser.get_http_version(), headers)
        elif codings is not None:
            self.is_chunked = headers.getall("Transfer-Encoding")[-1].rpartition(",")[2].strip().lower() == "chunked"
            keeps = keeps and length is None
        elif length is not None:
            if not (length.isascii() and length.isdigit()) or len(length) > 18:
                raise NotHTTP("a body whose length is no number")
            self.left = int(length)
            self.is_done = self.left == 0
        self.head = Head(status, headers, keeps)

    def on_body(self, piece: bytes) -> None:
        if self.is_done:
            self.has_overrun = True
            return
        self._keep(piece)
        if self.left is not None:
            self.took(len(piece))

    def on_message_complete(self) -> None:
        self.is_done = self.head is not None


def _stays_open(version: str, headers: CIMultiDictProxy[str]) -> bool:
    """Tell whether the connection is kept after an answer without a body, even if its head gives a length."""
    options = {option.strip().lower() for value in headers.getall("Connection", ()) for option in value.split(",")}
    return "close" not in options and (version == "1.1" or "keep-alive" in options)
