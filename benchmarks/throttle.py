"""A registry that takes so many requests a second: a relay that answers all others by 429.

It takes whole requests and whole answers, of which it changes nothing but the headers that tell its limit.  Its clock
begins anew each second, as that of most gateways does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.requests import kind_of

if TYPE_CHECKING:
    from benchmarks.link import Traffic

_NO_BODY = (204, 304)
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Throttle:
    """How many requests a second are taken, and whether headers say so and a 429 tells when to come again."""

    per_second: int
    told: bool = False  # by RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10)
    retry_after: bool = True

    def __str__(self) -> str:
        told = ", told" if self.told else "" if self.retry_after else ", nothing told"
        return f"{self.per_second} requests a second{told}"


@dataclass(slots=True)
class Gate:
    """The limit, as all connections share it."""

    throttle: Throttle
    second: int = -1
    taken: int = 0

    def takes(self) -> bool:
        """Whether one more request is taken now."""
        now = int(time.monotonic())
        if now != self.second:
            self.second, self.taken = now, 0
        self.taken += 1
        return self.taken <= self.throttle.per_second

    def told(self) -> Iterator[bytes]:
        """The headers of an answer that tell of the limit."""
        if self.throttle.told:
            most = self.throttle.per_second
            yield b'RateLimit-Policy: "second";q=%d;w=1\r\n' % most
            yield b'RateLimit: "second";r=%d;t=1\r\n' % max(0, most - self.taken)

    def refusal(self) -> bytes:
        """The answer to a request that is not taken."""
        wait = b"Retry-After: 1\r\n" if self.throttle.retry_after else b""
        return b"".join((b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n", *self.told(), wait, b"\r\n"))


@dataclass(slots=True)
class Throttled:
    """One connection of a client, and the one to the registry."""

    gate: Gate
    traffic: Traffic
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream_reader: asyncio.StreamReader
    upstream_writer: asyncio.StreamWriter

    async def serve(self) -> None:
        """All exchanges until either end hangs up."""
        try:
            while await self._exchange():
                pass
        except asyncio.IncompleteReadError:
            pass

    async def _exchange(self) -> bool:
        head = await self.reader.readuntil(_END)
        method, path, _ = head.split(b" ", 2)
        self.traffic.requests[f"{method.decode()} {kind_of(path.decode())}"] += 1
        body = await _body(self.reader, head)
        self.traffic.up += len(head) + len(body)
        if not self.gate.takes():
            self.traffic.refused += 1
            self.writer.write(self.gate.refusal())
            await self.writer.drain()
            return True
        self.upstream_writer.write(head + body)
        await self.upstream_writer.drain()
        answer = await self.upstream_reader.readuntil(_END)
        has_none = method == b"HEAD" or int(answer.split(b" ", 2)[1]) in _NO_BODY
        content = b"" if has_none else await _body(self.upstream_reader, answer)
        self.traffic.down += len(answer) + len(content)
        self.writer.write(b"".join((answer[:-2], *self.gate.told(), b"\r\n", content)))
        await self.writer.drain()
        return b"connection: close" not in answer.lower()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body that ``head`` announces, in chunks as it comes."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"chunked" not in fields.get(b"transfer-encoding", b""):
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    pieces = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        pieces += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(pieces)
