"""TLS over a blocking connection that is TLS itself: to a server, through a proxy that is spoken to by TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_RECORD = 16 * 1024  # bytes that TLS puts into one record at most
_RECEIVED = 64 * 1024


class TlsInTls:
    """As much of a socket's interface as a connection needs.  All methods raise as those of ``outer``.

    ``ssl`` wraps sockets alone, so the records of the inner TLS go through two buffers.
    """

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str | None) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def do_handshake(self) -> None:
        self._carry(self._tls.do_handshake)

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``; the number of bytes."""
        return self._carry(self._tls.write, memoryview(data)[:_RECORD])

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest) :]

    def recv(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end, also where that is not said by TLS (as ``ssl`` has it)."""
        try:
            return self._carry(self._tls.read, size)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def recv_into(self, buffer: memoryview) -> int:
        """As ``recv``, into ``buffer``; the number of bytes."""
        read: Callable[[int, memoryview], Any] = self._tls.read
        try:
            return int(self._carry(read, len(buffer), buffer))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0

    def settimeout(self, seconds: float | None) -> None:
        self._outer.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        self._outer.shutdown(how)

    def close(self) -> None:
        self._outer.close()

    def _carry(self, step: Callable[..., T], *arguments: Any) -> T:
        """Do a step of the inner TLS, with as many records to and from the other end as it takes."""
        while True:
            try:
                done = step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                if piece := self._outer.recv(_RECEIVED):
                    self._incoming.write(piece)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                self._flush()  # an alert says why
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._outer.sendall(self._outgoing.read())
