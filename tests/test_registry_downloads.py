"""Blobs and manifests on their way out of a registry, whatever breaks."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeAlias

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from msgspec import structs

from syncer.content import PourableBlob
from syncer.errors import (
    Denied,
    DigestMismatch,
    Interrupted,
    InvalidContent,
    NetworkError,
    NotFound,
    RegistryError,
    Unsafe,
)
from syncer.oci import Descriptor
from syncer.transport import Limits
from tests.conftest import OpenRegistry
from tests.support import client, images, registry_end
from tests.support.exchanges import Exchange
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.faults import Fault, Flip, Lose, Reply, Reset, Rewrite, Stall, Throttle, Truncate, redirect
from tests.support.images import digest_of
from tests.support.quirky import Handler, cut_download, problem, quirky_registry, status
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import QUICK, blob_of, name_at, registries_for, target_at, write

MIB = 1024 * 1024
CONTENT = images.noise("download", 3 * MIB)
DIGEST = digest_of(CONTENT)
PATH = f"/v2/app/blobs/{DIGEST}"


Read: TypeAlias = Callable[..., Awaitable[bytes]]


@pytest.fixture(params=["loop", "threads"])
def read(request: pytest.FixtureRequest) -> Read:
    """All bytes of a blob, by the one road and by the other."""
    return registry_end.read if request.param == "loop" else registry_end.poured


def spans(exchanges: Sequence[Exchange]) -> Iterator[tuple[int, int]]:
    """The stretches of the blob that crossed the wire."""
    for exchange in exchanges:
        if exchange.span:
            yield exchange.span.start, exchange.span.stop


@pytest.mark.parametrize(
    "fault", [Reset("answer", at=1_000_000), Truncate(at=1_000_000), Truncate(at=1_000_000, announced=False)]
)
async def test_a_download_that_breaks_off_goes_on_where_it_broke(
    debian_registry: OpenRegistry, fault: Fault, read: Read
) -> None:
    """§3 rows 22 and 23: also where the end of a body without a length looks like any other."""
    async with debian_registry() as registry, fault_proxy(registry) as proxy, registries_for() as registries:
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", fault, times=3)

        found = await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))

        assert found == CONTENT
        requests = proxy.exchanges.of("GET blob")
        assert "range" not in requests[0].headers
        assert len(requests) == 4
        twice = sum(stop - start for start, stop in spans(requests)) - len(CONTENT)
        assert 0 <= twice < MIB


@pytest.mark.parametrize(("each_time", "with_length"), [(0, True), (0, False), (100_000, True)])
async def test_a_download_that_never_gets_on_is_given_up(each_time: int, read: Read, *, with_length: bool) -> None:
    """§3, budgets: six attempts without progress, which less than a megabyte is not."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", cut_download(each_time, with_length=with_length), times=99)

        with pytest.raises(Interrupted, match="was cut off"):
            await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

        assert len(registry.requests("GET")) == 6


async def test_refusals_and_breaks_of_one_download_are_counted_together(read: Read) -> None:
    """§3, budgets: six attempts, whatever ended each of them."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", status(503), times=3)
        registry.on("GET blob", cut_download(0), times=99)

        with pytest.raises(Interrupted, match="was cut off"):
            await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

        assert len(registry.requests("GET")) == 6


async def test_a_megabyte_of_progress_counts_once(read: Read) -> None:
    """§1.6: after it there are six attempts again, but no more for what comes after that."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", status(503), times=3)
        registry.on("GET blob", cut_download(MIB))
        registry.on("GET blob", cut_download(100_000), times=99)

        with pytest.raises(Interrupted, match="was cut off"):
            await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

        assert len(registry.requests("GET")) == 3 + 6


async def test_a_registry_that_is_down_is_asked_once_for_each_other_blob(read: Read) -> None:
    """A dead registry must not cost its whole patience for each of a thousand blobs."""
    address = "127.0.0.1:9"
    async with registries_for() as registries:
        for failed in (1, 2, 3):
            with pytest.raises(NetworkError, match="refused the connection"):
                await read(registries.blob(name_at(address, "app"), blob_of(CONTENT).descriptor))
            assert registries.traffic[address].errors == failed


async def test_a_download_that_gets_on_may_break_as_often_as_it_likes(read: Read) -> None:
    """§1.6: a megabyte of progress fills the budget up again."""
    content = images.noise("often", 12 * MIB)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", content)
        registry.on("GET blob", cut_download(MIB + 1), times=99)

        assert await read(registries.blob(name_at(registry.address, "app"), blob_of(content).descriptor)) == content

        assert len(registry.requests("GET")) == 12


@pytest.mark.parametrize(
    "fault",
    [
        Rewrite("request", {"Range": None}),
        Rewrite("answer", {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}),
        Rewrite("answer", {"Content-Range": f"bytes 1000000-2000000/{len(CONTENT)}"}),
        Rewrite("answer", {"Content-Range": f"bytes 1000000-{len(CONTENT) - 1}/99"}),
        Rewrite("answer", {"Content-Range": None}),
        Rewrite("answer", {"Content-Range": None, "Content-Type": "multipart/byteranges; boundary=x"}),
        Reply(416, {"Content-Range": f"bytes */{len(CONTENT)}"}),
        Reply(206, {"Content-Range": f"bytes 1000000-{len(CONTENT) - 1}/{len(CONTENT)}"}, b"short"),
    ],
)
async def test_a_part_that_is_not_the_one_asked_for_is_not_spliced_in(
    debian_registry: OpenRegistry, fault: Fault, read: Read
) -> None:
    """§3 row 25: the blob is read from the start instead, up to where it broke."""
    async with debian_registry() as registry, fault_proxy(registry) as proxy, registries_for() as registries:
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", Truncate(at=1_000_000))
        proxy.on("GET", "/blobs/", fault, first=2)

        found = await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))

        assert found == CONTENT


@pytest.mark.parametrize(
    ("first", "last", "total"),
    [
        (-1000, 0, "*"),
        (1000, 0, "*"),
        (0, -1, "*"),
        (0, 1, "*"),
        (-1000, -1000, "*"),
        (1000, 1000, "*"),
        (0, 0, len(CONTENT) + 1),
    ],
)
async def test_a_part_that_starts_or_ends_elsewhere_than_the_rest_is_not_taken(
    first: int, last: int, total: int | str, read: Read
) -> None:
    """§3 row 25: an honest answer with other bytes than were asked for; no more parts are asked for after it."""

    async def another_part(request: web.Request, _: Handler) -> web.StreamResponse:
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) + first
        end = len(CONTENT) + last
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{total}"}
        response = web.StreamResponse(status=206, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write((CONTENT + CONTENT)[start:end])
        return response

    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", cut_download(MIB, with_length=False), another_part)

        found = await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

        assert found == CONTENT
        assert ["Range" in request.headers for request in registry.requests("GET")] == [False, True, False]


async def test_a_part_under_another_status_is_no_part(debian_registry: OpenRegistry, read: Read) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy, registries_for() as registries:
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", Rewrite("answer", status=203))

        with pytest.raises(RegistryError, match="203"):
            await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor), MIB)


async def test_a_part_that_nobody_asked_for_is_an_error(read: Read) -> None:
    """§1.6, 3: whatever it says that it is."""

    async def whole(*_: object) -> web.StreamResponse:
        headers = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT, headers=headers)

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("GET blob", status(206), whole)

        for _ in range(2):
            with pytest.raises(RegistryError, match="206"):
                await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))


@pytest.mark.parametrize("with_length", [True, False])
async def test_more_bytes_than_the_blob_has_are_an_error(with_length: bool, read: Read) -> None:
    """§3 row 26: at once, where the answer says how many are to come."""
    blob = blob_of(CONTENT[:-1])
    async with quirky_registry() as registry, registries_for() as registries:
        registry.blobs["app"] = {str(blob.descriptor.digest): CONTENT}
        if not with_length:
            registry.on("GET blob", cut_download(len(CONTENT), with_length=False))

        with pytest.raises(DigestMismatch) as caught:
            await read(registries.blob(name_at(registry.address, "app"), blob.descriptor))

        size, less = len(CONTENT), len(CONTENT) - 1
        on_offer = f"{size} bytes are on offer, where the blob has {less}"
        assert str(caught.value).endswith(on_offer if with_length else f"more than the {less} bytes of the blob came")
        assert len(registry.requests("GET")) == 1


async def test_a_body_that_something_on_the_way_encodes_is_named_as_such(
    debian_registry: OpenRegistry, read: Read
) -> None:
    """§3 row 27: the bytes are taken as they are, never decoded."""
    async with debian_registry() as registry, fault_proxy(registry) as proxy, registries_for() as registries:
        await client.push_blob(registry, "app", CONTENT)
        blob = registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor)

        proxy.on("GET", "/blobs/", Rewrite("answer", {"Content-Encoding": "gzip"}))
        assert await read(blob) == CONTENT

        proxy.on("GET", "/blobs/", Reply(200, {"Content-Encoding": "gzip"}, b"squeezed"))
        with pytest.raises(DigestMismatch, match="encodes it as 'gzip'"):
            await read(blob)
        assert all(request.headers["accept-encoding"] == "identity" for request in proxy.exchanges.log)


async def test_a_signed_address_that_expires_is_asked_for_again(debian_registry: OpenRegistry, read: Read) -> None:
    """§3 row 28: the storage says no in the middle; the registry gives a new address, and the rest comes from there."""
    async with (
        debian_registry() as registry,
        fault_proxy(registry) as front,
        fault_proxy(registry) as storage,
        registries_for() as registries,
    ):
        await client.push_blob(registry, "app", CONTENT)
        front.on("GET", "/blobs/", redirect(f"{storage.registry.url}{PATH}?X-Amz-Signature=a%2Fb"), times=None)
        storage.on("GET", "/blobs/", Truncate(at=1_500_000))
        storage.on("GET", "/blobs/", Reply(403, body=b"<Code>AccessDenied</Code>"), first=2)

        found = await read(registries.blob(name_at(front.registry, "app"), blob_of(CONTENT).descriptor))

        assert found == CONTENT
        assert len(front.exchanges.log) == 3
        assert [request.status for request in storage.exchanges.log] == [200, 403, 206]
        assert {request.target for request in storage.exchanges.log} == {f"{PATH}?X-Amz-Signature=a%2Fb"}


@pytest.mark.parametrize(
    ("number", "is_asked_again"), [(400, True), (401, True), (404, True), (410, True), (402, False)]
)
async def test_a_signed_address_may_be_refused_in_several_ways(
    number: int, read: Read, *, is_asked_again: bool
) -> None:
    """§3 row 28: what says that it has expired leads back to the registry; another refusal is the answer."""
    async with quirky_registry() as front, quirky_registry() as storage, registries_for() as registries:
        storage.add("app", CONTENT)
        storage.on("GET blob", status(number))

        async def redirected(*_: object) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{storage.url}{PATH}"})

        front.on("GET blob", redirected, times=99)
        blob = registries.blob(name_at(front.address, "app"), blob_of(CONTENT).descriptor)

        if is_asked_again:
            assert await read(blob) == CONTENT
            assert registries.traffic[front.address].retries == 1
        else:
            with pytest.raises(RegistryError, match=f"{number} UNKNOWN: no"):
                await read(blob)
        assert len(front.requests("GET")) == len(storage.requests("GET")) == 1 + is_asked_again


def foreign(*urls: str) -> Descriptor:
    """The descriptor of a layer that its vendor may have at ``urls``."""
    media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    return structs.replace(blob_of(CONTENT).descriptor, media_type=media_type, urls=urls)


@pytest.mark.parametrize("number", [400, 404, 451, 499])
async def test_a_foreign_layer_is_asked_of_one_vendor_after_the_other(number: int, read: Read) -> None:
    """Also where the registry lets nobody have it; each is asked once, and none after one that has it."""
    async with (
        quirky_registry() as registry,
        quirky_registry() as first,
        quirky_registry() as second,
        quirky_registry() as third,
        registries_for() as registries,
    ):
        registry.on("GET blob", status(number), times=99)
        second.add("app", CONTENT)
        vendors = [f"{one.url}{PATH}" for one in (first, second, third)]

        assert await read(registries.blob(name_at(registry.address, "app"), foreign(*vendors))) == CONTENT

    assert [len(one.requests("GET")) for one in (registry, first, second, third)] == [
        6 if number == 499 else 1,  # which a proxy says when it has waited too long
        1,
        1,
        0,
    ]


async def test_a_foreign_layer_that_nobody_has_is_refused_with_what_the_last_vendor_says(read: Read) -> None:
    async with quirky_registry() as registry, quirky_registry() as vendor, registries_for() as registries:
        vendor.on("GET blob", status(400), status(404))
        urls = f"{vendor.url}/v2/a/blobs/{DIGEST}", f"{vendor.url}/v2/b/blobs/{DIGEST}"

        with pytest.raises(NotFound, match=rf"{vendor.address}/v2/b/.*404 UNKNOWN: no") as caught:
            await read(registries.blob(name_at(registry.address, "app"), foreign(*urls)))

    assert caught.value.hint == "neither the registry nor the layer's vendor has it"
    assert len(registry.requests("GET")) == 1


async def test_a_registry_in_trouble_is_asked_again_for_a_foreign_layer(read: Read) -> None:
    async with quirky_registry() as registry, quirky_registry() as vendor, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", status(503))

        assert await read(registries.blob(name_at(registry.address, "app"), foreign(f"{vendor.url}{PATH}"))) == CONTENT

        assert len(registry.requests("GET")) == 2
        for number in (399, 500, 501):
            registry.on("GET blob", status(number), times=6 if number == 500 else 1)
            with pytest.raises(RegistryError, match=f"{number} UNKNOWN: no"):
                await read(registries.blob(name_at(registry.address, "app"), foreign(f"{vendor.url}{PATH}")))

    assert vendor.seen == []


async def test_a_blob_that_is_no_foreign_layer_comes_from_no_other_place(read: Read) -> None:
    """Whatever its descriptor says."""
    async with quirky_registry() as registry, quirky_registry() as vendor, registries_for() as registries:
        vendor.add("app", CONTENT)
        descriptor = structs.replace(foreign(f"{vendor.url}{PATH}"), media_type="application/octet-stream")

        with pytest.raises(NotFound) as caught:
            await read(registries.blob(name_at(registry.address, "app"), descriptor))

    assert "vendor" not in (caught.value.hint or "")
    assert vendor.seen == []


async def test_a_vendor_that_never_gets_on_gives_way_to_the_next_with_all_its_attempts(read: Read) -> None:
    """The next one goes on at the byte where the last one broke, also after one that knows no ranges."""
    async with (
        quirky_registry() as registry,
        quirky_registry() as first,
        quirky_registry() as second,
        registries_for() as registries,
    ):
        first.add("app", CONTENT)
        second.add("app", CONTENT)
        first.on("GET blob", cut_download(MIB - 1))
        first.on("GET blob", status(416))
        first.on("GET blob", cut_download(0), times=99)
        second.on("GET blob", cut_download(0), times=4)
        vendors = [f"{one.url}{PATH}" for one in (first, second)]

        assert await read(registries.blob(name_at(registry.address, "app"), foreign(*vendors))) == CONTENT

        assert registries.traffic[registry.address].retries == 5 + 4
    ranges = [[request.headers.get("Range") for request in one.requests("GET")] for one in (registry, first, second)]
    part = f"bytes={MIB - 1}-"
    assert ranges == [[None], [None, part, None, None, None, None, None], [part] * 5]


async def test_a_vendor_that_cannot_be_reached_gives_way_to_the_next(read: Read) -> None:
    nowhere = f"http://127.0.0.1:9{PATH}"
    async with quirky_registry() as registry, quirky_registry() as vendor, registries_for() as registries:
        vendor.add("app", CONTENT)
        name = name_at(registry.address, "app")

        assert await read(registries.blob(name, foreign(nowhere, f"{vendor.url}{PATH}"))) == CONTENT

        with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9 refused the connection"):
            await read(registries.blob(name, foreign(nowhere)))


async def test_a_place_that_is_not_allowed_is_passed_over_unless_it_is_the_last(read: Read) -> None:
    unsafe = "ftp://vendor.example/layer"
    async with quirky_registry() as registry, quirky_registry() as vendor, registries_for() as registries:
        vendor.add("app", CONTENT)
        name, has_it, gone = name_at(registry.address, "app"), f"{vendor.url}{PATH}", f"{vendor.url}/v2/gone{PATH[7:]}"

        assert await read(registries.blob(name, foreign(unsafe, has_it))) == CONTENT
        with pytest.raises(Unsafe, match="the URL of a foreign layer"):
            await read(registries.blob(name, foreign(gone, unsafe)))
        with pytest.raises(NotFound, match="/v2/gone/"):
            await read(registries.blob(name, foreign(unsafe, gone)))


async def test_a_vendor_is_shown_no_login_even_at_the_registry_itself(
    debian_registry: OpenRegistry, read: Read
) -> None:
    async with (
        debian_registry(login=LOGIN) as registry,
        fault_proxy(registry) as proxy,
        registries_for(proxy.registry) as registries,
    ):
        urls = [f"{proxy.registry.url}/v2/other/blobs/{DIGEST}"]

        with pytest.raises(Denied, match=r"/v2/other/.*401"):
            await read(registries.blob(name_at(proxy.registry, "app"), foreign(*urls)))

    asked = [("/app/" in one.target, "authorization" in one.headers, one.status) for one in proxy.exchanges.log]
    assert asked[-2:] == [(True, True, 404), (False, False, 401)]


async def test_a_registry_that_refuses_a_blob_is_not_asked_again(read: Read) -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("GET blob", status(410), times=99)

        with pytest.raises(RegistryError, match="410"):
            await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

        assert len(registry.requests("GET")) == 1


@pytest.mark.parametrize("offset", [0, 1, MIB, len(CONTENT) - 1])
@pytest.mark.parametrize("has_ranges", [True, False])
async def test_a_download_may_start_at_any_byte(offset: int, read: Read, *, has_ranges: bool) -> None:
    """A registry that knows no ranges sends all of it, of which the first bytes are passed over."""

    async def whole(*_: object) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", *([] if has_ranges else [whole]))

        found = await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor), offset)

        assert found == CONTENT[offset:]
        (request,) = registry.requests("GET")
        assert request.headers.get("Range") == (f"bytes={offset}-" if offset else None)


async def test_a_download_starts_at_the_first_byte_unless_another_one_is_said() -> None:
    poured = bytearray()
    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        blob = registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor)

        async with blob.open() as pieces:
            assert b"".join([bytes(piece) async for piece in pieces]) == CONTENT
        assert isinstance(blob, PourableBlob)
        await blob.pour(poured.extend)

    assert poured == CONTENT
    assert ["Range" in request.headers for request in registry.requests("GET")] == [False, False]


async def test_what_is_passed_over_makes_no_empty_piece() -> None:
    """An empty piece would end the body of an upload that is sent in chunks."""

    async def whole(*_: object) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    poured: list[bytes] = []
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("GET blob", whole, whole)
        blob = registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor)

        async with blob.open(2 * MIB) as pieces:
            opened = [bytes(piece) async for piece in pieces]
        assert isinstance(blob, PourableBlob)
        await blob.pour(lambda piece: poured.append(bytes(piece)), 2 * MIB)

    for found in (opened, poured):
        assert b"".join(found) == CONTENT[2 * MIB :]
        assert all(found)


async def test_nothing_is_asked_for_an_empty_rest(read: Read) -> None:
    """Some registries do not have the empty blob, and none has a byte after the last one."""
    async with quirky_registry() as registry, registries_for() as registries:
        name = name_at(registry.address, "app")

        assert await read(registries.blob(name, blob_of(b"").descriptor)) == b""
        assert await read(registries.blob(name, blob_of(CONTENT).descriptor), len(CONTENT)) == b""

        assert registry.seen == []


async def test_a_download_that_stands_still_is_taken_up_again(debian_registry: OpenRegistry, read: Read) -> None:
    """§3 row 29."""
    impatient = Limits(backoff=0.001, stall=1.0)
    async with (
        debian_registry() as registry,
        fault_proxy(registry) as proxy,
        registries_for(limits=impatient) as registries,
    ):
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", Stall("answer", at=1_500_000))

        assert await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor)) == CONTENT


@pytest.mark.parametrize(
    "stall", [Stall("head"), Stall("answer", at=0), Stall("answer", at=MIB), Stall("answer", at=3 * MIB - 1)]
)
async def test_a_blob_that_is_held_back_is_waited_for(debian_registry: OpenRegistry, read: Read, stall: Stall) -> None:
    """§3 row 29: caches and virus scanners keep the first or the last bytes until they have seen all of a blob."""
    patient = Limits(attempts=1, idle=0.4, stall=20, window=0.4)
    done = anyio.Event()
    async with (
        debian_registry() as registry,
        fault_proxy(registry) as proxy,
        registries_for(limits=patient) as registries,
        anyio.create_task_group() as tasks,
    ):
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", replace(stall, until=done))

        async def release() -> None:
            await anyio.sleep(1.2)
            done.set()

        tasks.start_soon(release)
        found = await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))

    assert found == CONTENT
    assert len(proxy.exchanges.of("GET blob")) == 1


@pytest.mark.parametrize("stall", [Stall("head"), Stall("answer", at=0), Stall("answer", at=700_000)])
async def test_a_blob_that_is_held_back_for_ever_is_asked_for_three_times_and_then_once(
    debian_registry: OpenRegistry, read: Read, stall: Stall
) -> None:
    """§3 row 29: each request may begin a scan anew; no request waits for its time more than once, nor does a second
    pass wait for as long as the first.
    """
    patient = Limits(backoff=0.001, longest_backoff=0.001, idle=0.3, stall=0.6)
    async with (
        debian_registry() as registry,
        fault_proxy(registry) as proxy,
        registries_for(limits=patient) as registries,
    ):
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", stall, times=None)
        proxy.on("GET", "/blobs/", Stall("head"), first=2, times=None)
        began = time.monotonic()

        with pytest.raises(Interrupted, match="no answer came in time"):
            await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))
        seconds = time.monotonic() - began
        await registries.resolve(name_at(await _with_image(registry, proxy), "app"))  # the host is not down for that

        asked = len(proxy.exchanges.of("GET blob"))
        with pytest.raises(Interrupted, match="no answer came in time"):
            await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))

    assert asked == 3
    assert len(proxy.exchanges.of("GET blob")) == 3 + 1
    assert 3 * 0.6 <= seconds < 2 * 3 * 0.6


async def _with_image(registry: Registry, proxy: FaultProxy) -> Registry:
    await client.push(registry, "app", images.image("held back"), "v1")
    return proxy.registry


async def test_a_trickle_is_as_good_as_nothing(debian_registry: OpenRegistry, read: Read) -> None:
    """§3 row 29: a byte now and then keeps no connection alive."""
    impatient = Limits(backoff=0.001, attempts=1, stall=0.8, window=0.8, slowest=10_000)
    async with (
        debian_registry() as registry,
        fault_proxy(registry) as proxy,
        registries_for(limits=impatient) as registries,
    ):
        await client.push_blob(registry, "app", CONTENT)
        proxy.on("GET", "/blobs/", Throttle(1000), times=None)

        with pytest.raises(Interrupted, match="less than 10000 bytes a second come in"):
            await read(registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor))


async def test_a_slow_but_steady_download_lives(debian_registry: OpenRegistry, read: Read) -> None:
    """§3 row 29."""
    content = CONTENT[:200_000]
    impatient = Limits(backoff=0.001, attempts=1, stall=0.4, window=0.4, slowest=10_000)
    async with (
        debian_registry() as registry,
        fault_proxy(registry) as proxy,
        registries_for(limits=impatient) as registries,
    ):
        await client.push_blob(registry, "app", content)
        proxy.on("GET", "/blobs/", Throttle(200_000))

        assert await read(registries.blob(name_at(proxy.registry, "app"), blob_of(content).descriptor)) == content


@pytest.mark.parametrize("number", [408, 425, 429, 499, 500, 502, 503, 504, 522])
async def test_a_server_in_trouble_is_asked_again(number: int, read: Read) -> None:
    """§3 rows 6, 7 and 8."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.add("app", CONTENT)
        registry.on("GET blob", status(number), status(number))

        assert await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor)) == CONTENT

        assert registries.traffic[registry.address].retries == 2


async def test_a_server_that_stays_in_trouble_is_given_up_with_its_own_words(read: Read) -> None:
    """§3 row 6."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("GET blob", status(503), times=99)

        with pytest.raises(RegistryError, match="503 UNKNOWN: no"):
            await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

        assert len(registry.requests("GET")) == 6


async def test_a_web_page_is_no_blob_and_no_manifest(read: Read) -> None:
    """§3 row 34: a proxy wants a login, or the address is none of a registry."""
    page = b"<html><body>Please log in</body></html>"
    async with quirky_registry() as registry, registries_for() as registries:

        async def login_page(*_: object) -> web.StreamResponse:
            return web.Response(body=page, content_type="text/html")

        registry.on("*", login_page, times=9)
        with pytest.raises(RegistryError, match="a web page came") as caught:
            await registries.resolve(name_at(registry.address, "app"))
        assert "login" in (caught.value.hint or "")
        with pytest.raises(DigestMismatch, match="a web page"):
            await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))


async def test_a_flipped_byte_on_the_way_to_another_registry_is_found_and_mended(
    debian_registry: OpenRegistry,
) -> None:
    """§3 row 24: the target refuses it, the source turns out to be right, and it goes once more."""
    async with (
        debian_registry("source") as source,
        fault_proxy(source) as proxy,
        debian_registry("target") as target,
        registries_for() as registries,
    ):
        await client.push_blob(source, "app", CONTENT)
        proxy.on("GET", "/blobs/", Flip(at=1_000_000))
        blob = registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor)

        await write(target_at(registries, target), "app", blob, force=True)

        assert (await client.blob(target, "app", DIGEST)).content == CONTENT


async def test_a_source_that_is_wrong_is_named(debian_registry: OpenRegistry) -> None:
    """§3 row 24."""
    async with (
        debian_registry("source") as source,
        fault_proxy(source) as proxy,
        debian_registry("target") as target,
        registries_for() as registries,
    ):
        await client.push_blob(source, "app", CONTENT)
        proxy.on("GET", "/blobs/", Flip(at=1_000_000), times=None)
        blob = registries.blob(name_at(proxy.registry, "app"), blob_of(CONTENT).descriptor)

        with pytest.raises(DigestMismatch, match="at its source"):
            await write(target_at(registries, target), "app", blob, force=True)


async def test_a_relayed_blob_survives_breaks_at_both_ends(debian_registry: OpenRegistry) -> None:
    async with (
        debian_registry("source") as source,
        fault_proxy(source) as before,
        debian_registry("target") as target,
        fault_proxy(target) as after,
        registries_for(chunk_size=MIB) as registries,
    ):
        await client.push_blob(source, "app", CONTENT)
        before.on("GET", "/blobs/", Reset("answer", at=700_000), times=2)
        after.on("PATCH", "/uploads/", Lose())
        blob = registries.blob(name_at(before.registry, "app"), blob_of(CONTENT).descriptor)

        await write(target_at(registries, after.registry), "app", blob, force=True)

        assert (await client.blob(target, "app", DIGEST)).content == CONTENT


async def test_a_manifest_is_kept_byte_for_byte_and_checked() -> None:
    image = images.image("exact")
    async with quirky_registry() as registry, registries_for() as registries:
        registry.manifests["app"] = {"v1": (image.media_type, image.content), image.digest: ("text/plain", b"{}")}

        assert (await registries.manifest(name_at(registry.address, "app"))).content == image.content
        with pytest.raises(DigestMismatch):
            await registries.manifest(name_at(registry.address, "app", None, image.digest))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"{}" + b" " * 5 * MIB, b'{"schemaVersion": 1}', b"[" * 100_000])
async def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    """§4.2: whatever it is, and however long."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.manifests["app"] = {"v1": ("application/vnd.oci.image.manifest.v1+json", content)}

        with pytest.raises(InvalidContent):
            await registries.manifest(name_at(registry.address, "app"))


@pytest.mark.parametrize("number", [400, 404, 405, 501])
async def test_a_registry_without_head_is_asked_by_get(number: int) -> None:
    """§1.5."""
    image = images.image("headless")
    async with quirky_registry() as registry, registries_for() as registries:
        registry.head_status = number
        registry.manifests["app"] = {"v1": (image.media_type, image.content)}

        found = await registries.resolve(name_at(registry.address, "app"))

    assert str(found.digest) == image.digest


async def test_a_digest_that_a_registry_makes_up_is_not_believed_of_a_manifest() -> None:
    """§1.5: our own hash wins."""
    image = images.image("made up")
    async with quirky_registry() as registry, registries_for() as registries:
        registry.manifests["app"] = {"v1": (image.media_type, image.content)}

        async def lying(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            response.headers["Docker-Content-Digest"] = digest_of(b"something else")
            return response

        registry.on("GET manifest", lying)
        found = await registries.manifest(name_at(registry.address, "app"))

    assert str(found.descriptor.digest) == image.digest


async def test_tags_are_listed_page_by_page() -> None:
    image = images.image("paged")
    wanted = [f"v{number:03}" for number in range(25)]
    async with quirky_registry() as registry, registries_for() as registries:
        registry.page = 10
        registry.manifests["app"] = dict.fromkeys(wanted, (image.media_type, image.content))

        assert [tag async for tag in registries.repository(name_at(registry.address, "app")).tags()] == wanted


async def test_no_tags_are_an_empty_list_and_no_repository_is_an_error() -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        repository = registries.repository(name_at(registry.address, "app"))

        assert [tag async for tag in repository.tags()] == []

        async def unknown(*_: object) -> web.StreamResponse:
            return problem(404, "NAME_UNKNOWN", "repository name not known to registry")

        registry.on("GET tags", unknown)
        with pytest.raises(NotFound, match="not known"):
            [tag async for tag in repository.tags()]


async def test_a_host_that_gives_and_takes_cannot_deadlock() -> None:
    """More blobs on their way from a registry to itself than it may have connections."""
    blobs = [blob_of(images.noise(f"relayed {index}", MIB)) for index in range(8)]
    async with (
        quirky_registry() as registry,
        registries_for(limits=structs.replace(QUICK, requests_per_host=2)) as registries,
    ):
        target = target_at(registries, registry.url)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for blob in blobs:
                    registry.add("from", blob.content)
                    relayed = registries.blob(name_at(registry.address, "from"), blob.descriptor)
                    tasks.start_soon(write, target, "to", relayed)

        assert len(registry.blobs["to"]) == 8


async def test_a_download_that_is_cancelled_lets_go_of_its_connection(
    debian_registry: OpenRegistry, read: Read
) -> None:
    """With one connection allowed, the next download would wait for ever."""
    async with (
        debian_registry() as registry,
        registries_for(limits=structs.replace(QUICK, requests_per_host=1)) as registries,
    ):
        await client.push_blob(registry, "app", CONTENT)
        blob = registries.blob(name_at(registry, "app"), blob_of(CONTENT).descriptor)

        with anyio.CancelScope() as scope:
            async with blob.open() as pieces:
                await anext(pieces)
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        async with blob.open() as pieces:
            await anext(pieces)

        with anyio.fail_after(5):
            assert await read(blob) == CONTENT


async def test_a_download_that_cannot_even_connect_ends_when_it_is_cancelled(read: Read) -> None:
    """§3 row 45: within two seconds, also while the other end does not take the connection."""
    with socket.socket() as deaf, ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # fill its queue: the next one gets no answer at all
            other = waiting.enter_context(socket.socket())
            other.settimeout(0)
            other.connect_ex(deaf.getsockname())
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        async with registries_for(limits=structs.replace(QUICK, connect=30.0)) as registries:
            began = anyio.current_time()
            with anyio.move_on_after(0.2) as scope:
                await read(registries.blob(name_at(address, "app"), blob_of(CONTENT).descriptor))

            assert scope.cancelled_caught
            assert anyio.current_time() - began < 2
