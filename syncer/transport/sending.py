"""A body's way from its file into a socket that blocks: the kernel sends it from there, or it is read first."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from syncer.errors import Interrupted
from syncer.transport.message import FileBody, Request

Portion: TypeAlias = tuple[int, Iterator[int]]
"""How many bytes are to be sent, and what sends some of them at each step and says how many these were."""

_CAN_SEND_FILES = hasattr(os, "sendfile")
_EXTENTS = 8  # stretches of a file in one portion; in a bundle they have 128 KiB
_OF_THE_FILE = frozenset({errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW})


@dataclass(slots=True)
class Sending:
    """``body`` in portions."""

    request: Request
    body: FileBody
    length: int  # bytes of the body
    socket: socket.socket
    buffer: Callable[[], memoryview]  # where to put what has to be read

    def portions(self) -> Iterator[Portion]:
        """All of the body.  Raises ``Interrupted`` when it is shorter than it says, and what reading it raises."""
        position = 0
        if _CAN_SEND_FILES and not isinstance(self.socket, ssl.SSLSocket) and (found := self.body.in_place()):
            file, extents = found
            rest = iter(extents)
            while batch := tuple(islice(rest, _EXTENTS)):
                length = sum(length for _, length in batch)
                yield length, self._from_file(file, batch, position)
                position += length
        while position < self.length:
            piece = self._read(position)
            yield len(piece), self._from_buffer(piece)
            position += len(piece)

    def _from_file(self, file: int, extents: Iterable[tuple[int, int]], position: int) -> Iterator[int]:
        """Let the kernel send from ``file``; what it cannot is read, which says what is wrong with the file."""
        out = self.socket.fileno()
        for offset, length in extents:
            sent = 0
            while sent < length:
                count = _send_file(out, file, offset + sent, length - sent)
                if not count:
                    count = self.socket.send(self._read(position + sent)[: length - sent])
                sent += count
                yield count
            position += length

    def _from_buffer(self, piece: memoryview) -> Iterator[int]:
        while piece:
            count = self.socket.send(piece)
            piece = piece[count:]
            yield count

    def _read(self, position: int) -> memoryview:
        left = self.length - position
        count = self.body.read_into(self.buffer()[:left], position)
        if not count:
            raise Interrupted(f"{self.request}: the content to send ended {left} bytes early")
        return self.buffer()[:count]


def _send_file(out: int, file: int, offset: int, length: int) -> int:
    """How many bytes the kernel sent; none where it cannot read them."""
    try:
        return os.sendfile(out, file, offset, length)
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            return 0
        raise
