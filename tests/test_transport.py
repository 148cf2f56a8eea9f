"""Requests with manners: retries, pauses, redirects, proxies, and what is shown of it all."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from yarl import URL

from syncer.errors import Interrupted, InvalidFile, NetworkError, Unreachable, Unsafe, UsageError, Waiting
from syncer.serve.server import Tls
from syncer.transport import HostSettings, Limits, Proxies, Request, Sink, Transport, TransportSettings, open_transport
from syncer.transport.failures import speaks_https
from syncer.transport.guard import SHOWN, Address, Scope, authority, check_hop, readable, without_secrets
from syncer.transport.message import retry_after
from syncer.transport.settings import tls_context
from syncer.transport.wire import Turns
from tests.support.programs import needs
from tests.support.quirky import Fault, Handler, Quirky, quirky_registry, reset, stall, status
from tests.support.registry_end import QUICK

MIB = 1024 * 1024


@asynccontextmanager
async def transport(limits: Limits = QUICK, **settings: object) -> AsyncIterator[Transport]:
    async with open_transport(TransportSettings(limits=limits, **settings)) as opened:  # type: ignore[arg-type]
        yield opened


def get(registry: Quirky | str, path: str = "/v2/") -> Request:
    return Request(method="GET", url=URL(f"{registry if isinstance(registry, str) else registry.url}{path}"))


async def test_an_answer_is_read_with_its_status_whatever_that_is() -> None:
    async with quirky_registry() as registry, transport() as client:
        assert (await client.ask(get(registry))).status == 200
        assert (await client.ask(get(registry, "/nowhere"))).status == 404


async def test_six_attempts_are_made_and_no_more() -> None:
    """§3, budgets."""
    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", status(500), times=99)

        assert (await client.ask(get(registry))).status == 500

        assert len(registry.seen) == 6
        assert client.traffic[registry.address].retries == 5


async def ask_many(client: Transport, registry: Quirky, number: int) -> list[int]:
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await client.ask(get(registry))).status)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(ask)
    return answers


async def test_a_server_that_does_not_answer_at_once_gets_a_connection_for_each_request() -> None:
    """It answers only when all of them are there, more than take turns on connections to a quick server."""
    everybody, together = 12, asyncio.Event()

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if len(registry.seen) >= everybody:
            together.set()
        await together.wait()
        return await handler(request)

    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", answer, times=everybody)
        assert await ask_many(client, registry, everybody) == [200] * everybody

        assert len(registry.seen) == everybody


async def test_whoever_waits_for_a_connection_that_its_server_closes_opens_one() -> None:
    async def close(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        answer.force_close()
        return answer

    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", close, times=99)
        assert await ask_many(client, registry, 40) == [200] * 40

        assert client.traffic[registry.address].retries == 0


@pytest.mark.parametrize(
    ("answered_in", "lag", "is_enough"),
    [
        (0.001, 0.0, True),
        (0.040, 0.001, False),
        (0.040, 0.020, True),  # this process could not take more answers
    ],
)
def test_few_connections_are_enough_as_long_as_more_would_bring_no_more(
    *, answered_in: float, lag: float, is_enough: bool
) -> None:
    """As ``make bench`` shows in seconds: each one costs both ends a handshake."""
    turns = Turns(busy=4)
    for _ in range(50):
        turns.answered(answered_in, lag)

    assert turns.is_enough == is_enough
    assert not Turns(busy=3, answers=50, typical=answered_in, lag=lag).is_enough


async def test_a_turn_that_is_given_to_somebody_who_is_cancelled_goes_to_the_next() -> None:
    turns = Turns(busy=4)
    waiting = [asyncio.create_task(turns.turn()) for _ in range(2)]
    await anyio.lowlevel.checkpoint()

    turns.over(None)
    waiting[0].cancel()

    with anyio.fail_after(30):
        assert await waiting[1] is None
    assert turns.busy == 4


async def test_what_must_not_be_repeated_is_not() -> None:
    async with quirky_registry() as registry, transport() as client:
        registry.on("*", reset, status(500))
        once = Request(method="PATCH", url=URL(f"{registry.url}/v2/"), repeatable=False, body=b"x")

        with pytest.raises(Interrupted):
            await client.ask(once)
        assert (await client.ask(once)).status == 500

        assert len(registry.seen) == 2


async def test_what_never_left_is_sent_again_even_if_it_must_not_be_repeated() -> None:
    """§3 row 32: nothing listens for a while."""
    answers: list[int] = []
    async with transport(Limits(backoff=0.05, longest_backoff=0.05)) as client:
        async with quirky_registry() as registry:
            await client.ask(get(registry))
        once = Request(method="PATCH", url=URL(f"{registry.url}/v2/"), repeatable=False, body=b"x")

        async def ask() -> None:
            answers.append((await client.ask(once)).status)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(10):
                while client.traffic[registry.address].requests["PATCH"] < 1:  # noqa: ASYNC110
                    await anyio.sleep(0.005)
                async with quirky_registry(port=URL(registry.url).port or 0) as back:
                    while not answers:  # noqa: ASYNC110
                        await anyio.sleep(0.005)
                    assert [seen.method for seen in back.seen] == ["PATCH"]

    assert answers == [200]


@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_host_that_restarts_is_waited_for_by_all_its_requests_together(in_threads: bool) -> None:
    """§3 row 32: one of them looks whether it is back, and the others cost nothing."""
    answers: list[int] = []
    async with transport(Limits(backoff=0.02, longest_backoff=0.02)) as client:
        async with quirky_registry() as registry:
            await client.ask(get(registry))
        requests = client.traffic[registry.address].requests

        async def ask() -> None:
            answers.append(
                (await client.ask(structs.replace(get(registry), pour=nobody if in_threads else None))).status
            )

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(ask)
                await anyio.sleep(0.5)  # more than all attempts take
                meanwhile = requests["GET"]
                async with quirky_registry(port=URL(registry.url).port or 0):
                    while len(answers) < 100:  # noqa: ASYNC110
                        await anyio.sleep(0.005)

    assert answers == [200] * 100
    assert meanwhile <= 1 + 100  # nobody asked twice
    assert client.traffic[registry.address].errors == 0


async def test_a_host_that_stays_away_is_down_for_all_at_once_and_for_one_reason() -> None:
    """§3 row 32."""
    reasons: list[str] = []
    limits = Limits(backoff=0.01, longest_backoff=0.05, outage=0.4)
    async with transport(limits) as client:
        async with quirky_registry() as registry:
            await client.ask(get(registry))

        async def ask() -> None:
            with pytest.raises(Unreachable) as caught:
                await client.ask(get(registry))
            assert "--outage" in (caught.value.hint or "")
            reasons.append(str(caught.value))

        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
        waited = time.monotonic() - began
        sent = client.traffic[registry.address].requests["GET"]
        await ask()
        async with quirky_registry(port=URL(registry.url).port or 0):
            client.forget_outages()
            assert (await client.ask(get(registry))).status == 200

    assert len(set(reasons)) == 1
    assert registry.address in reasons[0]
    assert 0.4 <= waited < 2
    assert client.traffic[registry.address].requests["GET"] == sent + 1  # of a host that is down nothing is asked


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_host_that_restarts_behind_a_proxy_is_waited_for_as_well(method: str) -> None:
    """§3 row 6: the proxy goes on to take connections, and says that nobody is there."""
    answers: list[int] = []
    async with (
        transport(Limits(attempts=3, backoff=0.02, longest_backoff=0.05)) as client,
        quirky_registry() as registry,
    ):
        await client.ask(get(registry))
        registry.on("*", status(502), times=99_999)

        async def ask() -> None:
            answers.append((await client.ask(structs.replace(get(registry), method=method))).status)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(ask)
                await anyio.sleep(0.5)  # more than all attempts take
                meanwhile = len(registry.seen)
                registry.faults.clear()

    assert set(answers) <= {200, 404}
    assert len(answers) == 50
    assert meanwhile <= 1 + 50 * 3 + 0.5 / 0.02  # and then one looks
    assert client.traffic[registry.address].errors == 0


async def test_a_host_that_stays_in_trouble_is_down_for_all_at_once_and_for_one_reason() -> None:
    """§3 row 6."""
    reasons: list[str] = []
    limits = Limits(attempts=2, backoff=0.01, longest_backoff=0.05, outage=0.4)
    async with transport(limits) as client, quirky_registry() as registry:
        await client.ask(get(registry))
        registry.on("*", status(503), times=99_999)

        async def ask() -> None:
            with pytest.raises(Unreachable) as caught:
                await client.ask(get(registry))
            assert "--outage" in (caught.value.hint or "")
            reasons.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
        sent = len(registry.seen)
        await ask()

        assert len(registry.seen) == sent
        assert set(reasons) == {f"{registry.address} answers 503 Service Unavailable, for 0 s now"}
        registry.faults.clear()
        client.forget_outages()
        assert (await client.ask(get(registry))).status == 200


async def test_the_trouble_of_one_request_is_not_the_hosts() -> None:
    """§3 row 6: one look is enough to know that; then the request is sent once more, since all may be well by now."""
    limits = Limits(attempts=3, backoff=0.01, longest_backoff=0.01)
    async with transport(limits) as client, quirky_registry() as registry:
        await client.ask(get(registry))
        registry.on("GET tags", status(504), times=99)
        tags = structs.replace(get(registry), url=URL(f"{registry.url}/v2/app/tags/list"))

        assert (await client.ask(tags)).status == 504
        assert [str(seen) for seen in registry.seen[1:]] == 3 * ["GET tags 504"] + ["GET ping 200", "GET tags 504"]


async def test_a_host_that_never_answered_is_down_at_once() -> None:
    """§3 row 32: it refuses, or says nothing when it is spoken to."""
    limits = Limits(connect=0.2, backoff=5.0, longest_backoff=5.0)
    with socket.socket() as deaf, socket.socket() as other, socket.socket() as third:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        other.connect(deaf.getsockname())  # so that its queue is full, and more are passed over
        third.settimeout(0)
        third.connect_ex(deaf.getsockname())
        began = time.monotonic()
        async with transport(limits) as client:
            with pytest.raises(Unreachable, match="refused the connection"):
                await client.ask(get("http://127.0.0.1:9"))
            for _ in range(3):
                with pytest.raises(Unreachable, match="does not answer"):
                    await client.ask(get(f"http://127.0.0.1:{deaf.getsockname()[1]}"))

    assert 0.2 <= time.monotonic() - began < limits.backoff / 2


@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_server_that_takes_a_connection_and_says_nothing_of_tls_is_told_from_none(*, in_threads: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        request = get(f"https://127.0.0.1:{silent.getsockname()[1]}")
        async with transport(Limits(connect=0.2, backoff=0.001)) as client:
            with pytest.raises(Unreachable, match="takes the connection, and says nothing: TLS timed out"):
                await client.ask(structs.replace(request, pour=nobody if in_threads else None))


@asynccontextmanager
async def greeting(words: bytes) -> AsyncIterator[str]:
    """A server that sends ``words`` to everybody, whatever it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_server_of_neither_https_nor_http_is_called_that(*, in_threads: bool) -> None:
    async with greeting(b"SSH-2.0-OpenSSH_9.2\r\n") as address, transport() as client:
        request = structs.replace(get(f"https://{address}"), pour=nobody if in_threads else None)
        with pytest.raises(Unreachable, match=rf"^{address} speaks neither HTTPS nor HTTP$") as caught:
            await client.ask(request)

    assert caught.value.hint == "is the port right? something else than a registry listens there"


async def test_a_server_of_an_old_tls_is_told_of_by_the_version_that_it_lacks() -> None:
    async with greeting(bytes.fromhex("15030100020246")) as address, transport() as client:  # alert 70 of RFC 8446 §6
        with pytest.raises(Unreachable, match="PROTOCOL_VERSION") as caught:
            await client.ask(get(f"https://{address}"))

    assert caught.value.hint == "syncer needs TLS 1.2 or later"


@pytest.mark.parametrize(("host", "way"), [("10.0.0.1", "or"), ("127.0.0.1", "and"), ("localhost", "and")])
def test_who_asked_for_plain_http_is_told_to_leave_that_out(host: str, way: str) -> None:
    """Loopback is spoken to by HTTP without it."""
    error = speaks_https(URL(f"http://{host}:5000/v2/"), is_told=True)

    assert error.hint == f"leave out --plain-http (plain_http in a sync file), {way} write https://{host}:5000"


async def test_somebody_else_looks_when_the_one_that_looked_is_cancelled() -> None:
    """§3 rows 32 and 45."""
    answers: list[int] = []
    async with transport(Limits(backoff=0.1, longest_backoff=0.1)) as client:
        async with quirky_registry() as registry:
            await client.ask(get(registry))

        async def ask() -> None:
            answers.append((await client.ask(get(registry))).status)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                first = asyncio.ensure_future(ask())
                await anyio.sleep(0.02)
                tasks.start_soon(ask)
                tasks.start_soon(ask)
                await anyio.sleep(0.02)
                first.cancel()
                async with quirky_registry(port=URL(registry.url).port or 0):
                    while len(answers) < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.005)

    assert answers == [200, 200]


async def test_one_throttled_request_pauses_all_to_that_host_and_none_to_others() -> None:
    """§3 row 7."""
    async with quirky_registry() as busy, quirky_registry() as other, transport() as client:
        busy.on("GET ping", status(429, Retry_After="1"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.ask, get(busy))
            with anyio.fail_after(5):
                while not busy.seen or not client.traffic[busy.address].pause_left:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
            tasks.start_soon(client.ask, get(busy, "/late"))
            assert (await client.ask(get(other))).status == 200
            assert len(busy.seen) == 1
            assert client.traffic[busy.address].pause_left

        traffic = client.traffic[busy.address]
        assert (traffic.throttled, traffic.pauses) == (1, 1)
        assert 0.5 < traffic.paused_seconds <= 1.0
        assert len(busy.seen) == 3


@pytest.mark.parametrize("number", [429, 503, 502])
async def test_a_longer_wait_than_allowed_is_an_error(number: int) -> None:
    """§3 row 7: --max-wait."""
    async with quirky_registry() as registry, transport(Limits(max_wait=10)) as client:
        registry.on("GET ping", status(number, Retry_After="11"))

        with pytest.raises(Waiting, match="asks to wait 11 s, longer than the 10 s") as caught:
            await client.ask(get(registry))

    assert "--max-wait" in (caught.value.hint or "")


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": " 17 "}, 17),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "９"}, None),
        ({"Retry-After": format_datetime(NOW + timedelta(seconds=90), usegmt=True), "Date": format_datetime(NOW)}, 90),
        ({"Retry-After": format_datetime(NOW - timedelta(days=1), usegmt=True), "Date": format_datetime(NOW)}, 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_by_the_servers_clock(
    headers: dict[str, str], seconds: float | None
) -> None:
    """§3 rows 7 and 50."""
    assert retry_after(headers) == seconds


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_retry_after_is_a_number_of_seconds_or_none(text: str, date: str) -> None:
    wait = retry_after({"Retry-After": text, "Date": date})

    assert wait is None or wait >= 0


async def test_an_answer_that_never_comes_is_given_up() -> None:
    """§3 row 29: half-open."""
    release = asyncio.Event()

    async def never(*_: object) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    async with quirky_registry() as registry, transport(Limits(idle=0.1, attempts=2, backoff=0.001)) as client:
        registry.on("GET ping", never, times=99)
        with pytest.raises(Interrupted, match="no answer came in time"):
            await client.ask(get(registry))
        release.set()


async def test_a_body_in_chunks_of_a_byte_lets_the_others_have_their_turn() -> None:
    """§4.2: a manifest of 3.9 MB that comes so is millions of pieces, which nobody else shall wait for."""
    size, longest = 3_900_000, 0.0

    def serve(listening: socket.socket) -> None:
        connected, _ = listening.accept()
        with connected:
            connected.recv(65536)
            connected.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(39):
                connected.sendall(b"1\r\nx\r\n" * 100_000)
            connected.sendall(b"0\r\n\r\n")

    async def watch() -> None:
        nonlocal longest
        before = time.thread_time()
        while True:
            await anyio.lowlevel.checkpoint()
            now = time.thread_time()
            longest, before = max(longest, now - before), now

    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with transport() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve, listening)
            tasks.start_soon(watch)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            answer = await client.ask(get(url), limit=size)
            tasks.cancel_scope.cancel()

    assert (len(answer.content), answer.is_whole) == (size, True)
    assert longest < 0.15, "the loop stood still"


async def test_between_two_reads_of_tiny_chunks_the_others_have_their_turn() -> None:
    """§4.2: else the loop reads all that the kernel has, as often as it can, before anybody else."""
    chunks, turns = 1_500_000, 0

    def serve(listening: socket.socket) -> None:
        connected, _ = listening.accept()
        with connected:
            connected.recv(65536)
            connected.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(chunks // 100_000):
                connected.sendall(b"1\r\nx\r\n" * 100_000)
            connected.sendall(b"0\r\n\r\n")

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1
            time.sleep(0.02)  # noqa: ASYNC251  (meanwhile the kernel takes in as much as it can)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with transport() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve, listening)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with client.open(get(url)) as response:
                tasks.start_soon(others)
                while await response.piece():
                    pass
            tasks.cancel_scope.cancel()

    reads = chunks * len(b"1\r\nx\r\n") / (256 * 1024)  # at least: uvloop reads so many bytes at a time
    assert turns > reads / 2


OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize("in_threads", [False, True])
@pytest.mark.parametrize(
    ("first", "then", "every"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.1),
        (OK, b"X", 0.02),
        (CHUNK + b"0\r\n", b"X: y\r\n", 0.05),
        (CHUNK, b"0", 0.05),
    ],
)
async def test_what_is_no_body_puts_nothing_off(first: bytes, then: bytes, every: float, *, in_threads: bool) -> None:
    """§3 row 29: a head that does not end, answers before the answer, trailers and sizes without end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while not reader.at_eof():
                writer.write(then)
                await writer.drain()
                await asyncio.sleep(every)
        except ConnectionError:
            pass
        finally:
            writer.close()
            ended.set()

    async def read_all(client: Transport, request: Request) -> None:
        async with client.open(request) as response:
            if not in_threads or not await response.pour():
                while await response.piece():
                    pass

    def sink(*_: object) -> Sink:
        return lambda _: None

    ended = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, transport(Limits(idle=0.4, attempts=1)) as client:
        request = structs.replace(get(f"http://127.0.0.1:{port}"), pour=sink if in_threads else None, repeatable=False)
        with anyio.fail_after(5), pytest.raises(Interrupted, match="no answer came in time"):
            await read_all(client, request)
        await ended.wait()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")
@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_peer_that_is_gone_is_found_within_a_minute(*, in_threads: bool) -> None:
    """§3 row 29: the kernel itself looks after a connection on which nothing comes."""
    release = asyncio.Event()
    async with quirky_registry() as registry, transport() as client, anyio.create_task_group() as tasks:
        registry.on("GET ping", stall(release))
        tasks.start_soon(client.ask, structs.replace(get(registry), pour=nobody if in_threads else None))
        with anyio.fail_after(5):
            while not registry.seen:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        await anyio.sleep(0.3)  # until what was sent is acknowledged
        timers = kernel_timers(int(registry.address.rpartition(":")[2]))
        release.set()

    assert timers
    assert all(kind == KEEPALIVE and seconds <= 20 for kind, seconds in timers), timers


KEEPALIVE = 2


def kernel_timers(port: int) -> list[tuple[int, float]]:
    """The kind of the kernel's timer, and the seconds left, of each connection that leads to ``port``."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = [line[5].split(":") for line in lines if line[2].endswith(f":{port:04X}") and line[3] == "01"]
    return [(int(kind, 16), int(left, 16) / 100) for kind, left in found]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % index for index in range(2000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"",
    ],
)
async def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    """§4.2: also headers without end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, transport(Limits(attempts=2, backoff=0.001, connect=0.2)) as client:
        with pytest.raises(Interrupted):
            await client.ask(get(f"http://127.0.0.1:{port}"))


async def test_an_error_without_end_is_read_to_64_kib() -> None:
    """§4.2."""

    async def flood(request: web.Request, _: object) -> web.StreamResponse:
        response = web.StreamResponse(status=404)
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 10_000)
        except ConnectionError:
            return response

    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", flood)

        answer = await client.ask(get(registry))

    assert (len(answer.content), answer.is_whole) == (64 * 1024, False)


async def test_a_long_header_is_taken() -> None:
    """§1.9: Google's upload locations have several KiB."""

    async def long(*_: object) -> web.StreamResponse:
        return web.Response(headers={"X-Long": "x" * 30_000})

    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", long)

        assert len((await client.ask(get(registry))).headers["X-Long"]) == 30_000


async def test_cookies_are_neither_kept_nor_sent() -> None:
    """§1.9."""

    async def baking(*_: object) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "session=secret"})

    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", baking)
        await client.ask(get(registry))
        await client.ask(get(registry))

        assert all("Cookie" not in seen.headers for seen in registry.seen)


def leads_to(location: str, number: int = 307) -> Fault:
    async def fault(*_: object) -> web.StreamResponse:
        return web.Response(status=number, headers={"Location": location})

    return fault


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
async def test_redirects_of_a_get_are_followed_with_their_query_as_it_is(number: int) -> None:
    async with quirky_registry() as registry, quirky_registry() as other, transport() as client:
        registry.on("GET ping", leads_to(f"{other.url}/v2/?sig=a%2Fb%3D&x=%7e+y", number))

        answer = await client.ask(get(registry))

        assert (answer.status, str(answer.url)) == (200, f"{other.url}/v2/?sig=a%2Fb%3D&x=%7e+y")
        assert other.seen[0].path == "/v2/?sig=a%2Fb%3D&x=%7e+y"


@pytest.mark.parametrize("number", [301, 302, 303])
async def test_a_post_is_not_turned_into_a_get(number: int) -> None:
    async with quirky_registry() as registry, transport() as client:
        registry.on("POST ping", leads_to("/v2/", number))

        answer = await client.ask(Request(method="POST", url=URL(f"{registry.url}/v2/"), body=b"x"))

        assert answer.status == number
        assert len(registry.seen) == 1


async def test_redirects_without_end_are_unsafe() -> None:
    """§4.2."""
    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", leads_to("/v2/"), times=99)

        with pytest.raises(Unsafe, match="more than 5 redirects"):
            await client.ask(get(registry))

        assert len(registry.seen) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "http://user:password@127.0.0.1/",
        "http:///nowhere",
        "http://a b/",
        "\tjavascript:alert(1)",
    ],
)
async def test_no_redirect_leads_to_where_nobody_may_send_us(location: str) -> None:
    """§4.2: not even a registry on this very machine."""
    async with quirky_registry() as registry, transport() as client:
        registry.on("GET ping", leads_to(location))

        with pytest.raises(Unsafe) as caught:
            await client.ask(get(registry))

        assert "password" not in str(caught.value).replace("user name or password", "")
        assert len(registry.seen) == 1


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 is a host on the internet, 127.0.0.2 one in a private network."""
    one, two = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("127.0.0.2")
    scopes = {one: Scope.PUBLIC, two: Scope.PRIVATE}
    earnest = Scope.of.__func__  # type: ignore[attr-defined]

    def pretended(cls: type[Scope], address: Address) -> Scope:
        found = scopes.get(address)
        return earnest(cls, address) if found is None else found

    monkeypatch.setattr(Scope, "of", classmethod(pretended))


def nobody(*_: object) -> None:
    """Takes no body, but makes the request one for a thread."""


@pytest.mark.parametrize("in_threads", [False, True])
@pytest.mark.usefixtures("public_loopback")
async def test_a_public_registry_leads_to_no_private_address(in_threads: bool) -> None:
    """§4.2: by a name as little as by the address itself, and over no connection that is open already."""
    async with (
        quirky_registry() as registry,
        quirky_registry(host="127.0.0.2") as private,
        transport() as client,
    ):
        assert (await client.ask(structs.replace(get(private), pour=nobody if in_threads else None))).status == 200
        registry.on("GET ping", leads_to(f"{private.url}/v2/"))

        with pytest.raises(Unsafe, match="private"):
            await client.ask(structs.replace(get(registry), pour=nobody if in_threads else None))

        assert len(private.seen) == 1


@pytest.mark.parametrize("in_threads", [False, True])
@pytest.mark.usefixtures("public_loopback")
async def test_a_name_that_resolves_to_a_private_address_leads_nowhere(
    in_threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§4.2: the address that would be connected to is what counts (go-containerregistry#2440)."""

    async def found(host: str, port: int, **_: object) -> object:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2" if host == "cdn.example.com" else host, port))]

    monkeypatch.setattr(anyio, "getaddrinfo", found)
    async with (
        quirky_registry() as registry,
        quirky_registry(host="127.0.0.2") as private,
        transport() as client,
    ):
        port = private.address.rpartition(":")[2]
        assert (
            await client.ask(
                structs.replace(get(f"http://cdn.example.com:{port}"), pour=nobody if in_threads else None)
            )
        ).status == 200
        registry.on("GET ping", leads_to(f"http://cdn.example.com:{port}/v2/"))

        with pytest.raises(Unsafe, match="a network that it must not send us to"):
            await client.ask(structs.replace(get(registry), pour=nobody if in_threads else None))

        assert len(private.seen) == 1


@pytest.mark.usefixtures("public_loopback")
async def test_a_private_registry_may_lead_to_a_public_one_and_itself() -> None:
    async with (
        quirky_registry() as public,
        quirky_registry(host="127.0.0.2") as private,
        quirky_registry(host="127.0.0.2") as storage,
        transport() as client,
    ):
        private.on("GET ping", leads_to(f"{public.url}/v2/"), leads_to(f"{storage.url}/v2/"))

        assert (await client.ask(get(private))).status == 200
        assert (await client.ask(get(private))).status == 200


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("8.8.8.8", Scope.PUBLIC),
        ("2001:4860:4860::8888", Scope.PUBLIC),
        ("10.1.2.3", Scope.PRIVATE),
        ("172.16.0.1", Scope.PRIVATE),
        ("192.168.1.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.8.9.10", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("64:ff9b::7f00:1", Scope.LOOPBACK),
        ("2002:7f00:1::", Scope.LOOPBACK),
        ("169.254.169.254", Scope.NEVER),
        ("fe80::1", Scope.NEVER),
        ("0.0.0.0", Scope.NEVER),
        ("::", Scope.NEVER),
        ("224.0.0.1", Scope.NEVER),
        ("ff02::1", Scope.NEVER),
    ],
)
def test_addresses_are_near_or_far(address: str, scope: Scope) -> None:
    assert Scope.of(ipaddress.ip_address(address)) is scope


@given(st.ip_addresses())
def test_every_address_has_a_scope(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert Scope.of(address) in Scope
    assert Scope.of_host(str(address)) is Scope.of(address)


def test_an_encrypted_connection_leads_to_no_other() -> None:
    """§4.2."""
    with pytest.raises(Unsafe, match="encrypted"):
        check_hop(URL("https://example.com/"), URL("http://example.com/"), None, "a redirect")
    check_hop(URL("http://example.com/"), URL("https://example.com/"), None, "a redirect")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:canary@example.com:5000/v2/?_state=canary&sig=canary", "https://example.com:5000/v2/?…"),
        ("https://example.com/v2/", "https://example.com/v2/"),
        ("http://[::1]:5000/", "http://[::1]:5000/"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    """§4.3."""
    assert without_secrets(URL(url)) == shown


@given(st.text(max_size=10_000))
def test_what_others_say_is_shown_on_one_line_without_escapes(text: str) -> None:
    """§4.2: no terminal escape, no flood."""
    shown = readable(text)

    assert len(shown) <= SHOWN
    assert shown.isprintable()


def test_authorities_leave_the_usual_port_out() -> None:
    assert authority(URL("https://example.com:443/")) == "example.com"
    assert authority(URL("http://example.com:443/")) == "example.com:443"
    assert authority(URL("http://[::1]:5000/")) == "[::1]:5000"


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("", "https://registry.example.com/", False),
        ("", "https://localhost/", True),
        ("", "https://127.0.0.1:5000/", True),
        ("example.com", "https://registry.example.com/", True),
        (".example.com", "https://registry.example.com/", True),
        ("*.example.com", "https://registry.example.com/", True),
        ("ample.com", "https://registry.example.com/", False),
        ("registry.example.com:443", "https://registry.example.com/", True),
        ("registry.example.com:5000", "https://registry.example.com/", False),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://registry.example.com/", False),
        ("other, EXAMPLE.com", "https://registry.example.com/", True),
        ("*", "https://registry.example.com/", True),
        ("[fd00::1]:5000", "https://[fd00::1]:5000/", True),
        ("[fd00::1]:5000", "https://[fd00::1]/", False),
        ("fd00::/8", "https://[fd00::1]:5000/", True),
        ("fd00::/8", "https://[2001:db8::1]:5000/", False),
        ("10.1.2.3", "https://10.1.2.3:5000/", True),
        ("10.1.2.3:5000", "https://10.1.2.3:5000/", True),
        ("10.1.2.3:5000", "https://10.1.2.3/", False),
        ("10.1.0.0/16", "https://10.2.0.1/", False),
        (".example.com:5000", "https://registry.example.com:5000/", True),
        (".example.com:5000", "https://registry.example.com/", False),
        (".example.com", "https://example.com/", True),
        ("example.com, ,", "https://other.org/", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(no_proxy: str, url: str, is_direct: bool) -> None:
    proxies = Proxies.from_environ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": no_proxy})

    assert (proxies.for_url(URL(url)) is None) is is_direct


def test_the_proxy_is_the_one_for_the_scheme() -> None:
    proxies = Proxies.from_environ({"http_proxy": "one:1", "HTTPS_PROXY": "http://two:2", "ALL_PROXY": "http://x:3"})

    assert proxies.for_url(URL("http://example.com")) == URL("http://one:1")
    assert proxies.for_url(URL("https://example.com")) == URL("http://two:2")
    assert Proxies.from_environ({"ALL_PROXY": "http://x:3"}).for_url(URL("http://example.com")) == URL("http://x:3")
    assert Proxies.from_environ({}).for_url(URL("http://example.com")) is None


def test_a_proxy_that_speaks_no_http_is_refused_without_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        Proxies.from_environ({"ALL_PROXY": "socks5://alice:canary@proxy:1080"})

    assert "canary" not in str(caught.value)
    assert "canary" not in repr(Proxies(http="http://alice:canary@proxy"))


async def test_a_request_goes_through_the_proxy_with_the_login_for_it() -> None:
    """§4.2: which goes to the proxy alone."""
    async with quirky_registry() as proxy:
        address = proxy.address
        proxies = Proxies(http=f"http://alice:secret@{address}")
        async with transport(proxies=proxies) as client:
            answer = await client.ask(get("http://registry.example.com"))

        assert answer.status == 200
        assert proxy.seen[0].headers["Host"] == "registry.example.com"
        assert proxy.seen[0].headers["Proxy-Authorization"].startswith("Basic ")
        assert "Authorization" not in proxy.seen[0].headers


async def test_a_proxy_that_refuses_is_named() -> None:
    async with quirky_registry() as proxy:
        proxies = Proxies(https=f"http://alice:canary@{proxy.address}")
        async with transport(proxies=proxies) as client:
            with pytest.raises(NetworkError) as caught:
                await client.ask(get("https://registry.example.com"))

    assert "canary" not in str(caught.value)
    assert isinstance(caught.value, Unreachable)


def test_a_certificate_that_cannot_be_used_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        tls_context(HostSettings(ca_cert=tmp_path / "absent.pem"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(UsageError, match="cannot be used"):
        tls_context(HostSettings(ca_cert=tmp_path / "bad.pem"))
    with pytest.raises(UsageError, match="must hold a certificate"):
        tls_context(HostSettings(client_cert=tmp_path / "bad.pem"))


def test_what_is_wrong_with_a_certificate_and_its_key_is_said(tmp_path: Path) -> None:
    one, other = (tmp_path / name for name in ("one", "other"))
    for stem in (one, other):
        words = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a")
        subprocess.run([needs("openssl"), *words, "-keyout", f"{stem}.key", "-out", f"{stem}.pem"], check=True)
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-aes128", "-passout", "pass:canary", "-in", f"{one}.key", "-out", locked], check=True
    )
    certificate, key = one.with_suffix(".pem"), one.with_suffix(".key")

    def said(settings: HostSettings) -> str:
        with pytest.raises(UsageError) as raised:
            tls_context(settings)
        return str(raised.value)

    tls_context(HostSettings(client_cert=certificate, client_key=key))
    assert said(HostSettings(ca_cert=key)).endswith("cannot be used: it holds no sound certificate")
    mixed = said(HostSettings(client_cert=certificate, client_key=other.with_suffix(".key")))
    assert mixed == f"{certificate}: {other}.key holds the key of another certificate"
    assert said(HostSettings(client_cert=certificate)).endswith("it must hold a certificate, and below it its key")
    swapped = said(HostSettings(client_cert=key, client_key=certificate))
    assert swapped.endswith(f"it must hold a certificate, and {certificate} its key")
    asked = said(HostSettings(client_cert=certificate, client_key=locked))
    assert asked == f"{locked}: this key has a pass phrase, which nobody can be asked for"
    for wrong, problem in (
        (locked, asked),
        (other.with_suffix(".key"), mixed),
        (tmp_path / "none", "none: it is not there"),
    ):
        with pytest.raises(InvalidFile, match=problem):
            Tls(certificate=certificate, key=wrong).context()
