"""Two runs at the same work: the second one says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Stall


async def test_the_second_of_two_builds_of_one_bundle_exits_75(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """§3 row 47."""
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(registry, "app", images.image("a"), "1")
        stalled = proxy.on("GET", "/blobs/", Stall("answer"), times=None)
        command = ["build", "--image", f"{proxy.registry.address}/app:1", "--output", str(tmp_path / "out")]
        async with await anyio.open_process(
            [sys.executable, "-m", "syncer", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(tmp_path),
        ) as first:
            while not stalled.fired:  # noqa: ASYNC110  (a proxy tells nobody)
                await anyio.sleep(0.01)

            second = await syncer(*command, home=tmp_path)

            first.kill()

    assert second.code == 75
    assert "bundle.tar.zst" in second.stderr
    assert len([line for line in second.stderr.splitlines() if line.startswith("error: ")]) == 1
