"""``syncer doctor``: each check against real registries, and what is no registry; nothing in it names a host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from msgspec import structs

from syncer.api.doctor import State, diagnose
from syncer.registry import RegistryAddress
from tests.conftest import OpenRegistry, OpenTokenServer
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.registries import LOGIN
from tests.support.registry_end import QUICK, settings_for
from tests.support.tls import Authority
from tests.test_transport import greeting

NOBODY = "127.0.0.1:9"  # the discard port: nothing listens
NEEDED = ["name", "connection", "TLS", "API", "login"]
WRITING = ["chunked upload", "mount"]


async def doctor(home: Path, *words: str | Path, stdin: str = "") -> Ran:
    return await syncer("doctor", *words, "--json", home=home, stdin=stdin)


def states(ran: Ran) -> dict[str, str]:
    return {check["name"]: check["state"] for check in ran.json["checks"]}


def check(ran: Ran, name: str) -> dict[str, str]:
    return next(each for each in ran.json["checks"] if each["name"] == name)


@pytest.mark.parametrize("kind", ["debian_registry", "serve_disk"])
async def test_a_registry_shows_what_it_can_do_and_keeps_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    open_registry: OpenRegistry = request.getfixturevalue(kind)
    async with open_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(registry, "team/app", images.multi_platform("app"), "1")
        looked = await doctor(tmp_path, f"{proxy.registry.address}/team")
        wrote = [one.method for one in proxy.exchanges.log if one.method not in ("GET", "HEAD")]
        tried = await doctor(tmp_path, f"{proxy.registry.address}/team", "--upload")
        removed = [one.status for one in proxy.exchanges.log if one.method == "DELETE"]

    referrers = "odd" if kind == "debian_registry" else "ok"
    seen = {**dict.fromkeys(NEEDED, "ok"), "referrers": referrers, "ranges": "ok"}
    assert (looked.code, tried.code) == (0, 0)
    assert states(looked) == seen | dict.fromkeys(WRITING, "not tried")
    assert states(tried) == seen | dict.fromkeys(WRITING, "ok") | {"clean-up": "ok"}
    assert (wrote, removed) == ([], [202, 202])
    assert check(tried, "chunked upload")["does"] == "a push goes on at the chunk where it broke off"


async def test_nothing_that_is_printed_names_who_it_is_about(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry(login=LOGIN, delete=False) as registry:
        await client.push(registry, "secret-team/app", images.image("app"), "1")
        words = (f"{registry.address}/secret-team", "--upload", "--username", LOGIN.username, "--password-stdin")
        ran = await syncer("doctor", *words, home=tmp_path, stdin=LOGIN.password)
        named = await syncer("doctor", *words, "--names", home=tmp_path, stdin=LOGIN.password)
        without = await doctor(tmp_path, f"{registry.address}/secret-team")

    assert (ran.code, named.code, without.code) == (0, 0, 3)
    for said in (ran.stdout + ran.stderr, without.stdout + without.stderr):
        assert not [word for word in ("127.0.0.1", "secret-team", LOGIN.username, LOGIN.password) if word in said], said
    assert "stays in SCRATCH-A and SCRATCH-B: the registry deletes none" in ran.stdout
    assert "stays in secret-team/syncer-doctor/" in named.stdout
    assert ran.stdout.endswith("\nsyncer can work with it\n")


async def test_a_login_is_asked_for_accepted_or_not(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry(login=LOGIN) as registry:
        login = (registry.address, "--username", LOGIN.username, "--password-stdin")
        none = await doctor(tmp_path, registry.address)
        right = await doctor(tmp_path, *login, stdin=LOGIN.password)
        wrong = await doctor(tmp_path, *login, stdin="wrong")

    assert (none.code, right.code, wrong.code) == (3, 0, 3)
    assert check(none, "login")["found"] == "it wants a login (Basic), and none is known"
    assert "syncer registry-login" in check(none, "login")["hint"]
    assert check(right, "login")["found"] == "the login is accepted (Basic)"
    assert check(wrong, "login")["found"].startswith("the login is not accepted (Basic): ")
    assert states(none)["referrers"] == "not tried"


async def test_a_token_server_is_told_of(
    debian_registry: OpenRegistry, token_server: OpenTokenServer, tmp_path: Path
) -> None:
    async with token_server() as tokens, debian_registry(tokens=tokens) as registry:
        ran = await doctor(tmp_path, f"{registry.address}/app", "--upload")

    assert ran.code == 0
    assert check(ran, "login")["found"] == "no login is known, and everybody gets a token (Bearer by TOKEN-SERVER)"
    assert states(ran)["mount"] == "ok"


async def test_tls_is_told_with_its_certificate(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    async with debian_registry(tls=authority.server(), authority=authority.certificate) as registry:
        trusted = await doctor(tmp_path, registry.address, "--ca-cert", authority.certificate)
        unknown = await doctor(tmp_path, f"https://{registry.address}")
        insecure = await doctor(tmp_path, registry.address, "--insecure")
        plain = await doctor(tmp_path, registry.address)
    async with debian_registry("plain") as registry:
        other = await doctor(tmp_path, f"https://{registry.address}")

    assert [ran.code for ran in (trusted, unknown, insecure, plain, other)] == [0, 1, 0, 1, 1]
    assert check(trusted, "TLS")["found"] == "TLSv1.3; its certificate is good for 30 days more"
    assert "does not know its authority" in check(unknown, "TLS")["found"]
    assert states(insecure)["TLS"] == "odd"
    assert check(plain, "TLS")["found"] == "REGISTRY speaks HTTPS"
    assert check(other, "TLS")["found"] == "REGISTRY speaks plain HTTP, and no HTTPS"


@asynccontextmanager
async def web_server(answer: bytes) -> AsyncIterator[str]:
    """A web server that has this one answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


@pytest.mark.parametrize(
    ("head", "body", "found"),
    [
        (
            "404 Not Found\r\nContent-Type: text/plain",
            b"no",
            "REGISTRY is no registry: /v2/ is answered with status 404",
        ),
        ("200 OK\r\nContent-Type: text/html", b"<p>", "REGISTRY is no registry: /v2/ is answered with a web page"),
        ("503 Service Unavailable", b"", "GET http://REGISTRY/v2/: 503 Service Unavailable"),
    ],
)
async def test_a_web_server_is_no_registry(tmp_path: Path, head: str, body: bytes, found: str) -> None:
    answer = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    async with web_server(answer) as address:
        ran = await doctor(tmp_path, address)

    assert ran.code == 1
    assert (states(ran)["API"], check(ran, "API")["found"]) == ("failed", found)


@pytest.mark.parametrize(
    ("scheme", "name", "found"),
    [
        ("", "API", "REGISTRY takes the connection, and says nothing for 1 s"),
        ("https://", "TLS", "REGISTRY takes the connection, and says nothing: TLS timed out"),
    ],
)
async def test_a_server_that_says_nothing_is_not_waited_for_long(scheme: str, name: str, found: str) -> None:
    """For as long as a connection may take, and not for the time that the answer to a large request has."""
    limits = structs.replace(QUICK, connect=0.6, idle=1000.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, anyio.fail_after(100):
        address = RegistryAddress.parse(f"{scheme}127.0.0.1:{silent.getsockname()[1]}")
        diagnosis = await diagnose(address, settings=settings_for(limits=limits))

    assert [(one.name, one.found) for one in diagnosis.checks if one.state is State.FAILED] == [(name, found)]


@pytest.mark.parametrize(
    ("scheme", "name", "found"),
    [
        ("http://", "API", "GET http://REGISTRY/v2/: the answer is not HTTP"),
        ("https://", "TLS", "REGISTRY speaks neither HTTPS nor HTTP"),
    ],
)
async def test_a_server_of_something_else_is_no_registry(scheme: str, name: str, found: str) -> None:
    async with greeting(b"-ERR unknown command\r\n") as address:
        diagnosis = await diagnose(RegistryAddress.parse(f"{scheme}{address}"), settings=settings_for(limits=QUICK))

    assert [(one.name, one.found) for one in diagnosis.checks if one.state is State.FAILED] == [(name, found)]


async def test_a_host_that_refuses_ends_the_examination(tmp_path: Path) -> None:
    ran = await syncer("doctor", NOBODY, home=tmp_path)

    assert ran.code == 1
    assert "connection:     failed     REGISTRY refused the connection\n" in ran.stdout
    assert "hint: is a registry running there?\n" in ran.stdout
    assert ran.stdout.endswith("\nsyncer cannot work with it: connection\n")


async def test_what_a_registry_cannot_do_is_odd_and_says_what_syncer_does(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(registry, "app", images.image("app"), "1")
        proxy.on("PATCH", "/uploads/", Reply(405), times=None)
        proxy.on("POST", "mount=", Reply(202, {"Location": "/v2/x/blobs/uploads/1"}), times=None)
        proxy.on("GET", "/blobs/sha256", Reply(200, body=b"all of it"), times=None)
        ran = await doctor(tmp_path, proxy.registry.address, "--upload")
        proxy.on("POST", "/uploads/", Reply(403), times=None)
        refused = await doctor(tmp_path, proxy.registry.address, "--upload")
        proxy.rules.clear()
        proxy.on("POST", "/uploads/", Reply(507, body=b"no space left"), times=None)
        full = await doctor(tmp_path, proxy.registry.address, "--upload")

    assert (ran.code, refused.code, full.code) == (0, 3, 5)
    assert {name: states(ran)[name] for name in ("ranges", *WRITING)} == dict.fromkeys(("ranges", *WRITING), "odd")
    assert check(ran, "chunked upload")["does"] == "each blob goes in one request, and one that broke off begins anew"
    assert check(ran, "ranges")["does"].startswith(
        "a download that broke off begins anew, and a large blob comes by one"
    )
    assert "507 no space left" in check(full, "chunked upload")["found"]
