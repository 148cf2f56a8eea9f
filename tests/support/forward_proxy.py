"""A proxy on loopback that knows where invented names are, records what it is asked, and breaks on demand.

    async with forward_proxy({"registry.test:5000": registry.address}) as proxy:
        proxy.on("CONNECT", "registry.test", Reply(503))
        ...  # Proxies(http=proxy.url, https=proxy.url)
        assert [asked.target for asked in proxy.tunnels] == ["registry.test:5000"]

Loopback is never asked for through a proxy, so a registry has a name here that only the proxy can resolve.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from yarl import URL

from tests.support.faults import Die, Fault, Reply, Reset, Rule, Say, Stall, Truncate, Where, marks_of, of_kind
from tests.support.http_wire import (
    LIMIT,
    PIECE,
    Head,
    UntilClose,
    answer_framing,
    encode_end,
    encode_piece,
    read_body,
    read_head,
    request_framing,
)
from tests.support.programs import needs
from tests.support.tls import Identity
from tests.support.tokens import Login

_HOP_BY_HOP = {"Proxy-Authorization": None, "Proxy-Connection": None}
_POLL_SECONDS = 0.01
_LINGER_SECONDS = 1  # that a client has to read an answer that came before its request was read


@dataclass(slots=True)
class Asked:
    """One request to the proxy: a tunnel, or an absolute address of plain HTTP."""

    method: str
    target: str  # as it was sent
    headers: Mapping[str, str]  # names in lower case
    connection: int  # which of the clients' connections, counted from 1
    status: int | None = None  # of the answer; None when none was given
    sent: int = 0  # bytes to the server, of a tunnel or of the request's body
    received: int = 0  # bytes from it


@dataclass(slots=True)
class ForwardProxy:
    """A running proxy; rules and names may be added at any time."""

    names: dict[str, str]  # by host:port, the address behind it
    login: Login | None
    tls: Identity | None
    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    connections: int = 0
    established: bytes = b"HTTP/1.1 200 Connection established\r\nVia: tests\r\n\r\n"
    _server: asyncio.Server | None = None
    _served: dict[asyncio.Task[None], anyio.CancelScope] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """What a user writes into ``HTTPS_PROXY``, with the login if the proxy asks for one."""
        return self.url_for(self.login)

    def url_for(self, login: Login | None) -> str:
        user = f"{login.username}:{login.password}@" if login else ""
        return f"{'https' if self.tls else 'http'}://{user}{self.address}"

    @property
    def tunnels(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "CONNECT"]

    def on(
        self, method: str | None, target: str, fault: Fault, *, first: int = 1, every: int = 1, times: int | None = 1
    ) -> Rule:
        """Let ``fault`` happen to requests whose target the regular expression ``target`` finds."""
        rule = Rule(method, re.compile(target), fault, first, every, times)
        self.rules.append(rule)
        return rule

    def die(self) -> None:
        """Listen no more, and let go of every connection."""
        assert self._server
        self._server.close()
        for scope in self._served.values():
            scope.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, until either end closes it."""
        self.connections += 1
        connection = _Connection(self, self.connections, reader, writer)
        task = asyncio.current_task()
        assert task
        with anyio.CancelScope() as scope:
            self._served[task] = scope
            try:
                while await connection.exchange():
                    pass
            except _Dead:
                self.die()
            except _Broken:
                await connection.reset()
            except (OSError, EOFError):
                pass
            finally:
                connection.close()


@asynccontextmanager
async def forward_proxy(
    names: Mapping[str, str],
    *,
    login: Login | None = None,
    tls: Identity | None = None,
) -> AsyncIterator[ForwardProxy]:
    """A proxy for the hosts in ``names``, to whom a client must show ``login`` if given; with ``tls`` it is spoken to
    by TLS.
    """
    proxy = ForwardProxy(dict(names), login, tls)
    context = tls.server_context() if tls else None
    proxy._server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=context, limit=LIMIT)
    proxy.address = f"127.0.0.1:{proxy._server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        proxy.die()
        ended = await asyncio.gather(*proxy._served, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


class _Broken(Exception):
    """The connection is reset here, on purpose."""


class _Dead(Exception):
    """The whole proxy is no more, on purpose."""


@dataclass(slots=True)
class _Connection:
    """A client's connection."""

    proxy: ForwardProxy
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self) -> bool:
        """One request; False when the connection is over."""
        head = await read_head(self.reader)
        if head is None:
            return False
        method, target, _ = head.line.split(" ", 2)
        headers = {name.lower(): value for name, value in head.headers}
        asked = Asked(method, target, headers, self.number)
        self.proxy.asked.append(asked)
        faults = [rule.fault for rule in self.proxy.rules if rule.fires(method, target)]
        for say in of_kind(faults, Say):
            self.writer.write(say.content)
            await self.writer.drain()
            return False
        if Stall("head") in faults:
            await anyio.sleep_forever()
        refusal = next(iter(of_kind(faults, Reply)), None) or self._refusal(asked)
        if refusal is not None:
            await self._refuse(head, asked, refusal)
            return False
        place = target if method == "CONNECT" else _place(target)
        host, _, port = self.proxy.names[place].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=LIMIT)
        try:
            if method == "CONNECT":
                return await self._tunnel(asked, faults, reader, writer)
            return await self._forward(head, asked, faults, reader, writer)
        finally:
            writer.close()

    def close(self) -> None:
        self.writer.close()

    async def reset(self) -> None:
        connected: socket.socket = self.writer.get_extra_info("socket")
        with suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _refusal(self, asked: Asked) -> Reply | None:
        """What the proxy says where it will not do what it is asked."""
        login = self.proxy.login
        if login and asked.headers.get("proxy-authorization") != login.header:
            return Reply(407, {"Proxy-Authenticate": 'Basic realm="tests"'}, b"<html>Who are you?</html>")
        place = asked.target if asked.method == "CONNECT" else _place(asked.target)
        return None if place in self.proxy.names else Reply(502, body=b"<html>No such host</html>")

    async def _refuse(self, head: Head, asked: Asked, reply: Reply) -> None:
        """Answer without reading what the client sends, as proxies do."""
        asked.status = reply.status
        answer = Head(f"HTTP/1.1 {reply.status} Refused", [*reply.headers.items()])
        answer.rewrite({"Content-Length": str(len(reply.body)), "Connection": "close"})
        self.writer.write(answer.encode() + (reply.body if asked.method != "HEAD" else b""))
        await self.writer.drain()
        if self.writer.can_write_eof():
            self.writer.write_eof()
        with anyio.move_on_after(_LINGER_SECONDS), suppress(OSError, EOFError):
            async for _ in read_body(self.reader, request_framing(head)):
                pass

    async def _tunnel(
        self, asked: Asked, faults: Sequence[Fault], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        asked.status = 200
        self.writer.write(self.proxy.established)
        ways = [
            asyncio.ensure_future(self._pump(self.reader, writer, asked, faults, "request")),
            asyncio.ensure_future(self._pump(reader, self.writer, asked, faults, "answer")),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            await _end(*ways)
        return False

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: Asked,
        faults: Sequence[Fault],
        where: Where,
    ) -> None:
        async for piece in _broken(_pieces(reader), faults, where):
            writer.write(piece)
            await writer.drain()
            _count(asked, where, piece)

    async def _forward(
        self,
        head: Head,
        asked: Asked,
        faults: Sequence[Fault],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """One request of plain HTTP, and its answer."""
        url = URL(asked.target, encoded=True)
        head.line = f"{asked.method} {url.raw_path_qs} HTTP/1.1"
        head.rewrite(_HOP_BY_HOP)
        sending = asyncio.ensure_future(self._send(head, asked, faults, writer))
        try:
            answering = asyncio.ensure_future(read_head(reader))
            await asyncio.wait([sending, answering], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and isinstance(sending.exception(), _Broken | _Dead):
                answering.cancel()
                sending.result()
            answer = await answering
            if answer is None:
                return False
            asked.status = answer.status
            framing = answer_framing(answer, asked.method)
            self.writer.write(answer.encode())
            async for piece in _broken(read_body(reader, framing), faults, "answer"):
                self.writer.write(encode_piece(piece, framing))
                await self.writer.drain()
                _count(asked, "answer", piece)
            self.writer.write(encode_end(framing))
            return sending.done() and not isinstance(framing, UntilClose)
        finally:
            await _end(sending)

    async def _send(self, head: Head, asked: Asked, faults: Sequence[Fault], writer: asyncio.StreamWriter) -> None:
        framing = request_framing(head)
        writer.write(head.encode())
        async for piece in _broken(read_body(self.reader, framing), faults, "request"):
            writer.write(encode_piece(piece, framing))
            await writer.drain()
            _count(asked, "request", piece)
        writer.write(encode_end(framing))


async def _broken(pieces: AsyncIterator[bytes], faults: Sequence[Fault], where: Where) -> AsyncIterator[bytes]:
    """What passes one way, with all that happens to it."""
    marks = sorted(marks_of(faults, where), key=lambda mark: mark.at)
    position = 0
    async for whole in pieces:
        piece = whole
        while marks and marks[0].at < position + len(piece):
            before = marks[0].at - position
            if before:
                yield piece[:before]
                position += before
            piece = piece[before:]
            match marks.pop(0):
                case Stall():
                    await anyio.sleep_forever()
                case Die():
                    raise _Dead
                case Reset():
                    raise _Broken
                case Truncate():
                    raise EOFError
                case mark:
                    raise NotImplementedError(mark)
        yield piece
        position += len(piece)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(PIECE):
        yield piece


def _count(asked: Asked, where: Where, piece: bytes) -> None:
    if where == "request":
        asked.sent += len(piece)
    else:
        asked.received += len(piece)


def _place(target: str) -> str:
    """``host:port`` of an absolute address."""
    url = URL(target, encoded=True)
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host
    return f"{host}:{url.port}"


@asynccontextmanager
async def tinyproxy(directory: Path, beyond: ForwardProxy, *, login: Login | None = None) -> AsyncIterator[str]:
    """Debian's tinyproxy, as the URL to reach it by; it goes on through ``beyond``, which knows where ``*.test`` is."""
    program = needs("tinyproxy")
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = ["Listen 127.0.0.1", f"Port {port}", "LogLevel Connect", f'Upstream http {beyond.address} ".test"']
    if login:
        lines.append(f"BasicAuth {login.username} {login.password}")
    config = directory / "tinyproxy.conf"
    config.write_text("\n".join(lines) + "\n")
    log = directory / "tinyproxy.log"
    with log.open("wb") as output:
        process = await anyio.open_process(
            [program, "-d", "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        with anyio.fail_after(20):
            while not await _listens(port):
                assert process.returncode is None, f"tinyproxy ended:\n{log.read_text()}"
                await anyio.sleep(_POLL_SECONDS)
        user = f"{login.username}:{login.password}@" if login else ""
        yield f"http://{user}127.0.0.1:{port}"
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.aclose()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
