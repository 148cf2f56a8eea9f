"""Connections by TLS: sessions that are resumed, and where not, and bodies, whatever their records are cut into."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from msgspec import structs
from yarl import URL

from syncer.errors import Interrupted
from syncer.transport import HostSettings, Limits, Request, Sink, Transport, TransportSettings, open_transport
from syncer.transport.failures import CertificateRefused
from tests.conftest import OpenRegistry
from tests.support import client, images, registry_end
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.faults import Fault, Reset, Stall, Truncate
from tests.support.images import digest_of
from tests.support.registry_end import QUICK, blob_of, file_blob, name_at, registries_for, target_at, write
from tests.support.tls import Authority, Identity, answered_by

CONTENT = images.noise("by tls", 3 * 1024 * 1024 + 12_345)
BLOB = f"/v2/app/blobs/{digest_of(CONTENT)}"
WAYS = ("loop", "threads")

Read: TypeAlias = Callable[..., Coroutine[Any, Any, bytes]]


@pytest.fixture(params=WAYS)
def read(request: pytest.FixtureRequest) -> Read:
    """All bytes of a blob, by the one road and by the other."""
    return registry_end.read if request.param == "loop" else registry_end.poured


@pytest.fixture
def identity(authority: Authority) -> Identity:
    return authority.server("127.0.0.1")


@asynccontextmanager
async def trusting(authority: Authority, limits: Limits = QUICK) -> AsyncIterator[Transport]:
    """A transport that trusts ``authority``."""
    settings = HostSettings(ca_cert=authority.certificate)
    async with open_transport(TransportSettings(limits=limits, default=settings)) as opened:
        yield opened


def nobody(*_: object) -> None:
    """Takes no body, but makes the request one for a thread."""


async def ask_anew(transport: Transport, address: str, way: str = "loop") -> int:
    """The status of an answer on a connection of its own."""
    transport.leave(address)
    url = URL(f"https://{address}/v2/")
    answer = await transport.ask(Request(method="GET", url=url, pour=nobody if way == "threads" else None))
    return answer.status


# Sessions


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
async def test_the_second_connection_to_a_server_resumes_the_session_of_the_first(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, first: str, second: str
) -> None:
    async with (
        debian_registry() as registry,
        fault_proxy(registry, tls=identity) as proxy,
        trusting(authority) as transport,
    ):
        for way in (first, second, first):
            assert await ask_anew(transport, proxy.registry.address, way) == 200

        assert proxy.resumed == [False, True, True]


class Cluster(Identity):
    """An identity whose servers know the sessions of each other."""

    __slots__ = ()

    @lru_cache(maxsize=1)  # noqa: B019  it ends with the test
    def server_context(self, *, client_authority: Path | None = None) -> ssl.SSLContext:
        """The one context of all servers."""
        return Identity.server_context(self, client_authority=client_authority)


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_is_offered_to_no_other_server_and_in_no_other_run(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, way: str
) -> None:
    """Both servers would resume it: they have one name, and know each other's sessions."""
    cluster = Cluster(identity.certificate, identity.key)
    async with (
        debian_registry() as registry,
        fault_proxy(registry, tls=cluster) as one,
        fault_proxy(registry, tls=cluster) as other,
    ):
        async with trusting(authority) as transport:
            for proxy in (one, one, other, other):
                await ask_anew(transport, proxy.registry.address, way)
        async with trusting(authority) as transport:
            await ask_anew(transport, one.registry.address, way)

    assert (one.resumed, other.resumed) == ([False, True, False], [False, True])


@pytest.mark.parametrize("way", WAYS)
async def test_one_server_is_not_trusted_by_the_settings_of_another(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, way: str
) -> None:
    async with (
        debian_registry() as registry,
        fault_proxy(registry, tls=identity) as one,
        fault_proxy(registry, tls=identity) as other,
    ):
        hosts = {one.registry.address: HostSettings(ca_cert=authority.certificate)}
        async with open_transport(TransportSettings(limits=QUICK, hosts=hosts)) as transport:
            assert await ask_anew(transport, one.registry.address, way) == 200
            with pytest.raises(CertificateRefused, match="cannot be trusted"):
                await ask_anew(transport, other.registry.address, way)


@contextmanager
def resuming_nothing(identity: Identity) -> Iterator[tuple[str, list[bool]]]:
    """A server that breaks TLS off when a session is offered, and a list of whether one was, for each connection."""
    offered: list[bool] = []
    context = identity.server_context()

    def serve(connection: socket.socket) -> None:
        hello = connection.recv(4096, socket.MSG_PEEK)
        offered.append(has_session(hello))
        if offered[-1]:
            connection.recv(4096)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x50")  # an alert: internal error
            return
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as encrypted:
            while b"\r\n\r\n" not in encrypted.recv(4096):
                pass
            encrypted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with answered_by(serve) as address:
        yield address, offered


def has_session(hello: bytes) -> bool:
    """Tell whether a ClientHello has the extension pre_shared_key, which is its last (RFC 8446 §4.1.2, §4.2.11)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2])
    at += 1 + hello[at]
    at, last = at + 2, 0
    while at < len(hello):
        last = int.from_bytes(hello[at : at + 2])
        at += 4 + int.from_bytes(hello[at + 2 : at + 4])
    return last == 41


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_cannot_resume_a_session_is_offered_one_once(
    authority: Authority, identity: Identity, way: str
) -> None:
    with resuming_nothing(identity) as (address, offered):
        async with trusting(authority) as transport:
            statuses = [await ask_anew(transport, address, way) for _ in range(4)]
            retries = transport.traffic[address].retries

    assert (statuses, retries) == ([200] * 4, 0)
    assert offered == [False, True, False, False, False]


# Bodies


@asynccontextmanager
async def holding_content(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity
) -> AsyncIterator[FaultProxy]:
    """A registry that holds ``CONTENT``, spoken to by TLS."""
    async with (
        debian_registry() as registry,
        fault_proxy(registry, tls=identity, authority=authority.certificate) as proxy,
    ):
        await client.push_blob(registry, "app", CONTENT)
        yield proxy


async def test_bodies_both_ways_are_right_by_tls(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, read: Read, tmp_path: Path
) -> None:
    content = images.noise("both ways", 5 * 1024 * 1024 + 1)
    async with (
        debian_registry() as registry,
        fault_proxy(registry, tls=identity, authority=authority.certificate) as proxy,
        registries_for(proxy.registry) as registries,
    ):
        await write(target_at(registries, proxy.registry), "app", file_blob(tmp_path, content), force=True)

        assert (await client.blob(registry, "app", digest_of(content))).content == content
        assert await read(registries.blob(name_at(proxy.registry, "app"), blob_of(content).descriptor)) == content
        proxy.exchanges.assert_no_byte_was_sent_twice(content)


@pytest.mark.parametrize(
    "fault", [Truncate(at=1_000_000), Reset("answer", at=1_000_000), Stall("answer", at=1_000_000)], ids=str
)
async def test_a_download_by_tls_that_breaks_off_goes_on_where_it_broke(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, fault: Fault, read: Read
) -> None:
    """All bytes of whole records count, although they came by one system call with the end."""
    limits = structs.replace(QUICK, idle=1.0, stall=1.0)
    async with (
        holding_content(debian_registry, authority, identity) as proxy,
        registries_for(proxy.registry, limits=limits) as registries,
    ):
        proxy.on("GET", "/blobs/", fault)

        assert await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        _, second = proxy.exchanges.of("GET blob")
        assert 900_000 < int(second.headers["range"].removeprefix("bytes=").removesuffix("-")) <= 1_000_000


async def test_a_download_by_tls_ends_when_it_is_cancelled(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, read: Read
) -> None:
    async with (
        holding_content(debian_registry, authority, identity) as proxy,
        registries_for(proxy.registry, limits=structs.replace(QUICK, idle=60.0, stall=60.0)) as registries,
    ):
        proxy.on("GET", "/blobs/", Stall("answer", at=1_000_000))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))
                while not proxy.exchanges.of("GET blob"):  # noqa: ASYNC110
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()


async def test_downloads_by_tls_that_wait_for_their_server_hold_up_no_other(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, read: Read
) -> None:
    """Threads take turns at the records that have come, of which there are four at most."""
    async with (
        holding_content(debian_registry, authority, identity) as proxy,
        registries_for(proxy.registry, limits=structs.replace(QUICK, idle=60.0, stall=60.0)) as registries,
    ):
        blob = registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor)
        proxy.on("GET", "/blobs/", Stall("answer", at=1_000_000), times=5)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(read, blob)
                while sum(exchange.received for exchange in proxy.exchanges.of("GET blob")) < 5_000_000:  # noqa: ASYNC110
                    await anyio.sleep(0.005)

                assert await read(blob) == CONTENT

                tasks.cancel_scope.cancel()


@asynccontextmanager
async def dripping(address: str, after: int) -> AsyncIterator[str]:
    """A relay to ``address`` that passes on ``after`` bytes of what comes from there, and then one now and then."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at_once: float) -> None:
        while piece := await reader.read(min(65536, max(1, int(at_once)))):
            writer.write(piece)
            at_once -= len(piece)
            if at_once <= 0:
                await anyio.sleep(0.02)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        try:
            with suppress(OSError):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(copy, reader, back, 1 << 30)
                    await copy(there, writer, after)
        except* OSError:
            pass
        finally:
            writer.close()
            back.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("way", WAYS)
async def test_bytes_that_make_no_whole_record_put_no_deadline_off(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, way: str
) -> None:
    got = bytearray()

    def sink(*_: object) -> Sink:
        return got.extend

    async def download(transport: Transport, request: Request) -> None:
        async with transport.open(request) as response:
            if way == "threads":
                await response.pour()
            while piece := await response.piece():
                got.extend(piece)

    limits = structs.replace(QUICK, idle=1.0, attempts=1)
    async with (
        holding_content(debian_registry, authority, identity) as proxy,
        dripping(proxy.registry.address, after=1_000_000) as address,
        trusting(authority, limits) as transport,
    ):
        request = Request(method="GET", url=URL(f"https://{address}{BLOB}"), pour=sink if way == "threads" else None)
        with anyio.fail_after(20), pytest.raises(Interrupted, match="no answer came in time"):
            await download(transport, request)

    assert 900_000 < len(got) < 1_000_000
    assert CONTENT.startswith(bytes(got))
