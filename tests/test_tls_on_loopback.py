"""How a registry is spoken to: on a loopback address, by what stands before a name, and by the flags for TLS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.tls import Authority, Identity, answered_by

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens
IMAGE = images.image("a")


@pytest.fixture
def identity(authority: Authority) -> Identity:
    return authority.server("127.0.0.1")


async def build(home: Path, image: str, *options: str | Path) -> Ran:
    return await syncer("build", "--force", "--image", image, "--output", home / "out", *options, home=home)


@pytest.mark.parametrize("flags", [["--ca-cert"], ["--insecure"]])
async def test_flags_for_tls_mean_tls_on_a_loopback_address_too(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, tmp_path: Path, flags: list[str]
) -> None:
    options = [*flags, str(authority.certificate)] if flags == ["--ca-cert"] else flags
    async with debian_registry(tls=identity, authority=authority.certificate) as registry:
        await client.push(registry, "app", IMAGE, "1")
        built = await build(tmp_path, f"{registry.address}/app:1", *options)
        pushed = await syncer(
            "push", "--file", tmp_path / "out/bundle.tar.zst", "--registry", f"{registry.address}/x", *options,
            home=tmp_path,
        )  # fmt: skip
        there = await syncer(
            *("sync", "--image", f"{registry.address}/app:1", "--registry", f"{registry.address}/y", *options),
            home=tmp_path,
        )
        without = await build(tmp_path, f"{registry.address}/app:1")

    assert (built.code, pushed.code, there.code) == (0, 0, 0), (built, pushed, there)
    assert without.code == 1


async def test_a_client_certificate_means_tls_on_a_loopback_address_too(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    shown = authority.client()
    async with debian_registry(tls=identity, authority=authority.certificate, client=shown) as registry:
        await client.push(registry, "app", IMAGE, "1")
        flags = ("--tls-cert", shown.certificate, "--tls-key", shown.key, "--insecure")
        ran = await build(tmp_path, f"{registry.address}/app:1", *flags)

    assert ran.code == 0, ran


async def test_without_verification_a_loopback_port_that_speaks_http_is_spoken_to_by_http(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "app", IMAGE, "1")
        ran = await build(tmp_path, f"{registry.address}/app:1", "--insecure")
        certified = await build(tmp_path, f"{registry.address}/app:1", "--ca-cert", _some_authority(tmp_path))

    assert ran.code == 0, ran
    assert certified.code == 1
    assert "http://" in certified.stdout + certified.stderr  # is what to write instead


def _some_authority(directory: Path) -> Path:
    return Authority.create(directory / "other").certificate


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A port on which each connection is answered with ``content``, and then closed; empty: it says nothing."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(content)

    with answered_by(serve) as address:
        yield address


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""])
async def test_what_is_no_tls_is_taken_for_http(tmp_path: Path, answer: bytes) -> None:
    with answering(answer) as address:
        ran = await build(tmp_path, f"{address}/app:1", "--insecure", "--outage", "1")

    assert ran.code == 1
    assert "TLS" not in ran.stdout + ran.stderr


WAYS = [
    "build --image {http} --image {https} --output {out}",
    "build --images-file {list} --output {out}",
    "build --images-file {list} --build-type remote --registry {target}",
    "sync --image {http} --image {https} --registry {target}",
    "sync --images-file {list} --registry {target}",
    "plan --image {http} --image {https}",
    "plan --images-file {list} --registry {target}",
]


@pytest.mark.parametrize("way", WAYS)
async def test_what_stands_before_a_name_decides(
    debian_registry: OpenRegistry, authority: Authority, identity: Identity, tmp_path: Path, way: str
) -> None:
    """The certificate is for the one that is spoken to by TLS; the other one is spoken to by HTTP all the same."""
    async with (
        debian_registry("plain") as plain,
        debian_registry("secret", tls=identity, authority=authority.certificate) as secret,
    ):
        await client.push(plain, "app", IMAGE, "1")
        await client.push(secret, "app", IMAGE, "1")
        names = {"http": f"http://{plain.address}/app:1", "https": f"https://{secret.address}/app:1"}
        (tmp_path / "list.txt").write_text("\n".join(names.values()))
        places = {"list": tmp_path / "list.txt", "out": tmp_path / "out", "target": f"http://{plain.address}/x"}
        words = way.format(**names, **places).split()
        ran = await syncer(*words, "--ca-cert", authority.certificate, home=tmp_path)

    assert ran.code == 0, ran


async def test_a_registry_with_two_schemes_is_a_mistake(tmp_path: Path) -> None:
    ran = await build(tmp_path, f"https://{UNUSED}/app:1", "--image", f"http://{UNUSED}/other:1")

    assert ran.code == 2
    assert f"error: {UNUSED} is to be spoken to by HTTP and by HTTPS" in ran.stderr


COMMANDS = {
    "push": "push --file none.tar.zst --registry {address}",
    "verify": "verify --file {bundle} --registry {address}",
    "build": "build --image {address}/app",
    "build from a list": "build --images-file {list}",
    "sync": "sync --image {address}/app --registry {address}/x",
    "plan": "plan --image {address}/app --registry {address}/x",
    "save": "save --source {address}/bundle-definition:b",
    "copy": "copy --source {address}/bundle-definition:b --destination {address}/x",
    "list": "list --repo {address}/bundle-definition",
    "definition": "definition {address}/bundle-definition:b",
    "registry-login": "registry-login --registry {address} --username me --password-stdin",
}


@pytest.mark.parametrize("flag", ["--ca-cert", "--tls-cert", "--tls-key"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_certificate_for_http_is_a_mistake(
    authority: Authority, tmp_path: Path, command: str, flag: str
) -> None:
    for address, more in ((f"http://{UNUSED}", []), ("registry.invalid", ["--plain-http"])):
        (tmp_path / "list.txt").write_text(f"{address}/app:1\n")
        words = COMMANDS[command].format(address=address, list=tmp_path / "list.txt", bundle=tmp_path / "list.txt")
        ran = await syncer(*words.split(), *more, flag, authority.certificate, home=tmp_path, stdin="word\n")

        assert (ran.code, f"error: {flag} is of no use" in ran.stderr) == (2, True), ran


@pytest.mark.parametrize("flag", ["--insecure", "-i"])
async def test_palettes_flag_for_no_verification_does_no_harm_to_http(
    debian_registry: OpenRegistry, tmp_path: Path, flag: str
) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "app", IMAGE, "1")
        ran = await build(tmp_path, f"http://{registry.address}/app:1", flag)

    assert ran.code == 0, ran
