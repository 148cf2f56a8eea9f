"""Builds and pushes that are killed at random instants and run again, until they are through.

A few kills here; ``make soak`` makes it sixty of each.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from syncer.bundle import open_bundle, verify_bundle
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import run_until, syncer
from tests.support.fault_proxy import FaultProxy, Link, fault_proxy
from tests.support.images import Image
from tests.support.registries import Registry

MIB = 1024 * 1024
WORKERS = 4
KILLS = [pytest.param(4, id="short"), pytest.param(60, id="soak", marks=[pytest.mark.soak, pytest.mark.timeout(1200)])]


def thin_link() -> Link:
    """Thinner than what a client can take, so that nothing waits in the buffers of its sockets."""
    return Link(bytes_per_second=16 * MIB)


def large_images() -> dict[str, Image]:
    base = images.layer("base", 5 * MIB)
    return {
        f"app-{n}": images.image(f"{n}", layers=[base, images.layer(f"{n}", 3 * MIB + n), images.layer(f"s{n}", 9000)])
        for n in range(4)
    }


def blobs_of(made: dict[str, Image]) -> dict[str, bytes]:
    return {digest: blob for image in made.values() for digest, blob in image.all_blobs().items()}


async def publish(registry: Registry, made: dict[str, Image]) -> None:
    for name, image in made.items():
        await client.push(registry, name, image, "1")


async def build_through_kills(
    home: Path, proxy: FaultProxy, made: dict[str, Image], *, kills: int, at_once: int = WORKERS
) -> int:
    """Kill a build again and again; the number of kills that struck."""
    listing = home / "images.txt"
    listing.write_text("".join(f"{proxy.registry.address}/{name}:1\n" for name in made))
    command = ("build", "--images-file", listing, "--output", home, "--concurrency", str(at_once), "--no-referrers")
    dice = random.Random(kills)
    total = sum(map(len, blobs_of(made).values()))
    struck = 0
    for _ in range(kills):
        mark = arrived(proxy) + dice.randrange(2 * total // kills)
        if await run_until(home, lambda mark=mark: arrived(proxy) >= mark, *command) is not None:  # type: ignore[misc]
            return struck
        struck += 1
    ended = await syncer(*command, home=home)
    assert ended.code == 0, ended.stderr
    return struck


def arrived(proxy: FaultProxy) -> int:
    return sum(exchange.received for exchange in proxy.exchanges.of("GET blob"))


@pytest.mark.parametrize("kills", KILLS)
async def test_a_build_killed_at_random_instants_ends_in_the_same_bytes(
    debian_registry: OpenRegistry, tmp_path: Path, kills: int
) -> None:
    made = large_images()
    total = sum(map(len, blobs_of(made).values()))
    for home in ("undisturbed", "killed"):
        (tmp_path / home).mkdir()
    async with debian_registry() as registry, fault_proxy(registry, link=thin_link()) as proxy:
        await publish(registry, made)
        await build_through_kills(tmp_path / "undisturbed", proxy, made, kills=0)
        before = arrived(proxy)

        struck = await build_through_kills(tmp_path / "killed", proxy, made, kills=kills)

    bundles = [tmp_path / home / "bundle.tar.zst" for home in ("undisturbed", "killed")]
    assert bundles[0].read_bytes() == bundles[1].read_bytes()
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"bundle.tar.zst", "images.txt"}
    assert arrived(proxy) - before <= total + struck * WORKERS * MIB


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_a_build_of_a_blob_that_comes_in_ranges_killed_at_random_instants_ends_in_its_bytes(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Each connection is slow, so that more are opened; a kill costs what all of them had in hand."""
    size, kills, connections = 240 * MIB, 8, 16
    made = {"model": images.image("model", layers=[images.layer("model", size)])}
    in_hand = connections * 2 * 2 * MIB  # a range that comes, and one that waits for those before it
    async with (
        debian_registry() as registry,
        fault_proxy(registry, link=Link(answer_bytes_per_second=4 * MIB)) as proxy,
    ):
        await publish(registry, made)
        (tmp_path / "killed").mkdir()
        struck = await build_through_kills(tmp_path / "killed", proxy, made, kills=kills, at_once=connections)
        exchanges = list(proxy.exchanges.of("GET blob"))

    ranges = [asked for each in exchanges if (asked := each.headers.get("range", "")) and not asked.endswith("-")]
    assert struck
    assert len(ranges) > size // (4 * MIB)  # of 2 MiB each: more came by these than in one stream
    assert sum(each.received for each in exchanges) <= size + MIB + struck * in_hand
    with open_bundle(tmp_path / "killed" / "bundle.tar.zst") as bundle:
        assert (await verify_bundle(bundle)).blobs == 2  # each of which has its digest


async def push_through_kills(home: Path, proxy: FaultProxy, bundle: Path, *, kills: int, total: int) -> int:
    """Kill a push again and again; the number of kills that struck."""
    command = (
        "push", "--file", bundle, "--registry", f"{proxy.registry.address}/base", "--concurrency", str(WORKERS),
        "--chunk-size", "512KiB", "--state-dir", home / "state",
    )  # fmt: skip
    dice = random.Random(kills)
    struck = 0
    for _ in range(kills):
        mark = proxy.exchanges.uploaded + dice.randrange(2 * total // kills)
        if await run_until(home, lambda mark=mark: proxy.exchanges.uploaded >= mark, *command) is not None:  # type: ignore[misc]
            return struck
        struck += 1
    ended = await syncer(*command, home=home)
    assert ended.code == 0, ended.stderr
    return struck


@pytest.mark.parametrize("kills", KILLS)
async def test_a_push_killed_at_random_instants_ends_with_everything_there(
    any_registry: OpenRegistry, tmp_path: Path, kills: int, request: pytest.FixtureRequest
) -> None:
    made = large_images()
    contents = blobs_of(made)
    total = sum(map(len, contents.values()))
    async with any_registry("source") as source:
        await publish(source, made)
        images_of = [option for name in made for option in ("--image", f"{source.address}/{name}:1")]
        built = await syncer("build", *images_of, "--output", tmp_path, home=tmp_path)
        assert built.code == 0, built.stderr

    async with any_registry("target") as target, fault_proxy(target, link=thin_link()) as proxy:
        bundle = tmp_path / "bundle.tar.zst"
        struck = await push_through_kills(tmp_path, proxy, bundle, kills=kills, total=total)

        for name, image in made.items():
            await client.assert_holds(target, f"base/{source.address.replace(':', '_')}/{name}", image, "1")
    keeps_cut_sessions = target.pid is None  # ours does, Debian's does not (registries.md, fact 1)
    lost = MIB // 2 if keeps_cut_sessions else max(map(len, contents.values()))
    assert proxy.exchanges.uploaded <= total + struck * WORKERS * lost
