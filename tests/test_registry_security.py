"""What a registry or a network may try: logins reach only the host they are for, and secrets are never shown."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import anyio
import pytest
from aiohttp import web

from syncer.errors import Denied, NetworkError, NotFound, RegistryError, SyncerError, TargetError, Unsafe
from syncer.registry import Credential, CredentialSettings, RegistrySettings, open_registries, open_upload_journal
from syncer.transport import HostSettings, TransportSettings
from syncer.transport.guard import Address, Scope
from tests.support import images
from tests.support.images import digest_of
from tests.support.quirky import Fault, Handler, Quirky, problem, proceed, quirky_registry, reset, status
from tests.support.registry_end import QUICK, blob_of, name_at, read, target_at, write
from tests.support.tls import Authority

MIB = 1024 * 1024
CANARY = "canary-7f3a"
CONTENT = images.noise("security", MIB)


def login_for(
    registry: Quirky, credential: Credential | None = None, *, authority: Authority | None = None, **more: object
) -> RegistrySettings:
    """A login with a canary for that one registry."""
    default = HostSettings(plain_http=authority is None, ca_cert=authority.certificate if authority else None)
    settings: dict[str, object] = {
        "transport": TransportSettings(limits=QUICK, default=default),
        "credentials": CredentialSettings(logins={registry.address: credential or Credential("alice", CANARY)}),
    }
    return RegistrySettings(**(settings | more))  # type: ignore[arg-type]


def wants_basic(request: web.Request) -> web.Response | None:
    wanted = "Basic " + base64.b64encode(f"alice:{CANARY}".encode()).decode()
    if request.headers.get("Authorization") == wanted:
        return None
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})


def behind_basic(then: Fault = proceed) -> Fault:
    """Ask for the login, and only then do something."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        return wants_basic(request) or await then(request, handler)

    return fault


def challenge(realm: str, **parameters: str) -> Fault:
    """401, with a place for tokens; whoever has a token may pass."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Authorization", "").startswith("Bearer "):
            return await handler(request)
        more = "".join(f',{name}="{value}"' for name, value in parameters.items())
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"{more}'})

    return fault


def leads_to(location: str) -> Fault:
    async def fault(*_: object) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    return fault


async def token(*_: object) -> web.StreamResponse:
    return web.json_response({"token": CANARY, "expires_in": 300})


def secrets_seen(registry: Quirky) -> set[str]:
    """Every Authorization that a server got."""
    return {seen.headers["Authorization"] for seen in registry.seen if "Authorization" in seen.headers}


async def test_a_redirect_elsewhere_leaves_the_login_behind() -> None:
    """§4.2: another port is another host; Azure's storage even refuses what it gets (Azure/acr#217)."""
    async with quirky_registry() as registry, quirky_registry() as storage:
        digest = storage.add("app", CONTENT)
        registry.on("GET blob", behind_basic(leads_to(f"{storage.url}/v2/app/blobs/{digest}")), times=9)
        async with open_registries(login_for(registry)) as registries:
            found = await read(registries.blob(name_at(registry.address, "app"), blob_of(CONTENT).descriptor))

    assert found == CONTENT
    assert secrets_seen(registry)
    assert not secrets_seen(storage)


@pytest.mark.parametrize("kind", ["manifest", "blob"])
async def test_a_redirect_to_a_registry_with_tokens_of_its_own_gets_one_for_nobody(kind: str) -> None:
    """§4.2: vanity names (lscr.io, cr.fluentbit.io) lead every request to another registry, with its own names."""
    async with quirky_registry() as vanity, quirky_registry() as inner:
        image = images.image("vanity", layers=[images.layer("vanity", 50_000)])
        (layer,) = [content for digest, content in image.all_blobs().items() if len(content) > 20_000]
        inner.add("org/app", layer)
        inner.manifests["org/app"] = {"v1": (image.media_type, image.content)}
        inner.on("GET other", token, times=9)
        inner.on("*", challenge(f"{inner.url}/token", scope="repository:org/app:pull"), times=99)

        async def elsewhere(request: web.Request, _: Handler) -> web.StreamResponse:
            location = inner.url + request.path.replace("/v2/app/", "/v2/org/app/")
            return web.Response(status=307, headers={"Location": location})

        vanity.on("*", behind_basic(elsewhere), times=99)
        async with open_registries(login_for(vanity)) as registries:
            name = name_at(vanity.address, "app")
            if kind == "blob":
                assert await read(registries.blob(name, blob_of(layer).descriptor)) == layer
            else:
                assert (await registries.manifest(name)).content == image.content

    assert secrets_seen(inner) == {f"Bearer {CANARY}"}  # the token that it gave out, and no login
    (asked,) = [seen for seen in inner.seen if seen.path.startswith("/token")]
    assert "scope=repository:org/app:pull" in unquote(asked.path)
    assert all(seen.startswith("Basic ") for seen in secrets_seen(vanity))


async def test_a_place_for_tokens_that_a_host_behind_a_tls_proxy_writes_with_http_is_asked_by_https(
    authority: Authority,
) -> None:
    """§4.2: Harbor, and others that do not know of the proxy; the login goes there, and never in clear."""
    async with quirky_registry(tls=authority.server().server_context()) as registry:
        registry.on("GET other", behind_basic(token), times=9)
        registry.on("*", challenge(f"http://{registry.address}/service/token"), times=99)
        async with open_registries(login_for(registry, authority=authority)) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry.address, "app"))

        assert [seen.status for seen in registry.seen if seen.path.startswith("/service/token")] == [200]


async def test_an_upload_location_elsewhere_leaves_the_login_behind() -> None:
    """§4.2: CVE-2026-50151."""
    async with quirky_registry() as registry, quirky_registry() as storage:

        async def elsewhere(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await storage._start(request)
            response.headers["Location"] = storage.url + response.headers["Location"]
            return response

        registry.on("POST start", behind_basic(elsewhere), times=9)
        async with open_registries(login_for(registry, chunk_size=256 * 1024)) as registries:
            await write(target_at(registries, registry.url), "app", blob_of(CONTENT), force=True)

        assert storage.blobs["app"] == {digest_of(CONTENT): CONTENT}
    assert secrets_seen(registry)
    assert not secrets_seen(storage)


@pytest.mark.parametrize("location", ["http://169.254.169.254/upload", "http://alice:x@127.0.0.1/upload", "ftp://x/"])
async def test_an_upload_is_sent_to_no_place_that_is_not_safe(location: str) -> None:
    """§4.2."""
    async with quirky_registry() as registry:
        registry.location = location
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(Unsafe):
                await write(target_at(registries, registry.url), "app", blob_of(CONTENT))

        assert registry.received() == 0


async def test_a_location_that_leaves_tls_is_not_followed(authority: Authority) -> None:
    """§4.2: but for the registry's own name."""
    async with (
        quirky_registry(tls=authority.server().server_context()) as registry,
        quirky_registry(host="127.0.0.2") as other,
    ):
        registry.location = f"{other.url}{{path}}"
        async with open_registries(login_for(registry, authority=authority)) as registries:
            with pytest.raises(Unsafe, match="encrypted"):
                await write(target_at(registries, registry.url), "app", blob_of(CONTENT))

        assert not other.seen


async def test_a_place_for_tokens_elsewhere_gets_no_login(authority: Authority) -> None:
    """§4.2: CVE-2026-48978, GHSA-xf85-363p-868w.  Without one a token can still be had."""
    identity = authority.server("127.0.0.1", "127.0.0.2")
    async with (
        quirky_registry(tls=identity.server_context()) as registry,
        quirky_registry(tls=identity.server_context(), host="127.0.0.2") as thief,
    ):
        thief.on("GET other", token, status(401), times=9)
        registry.on("*", challenge(f"{thief.url}/token"), times=99)
        async with open_registries(login_for(registry, authority=authority)) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry.address, "app"))

        assert thief.seen
        assert not secrets_seen(thief)
        assert all("alice" not in seen.path for seen in thief.seen)


async def test_a_place_for_tokens_elsewhere_is_named_when_it_refuses(authority: Authority) -> None:
    """§4.2: --allow-realm is the way out."""
    identity = authority.server("127.0.0.1", "127.0.0.2")
    async with (
        quirky_registry(tls=identity.server_context()) as registry,
        quirky_registry(tls=identity.server_context(), host="127.0.0.2") as tokens,
    ):
        tokens.on("GET other", behind_basic(token), times=9)
        registry.on("*", challenge(f"{tokens.url}/token"), times=99)
        settings = login_for(registry, authority=authority)
        async with open_registries(settings) as registries:
            with pytest.raises(Denied) as caught:
                await registries.resolve(name_at(registry.address, "app"))
        assert f"{tokens.address}" in (caught.value.hint or "")
        assert "--allow-realm" in (caught.value.hint or "")

        allowed = login_for(registry, authority=authority, trusted_realms=frozenset({"127.0.0.2"}))
        async with open_registries(allowed) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry.address, "app"))


@pytest.mark.parametrize(
    "realm", ["http://127.0.0.1:1/token", "http://169.254.169.254/", "https://169.254.169.254/", "https://a:b@c/", ""]
)
async def test_a_place_for_tokens_must_be_safe(realm: str, authority: Authority) -> None:
    """§4.2."""
    async with quirky_registry(tls=authority.server().server_context()) as registry:
        registry.on("*", challenge(realm), times=99)
        async with open_registries(login_for(registry, authority=authority)) as registries:
            with pytest.raises((Unsafe, Denied)):
                await registries.resolve(name_at(registry.address, "app"))

        assert not secrets_seen(registry)


async def test_a_place_for_tokens_without_tls_is_that_of_its_own_host() -> None:
    """§4.2."""
    async with quirky_registry() as registry, quirky_registry(host="127.0.0.2") as other:
        other.on("GET other", token, times=9)
        registry.on("*", challenge(f"{other.url}/token"), times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(Unsafe, match="without TLS") as caught:
                await registries.resolve(name_at(registry.address, "app"))

        assert not other.seen
        assert "--allow-realm" in (caught.value.hint or "")


async def test_a_place_for_tokens_that_moves_is_not_followed() -> None:
    """§4.2: what was named first holds for the run."""
    async with quirky_registry() as registry, quirky_registry() as one, quirky_registry() as two:
        for server in (one, two):
            server.on("GET other", token, times=9)
        registry.on("HEAD manifest", challenge(f"{one.url}/token"), times=2)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry.address, "app"))

            async def moved(*_: object) -> web.StreamResponse:
                header = f'Bearer realm="{two.url}/token"'
                return web.Response(status=401, headers={"WWW-Authenticate": header})

            registry.on("*", moved, times=99)
            with pytest.raises(Unsafe, match="first named"):
                await registries.resolve(name_at(registry.address, "app"))

        assert not two.seen


async def test_a_token_server_that_sends_us_on_is_followed_without_the_login() -> None:
    """§1.4."""
    async with quirky_registry() as registry, quirky_registry() as tokens, quirky_registry() as other:
        tokens.on("GET other", behind_basic(leads_to(f"{other.url}/token")), times=9)
        other.on("GET other", token)
        registry.on("*", challenge(f"{tokens.url}/token"), times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry.address, "app"))

        assert secrets_seen(tokens)
        assert not secrets_seen(other)


async def test_a_token_server_in_trouble_is_asked_three_times_and_named() -> None:
    """§3 row 14."""
    async with quirky_registry() as registry, quirky_registry() as tokens:
        tokens.on("GET other", status(500), times=99)
        registry.on("*", challenge(f"{tokens.url}/token"), times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(RegistryError, match=f"{tokens.address}.*500"):
                await registries.resolve(name_at(registry.address, "app"))

        assert len(tokens.seen) == 3


async def test_a_token_server_that_is_not_there_is_named() -> None:
    """§3 row 14."""
    async with quirky_registry() as registry:
        registry.on("*", challenge("http://127.0.0.1:9/token"), times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9"):
                await registries.resolve(name_at(registry.address, "app"))


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}', b'{"token": "\xc3\xa9"}', b"{" * 1000, b"x" * MIB],
)
async def test_what_is_no_token_is_not_used_as_one(answer: bytes) -> None:
    """§4.2: no header is made of what could split it."""

    async def garbage(*_: object) -> web.StreamResponse:
        return web.Response(body=answer)

    async with quirky_registry() as registry, quirky_registry() as tokens:
        tokens.on("GET other", garbage, times=9)
        registry.on("*", challenge(f"{tokens.url}/token"), times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(RegistryError, match="no token"):
                await registries.resolve(name_at(registry.address, "app"))

        assert not secrets_seen(registry)


@pytest.mark.parametrize(
    "life",
    [
        {},
        {"expires_in": 0},
        {"expires_in": -5},
        {"expires_in": "300"},
        {"expires_in": True},
        {"expires_in": 10**30},
        {"expires_in": 300, "issued_at": "1999-01-01T00:00:00Z"},
        {"expires_in": 300, "issued_at": "2999-01-01T00:00:00Z"},
        {"issued_at": "nonsense"},
    ],
)
async def test_a_token_lives_for_a_minute_at_least_whatever_its_server_says(life: dict[str, object]) -> None:
    """§3 rows 15 and 50: no clock but our own monotonic one counts."""

    async def answer(*_: object) -> web.StreamResponse:
        return web.Response(body=json.dumps({"token": "t", **life}).encode())

    async with quirky_registry() as registry, quirky_registry() as tokens:
        tokens.on("GET other", answer, times=99)
        registry.on("*", challenge(f"{tokens.url}/token"), times=99)
        async with open_registries(login_for(registry)) as registries:
            for _ in range(3):
                with pytest.raises(NotFound):
                    await registries.resolve(name_at(registry.address, "app"))

        assert len(tokens.seen) == 1


class Tokens:
    """A place for tokens that can take them all back."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        self.given = 0

    async def give(self, *_: object) -> web.StreamResponse:
        self.given += 1
        self.good.add(f"Bearer t{self.given}")
        return web.json_response({"token": f"t{self.given}", "expires_in": 300})

    def guard(self, realm: str) -> Fault:
        async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.headers.get("Authorization") in self.good:
                return await handler(request)
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

        return fault


async def test_tokens_that_end_in_mid_upload_cost_one_token_and_no_byte() -> None:
    """§3 row 12."""
    content = images.noise("expiring", 6 * MIB)
    tokens = Tokens()
    async with quirky_registry() as registry, quirky_registry() as server:
        server.on("GET other", tokens.give, times=99)
        guard = tokens.guard(f"{server.url}/token")
        patches = 0

        async def ending(request: web.Request, handler: Handler) -> web.StreamResponse:
            nonlocal patches
            patches += request.method == "PATCH"
            if patches == 3:
                patches += 1
                tokens.good.clear()
            return await guard(request, handler)

        registry.on("*", ending, times=999)
        async with open_registries(login_for(registry, chunk_size=MIB)) as registries:
            await write(target_at(registries, registry.url), "app", blob_of(content), force=True)

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content)
        assert len([seen for seen in registry.requests("POST") if seen.status == 202]) == 1
    assert tokens.given == 2


async def test_many_requests_with_an_ended_token_fetch_one_new_one() -> None:
    """§3 row 12: single flight."""
    image = images.image("flight")
    tokens = Tokens()
    async with quirky_registry() as registry, quirky_registry() as server:
        server.on("GET other", tokens.give, times=99)
        registry.on("*", tokens.guard(f"{server.url}/token"), times=999)
        registry.manifests["app"] = {"v1": (image.media_type, image.content)}
        async with open_registries(login_for(registry)) as registries:
            await registries.manifest(name_at(registry.address, "app"))
            tokens.good.clear()
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(registries.manifest, name_at(registry.address, "app"))

    assert tokens.given == 2


async def test_a_registry_that_says_only_at_its_root_how_to_log_in_is_understood() -> None:
    """§1.2: a 401 without a challenge."""

    async def bare(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = wants_basic(request)
        return web.Response(status=401) if refused else await handler(request)

    async with quirky_registry() as registry:
        registry.on("GET ping", behind_basic(), times=9)
        registry.on("HEAD manifest", bare, times=9)
        registry.on("GET manifest", bare, times=9)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry.address, "app"))


async def test_a_scope_that_the_registry_misses_is_asked_for_once() -> None:
    """§1.3: insufficient_scope."""
    image = images.image("scope")
    async with quirky_registry() as registry, quirky_registry() as tokens:

        async def for_scopes(request: web.Request, _: Handler) -> web.StreamResponse:
            return web.json_response({"token": "+".join(request.query.getall("scope"))})

        async def choosy(request: web.Request, handler: Handler) -> web.StreamResponse:
            if "repository:upstream/app:pull" in request.headers.get("Authorization", ""):
                return await handler(request)
            header = (
                f'Bearer realm="{tokens.url}/token",error="insufficient_scope",scope="repository:upstream/app:pull"'
            )
            return web.Response(status=401, headers={"WWW-Authenticate": header})

        tokens.on("GET other", for_scopes, times=9)
        registry.on("*", choosy, times=99)
        registry.manifests["app"] = {"v1": (image.media_type, image.content)}
        async with open_registries(login_for(registry)) as registries:
            for _ in range(3):
                await registries.manifest(name_at(registry.address, "app"))

        assert len(tokens.seen) == 1


async def test_a_registry_that_is_never_content_is_left_after_two_tokens() -> None:
    """§3 row 13."""

    async def never(*_: object) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{tokens.url}/token"'})

    async with quirky_registry() as registry, quirky_registry() as tokens:
        tokens.on("GET other", token, times=99)
        registry.on("*", never, times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(Denied):
                await registries.manifest(name_at(registry.address, "app"))

        assert len(tokens.seen) == 1
        assert len(registry.seen) == 2


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.mark.parametrize("number", [400, 401, 403, 404, 409, 418, 500])
async def test_no_error_and_no_log_shows_a_secret(
    number: int, everything_logged: pytest.LogCaptureFixture, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """§4.3: whatever fails, and with its traceback."""
    content = images.noise("canary", 3 * MIB)

    async def no(*_: object) -> web.StreamResponse:
        return problem(number, "UNKNOWN", "no\x1b[31m way\r\nSet-Cookie: x")

    async with quirky_registry() as registry, quirky_registry() as tokens:
        tokens.on("GET other", token, times=99)
        registry.location = "{origin}{path}&sig=" + CANARY
        registry.on("PATCH session", proceed, no, no, no, no, no, no, no, no)
        registry.on("GET session", no, times=9)
        registry.on("PUT session", no, times=9)
        registry.on("*", challenge(f"{tokens.url}/token?key={CANARY}"), times=99)
        with open_upload_journal(tmp_path / "journal", registry.address) as journal:
            async with open_registries(login_for(registry, chunk_size=MIB)) as registries:
                with pytest.raises(SyncerError) as caught:
                    await write(target_at(registries, registry.url, journal=journal), "app", blob_of(content))
                shown = "".join(traceback.format_exception(caught.value)) + f"{caught.value.hint}"
                shown += repr(registries.traffic) + repr(vars(registries))

    shown += everything_logged.text + "".join(capfd.readouterr())
    assert CANARY not in shown
    assert "\x1b" not in str(caught.value)
    assert isinstance(caught.value, TargetError | Denied | NetworkError)


async def test_no_broken_connection_shows_a_secret() -> None:
    """§4.3: an address that was signed is not repeated, nor by what a library has to say of it."""
    async with quirky_registry() as registry:
        registry.location = "{origin}{path}&sig=" + CANARY
        registry.on("session", reset, times=99)
        async with open_registries(login_for(registry)) as registries:
            with pytest.raises(SyncerError) as caught:
                await write(target_at(registries, registry.url), "app", blob_of(images.noise("large", 8 * MIB)))

    assert CANARY not in "".join(traceback.format_exception(caught.value))


async def test_a_journal_of_uploads_holds_no_login(tmp_path: Path) -> None:
    """§4.3."""
    content = images.noise("journal", 3 * MIB)
    release = asyncio.Event()
    async with quirky_registry() as registry:

        async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
            written = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
            assert b"/sessions/1" in written
            assert CANARY.encode() not in written
            assert base64.b64encode(f"alice:{CANARY}".encode()) not in written
            release.set()
            return await handler(request)

        registry.on("PUT session", wait)
        registry.on("*", behind_basic(), times=99)
        with open_upload_journal(tmp_path / "journal", registry.address) as journal:
            async with open_registries(login_for(registry, chunk_size=MIB)) as registries:
                await write(target_at(registries, registry.url, journal=journal), "app", blob_of(content), force=True)

    assert release.is_set()


async def test_a_public_registry_names_no_private_place_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """§4.2."""
    scopes = {ipaddress.ip_address("127.0.0.1"): Scope.PUBLIC, ipaddress.ip_address("127.0.0.2"): Scope.PRIVATE}

    def pretended(_: type[Scope], address: Address) -> Scope:
        return scopes[address]

    monkeypatch.setattr(Scope, "of", classmethod(pretended))
    async with quirky_registry() as registry, quirky_registry(host="127.0.0.2") as private:
        registry.on("*", challenge(f"{private.url}/token"), times=99)
        trusting = login_for(registry, trusted_realms=frozenset({private.address}))
        async with open_registries(trusting) as registries:
            with pytest.raises(Unsafe, match="private"):
                await registries.resolve(name_at(registry.address, "app"))

        assert not private.seen
