"""HTTP/1.1 as bytes: heads, and bodies in each of the ways in which they may be framed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeAlias

PIECE = 64 * 1024
LIMIT = 256 * 1024  # bytes of a head, and of what is read ahead


@dataclass(slots=True)
class Head:
    """The first line of a request or an answer, and its headers in order."""

    line: str
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        line, *rest = text.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (header.partition(":") for header in rest)
        return cls(line, [(name, value.strip()) for name, _, value in pairs])

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def rewrite(self, headers: Mapping[str, str | None]) -> None:
        """Set headers; those that are None are removed."""
        names = {name.lower() for name in headers}
        kept = [(name, value) for name, value in self.headers if name.lower() not in names]
        self.headers = kept + [(name, value) for name, value in headers.items() if value is not None]

    def encode(self) -> bytes:
        lines = [self.line, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.line.split(" ", 2)[1])


@dataclass(frozen=True, slots=True)
class Length:
    """A body of so many bytes."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Chunked:
    """A body in chunks, each with its length before it."""


@dataclass(frozen=True, slots=True)
class UntilClose:
    """A body that ends with the connection."""


Framing: TypeAlias = Length | Chunked | UntilClose


def request_framing(head: Head) -> Framing:
    """How a request's body is framed (RFC 9112, 6.3)."""
    if (head.get("Transfer-Encoding") or "").lower() == "chunked":
        return Chunked()
    return Length(int(head.get("Content-Length") or 0))


def answer_framing(head: Head, method: str) -> Framing:
    """How the body of the answer to ``method`` is framed."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return Length(0)
    if (head.get("Transfer-Encoding") or "").lower() == "chunked":
        return Chunked()
    length = head.get("Content-Length")
    return UntilClose() if length is None else Length(int(length))


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None when the connection was closed instead."""
    try:
        return Head.parse(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError:
        return None


async def read_body(reader: asyncio.StreamReader, framing: Framing) -> AsyncIterator[bytes]:
    """The body's bytes as they arrive; raises ``EOFError`` when the connection ends before it does."""
    match framing:
        case Length(left):
            async for piece in _exactly(reader, left):
                yield piece
        case Chunked():
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                async for piece in _exactly(reader, size):
                    yield piece
                await reader.readexactly(2)
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
        case UntilClose():
            while piece := await reader.read(PIECE):
                yield piece


async def _exactly(reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise EOFError
        left -= len(piece)
        yield piece


def encode_piece(piece: bytes, framing: Framing) -> bytes:
    """Bytes of a body as they go over the wire."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if isinstance(framing, Chunked) else piece


def encode_end(framing: Framing) -> bytes:
    return b"0\r\n\r\n" if isinstance(framing, Chunked) else b""
