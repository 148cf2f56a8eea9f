"""How hard one host may be leaned on: requests at a time, requests and bytes a second, quotas, and outages."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from yarl import URL

from syncer.content import Blob, Item, Pieces
from syncer.errors import Interrupted, Unreachable, Waiting
from syncer.oci import Descriptor, Reference
from syncer.registry import open_registries
from syncer.transfer.events import Event, ImageCopied, ImageFailed
from syncer.transfer.run import Options, transfer
from syncer.transport import Challenged, HostSettings, Limits, Request, Transport, TransportSettings, open_transport
from syncer.transport.hosts import Presence
from syncer.transport.message import Quota, read_quota
from syncer.transport.permits import Rate
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.memory import MemorySource, MemoryTarget
from tests.support.quirky import Fault, Handler, Quirky, quirky_registry, stall, status
from tests.support.registries import Registry
from tests.support.registry_end import QUICK, name_at, settings_for, target_at


@asynccontextmanager
async def transport_to(*hosts: Quirky, **settings: float | None) -> AsyncIterator[Transport]:
    limited = {host.address: HostSettings(**settings) for host in hosts}  # type: ignore[arg-type]
    async with open_transport(TransportSettings(limits=QUICK, hosts=limited)) as transport:
        yield transport


def get(registry: Quirky, path: str = "/v2/", method: str = "GET", **more: object) -> Request:
    return Request(method=method, url=URL(f"{registry.url}{path}"), **more)  # type: ignore[arg-type]


def with_headers(**headers: str) -> Fault:
    """Answer as usual, with more headers."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return response

    return fault


@dataclass(slots=True)
class Crowd:
    """How many requests are being answered; each is held until nobody else comes."""

    now: int = 0
    most: int = 0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        await anyio.sleep(0.01)
        self.now -= 1
        return await handler(request)


async def test_no_more_requests_at_a_time_than_the_host_may_have() -> None:
    crowd = Crowd()
    async with quirky_registry() as registry, transport_to(registry, concurrency=3) as transport:
        registry.on("*", crowd, times=99)
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(transport.ask, get(registry))

    assert crowd.most == 3
    assert len(registry.seen) == 20


@dataclass(slots=True)
class TokenOfTheSameHost:
    """As a registry that gives out tokens itself."""

    transport: Transport
    registry: Quirky
    token: str | None = None

    async def authorization(self) -> str | None:
        return self.token

    async def challenged(self, answer: Challenged) -> bool:
        await self.transport.ask(get(self.registry, "/v2/token"))
        self.token = "Bearer t"
        return True

    def elsewhere(self, url: URL) -> None:
        return None


async def test_a_host_with_room_for_one_request_may_give_out_tokens_itself() -> None:
    async with quirky_registry() as registry, transport_to(registry, concurrency=1) as transport:
        registry.on("GET ping", status(401, WWW_Authenticate="Bearer realm=x"))
        with anyio.fail_after(5):
            answer = await transport.ask(get(registry, authorizer=TokenOfTheSameHost(transport, registry)))

    assert answer.status == 200


@pytest.mark.parametrize("room", [1, 2])
async def test_registries_that_give_and_take_at_the_same_time_never_wait_for_each_other(
    serve_disk: OpenRegistry, room: int
) -> None:
    """Large blobs go in chunks, and hold a request to their source from the first to the last."""
    async with serve_disk("one") as one, serve_disk("two") as two:
        hosts = {registry.address: HostSettings(plain_http=True, concurrency=room) for registry in (one, two)}
        transport = TransportSettings(limits=QUICK, hosts=hosts)
        settings = settings_for(one, two, chunk_size=40_000, transport=transport)
        events: list[Event] = []

        async def mirror(source: Registry, target: Registry) -> None:
            items = [
                Item(name_at(source, f"app{n}"), name_at(target, f"from{source.address.partition(':')[2]}/app{n}"))
                for n in range(4)
            ]
            await transfer(items, registries, target_at(registries, target), options=Options(), emit=events.append)

        for n in range(4):
            large = images.image(f"i{n}", layers=[images.layer(f"{n}/{part}", 200_000) for part in range(4)])
            await client.push(one, f"app{n}", large, "v1")
            await client.push(two, f"app{n}", large, "v1")
        async with open_registries(settings) as registries:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for source, target in ((one, two), (two, one), (one, one), (two, two)):
                        tasks.start_soon(mirror, source, target)

    assert not [event for event in events if isinstance(event, ImageFailed)]
    assert sum(isinstance(event, ImageCopied) for event in events) == 16


async def test_requests_are_spread_over_time() -> None:
    async with quirky_registry() as registry, transport_to(registry, requests_per_second=50) as transport:
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(11):
                tasks.start_soon(transport.ask, get(registry))

    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("in_threads", [False, True])
async def test_bytes_come_no_faster_than_allowed(in_threads: bool) -> None:
    async with quirky_registry() as registry, transport_to(registry, bytes_per_second=2_000_000) as transport:
        path = f"/v2/app/blobs/{registry.add('app', images.noise('blob', 600_000))}"
        began = time.monotonic()
        got = bytearray()
        pour = (lambda *_: got.extend) if in_threads else None
        async with transport.open(get(registry, path, pour=pour)) as response:
            if in_threads:
                assert await response.pour()
            while piece := await response.piece():
                got.extend(piece)

        assert len(got) == 600_000
        assert 0.2 <= time.monotonic() - began < 2


async def test_bytes_go_no_faster_than_allowed(serve_disk: OpenRegistry) -> None:
    image = images.image("large", layers=[images.layer("large", 600_000)])
    async with serve_disk("source") as source, serve_disk("target") as target:
        await client.push(source, "app", image, "v1")
        hosts = {target.address: HostSettings(plain_http=True, bytes_per_second=2_000_000)}
        settings = settings_for(source, target, transport=TransportSettings(limits=QUICK, hosts=hosts))
        began = time.monotonic()
        async with open_registries(settings) as registries:
            await transfer(
                [Item(name_at(source, "app"), name_at(target, "app"))],
                registries,
                target_at(registries, target),
                options=Options(),
                emit=lambda _: None,
            )

        assert time.monotonic() - began >= 0.2
        await client.assert_holds(target, "app", image, "v1")


@given(st.floats(0.1, 1000), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), min_size=1))
def test_a_rate_is_never_exceeded(per_second: float, takes: list[tuple[float, float]]) -> None:
    rate, now, taken, first = Rate(per_second), 1000.0, 0.0, None
    for amount, pause in takes:
        begins = now + rate.take(amount, now=now)
        first = begins if first is None else first
        assert taken <= (begins - first) * per_second + 1e-6 * per_second
        taken += amount
        now += pause


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"},
            Quota(76, 21600, is_of_pulls=True, limit=100, window=21600),
        ),
        ({"ratelimit-remaining": "0;w=21600"}, Quota(0, 21600, is_of_pulls=True, limit=None, window=21600)),
        ({"ratelimit-limit": ";w=21600", "ratelimit-remaining": ";w=21600"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "30"}, Quota(0, 30, is_of_pulls=False)),
        (
            {"ratelimit-limit": "10, 10;w=1", "ratelimit-remaining": "0"},
            Quota(0, 1, is_of_pulls=False, limit=10, window=1),
        ),
        (
            {"ratelimit-limit": "50", "ratelimit-remaining": "7", "ratelimit-reset": "1"},
            Quota(7, 1, is_of_pulls=False, limit=50),
        ),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "12"}, Quota(5, 12, is_of_pulls=False)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000000001"}, Quota(0, 0, is_of_pulls=False)),
        ({"ratelimit": '"default";r=0;t=7'}, Quota(0, 7, is_of_pulls=False)),
        (
            {"ratelimit": '"a";r=9;t=7', "ratelimit-policy": '"b";q=5;w=1, "a";q=50;w=60'},
            Quota(9, 7, is_of_pulls=False, limit=50, window=60),
        ),
        (
            {"ratelimit": '"a";r=9;t=7, "b";r=3;t=1', "ratelimit-policy": '"b";q=5;w=1'},
            Quota(3, 1, is_of_pulls=False, limit=5, window=1),
        ),
        (
            {"ratelimit": "limit=50, remaining=20, reset=1", "ratelimit-policy": "50;w=2"},
            Quota(20, 1, is_of_pulls=False, limit=50, window=2),
        ),
        ({"ratelimit": "limit=50, remaining=20"}, None),
        ({"ratelimit-remaining": "0"}, None),
        ({"ratelimit-remaining": "unlimited", "ratelimit-reset": "soon"}, None),
        ({}, None),
    ],
)
def test_quotas_are_read_as_registries_write_them(headers: dict[str, str], expected: Quota | None) -> None:
    assert read_quota(headers) == expected


@given(
    st.dictionaries(
        st.sampled_from(["ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]), st.text()
    )
)
def test_no_header_confuses_the_reader_of_quotas(headers: dict[str, str]) -> None:
    quota = read_quota(headers)
    assert quota is None or (quota.remaining >= 0 and quota.seconds >= 0)


async def test_a_spent_quota_of_pulls_stops_what_counts_and_nothing_else() -> None:
    """Docker Hub counts manifests that are fetched; asking about them is free."""
    async with quirky_registry() as hub, quirky_registry() as other, transport_to(hub) as transport:
        hub.on("GET manifest", with_headers(ratelimit_limit="100;w=21600", ratelimit_remaining="0;w=21600"))
        await transport.ask(get(hub, "/v2/app/manifests/1"))

        with pytest.raises(Waiting, match="21600 s"):
            await transport.ask(get(hub, "/v2/app/manifests/2"))
        await transport.ask(get(hub, "/v2/app/manifests/2", "HEAD"))
        await transport.ask(get(other, "/v2/app/manifests/2"))

        assert [one.method for one in hub.requests(kind="manifest")] == ["GET", "HEAD"]
        assert (transport.traffic[hub.address].pauses, transport.traffic[hub.address].errors) == (1, 1)
        assert transport.traffic[hub.address].throttled == 0


async def test_a_quota_that_is_soon_full_again_is_waited_for() -> None:
    async with quirky_registry() as registry, transport_to(registry) as transport:
        registry.on("GET ping", with_headers(ratelimit_remaining="0", ratelimit_reset="1"))
        await transport.ask(get(registry))
        began = time.monotonic()

        assert (await transport.ask(get(registry))).status == 200

        assert time.monotonic() - began >= 0.9


async def test_a_host_that_is_down_costs_its_patience_once() -> None:
    async with quirky_registry() as registry, transport_to(registry) as transport:
        registry.on("*", status(502), times=6 + 3)

        for _ in range(4):
            assert (await transport.ask(get(registry))).status == 502
        tried = len(registry.seen)
        assert (await transport.ask(get(registry))).status == 200
        registry.on("*", status(502), times=5)
        assert (await transport.ask(get(registry))).status == 200

    assert tried == 6 + 3
    assert transport.traffic[registry.address].errors == 4


async def test_nothing_that_listens_is_asked_once() -> None:
    async with quirky_registry() as registry:
        gone = registry
    async with transport_to(gone) as transport:
        for errors in (1, 2, 3):
            with pytest.raises(Unreachable):
                await transport.ask(get(gone))
            assert transport.traffic[gone.address].retries == 0
            assert transport.traffic[gone.address].requests["GET"] == 1
            assert transport.traffic[gone.address].errors == errors
        transport.forget_outages()
        with pytest.raises(Unreachable):
            await transport.ask(get(gone))
        assert transport.traffic[gone.address].requests["GET"] == 2


async def test_attempts_that_an_outage_cost_are_given_again_though_it_is_over() -> None:
    """Two requests spend their attempts on one outage; the second one is told so when the first has seen it end."""
    troubles = [Unreachable("502"), Unreachable("502")]
    presence = Presence(QUICK, print)
    presence.answered(time.monotonic())
    began = time.monotonic()

    async def look() -> None:
        if troubles:
            raise troubles.pop()

    assert await presence.outlast(look, began)
    assert not troubles
    assert await presence.outlast(look, began)
    assert not await presence.outlast(look, time.monotonic())  # the trouble of one that began later is its own


async def test_a_late_answer_to_a_request_of_before_an_outage_does_not_speak_against_it() -> None:
    """It comes while one request looks whether the host is in trouble, and another waits for what that one sees."""
    presence = Presence(QUICK, print)
    presence.answered(before := time.monotonic())
    looked = 0

    async def look() -> None:
        nonlocal looked
        looked += 1
        if looked == 1:
            await anyio.sleep(0.01)
            presence.answered(before)
            raise Unreachable("502")

    outlasted: list[bool] = []

    async def outlast() -> None:
        outlasted.append(await presence.outlast(look, before))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outlast)
        tasks.start_soon(outlast)

    assert outlasted == [True, True]


@pytest.mark.parametrize(("times", "last"), [(6, 404), (7, 502)])
async def test_a_request_gets_one_more_attempt_at_a_host_that_was_found_well(times: int, last: int) -> None:
    """The trouble may have ended between its last attempt and the look at the host."""
    async with quirky_registry() as registry, transport_to(registry) as transport:
        await transport.ask(get(registry))
        registry.on("GET manifest", status(502), times=times)

        assert (await transport.ask(get(registry, "/v2/app/manifests/1"))).status == last


async def test_a_host_that_takes_connections_and_says_nothing_is_given_less_time() -> None:
    limits = Limits(backoff=0.001, longest_backoff=0.001, idle=0.4, connect=0.1)
    release = asyncio.Event()
    async with quirky_registry() as registry:
        settings = TransportSettings(limits=limits)
        async with open_transport(settings) as transport:
            registry.on("*", stall(release), times=8)
            with pytest.raises(Interrupted, match="no answer came in time"):
                await transport.ask(get(registry))
            first = len(registry.seen)
            began = time.monotonic()
            for _ in range(2):
                with pytest.raises(Interrupted):
                    await transport.ask(get(registry))
            seconds = time.monotonic() - began
            release.set()
            assert (await transport.ask(get(registry))).status == 200

    assert (first, len(registry.seen)) == (6, 9)
    assert seconds < 2 * 0.4


async def test_one_failing_thing_does_not_make_a_host_down() -> None:
    async with quirky_registry() as registry, transport_to(registry) as transport:
        registry.on("GET ping", status(500), times=6)
        await transport.ask(get(registry))
        registry.on("GET ping", status(503))

        assert (await transport.ask(get(registry))).status == 200


@dataclass(slots=True)
class NarrowSource(MemorySource):
    """One of its registries gives a blob at a time, and none before all of the other's have gone."""

    others: int = 0
    gone: anyio.Event = field(default_factory=anyio.Event)
    at_once: int = 0

    def capacity(self, reference: Reference) -> float:
        return 1 if reference.registry == "slow.io" else math.inf

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        found = MemorySource.blob(self, reference, descriptor)
        return SlowBlob(found, self) if reference.registry == "slow.io" else QuickBlob(found, self)


@dataclass(slots=True)
class SlowBlob:
    inner: Blob
    source: NarrowSource

    @property
    def descriptor(self) -> Descriptor:
        return self.inner.descriptor

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        self.source.at_once += 1
        assert self.source.at_once == 1
        await self.source.gone.wait()
        async with self.inner.open(offset) as pieces:
            yield pieces
        self.source.at_once -= 1


@dataclass(slots=True)
class QuickBlob:
    inner: Blob
    source: NarrowSource

    @property
    def descriptor(self) -> Descriptor:
        return self.inner.descriptor

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async with self.inner.open(offset) as pieces:
            yield pieces
        self.source.others -= 1
        if not self.source.others:
            self.source.gone.set()


async def test_a_registry_that_gives_little_at_a_time_keeps_no_worker_from_the_others() -> None:
    source, target = NarrowSource(), MemoryTarget()
    names = [f"slow.io/app:{n}" for n in range(6)] + [f"quick.io/app:{n}" for n in range(6)]
    for name in names:
        source.add(name, images.image(name, layers=[images.layer(name, 1_500_000), images.layer(f"{name} small")]))
    source.others = 6 * 3
    items = [Item(reference, structs.replace(reference, registry="t.io")) for reference in map(Reference.parse, names)]
    events: list[Event] = []

    with anyio.fail_after(10):
        await transfer(items, source, target, options=Options(workers=3), emit=events.append)

    assert sum(isinstance(event, ImageCopied) for event in events) == 12
