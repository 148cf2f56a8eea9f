"""What strangers may try with a registry that they can reach: registries.md §4.5, threat by threat."""

from __future__ import annotations

import gzip
import logging
import os
import resource
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.text import TextReceiveStream
from anyio.streams.tls import TLSAttribute, TLSStream

from syncer.errors import InvalidFile, Locked, UsageError
from syncer.serve import Tls, open_disk, serve
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment
from tests.support.disks import file_size_limit
from tests.support.images import digest_of, noise
from tests.support.registries import LOGIN, Registry, htpasswd
from tests.support.tls import Authority
from tests.support.tokens import Login

BLOB = noise("blob", 100_000)
DIGEST = digest_of(BLOB)


async def raw(registry: Registry, request: str | bytes) -> bytes:
    """What the registry answers to these bytes until it closes the connection."""
    answer = b""
    async with await connect(registry) as stream:
        await stream.send(request.encode("latin-1") if isinstance(request, str) else request)
        with anyio.move_on_after(5):
            while True:
                try:
                    answer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return answer
    raise AssertionError(f"the connection is still open after {answer!r}")


async def connect(registry: Registry) -> SocketStream:
    host, _, port = registry.address.rpartition(":")
    return await anyio.connect_tcp(host, int(port))


def get(path: str, *headers: str) -> str:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""))


async def test_only_this_machine_reaches_it_by_default(tmp_path: Path) -> None:
    """Threat: a registry without a password on every interface."""
    with open_disk(tmp_path) as disk:
        async with serve(disk) as address:
            assert address.host == "127.0.0.1"


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
async def test_an_address_that_others_reach_is_warned_of(tmp_path: Path, host: str, *, warned: bool) -> None:
    """Threat: an operator who means one network and serves all of them, to everybody."""
    command = [sys.executable, "-m", "syncer", "serve", "--disk", str(tmp_path / "disk"), "--host", host, "--port", "0"]
    async with await anyio.open_process(command, env=environment(tmp_path)) as process:
        assert process.stderr is not None
        said = TextReceiveStream(process.stderr)
        told = await said.receive()
        while "serving on" not in told:
            told += await said.receive()
        process.terminate()
        async for more in said:
            told += more

    assert ("warning: others can reach this address" in told) is warned, told


async def test_no_path_leads_out_of_the_registry(serve_disk: OpenRegistry) -> None:
    """Threat: path traversal (CVE-2024-23334 and its like) by plain, encoded and twice encoded dots, slashes,
    backslashes and NULs, in each place where a name is expected.
    """
    names = (
        "..",
        "../..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "..%2f..",
        "%252e%252e%252f",
        "..%5c..",
        "a%00",
        "%00",
        "~",
        "_blobs",
        "a/../b",
        "a//b",
        "a%2fb",
        "\xff",
    )

    async with serve_disk() as registry:
        (registry.directory / "secret").write_text("the secret")
        for name in names:
            for path in (
                f"/v2/{name}/tags/list",
                f"/v2/{name}/manifests/secret",
                f"/v2/app/manifests/{name}",
                f"/v2/app/manifests/{name}/secret",
                f"/v2/app/blobs/{name}/secret",
                f"/v2/app/blobs/sha256:{name}",
                f"/v2/app/blobs/uploads/{name}",
                f"/v2/app/referrers/{name}",
                f"/{name}/secret",
            ):
                answer = await raw(registry, get(path))
                assert answer[9:13] in (b"400 ", b"404 "), (path, answer)
                assert b"the secret" not in answer
        assert sorted(path.name for path in registry.directory.iterdir()) == ["content", "secret"]
        assert list((registry.directory / "content/repositories").iterdir()) == []


async def test_a_colon_may_be_encoded(serve_disk: OpenRegistry) -> None:
    """What the path may hold is decoded once, since some clients encode a digest's colon."""
    async with serve_disk() as registry:
        await client.push_blob(registry, "app", BLOB)

        assert (await client.blob(registry, "app", DIGEST.replace(":", "%3A"))).content == BLOB


async def test_heads_that_are_too_large_are_refused(serve_disk: OpenRegistry) -> None:
    """Threat: memory filled with endless headers."""
    async with serve_disk() as registry:
        for request in (
            get("/v2/" + "a" * 20_000),
            get("/v2/", "X-Long: " + "a" * 20_000),
            get("/v2/", *(f"X-{number}: 1" for number in range(200))),
        ):
            assert (await raw(registry, request))[9:13] == b"400 "


async def test_what_is_no_http_is_answered_and_not_logged(
    serve_disk: OpenRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Threat: a log filled by strangers; also smuggling by two lengths (CVE-2025-53643)."""
    async with serve_disk() as registry:
        for request in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost x\r\n\r\n",
            b"GET /v2/ HTTP/9.9.9\r\n\r\n",
            b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
            b"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ):
            answer = await raw(registry, request)
            assert answer[9:13] == b"400 ", (request, answer)

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_connection_that_says_nothing_is_closed(
    serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threat: slow-loris, connections that never finish their first head."""
    monkeypatch.setattr("syncer.serve.protocol.HEADER_SECONDS", 0.1)

    async with serve_disk() as registry:
        assert await raw(registry, "") == b""
        assert await raw(registry, "GET /v2/ HTTP/1.1\r\nHost:") == b""


async def test_an_idle_connection_is_closed(serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threat: connections that are kept alive and never used."""
    monkeypatch.setattr("syncer.serve.server._IDLE_SECONDS", 0.1)

    async with serve_disk() as registry:
        answer = await raw(registry, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/ HTTP/1.1\r\nHo")

        assert answer.count(b"HTTP/1.1 200") == 1


async def test_there_is_a_limit_to_connections(serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threat: more connections than memory or file descriptors."""
    monkeypatch.setattr("syncer.serve.protocol._MAX_CONNECTIONS", 2)

    async with serve_disk() as registry:
        async with await connect(registry), await connect(registry):
            assert await raw(registry, get("/v2/")) == b""
        assert (await client.ask(registry, "GET", "/v2/")).status == 200


async def test_a_body_that_stalls_ends_and_what_arrived_is_kept(
    serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threat: uploads that hold a session and a connection for ever."""
    monkeypatch.setattr("syncer.serve.protocol.STALL_SECONDS", 0.1)
    monkeypatch.setattr("syncer.serve.server.HEADER_SECONDS", 0.1)  # for which a refused body is read on

    async with serve_disk() as registry:
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BLOB)}\r\n\r\n"
        answer = await raw(registry, head.encode() + BLOB[:70_000])

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert (await client.ask(registry, "GET", location)).headers["Range"] == "0-69999"


async def test_a_body_that_stalls_is_written_and_fills_no_memory(
    serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threat: a thousand bodies that stall just before a megabyte, which is written at once, is full."""
    monkeypatch.setattr("syncer.serve.writing._QUIET_SECONDS", 0.1)

    async with serve_disk() as registry:
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        path = registry.directory / "content/repositories/app/_uploads" / location.rpartition("/")[2]
        async with await connect(registry) as stream:
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BLOB)}\r\n\r\n"
            await stream.send(head.encode() + BLOB[:70_000])
            with anyio.fail_after(10):
                while path.stat().st_size < 70_000:  # noqa: ASYNC110  # no event tells
                    await anyio.sleep(0.01)
            await stream.send(BLOB[70_000:])
            assert (await stream.receive()).startswith(b"HTTP/1.1 202 ")
        assert path.read_bytes() == BLOB


@pytest.mark.parametrize("after", ["a part of a body", "an answer"])
async def test_a_thousand_clients_that_stall_shut_nobody_out(serve_process: OpenRegistry, after: str) -> None:
    """Threat: all connections taken by clients that send a part of a body, or take an answer, and then do nothing.

    Whoever comes then has the place of the one that has stalled longest; an upload that goes on all the while is
    not touched.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stalled: list[socket.socket] = []
    try:
        async with serve_process() as registry:
            host, _, port = registry.address.rpartition(":")
            path = f"/v2/app/blobs/uploads/?digest={DIGEST}"
            stalling = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode()
            if after == "an answer":
                stalling = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
            for _ in range(1024):
                begun = socket.create_connection((host, int(port)))
                begun.sendall(stalling)
                stalled.append(begun)
            sent = anyio.Event()

            async def steadily() -> AsyncIterator[bytes]:
                for start in range(0, len(BLOB), 1000):
                    yield BLOB[start : start + 1000]
                    if not sent.is_set():
                        await anyio.sleep(0.05)

            async def upload() -> None:
                assert (await client.ask(registry, "POST", path, data=steadily())).status == 201

            await answered(registry)  # at first each may be quiet in peace
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(upload)
                for number in range(20):
                    assert (await client.ask(registry, "GET", "/v2/")).status == 200, number
                sent.set()
            assert (await client.blob(registry, "app", DIGEST)).content == BLOB
    finally:
        for begun in stalled:
            begun.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_client_that_does_not_read_is_cut_off(
    serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Threat: answers that are asked for and never taken."""
    monkeypatch.setattr("syncer.serve.protocol.STALL_SECONDS", 0.1)
    large = noise("large", 30_000_000)

    async with serve_disk() as registry:
        digest = await client.push_blob(registry, "app", large)
        monkeypatch.setattr("syncer.serve.protocol._MAX_CONNECTIONS", 1)
        host, _, port = registry.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connected:
            connected.sendall(get(f"/v2/app/blobs/{digest}").encode())
            await answered(registry)  # there is room again: the one that does not read is gone
            received = 0
            while piece := connected.recv(1_000_000):
                received += len(piece)

    assert received < len(large)
    assert caplog.records == []


async def answered(registry: Registry) -> None:
    """Ask until the registry answers."""
    with anyio.fail_after(10):
        while True:
            try:
                await client.ask(registry, "GET", "/v2/")
            except client.Broken:
                continue
            return


async def test_a_large_page_is_cut(serve_disk: OpenRegistry) -> None:
    """Threat: memory taken for a huge ``n`` (CVE-2023-2253)."""
    async with serve_disk() as registry:
        await client.push(registry, "app", images.image("a"), "v1")
        for n in (10**9, 2**63, 10**300):
            for path in ("/v2/app/tags/list", "/v2/_catalog"):
                assert (await client.ask(registry, "GET", f"{path}?n={n}")).status == 200


async def test_no_answer_repeats_what_a_client_calls_the_host(serve_disk: OpenRegistry) -> None:
    """Threat: locations that send a client, and its credentials, to a host of the attacker's choice."""
    spoofed = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}

    async with serve_disk(login=LOGIN) as registry:
        for authorization in (LOGIN.header, ""):
            headers = spoofed | {"Authorization": authorization}
            begun = await client.ask(registry, "POST", "/v2/app/blobs/uploads/", headers=headers)
            assert "evil" not in repr(begun)
            if authorization:
                assert begun.headers["Location"].startswith("/v2/app/blobs/uploads/")


async def test_every_answer_forbids_guessing_its_type_and_hides_the_versions(serve_disk: OpenRegistry) -> None:
    """Threat: a browser runs a blob; a scanner looks up the version."""
    async with serve_disk() as registry:
        await client.push(registry, "app", images.image("a"), "v1")
        await client.push_blob(registry, "app", BLOB)
        for path in ("/v2/", "/v2/app/tags/list", "/v2/app/manifests/v1", f"/v2/app/blobs/{DIGEST}", "/v2/x/y", "/"):
            answer = await client.ask(registry, "GET", path)
            assert answer.headers["X-Content-Type-Options"] == "nosniff", path
            assert answer.headers["Server"] == "syncer"


async def test_an_upload_is_never_decompressed(serve_disk: OpenRegistry) -> None:
    """Threat: a bomb in a body's Content-Encoding (CVE-2025-69223)."""
    bomb = gzip.compress(bytes(1_000_000))

    async with serve_disk() as registry:
        path = f"/v2/app/blobs/uploads/?digest={digest_of(bomb)}"
        stored = await client.ask(registry, "POST", path, data=bomb, headers={"Content-Encoding": "gzip"})

        assert stored.status == 201
        assert (await client.blob(registry, "app", digest_of(bomb))).content == bomb


async def test_a_body_is_asked_for_only_from_those_who_may_send_one(serve_disk: OpenRegistry) -> None:
    """Threat: gigabytes sent by somebody without a password.  Who waits to be asked is told no first."""
    async with serve_disk(login=LOGIN) as registry:
        head = "\r\n".join(
            (
                f"POST /v2/app/blobs/uploads/?digest={DIGEST} HTTP/1.1",
                "Host: x",
                f"Content-Length: {len(BLOB)}",
                "Expect: 100-continue",
                "",
            )
        )
        async with await connect(registry) as stream:
            await stream.send(f"{head}\r\n".encode())
            refused = await stream.receive()
        async with await connect(registry) as stream:
            await stream.send(f"{head}Authorization: {LOGIN.header}\r\n\r\n".encode())
            asked = await stream.receive()
            await stream.send(BLOB)
            stored = await stream.receive()

    assert refused.startswith(b"HTTP/1.1 401 ")
    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert stored.startswith(b"HTTP/1.1 201 ")


async def test_nobody_gets_in_without_the_password(serve_disk: OpenRegistry) -> None:
    """Threat: requests without, or with other, credentials, at any endpoint."""
    wrong = (
        "",
        "Basic",
        "Basic !!!",
        "Basic YWxpY2U=",
        "Bearer " + LOGIN.header.partition(" ")[2],
        Login("alice", "wrong").header,
        Login("alice", "").header,
        Login("alice", LOGIN.password + "\0").header,
        Login("mallory", LOGIN.password).header,
        Login("", "").header,
        Login("alice", "x" * 10_000).header,
    )

    async with serve_disk(login=LOGIN) as registry:
        for header in wrong:
            for path in ("/v2/", "/v2/_catalog", "/v2/app/blobs/uploads/", "/nothing"):
                refused = await client.ask(registry, "POST", path, headers={"Authorization": header})
                assert refused.status == 401, header
                assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
                assert client.parsed(refused)["errors"][0]["code"] == "UNAUTHORIZED"
        for _ in range(2):
            assert (await client.ask(registry, "GET", "/v2/")).status == 200
        wrong_again = await client.ask(registry, "GET", "/v2/", headers={"Authorization": wrong[5]})
        assert wrong_again.status == 401


async def test_a_password_file_that_is_not_one_is_refused_without_repeating_it(tmp_path: Path) -> None:
    """Threat: hashes that are quick to guess; hashes in an error message."""
    path = htpasswd(tmp_path / "passwords", LOGIN)
    good = path.read_text()
    with open_disk(tmp_path / "disk") as disk:
        for content in ("", "# nobody\n", f"{good}bob:$apr1$x$7cRY1hOwSw4fGL3NHC1Ku1\n", f"{good}bob\n", ":" + good):
            path.write_text(content)
            with pytest.raises(InvalidFile) as raised:
                async with serve(disk, htpasswd=path):
                    pass
            assert "$" not in str(raised.value)
        with pytest.raises(InvalidFile):
            async with serve(disk, htpasswd=tmp_path / "none"):
                pass


async def test_it_speaks_tls_and_nothing_older_than_1_2(serve_disk: OpenRegistry, authority: Authority) -> None:
    """Threat: passwords read on the way."""
    made, made_by = images.image("a"), authority.server()

    async with serve_disk(tls=made_by, authority=authority.certificate, login=LOGIN) as registry:
        await client.push(registry, "app", made, "v1")
        await client.assert_holds(registry, "app", made, "v1")
        assert b"HTTP/1.1 200" not in await raw(registry, get("/v2/"))
        old = ssl.create_default_context(cafile=authority.certificate)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with await connect(registry) as stream:
            secure = await TLSStream.wrap(stream, hostname="127.0.0.1", ssl_context=old, standard_compatible=False)
            assert secure.extra(TLSAttribute.tls_version) == "TLSv1.2"
    assert Tls(certificate=made_by.certificate, key=made_by.key).context().minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_certificate_that_is_not_one_is_refused(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.server(), authority.server()
    with open_disk(tmp_path / "disk") as disk:
        for tls in (
            Tls(certificate=first.certificate, key=second.key),
            Tls(certificate=tmp_path / "none.pem", key=first.key),
            Tls(certificate=first.key, key=first.key),
        ):
            with pytest.raises(InvalidFile):
                async with serve(disk, tls=tls):
                    pass


async def test_an_address_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with open_disk(tmp_path) as disk:
        async with serve(disk) as address:
            with pytest.raises(UsageError, match=rf"cannot listen at {address}: .*in use"):
                async with serve(disk, port=address.port):
                    pass
        with pytest.raises(UsageError, match=r"cannot listen at 192\.0\.2\.1:0"):
            async with serve(disk, host="192.0.2.1"):
                pass


def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    with open_disk(tmp_path), pytest.raises(Locked), open_disk(tmp_path):
        pass
    with open_disk(tmp_path):
        pass


async def test_a_full_disk_is_said_and_nothing_is_half_named(serve_disk: OpenRegistry) -> None:
    """Threat: a blob or tag that is half there.  A limit on the size of files stands in for the full disk."""
    made = images.image("a")

    async with serve_disk() as registry:
        await client.push(registry, "app", made, "v1")
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        with file_size_limit(50_000):
            full = await client.ask(registry, "PUT", f"{location}?digest={DIGEST}", data=BLOB)

        assert full.status == 507
        assert (await client.blob(registry, "app", DIGEST)).status == 404
        again = await client.ask(registry, "PUT", f"{location}?digest={DIGEST}", data=BLOB)
        assert again.status == 201
        assert (await client.blob(registry, "app", DIGEST)).content == BLOB
        await client.assert_holds(registry, "app", made, "v1")


async def test_abandoned_sessions_are_removed_at_the_next_start(serve_disk: OpenRegistry) -> None:
    """Threat: a disk filled by uploads that nobody ends."""
    async with serve_disk() as registry:
        locations = [
            (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"] for _ in range(2)
        ]
        path = registry.directory / "content/repositories/app/_uploads" / locations[0].rpartition("/")[2]
        day = time.time() - 25 * 3600
        os.utime(path, (day, day))

    async with serve_disk() as registry:
        assert [(await client.ask(registry, "GET", location)).status for location in locations] == [404, 204]


async def test_it_ends_at_once_and_keeps_what_arrived(serve_disk: OpenRegistry) -> None:
    """Threat: an open upload holds up the end of the process."""
    async with serve_disk() as registry:
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        stream = await connect(registry)
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BLOB)}\r\n\r\n"
        await stream.send(head.encode() + BLOB[:70_000])
        await client.ask(registry, "GET", "/v2/")
        ending = time.monotonic()
    assert time.monotonic() - ending < 10
    await stream.aclose()

    async with serve_disk() as registry:
        assert (await client.ask(registry, "GET", location)).headers["Range"] == "0-69999"
