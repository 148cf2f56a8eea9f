"""A reverse proxy in a process of its own, which scans large bodies as virus scanners do.

It takes the first request that has such a body, or whose answer has one, says nothing for a while, and then goes on.
While nobody listens behind it, it answers 502.

    python -m tests.support.scanner HOST:PORT SECONDS
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio

from tests.support.registries import Registry, end, listening

_HOP = {"connection", "transfer-encoding", "keep-alive"}

_SMALL = 64 * 1024


@asynccontextmanager
async def scanner(upstream: Registry, directory: Path, *, seconds: float = 0.0) -> AsyncIterator[Registry]:
    """Scan what goes in and out of ``upstream``, each large blob for so many seconds; ``log`` has each request."""
    directory.mkdir(parents=True)
    log = directory / "scanner.log"
    with log.open("wb") as output:
        process = await anyio.open_process(
            [sys.executable, "-m", "tests.support.scanner", upstream.address, str(seconds)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Registry(await listening(process, log), upstream.directory, pid=process.pid, log=log)
    finally:
        await end(process)


class _Scanning(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""
    seconds = 0.0
    scanned: set[str] = set()  # noqa: RUF012  (one for all connections)
    lock = threading.Lock()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _tell(f"{self.command} {self.path}")
        connection = http.client.HTTPConnection(self.upstream)
        try:
            connection.request(self.command, self.path, body or None, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._say(502, [], b"nobody is there")
            return
        finally:
            connection.close()
        if len(content) > _SMALL or len(body) > _SMALL:
            self._scan()
        self._say(answer.status, answer.getheaders(), content)

    def _scan(self) -> None:
        what = self.command + self.path.partition("?")[0]
        with self.lock:
            is_new = what not in self.scanned
            self.scanned.add(what)
        if is_new:
            time.sleep(self.seconds)

    def _say(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = pass_on  # noqa: N815


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that is gone."""


if __name__ == "__main__":
    _Scanning.upstream, _Scanning.seconds = sys.argv[1], float(sys.argv[2])
    with _Server(("127.0.0.1", 0), _Scanning) as server:
        _tell(f"listening on 127.0.0.1:{server.server_port}")
        server.serve_forever()
