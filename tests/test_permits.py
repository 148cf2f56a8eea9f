"""No request waits for a place that it holds itself: tokens, pings, redirects, renewals at a busy host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from msgspec import structs
from yarl import URL

import syncer as library
from syncer.api.sync import Mirroring
from syncer.content import Item
from syncer.registry import RegistrySettings, open_registries
from syncer.transfer.events import Event, ImageFailed
from syncer.transfer.run import Options, transfer
from syncer.transport import Challenged, HostSettings, Request, Transport, TransportSettings, open_transport
from tests.support import client, images
from tests.support.quirky import Handler, Quirky, cut_download, problem, quirky_registry
from tests.support.registries import Registry
from tests.support.registry_end import QUICK, blob_of, name_at, registries_for, target_at, write
from tests.support.watchdog import watchdog

EVERYTHING = 1_000_000
IMAGES = 40


@dataclass(slots=True)
class OwnTokens:
    """A registry that gives out its tokens at its own origin, as Harbor, Gitea, Quay and GHCR do.

    Its key is replaced when ``rotates_at`` uploads are about to begin: then each of them is answered 401.
    """

    rotates_at: int | None = None
    challenges: bool = True  # each 401 says where tokens come from; else only the answer to a ping does
    good: str = "first"
    tokens: int = 0  # that were given out
    held: int = 0  # uploads that wait for the new key
    now: int = 0  # requests for content that are being answered
    most: int = 0
    rotated: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/token":
            self.tokens += 1
            return web.json_response({"token": self.good, "expires_in": 300})
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._answer(request, handler)
        finally:
            self.now -= 1

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        if authorization and self.rotates_at and request.method == "POST" and not self.rotated.is_set():
            self.held += 1
            if self.held < self.rotates_at:
                await self.rotated.wait()
            self.good = "second"
            self.rotated.set()
        if authorization == f"Bearer {self.good}":
            return await handler(request)
        if not self.challenges and request.path != "/v2/":
            return problem(401, "UNAUTHORIZED")
        realm = f'Bearer realm="http://{request.host}/token",service="r"'
        return problem(401, "UNAUTHORIZED", WWW_Authenticate=realm)


@asynccontextmanager
async def registry_with(tokens: OwnTokens | None = None, *, stocked: bool = False) -> AsyncIterator[Quirky]:
    """A registry, which holds ``app0`` … if it is stocked, and wants ``tokens`` from then on."""
    async with quirky_registry() as registry:
        if stocked:
            for number in range(IMAGES):
                image = images.image(f"i{number}", layers=[images.layer(f"layer {number}", 1000)])
                await client.push(as_registry(registry), f"app{number}", image, "v1")
        registry.seen.clear()
        if tokens is not None:
            registry.on("*", tokens, times=EVERYTHING)
        yield registry


def as_registry(registry: Quirky) -> Registry:
    return Registry(registry.address, Path())


def with_places(concurrency: int) -> RegistrySettings:
    return RegistrySettings(transport=TransportSettings(limits=structs.replace(QUICK, requests_per_host=concurrency)))


CONCURRENCIES = pytest.mark.parametrize("concurrency", [1, 4, 32])


@CONCURRENCIES
async def test_a_build_from_a_registry_that_gives_out_its_own_tokens_ends(tmp_path: Path, concurrency: int) -> None:
    async with registry_with(OwnTokens(), stocked=True) as registry, watchdog():
        names = [f"{registry.address}/app{number}:v1" for number in range(IMAGES)]
        built = await library.build(names, output=tmp_path, settings=with_places(concurrency), concurrency=concurrency)

    assert built.exit == 0


@CONCURRENCIES
async def test_a_push_to_a_registry_that_gives_out_its_own_tokens_and_its_verification_end(
    tmp_path: Path, concurrency: int
) -> None:
    settings = with_places(concurrency)
    async with registry_with(stocked=True) as source, registry_with(OwnTokens()) as target:
        built = await library.build([f"{source.address}/app{n}:v1" for n in range(IMAGES)], output=tmp_path)
        assert built.path is not None
        async with watchdog():
            pushed = await library.push(built.path, target.address, settings=settings, concurrency=concurrency)
            verified = await library.verify(built.path, target.address, settings=settings, concurrency=concurrency)

    assert (pushed.exit, verified.exit) == (0, 0), (pushed.report.failures, verified.lacking)
    assert pushed.report.totals.images_copied == IMAGES


@CONCURRENCIES
async def test_a_sync_between_registries_that_give_out_their_own_tokens_ends(tmp_path: Path, concurrency: int) -> None:
    source_tokens, target_tokens = OwnTokens(), OwnTokens()
    async with (
        registry_with(source_tokens, stocked=True) as source,
        registry_with(target_tokens) as target,
        watchdog(),
    ):
        file = tmp_path / "sync.yaml"
        listed = ", ".join(f"{{image: '{source.address}/app{number}:v1'}}" for number in range(IMAGES))
        file.write_text(f"sources: [{listed}]\ntargets: [{{registry: '{target.address}'}}]\n")
        synced = await library.sync(file, Mirroring(concurrency=concurrency), settings=with_places(concurrency))

    assert synced.report.totals.images_copied == IMAGES
    assert source_tokens.most <= concurrency
    assert target_tokens.most <= concurrency


async def test_a_key_that_is_replaced_while_all_places_are_taken_costs_a_new_token(tmp_path: Path) -> None:
    tokens = OwnTokens(rotates_at=32)
    async with registry_with(stocked=True) as source, registry_with(tokens) as target:
        built = await library.build([f"{source.address}/app{n}:v1" for n in range(IMAGES)], output=tmp_path)
        assert built.path is not None
        async with watchdog():
            pushed = await library.push(built.path, target.address, settings=with_places(32))

    assert tokens.rotated.is_set()
    assert pushed.exit == 0
    assert pushed.report.totals.images_copied == IMAGES


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_ping_finds_a_place_when_all_are_taken(concurrency: int) -> None:
    async with registry_with(OwnTokens(challenges=False), stocked=True) as registry, watchdog():
        events: list[Event] = []
        async with (
            registry_with() as target,
            registries_for(limits=structs.replace(QUICK, requests_per_host=concurrency)) as registries,
        ):
            items = [Item(name_at(registry.address, f"app{n}"), name_at(target.address, f"app{n}")) for n in range(9)]
            to = target_at(registries, target.url)
            await transfer(items, registries, to, options=Options(), emit=events.append)

    assert not [event for event in events if isinstance(event, ImageFailed)]


@dataclass(slots=True)
class Renewing:
    """An authorizer whose token has ended, and comes from the host itself."""

    transport: Transport
    url: URL
    is_asked_first: bool  # before a request, or for its 401

    async def authorization(self) -> str | None:
        return await self._token() if self.is_asked_first else None

    async def challenged(self, answer: Challenged) -> bool:
        await self._token()
        return False

    def elsewhere(self, url: URL) -> None:
        return None

    async def _token(self) -> str:
        answer = await self.transport.ask(Request(method="GET", url=self.url / "token"))
        return f"Bearer {answer.status}"


def narrow(*registries: Quirky, way: str, places: int = 1) -> TransportSettings:
    """No more than ``places`` requests at a time, by the one setting or by the other."""
    if way == "all hosts":
        return TransportSettings(limits=structs.replace(QUICK, requests_per_host=places))
    hosts = {registry.address: HostSettings(concurrency=places) for registry in registries}
    return TransportSettings(limits=QUICK, hosts=hosts)


BOTH_WAYS = pytest.mark.parametrize("way", ["all hosts", "one host"])


@BOTH_WAYS
@pytest.mark.parametrize("is_asked_first", [True, False])
async def test_tokens_are_renewed_when_all_places_are_taken(way: str, is_asked_first: bool) -> None:
    tokens = OwnTokens(good="200" if is_asked_first else "none")
    async with (
        registry_with(tokens) as registry,
        watchdog(),
        open_transport(narrow(registry, way=way, places=2)) as transport,
    ):
        base = URL(registry.url)
        authorizer = Renewing(transport, base, is_asked_first)
        request = Request(method="GET", url=base / "v2/", authorizer=authorizer)
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await transport.ask(request)).status)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)

    assert set(statuses) == {200 if is_asked_first else 401}
    assert tokens.tokens == 10
    assert tokens.most <= 2


@BOTH_WAYS
async def test_a_redirect_on_the_same_host_is_followed_when_all_places_are_taken(way: str) -> None:
    async with registry_with() as registry, watchdog():

        async def sent_on(request: web.Request, handler: Handler) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": "/v2/"}, body=b"over there")

        registry.on("other", sent_on, times=EVERYTHING)
        async with open_transport(narrow(registry, way=way)) as transport, anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(transport.ask, Request(method="GET", url=URL(f"{registry.url}/there")))

    assert [seen.status for seen in registry.requests(kind="ping")] == [200] * 10


@BOTH_WAYS
async def test_a_body_that_is_not_read_to_its_end_gives_its_place_back(way: str) -> None:
    async with registry_with() as registry, watchdog():
        digest = registry.add("app", images.noise("large", 4_000_000))
        async with open_transport(narrow(registry, way=way)) as transport:
            request = Request(method="GET", url=URL(f"{registry.url}/v2/app/blobs/{digest}"))
            for _ in range(3):
                async with transport.open(request) as response:
                    assert await response.piece()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0), transport.open(request):
                        pass
            assert (await transport.ask(request, limit=10)).content == images.noise("large", 4_000_000)[:10]


@BOTH_WAYS
@pytest.mark.parametrize("size", [1000, 100_000, 400_000])
async def test_a_blob_goes_from_one_place_to_another_of_a_host_that_takes_one_request(way: str, size: int) -> None:
    """Also when its download breaks off, and the token that both need ends."""
    content = images.noise("relayed", size)
    tokens = OwnTokens()
    async with registry_with() as registry, watchdog():
        registry.mounts = False
        registry.add("app", content)
        registry.on("GET blob", cut_download(size // 2))
        registry.on("*", tokens, times=EVERYTHING)
        async with registries_for(transport=narrow(registry, way=way), chunk_size=60_000) as registries:
            blob = registries.blob(name_at(registry.address, "app"), blob_of(content).descriptor)
            to = target_at(registries, registry.url)
            await write(to, "elsewhere", blob, force=True)
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(write, to, f"place{number}", blob)

        assert registry.blobs["elsewhere"] == registry.blobs["place4"]


async def test_registries_that_fetch_from_the_same_storage_and_give_tokens_to_each_other_never_wait_in_a_ring() -> None:
    """Each registry's tokens come from the other, and each redirects downloads to the other."""
    contents = [images.noise(f"ring {number}", 150_000) for number in range(6)]
    async with registry_with() as one, registry_with() as two, watchdog():
        for here, there in ((one, two), (two, one)):
            for content in contents:
                here.add("app", content)
                there.add("store", content)

            async def sent_on(request: web.Request, handler: Handler, there: Quirky = there) -> web.StreamResponse:
                digest = request.path.rpartition("/")[2]
                return web.Response(status=307, headers={"Location": f"{there.url}/v2/store/blobs/{digest}"})

            async def guarded(request: web.Request, handler: Handler, there: Quirky = there) -> web.StreamResponse:
                if request.path == "/token":
                    return web.json_response({"token": "t", "expires_in": 300})
                if "/store/" in request.path:
                    return await handler(request)
                if request.headers.get("Authorization") != "Bearer t":
                    return problem(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{there.url}/token"')
                is_download = request.method == "GET" and "/app/blobs/" in request.path
                return await sent_on(request, handler) if is_download else await handler(request)

            here.on("*", guarded, times=EVERYTHING)
        settings = RegistrySettings(transport=narrow(one, two, way="all hosts"), chunk_size=40_000)
        async with open_registries(settings) as registries, anyio.create_task_group() as tasks:
            for source, target in ((one, two), (two, one), (one, one), (two, two)):
                to = target_at(registries, target.url)
                for content in contents:
                    blob = registries.blob(name_at(source.address, "app"), blob_of(content).descriptor)
                    place = f"from{source.address.partition(':')[2]}"
                    tasks.start_soon(write, to, place, blob)

    assert len(one.blobs[f"from{two.address.partition(':')[2]}"]) == len(contents)


@BOTH_WAYS
async def test_requests_that_wait_for_their_turn_wait_for_a_pause_as_well(way: str) -> None:
    arrived: list[float] = []

    async def throttled(request: web.Request, handler: Handler) -> web.StreamResponse:
        arrived.append(time.monotonic())
        if len(arrived) > 1:
            return await handler(request)
        return problem(429, "TOOMANYREQUESTS", Retry_After="1")

    async with registry_with() as registry, watchdog():
        registry.on("*", throttled, times=EVERYTHING)
        async with open_transport(narrow(registry, way=way)) as transport, anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(transport.ask, Request(method="GET", url=URL(f"{registry.url}/v2/")))

    assert len(arrived) == 11
    assert arrived[1] - arrived[0] >= 0.99


async def test_the_watchdog_says_what_waits_for_what() -> None:
    async def waits_for_a_friend() -> None:
        await anyio.Event().wait()

    with pytest.raises(
        pytest.fail.Exception, match=r"not done after 0\.05 s[^ ]* what waits:\n(.*\n)*.*waits_for_a_friend"
    ):
        async with watchdog(0.05):
            await waits_for_a_friend()
