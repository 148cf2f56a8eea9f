"""Ctrl-C and SIGTERM end within two seconds, with nothing half-named; the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Rule, Stall


async def signalled(home: Path, rule: Rule, number: signal.Signals, *arguments: str | Path) -> tuple[int, str, float]:
    """Run a command until ``rule`` has struck, then send it a signal: its exit code, its stderr, seconds to the end."""
    async with await anyio.open_process(
        [sys.executable, "-m", "syncer", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    ) as process:
        while not rule.fired:  # noqa: ASYNC110  (the proxy that knows tells nobody)
            await anyio.sleep(0.01)
        process.send_signal(number)
        began = time.monotonic()
        code = await process.wait()
        seconds = time.monotonic() - began
        assert process.stderr is not None
        stderr = b"".join([chunk async for chunk in process.stderr]).decode()
    assert "Traceback" not in stderr, stderr
    return code, stderr, seconds


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_build_that_is_stopped_names_nothing_and_goes_on(
    debian_registry: OpenRegistry, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    image = images.image("a", layers=[images.layer("one", 3_000_000), images.layer("two", 3_000_000)])
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(registry, "app", image, "1")
        stalled = proxy.on("GET", "/blobs/", Stall("answer", at=2_500_000), first=2)
        command = ("build", "--image", f"{proxy.registry.address}/app:1", "--output", out)

        ended, stderr, seconds = await signalled(tmp_path, stalled, number, *command)
        left = {path.name for path in out.iterdir()}
        again = await syncer(*command, home=tmp_path)

    assert ended == code
    assert seconds < 2
    assert "run the same command again to go on" in stderr
    assert left == {"bundle.tar.zst.partial", "bundle.tar.zst.journal"}
    assert again.code == 0, again.stderr
    assert [path.name for path in out.iterdir()] == ["bundle.tar.zst"]


async def test_a_push_that_is_stopped_leaves_no_tag_and_no_session(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("a", layers=[images.layer("one", 3_000_000)])
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        await client.push(source, "app", image, "1")
        await syncer("build", "--image", f"{source.address}/app:1", "--output", tmp_path, home=tmp_path)
        stalled = proxy.on("PUT", "/blobs/uploads/", Stall("request", at=2_000_000))
        command = ("push", "--file", tmp_path / "bundle.tar.zst", "--registry", f"{proxy.registry.address}/base")

        ended, _, seconds = await signalled(tmp_path, stalled, signal.SIGTERM, *command)
        repository = f"base/{source.address.replace(':', '_')}/app"
        tags = await client.tags(target, repository)
        again = await syncer(*command, home=tmp_path)

        assert (ended, tags) == (143, [])
        assert seconds < 2
        assert again.code == 0, again.stderr
        await client.assert_holds(target, repository, image, "1")
