"""Everything that goes through an HTTP proxy: what it is told, what it is not told, and what happens when it breaks."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import anyio
import pytest
from msgspec import structs
from yarl import URL

import syncer as library
from syncer.content import Item
from syncer.errors import Denied, Interrupted, NetworkError, SyncerError, Unreachable, Unsafe
from syncer.registry import Registries, open_registries
from syncer.transfer.run import Options, transfer
from syncer.transport import HostSettings, Limits, Proxies, Request, Transport, TransportSettings, open_transport
from syncer.transport.failures import CertificateRefused
from tests.conftest import OpenRegistry
from tests.support import client, images, registry_end
from tests.support.cli import syncer
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.faults import Die, Fault, Reply, Reset, Rewrite, Say, Stall, Throttle, Truncate, redirect
from tests.support.forward_proxy import ForwardProxy, forward_proxy, tinyproxy
from tests.support.images import digest_of
from tests.support.quirky import quirky_registry
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import QUICK, blob_of, file_blob, name_at, settings_for, target_at, write
from tests.support.tls import Authority
from tests.support.tokens import Login

MIB = 1024 * 1024
NAME = "registry.test:5000"
OTHER = "target.test:5000"
PROXY_LOGIN = Login("pat", "canary")
CONTENT = images.noise("through a proxy", 3 * MIB)
Scheme: TypeAlias = Literal["http", "https"]


@dataclass(frozen=True, slots=True)
class Behind:
    """A registry that only a proxy can reach."""

    registry: Registry  # as the tests' own client reaches it
    named: Registry  # as syncer knows it
    front: FaultProxy  # the origin that the proxy connects to, which records what reaches the registry
    proxy: ForwardProxy

    @property
    def proxies(self) -> Proxies:
        return Proxies(http=self.proxy.url, https=self.proxy.url)

    def registries(self, limits: Limits = QUICK, **more: object) -> AbstractAsyncContextManager[Registries]:
        return registry_end.registries_for(self.named, limits=limits, proxies=self.proxies, **more)

    @asynccontextmanager
    async def transport(self, limits: Limits = QUICK, **more: object) -> AsyncIterator[Transport]:
        settings = settings_for(self.named, limits=limits, proxies=self.proxies).transport
        async with open_transport(structs.replace(settings, **more)) as opened:
            yield opened

    def get(self, path: str = "/v2/") -> Request:
        return Request(method="GET", url=URL(self.named.url + path))


OpenBehind: TypeAlias = Callable[..., AbstractAsyncContextManager[Behind]]


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> Scheme:
    """How the registry is spoken to: in absolute form, or through a tunnel."""
    found: Scheme = request.param
    return found


@pytest.fixture
def behind(debian_registry: OpenRegistry, authority: Authority, scheme: Scheme) -> OpenBehind:
    """``async with behind(login=…) as world``: Debian's registry as ``registry.test:5000``, behind a proxy."""

    @asynccontextmanager
    async def open_it(
        *, login: Login | None = None, proxy_login: Login | None = None, over_tls: bool = False
    ) -> AsyncIterator[Behind]:
        tls = authority.server("registry.test") if scheme == "https" else None
        async with (
            debian_registry(login=login) as registry,
            fault_proxy(registry, tls=tls, authority=authority.certificate if tls else None) as front,
            forward_proxy(
                {NAME: front.registry.address}, login=proxy_login, tls=authority.server() if over_tls else None
            ) as proxy,
        ):
            yield Behind(registry, replace(front.registry, address=NAME), front, proxy)

    return open_it


Read: TypeAlias = Callable[..., Awaitable[bytes]]


@pytest.fixture(params=["loop", "threads"])
def read(request: pytest.FixtureRequest) -> Read:
    """All bytes of a blob, by the one road and by the other."""
    return registry_end.read if request.param == "loop" else registry_end.poured


def on_body(scheme: Scheme, method: str) -> str:
    """What carries a body to and from the registry: the request itself, or its tunnel."""
    return method if scheme == "http" else "CONNECT"


def environment(url: str) -> dict[str, str]:
    return {"HTTP_PROXY": url, "HTTPS_PROXY": url}


def trust(world: Behind) -> list[str | Path]:
    """The options by which a user says how the registry is spoken to."""
    return ["--ca-cert", world.named.authority] if world.named.authority else ["--plain-http"]


def assert_nothing_of_the_proxy_reached_the_registry(front: FaultProxy) -> None:
    assert front.exchanges.log
    assert not any(name.startswith("proxy-") for exchange in front.exchanges.log for name in exchange.headers)


# From one registry into a bundle, and out of it


async def test_an_image_goes_through_the_proxy_into_a_bundle_and_out_of_it(
    behind: OpenBehind, scheme: Scheme, tmp_path: Path
) -> None:
    image = images.multi_platform("several", base=images.layer("large", 8 * MIB))
    bundle = tmp_path / "out/demo.tar.zst"
    async with behind(proxy_login=PROXY_LOGIN) as world:
        await client.push(world.registry, "team/app", image, "1")

        built = await syncer(
            "build", "--image", f"{NAME}/team/app:1", "--name", "demo", "--output", bundle.parent, *trust(world),
            home=tmp_path, **environment(world.proxy.url),
        )  # fmt: skip
        pushed = await syncer(
            "push", "--file", bundle, "--registry", f"{NAME}/mirror", *trust(world),
            home=tmp_path, **environment(world.proxy.url),
        )  # fmt: skip

        assert (built.code, pushed.code) == (0, 0), built.stderr + pushed.stderr
        await client.assert_holds(world.registry, "mirror/registry.test_5000/team/app", image, "1")
        assert "canary" not in built.stdout + built.stderr + pushed.stdout + pushed.stderr
        assert_nothing_of_the_proxy_reached_the_registry(world.front)
        if scheme == "https":
            assert {(asked.method, asked.target) for asked in world.proxy.asked} == {("CONNECT", NAME)}
        else:
            assert all(asked.target.startswith(f"http://{NAME}/v2/") for asked in world.proxy.asked)


@pytest.mark.parametrize("login", [None, PROXY_LOGIN])
async def test_an_image_goes_through_tinyproxy(behind: OpenBehind, login: Login | None, tmp_path: Path) -> None:
    image = images.image("app", layers=[images.layer("large", 5 * MIB), images.layer("small")])
    bundle = tmp_path / "out/demo.tar.zst"
    async with behind() as world, tinyproxy(tmp_path / "tinyproxy", world.proxy, login=login) as url:
        await client.push(world.registry, "team/app", image, "1")

        built = await syncer(
            "build", "--image", f"{NAME}/team/app:1", "--name", "demo", "--output", bundle.parent, *trust(world),
            home=tmp_path, **environment(url),
        )  # fmt: skip
        pushed = await syncer(
            "push", "--file", bundle, "--registry", f"{NAME}/mirror", "--chunk-size", "1MiB", *trust(world),
            home=tmp_path, **environment(url),
        )  # fmt: skip

        assert (built.code, pushed.code) == (0, 0), built.stderr + pushed.stderr
        await client.assert_holds(world.registry, "mirror/registry.test_5000/team/app", image, "1")
        assert world.front.exchanges.kinds()["PATCH upload"] == 5
        assert_nothing_of_the_proxy_reached_the_registry(world.front)


@pytest.mark.parametrize("way", ["one PUT", "chunks"])
@pytest.mark.parametrize("from_file", [True, False])
async def test_a_large_blob_is_pushed_through_the_proxy(
    behind: OpenBehind, way: str, from_file: bool, tmp_path: Path
) -> None:
    content = images.noise("push", 8 * MIB)
    blob = file_blob(tmp_path, content) if from_file else blob_of(content)
    async with behind() as world:
        async with world.registries(chunk_size=MIB if way == "chunks" else 16 * MIB) as registries:
            await write(target_at(registries, world.named), "app", blob, force=True)

        assert (await client.blob(world.registry, "app", digest_of(content))).content == content
        assert world.front.exchanges.kinds()["PATCH upload"] == (7 if way == "chunks" else 0)
        world.front.exchanges.assert_no_byte_was_sent_twice(content)


async def test_a_large_blob_is_pulled_through_the_proxy(behind: OpenBehind, read: Read) -> None:
    content = images.noise("pull", 8 * MIB)
    async with behind() as world, world.registries() as registries:
        await client.push_blob(world.registry, "app", content)

        assert await read(registries.blob(name_at(world.named, "app"), blob_of(content).descriptor)) == content

        assert world.front.exchanges.kinds() == {"GET blob": 1}


async def test_an_image_is_copied_between_registries_behind_one_proxy_one_request_at_a_time(
    behind: OpenBehind, debian_registry: OpenRegistry
) -> None:
    """The download that feeds an upload never waits for the upload's connection."""
    image = images.image("relayed", layers=[images.layer("large", 4 * MIB), images.layer("small")])
    limits = structs.replace(QUICK, requests_per_host=1)
    async with behind() as world, debian_registry("target") as target:
        await client.push(world.registry, "app", image, "v1")
        world.proxy.names[OTHER] = target.address
        named = replace(target, address=OTHER)
        settings = settings_for(world.named, named, limits=limits, proxies=world.proxies)
        with anyio.fail_after(30):
            async with open_registries(settings) as registries:
                for item in (
                    Item(name_at(world.named, "app"), name_at(named, "app")),
                    Item(name_at(world.named, "app"), name_at(named, "elsewhere")),
                ):
                    await transfer(
                        [item], registries, target_at(registries, named), options=Options(), emit=lambda _: None
                    )

        await client.assert_holds(target, "app", image, "v1")
        await client.assert_holds(target, "elsewhere", image, "v1")


@pytest.mark.parametrize("size", [100_000, 4 * MIB])
async def test_a_blob_goes_from_one_place_of_a_registry_to_another_one_request_at_a_time(size: int) -> None:
    """The download that feeds the upload never waits for the upload's connection, though both are to one host."""
    content = images.noise("relayed", size)
    async with quirky_registry() as registry, forward_proxy({NAME: registry.address}) as proxy:
        registry.mounts = False
        registry.add("app", content)
        transport = TransportSettings(
            limits=structs.replace(QUICK, requests_per_host=1),
            hosts={NAME: HostSettings(plain_http=True)},
            proxies=Proxies(http=proxy.url),
        )
        async with registry_end.registries_for(transport=transport) as registries:
            blob = registries.blob(name_at(NAME, "app"), blob_of(content).descriptor)
            with anyio.fail_after(20):
                await write(target_at(registries, f"http://{NAME}"), "elsewhere", blob, force=True)

        assert registry.blobs["elsewhere"] == {digest_of(content): content}


# What breaks off goes on


@pytest.mark.parametrize("fault", [Truncate(at=1_000_000), Reset("answer", at=1_000_000)])
async def test_a_download_that_is_cut_in_the_proxy_goes_on_where_it_was_cut(
    behind: OpenBehind, scheme: Scheme, fault: Fault, read: Read
) -> None:
    async with behind() as world, world.registries() as registries:
        await client.push_blob(world.registry, "app", CONTENT)
        world.proxy.on(on_body(scheme, "GET"), "", fault)

        assert await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        first, second = world.front.exchanges.of("GET blob")
        assert "range" not in first.headers
        start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= 1_000_000


async def test_a_download_that_is_cut_in_the_proxy_asks_for_no_byte_again(
    behind: OpenBehind, scheme: Scheme, read: Read
) -> None:
    async with behind() as world, world.registries() as registries:
        await client.push_blob(world.registry, "app", CONTENT)
        world.proxy.on(on_body(scheme, "GET"), "", Truncate(at=1_000_000))

        assert await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        _, second = world.front.exchanges.of("GET blob")
        start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        # in a tunnel some of the bytes are those of TLS, and of a record that was cut none can be read
        assert start == 1_000_000 if scheme == "http" else 950_000 < start < 1_000_000


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_chunk_that_is_cut_in_the_proxy_is_recovered_from(
    behind: OpenBehind, scheme: Scheme, from_file: bool, tmp_path: Path
) -> None:
    content = images.noise("chunks", 6 * MIB)
    blob = file_blob(tmp_path, content) if from_file else blob_of(content)
    async with behind() as world:
        if scheme == "https":  # whichever of the first two tunnels it is that carries chunks
            world.proxy.on("CONNECT", "", Reset("request", at=2_500_000), times=2)
        else:
            world.proxy.on("PATCH", "", Reset("request", at=400_000), first=3)
        async with world.registries(chunk_size=MIB) as registries:
            await write(target_at(registries, world.named), "app", blob, force=True)

        assert (await client.blob(world.registry, "app", digest_of(content))).content == content
        cut = 2_500_000 if scheme == "https" else 400_000
        cuts = [asked.sent for asked in world.proxy.asked].count(cut)
        assert cuts in (1, 2)
        # Debian's registry may tell where a chunk stands before it has taken it in, and then the upload starts over
        assert world.front.exchanges.uploaded <= len(content) + cuts * (2_500_000 + 2 * MIB)


@pytest.mark.parametrize("place", ["the proxy", "the registry"])
async def test_a_download_that_stands_still_behind_the_proxy_is_taken_up_again(
    behind: OpenBehind, scheme: Scheme, place: str, read: Read
) -> None:
    async with behind() as world, world.registries(limits=structs.replace(QUICK, idle=1.0, stall=1.0)) as registries:
        await client.push_blob(world.registry, "app", CONTENT)
        if place == "the proxy":
            world.proxy.on(on_body(scheme, "GET"), "", Stall("answer", at=1_500_000))
        else:
            world.front.on("GET", "/blobs/", Stall("answer", at=1_500_000))

        assert await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        assert len(world.front.exchanges.of("GET blob")) == 2


async def test_a_download_that_all_but_stands_still_behind_the_proxy_is_given_up(
    behind: OpenBehind, read: Read
) -> None:
    limits = structs.replace(QUICK, window=0.8, stall=0.8, slowest=100_000, attempts=2)
    async with behind() as world, world.registries(limits=limits) as registries:
        await client.push_blob(world.registry, "app", CONTENT)
        world.front.on("GET", "/blobs/", Throttle(1000), times=None)

        with anyio.fail_after(20), pytest.raises(Interrupted, match="less than 100000 bytes a second come in"):
            await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor))


@pytest.mark.parametrize("from_file", [True, False])
async def test_an_upload_that_stands_still_in_the_proxy_is_done_again(
    behind: OpenBehind, scheme: Scheme, from_file: bool, tmp_path: Path
) -> None:
    content = images.noise("stands still", 16 * MIB)  # more than all buffers on the way take
    blob = file_blob(tmp_path, content) if from_file else blob_of(content)
    limits = structs.replace(QUICK, window=1.0, idle=1.0)
    async with behind() as world:
        times = 2 if scheme == "https" else 1  # whichever of the first two tunnels it is
        world.proxy.on(on_body(scheme, "PUT"), "", Stall("request", at=100_000), times=times)
        async with world.registries(limits=limits) as registries:
            await write(target_at(registries, world.named), "app", blob, force=True)

        assert (await client.blob(world.registry, "app", digest_of(content))).content == content
        assert 100_000 in [asked.sent for asked in world.proxy.asked]


async def test_a_registry_that_wants_no_more_of_a_body_is_heard_through_the_proxy(behind: OpenBehind) -> None:
    """Its answer comes before the body has gone out, and the connection closes: the blob then goes in chunks."""
    content = images.noise("limit", 6 * MIB)
    async with behind() as world:
        world.front.on("PUT", "/uploads/", Reply(413, {"Content-Type": "text/html"}, b"<html>413</html>", read=0))
        async with world.registries() as registries:
            await write(target_at(registries, world.named), "app", blob_of(content), force=True)

        assert (await client.blob(world.registry, "app", digest_of(content))).content == content


async def test_a_build_whose_proxy_dies_goes_on_through_another_one(behind: OpenBehind, tmp_path: Path) -> None:
    content = images.layer("large", 8 * MIB)
    image = images.image("app", layers=[content])
    async with behind() as world:
        await client.push(world.registry, "app", image, "1")
        world.proxy.on(None, "", Die("answer", at=5_000_000), times=None)
        settings = settings_for(world.named, proxies=world.proxies)

        first = await library.build([f"{NAME}/app:1"], output=tmp_path, settings=settings)
        assert first.exit == 1
        async with forward_proxy(world.proxy.names) as another:
            proxies = Proxies(http=another.url, https=another.url)
            settings = settings_for(world.named, proxies=proxies)
            second = await library.build([f"{NAME}/app:1"], output=tmp_path, settings=settings)

    assert second.exit == 0
    begins = [
        exchange.span.start
        for exchange in world.front.exchanges.of("GET blob")
        if digest_of(content.content) in exchange.path
    ]
    assert len(begins) == 2
    assert 4_900_000 < begins[1] <= 5_000_000


# What the proxy says no to


def refused(error: SyncerError, proxy: ForwardProxy) -> None:
    """It is said that the proxy is to blame, which one, and nothing that is secret."""
    assert "proxy" in str(error)
    assert proxy.address in str(error)
    assert "canary" not in f"{error} {error.hint}"
    assert "\n" not in str(error)
    assert "<" not in str(error)


@pytest.mark.parametrize("shown", [None, Login("pat", "canary-of-another")])
async def test_a_proxy_that_wants_a_login_is_named_and_asked_once(behind: OpenBehind, shown: Login | None) -> None:
    async with behind(proxy_login=PROXY_LOGIN) as world:
        url = world.proxy.url_for(shown)
        async with world.transport(proxies=Proxies(http=url, https=url)) as transport:
            with pytest.raises(Unreachable, match="407") as caught:
                await transport.ask(world.get())

        refused(caught.value, world.proxy)
        assert "HTTPS_PROXY" in (caught.value.hint or "")
        assert len(world.proxy.asked) == 1
        assert not world.front.exchanges.log


async def test_a_command_says_that_the_proxy_wants_another_login(behind: OpenBehind, tmp_path: Path) -> None:
    async with behind(proxy_login=PROXY_LOGIN) as world:
        url = world.proxy.url_for(Login("pat", "canary-of-another"))
        built = await syncer(
            "build", "--image", f"{NAME}/app:1", "--output", tmp_path / "out", *trust(world),
            home=tmp_path, **environment(url),
        )  # fmt: skip

    assert built.code == 1
    assert f"the proxy {world.proxy.address}" in built.stderr
    assert "canary" not in built.stdout + built.stderr
    assert not world.front.exchanges.log


async def test_a_login_with_signs_in_it_reaches_the_proxy_as_it_is(behind: OpenBehind) -> None:
    login = Login("p@t", "se:c/r%t")
    async with behind(proxy_login=login) as world:
        url = f"http://p%40t:se%3Ac%2Fr%25t@{world.proxy.address}"
        async with world.transport(proxies=Proxies(http=url, https=url)) as transport:
            assert (await transport.ask(world.get())).status == 200

        assert world.proxy.asked[0].headers["proxy-authorization"] == login.header


async def test_the_registry_s_login_reaches_the_registry_and_the_proxy_s_the_proxy(
    behind: OpenBehind, scheme: Scheme
) -> None:
    async with behind(login=LOGIN, proxy_login=PROXY_LOGIN) as world, world.registries() as registries:
        image = images.image("secret")
        await client.push(world.registry, "app", image, "v1")
        # so that a tunnel is asked for when the login of the registry is known
        world.front.on(None, "", Rewrite("answer", {"Connection": "close"}), times=None)

        assert (await registries.manifest(name_at(world.named, "app"))).content == image.content

        assert len(world.proxy.asked) > 1
        assert any(exchange.headers.get("authorization") == LOGIN.header for exchange in world.front.exchanges.log)
        assert_nothing_of_the_proxy_reached_the_registry(world.front)
        assert all(asked.headers["proxy-authorization"] == PROXY_LOGIN.header for asked in world.proxy.asked)
        if scheme == "https":
            assert not any("authorization" in asked.headers for asked in world.proxy.asked)


@pytest.mark.parametrize("scheme", ["http"], indirect=True)
@pytest.mark.parametrize("from_file", [True, False])
async def test_an_upload_is_not_sent_again_to_a_proxy_that_wants_a_login(
    behind: OpenBehind, from_file: bool, tmp_path: Path
) -> None:
    """It answers at once, and reads nothing of the body."""
    content = images.noise("not read", 16 * MIB)
    blob = file_blob(tmp_path, content) if from_file else blob_of(content)
    async with behind() as world, world.registries() as registries:
        world.proxy.on("PUT", "", Reply(407, {"Proxy-Authenticate": "Basic"}, b"<html>Who are you?</html>"), times=None)

        with pytest.raises(SyncerError, match="407") as caught:
            await write(target_at(registries, world.named), "app", blob, force=True)

        refused(caught.value, world.proxy)
        assert [asked.method for asked in world.proxy.asked].count("PUT") == 1


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_a_tunnel_that_is_refused_is_said_in_one_sentence(behind: OpenBehind) -> None:
    async with behind() as world, world.transport() as transport:
        world.proxy.on("CONNECT", "", Reply(403, body=b"<html>canary</html>"), times=None)

        with pytest.raises(Unreachable, match=r"the proxy .*will not connect us to registry\.test:5000: 403") as caught:
            await transport.ask(world.get())

        refused(caught.value, world.proxy)
        assert len(world.proxy.asked) == 1


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
@pytest.mark.parametrize(
    "fault", [Reply(429), Reply(502), Reply(503), Reply(504), Say(b""), Say(b"HTTP/1.1 200 Conn"), Say(b"SSH-2.0\r\n")]
)
async def test_a_tunnel_that_does_not_come_about_is_tried_again(behind: OpenBehind, fault: Fault) -> None:
    async with behind() as world, world.transport() as transport:
        world.proxy.on("CONNECT", "", fault, times=2)

        assert (await transport.ask(world.get())).status == 200

        assert len(world.proxy.tunnels) == 3


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
@pytest.mark.parametrize(
    "fault",
    [Reply(503), Say(b""), Say(b"HTTP/1.1 200 Co")],
)
async def test_what_no_tunnel_took_is_sent_again_even_if_it_must_not_be_repeated(
    behind: OpenBehind, fault: Fault
) -> None:
    """Nothing of it had left."""
    async with behind() as world, world.transport() as transport:
        world.proxy.on("CONNECT", "", fault)
        once = Request(method="POST", url=URL(f"{world.named.url}/v2/app/blobs/uploads/"), repeatable=False)

        assert (await transport.ask(once)).status == 202


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 201 \r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\nVia: old\n\n",
    ],
)
async def test_every_yes_to_a_tunnel_is_one(behind: OpenBehind, head: bytes) -> None:
    """RFC 9110 §9.3.6: any 2xx, and what its head says of a body does not count."""
    async with behind() as world, world.transport() as transport:
        world.proxy.established = head

        assert [(await transport.ask(world.get())).status for _ in range(2)] == [200, 200]

        assert len(world.proxy.tunnels) == 1


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_a_head_without_end_is_no_tunnel(behind: OpenBehind) -> None:
    async with behind() as world, world.transport(structs.replace(QUICK, attempts=2)) as transport:
        flood = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"
        world.proxy.on("CONNECT", "", Say(flood), times=None)

        with pytest.raises(NetworkError):
            await transport.ask(world.get())


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_a_proxy_that_never_answers_is_given_up(behind: OpenBehind) -> None:
    async with behind() as world, world.transport(structs.replace(QUICK, connect=0.2, attempts=2)) as transport:
        world.proxy.on("CONNECT", "", Stall("head"), times=None)

        with anyio.fail_after(5), pytest.raises(Unreachable) as caught:
            await transport.ask(world.get())

        refused(caught.value, world.proxy)


async def test_a_proxy_that_is_not_there_is_named(scheme: Scheme) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    url = f"http://pat:canary@{address}"
    settings = TransportSettings(limits=QUICK, proxies=Proxies(http=url, https=url))
    async with open_transport(settings) as transport:
        with pytest.raises(Unreachable, match="proxy") as caught:
            await transport.ask(Request(method="GET", url=URL(f"{scheme}://{NAME}/v2/")))

    assert "canary" not in str(caught.value)
    assert address in str(caught.value)


@pytest.mark.parametrize("scheme", ["http"], indirect=True)
@pytest.mark.parametrize("number", [403, 404])
async def test_a_no_of_the_registry_is_the_registry_s(behind: OpenBehind, number: int) -> None:
    async with behind() as world, world.registries() as registries:
        world.front.on("GET", "/manifests/", Reply(number), times=None)
        world.front.on("HEAD", "/manifests/", Reply(number), times=None)

        with pytest.raises(SyncerError, match=str(number)) as caught:
            await registries.manifest(name_at(world.named, "app"))

        assert "proxy" not in f"{caught.value} {caught.value.hint}"
        assert isinstance(caught.value, Denied) or number == 404


# TLS: to the proxy, through the proxy, and both


@pytest.mark.parametrize("knows_by", ["--ca-cert", "SSL_CERT_FILE"])
async def test_an_image_goes_through_a_proxy_that_speaks_tls(
    behind: OpenBehind,
    authority: Authority,
    scheme: Scheme,
    *,
    knows_by: str,
    tmp_path: Path,
) -> None:
    image = images.image("app", layers=[images.layer("large", 5 * MIB)])
    bundle = tmp_path / "out/demo.tar.zst"
    async with behind(proxy_login=PROXY_LOGIN, over_tls=True) as world:
        await client.push(world.registry, "app", image, "1")
        variables = environment(world.proxy.url)
        options = ["--plain-http"] if scheme == "http" else []
        if knows_by == "--ca-cert":
            options += ["--ca-cert", str(authority.certificate)]
        else:
            variables["SSL_CERT_FILE"] = str(authority.certificate)

        built = await syncer(
            "build", "--image", f"{NAME}/app:1", "--name", "demo", "--output", bundle.parent, *options,
            home=tmp_path, **variables,
        )  # fmt: skip
        pushed = await syncer(
            "push", "--file", bundle, "--registry", f"{NAME}/mirror", *options, home=tmp_path, **variables
        )

        assert (built.code, pushed.code) == (0, 0), built.stderr + pushed.stderr
        await client.assert_holds(world.registry, "mirror/registry.test_5000/app", image, "1")
        assert_nothing_of_the_proxy_reached_the_registry(world.front)


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_bodies_both_ways_are_right_by_tls_in_tls(behind: OpenBehind, read: Read, tmp_path: Path) -> None:
    content = images.noise("tls in tls", 8 * MIB)
    async with behind(over_tls=True) as world, trusting(world) as registries:
        await write(target_at(registries, world.named), "app", file_blob(tmp_path, content), force=True)

        assert (await client.blob(world.registry, "app", digest_of(content))).content == content
        assert await read(registries.blob(name_at(world.named, "app"), blob_of(content).descriptor)) == content
        world.front.exchanges.assert_no_byte_was_sent_twice(content)


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
@pytest.mark.parametrize(
    "fault", [Truncate(at=1_000_000), Reset("answer", at=1_000_000), Stall("answer", at=1_000_000)]
)
async def test_a_download_by_tls_in_tls_that_is_cut_goes_on_where_it_was_cut(
    behind: OpenBehind, fault: Fault, read: Read
) -> None:
    async with (
        behind(over_tls=True) as world,
        trusting(world, structs.replace(QUICK, idle=1.0, stall=1.0)) as registries,
    ):
        await client.push_blob(world.registry, "app", CONTENT)
        world.proxy.on("CONNECT", "", fault)

        assert await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        _, second, *_ = world.front.exchanges.of("GET blob")
        assert 0 < int(second.headers["range"].removeprefix("bytes=").removesuffix("-")) < 1_000_000


async def test_a_proxy_whose_certificate_nobody_vouches_for_is_named(behind: OpenBehind) -> None:
    async with behind(over_tls=True) as world, world.transport() as transport:
        with pytest.raises(CertificateRefused, match="certificate") as caught:
            await transport.ask(world.get())

        refused(caught.value, world.proxy)
        assert world.proxy.connections == 0


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_a_registry_whose_certificate_nobody_vouches_for_is_refused_in_its_tunnel(behind: OpenBehind) -> None:
    async with behind() as world, world.transport(hosts={}) as transport:
        with pytest.raises(CertificateRefused, match=r"certificate of registry\.test:5000 cannot be trusted"):
            await transport.ask(world.get())

        assert len(world.proxy.tunnels) == 1
        assert not world.front.exchanges.log


async def test_a_registry_behind_a_proxy_may_ask_for_a_client_certificate(
    debian_registry: OpenRegistry, authority: Authority
) -> None:
    tls, shown = authority.server("registry.test"), authority.client()
    async with (
        debian_registry(tls=tls, authority=authority.certificate, client=shown) as registry,
        forward_proxy({NAME: registry.address}) as proxy,
    ):
        settings = settings_for(replace(registry, address=NAME), proxies=Proxies(https=proxy.url))
        async with open_transport(settings.transport) as transport:
            answer = await transport.ask(Request(method="GET", url=URL(f"https://{NAME}/v2/")))

    assert answer.status == 200


def trusting(world: Behind, limits: Limits = QUICK) -> AbstractAsyncContextManager[Registries]:
    """The registry end, which trusts the registry's authority at the proxy as well."""
    assert world.named.authority
    everywhere = HostSettings(ca_cert=world.named.authority)
    settings = TransportSettings(limits=limits, default=everywhere, proxies=world.proxies)
    return registry_end.registries_for(world.named, transport=settings)


# How often, how fast, and where to


async def test_a_connection_through_the_proxy_is_kept_for_the_next_request(behind: OpenBehind, scheme: Scheme) -> None:
    """Also after an answer to HEAD, which tells a length and has no body."""
    async with behind() as world, world.transport() as transport:
        await client.push_blob(world.registry, "app", CONTENT)
        path = f"/v2/app/blobs/{digest_of(CONTENT)}"
        for _ in range(5):
            assert (await transport.ask(structs.replace(world.get(path), method="HEAD"))).status == 200
            assert (await transport.ask(world.get(path), limit=len(CONTENT))).content == CONTENT

        assert world.proxy.connections == 1
        assert len(world.proxy.asked) == (1 if scheme == "https" else 10)


async def test_no_more_connections_go_to_the_proxy_than_requests_to_a_host_at_a_time(behind: OpenBehind) -> None:
    async with behind() as world, world.transport(structs.replace(QUICK, requests_per_host=3)) as transport:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(transport.ask, world.get())

        assert len(world.front.exchanges.log) == 30
        assert 1 <= world.proxy.connections <= 3


async def test_a_body_comes_through_the_proxy_no_faster_than_allowed(behind: OpenBehind, read: Read) -> None:
    async with behind() as world:
        await client.push_blob(world.registry, "app", CONTENT)
        slow = HostSettings(
            plain_http=world.named.authority is None, ca_cert=world.named.authority, bytes_per_second=10_000_000
        )
        settings = TransportSettings(limits=QUICK, hosts={NAME: slow}, proxies=world.proxies)
        async with registry_end.registries_for(world.named, transport=settings) as registries:
            began = time.monotonic()
            assert await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor)) == CONTENT

    assert time.monotonic() - began >= 0.2  # all but the last piece was waited for


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_body_goes_through_the_proxy_no_faster_than_allowed(
    behind: OpenBehind, in_thread: bool, tmp_path: Path
) -> None:
    blob = file_blob(tmp_path, CONTENT) if in_thread else blob_of(CONTENT)
    async with behind() as world:
        slow = HostSettings(
            plain_http=world.named.authority is None, ca_cert=world.named.authority, bytes_per_second=10_000_000
        )
        settings = TransportSettings(limits=QUICK, hosts={NAME: slow}, proxies=world.proxies)
        async with registry_end.registries_for(world.named, transport=settings) as registries:
            began = time.monotonic()
            await write(target_at(registries, world.named), "app", blob, force=True)

    assert time.monotonic() - began >= 0.2


async def test_a_blob_that_lies_elsewhere_is_fetched_through_the_proxy_without_the_login(
    behind: OpenBehind, debian_registry: OpenRegistry, authority: Authority, scheme: Scheme, read: Read
) -> None:
    tls = authority.server("storage.test") if scheme == "https" else None
    async with (
        behind(login=LOGIN) as world,
        debian_registry("storage") as other,
        fault_proxy(other, tls=tls, authority=authority.certificate if tls else None) as storage,
    ):
        world.proxy.names["storage.test:5000"] = storage.registry.address
        await client.push_blob(other, "app", CONTENT)
        place = f"{scheme}://storage.test:5000/v2/app/blobs/{digest_of(CONTENT)}?sig=a%2Fb"
        world.front.on("GET", "/blobs/", redirect(place), first=2, times=None)
        settings = settings_for(
            world.named, replace(storage.registry, address="storage.test:5000"), proxies=world.proxies
        )
        async with open_registries(settings) as registries:
            assert await read(registries.blob(name_at(world.named, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        assert [exchange.headers.get("authorization") for exchange in world.front.exchanges.log] == [
            None,
            LOGIN.header,
        ]
        (fetched,) = storage.exchanges.log
        assert fetched.target == f"/v2/app/blobs/{digest_of(CONTENT)}?sig=a%2Fb"
        assert "authorization" not in fetched.headers
        assert all("authorization" not in asked.headers for asked in world.proxy.asked if "storage" in asked.target)


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_a_registry_behind_a_proxy_leads_to_no_private_address(behind: OpenBehind) -> None:
    async with behind() as world, world.transport() as transport:
        world.front.on("GET", "/v2/", redirect("https://10.0.0.1/latest/"))

        with pytest.raises(Unsafe, match="private"):
            await transport.ask(world.get())

        assert [asked.target for asked in world.proxy.asked] == [NAME]


@pytest.mark.parametrize(
    ("url", "place", "target"),
    [
        ("http://registry.test/v2/", "registry.test:80", "http://registry.test/v2/"),
        ("http://registry.test:8080/v2/", "registry.test:8080", "http://registry.test:8080/v2/"),
        ("http://[2001:db8::1]:5000/v2/", "[2001:db8::1]:5000", "http://[2001:db8::1]:5000/v2/"),
        ("http://registry.test/v2/?a=%2f+%7e", "registry.test:80", "http://registry.test/v2/?a=%2f+%7e"),
    ],
)
async def test_a_request_to_plain_http_names_its_whole_address(
    debian_registry: OpenRegistry, url: str, place: str, target: str
) -> None:
    async with debian_registry() as registry, forward_proxy({place: registry.address}) as proxy:
        async with open_transport(TransportSettings(limits=QUICK, proxies=Proxies(http=proxy.url))) as transport:
            assert (await transport.ask(Request(method="GET", url=URL(url, encoded=True)))).status == 200

        (asked,) = proxy.asked
        assert asked.target == target
        assert asked.headers["host"] == place.removesuffix(":80")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://registry.test/v2/", "registry.test:443"),
        ("https://registry.test:5000/v2/", "registry.test:5000"),
        ("https://[2001:db8::1]/v2/", "[2001:db8::1]:443"),
    ],
)
async def test_a_tunnel_is_asked_for_by_host_and_port(
    debian_registry: OpenRegistry, authority: Authority, url: str, place: str
) -> None:
    tls = authority.server("registry.test", "2001:db8::1")
    async with (
        debian_registry(tls=tls, authority=authority.certificate) as registry,
        forward_proxy({place: registry.address}) as proxy,
    ):
        settings = TransportSettings(
            limits=QUICK, default=HostSettings(ca_cert=authority.certificate), proxies=Proxies(https=proxy.url)
        )
        async with open_transport(settings) as transport:
            assert (await transport.ask(Request(method="GET", url=URL(url)))).status == 200

        (asked,) = proxy.asked
        assert (asked.method, asked.target) == ("CONNECT", place)
        assert asked.headers["host"] in (place, place.removesuffix(":443"))  # RFC 9112 §3.2.3 has both


@pytest.mark.parametrize(
    "no_proxy", ["registry.test", ".test", "*.test", "registry.test:{port}", "*", "other.example, registry.test"]
)
async def test_a_host_of_no_proxy_is_connected_to_without_one(
    debian_registry: OpenRegistry, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_of = anyio.getaddrinfo

    async def found(host: str, port: int, **more: object) -> object:
        return await found_of("127.0.0.1" if host == "registry.test" else host, port, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(anyio, "getaddrinfo", found)
    async with debian_registry() as registry, forward_proxy({}) as proxy:
        port = registry.address.rpartition(":")[2]
        proxies = Proxies.from_environ({"HTTP_PROXY": proxy.url, "NO_PROXY": no_proxy.format(port=port)})
        async with open_transport(TransportSettings(limits=QUICK, proxies=proxies)) as transport:
            answer = await transport.ask(Request(method="GET", url=URL(f"http://registry.test:{port}/v2/")))

        assert answer.status == 200
        assert proxy.asked == []


async def test_loopback_is_reached_without_the_proxy(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry, forward_proxy({}) as proxy:
        await client.push(registry, "app", images.image("near"), "1")

        built = await syncer(
            "build", "--image", f"{registry.address}/app:1", "--output", tmp_path / "out",
            home=tmp_path, **environment(proxy.url),
        )  # fmt: skip

    assert built.code == 0, built.stderr
    assert proxy.asked == []
