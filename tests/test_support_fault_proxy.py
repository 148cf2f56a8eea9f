"""The fault proxy does what it is told, nothing else, and tells the truth about it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import anyio
import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.client import Answer
from tests.support.exchanges import Exchange, Exchanges
from tests.support.fault_proxy import FaultProxy, Link, fault_proxy
from tests.support.faults import Delay, Flip, Lose, Reply, Reset, Rewrite, Stall, Throttle, Truncate, redirect
from tests.support.images import digest_of, noise
from tests.support.tls import Authority

BLOB = noise("blob", 300_000)
DIGEST = digest_of(BLOB)
PATH = f"/v2/app/blobs/{DIGEST}"


OpenProxy: TypeAlias = Callable[[], AbstractAsyncContextManager[FaultProxy]]


@pytest.fixture
def proxied(any_registry: OpenRegistry) -> OpenProxy:
    """A proxy in front of either registry, which has ``BLOB`` in the repository ``app``."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[FaultProxy]:
        async with any_registry() as registry:
            await client.push_blob(registry, "app", BLOB)
            async with fault_proxy(registry) as proxy:
                yield proxy

    return open_it


async def get(proxy: FaultProxy, **headers: str) -> Answer:
    return await client.ask(proxy.registry, "GET", PATH, headers=headers)


async def test_what_it_does_not_break_it_does_not_touch(any_registry: OpenRegistry) -> None:
    made = images.multi_platform("a", base=images.layer("base", 1_000_000), attested=True)

    async with any_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(proxy.registry, "app", made, "v1")
        await client.assert_holds(proxy.registry, "app", made, "v1")
        await client.assert_holds(registry, "app", made, "v1")
        blobs = made.all_blobs()

        assert proxy.exchanges.kinds() == {
            "POST upload": len(blobs),
            "PUT upload": len(blobs),
            "PUT manifest": 8,
            "GET blob": len(blobs),
            "GET manifest": 8,
        }
        assert proxy.exchanges.uploaded == made.size
        assert {digest: spans[0] for digest, spans in proxy.exchanges.downloaded().items()} == {
            digest: range(len(content)) for digest, content in blobs.items()
        }
        proxy.exchanges.assert_no_byte_came_twice()
        proxy.exchanges.assert_no_byte_was_sent_twice(*blobs.values())


async def test_connections_are_kept_alive(any_registry: OpenRegistry) -> None:
    """One session pushes over one connection; the second reads over another."""
    made = images.image("a")

    async with any_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(proxy.registry, "app", made, "v1")
        await client.assert_holds(proxy.registry, "app", made, "v1")

        assert {exchange.connection for exchange in proxy.exchanges.log} == {1, 2}
        assert proxy.connections == 2


async def test_a_request_reset_before_its_body_never_reaches_the_registry(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("POST", "/uploads/", Reset("request"))
        with pytest.raises(client.Broken):
            await client.push_blob(proxy.registry, "app", b"new")

        assert proxy.exchanges.log[0].status is None
        assert await client.push_blob(proxy.registry, "app", b"new")


async def test_a_request_reset_in_its_body_leaves_the_registry_with_those_bytes(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        location = (await client.ask(proxy.registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        proxy.on("PATCH", "/uploads/", Reset("request", at=123_456))
        with pytest.raises(client.Broken):
            await client.ask(proxy.registry, "PATCH", location, data=BLOB)
        status = await client.ask(proxy.registry, "GET", location)
        await client.ask(proxy.registry, "PATCH", location, data=BLOB[123_456:])
        await client.ask(proxy.registry, "PUT", f"{location}?digest={DIGEST}")

        assert status.headers["Range"] == "0-123455"
        assert [exchange.sent for exchange in proxy.exchanges.of("PATCH upload")] == [123_456, len(BLOB) - 123_456]
        proxy.exchanges.assert_no_byte_was_sent_twice(BLOB)
        assert (await client.blob(registry, "app", DIGEST)).content == BLOB


async def test_an_answer_is_reset_at_a_byte(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Reset("answer", at=1000))
        with pytest.raises(client.Broken):
            await get(proxy)

        assert proxy.exchanges.log[0].status == 200
        assert proxy.exchanges.log[0].span == range(1000)


async def test_an_answer_is_lost_after_the_registry_did_what_it_was_asked(proxied: OpenProxy) -> None:
    blob = b"committed, but nobody knows"

    async with proxied() as proxy:
        proxy.on("PUT", "/uploads/", Lose())
        with pytest.raises(client.Broken):
            await client.push_blob(proxy.registry, "app", blob)

        assert proxy.exchanges.of("PUT upload")[0].status is None
        assert (await client.blob(proxy.upstream, "app", digest_of(blob))).content == blob


async def test_an_answer_is_truncated_with_and_without_a_length(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Truncate(1000))
        proxy.on("GET", "/blobs/", Truncate(1000, announced=False), first=2)
        with pytest.raises(client.Broken):
            await get(proxy)
        silent = await get(proxy)

        assert silent.content == BLOB[:1000]
        assert "Content-Length" not in silent.headers


async def test_one_bit_flips_on_the_way_down_and_up(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Flip(at=70_000))
        altered = (await get(proxy)).content
        proxy.on("PUT", "/uploads/", Flip(at=1, where="request"))
        with pytest.raises(AssertionError, match="DIGEST_INVALID"):
            await client.push_blob(proxy.registry, "app", b"abc")

        assert [at for at in range(len(BLOB)) if altered[at] != BLOB[at]] == [70_000]


@pytest.mark.parametrize(("stall", "before"), [(Stall(at=100_000), 100_000), (Stall("head"), 0), (Stall("request"), 0)])
async def test_a_transfer_stalls_until_it_is_released(proxied: OpenProxy, stall: Stall, before: int) -> None:
    release = anyio.Event()
    answers: list[Answer] = []

    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Stall(stall.where, stall.at, release))

        async def ask() -> None:
            answers.append(await get(proxy))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: bool(proxy.exchanges.log) and proxy.exchanges.log[0].received == before)
            assert not answers
            release.set()

        assert answers[0].content == BLOB


async def until(happened: Callable[[], bool]) -> None:
    """Give the others their turns until it has happened."""
    with anyio.fail_after(10):
        while not happened():
            await anyio.lowlevel.checkpoint()


async def test_a_stalled_connection_ends_with_its_client(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Stall(at=10))
        with anyio.move_on_after(0.2) as gave_up:
            await get(proxy)

        assert gave_up.cancelled_caught
        assert (await get(proxy)).content == BLOB


async def test_a_throttled_body_is_slow_but_whole(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Throttle(1_000_000))
        started = time.monotonic()
        answer = await get(proxy)

        assert answer.content == BLOB
        assert time.monotonic() - started >= 0.25


async def test_headers_and_statuses_are_rewritten(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Rewrite("request", {"Range": "bytes=5-9"}))
        proxy.on("GET", "/blobs/", Rewrite("answer", {"X-Odd": "1", "Docker-Content-Digest": None}, status=299))
        answer = await get(proxy)

        assert answer.status == 299
        assert answer.headers["X-Odd"] == "1"
        assert "Docker-Content-Digest" not in answer.headers
        assert answer.content == BLOB[5:10]


async def test_answers_are_replaced(proxied: OpenProxy) -> None:
    html = Reply(503, {"Content-Type": "text/html"}, b"<h1>Sorry</h1>")

    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Reply(429, {"Retry-After": "7"}))
        proxy.on("GET", "/blobs/", html, first=2)
        proxy.on("GET", "/blobs/", redirect("https://elsewhere.example/blob"), first=3)
        answers = [await get(proxy) for _ in range(4)]

        assert [answer.status for answer in answers] == [429, 503, 307, 200]
        assert answers[0].headers["Retry-After"] == "7"
        assert answers[1].content == b"<h1>Sorry</h1>"
        assert answers[2].headers["Location"] == "https://elsewhere.example/blob"
        assert proxy.connections == 4


async def test_an_answer_is_replaced_after_the_registry_did_what_it_was_asked(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("PUT", "/uploads/", Reply(502, forward=True))
        with pytest.raises(AssertionError, match="502"):
            await client.push_blob(proxy.registry, "app", b"stored")

        assert (await client.blob(proxy.upstream, "app", digest_of(b"stored"))).content == b"stored"


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("PUT", "/uploads/", Reply(413, {}, b"<html>", read=10))
        with pytest.raises((AssertionError, *client.Broken)):
            await client.push_blob(proxy.registry, "app", noise("other", 20_000_000))

        assert proxy.exchanges.of("PUT upload")[0].status == 413
        assert proxy.exchanges.uploaded == 0


async def test_an_answer_that_comes_early_is_passed_on(serve_disk: OpenRegistry) -> None:
    """A registry that refuses a chunk before it has read it."""
    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        location = (await client.ask(proxy.registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        refused = await client.ask(
            proxy.registry, "PATCH", location, headers={"Content-Range": f"5-{len(BLOB) + 4}"}, data=BLOB
        )

        assert refused.status == 416
        assert (await client.ask(proxy.registry, "GET", "/v2/")).status == 200


async def test_a_chunked_body_arrives_whole(serve_disk: OpenRegistry) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(BLOB), 1000):
            yield BLOB[start : start + 1000]

    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        path = f"/v2/app/blobs/uploads/?digest={DIGEST}"
        stored = await client.ask(proxy.registry, "POST", path, data=pieces())

        assert stored.status == 201
        assert proxy.exchanges.uploaded == len(BLOB)
        assert "content-length" not in proxy.exchanges.log[0].headers


async def test_every_fifth_match_is_hit(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        rule = proxy.on("HEAD", "/blobs/", Reply(500), first=3, every=5, times=None)
        statuses = [(await client.ask(proxy.registry, "HEAD", PATH)).status for _ in range(13)]

        assert [number for number, status in enumerate(statuses, 1) if status == 500] == [3, 8, 13]
        assert (rule.matched, rule.fired) == (13, 3)


async def test_a_link_has_a_round_trip_and_a_bandwidth(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.link = Link(round_trip=0.1, bytes_per_second=2_000_000)
        started = time.monotonic()
        await get(proxy)
        took = time.monotonic() - started

        assert took >= 0.1 + 0.1 + len(BLOB) / 2_000_000  # to connect, to ask, to receive


async def test_a_request_can_be_delayed(proxied: OpenProxy) -> None:
    async with proxied() as proxy:
        proxy.on("GET", "/blobs/", Delay(0.2))
        started = time.monotonic()
        await get(proxy)

        assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("forwards_scheme", [True, False])
async def test_it_ends_tls(debian_registry: OpenRegistry, authority: Authority, forwards_scheme: bool) -> None:
    """A registry that is not told of the TLS in front of it sends its clients to http."""
    async with (
        debian_registry() as registry,
        fault_proxy(
            registry, tls=authority.server(), authority=authority.certificate, forwards_scheme=forwards_scheme
        ) as proxy,
    ):
        begun = await client.ask(proxy.registry, "POST", "/v2/app/blobs/uploads/")

        assert proxy.registry.url.startswith("https://")
        assert begun.headers["Location"].startswith("https://" if forwards_scheme else "http://")
        assert begun.headers["Location"].partition("://")[2].startswith(proxy.registry.address)


def test_bytes_that_came_twice_are_found() -> None:
    exchanges = Exchanges()
    for start, received in ((0, 100), (100, 50), (149, 10)):
        exchanges.log.append(
            Exchange(
                "GET",
                PATH,
                {},
                0.0,
                1,
                status=206,
                answer={"content-range": f"bytes {start}-999/1000"},
                received=received,
            )
        )

    with pytest.raises(AssertionError, match="bytes 149 to 150"):
        exchanges.assert_no_byte_came_twice()
