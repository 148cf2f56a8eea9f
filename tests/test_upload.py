"""One blob's way in, whatever breaks and however strange the registry is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from syncer.content import Blob, Pieces
from syncer.errors import Denied, DigestMismatch, Interrupted, InvalidBundle, NotFound, TargetError, Waiting
from syncer.oci import Descriptor, Digest, parse_manifest
from syncer.registry.upload_session import Manner, Way
from syncer.transport import HostSettings, Limits, TransportSettings, wire
from syncer.transport.failures import find_dead_peer
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import bundled_blob
from tests.support.images import digest_of
from tests.support.quirky import (
    Handler,
    Keeps,
    Quirky,
    cut_upload,
    lose_answer,
    problem,
    proceed,
    quirky_registry,
    reset,
    stall,
    status,
)
from tests.support.registry_end import (
    QUICK,
    StreamBlob,
    blob_of,
    file_blob,
    name_at,
    registries_for,
    target_at,
    write,
)
from tests.support.tls import Authority

MIB = 1024 * 1024


def told(registry: Quirky, method: str = "") -> list[str]:
    """The requests that a registry saw, in short."""
    return [str(seen) for seen in registry.requests(method)]


@pytest.mark.parametrize("keeps", ["resumable", "strict", "forgetful"])
@pytest.mark.parametrize("place", ["a bundle", "a file", "a stream"])
@pytest.mark.parametrize("chunk", [MIB, 2 * MIB], ids=["sent on the event loop", "sent by a thread"])
async def test_a_chunk_that_breaks_off_is_recovered_from(keeps: Keeps, place: str, chunk: int, tmp_path: Path) -> None:
    """§3 row 1: the session is asked where it stands; where it is lost, the blob starts anew."""
    content = images.noise("chunks", 5 * MIB)
    async with (
        quirky_registry() as registry,
        registries_for(chunk_size=chunk) as registries,
        bundled_blob(tmp_path, content) as bundled,
    ):
        registry.keeps = keeps
        registry.on("PATCH session", cut_upload(registry, 300_000))
        blobs: dict[str, Blob] = {
            "a bundle": bundled,
            "a file": file_blob(tmp_path, content),
            "a stream": blob_of(content),
        }

        await write(target_at(registries, registry.url), "app", blobs[place], force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        wasted = registry.received() - len(content)
        assert wasted == (0 if keeps == "resumable" else 300_000)
        assert len(registry.requests("POST")) == (1 if keeps == "resumable" else 2)


@pytest.mark.parametrize("size", [MIB, 3 * MIB], ids=["sent on the event loop", "sent by a thread"])
async def test_a_bundle_that_is_cut_short_while_it_is_pushed_is_to_blame(size: int, tmp_path: Path) -> None:
    """Its bytes go out by themselves, but it is said what became of them, and nothing is tried again."""
    async with (
        quirky_registry() as registry,
        registries_for() as registries,
        bundled_blob(tmp_path, images.noise("cut", size)) as blob,
    ):
        os.truncate(tmp_path / "bundle.tar.zst", size // 3)

        with pytest.raises(InvalidBundle, match="cut short"):
            await write(target_at(registries, registry.url), "app", blob, force=True)

        assert len(registry.requests("PUT")) == 1


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of the event loop that take 32 KiB at a time, as those of a slow link do."""

    def narrowed(connected: socket.socket) -> None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        find_dead_peer(connected)

    monkeypatch.setattr(wire, "find_dead_peer", narrowed)


@pytest.mark.usefixtures("narrow")
async def test_a_blob_goes_out_of_a_bundle_as_its_connection_takes_it(tmp_path: Path) -> None:
    content = images.noise("narrow", MIB)
    async with (
        quirky_registry() as registry,
        registries_for() as registries,
        bundled_blob(tmp_path, content) as blob,
    ):
        target = target_at(registries, registry.url)
        await write(target, "warm", blob_of(b"the connection is there"), force=True)
        await write(target, "app", blob, force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content) + len(b"the connection is there")


@pytest.mark.usefixtures("narrow")
async def test_a_registry_that_takes_no_more_of_a_bundle_is_given_up(tmp_path: Path) -> None:
    """§3 row 29, where the kernel sends."""
    release = asyncio.Event()
    impatient = Limits(backoff=0.001, attempts=2, window=0.3, slowest=1024, idle=5.0, commit=5.0)
    async with (
        quirky_registry() as registry,
        registries_for(limits=impatient) as registries,
        bundled_blob(tmp_path, images.noise("stalled", MIB)) as blob,
    ):
        registry.on("PUT session", stall(release), times=9)
        try:
            with pytest.raises(Interrupted, match="less than 1024 bytes a second get through"):
                await write(target_at(registries, registry.url), "app", blob, force=True)
        finally:
            release.set()


@pytest.mark.usefixtures("narrow")
async def test_an_answer_before_the_end_of_a_blob_in_a_bundle_ends_it(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def refuse(request: web.Request, _: Handler) -> web.StreamResponse:
        """Say no, and read nothing."""
        response = web.StreamResponse(status=403, headers={"Content-Length": "0"})
        await response.prepare(request)
        await response.write_eof()
        await release.wait()
        return response

    async with (
        quirky_registry() as registry,
        registries_for() as registries,
        bundled_blob(tmp_path, images.noise("refused", MIB)) as blob,
    ):
        registry.on("PUT session", refuse, times=9)
        try:
            with anyio.fail_after(20), pytest.raises(Denied):
                await write(target_at(registries, registry.url), "app", blob, force=True)
        finally:
            release.set()


@pytest.mark.parametrize(("keeps", "sent_twice"), [("resumable", 0), ("strict", MIB)])
async def test_a_chunk_whose_answer_was_lost_is_not_sent_blindly_again(keeps: Keeps, sent_twice: int) -> None:
    """§3 row 3."""
    content = images.noise("lost", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.keeps = keeps
        registry.on("PATCH session", lose_answer)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content) + sent_twice


@pytest.mark.parametrize("size", [1000, MIB, 5 * MIB])
async def test_a_commit_whose_answer_was_lost_costs_one_question(size: int) -> None:
    """§3 row 4: the blob is there, and not a byte is sent again."""
    content = images.noise("commit", size)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PUT session", lose_answer)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == size
        assert told(registry)[-1] == "HEAD blob 200"


@pytest.mark.parametrize("number", [500, 502, 504, 522])
async def test_a_commit_that_failed_and_was_done_is_done(number: int) -> None:
    """§3 row 6 and row 4: a gateway gives up, the registry behind it does not."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        return problem(number, "UNKNOWN")

    content = images.noise("gateway", 1000)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", fault)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.received() == len(content)


async def test_a_put_that_breaks_off_starts_over_and_then_goes_in_chunks() -> None:
    """§3 row 2."""
    content = images.noise("put", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=2 * MIB) as registries:
        registry.on("PUT session", cut_upload(registry, 100_000), cut_upload(registry, 100_000))
        target = target_at(registries, registry.url)

        await write(target, "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert told(registry) == [
            "POST start 202",
            "PUT session 0",
            "HEAD blob 404",
            "HEAD blob 404",
            "POST start 202",
            "PUT session 0",
            "HEAD blob 404",
            "HEAD blob 404",
            "POST start 202",
            "PATCH session 202",
            "PATCH session 202",  # the end as well: two PUTs with a body have failed
            "PUT session 201",
        ]


async def test_a_server_error_at_a_chunk_is_settled_by_asking() -> None:
    """§3 row 6."""
    content = images.noise("errors", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500), status(502), status(503))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert len(registry.requests("POST")) == 1


async def test_being_throttled_at_a_chunk_pauses_the_host_and_loses_nothing() -> None:
    """§3 row 7."""
    content = images.noise("throttled", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(429, Retry_After="0"), status(429))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        traffic = registries.traffic[registry.address]
        assert (traffic.throttled, registry.received()) == (2, len(content))
        assert len(registry.requests("POST")) == 1


async def test_a_registry_that_wants_us_to_wait_for_ever_is_told_so() -> None:
    """§3 row 7, §4.2: an absurd Retry-After is an error, and at once."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("POST start", status(429, Retry_After="1000000000"))
        target = target_at(registries, registry.url)

        with pytest.raises(Waiting, match="asks to wait 1000000000 s, longer than the 120 s"):
            await write(target, "app", blob_of(b"content"))
        with pytest.raises(Waiting):
            await write(target, "other", blob_of(b"content"))

        assert told(registry) == ["POST start 429"]


async def test_a_limit_on_bodies_that_shows_itself_by_nothing_else_is_found() -> None:
    """§3 row 9: what is in between breaks the connection of each larger body, as often as it is tried."""

    async def cut_large(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (request.content_length or 0) <= 2 * MIB:
            return await handler(request)
        return await cut_upload(registry, 100_000)(request, handler)

    content = images.noise("silent", 9 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=4 * MIB) as registries:
        registry.keeps = "strict"
        registry.on("session", cut_large, times=99)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}


@pytest.mark.parametrize("number", [413, 416])
@pytest.mark.parametrize("largest", [MIB, 3 * MIB])
async def test_a_limit_on_bodies_is_found_and_kept_to(number: int, largest: int) -> None:
    """§3 row 9: 413 of a proxy in front, or the 416 by which GitHub's registry says so."""
    blobs = [blob_of(images.noise(f"large {index}", 10 * MIB)) for index in range(2)]
    async with quirky_registry() as registry, registries_for() as registries:
        registry.largest_body, registry.too_large_status = largest, number
        target = target_at(registries, registry.url)

        for blob in blobs:
            await write(target, "app", blob, force=True)

        assert registry.blobs["app"] == {str(blob.descriptor.digest): blob.content for blob in blobs}
        refused = [str(seen) for seen in registry.seen if seen.status == number]
        assert refused[0] == f"PUT session {number}"
        assert set(refused[1:]) <= {f"PATCH session {number}"}
        assert len(refused) <= 5  # for both: what one blob found out holds for the next


@pytest.mark.parametrize("number", [400, 416])
@pytest.mark.parametrize("words", ["the body is too large", "the body Exceeds 4 MiB"])
async def test_a_limit_on_bodies_is_told_by_its_words(number: int, words: str) -> None:
    """§3 row 9: where the status could mean anything."""

    async def fault(*_: object) -> web.StreamResponse:
        return problem(number, "UNKNOWN", words)

    content = images.noise("words", 3 * MIB)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", fault)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        half = 3 * MIB // 2
        assert [seen.received for seen in registry.requests(kind="session")] == [0, half, half]


async def test_a_body_that_is_too_large_at_any_size_is_an_error_with_a_hint() -> None:
    """§3 row 9."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.largest_body = 1000

        with pytest.raises(TargetError, match="413") as caught:
            await write(target_at(registries, registry.url), "app", blob_of(images.noise("huge", 3 * MIB)))

        assert "limits the size" in (caught.value.hint or "")


async def test_every_body_has_a_length() -> None:
    """§3 row 10: Nexus answers 411 to a body without one."""
    image = images.image("length")
    blob = blob_of(images.noise("length", 3 * MIB))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        target = target_at(registries, registry.url)
        await write(target, "app", blob, force=True)
        await write(target, "app", blob_of(b"small"), force=True)
        await write(target, "app", blob_of(b""), force=True)
        await target.commit("app", parse_manifest(image.content), [name_at(registry.address, "app")])

        bodies = [seen for seen in registry.seen if seen.method in ("POST", "PATCH", "PUT")]
        assert all("Content-Length" in seen.headers and "Transfer-Encoding" not in seen.headers for seen in bodies)


@pytest.mark.parametrize(
    ("knows", "size", "requests"),
    [
        ({"PUT"}, 5 * MIB, ["POST start 202", "PATCH session 405", "POST start 202", "PUT session 201"]),
        (
            {"PATCH"},
            1000,
            ["POST start 202", "PUT session 400", "POST start 202", "PATCH session 202", "PUT session 201"],
        ),
        (
            {"CHUNKS"},
            1000,
            [
                *["POST start 202", "PUT session 400", "POST start 202", "PATCH session 405"],
                *["POST start 202", "PATCH session 202", "PUT session 201"],
            ],
        ),
    ],
)
async def test_a_way_that_a_registry_does_not_take_is_left_for_the_next(
    knows: set[str], size: int, requests: list[str]
) -> None:
    """§3 row 11."""
    first, second = (blob_of(images.noise(f"way {index}", size)) for index in range(2))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.knows = knows
        target = target_at(registries, registry.url)

        await write(target, "app", first, force=True)
        assert told(registry) == requests

        del registry.seen[:]
        await write(target, "app", second, force=True)
        assert told(registry) == [requests[0], *requests[5 if knows == {"CHUNKS"} else 3 :]]


@pytest.mark.parametrize(
    ("code", "way"),
    [
        ("NOT_FOUND", ["PUT session 201"]),
        ("BLOB_UPLOAD_UNKNOWN", ["PATCH session 202", "PATCH session 202", "PUT session 201"]),
    ],
)
async def test_a_first_chunk_that_is_not_found_says_by_its_code_what_is_missing(code: str, way: list[str]) -> None:
    """§3 rows 11 and 16: the session, or the way that a chunk is taken at all."""

    async def missing(*_: object) -> web.StreamResponse:
        return problem(404, code)

    content = images.noise("missing", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", missing)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        again = told(registry)[told(registry).index("PATCH session 404") + 1 :]
        assert [each for each in again if "HEAD" not in each] == ["POST start 202", *way]


async def test_a_session_that_is_gone_is_replaced_three_times_at_most() -> None:
    """§3 row 16."""
    content = images.noise("gone", 4 * MIB)
    gone = [status(404)] * 4

    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        target = target_at(registries, registry.url)
        await write(target, "warm", blob_of(images.noise("warm", 3 * MIB)), force=True)

        registry.on("PATCH session", *gone[:3])
        await write(target, "app", blob_of(content), force=True)
        assert registry.blobs["app"] == {digest_of(content): content}

        registry.on("session", *gone)
        with pytest.raises(TargetError, match="404"):
            await write(target, "other", blob_of(content), force=True)


async def test_a_wrong_offset_is_put_right() -> None:
    """§3 row 17: 416 that means what it says."""

    async def ahead(request: web.Request, handler: Handler) -> web.StreamResponse:
        """The registry has more than we think, from a body that came through after all."""
        registry.sessions[1].content += content[MIB : MIB + 10_000]
        return problem(416, "RANGE_INVALID", "wrong offset")

    content = images.noise("offset", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        target = target_at(registries, registry.url)

        async def first_then_ahead(request: web.Request, handler: Handler) -> web.StreamResponse:
            registry.on("PATCH session", ahead)
            return await handler(request)

        registry.on("PATCH session", first_then_ahead)
        await write(target, "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content) - 10_000
        assert len(registry.requests("POST")) == 1


@pytest.mark.parametrize("range_format", ["0-{last}", "bytes=0-{last}", "bytes 0-{last}", ""])
async def test_a_range_is_read_however_it_is_written(range_format: str) -> None:
    """§3 row 18: also Quay's form, and none at all."""
    content = images.noise("range", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.range_format = range_format

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.received() == len(content)
        assert len(registry.requests("GET")) == (0 if range_format else 1)


async def test_a_range_that_stands_still_is_not_believed() -> None:
    """§3 row 18, §0 fact 6: Amazon's answers 201, and with the first chunk's end for ever."""
    content = images.noise("stale", 6 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.stale_range, registry.patch_status = True, 201

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content)
        assert len(registry.requests("GET")) == 1


async def test_a_chunk_of_which_a_part_was_taken_is_looked_at_from_the_first_one_on() -> None:
    """§3 row 18: where the answer does not tell, the session is asked, and no chunk goes to a wrong place."""

    async def half(request: web.Request, handler: Handler) -> web.StreamResponse:
        session = registry.sessions[1]
        response = await handler(request)
        del session.content[MIB // 2 :], response.headers["Range"]
        session.state = MIB // 2
        return response

    content = images.noise("half", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", half)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert [seen.status for seen in registry.requests("PATCH")] == [202, 202, 202]


@pytest.mark.parametrize("number", [200, 204])
async def test_a_chunk_may_be_taken_with_any_status_of_success(number: int) -> None:
    content = images.noise("taken", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.patch_status = number

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert told(registry) == [
            *["POST start 202", f"PATCH session {number}", f"PATCH session {number}", "PUT session 201"]
        ]


async def test_the_end_of_a_blob_needs_no_look_at_where_its_session_stands() -> None:
    """The commit tells."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.knows, registry.range_format = {"PATCH"}, ""

        await write(target_at(registries, registry.url), "app", blob_of(b"content"), force=True)

        assert not registry.requests("GET")


@pytest.mark.parametrize(
    ("knows", "size", "stretches"),
    [
        ({"PUT"}, 1000, [None]),
        ({"PATCH"}, 1000, [None, None, None]),  # of them the first PUT is refused, and the last is empty
        ({"CHUNKS"}, 1000, [None, None, "0-999", None]),
        ({"PUT", "CHUNKS"}, 2 * MIB + 1000, [f"0-{MIB - 1}", f"{MIB}-{2 * MIB - 1}", f"{2 * MIB}-{2 * MIB + 999}"]),
    ],
)
async def test_each_body_says_what_it_is_and_where_it_belongs(
    knows: set[str], size: int, stretches: list[str | None]
) -> None:
    """Where a chunk starts and ends, as the spec wants it; a whole blob and an empty body say nothing of that."""
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.knows = knows

        await write(target_at(registries, registry.url), "app", blob_of(images.noise("where", size)), force=True)

        bodies = registry.requests(kind="session")
        assert [seen.headers.get("Content-Range") for seen in bodies] == stretches
        assert {seen.headers.get("Content-Type") for seen in bodies} == {"application/octet-stream"}


async def test_what_fails_on_the_way_of_one_blob_counts_together() -> None:
    """So many attempts without progress, whichever of its requests they are."""
    limits = Limits(backoff=0.001, attempts=3)
    async with quirky_registry() as registry, registries_for(limits=limits) as registries:
        registry.on("POST start", status(500), status(500))
        registry.on("PUT session", status(500))

        with pytest.raises(TargetError, match="500"):
            await write(target_at(registries, registry.url), "app", blob_of(b"content"), force=True)

        assert told(registry) == [
            *["POST start 500", "POST start 500", "POST start 202", "PUT session 500", "HEAD blob 404"],
            "DELETE session 204",
        ]


async def test_each_chunk_that_arrives_gives_the_next_one_all_attempts() -> None:
    content = images.noise("each", 4 * MIB)
    limits = Limits(backoff=0.001, attempts=2)
    async with quirky_registry() as registry, registries_for(limits=limits, chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500), proceed, status(500), proceed, status(500))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}


async def test_a_part_of_a_large_chunk_gives_the_next_one_all_attempts() -> None:
    content = images.noise("parts", 9 * MIB)
    limits = Limits(backoff=0.001, attempts=2)
    async with quirky_registry() as registry, registries_for(limits=limits, chunk_size=4 * MIB) as registries:
        registry.on("PATCH session", cut_upload(registry, MIB), cut_upload(registry, MIB))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.received() == len(content)


async def test_each_chunk_that_arrived_without_an_answer_gives_the_next_one_all_attempts() -> None:
    content = images.noise("unanswered", 5 * MIB)
    limits = Limits(backoff=0.001, attempts=2)
    async with quirky_registry() as registry, registries_for(limits=limits, chunk_size=MIB) as registries:
        registry.on("PATCH session", lose_answer, times=4)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.received() == len(content)


async def test_a_commit_that_breaks_off_is_tried_so_often_and_no_more() -> None:
    limits = Limits(backoff=0.001, attempts=2)
    async with quirky_registry() as registry, registries_for(limits=limits) as registries:
        registry.on("PUT session", reset, times=9)

        with pytest.raises(Interrupted):
            await write(target_at(registries, registry.url), "app", blob_of(b"content"), force=True)

        assert len(registry.requests("PUT")) == 2


async def test_the_question_where_a_session_stands_is_one_of_the_attempts() -> None:
    limits = Limits(backoff=0.001, attempts=3)
    content = images.noise("standing", 3 * MIB)
    async with quirky_registry() as registry, registries_for(limits=limits, chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500), times=9)
        registry.on("GET session", status(500), times=9)

        with pytest.raises(TargetError, match="500"):
            await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert len(registry.requests("GET")) == 2


async def test_where_a_session_stands_is_asked_again_when_the_connection_breaks() -> None:
    content = images.noise("asked again", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500))
        registry.on("GET session", reset, reset)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert len(registry.requests("POST")) == 1


async def test_a_session_goes_on_at_the_place_that_is_named_when_it_is_asked() -> None:
    async def moved(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Location"] += "&asked=1"
        return response

    content = images.noise("moved", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500))
        registry.on("GET session", moved)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert ["asked=1" in seen.path for seen in registry.requests("PATCH")] == [False, True, False]


async def test_a_session_that_stands_beyond_what_was_sent_is_another_upload() -> None:
    """§3 row 18: as it is asked after a failure."""

    async def beyond(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Range"] = f"0-{2 * MIB}"
        return response

    content = images.noise("beyond", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500))
        registry.on("GET session", beyond)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert [str(seen) for seen in registry.requests("PATCH")] == ["PATCH session 500", *["PATCH session 202"] * 2]


async def test_a_chunk_that_is_sent_again_is_counted_as_one_repetition() -> None:
    content = images.noise("counted", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(500))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registries.traffic[registry.address].retries == 1


async def test_a_registry_that_does_not_tell_what_became_of_a_blob_is_sent_it_again() -> None:
    """It broke off, and the question is denied: that is no reason to believe that the blob is there."""
    content = images.noise("not told", 1000)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", reset)
        registry.on("blob", status(403), times=9)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}


@pytest.mark.parametrize("number", [400, 404, 409])
async def test_a_session_that_is_refused_in_the_middle_is_replaced(number: int) -> None:
    content = images.noise("middle", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", proceed, status(number))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert [seen.status for seen in registry.requests("PATCH")] == [202, number, 202, 202, 202]


async def test_chunks_that_fail_without_an_end_are_given_up_after_so_many() -> None:
    """What arrived before them counts once."""
    limits = Limits(backoff=0.001, attempts=3)
    content = images.noise("without an end", 3 * MIB)
    async with quirky_registry() as registry, registries_for(limits=limits, chunk_size=MIB) as registries:
        registry.on("PATCH session", proceed, *[status(500)] * 9)

        with pytest.raises(TargetError, match="500"):
            await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert len(registry.requests("PATCH")) == 1 + 3


async def test_chunks_that_break_off_now_and_then_stay_as_large_as_they_are() -> None:
    content = images.noise("now and then", 17 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=4 * MIB) as registries:
        registry.on("PATCH session", cut_upload(registry, MIB), proceed, cut_upload(registry, MIB))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert {seen.headers["Content-Length"] for seen in registry.requests("PATCH")} == {str(4 * MIB)}


@pytest.mark.parametrize("number", [400, 404])
@pytest.mark.parametrize(
    ("size", "first", "way"),
    [
        (1000, "PUT session", ["PUT session 201"]),
        (3 * MIB, "PATCH session", ["PATCH session 202", "PATCH session 202", "PUT session 201"]),
    ],
)
async def test_a_way_that_worked_is_not_left_for_one_refusal(
    number: int, size: int, first: str, way: list[str]
) -> None:
    contents = [images.noise(f"worked {each}", size) for each in range(3)]
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        target = target_at(registries, registry.url)

        await write(target, "app", blob_of(contents[0]), force=True)
        registry.on(first, status(number))
        await write(target, "app", blob_of(contents[1]), force=True)
        del registry.seen[:]
        await write(target, "app", blob_of(contents[2]), force=True)

        assert told(registry) == ["POST start 202", *way]


@pytest.mark.parametrize("is_cut", [True, False])
async def test_the_empty_puts_of_an_empty_blob_tell_nothing_about_bodies(*, is_cut: bool) -> None:
    fault = reset if is_cut else status(500)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", fault, fault)
        target = target_at(registries, registry.url)

        await write(target, "app", blob_of(b""), force=True)
        del registry.seen[:]
        await write(target, "app", blob_of(b"content"), force=True)

        assert told(registry) == ["POST start 202", "PUT session 201"]


async def test_an_end_that_was_cut_off_when_it_had_arrived_is_no_way_that_is_refused() -> None:
    """An empty PUT ends the upload then, and the next blob goes in one PUT as before."""
    content = images.noise("arrived", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PUT session", cut_upload(registry, MIB))
        target = target_at(registries, registry.url)

        await write(target, "app", blob_of(content), force=True)
        assert registry.received() == len(content)

        del registry.seen[:]
        await write(target, "app", blob_of(b"content"), force=True)
        assert told(registry) == ["POST start 202", "PUT session 201"]


async def test_a_range_beyond_what_was_sent_is_another_upload() -> None:
    """§3 row 18."""
    content = images.noise("beyond", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:

        async def beyond(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            response.headers["Range"] = "0-99999999"
            return response

        registry.on("PATCH session", beyond)
        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert len(registry.requests("POST")) == 2


@pytest.mark.parametrize("location", ["{path}", "{origin}{path}", "//{host}{path}"])
async def test_a_location_may_be_written_in_any_legal_way(location: str) -> None:
    """§3 row 19: and its query comes back byte for byte."""
    content = images.noise("location", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.location = location

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert all("_state=a%3Db%2Fc" in seen.path for seen in registry.requests(kind="session"))


async def test_a_chunk_answered_without_a_location_goes_on_where_it_was() -> None:
    """§3 row 19."""

    async def without(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        del response.headers["Location"]
        return response

    content = images.noise("without", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", without, times=3)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.received() == len(content)


async def test_an_upload_without_a_location_is_an_error() -> None:
    """§3 row 19."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.location = ""

        with pytest.raises(TargetError, match="not said where"):
            await write(target_at(registries, registry.url), "app", blob_of(b"content"))


async def test_a_location_with_http_at_a_tls_registry_is_upgraded(authority: Authority) -> None:
    """§3 row 19: a registry behind a proxy that ends TLS names itself wrongly."""
    content = images.noise("upgraded", 3 * MIB)
    transport = TransportSettings(limits=QUICK, default=HostSettings(plain_http=False, ca_cert=authority.certificate))
    async with (
        quirky_registry(tls=authority.server().server_context()) as registry,
        registries_for(transport=transport, chunk_size=MIB) as registries,
    ):
        registry.location = "http://{host}{path}"

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}


async def test_a_least_chunk_is_kept_to() -> None:
    content = images.noise("least", 7 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.least_chunk = 3 * MIB

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert [seen.received for seen in registry.requests(kind="session")] == [3 * MIB, 3 * MIB, MIB]


async def test_an_absurd_least_chunk_is_passed_over() -> None:
    """§4.2: memory is not the registry's to order."""
    content = images.noise("absurd", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.least_chunk = 1 << 62

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert [seen.received for seen in registry.requests(kind="session")] == [MIB, MIB, MIB]


async def test_two_repositories_may_take_the_same_blob_at_once() -> None:
    """§3 row 21."""
    blob = blob_of(images.noise("twice", MIB))
    async with quirky_registry() as registry, registries_for() as registries:
        target = target_at(registries, registry.url)
        async with anyio.create_task_group() as tasks:
            for space in ("one", "two"):
                tasks.start_soon(write, target, space, blob)

        assert set(registry.blobs) == {"one", "two"}


@pytest.mark.parametrize("number", [400, 401, 403, 404, 500])
async def test_a_mount_that_is_refused_becomes_an_upload(number: int) -> None:
    """§3 row 20."""
    blob = blob_of(b"content")
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("POST start", status(number), times=6 if number == 500 else 1)
        target = target_at(registries, registry.url)

        assert not await target.mount("two", blob.descriptor, "one")
        assert await write(target, "two", blob)


async def test_content_that_is_not_its_digests_is_found_out(tmp_path: Path) -> None:
    """§3 row 48: the registry refuses it, and a look at the source says who is wrong."""
    blob = file_blob(tmp_path, images.noise("changed", MIB))
    blob.path.write_bytes(images.noise("other", MIB))
    async with quirky_registry() as registry, registries_for() as registries:
        with pytest.raises(DigestMismatch, match="at its source"):
            await write(target_at(registries, registry.url), "app", blob)

        assert len(registry.requests("PUT")) == 1


async def test_content_that_is_right_and_refused_is_sent_once_more_in_one_piece() -> None:
    """§1.7: something on the way changed it."""

    async def flip(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        registry.sessions[1].content[5] ^= 1
        return response

    content = images.noise("flipped", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", flip)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert told(registry)[-2:] == ["POST start 202", "PUT session 201"]


async def test_content_that_is_right_is_sent_once_more_where_there_is_one_way_only() -> None:
    async def flip(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        registry.sessions[registry.opened].content[5] ^= 1
        return response

    content = images.noise("one way", 1000)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.knows = {"PATCH"}
        registry.on("PATCH session", flip)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}


async def test_a_file_that_ends_early_is_the_sources_fault(tmp_path: Path) -> None:
    blob = file_blob(tmp_path, images.noise("short", 2 * MIB))
    blob.path.write_bytes(b"short")
    async with quirky_registry() as registry, registries_for() as registries:
        with pytest.raises(DigestMismatch, match="ends at byte 5"):
            await write(target_at(registries, registry.url), "app", blob)


async def test_an_error_of_the_source_stays_one_of_the_source() -> None:
    """A 404 at a source must not look like one at the target, nor the other way round."""
    async with quirky_registry() as registry, registries_for() as registries:
        source = registries.blob(name_at(registry.address, "nowhere"), Descriptor("", Digest.of(b"gone"), 4 * MIB))
        with pytest.raises(NotFound):
            await write(target_at(registries, registry.url), "app", source, force=True)


async def test_a_missing_repository_is_the_targets_refusal() -> None:
    """Exit code 5, not 4: nothing is missing at a source."""
    async with quirky_registry() as registry, registries_for() as registries:

        async def unknown(request: web.Request, handler: Handler) -> web.StreamResponse:
            return problem(404, "NAME_UNKNOWN", "The repository with name 'app' does not exist")

        registry.on("POST start", unknown)
        with pytest.raises(TargetError, match="does not exist") as caught:
            await write(target_at(registries, registry.url), "app", blob_of(b"content"))

        assert "created first" in (caught.value.hint or "")
        assert caught.value.exit == 5


async def test_a_full_registry_is_a_target_error_in_its_own_words() -> None:
    """§3 row 42: no retry, and other repositories go on."""

    async def full(request: web.Request, handler: Handler) -> web.StreamResponse:
        return problem(403, "DENIED", "adding 1 GiB of storage resource, which will exceed the quota")

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", full)
        target = target_at(registries, registry.url)
        with pytest.raises(TargetError, match="exceed the quota"):
            await write(target, "full", blob_of(b"content"))

        assert await write(target, "app", blob_of(b"content"))


async def test_being_forbidden_is_denied_and_not_tried_again() -> None:
    """§3 row 42."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("POST start", status(403))

        with pytest.raises(Denied):
            await write(target_at(registries, registry.url), "app", blob_of(b"content"))

        assert told(registry) == ["POST start 403"]


async def test_a_token_that_ends_in_mid_upload_costs_a_token_and_no_chunk() -> None:
    """§3 row 12: nothing but what the refused request itself had sent goes twice."""
    content = images.noise("expired", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", status(401))
        registry.on("PUT session", status(401))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content)
        assert len(registry.requests("POST")) == 1


async def test_a_registry_that_takes_no_more_bytes_is_given_up() -> None:
    """§3 row 29: a half-open connection, found by the low-speed watchdog while sending."""
    release = asyncio.Event()
    impatient = Limits(backoff=0.001, attempts=2, window=0.3, slowest=1024, idle=5.0, commit=5.0)
    content = images.noise("stalled", 30 * MIB)
    async with quirky_registry() as registry, registries_for(limits=impatient, chunk_size=64 * MIB) as registries:
        registry.on("PUT session", stall(release), times=9)
        try:
            with pytest.raises(Interrupted, match="less than 1024 bytes a second get through"):
                await write(target_at(registries, registry.url), "app", blob_of(content), force=True)
        finally:
            release.set()


async def test_a_slow_source_is_not_a_slow_registry() -> None:
    """§3 row 29: waiting for the content to send is not the registry's fault."""
    impatient = Limits(backoff=0.001, attempts=2, window=0.2, slowest=1_000_000_000)
    content = images.noise("slow", 300_000)

    class Slow(StreamBlob):
        """Brings nothing for twice as long as a registry may take nothing."""

        __slots__ = ()

        @asynccontextmanager
        async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
            async with super().open(offset) as pieces:

                async def late() -> Pieces:
                    async for piece in pieces:
                        await anyio.sleep(0.4)
                        yield piece

                yield late()

    async with quirky_registry() as registry, registries_for(limits=impatient) as registries:
        slow = Slow(content, blob_of(content).descriptor, piece=150_000)

        await write(target_at(registries, registry.url), "app", slow)

        assert told(registry) == ["POST start 202", "PUT session 201"]


@pytest.mark.parametrize("number", [201, 403])
async def test_the_source_is_let_go_of_however_an_upload_ends(number: int) -> None:
    """It broke off in the middle of a body, whose source is still open then."""
    sources = []

    class Watched(StreamBlob):
        __slots__ = ()

        @asynccontextmanager
        async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
            sources.append("opened")
            async with super().open(offset) as pieces:
                try:
                    yield pieces
                finally:
                    sources.append("closed")

    content = images.noise("source", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", proceed, *([] if number == 201 else [status(number)]))
        blob = Watched(content, blob_of(content).descriptor)

        with pytest.raises(Denied) if number == 403 else nullcontext():
            await write(target_at(registries, registry.url), "app", blob, force=True)

        assert sources == ["opened", "closed"]


async def test_a_commit_may_take_its_time() -> None:
    """§3 row 5: an answer to an upload is waited for longer than any other."""
    release = asyncio.Event()
    limits = Limits(backoff=0.001, idle=0.4, commit=30.0)

    async def late(request: web.Request, handler: Handler) -> web.StreamResponse:
        asyncio.get_running_loop().call_later(1.2, release.set)
        await release.wait()
        return await handler(request)

    async with quirky_registry() as registry, registries_for(limits=limits) as registries:
        registry.on("PUT session", late)

        await write(target_at(registries, registry.url), "app", blob_of(b"content"))

        assert told(registry) == ["POST start 202", "PUT session 201"]


async def test_an_idle_connection_that_was_closed_is_no_failure() -> None:
    """§3 row 30: a POST that opens a session may be sent again."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("POST start", reset)

        await write(target_at(registries, registry.url), "app", blob_of(b"content"))

        assert told(registry) == ["POST start 0", "POST start 202", "PUT session 201"]


async def test_what_is_given_up_is_cancelled_at_the_registry() -> None:
    """§3 row 45: an upload that was interrupted leaves no session behind."""
    release, arrived = asyncio.Event(), asyncio.Event()
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", stall(release, arrived))
        target = target_at(registries, registry.url)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, target, "app", blob_of(images.noise("cancelled", MIB)))
            await arrived.wait()
            tasks.cancel_scope.cancel()

        assert registry.requests("DELETE")[0].status == 204
        release.set()


@pytest.mark.parametrize("refused", ["PATCH session", "PUT session"])
async def test_what_a_registry_forbids_is_cancelled_without_a_journal(refused: str) -> None:
    """However much of it has arrived."""
    content = images.noise("forbidden", 3 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on(refused, status(403))

        with pytest.raises(Denied):
            await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert [seen.status for seen in registry.requests("DELETE")] == [204]


async def test_what_is_given_up_elsewhere_is_cancelled_there_without_a_login() -> None:
    """§3 row 45: the location named another origin."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.location = f"http://localhost:{registry.address.rpartition(':')[2]}{{path}}"
        registry.on("PUT session", status(403))

        with pytest.raises(Denied):
            await write(target_at(registries, registry.url), "app", blob_of(b"content"), force=True)

        (cancelled,) = registry.requests("DELETE")
        assert cancelled.status == 204
        assert "Authorization" not in cancelled.headers


@pytest.mark.parametrize(
    ("host", "way"),
    [
        ("ghcr.io", Way.PUT),
        ("europe-docker.pkg.dev", Way.PUT),
        ("gcr.io", Way.PUT),
        ("eu.gcr.io", Way.PUT),
        ("123456789.dkr.ecr.eu-west-1.amazonaws.com", Way.PUT),
        ("registry.example.com:5000", Way.CHUNKS),
        ("docker.io", Way.CHUNKS),
        ("quay.io", Way.CHUNKS),
    ],
)
def test_the_ways_of_known_registries_are_known(host: str, way: Way) -> None:
    manner = Manner(host)

    assert manner.way(1 << 40) is way
    assert manner.way(32 * MIB) is Way.PUT


async def test_debians_registry_takes_chunks(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """§0 fact 3: by the newest location, each time."""
    content = images.noise("debian", 5 * MIB)
    async with debian_registry() as registry, registries_for(registry, chunk_size=MIB) as registries:
        await write(target_at(registries, registry), "app", file_blob(tmp_path, content))

        assert (await client.blob(registry, "app", digest_of(content))).content == content


async def log_in_page(*_: object) -> web.StreamResponse:
    """What a proxy that wants a login says to everything."""
    return web.Response(text="<html>Log in to the network</html>", content_type="text/html")


@pytest.mark.parametrize("what", ["POST start", "PATCH session", "PUT session"])
async def test_a_page_to_log_in_at_is_no_step_of_an_upload(what: str) -> None:
    """It comes with status 200, and the blob is not there."""
    content = images.noise("page", 4 * MIB)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on(what, log_in_page, times=9)

        with pytest.raises(TargetError, match="a web page came") as caught:
            await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs.get("app") is None
        assert "want a login" in (caught.value.hint or "")


async def test_a_blob_whose_upload_is_led_to_a_page_to_log_in_at_is_not_there() -> None:
    """A 307 to another host that says 200 to everything."""

    async def elsewhere(*_: object) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{portal.url}/login"})

    async with quirky_registry() as registry, quirky_registry() as portal, registries_for() as registries:
        portal.on("*", log_in_page, times=9)
        registry.on("PUT session", elsewhere)

        with pytest.raises(TargetError, match="a web page came, and what was asked for is not done"):
            await write(target_at(registries, registry.url), "app", blob_of(b"small"), force=True)


@pytest.mark.parametrize("number", [200, 202, 204])
@pytest.mark.parametrize("is_named", [True, False])
async def test_a_blob_that_is_stored_with_another_status_is_looked_for_once(number: int, *, is_named: bool) -> None:
    """Only 201 says that it was done, and the digest in the answer as well."""
    content = images.noise("status", 1000)

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        headers = {"Docker-Content-Digest": response.headers["Docker-Content-Digest"]} if is_named else {}
        return web.Response(status=number, headers=headers)

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", fault)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        asked = [] if is_named else ["HEAD blob 200"]
        assert told(registry) == ["POST start 202", f"PUT session {number}", *asked]


async def test_a_registry_that_knows_no_head_is_asked_by_get_for_what_became_of_a_blob() -> None:
    """The answer to the commit is lost; not a byte is sent again."""
    content = images.noise("no head", 1000)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.head_status = 405
        registry.on("PUT session", lose_answer)

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert told(registry)[-2:] == ["HEAD blob 405", "GET blob 200"]
        assert registry.received() == len(content)


@pytest.mark.parametrize("size", [1000, 4 * MIB])
async def test_a_registry_that_overlooks_the_body_of_a_put_gets_it_in_a_patch(size: int) -> None:
    """Pulp says DIGEST_INVALID then (pulp/pulp_container#1219); each way is tried once, and the run learns of it."""

    async def overlook(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.content_length:
            await request.read()
            return problem(400, "DIGEST_INVALID")
        return await handler(request)

    first, second = (images.noise(f"pulp {number}", size) for number in range(2))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PUT session", overlook, times=99)
        target = target_at(registries, registry.url)

        await write(target, "app", blob_of(first), force=True)
        sent_first = len(registry.requests("PUT", "session"))
        await write(target, "app", blob_of(second), force=True)

        assert registry.blobs["app"] == {digest_of(first): first, digest_of(second): second}
        assert sent_first == (2 if size == 1000 else 3)
        assert len(registry.requests("PUT", "session")) == sent_first + 1


@pytest.mark.parametrize("size", [1, 1000, 4 * MIB])
@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_registry_that_fails_every_put_with_a_body_gets_it_in_a_patch(size: int, *, is_cut: bool) -> None:
    """Two of them fail; then POST, PATCH and an empty PUT bring the blob, and the next one at once."""

    async def fail(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.content_length:
            return await handler(request)
        return await (reset if is_cut else status(500))(request, handler)

    first, second = (images.noise(f"fails {number}", size) for number in range(2))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PUT session", fail, times=99)
        target = target_at(registries, registry.url)

        await write(target, "app", blob_of(first), force=True)
        del registry.seen[:]
        await write(target, "app", blob_of(second), force=True)

        assert registry.blobs["app"] == {digest_of(first): first, digest_of(second): second}
        assert len(registry.requests("PUT", "session")) == 1
        assert told(registry)[-2:] == ["PATCH session 202", "PUT session 201"]


async def test_content_that_no_way_makes_right_is_the_registrys_refusal() -> None:
    async def misread(*_: object) -> web.StreamResponse:
        return problem(400, "DIGEST_INVALID", "it is not")

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", misread, times=99)

        with pytest.raises(TargetError, match="DIGEST_INVALID: it is not"):
            await write(target_at(registries, registry.url), "app", blob_of(b"small"), force=True)

        assert len(registry.requests("PUT", "session")) == 2


async def test_a_registry_that_fails_empty_puts_gets_its_put_again_after_bad_luck() -> None:
    """Amazon's fails the empty PUT after a PATCH; two bodies that broke off are no reason to give up there."""

    content = images.noise("amazon", 1000)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT session", reset, reset, status(500), status(500))

        await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert told(registry)[-2:] == ["POST start 202", "PUT session 201"]
