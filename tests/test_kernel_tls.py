"""TLS in the kernel, with which files are sent as they are without TLS.

``make test-kernel`` runs these, in a virtual machine where the kernel at hand has no TLS.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from msgspec import structs
from yarl import URL

from syncer.errors import NetworkError
from syncer.transport import HostSettings, Request, TransportSettings, open_transport
from tests.conftest import OpenRegistry
from tests.support import client, images, registry_end
from tests.support.bundles import bundled_blob
from tests.support.cli import environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Stall, Throttle
from tests.support.images import digest_of
from tests.support.registry_end import QUICK, blob_of, name_at, registries_for, target_at, write
from tests.support.tls import Authority, Identity, answered_by

pytestmark = pytest.mark.kernel

LARGE = images.layer("large", 3 * 1024 * 1024)


def connections(direction: str) -> int:
    """How many connections had their keys in the kernel so far, to send (``Tx``) or to receive (``Rx``)."""
    found = re.search(rf"^Tls{direction}Sw\s+(\d+)$", Path("/proc/net/tls_stat").read_text(), re.MULTILINE)
    assert found is not None, "this kernel has no TLS"
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Versioned(Identity):
    """A server's identity with one version of TLS."""

    version: ssl.TLSVersion

    def server_context(self, *, client_authority: Path | None = None) -> ssl.SSLContext:
        context = Identity.server_context(self, client_authority=client_authority)
        context.minimum_version = context.maximum_version = self.version
        return context


def versioned(authority: Authority, version: ssl.TLSVersion) -> Versioned:
    identity = authority.server("127.0.0.1")
    return Versioned(identity.certificate, identity.key, version)


async def test_a_push_by_tls_sends_its_blobs_from_the_bundle_itself(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    image = images.image("a", layers=[LARGE])
    identity = authority.server("127.0.0.1")
    async with (
        debian_registry("source") as source,
        debian_registry("target", tls=identity, authority=authority.certificate) as target,
    ):
        await client.push(source, "app", image, "1")
        built = await syncer("build", "--image", f"{source.address}/app:1", "--output", tmp_path / "out", home=tmp_path)
        assert built.code == 0, built
        before = connections("Tx")
        await anyio.run_process(
            [
                *("strace", "-f", "-qq", "-e", "trace=sendfile", "-o", str(calls)),
                *(sys.executable, "-m", "syncer", "push", "--file", str(tmp_path / "out/bundle.tar.zst")),
                *("--registry", f"{target.address}/x", "--ca-cert", str(authority.certificate)),
            ],
            env=environment(tmp_path),
        )

        await client.assert_holds(target, f"x/{source.address.replace(':', '_')}/app", image, "1")

    assert connections("Tx") > before
    sent = [int(count) for count in re.findall(r"sendfile\(.*\)\s+= (\d+)$", calls.read_text(), re.MULTILINE)]
    assert sum(sent) >= len(LARGE.content)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_bodies_both_ways_are_right_by_the_kernels_tls(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    content = images.noise("both ways", 13 * 1024 * 1024 + 1)  # more than buffers hold
    sending, receiving = connections("Tx"), connections("Rx")
    async with (
        bundled_blob(tmp_path, content) as bundled,
        debian_registry() as registry,
        fault_proxy(registry, tls=versioned(authority, version), authority=authority.certificate) as proxy,
        registries_for(proxy.registry) as registries,
    ):
        proxy.on("PUT", "/blobs/uploads/", Throttle(4_000_000, "request"))  # so that the kernel has to wait
        await write(target_at(registries, proxy.registry), "app", bundled, force=True)

        assert (await client.blob(registry, "app", digest_of(content))).content == content
        proxy.exchanges.assert_no_byte_was_sent_twice(content)
        again = registries.blob(name_at(proxy.registry, "app"), blob_of(content).descriptor)
        assert await registry_end.poured(again) == content

    assert connections("Tx") > sending
    if version == ssl.TLSVersion.TLSv1_2:  # before 3.2 OpenSSL leaves what it receives by 1.3 to itself
        assert connections("Rx") > receiving


async def test_an_upload_by_the_kernels_tls_that_stands_still_is_taken_up_again(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    content = images.noise("slow", 24 * 1024 * 1024)
    limits = structs.replace(QUICK, idle=1.0)
    identity = authority.server("127.0.0.1")
    async with (
        bundled_blob(tmp_path, content) as bundled,
        debian_registry() as registry,
        fault_proxy(registry, tls=identity, authority=authority.certificate) as proxy,
        registries_for(proxy.registry, limits=limits) as registries,
    ):
        stalled = proxy.on("PUT", "/blobs/uploads/", Stall("request", at=100_000))
        with anyio.fail_after(30):
            await write(target_at(registries, proxy.registry), "app", bundled, force=True)

        assert stalled.fired
        assert (await client.blob(registry, "app", digest_of(content))).content == content


async def test_after_a_failure_of_tls_the_kernel_does_none_of_it(
    debian_registry: OpenRegistry, authority: Authority
) -> None:
    """It may be the kernel's fault, and a run is not to fail by it again and again."""
    identity = authority.server("127.0.0.1")
    context = identity.server_context()

    def spoil(connection: socket.socket) -> None:
        """Agree on keys, and then send what is not encrypted by them."""
        with suppress(OSError):
            encrypted = context.wrap_socket(connection, server_side=True)
            encrypted.recv(4096)
            with socket.socket(fileno=encrypted.detach()) as bare:
                bare.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))

    settings = TransportSettings(limits=QUICK, default=HostSettings(ca_cert=authority.certificate))
    async with (
        debian_registry(tls=identity, authority=authority.certificate) as registry,
        open_transport(settings) as transport,
    ):

        async def ask(address: str) -> int:
            transport.leave(address)
            request = Request(method="GET", url=URL(f"https://{address}/v2/"), pour=lambda *_: None)
            return (await transport.ask(request)).status

        before = connections("Tx")
        assert await ask(registry.address) == 200
        assert connections("Tx") == before + 1
        with answered_by(spoil) as address, pytest.raises(NetworkError):
            await ask(address)
        failed = connections("Tx")
        assert await ask(registry.address) == 200

        assert connections("Tx") == failed
