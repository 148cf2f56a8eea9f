"""Limits on open files: raised as far as they may be, and named where they are met."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment

MANY = 24  # images of one layer each, all wanted at the same time
SENTENCE = "too many files and connections are open"


async def limited(limits: str, *words: str | Path, home: Path) -> subprocess.CompletedProcess[bytes]:
    """``syncer`` under ``ulimit``'s ``limits``."""
    command = ["bash", "-c", f'{limits}; exec "$0" -W error -m syncer "$@"', sys.executable, *map(str, words)]
    return await anyio.run_process(command, check=False, env=environment(home))


async def test_the_soft_limit_is_raised(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """With 24 open files no build of many images ends well, and the hard limit allows more."""
    names = []
    async with debian_registry() as registry:
        for number in range(MANY):
            await client.push(registry, f"app{number}", images.image(str(number)), "1")
            names += ["--image", f"{registry.address}/app{number}:1"]
        build = ["build", *names, "--concurrency", "64", "--output", str(tmp_path)]
        ran = await limited("ulimit -Sn 24", *build, home=tmp_path)
        kept = await limited("ulimit -n 24", *build, "--force", home=tmp_path)

    assert ran.returncode == 0, ran.stderr.decode()
    said = (kept.stdout + kept.stderr).decode()
    assert kept.returncode == 1, said
    assert SENTENCE in said
    assert "ulimit -n" in said
    assert "refused the connection" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("limit", [10, 15, 19])
async def test_a_limit_that_allows_nothing_is_named(debian_registry: OpenRegistry, tmp_path: Path, limit: int) -> None:
    """Below 20 or so the event loop cannot begin, and would end the process."""
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        build = ("build", "--image", f"{registry.address}/app:1", "--output", tmp_path)
        ran = await limited(f"ulimit -n {limit}", *build, home=tmp_path)

    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    assert ran.returncode == 1
    assert f"error: {SENTENCE}" in ran.stderr.decode()
