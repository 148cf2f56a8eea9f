"""Many simulated sites in one process: registries that take everything at the speed of memory, and keep names only.

Each loopback address of 127.0.0.0/8 that is asked for is a site of its own; nothing is bound to any other network.  A
blob is thrown away as it comes, a manifest is kept by its digest, so that a run which finds everything there can be
measured too.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvloop

from benchmarks.installed import environment

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost: *([^\r]+)", re.IGNORECASE)
_TYPE = re.compile(rb"\r\ncontent-type: *([^\r]+)", re.IGNORECASE)
_EMPTY = b"Content-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Sites:
    """Simulated sites that answer at ``addresses``."""

    addresses: tuple[str, ...]
    pid: int

    def manifests(self) -> list[int]:
        """The number of names and digests of manifests that each site has."""
        connection = http.client.HTTPConnection(self.addresses[0])
        try:
            connection.request("GET", "/counts")
            counts = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return [counts.get(address, 0) for address in self.addresses]


def loopback(number: int) -> str:
    """The loopback address of site ``number``, from 0.

    >>> loopback(0), loopback(999)
    ('127.0.1.1', '127.0.4.250')
    """
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


@contextmanager
def run_sites(count: int) -> Iterator[Sites]:
    """So many sites, in a process of their own, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.sites", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment({})) as process:
        try:
            assert process.stdout
            port = process.stdout.readline().strip()
            yield Sites(tuple(f"{loopback(number)}:{port}" for number in range(count)), process.pid)
        finally:
            process.terminate()


class _Connection(asyncio.Protocol):
    """One connection: heads are looked at, the bodies of blobs are not."""

    def __init__(self, manifests: dict[bytes, tuple[bytes, int, bytes]]) -> None:
        self._manifests = manifests
        self._head = b""
        self._skip = 0  # bytes of a body that are still to come
        self._kept: bytearray | None = None  # the body of a manifest
        self._then = b""  # the answer when the body is there
        self._key = b""
        self._type = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        while data:
            if self._skip:
                taken = data[: self._skip] if len(data) > self._skip else data
                data = data[len(taken) :]
                self._skip -= len(taken)
                if self._kept is not None:
                    self._kept += taken
                if not self._skip:
                    self._end()
                continue
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[:end], self._head[end + 4 :], b""
            self._begin(head)

    def _begin(self, head: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        length = _LENGTH.search(head)
        self._skip = int(length[1]) if length else 0
        host = _HOST.search(head)
        self._key = (host[1] if host else b"") + path
        if b"/manifests/" in path:
            self._manifest(method, head)
        elif method == b"PUT":
            digest = path.rpartition(b"digest=")[2].replace(b"%3A", b":")
            self._then = b"HTTP/1.1 201 Created\r\nDocker-Content-Digest: " + digest + b"\r\n" + _EMPTY
        elif method == b"POST" and b"mount=" in path:
            self._then = b"HTTP/1.1 201 Created\r\n" + _EMPTY
        elif method in (b"POST", b"PATCH"):
            place = path.partition(b"?")[0].rstrip(b"/")
            self._then = b"HTTP/1.1 202 Accepted\r\nLocation: " + place + b"/1\r\n" + _EMPTY
        elif path == b"/counts":
            counted = Counter(key.partition(b"/")[0].decode() for key in self._manifests)
            content = json.dumps(counted).encode()
            self._then = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
        elif path == b"/v2/":
            self._then = b"HTTP/1.1 200 OK\r\n" + _EMPTY
        else:
            self._then = b"HTTP/1.1 404 Not Found\r\n" + _EMPTY
        if not self._skip:
            self._end()

    def _manifest(self, method: bytes, head: bytes) -> None:
        if method == b"PUT":
            self._kept = bytearray()
            found = _TYPE.search(head)
            self._type = found[1] if found else b""
        elif known := self._manifests.get(self._key):
            digest, size, media_type = known
            said = (media_type, size, digest)
            self._then = (
                b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nDocker-Content-Digest: %s\r\n\r\n" % said
            )
        else:
            self._then = b"HTTP/1.1 404 Not Found\r\n" + _EMPTY

    def _end(self) -> None:
        if self._kept is not None:
            digest = b"sha256:" + hashlib.sha256(self._kept).hexdigest().encode()
            self._manifests[self._key] = digest, len(self._kept), self._type
            self._then = b"HTTP/1.1 201 Created\r\nDocker-Content-Digest: " + digest + b"\r\n" + _EMPTY
            self._kept = None
        self._transport.write(self._then)


async def _serve(count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = asyncio.get_running_loop()
    manifests: dict[bytes, tuple[bytes, int, bytes]] = {}
    port = 0
    servers: list[Any] = []
    for number in range(count):
        listening = socket.create_server((loopback(number), port), backlog=64)
        port = listening.getsockname()[1]
        servers.append(await loop.create_server(lambda: _Connection(manifests), sock=listening))
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
