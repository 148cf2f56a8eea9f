"""The registry end against Debian's docker-registry."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from syncer.content import FileBlob, Mounting, Source, Target
from syncer.errors import ChildrenUnknown, NotFound, Unreachable
from syncer.oci import Descriptor, Digest, parse_manifest
from syncer.registry import Credential, CredentialSettings
from syncer.transport import HostSettings, TransportSettings
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.registry_end import (
    QUICK,
    blob_of,
    file_blob,
    name_at,
    pull_image,
    push_image,
    read,
    registries_for,
    settings_for,
    target_at,
    write,
)
from tests.support.tls import Authority

MIB = 1024 * 1024


async def test_an_index_is_pulled_with_all_under_it_byte_for_byte(debian_registry: OpenRegistry) -> None:
    image = images.multi_platform("all", attested=True)
    async with debian_registry() as registry, registries_for(registry) as registries:
        await client.push(registry, "team/app", image, "v1")

        found = await pull_image(registries, name_at(registry, "team/app"))

    assert found == {manifest.digest: manifest.content for manifest in image.manifests()} | image.all_blobs()


async def test_an_index_is_pushed_with_all_under_it_byte_for_byte(debian_registry: OpenRegistry) -> None:
    image = images.multi_platform("all", docker=True)
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)

        await push_image(target, image, [name_at(registry, "team/app", "v1"), name_at(registry, "team/app", "v2")])

        await client.assert_holds(registry, "team/app", image, "v1", "v2")


async def test_the_ends_keep_their_protocols(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry, registries_for(registry) as registries:
        source: Source = registries
        target: Target = target_at(registries, registry)
        blob = file_blob(tmp_path, b"content")

        assert isinstance(target, Mounting)
        assert isinstance(blob, FileBlob)
        assert not isinstance(source.blob(name_at(registry, "app"), blob.descriptor), FileBlob)


async def test_resolving_a_tag_says_what_it_names(debian_registry: OpenRegistry) -> None:
    image = images.image("resolved")
    async with debian_registry() as registry, registries_for(registry) as registries:
        await client.push(registry, "app", image, "v1")

        found = await registries.resolve(name_at(registry, "app"))
        by_digest = await registries.resolve(name_at(registry, "app", None, image.digest))

    assert found == by_digest == Descriptor(image.media_type, Digest.parse(image.digest), len(image.content))


async def test_a_missing_image_is_not_found(debian_registry: OpenRegistry) -> None:
    async with debian_registry() as registry, registries_for(registry) as registries:
        with pytest.raises(NotFound, match="MANIFEST_UNKNOWN"):
            await registries.resolve(name_at(registry, "app"))
        with pytest.raises(NotFound):
            await registries.manifest(name_at(registry, "app"))
        with pytest.raises(NotFound):
            await read(registries.blob(name_at(registry, "app"), blob_of(b"nowhere").descriptor))


async def test_what_a_target_lacks_has_no_current_digest(debian_registry: OpenRegistry) -> None:
    image = images.image("current")
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)
        name = name_at(registry, "app")

        before = await target.current(name)
        await push_image(target, image, [name])

        assert before is None
        assert str(await target.current(name)) == image.digest


async def test_a_blob_is_read_from_any_byte(debian_registry: OpenRegistry) -> None:
    content = images.noise("offset", 3 * MIB)
    async with debian_registry() as registry, registries_for(registry) as registries:
        await client.push_blob(registry, "app", content)
        blob = registries.blob(name_at(registry, "app"), blob_of(content).descriptor)

        assert await read(blob) == content
        assert await read(blob, MIB + 1) == content[MIB + 1 :]
        assert await read(blob, len(content)) == b""


async def test_an_empty_blob_is_never_asked_for(debian_registry: OpenRegistry) -> None:
    async with debian_registry() as registry, registries_for(registry) as registries:
        assert await read(registries.blob(name_at(registry, "app"), blob_of(b"").descriptor)) == b""
        assert not registries.traffic


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 5 * MIB])
async def test_a_blob_arrives_whole_whatever_its_size(debian_registry: OpenRegistry, tmp_path: Path, size: int) -> None:
    content = images.noise("size", size)
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)

        assert await write(target, "from/file", file_blob(tmp_path, content))
        assert await write(target, "from/stream", blob_of(content))

        digest = images.digest_of(content)
        assert (await client.blob(registry, "from/file", digest)).content == content
        assert (await client.blob(registry, "from/stream", digest)).content == content


@pytest.mark.parametrize("size", [2 * MIB + 1, 3 * MIB, 5 * MIB - 1])
async def test_a_large_blob_arrives_in_chunks(debian_registry: OpenRegistry, tmp_path: Path, size: int) -> None:
    content = images.noise("chunks", size)
    async with debian_registry() as registry, registries_for(registry, chunk_size=MIB) as registries:
        target = target_at(registries, registry)

        await write(target, "from/file", file_blob(tmp_path, content), force=True)
        await write(target, "from/stream", blob_of(content), force=True)

        digest = images.digest_of(content)
        assert (await client.blob(registry, "from/file", digest)).content == content
        assert (await client.blob(registry, "from/stream", digest)).content == content
        traffic = registries.traffic[registry.address]
        assert traffic.requests["PATCH"] == 2 * ((size - 1) // MIB)
        assert traffic.bytes_out == 2 * size


async def test_a_small_blob_costs_two_requests_and_no_question(debian_registry: OpenRegistry) -> None:
    async with debian_registry() as registry, registries_for(registry) as registries:
        await write(target_at(registries, registry), "app", blob_of(b"small"))

        assert dict(registries.traffic[registry.address].requests) == {"POST": 1, "PUT": 1}


async def test_a_large_blob_that_is_there_is_not_sent(debian_registry: OpenRegistry) -> None:
    content = images.noise("there", 4 * MIB)
    async with debian_registry() as registry, registries_for(registry) as registries:
        await client.push_blob(registry, "app", content)

        assert not await write(target_at(registries, registry), "app", blob_of(content))
        assert dict(registries.traffic[registry.address].requests) == {"HEAD": 1}


async def test_small_blobs_are_asked_for_where_something_is(debian_registry: OpenRegistry) -> None:
    """A repository that holds another version holds most of this one; so does one whose push was interrupted."""
    image = images.image("old")
    async with debian_registry() as registry, registries_for(registry) as registries:
        await client.push(registry, "app", image, "v1")
        blobs = [blob_of(content) for content in image.all_blobs().values()]

        target = target_at(registries, registry)
        await target.current(name_at(registry, "app"))
        assert not any([await write(target, "app", blob) for blob in blobs])

        interrupted = target_at(registries, registry, interrupted=True)
        assert not any([await write(interrupted, "app", blob) for blob in blobs])
        assert all([await write(interrupted, "app", blob, force=True) for blob in blobs])


async def test_a_blob_is_mounted_from_another_repository(debian_registry: OpenRegistry) -> None:
    content = images.noise("mounted", MIB)
    blob = blob_of(content)
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)
        await write(target, "one", blob)

        assert await target.mount("two", blob.descriptor, "one")
        assert (await client.blob(registry, "two", str(blob.descriptor.digest))).content == content


async def test_a_mount_that_is_not_done_becomes_the_upload(debian_registry: OpenRegistry) -> None:
    """§3 row 20: the session that a 202 opens is used, not left behind."""
    blob = blob_of(images.noise("unmounted", 1000))
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)

        assert not await target.mount("two", blob.descriptor, "one")
        assert await write(target, "two", blob)

        assert dict(registries.traffic[registry.address].requests) == {"POST": 1, "PUT": 1}
        assert (await client.blob(registry, "two", str(blob.descriptor.digest))).content == blob.content


async def test_a_manifest_without_its_blobs_is_refused_with_their_names(debian_registry: OpenRegistry) -> None:
    image = images.image("orphan")
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)

        with pytest.raises(ChildrenUnknown) as caught:
            await target.commit("app", parse_manifest(image.content), [name_at(registry, "app")])

        assert set(caught.value.digests) == set(image.blobs)
        assert await client.tags(registry, "app") == []


async def test_an_index_without_its_manifests_is_refused_with_their_names(debian_registry: OpenRegistry) -> None:
    image = images.multi_platform("orphans")
    async with debian_registry() as registry, registries_for(registry) as registries:
        with pytest.raises(ChildrenUnknown) as caught:
            await target_at(registries, registry).commit(
                "app", parse_manifest(image.content), [name_at(registry, "app")]
            )

        assert set(caught.value.digests) == {child.digest for child in image.children}


async def test_a_manifest_without_a_name_is_stored_under_its_digest(debian_registry: OpenRegistry) -> None:
    image = images.image("nameless")
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)
        await push_image(target, image, [name_at(registry, "app", None, image.digest)])

        await client.assert_holds(registry, "app", image)
        assert await client.tags(registry, "app") == []


async def test_tags_are_listed(debian_registry: OpenRegistry) -> None:
    async with debian_registry() as registry, registries_for(registry) as registries:
        wanted = [f"v{number}" for number in range(20)]
        await client.push(registry, "app", images.image("tagged"), *wanted)

        found = [tag async for tag in registries.repository(name_at(registry, "app")).tags()]

    assert sorted(found) == sorted(wanted)


async def test_referrers_are_listed_under_a_tag_where_a_registry_has_no_api_for_them(
    debian_registry: OpenRegistry,
) -> None:
    image = images.image("subject")
    kinds = ["application/vnd.example.sbom", "application/vnd.example.signature"]
    async with debian_registry() as registry, registries_for(registry) as registries:
        target = target_at(registries, registry)
        await push_image(target, image, [name_at(registry, "app")])
        for kind in kinds:
            referrer = images.referrer(image, kind)
            await push_image(target, referrer, [name_at(registry, "app", None, referrer.digest)])
            await push_image(target, referrer, [name_at(registry, "app", None, referrer.digest)])

        found = await registries.repository(name_at(registry, "app")).tagged_referrers(Digest.parse(image.digest))

    assert [descriptor.artifact_type for descriptor in found] == kinds


async def test_a_registry_with_its_own_authority_is_trusted_when_told(
    debian_registry: OpenRegistry, authority: Authority
) -> None:
    image = images.image("tls")
    async with debian_registry(tls=authority.server(), authority=authority.certificate) as registry:
        await client.push(registry, "app", image, "v1")
        async with registries_for(registry) as registries:
            assert len(await pull_image(registries, name_at(registry, "app"))) == 4


async def test_an_unknown_authority_is_an_error_with_a_hint(
    debian_registry: OpenRegistry, authority: Authority
) -> None:
    """§3 row 33: at once, without another attempt and without a word in the clear."""
    untrusting = TransportSettings(limits=QUICK, default=HostSettings(plain_http=False))
    async with (
        debian_registry(tls=authority.server(), authority=authority.certificate) as registry,
        registries_for(registry, transport=untrusting) as registries,
    ):
        with pytest.raises(Unreachable, match="cannot be trusted") as caught:
            await registries.resolve(name_at(registry, "app"))

        assert "--ca-cert" in (caught.value.hint or "")
        assert registries.traffic[registry.address].retries == 0


async def test_a_certificate_for_another_name_is_refused(debian_registry: OpenRegistry, authority: Authority) -> None:
    """§3 row 33."""
    identity = authority.server("registry.example.com")
    async with (
        debian_registry(tls=identity, authority=authority.certificate) as registry,
        registries_for(registry) as registries,
    ):
        with pytest.raises(Unreachable, match=r"certificate of 127\.0\.0\.1:[0-9]+ is for another name"):
            await registries.resolve(name_at(registry, "app"))


async def test_insecure_means_any_certificate(debian_registry: OpenRegistry, authority: Authority) -> None:
    insecure = TransportSettings(limits=QUICK, default=HostSettings(plain_http=False, insecure=True))
    async with (
        debian_registry(tls=authority.server(expired=True), authority=authority.certificate) as registry,
        registries_for(registry, transport=insecure) as registries,
    ):
        with pytest.raises(NotFound):
            await registries.resolve(name_at(registry, "app"))


async def test_a_client_certificate_opens_the_door(debian_registry: OpenRegistry, authority: Authority) -> None:
    identity = authority.client()
    async with debian_registry(tls=authority.server(), authority=authority.certificate, client=identity) as registry:
        await client.push(registry, "app", images.image("mutual"), "v1")

        async with registries_for(registry) as registries:
            assert len(await pull_image(registries, name_at(registry, "app"))) == 4

        without = TransportSettings(limits=QUICK, default=HostSettings(plain_http=False, ca_cert=authority.certificate))
        async with registries_for(registry, transport=without) as registries:
            with pytest.raises(Unreachable) as caught:
                await registries.resolve(name_at(registry, "app"))
            assert "--tls-cert" in (caught.value.hint or "")


async def test_certificates_are_found_where_docker_keeps_them(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    identity = authority.client()
    async with debian_registry(tls=authority.server(), authority=authority.certificate, client=identity) as registry:
        directory = tmp_path / "certs.d" / registry.address
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        (directory / "client.cert").write_bytes(identity.certificate.read_bytes())
        (directory / "client.key").write_bytes(identity.key.read_bytes())
        transport = TransportSettings(
            limits=QUICK, default=HostSettings(plain_http=False), certificates=(tmp_path / "certs.d",)
        )
        async with registries_for(registry, transport=transport) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(name_at(registry, "app"))


async def test_a_registry_that_is_not_there_is_unreachable() -> None:
    """§3 row 32."""
    async with registries_for() as registries:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
            await registries.resolve(name_at("127.0.0.1:9", "app"))
        assert registries.traffic["127.0.0.1:9"].retries == 0


async def test_a_host_that_does_not_exist_is_looked_up_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """§3 row 31."""
    lookups = []

    async def lookup(host: str, *_: object, **__: object) -> None:
        lookups.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)
    async with registries_for() as registries:
        with pytest.raises(Unreachable, match=r"no-such-host\.invalid cannot be found: there is no host of that name"):
            await registries.resolve(name_at("no-such-host.invalid", "app"))

    assert lookups == ["no-such-host.invalid"] * 2


async def test_a_name_server_in_trouble_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """§3 row 31: and other hosts go on meanwhile."""
    lookups = []

    async def lookup(host: str, *_: object, **__: object) -> None:
        lookups.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)
    async with registries_for() as registries:
        with pytest.raises(Unreachable, match="cannot be looked up"):
            await registries.resolve(name_at("registry.example.com", "app"))

    assert len(lookups) == 6


def test_secrets_are_not_in_the_settings_text() -> None:
    """§4.3: whatever is printed of them in a traceback."""
    settings = settings_for(
        credentials=CredentialSettings(logins={"host": Credential("alice", "canary", "canary", "canary")})
    )

    assert "canary" not in repr(settings)
