"""Where logins come from."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from syncer.errors import InvalidFile
from syncer.registry import AuthFile, Credential, CredentialSettings, default_auth_files
from syncer.registry.credentials import Credentials
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.registries import LOGIN
from tests.support.registry_end import name_at, pull_image, registries_for


def entry(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def auth_file(path: Path, **document: Any) -> AuthFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return AuthFile(path)


def lookup(*files: AuthFile) -> Credentials:
    return Credentials(CredentialSettings(files=files))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``docker-credential-test`` on PATH: knows one host and Docker Hub, and writes down what it was asked."""
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(
        """#!/bin/sh
read -r host || true
echo "$1 $host" >> "$0.asked"
case "$host" in
    known.example.com) echo '{"ServerURL": "x", "Username": "helped", "Secret": "canary"}' ;;
    https://index.docker.io/v1/) echo '{"Username": "<token>", "Secret": "identity"}' ;;
    broken.example.com) echo 'canary' ; exit 3 ;;
    *) echo 'credentials not found in native keychain' ; exit 1 ;;
esac
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


async def test_the_most_specific_entry_of_a_file_wins(tmp_path: Path) -> None:
    auths = {
        "example.com": entry("host", "1"),
        "example.com/team": entry("team", "2"),
        "example.com/team/app": entry("app", "3"),
    }
    credentials = lookup(auth_file(tmp_path / "auth.json", auths=auths))

    async def name(repository: str) -> str:
        found = await credentials.find("example.com", repository)
        return found.username if found else ""

    assert [await name(path) for path in ("other", "team", "team/x", "team/app", "team/app/x", "teams")] == [
        "host",
        "team",
        "team",
        "app",
        "app",
        "host",
    ]
    assert await credentials.find("example.org", "team") is None


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("example.com:5000", "example.com:5000"),
        ("https://example.com", "example.com"),
        ("https://example.com/v2/", "example.com"),
        ("http://example.com/v1", "example.com"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
    ],
)
async def test_the_ways_in_which_docker_spells_a_host_are_understood(tmp_path: Path, key: str, host: str) -> None:
    credentials = lookup(auth_file(tmp_path / "config.json", auths={key: entry("alice", "secret")}))

    assert await credentials.find(host, "library/app") == Credential("alice", "secret")


async def test_files_are_asked_in_order(tmp_path: Path) -> None:
    credentials = lookup(
        AuthFile(tmp_path / "absent.json"),
        auth_file(tmp_path / "one.json", auths={"one.example.com": entry("one", "1")}),
        auth_file(
            tmp_path / "two.json", auths={"one.example.com": entry("x", "x"), "two.example.com": entry("two", "2")}
        ),
    )

    assert await credentials.find("one.example.com", "app") == Credential("one", "1")
    assert await credentials.find("two.example.com", "app") == Credential("two", "2")


async def test_tokens_in_a_file_are_read(tmp_path: Path) -> None:
    auths = {"one.example.com": {"identitytoken": "i"}, "two.example.com": {"registrytoken": "r"}, "three": {}}
    credentials = lookup(auth_file(tmp_path / "config.json", auths=auths))

    assert await credentials.find("one.example.com", "app") == Credential(identity_token="i")
    assert await credentials.find("two.example.com", "app") == Credential(registry_token="r")
    assert await credentials.find("three", "app") is None


async def test_the_login_that_was_given_is_for_one_registry(tmp_path: Path) -> None:
    given = Credential("given", "canary")
    file = auth_file(tmp_path / "auth.json", auths={"one": entry("file", "1"), "two": entry("file", "2")})
    credentials = Credentials(CredentialSettings(logins={"one": given}, files=(file,)))

    assert await credentials.find("one", "app") == given
    assert await credentials.find("two", "app") == Credential("file", "2")
    assert await credentials.find("three", "app") is None


async def test_a_helper_is_asked_once_for_each_host(tmp_path: Path, helper: Path) -> None:
    file = auth_file(tmp_path / "config.json", credsStore="test", auths={"plain.example.com": entry("plain", "p")})
    credentials = lookup(file)

    for _ in range(3):
        assert await credentials.find("known.example.com", "app") == Credential("helped", "canary")
    assert await credentials.find("docker.io", "library/app") == Credential(identity_token="identity")
    assert await credentials.find("unknown.example.com", "app") is None
    assert await credentials.find("plain.example.com", "app") == Credential("plain", "p")
    assert credentials.notes == {}
    assert Path(f"{helper}.asked").read_text().splitlines() == [
        "get known.example.com",
        "get https://index.docker.io/v1/",
        "get unknown.example.com",
        "get plain.example.com",
    ]


async def test_a_helper_for_one_host_goes_before_the_store(tmp_path: Path, helper: Path) -> None:
    file = auth_file(tmp_path / "config.json", credsStore="absent", credHelpers={"known.example.com": "test"})
    credentials = lookup(file)

    assert await credentials.find("known.example.com", "app") == Credential("helped", "canary")
    assert await credentials.find("other.example.com", "app") is None
    assert credentials.notes == {"other.example.com": "docker-credential-absent is not installed"}


@pytest.mark.parametrize("name", ["../evil", "a b", "x/y", "$(x)"])
async def test_a_helper_is_a_name_and_no_path(tmp_path: Path, name: str) -> None:
    credentials = lookup(auth_file(tmp_path / "config.json", credsStore=name))

    assert await credentials.find("example.com", "app") is None
    assert "is no name" in credentials.notes["example.com"]


async def test_what_a_broken_helper_says_is_not_repeated(tmp_path: Path, helper: Path) -> None:
    credentials = lookup(auth_file(tmp_path / "config.json", credsStore="test"))

    assert await credentials.find("broken.example.com", "app") is None
    assert credentials.notes == {"broken.example.com": "docker-credential-test failed with exit code 3"}


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "\x00"])
async def test_a_file_that_is_no_file_of_logins_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(content)

    with pytest.raises(InvalidFile, match="file of logins"):
        await lookup(AuthFile(path)).find("example.com", "app")


async def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="there is no such file"):
        await lookup(AuthFile(tmp_path / "auth.json", is_required=True)).find("example.com", "app")


@pytest.mark.parametrize(
    "document",
    [
        {"auths": []},
        {"auths": {"example.com": 1}},
        {"auths": {"example.com": {"auth": "%%%"}}},
        {"auths": {"example.com": {"auth": base64.b64encode(b"no colon").decode()}}},
        {"auths": {"example.com": {"auth": 5, "username": [], "password": None}}},
        {"credHelpers": [], "credsStore": 7},
    ],
)
async def test_entries_that_make_no_sense_are_no_logins(tmp_path: Path, document: dict[str, Any]) -> None:
    assert await lookup(auth_file(tmp_path / "auth.json", **document)).find("example.com", "app") is None


def test_the_usual_files_are_those_of_podman_and_docker() -> None:
    environ = {
        "HOME": "/home/alice",
        "REGISTRY_AUTH_FILE": "/named.json",
        "XDG_RUNTIME_DIR": "/run/user/1",
        "DOCKER_CONFIG": "/docker",
    }

    assert default_auth_files(environ) == (
        AuthFile(Path("/named.json"), is_required=True),
        AuthFile(Path("/run/user/1/containers/auth.json")),
        AuthFile(Path("/home/alice/.config/containers/auth.json")),
        AuthFile(Path("/docker/config.json")),
    )
    assert default_auth_files({"HOME": "/home/alice"}) == (
        AuthFile(Path("/home/alice/.config/containers/auth.json")),
        AuthFile(Path("/home/alice/.docker/config.json")),
    )


async def test_a_file_of_logins_opens_a_registry(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.image("file")
    async with debian_registry(login=LOGIN) as registry:
        await client.push(registry, "app", image, "v1")
        file = auth_file(tmp_path / "auth.json", auths={registry.address: entry(LOGIN.username, LOGIN.password)})
        async with registries_for(registry, credentials=CredentialSettings(files=(file,))) as registries:
            assert len(await pull_image(registries, name_at(registry, "app"))) == 4
