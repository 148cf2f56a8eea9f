"""Web servers that have one bundle: Debian's nginx, and one whose answers a test can spoil."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import anyio
from aiohttp import web

from tests.support.programs import needs
from tests.support.tokens import Login

Fault: TypeAlias = Callable[[web.Request, "Asked"], Awaitable[web.StreamResponse | None]]
"""Answers a request in another way, or None to have it answered as always, after whatever it did to the server."""

LARGE = 128 * 1024  # bytes from which on a range is a blob's, and none that is read as a bundle is opened
PATH = "/edge.tar.zst"


@dataclass(slots=True)
class Asked:
    """A request as it arrived, and how it was answered."""

    path: str
    first: int  # of the range
    last: int
    headers: dict[str, str]
    status: int = 0
    sent: int = 0  # bytes of its body

    @property
    def length(self) -> int:
        return self.last - self.first + 1


@dataclass(slots=True)
class FileServer:
    """A file on a server that answers range requests, and what it was asked for."""

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = "Thu, 26 Nov 2026 06:00:00 GMT"
    login: Login | None = None
    heeds_conditions: bool = True
    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    faults: list[tuple[int, int, Fault]] = field(default_factory=list)  # how many times still, of which length, what

    @property
    def url(self) -> str:
        return f"http://{self.address}{PATH}"

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(one.sent for one in self.asked)

    @property
    def blobs(self) -> list[Asked]:
        """The requests for large ranges."""
        return [one for one in self.asked if one.length >= LARGE]

    def on_blob(self, *faults: Fault, times: int = 1) -> None:
        """Let ``faults`` happen, one after the other, at the next requests for a large range."""
        self.faults.extend((times, LARGE, fault) for fault in faults)

    def on_any(self, *faults: Fault, times: int = 1) -> None:
        """Let ``faults`` happen, one after the other, at the next requests whatever they are for."""
        self.faults.extend((times, 0, fault) for fault in faults)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        first, last = (int(found[1]), int(found[2])) if found else (0, len(self.content) - 1)
        asked = Asked(request.path_qs, first, last, dict(request.headers))
        self.asked.append(asked)
        for index, (times, length, fault) in enumerate(self.faults):
            if asked.length >= length:
                self.faults[index : index + 1] = [(times - 1, length, fault)] if times > 1 else []
                if (response := await fault(request, asked)) is not None:
                    asked.status = response.status
                    return response
                break
        response = await self.give(request, asked)
        asked.status = response.status
        return response

    async def give(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """Answer as a good server does."""
        if self.login and request.headers.get("Authorization") != self.login.header:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="files"'})
        condition = request.headers.get("If-Match")
        if self.heeds_conditions and condition is not None and (condition != self.etag or condition.startswith("W/")):
            return web.Response(status=412)  # a weak tag never fits (RFC 9110 §13.1.1)
        if asked.first >= len(self.content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(self.content)}"})
        return await self.part(request, asked, asked.first, min(asked.last, len(self.content) - 1))

    async def part(
        self, request: web.Request, asked: Asked, first: int, last: int, *, stop: int | None = None
    ) -> web.StreamResponse:
        """Send a part of the file; after ``stop`` bytes of it nothing more, though all was announced."""
        headers = {"Content-Range": f"bytes {first}-{last}/{len(self.content)}"}
        headers |= {name: value for name, value in (("ETag", self.etag), ("Last-Modified", self.modified)) if value}
        body = self.content[first : last + 1]
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        body = body[:stop]
        for start in range(0, len(body), 65536):
            piece = body[start : start + 65536]
            await response.write(piece)
            asked.sent += len(piece)
        return response


@asynccontextmanager
async def file_server(content: bytes, *, login: Login | None = None) -> AsyncIterator[FileServer]:
    """A server of the tests' own, which answers each path with ``content``."""
    server = FileServer(content, login=login)
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.address = f"{host}:{port}"
        yield server
    finally:
        await runner.cleanup()


_CONFIG = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  log_format bytes "$status $body_bytes_sent"; access_log {log} bytes; default_type application/zstd;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx."""

    address: str
    log: Path

    @property
    def answers(self) -> list[tuple[int, int]]:
        """Status and bytes of the body of each answer."""
        lines = self.log.read_text().splitlines()
        return [(int(status), int(size)) for status, size, *_ in map(str.split, lines)]


@asynccontextmanager
async def nginx(root: Path) -> AsyncIterator[Nginx]:
    """Debian's nginx with the files of the directory ``root``."""
    program = needs("nginx")
    directory = root / "nginx"
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = directory / "access.log"
    config = directory / "nginx.conf"
    config.write_text(_CONFIG.format(directory=directory, log=log, port=port, root=root))
    process = await anyio.open_process([program, "-p", str(directory), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        with anyio.fail_after(10):
            while process.returncode is None:
                try:
                    stream = await anyio.connect_tcp("127.0.0.1", port)
                except OSError:
                    await anyio.sleep(0.01)
                else:
                    await stream.aclose()
                    break
        assert process.returncode is None
        yield Nginx(f"127.0.0.1:{port}", log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await process.aclose()
