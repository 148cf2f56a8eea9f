"""Pushes to real registries through a proxy that breaks things, with a count of every byte that crossed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.errors import SyncerError
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Fault, Lose, Reply, Reset, Rewrite, Truncate
from tests.support.images import digest_of
from tests.support.registry_end import blob_of, file_blob, name_at, push_image, registries_for, target_at, write

MIB = 1024 * 1024
HALF = 500_000


@pytest.mark.parametrize("fault", [Reset("request", at=HALF), Lose(), Reply(502), Reply(500, forward=True)])
@pytest.mark.parametrize(("place", "chunk"), [("a stream", MIB), ("a file", MIB), ("a file", 2 * MIB)])
async def test_a_chunk_that_fails_is_recovered_from(
    any_registry: OpenRegistry, fault: Fault, place: str, chunk: int, tmp_path: Path
) -> None:
    """§3 rows 1, 3 and 6: by going on, or from the start where the registry keeps no session."""
    content = images.noise("chunk", 6 * MIB)
    blob = file_blob(tmp_path, content) if place == "a file" else blob_of(content)
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        async with registries_for(chunk_size=chunk) as registries:
            proxy.on("PATCH", "/uploads/", fault, first=2)
            await write(target_at(registries, proxy.registry), "app", blob, force=True)

        assert (await client.blob(registry, "app", digest_of(content))).content == content
        assert proxy.exchanges.uploaded <= len(content) + 3 * chunk


@pytest.mark.parametrize("fault", [Reset("request", at=HALF), Lose(), Reply(504, forward=True)])
async def test_a_commit_that_fails_is_settled(any_registry: OpenRegistry, fault: Fault) -> None:
    """§3 rows 2, 4 and 6."""
    content = images.noise("commit", MIB)
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        async with registries_for() as registries:
            proxy.on("PUT", "/uploads/", fault)
            await write(target_at(registries, proxy.registry), "app", blob_of(content), force=True)

        assert (await client.blob(registry, "app", digest_of(content))).content == content
        if not isinstance(fault, Reset):
            proxy.exchanges.assert_no_byte_was_sent_twice(content)


@pytest.mark.parametrize("fault", [Reset("request", at=HALF), Lose(), Reply(502)])
async def test_a_push_through_a_proxy_that_breaks_every_fifth_chunk_ends_well(
    any_registry: OpenRegistry, fault: Fault, tmp_path: Path
) -> None:
    """Or says why within its budget; on a registry that keeps no cut session the last attempt has no chunks."""
    contents = [images.noise(f"fifth {index}", 12 * MIB) for index in range(2)]
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("PATCH", "/uploads/", fault, first=5, every=5, times=None)
        async with registries_for(chunk_size=MIB) as registries:
            target = target_at(registries, proxy.registry)
            for content in contents:
                await write(target, "app", file_blob(tmp_path, content), force=True)

        for content in contents:
            assert (await client.blob(registry, "app", digest_of(content))).content == content


async def test_a_push_that_cannot_end_well_says_why(any_registry: OpenRegistry) -> None:
    content = images.noise("never", 4 * MIB)
    async with any_registry() as registry, fault_proxy(registry) as proxy, registries_for(chunk_size=MIB) as registries:
        proxy.on("PATCH", "/uploads/", Reset("request", at=1000), times=None)
        proxy.on("PUT", "/uploads/", Reset("request", at=1000), times=None)

        with pytest.raises(SyncerError, match=r"the connection broke|404"):
            await write(target_at(registries, proxy.registry), "app", blob_of(content), force=True)

        assert len(proxy.exchanges.log) < 40


async def test_a_whole_push_survives_a_bad_day(any_registry: OpenRegistry) -> None:
    """Every seventh request is lost, every eleventh answered with 503, every thirteenth cut off."""
    image = images.multi_platform("bad day", base=images.layer("shared base", 3 * MIB))
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on(None, "", Lose(), first=7, every=7, times=None)
        proxy.on(None, "", Reply(503), first=11, every=11, times=None)
        proxy.on(None, "", Reset("request", at=100), first=13, every=13, times=None)
        async with registries_for(chunk_size=MIB) as registries:
            await push_image(target_at(registries, proxy.registry), image, [name_at(proxy.registry, "team/app")])

        await client.assert_holds(registry, "team/app", image, "v1")


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": None},
        {"Range": "0--1"},
        {"Range": "bytes=0--1"},
        {"Range": "0-0"},
        {"Range": "nonsense"},
        {"Docker-Upload-UUID": None},
    ],
)
async def test_a_range_that_tells_nothing_is_asked_for_or_done_without(
    any_registry: OpenRegistry, headers: dict[str, str | None]
) -> None:
    """§3 row 18."""
    content = images.noise("range", 4 * MIB)
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on(None, "/uploads/", Rewrite("answer", headers), times=None)
        async with registries_for(chunk_size=MIB) as registries:
            await write(target_at(registries, proxy.registry), "app", blob_of(content), force=True)

        assert (await client.blob(registry, "app", digest_of(content))).content == content
        proxy.exchanges.assert_no_byte_was_sent_twice(content)


async def test_a_proxy_with_a_limit_is_kept_to(any_registry: OpenRegistry) -> None:
    """§3 row 9: nginx's page, half the body unread and the connection closed."""
    content = images.noise("limit", 6 * MIB)
    page = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("PUT", "/uploads/", Reply(413, {"Content-Type": "text/html"}, page, read=0))
        proxy.on("PATCH", "/uploads/", Reply(413, {"Content-Type": "text/html"}, page, read=10_000))
        async with registries_for() as registries:
            await write(target_at(registries, proxy.registry), "app", blob_of(content), force=True)

        assert (await client.blob(registry, "app", digest_of(content))).content == content


async def test_a_manifest_whose_answer_is_lost_is_put_again(any_registry: OpenRegistry) -> None:
    """§1.5: that does no harm."""
    image = images.image("again")
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("PUT", "/manifests/", Lose())
        proxy.on("PUT", "/manifests/", Reply(503), first=2)
        async with registries_for() as registries:
            await push_image(target_at(registries, proxy.registry), image, [name_at(proxy.registry, "app")])

        await client.assert_holds(registry, "app", image, "v1")
        assert proxy.exchanges.kinds()["PUT manifest"] == 3


async def test_a_manifest_that_is_cut_off_is_fetched_again(any_registry: OpenRegistry) -> None:
    image = images.image("cut")
    async with any_registry() as registry, fault_proxy(registry) as proxy, registries_for() as registries:
        await client.push(registry, "app", image, "v1")
        proxy.on("GET", "/manifests/", Truncate(at=100))
        proxy.on("GET", "/manifests/", Reset("answer", at=100), first=2)

        found = await registries.manifest(name_at(proxy.registry, "app"))

        assert found.content == image.content
