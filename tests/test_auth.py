"""Basic and Bearer, against a registry and a token server that check."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import Denied, NotFound
from syncer.registry import Credential, CredentialSettings, Registries
from syncer.registry.auth import Challenge, is_related, parse_challenges
from tests.conftest import OpenRegistry, OpenTokenServer
from tests.support import client, images
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import (
    blob_of,
    name_at,
    pull_image,
    push_image,
    registries_for,
    target_at,
    write,
)
from tests.support.tokens import granted


def logged_in_as(registry: Registry, credential: Credential) -> AbstractAsyncContextManager[Registries]:
    login = CredentialSettings(logins={registry.address: credential})
    return registries_for(registry, credentials=login)


async def test_basic_authentication_opens_a_registry(debian_registry: OpenRegistry) -> None:
    image = images.image("basic")
    async with debian_registry(login=LOGIN) as registry, registries_for(registry) as registries:
        await push_image(target_at(registries, registry), image, [name_at(registry, "app")])

        assert len(await pull_image(registries, name_at(registry, "app"))) == 4


async def test_a_wrong_password_is_denied_at_once(debian_registry: OpenRegistry) -> None:
    """§3 row 13: no second attempt with what was refused, and no word of it in the error."""
    async with (
        debian_registry(login=LOGIN) as registry,
        logged_in_as(registry, Credential("alice", "canary")) as registries,
    ):
        with pytest.raises(Denied) as caught:
            await registries.resolve(name_at(registry, "app"))

        assert "canary" not in f"{caught.value} {caught.value.hint}"
        assert "check the login" in (caught.value.hint or "")
        assert registries.traffic[registry.address].requests.total() == 3  # HEAD, HEAD with it, GET for the words


async def test_no_login_is_denied_with_a_hint(debian_registry: OpenRegistry) -> None:
    async with debian_registry(login=LOGIN) as registry, registries_for() as registries:
        with pytest.raises(Denied) as caught:
            await registries.resolve(name_at(registry, "app"))

    assert f"syncer registry-login --registry {registry.address}" in (caught.value.hint or "")


async def test_a_login_is_for_its_registry_only(debian_registry: OpenRegistry) -> None:
    """§4.3: the login that was given is not tried at another registry of the same run."""
    async with (
        debian_registry("one", login=LOGIN) as one,
        debian_registry("other", login=LOGIN) as other,
        registries_for(one) as registries,
    ):
        with pytest.raises(NotFound):
            await registries.resolve(name_at(one, "app"))
        with pytest.raises(Denied):
            await registries.resolve(name_at(other, "app"))


async def test_tokens_open_a_registry(debian_registry: OpenRegistry, token_server: OpenTokenServer) -> None:
    image = images.multi_platform("bearer")
    async with (
        token_server(login=LOGIN) as tokens,
        debian_registry(tokens=tokens) as registry,
        registries_for(registry) as registries,
    ):
        await push_image(target_at(registries, registry), image, [name_at(registry, "team/app")])
        found = await pull_image(registries, name_at(registry, "team/app"))

    assert len(found) == len(image.all_blobs()) + 4
    assert granted(tokens.asked) == [("repository:team/app:pull,push",), ("repository:team/app:pull",)]


async def test_a_token_can_be_had_without_a_login(debian_registry: OpenRegistry, token_server: OpenTokenServer) -> None:
    image = images.image("anonymous")
    async with token_server() as tokens, debian_registry(tokens=tokens) as registry:
        await client.push(registry, "app", image, "v1")
        async with registries_for(registry) as registries:
            assert len(await pull_image(registries, name_at(registry, "app"))) == 4

    assert tokens.asked[-1].username is None


@pytest.mark.parametrize("field_name", ["token", "access_token"])
async def test_both_spellings_of_a_token_are_read(
    debian_registry: OpenRegistry, token_server: OpenTokenServer, field_name: str
) -> None:
    async with token_server() as tokens, debian_registry(tokens=tokens) as registry:
        tokens.field_name = field_name
        async with registries_for(registry) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry, "app"))


async def test_many_requests_at_once_fetch_one_token(
    debian_registry: OpenRegistry, token_server: OpenTokenServer
) -> None:
    """§1.4: one token request at a time for each scope."""
    image = images.image("flight")
    async with token_server(login=LOGIN) as tokens, debian_registry(tokens=tokens) as registry:
        await client.push(registry, "app", image, "v1")
        async with registries_for(registry) as registries, anyio.create_task_group() as tasks:
            for _ in range(32):
                tasks.start_soon(registries.manifest, name_at(registry, "app"))

    assert len(granted(tokens.asked)) == 1


async def test_a_token_without_a_lifetime_is_good_for_a_minute(
    debian_registry: OpenRegistry, token_server: OpenTokenServer
) -> None:
    """§3 row 15."""
    async with token_server() as tokens, debian_registry(tokens=tokens) as registry:
        tokens.expires_in = None
        async with registries_for(registry) as registries:
            for _ in range(5):
                with pytest.raises(NotFound):
                    await registries.resolve(name_at(registry, "app"))

    assert len(granted(tokens.asked)) == 1


async def test_a_wrong_password_at_the_token_server_is_denied(
    debian_registry: OpenRegistry, token_server: OpenTokenServer
) -> None:
    """§3 row 13."""
    async with (
        token_server(login=LOGIN) as tokens,
        debian_registry(tokens=tokens) as registry,
        logged_in_as(registry, Credential("alice", "canary")) as registries,
    ):
        with pytest.raises(Denied) as caught:
            await registries.resolve(name_at(registry, "app"))

    assert "canary" not in f"{caught.value} {caught.value.hint}"
    assert len(tokens.asked) == 1


async def test_a_repository_that_the_token_does_not_cover_is_denied(
    debian_registry: OpenRegistry, token_server: OpenTokenServer
) -> None:
    """§3 row 42: the others go on."""
    async with (
        token_server(login=LOGIN) as tokens,
        debian_registry(tokens=tokens) as registry,
        registries_for(registry) as registries,
    ):
        tokens.withheld.add("secret")
        target = target_at(registries, registry)
        with pytest.raises(Denied):
            await write(target, "secret", blob_of(b"content"))

        assert await write(target, "open", blob_of(b"content"))


async def test_a_mount_needs_a_token_for_both_repositories(
    debian_registry: OpenRegistry, token_server: OpenTokenServer
) -> None:
    blob = blob_of(images.noise("mounted", 1000))
    async with (
        token_server(login=LOGIN) as tokens,
        debian_registry(tokens=tokens) as registry,
        registries_for(registry) as registries,
    ):
        target = target_at(registries, registry)
        await write(target, "one", blob)

        assert await target.mount("two", blob.descriptor, "one")

    assert granted(tokens.asked)[-1] == ("repository:two:pull,push", "repository:one:pull")


async def test_an_identity_token_is_exchanged(debian_registry: OpenRegistry, token_server: OpenTokenServer) -> None:
    async with (
        token_server(login=LOGIN, refresh_token="refresh") as tokens,
        debian_registry(tokens=tokens) as registry,
        logged_in_as(registry, Credential(identity_token="refresh")) as registries,
    ):
        with pytest.raises(NotFound):
            await registries.resolve(name_at(registry, "app"))

    assert [(request.method, request.grant_type) for request in tokens.asked] == [("POST", "refresh_token")]


async def test_a_registry_token_is_used_as_it_is(debian_registry: OpenRegistry, token_server: OpenTokenServer) -> None:
    async with token_server(login=LOGIN) as tokens, debian_registry(tokens=tokens) as registry:
        token = tokens.token("repository:app:pull")
        async with logged_in_as(registry, Credential(registry_token=token)) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry, "app"))

    assert tokens.asked == []


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Negotiate, Basic realm="a, b" , Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
            [
                ("negotiate", {}),
                ("basic", {"realm": "a, b"}),
                ("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"}),
            ],
        ),
        ('BEARER Realm = "a\\"b" , SERVICE=plain', [("bearer", {"realm": 'a"b', "service": "plain"})]),
        ("Bearer realm=https://auth/token,service=s", [("bearer", {"realm": "https://auth/token", "service": "s"})]),
        ("Negotiate YII+/abc==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Bearer realm="unterminated', [("bearer", {})]),
        (',, ,Basic realm="x",,', [("basic", {"realm": "x"})]),
        ('Bearer error="insufficient_scope"', [("bearer", {"error": "insufficient_scope"})]),
        ("", []),
        ('=,=\x00"', []),
    ],
)
def test_challenges_are_read_as_the_rfc_writes_them(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges([header])] == found


@given(st.lists(st.text(max_size=200), max_size=5))
def test_any_text_is_read_as_challenges_or_passed_over(headers: list[str]) -> None:
    for found in parse_challenges(headers):
        assert found.scheme == found.scheme.lower()


_TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=10)
_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(st.lists(st.tuples(_TOKEN, st.dictionaries(_TOKEN, _TEXT, min_size=1, max_size=4)), max_size=4))
def test_what_is_written_as_a_challenge_is_read_back(wanted: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in wanted
    )

    assert list(parse_challenges([header])) == [Challenge(scheme, parameters) for scheme, parameters in wanted]


@pytest.mark.parametrize(
    ("host", "realm", "related"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("registry.redhat.io", "sso.redhat.com", True),
        ("quay.io", "quay.io", True),
        ("mine.azurecr.io", "yours.azurecr.io", False),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "evil.s3.eu-west-1.amazonaws.com", False),
        ("registry.example.co.uk", "auth.example.co.uk", True),
        ("registry.example.co.uk", "evil.co.uk", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("registry", "auth", False),
        ("registry.example.com", "example.com.evil.org", False),
    ],
)
def test_hosts_of_one_owner_are_related(host: str, realm: str, related: bool) -> None:
    assert is_related(host, realm) is related
