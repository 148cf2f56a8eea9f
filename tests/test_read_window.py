"""A bundle that memory does not hold, for sites of different speed: how often a disk reads it, as the kernel counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio import to_thread

from benchmarks.sites import run_sites
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

GROUPS = Path("/sys/fs/cgroup/memory")  # version 1, of which a test may make one of its own
MEMORY = 160 * 1024 * 1024  # bytes for the process and what it reads
LAYERS, LAYER = 8, 50_000_000
SPEEDS = (80_000_000, 60_000_000, 40_000_000, 30_000_000)  # bytes a second of the sites


@contextmanager
def little_memory() -> Iterator[Path]:
    """A group of processes that have so little memory together, with the pages of the files that they read."""
    group = GROUPS / f"syncer-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    except OSError as error:
        pytest.skip(f"no group with a limit of memory can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


async def large_bundle(open_registry: OpenRegistry, home: Path) -> Path:
    async with open_registry("source") as source:
        for number in range(LAYERS):
            made = images.image(f"app {number}", layers=[images.layer(f"app {number}", LAYER, compression="none")])
            await client.push(source, f"app{number}", made, "1")
        named = [word for number in range(LAYERS) for word in ("--image", f"{source.address}/app{number}:1")]
        built = await syncer("build", *named, "--name", "edge", "--output", home, home=home)
        assert built.code == 0, built.stderr
    return home / "edge.tar.zst"


def bytes_read(bundle: Path, window: str, home: Path) -> int:
    """What the disk reads while sites of all speeds get ``bundle``, none of which is in memory before."""
    with bundle.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with run_sites(len(SPEEDS)) as sites, little_memory() as group:
        lines = [
            f"  - {{registry: {address}/edge, bytes_per_second: {speed}}}\n"
            for address, speed in zip(sites.addresses, SPEEDS, strict=True)
        ]
        targets = home / "sites.yaml"
        targets.write_text("targets:\n" + "".join(lines))
        words = ["push", "--file", str(bundle), "--targets-file", str(targets), "--read-window", window]
        into = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", into, "sh", sys.executable, "-m", "syncer", *words, "--no-progress"], env=environment(home)
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert status == 0
    return usage.ru_inblock * 512


async def test_a_bundle_that_memory_does_not_hold_is_read_once_and_not_once_a_site(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    bundle = await large_bundle(debian_registry, tmp_path)
    size = bundle.stat().st_size
    assert size > 2 * MEMORY

    alone = await to_thread.run_sync(bytes_read, bundle, "0", tmp_path)
    together = await to_thread.run_sync(bytes_read, bundle, "40MB", tmp_path)

    if alone < size:
        pytest.skip("the file system does not count what it reads")
    assert alone > 2 * size
    assert together < 1.3 * size
