"""A large blob by several connections: when that is done, what it brings, and what a server may do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
import yaml
from aiohttp import web
from msgspec import structs

from syncer.api.sync import Mirroring, sync
from syncer.cli.options import ConnectionOptions
from syncer.cli.settings import registry_settings
from syncer.content import PourableBlob
from syncer.errors import RegistryError
from syncer.registry import RegistrySettings, download, open_registries
from syncer.transport import HostSettings, Limits, TransportSettings
from tests.conftest import OpenRegistry
from tests.support import client, images, registry_end
from tests.support.fault_proxy import Link, fault_proxy
from tests.support.images import digest_of
from tests.support.quirky import Handler, Quirky, problem, quirky_registry, status
from tests.support.registry_end import QUICK, blob_of, name_at, registries_for

MIB = 1024 * 1024
CONTENT = images.noise("large", 6 * MIB)
RANGE = 128 * 1024
Misdeed: TypeAlias = Callable[[web.Request, web.Response], web.StreamResponse]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes and times are a fraction of those in earnest."""
    monkeypatch.setattr(download, "SPREAD_FROM", MIB)
    monkeypatch.setattr(download, "_RANGE", RANGE)
    monkeypatch.setattr(download, "_LOOK", 0.15)
    monkeypatch.setattr(download, "_WORTH", 0.5)


@dataclass(slots=True)
class Paced:
    """A server that gives each connection so many bytes a second, and all of them together ``together``."""

    each: float = 600_000.0
    together: float = float("inf")
    is_short: bool = False  # the rest of a blob, in one stream after the ranges, comes at once
    misdeed: Misdeed | None = None  # what becomes of an answer to a range, the first of them excepted
    ranges: list[str] = field(default_factory=list)  # that were asked for
    now: int = 0
    most: int = 0  # answers at a time
    _free_at: float = 0.0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        answer = await handler(request)
        is_over = self.is_short and asked.endswith("-")
        if self.misdeed and asked and not asked.endswith("-") and len(self.bounded) > 1:
            answer = self.misdeed(request, answer)  # type: ignore[arg-type]
        if not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
            return answer
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await response.prepare(request)
            for start in range(0, len(answer.body), 16384):
                piece = answer.body[start : start + 16384]
                await response.write(piece)
                await asyncio.sleep(0 if is_over else max(len(piece) / self.each, self._turn(len(piece))))
        except ConnectionError:
            pass  # the client has enough
        finally:
            self.now -= 1
        return response

    def _turn(self, size: int) -> float:
        """Seconds until the link that all connections share has carried so many bytes more."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + size / self.together
        return self._free_at - now

    @property
    def bounded(self) -> Sequence[str]:
        """The ranges with an end."""
        return [asked for asked in self.ranges if asked and not asked.endswith("-")]


async def fetched(
    registry: Quirky,
    paced: Paced,
    *,
    times: int = 1,
    limits: Limits = QUICK,
    hosts: Mapping[str, HostSettings] | None = None,
    is_relayed: bool = False,
) -> list[bytes]:
    registry.add("app", CONTENT)
    registry.on("GET blob", paced, times=9999)
    settings = RegistrySettings(transport=TransportSettings(limits=limits, hosts=hosts or {}))
    async with open_registries(settings) as registries:
        blob = registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor)
        if is_relayed:
            assert isinstance(blob, PourableBlob)
            async with blob.permit():
                return [await registry_end.poured(blob) for _ in range(times)]
        return [await registry_end.poured(blob) for _ in range(times)]


async def test_a_large_blob_comes_by_as_many_connections_as_bring_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_GAIN", 0.5)  # of 2.0: a machine that does other things measures less
    paced = Paced()
    async with quirky_registry() as registry:
        assert await fetched(registry, paced) == [CONTENT]

    assert paced.most >= 4
    assert paced.ranges[0] == ""
    assert len(set(paced.bounded)) == len(paced.bounded)


async def test_a_link_that_is_full_gets_no_more_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are tried, which bring no more than one; the rest comes as it began."""
    monkeypatch.setattr(download, "_GAIN", 10.0)  # of 1.0, as above
    paced = Paced(each=4_000_000, together=4_000_000, is_short=True)
    async with quirky_registry() as registry:
        assert await fetched(registry, paced) == [CONTENT]

    assert paced.bounded
    assert paced.ranges[-1].endswith("-")


@pytest.mark.parametrize("is_relayed", [False, True])
async def test_ranges_count_as_requests_a_second(monkeypatch: pytest.MonkeyPatch, is_relayed: bool) -> None:
    monkeypatch.setattr(download, "_GAIN", 0.0)  # each step is kept
    paced = Paced(each=2_000_000)
    async with quirky_registry() as registry:
        hosts = {registry.address: HostSettings(requests_per_second=20)}
        began = time.monotonic()
        assert await fetched(registry, paced, is_relayed=is_relayed, hosts=hosts) == [CONTENT]

    assert len(paced.bounded) > 20
    assert time.monotonic() - began >= len(paced.ranges[1:]) / 20


@pytest.mark.parametrize("targets", [1, 2])
async def test_a_sync_gets_it_in_ranges_too_in_no_more_requests_than_the_source_may_have(
    debian_registry: OpenRegistry,
    serve_disk: OpenRegistry,
    tmp_path: Path,
    targets: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By way of the spool, or straight on to a single target."""
    monkeypatch.setattr(download, "_GAIN", 0.5)  # as above
    image = images.image("model", layers=[images.layer("model", 6 * MIB)])
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(debian_registry())
        await client.push(source, "model", image, "1")
        proxy = await stack.enter_async_context(fault_proxy(source, link=Link(answer_bytes_per_second=600_000)))
        ends = [await stack.enter_async_context(serve_disk(f"target-{number}")) for number in range(targets)]
        name = proxy.registry.address
        file = tmp_path / "sync.yaml"
        document = {
            "sources": [{"image": f"{name}/model:1"}],
            "targets": [{"registry": f"http://{end.address}"} for end in ends],
            "registries": {name: {"concurrency": 3}},
        }
        file.write_text(yaml.safe_dump(document))

        result = await sync(file, Mirroring(state=tmp_path / "state"))

        assert result.exit == 0
        for end in ends:
            await client.assert_holds(end, f"{name.replace(':', '_')}/model", image, "1")
        parts = [one for one in proxy.exchanges.of("GET blob") if not one.headers.get("range", "-").endswith("-")]
    assert len(parts) > 10
    assert 2 <= len({part.connection for part in parts}) <= 3


@pytest.mark.parametrize(("limits", "size"), [(structs.replace(QUICK, ranges=1), MIB), (QUICK, 7 * MIB)])
async def test_one_stream_is_what_was_asked_for_or_is_enough(
    monkeypatch: pytest.MonkeyPatch, limits: Limits, size: int
) -> None:
    """``--ranges 1``; and a blob that is smaller than what is spread."""
    monkeypatch.setattr(download, "SPREAD_FROM", size)
    paced = Paced(each=12_000_000)
    async with quirky_registry() as registry:
        assert await fetched(registry, paced, limits=limits) == [CONTENT]

    assert paced.ranges == [""]


@pytest.mark.parametrize("is_relayed", [False, True])
async def test_no_more_connections_than_the_host_may_have(is_relayed: bool) -> None:
    """A relay holds its one request all the time, and others only while they are free."""
    paced = Paced()
    limits = structs.replace(QUICK, requests_per_host=3)
    async with quirky_registry() as registry:
        assert await fetched(registry, paced, limits=limits, is_relayed=is_relayed) == [CONTENT]

    assert 2 <= paced.most <= 1 + 3  # the server may still be at the one that was broken off


def another(status: int, **headers: str) -> Misdeed:
    """The same body under another status, or with other headers."""

    def answer(_: web.Request, right: web.Response) -> web.StreamResponse:
        changed = dict(right.headers) | {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=right.body, headers=changed)

    return answer


def refused(status: int) -> Misdeed:
    return lambda *_: problem(status, "DENIED", "one connection at a time")


def whole(*_: object) -> web.StreamResponse:
    return web.Response(body=CONTENT)


def shifted(_: web.Request, right: web.Response) -> web.StreamResponse:
    assert isinstance(right.body, bytes)
    start, last = map(int, right.headers["Content-Range"].partition(" ")[2].partition("/")[0].split("-"))
    headers = {"Content-Range": f"bytes {start + 1}-{last}/{len(CONTENT)}"}
    return web.Response(status=206, body=right.body[1:], headers=headers)


def short(_: web.Request, right: web.Response) -> web.StreamResponse:
    assert isinstance(right.body, bytes)
    start = int(right.headers["Content-Range"].partition(" ")[2].partition("-")[0])
    body = right.body[:1000]
    headers = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}"}
    return web.Response(status=206, body=body, headers=headers)


def longer(_: web.Request, right: web.Response) -> web.StreamResponse:
    assert isinstance(right.body, bytes)
    return web.Response(status=206, body=right.body + b"more", headers=right.headers)


@pytest.mark.parametrize(
    "misdeed",
    [
        whole,
        shifted,
        short,
        longer,
        another(206, Content_Encoding="gzip"),
        another(206, Content_Range="bytes 0-9/10"),
        another(200),
        refused(401),
        refused(403),
        refused(404),
        refused(416),
    ],
)
async def test_a_server_that_gives_no_ranges_gives_one_stream_from_then_on(misdeed: Misdeed) -> None:
    """Also to the next blob of the same run."""
    paced = Paced(each=5_000_000, misdeed=misdeed, is_short=True)
    async with quirky_registry() as registry:
        assert await fetched(registry, paced, times=2) == [CONTENT, CONTENT]

    assert 2 <= len(paced.bounded) <= 4
    assert paced.ranges[-1] == ""
    assert paced.ranges[-2].endswith("-")


async def test_ranges_of_other_content_are_not_put_together() -> None:
    """The ETag of a server changes in the middle."""
    etags = iter(["one", *["other"] * 999])

    def answer(_: web.Request, right: web.Response) -> web.StreamResponse:
        right.headers["ETag"] = next(etags)
        return right

    paced = Paced(each=3_000_000, misdeed=answer, is_short=True)
    async with quirky_registry() as registry:
        assert await fetched(registry, paced) == [CONTENT]

    assert paced.ranges[-1].endswith("-")


async def test_a_server_that_asks_for_fewer_requests_gets_fewer() -> None:
    """429 for the second connection: there is no more than one for the rest of the run."""
    paced = Paced(each=5_000_000, is_short=True)

    def answer(_: web.Request, right: web.Response) -> web.StreamResponse:
        return problem(429, "TOOMANYREQUESTS") if paced.now else right

    paced.misdeed = answer
    async with quirky_registry() as registry:
        assert await fetched(registry, paced, times=2) == [CONTENT, CONTENT]

    assert paced.bounded
    assert paced.ranges[-1] == ""


async def test_another_host_that_asks_for_fewer_requests_takes_no_connection_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as the target of a sync."""
    monkeypatch.setattr(download, "_GAIN", 0.0)  # each step is kept
    paced = Paced(each=2_000_000)
    async with quirky_registry() as registry, quirky_registry() as other, registries_for(limits=QUICK) as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", paced, times=9999)
        other.on("GET manifest", status(429), times=9999)

        async def ask_too_much() -> None:
            while True:
                with suppress(RegistryError):
                    await registries.manifest(name_at(other.address, "app"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_too_much)
            blob = registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor)
            assert await registry_end.poured(blob) == CONTENT
            tasks.cancel_scope.cancel()

        assert other.requests("GET")
    assert paced.most > 2


async def test_a_range_that_stands_still_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_GAIN", 0.0)  # each step is kept
    paced = Paced(each=3_000_000)
    stalled = [False, False, True, *[False] * 999]

    class Stalled(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            while self._req and self._req.transport and not self._req.transport.is_closing():  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)

    def answer(_: web.Request, right: web.Response) -> web.StreamResponse:
        return Stalled(status=206, headers=right.headers) if stalled.pop(0) else right

    paced.misdeed = answer
    async with quirky_registry() as registry:
        limits = structs.replace(QUICK, stall=0.5)
        assert await fetched(registry, paced, limits=limits) == [CONTENT]

    assert len(paced.bounded) == len(set(paced.bounded)) + 1
    assert not paced.ranges[-1].endswith("-")


async def test_nothing_has_to_be_said_of_ranges_beforehand() -> None:
    """Neither ``Accept-Ranges`` in an answer, nor a length in one to HEAD, which nobody asks for."""
    paced = Paced(each=1_500_000)
    async with quirky_registry() as registry:
        registry.head_status = 405
        assert await fetched(registry, paced) == [CONTENT]

        assert not registry.requests("HEAD")
    assert paced.bounded


@dataclass(slots=True)
class Signing:
    """A registry that leads to a storage, by addresses each of which is good for one request."""

    storage: str
    expires: Callable[[str], bool]  # whether that for such a range is good for none
    given: int = 0
    used: set[str] = field(default_factory=set)

    async def lead(self, request: web.Request, _: Handler) -> web.StreamResponse:
        self.given += 1
        return web.Response(status=307, headers={"Location": f"{self.storage}{request.path}?signature={self.given}"})

    def refuses(self, request: web.Request) -> bool:
        number = request.query["signature"]
        is_used = number in self.used
        self.used.add(number)
        return is_used or self.expires(request.headers.get("Range", ""))


async def led(paced: Paced, expires: Callable[[str], bool], refusal: int = 403) -> tuple[Signing, list[bytes]]:
    """The content twice from a registry that leads elsewhere."""
    async with quirky_registry() as registry, quirky_registry() as storage:
        signing = Signing(storage.url, expires)

        async def give(request: web.Request, handler: Handler) -> web.StreamResponse:
            if signing.refuses(request):
                paced.ranges.append(request.headers.get("Range", ""))
                return problem(refusal, "EXPIRED")
            return await paced(request, handler)

        digest = storage.add("app", CONTENT)
        assert digest == digest_of(CONTENT)
        storage.on("GET blob", give, times=9999)
        registry.on("GET blob", signing.lead, times=9999)
        async with registries_for(limits=QUICK) as registries:
            blob = registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor)
            return signing, [await registry_end.poured(blob) for _ in range(2)]


async def test_each_range_asks_for_an_address_of_its_own_and_for_another_one_when_that_has_expired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "_GAIN", 0.0)  # each step is kept
    paced = Paced(each=3_000_000)

    signing, found = await led(paced, lambda asked: bool(asked) and asked not in paced.ranges)

    assert found == [CONTENT, CONTENT]
    assert len(paced.bounded) > 2 * 2 * 20
    assert len(signing.used) == len(paced.ranges)
    assert not [asked for asked in paced.ranges if asked.endswith("-")]


async def test_a_storage_that_asks_for_fewer_requests_gets_fewer() -> None:
    paced = Paced(each=5_000_000, is_short=True)

    _, found = await led(paced, lambda _: paced.now > 0, 429)

    assert found == [CONTENT, CONTENT]
    assert paced.bounded
    assert paced.ranges[-1] == ""


async def test_a_storage_that_refuses_the_second_connection_is_not_asked_for_ranges_again() -> None:
    paced = Paced(each=5_000_000, is_short=True)

    _, found = await led(paced, lambda _: paced.now > 0)

    assert found == [CONTENT, CONTENT]
    assert 2 <= len(paced.bounded) <= 6
    assert paced.ranges[-1] == ""


@pytest.mark.parametrize("after", [0, 50_000])
async def test_a_range_that_breaks_off_is_taken_up_again(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(download, "_GAIN", 0.0)  # each step is kept
    paced = Paced(each=3_000_000)
    broken = 0

    def answer(request: web.Request, right: web.Response) -> web.StreamResponse:
        nonlocal broken
        broken += 1
        if broken % 4 == 0:
            assert request.transport
            assert isinstance(right.body, bytes)
            head = "".join(f"{name}: {value}\r\n" for name, value in right.headers.items())
            request.transport.write(f"HTTP/1.1 206 Part\r\n{head}\r\n".encode() + right.body[:after])
            request.transport.close()
        return right

    paced.misdeed = answer
    async with quirky_registry() as registry:
        assert await fetched(registry, paced) == [CONTENT]

    assert broken > 8
    assert paced.ranges[-1] != ""


async def test_the_content_is_checked_as_ever() -> None:
    """A byte that is altered in a range is in what came, whose digest tells."""

    def answer(_: web.Request, right: web.Response) -> web.StreamResponse:
        assert isinstance(right.body, bytes)
        return web.Response(status=206, body=right.body[:-1] + b"?", headers=right.headers)

    paced = Paced(each=3_000_000, misdeed=answer)
    async with quirky_registry() as registry:
        (found,) = await fetched(registry, paced)

    assert len(found) == len(CONTENT)
    assert digest_of(found) != digest_of(CONTENT)


@pytest.mark.parametrize("ranges", [1, 16])
async def test_the_flag_says_whether_there_may_be_more_than_one(ranges: int) -> None:
    limits = registry_settings(ConnectionOptions(ranges=ranges)).transport.limits
    paced = Paced(each=3_000_000, is_short=True)
    async with quirky_registry() as registry:
        assert await fetched(registry, paced, limits=limits) == [CONTENT]

    assert bool(paced.bounded) == (ranges > 1)
