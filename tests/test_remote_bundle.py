"""A bundle on a web server: read by range requests, from one version of it, and stored nowhere."""

from __future__ import annotations

import gzip
from functools import partial
from itertools import pairwise
from pathlib import Path

import anyio
import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from syncer.api.plan import plan_push
from syncer.api.push import Delivery, push_file
from syncer.api.result import PushResult
from syncer.api.verify import verify
from syncer.bundle import BundleUrl, Format, bundle_place, reader, remote, zstd
from syncer.bundle.framing import Stored, Unframed, ZstdFraming
from syncer.errors import (
    BundleChanged,
    Denied,
    Interrupted,
    InvalidArchive,
    InvalidBundle,
    NotFound,
    RegistryError,
    SyncerError,
    UsageError,
)
from syncer.registry import Credential, CredentialSettings, RegistryAddress
from syncer.transport import Limits
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import FORMATS, build, some_images
from tests.support.cli import syncer
from tests.support.file_server import LARGE, Asked, Fault, FileServer, file_server, nginx
from tests.support.memory import MemorySource
from tests.support.quirky import Handler, quirky_registry
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import QUICK, settings_for

CANARY = "canary0secret1in2a3query"
MIB = 1024 * 1024
MADE = {
    f"app{number}": images.image(
        f"app{number}", layers=[images.layer("base", 1_500_000), images.layer(f"layer {number}", 700_000)]
    )
    for number in range(3)
}
INDEX = 100_000  # bytes at most that are read of that bundle as it is opened


def a_source() -> MemorySource:
    source = MemorySource()
    for name, image in MADE.items():
        source.add(f"registry.example:5000/{name}:v1", image)
    return source


async def a_bundle(directory: Path) -> bytes:
    """The bytes of a bundle of three images that share a layer."""
    await build(file := directory / "edge.tar.zst", a_source())
    content = file.read_bytes()
    file.unlink()
    return content


async def push(url: str, registry: Registry, *, limits: Limits = QUICK) -> PushResult:
    delivery = Delivery(address=RegistryAddress.parse(registry.url))
    return await push_file(BundleUrl.parse(url), delivery, settings=settings_for(registry, limits=limits))


async def assert_whole(registry: Registry) -> None:
    for name, image in MADE.items():
        await client.assert_holds(registry, f"registry.example_5000/{name}", image, "v1")


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_is_pushed_from_a_web_server(debian_registry: OpenRegistry, tmp_path: Path, form: str) -> None:
    """Nothing of it lies on the disk afterwards, or did in between; its bytes are fetched once."""
    (root := tmp_path / "root").mkdir()
    (home := tmp_path / "home").mkdir()
    file = root / f"edge.{form}"
    await build(file, a_source(), next(known for known in FORMATS if known == form))
    async with nginx(root) as server, debian_registry() as registry:
        url = f"http://{server.address}/{file.name}"
        ran = await syncer("push", "--file", url, "--registry", registry.address, "--json", home=home, TMPDIR=str(home))

        assert ran.code == 0, ran.stderr
        await assert_whole(registry)
        kept = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
        assert kept < 100_000  # hints, and a definition
        assert {status for status, _ in server.answers} == {206}
        assert sum(size for _, size in server.answers) < file.stat().st_size + 1.5 * INDEX
        totals = ran.json["totals"]
        assert totals["bytes_fetched"] == totals["bytes_sent"] > 3 * MIB


async def test_verify_and_plan_take_an_address(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    content = await a_bundle(home := tmp_path)
    async with file_server(content) as server, debian_registry() as registry:
        url = server.url
        assert (await push(url, registry)).exit == 0
        fetched = server.sent

        verified = await syncer("verify", "--file", url, "--registry", registry.address, home=home)

        assert verified.code == 0, verified.stderr
        assert f"bundle {url} is sound" in verified.stdout
        assert f"registry {registry.address} has all" in verified.stdout

        planned = await syncer("plan", "--file", url, "--registry", f"{registry.address}/other", "--json", home=home)

        assert planned.code == 0, planned.stderr
        assert 3 * MIB < planned.json["totals"]["bytes_to_send"] < fetched


async def test_only_what_a_registry_lacks_is_read(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, serve_disk() as registry:
        for name in ("app0", "app1"):
            await client.push(registry, f"registry.example_5000/{name}", MADE[name], "v1")

        result = await push(server.url, registry)

        assert result.exit == 0
        await assert_whole(registry)
        lacking = MADE["app2"].blobs.values()
        assert server.sent < sum(map(len, lacking)) + INDEX
        assert len(server.blobs) == 2

        server.asked.clear()
        assert (await push(server.url, registry)).exit == 0

        assert not server.blobs
        assert server.sent < INDEX
        assert len(server.asked) < 10


async def test_what_is_small_comes_in_few_requests(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Forty images are opened with a handful of requests, and their configs and small layers need no other."""
    source = MemorySource()
    for number in range(40):
        source.add(f"registry.example:5000/app{number}:v1", images.image(f"app {number}"))
    await build(tmp_path / "edge.tar.zst", source)
    content = (tmp_path / "edge.tar.zst").read_bytes()
    async with file_server(content) as server, serve_disk() as registry:
        assert (await push(server.url, registry)).exit == 0

        assert len(server.asked) < 12
        assert server.sent < 1.2 * len(content)


async def test_each_registry_of_a_fleet_gets_it(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, debian_registry("one") as one, debian_registry("two") as two:
        sites = ["--registry", one.address, "--registry", two.address]

        ran = await syncer("push", "--file", server.url, *sites, home=tmp_path)

        assert ran.code == 0, ran.stderr
        await assert_whole(one)
        await assert_whole(two)
        assert server.sent < 2 * len(content) + INDEX

        verified = await syncer("verify", "--file", server.url, *sites, home=tmp_path)

        assert verified.code == 0, verified.stderr


async def test_an_archive_of_another_tool_that_is_a_layout_is_read_in_place(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    await build(tmp_path / "edge.tar", some_images(), "tar")
    async with file_server((tmp_path / "edge.tar").read_bytes()) as server:
        result = await verify(server.url)

        assert (result.check.images, result.exit) == (4, 0)


async def whole(request: web.Request, asked: Asked) -> web.StreamResponse:
    """The answer of a server that knows no ranges."""
    return web.Response(body=b"x" * 100_000)


async def zipped(request: web.Request, asked: Asked) -> web.StreamResponse:
    headers = {"Content-Range": f"bytes {asked.first}-{asked.last}/9999999", "Content-Encoding": "gzip"}
    return web.Response(status=206, headers=headers, body=b"x" * asked.length)


def status(code: int) -> Fault:
    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        return web.Response(status=code, body=f"secret words about {request.path_qs}".encode())

    return answer


def shifted(server: FileServer) -> Fault:
    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        return await server.part(request, asked, asked.first + 1, asked.last)

    return answer


def cut(server: FileServer, stop: int) -> Fault:
    """The connection ends after ``stop`` bytes of the body."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        response = await server.part(request, asked, asked.first, asked.last, stop=stop)
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (whole, UsageError, "gives it as a whole only"),
        (zipped, UsageError, "encodes it as 'gzip'"),
        (status(404), NotFound, "there is no file at http"),
        (status(403), Denied, "403"),
        (status(401), Denied, "401"),
        (status(400), RegistryError, "400"),
        (status(416), UsageError, "says that it is empty"),
    ],
)
async def test_a_server_that_does_not_give_it_in_parts_is_told_in_one_sentence(
    serve_disk: OpenRegistry, tmp_path: Path, fault: Fault, kind: type[SyncerError], said: str
) -> None:
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, serve_disk() as registry:
        server.on_any(fault, times=99)

        with pytest.raises(kind) as raised:
            await push(f"{server.url}?sig={CANARY}", registry)

        assert said in str(raised.value)
        assert CANARY not in f"{raised.value} {raised.value.hint}"
        assert len(server.asked) == 1
        assert await client.repositories(registry) == []


async def test_a_server_without_ranges_is_exit_2_with_the_advice_to_download(tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server:
        server.on_any(whole, times=99)

        ran = await syncer("push", "--file", server.url, "--registry", "127.0.0.1:9", home=tmp_path)

        assert ran.code == 2
        assert "hint: download it first" in ran.stderr
        assert len(ran.stderr.splitlines()) == 2


def changed(server: FileServer) -> Fault:
    """The file becomes another one on the server."""

    async def change(request: web.Request, asked: Asked) -> None:
        server.etag = '"two"'

    return change


@pytest.mark.parametrize("sign", ["etag", "unheeded etag", "weak etag", "date", "size", "416"])
async def test_a_file_that_changes_ends_the_push_with_one_sentence(
    serve_disk: OpenRegistry, tmp_path: Path, sign: str
) -> None:
    """Whatever tells of the change, and whether the server heeds If-Match or not."""
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, serve_disk() as registry:
        if sign == "weak etag":
            server.etag = 'W/"one"'
        elif "etag" not in sign:
            server.etag = None
        server.heeds_conditions = sign in ("etag", "weak etag")

        async def change(request: web.Request, asked: Asked) -> web.StreamResponse | None:
            match sign:
                case "etag" | "unheeded etag":
                    server.etag = '"two"'
                case "weak etag":
                    server.etag = 'W/"two"'
                case "date":
                    server.modified = "Thu, 26 Nov 2026 07:00:00 GMT"
                case "size":
                    server.content = content + b"more"
                case _:
                    server.content = content[:1000]
            return None

        server.on_blob(change)

        with pytest.raises(BundleChanged, match="was changed on its server while it was being read"):
            await push(server.url, registry)

        assert not server.faults
        assert (412 in {one.status for one in server.asked}) == (sign == "etag")
        assert await client.repositories(registry) == []
        assert len(server.blobs) <= len(MADE) + 1  # which were asked for at the same time


async def test_a_weak_tag_is_as_good_as_any(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server, serve_disk() as registry:
        server.etag = 'W/"one"'

        assert (await push(server.url, registry)).exit == 0

        await assert_whole(registry)


async def test_a_changed_file_is_said_once_and_is_exit_6(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server, debian_registry() as registry:
        server.on_blob(changed(server))

        ran = await syncer("push", "--file", server.url, "--registry", registry.address, "--no-progress", home=tmp_path)

        assert ran.code == 6
        assert (ran.stdout, ran.stderr.count("was changed on its server")) == ("", 1)


async def test_verify_of_a_file_that_changes_says_so_alone(tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server:
        server.on_blob(changed(server))

        with pytest.raises(BundleChanged) as raised:
            await verify(server.url)

        assert not raised.value.findings


async def test_a_connection_that_breaks_is_taken_up_at_the_byte_where_it_broke(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, serve_disk() as registry:
        server.on_blob(cut(server, 200_000), cut(server, 200_001), cut(server, 0), status(503))

        assert (await push(server.url, registry)).exit == 0

        await assert_whole(registry)
        assert not server.faults
        assert server.sent < len(content) + INDEX


async def test_a_push_that_was_ended_goes_on_in_mid_blob(tmp_path: Path) -> None:
    """What the registry has of a large blob is not fetched again."""
    source = MemorySource()
    source.add("registry.example:5000/app:v1", image := images.image("app", layers=[images.layer("base", 1_500_000)]))
    await build(tmp_path / "edge.tar.zst", source)
    async with file_server((tmp_path / "edge.tar.zst").read_bytes()) as server, quirky_registry() as registry:
        delivery = Delivery(address=RegistryAddress.parse(registry.url), state=tmp_path / "state")
        settings = settings_for(chunk_size=256 * 1024)
        place = BundleUrl.parse(server.url)
        third = anyio.Event()

        async def pass_on(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await handler(request)

        async def stop(request: web.Request, handler: Handler) -> web.StreamResponse:
            third.set()
            await anyio.sleep_forever()
            raise AssertionError

        registry.on("PATCH session", pass_on, pass_on, stop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(push_file, place, delivery, settings=settings))
            with anyio.fail_after(20):
                await third.wait()
            tasks.cancel_scope.cancel()
        server.asked.clear()

        assert (await push_file(place, delivery, settings=settings)).exit == 0

        assert image.all_blobs().items() <= registry.blobs["registry.example_5000/app"].items()
        assert sum(one.length for one in server.blobs) < image.size - 400_000


async def test_a_range_that_the_server_cuts_short_goes_on_where_it_ended(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, serve_disk() as registry:

        async def short(request: web.Request, asked: Asked) -> web.StreamResponse:
            return await server.part(request, asked, asked.first, min(asked.last, asked.first + 299_999))

        server.on_blob(short, times=99)

        assert (await push(server.url, registry)).exit == 0

        await assert_whole(registry)
        assert server.sent < len(content) + INDEX


async def test_a_server_that_gives_crumbs_is_refused(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """A gigabyte in parts of a thousand bytes would be a million requests."""
    async with file_server(await a_bundle(tmp_path)) as server, serve_disk() as registry:

        async def crumb(request: web.Request, asked: Asked) -> web.StreamResponse:
            return await server.part(request, asked, asked.first, asked.first + 999)

        server.on_blob(crumb, times=99)

        result = await push(server.url, registry)

        assert result.exit == 2
        assert "gives other parts" in str(result.report.failures[0].error)


async def test_answers_without_a_byte_come_to_an_end(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """A body in chunks that just ends is a broken one, and is asked for again so many times and no more."""
    async with file_server(await a_bundle(tmp_path)) as server, serve_disk() as registry:

        async def nothing(request: web.Request, asked: Asked) -> web.StreamResponse:
            place = f"bytes {asked.first}-{asked.last}/{len(server.content)}"
            response = web.StreamResponse(status=206, headers={"Content-Range": place, "ETag": '"one"'})
            response.enable_chunked_encoding()
            await response.prepare(request)
            return response

        server.on_blob(nothing, times=9999)

        result = await push(server.url, registry, limits=structs.replace(QUICK, attempts=2))

        assert result.exit == 1
        assert {type(image.error) for image in result.report.failures} == {Interrupted}
        assert len(server.blobs) < 40


async def test_a_part_that_is_not_the_one_asked_for_is_not_taken(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server, serve_disk() as registry:
        server.on_blob(shifted(server), times=99)

        result = await push(server.url, registry)

        assert result.exit == 2
        assert await client.repositories(registry) == []


async def test_bytes_that_are_wrong_are_the_bundles_fault(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Where the header of a block is wrong, it is found here; where a layer's byte is, the registry finds it."""
    content = bytearray(await a_bundle(tmp_path))
    at = content.index(images.layer("base", 1_500_000).content[1000:1100])
    block = content.index(images.layer("layer 1", 700_000).content[1000:1100]) // 1  # in the first block of its frame
    content[at] ^= 1
    second = block - 1000 - 512 + 128 * 1024  # the header of the second block
    content[second] ^= 1
    async with file_server(bytes(content)) as server, serve_disk() as registry:
        result = await push(server.url, registry)

        assert result.exit == 6
        errors = {str(image.error) for image in result.report.failures}
        assert any("a block header is wrong" in error for error in errors), errors
        assert any(f"{server.url} is damaged inside blobs/sha256/" in error for error in errors), errors

        with pytest.raises(InvalidBundle, match="and 1 more things are wrong"):
            await verify(server.url)


async def test_a_download_that_stands_still_is_taken_up_again(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    content = await a_bundle(tmp_path)
    async with file_server(content) as server, serve_disk() as registry:

        async def stall(request: web.Request, asked: Asked) -> web.StreamResponse:
            response = await server.part(request, asked, asked.first, asked.last, stop=100_000)
            await anyio.sleep_forever()
            return response

        server.on_blob(stall)

        result = await push(server.url, registry, limits=structs.replace(QUICK, stall=1.0, window=1.0))

        assert result.exit == 0
        await assert_whole(registry)


async def test_a_login_is_shown_to_its_own_host_alone(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """It is asked for by 401, and the place that a redirect leads to hears nothing of it."""
    content = await a_bundle(tmp_path)
    async with file_server(content) as store, file_server(b"", login=LOGIN) as server, serve_disk() as registry:

        async def redirect(request: web.Request, asked: Asked) -> web.StreamResponse | None:
            if request.headers.get("Authorization") != LOGIN.header:
                return None
            return web.Response(status=302, headers={"Location": f"{store.url}?sig={CANARY}"})

        server.on_any(redirect, times=99)
        settings = settings_for(registry)
        logins = {server.address: Credential(LOGIN.username, LOGIN.password)}
        settings = structs.replace(settings, credentials=CredentialSettings(logins=logins))
        delivery = Delivery(address=RegistryAddress.parse(registry.url))

        result = await push_file(BundleUrl.parse(server.url), delivery, settings=settings)

        assert result.exit == 0
        await assert_whole(registry)
        assert [one.status for one in server.asked] == [401, 302]
        assert not any("Authorization" in one.headers for one in store.asked)


async def test_a_signed_address_that_expires_is_asked_for_again(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """The server is asked once, and again when where it led to is good no more."""
    content = await a_bundle(tmp_path)
    async with file_server(content) as store, file_server(b"") as server, serve_disk() as registry:
        expired = 0

        async def redirect(request: web.Request, asked: Asked) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{store.url}?sig={len(server.asked)}"})

        async def judge(request: web.Request, asked: Asked) -> web.StreamResponse | None:
            nonlocal expired
            if asked.length >= LARGE and not expired:
                expired = len(server.asked)
            return web.Response(status=403) if int(request.query["sig"]) <= expired else None

        server.on_any(redirect, times=99)
        store.on_any(judge, times=99)

        assert (await push(server.url, registry)).exit == 0

        await assert_whole(registry)
        assert expired == 1
        assert 2 <= len(server.asked) <= 1 + 4  # one for each blob that was refused


async def test_where_a_server_leads_to_may_break_down(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Then the server is asked again, which may know of another place."""
    content = await a_bundle(tmp_path)
    async with (
        file_server(content) as first,
        file_server(content) as second,
        file_server(b"") as server,
        serve_disk() as registry,
    ):

        async def redirect(request: web.Request, asked: Asked) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": (second if first.blobs else first).url})

        server.on_any(redirect, times=99)
        first.on_blob(cut(first, 0), times=99)

        result = await push(server.url, registry, limits=structs.replace(QUICK, attempts=2))

        assert not [str(image.error) for image in result.report.failures]
        await assert_whole(registry)
        assert len(second.blobs) == 4


async def test_where_a_server_leads_to_again_and_again_may_be_broken_for_good(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with file_server(await a_bundle(tmp_path)) as store, file_server(b"") as server, serve_disk() as registry:

        async def redirect(request: web.Request, asked: Asked) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": store.url})

        server.on_any(redirect, times=9999)
        store.on_blob(cut(store, 0), times=9999)

        result = await push(server.url, registry, limits=structs.replace(QUICK, attempts=2))

        assert result.exit == 1
        assert len(server.asked) < 20


async def test_a_signed_address_that_nothing_leads_to_is_refused_when_it_expires(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with file_server(await a_bundle(tmp_path)) as server, debian_registry() as registry:
        server.on_any(status(403), times=99)

        ran = await syncer(
            "push", "--file", f"{server.url}?sig={CANARY}", "--registry", registry.address, home=tmp_path
        )

        assert ran.code == 3
        assert "hint: a signed address may have expired" in ran.stderr
        assert CANARY not in ran.stdout + ran.stderr


async def test_no_output_has_the_query_of_the_address(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server, debian_registry() as registry:
        server.on_blob(cut(server, 0))
        report = tmp_path / "report.json"
        place = ["--file", f"{server.url}?sig={CANARY}", "--registry", registry.address]

        pushed = await syncer("push", *place, "--report", report, "--log-format", "json", home=tmp_path)
        verified = await syncer("verify", *place, "--json", home=tmp_path)

        assert (pushed.code, verified.code) == (0, 0), pushed.stderr
        assert verified.json["bundle"] == f"{server.url}?…"
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert CANARY.encode() not in written
        assert CANARY not in pushed.stdout + pushed.stderr + verified.stdout + verified.stderr
        assert orjson.loads(report.read_bytes())["totals"]["images"] == 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://files.example.com", "no address of a file"),
        ("https://files.example.com/", "no address of a file"),
        ("https:///edge.tar.zst", "no address of a file"),
        ("https://files.example.com:port/edge.tar.zst", "no address of a file"),
        (f"https://me:{CANARY}@files.example.com/edge.tar.zst", "is given with a login in it"),
        (f"https://{CANARY}@files.example.com/edge.tar.zst", "is given with a login in it"),
        ("http://files.example.com/edge.tar.zst", "is to be spoken to without TLS"),
    ],
)
async def test_an_address_that_cannot_be_is_exit_2_and_shows_no_secret(tmp_path: Path, url: str, said: str) -> None:
    ran = await syncer("push", "--file", url, "--registry", "127.0.0.1:9", home=tmp_path)

    assert ran.code == 2
    assert said in ran.stderr
    assert CANARY not in ran.stderr


async def test_what_must_be_unpacked_is_refused_with_the_advice_to_download(tmp_path: Path) -> None:
    await build(tmp_path / "edge.tar", some_images(), "tar")
    async with file_server(gzip.compress((tmp_path / "edge.tar").read_bytes())) as server:
        with pytest.raises(InvalidArchive, match="must be unpacked") as raised:
            await verify(server.url)

        assert raised.value.hint
        assert server.sent < 200_000


async def test_a_forecast_reads_no_blob(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with file_server(await a_bundle(tmp_path)) as server, serve_disk() as registry:
        delivery = Delivery(address=RegistryAddress.parse(registry.url))

        forecast = await plan_push(BundleUrl.parse(server.url), delivery, settings=settings_for(registry))

        assert forecast.totals.bytes_to_send > 3 * MIB
        assert not server.blobs


async def test_a_registry_on_the_same_host_shares_its_requests(tmp_path: Path) -> None:
    """Uploads and the downloads that feed them never wait for each other, however few requests a host takes."""
    files = FileServer(await a_bundle(tmp_path))
    async with quirky_registry() as registry:

        async def give(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await files.answer(request)

        registry.on("GET other", give, times=9999)
        delivery = Delivery(address=RegistryAddress.parse(registry.url))
        settings = settings_for(limits=structs.replace(QUICK, requests_per_host=2))

        with anyio.fail_after(20):
            pushed = await push_file(BundleUrl.parse(f"{registry.url}/edge.tar.zst"), delivery, settings=settings)

        assert pushed.exit == 0
        assert files.sent > 3 * MIB


@pytest.mark.parametrize("form", FORMATS)
async def test_manifests_are_read_once_however_many_there_are(
    serve_disk: OpenRegistry, tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes stay, where they are too many to be kept as they were parsed."""
    monkeypatch.setattr(reader, "_MOST_KEPT", 0)
    await build(tmp_path / "edge", some_images(), form)
    async with file_server((tmp_path / "edge").read_bytes()) as server, serve_disk() as registry:
        assert (await push(server.url, registry)).exit == 0

        ranges = [(one.first, one.last) for one in server.asked]
        assert len(ranges) == len(set(ranges))


@settings(max_examples=60)
@given(data=st.data())
def test_content_is_what_lies_between_the_headers_however_it_comes(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 2 * zstd.BLOCK + 10))
    member = images.noise("member", total)
    start = data.draw(st.integers(0, total - 1) | st.sampled_from([0, min(zstd.BLOCK, total - 1)]))
    stored = Stored(ZstdFraming(), 1000, total)
    file = b"".join(map(bytes, stored.interleave(start, [member[start:]])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(file)), max_size=4)))
    taken = Unframed(stored, start)

    pieces = [file[first:last] for first, last in pairwise([0, *cuts, len(file)])]

    assert b"".join(bytes(part) for piece in pieces for part in taken.content(memoryview(piece))) == member[start:]
    assert stored.stretch(start, total - start)[1] == len(file)


async def test_a_bundle_whose_index_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MOST_HELD", 90_000)
    async with file_server(await a_bundle(tmp_path)) as server:
        with pytest.raises(InvalidBundle, match="MiB of manifests and headers"):
            await verify(server.url)

        assert server.sent < INDEX


def test_a_place_is_a_path_or_an_address() -> None:
    assert bundle_place("edge.tar.zst") == Path("edge.tar.zst")
    assert bundle_place("HTTPS://files.example.com/a%2Fb%20c.tar.zst?x=%2f") == BundleUrl.parse(
        "https://files.example.com/a%2Fb%20c.tar.zst?x=%2f"
    )
    assert BundleUrl.parse("https://files.example.com/a/b%20c.tar.zst").name == "b c.tar.zst"
    assert CANARY not in repr(BundleUrl.parse(f"https://files.example.com/b.tar.zst?{CANARY}"))
