"""Registries that are killed again and again, and scanners that hold content back, for as long as they really take.

All of them are processes, and so is the command; ``make soak`` runs these.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.images import Image
from tests.support.registries import Registry
from tests.support.scanner import scanner

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

IMAGES = 150
RESTARTS = 3
AWAY = 1.0, 12.0  # seconds; the attempts of a request are over in eight, as a rule
HELD_BACK = 75.0  # seconds: longer than all else is waited for, and shorter than blobs are


def many_images() -> dict[str, Image]:
    return {f"app{n}": images.image(f"app {n}", layers=[images.layer(f"app {n}", 60_000)]) for n in range(IMAGES)}


async def fill(registry: Registry, made: dict[str, Image], home: Path) -> Path:
    """Push the images, and list their names in a file."""
    for name, image in made.items():
        await client.push(registry, name, image, "1")
    listing = home / "images.txt"
    listing.write_text("".join(f"{registry.address}/{name}:1\n" for name in made))
    return listing


@pytest.mark.parametrize("behind_a_proxy", [False, True], ids=["direct", "behind a proxy"])
@pytest.mark.parametrize("command", ["build", "push", "sync"])
async def test_a_registry_that_is_killed_again_and_again_fails_nothing(
    debian_registry: OpenRegistry, tmp_path: Path, command: str, behind_a_proxy: bool
) -> None:
    """§3 rows 6 and 32."""
    made, dice = many_images(), random.Random(command)
    ran: list[Ran] = []
    words: list[str | Path]
    async with debian_registry("other") as other, AsyncExitStack() as stack:
        life = await stack.enter_async_context(AsyncExitStack())
        killed = await life.enter_async_context(debian_registry("killed"))
        port = int(killed.address.rpartition(":")[2])
        seen = await stack.enter_async_context(scanner(killed, tmp_path / "proxy")) if behind_a_proxy else killed
        if command == "build":
            await fill(killed, made, tmp_path)
            listing = tmp_path / "images.txt"
            listing.write_text(listing.read_text().replace(killed.address, seen.address))
            words = ["build", "--images-file", listing, "--output", tmp_path]
        else:
            listing = await fill(other, made, tmp_path)
            words = ["sync", "--images-file", listing, "--registry", f"{seen.address}/m"]
        if command == "push":
            await syncer("build", "--images-file", listing, "--output", tmp_path, home=tmp_path)
            words = ["push", "--file", tmp_path / "bundle.tar.zst", "--registry", f"{seen.address}/m"]

        async def run() -> None:
            ran.append(await syncer(*words, "--concurrency", "4", "--json", home=tmp_path))

        def has_begun() -> bool:
            """Whether the registry has answered: one that never did is not waited for."""
            if command == "build":
                return (tmp_path / "bundle.tar.zst.partial").exists()
            return any(killed.directory.rglob("blobs/**/data"))

        restarts = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            while not has_begun():  # noqa: ASYNC110  (a registry tells nobody)
                await anyio.sleep(0.01)
            while not ran and restarts < RESTARTS:
                await anyio.sleep(dice.uniform(0.1, 1.0))
                await life.aclose()
                await anyio.sleep(dice.uniform(*AWAY))
                await life.enter_async_context(debian_registry("killed", port=port))
                restarts += not ran

        assert ran[0].code == 0, ran[0].stdout + ran[0].stderr
        assert restarts
        if command == "sync":
            place = f"m/{other.address.replace(':', '_')}"
            for name, image in made.items():
                await client.assert_holds(killed, f"{place}/{name}", image, "1")
        else:
            there = ["--registry", f"{killed.address}/m"] if command == "push" else []
            checked = await syncer("verify", "--file", tmp_path / "bundle.tar.zst", *there, home=tmp_path)
            assert checked.code == 0, checked.stdout + checked.stderr


async def test_scanners_that_hold_each_blob_back_for_longer_than_a_minute_are_waited_for(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """§3 rows 5 and 29: at the source before the first byte, at the target before the answer to the last."""
    made = {f"app{n}": images.image(f"app {n}", layers=[images.layer(f"app {n}", 300_000)]) for n in range(6)}
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        scanner(source, tmp_path / "before", seconds=HELD_BACK) as before,
        scanner(target, tmp_path / "behind", seconds=HELD_BACK) as behind,
    ):
        await fill(source, made, tmp_path)
        names = [word for name in made for word in ("--image", f"{before.address}/{name}:1")]
        began = time.monotonic()

        ran = await syncer("sync", *names, "--registry", f"{behind.address}/m", "--json", home=tmp_path)
        took = time.monotonic() - began

        assert ran.code == 0, ran.stdout + ran.stderr
        for name, image in made.items():
            await client.assert_holds(target, f"m/{before.address.replace(':', '_')}/{name}", image, "1")
        assert before.log
        asked = Counter(
            line for line in before.log.read_text().splitlines() if line.startswith("GET") and "/blobs/" in line
        )

    assert took > HELD_BACK
    assert set(asked.values()) == {1}, "a scan was begun anew"
