"""The journal of sites that have all of a bundle: with ``--trust-journal`` they cost no request at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Stall
from tests.support.registries import Registry

TRUST = "--trust-journal"


def image(version: int) -> images.Image:
    return images.image(f"version {version}", layers=[images.layer(f"version {version}", 50_000)])


async def build(source: Registry, home: Path, *names: str, file: str) -> Path:
    listed = [word for name in names for word in ("--image", f"{source.address}/{name}")]
    built = await syncer("build", *listed, "--name", file, "--output", home, home=home)
    assert built.code == 0, built.stderr
    return home / f"{file}.tar.zst"


async def push(file: Path, sites: Iterable[str], *words: str, home: Path) -> dict[str, tuple[str, int]]:
    """The state of each site and the requests that it cost, after a push that ended well."""
    pushed = await run(file, sites, *words, home=home)
    assert pushed.code == 0, pushed.stderr
    return rows(pushed)


async def run(file: Path, sites: Iterable[str], *words: str, home: Path) -> Ran:
    named = [word for site in sites for word in ("--registry", site)]
    return await syncer("push", "--file", file, *named, *words, "--json", home=home)


def rows(pushed: Ran) -> dict[str, tuple[str, int]]:
    return {row["name"]: (row["state"], row["requests"]) for row in pushed.json["sites"]}


@asynccontextmanager
async def two_versions(open_registry: OpenRegistry, home: Path) -> AsyncIterator[tuple[Registry, Path, Path]]:
    """A target, and the same tag in two bundles of which the second has other content."""
    async with open_registry("source") as source, open_registry("target") as target:
        files = []
        for version in (1, 2):
            await client.push(source, "app", image(version), "latest")
            files.append(await build(source, home, "app:latest", file=f"v{version}"))
        yield target, files[0], files[1]


async def test_a_site_that_has_everything_by_the_journal_costs_no_request(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with two_versions(debian_registry, tmp_path) as (target, file, _):
        a, b = f"{target.address}/a", f"{target.address}/b"
        await push(file, [a, b], home=tmp_path)
        assert await push(file, [a, b], home=tmp_path) == {a: ("unchanged", 2), b: ("unchanged", 2)}

        foreseen = await run(file, [a, f"{target.address}/c"], TRUST, "--dry-run", home=tmp_path)
        trusted = await run(file, [a, b, f"{target.address}/c"], TRUST, home=tmp_path)

        assert rows(foreseen)[a] == ("unchanged", 0)
        assert rows(foreseen)[f"{target.address}/c"][0] == "behind"
        assert rows(trusted)[a] == rows(trusted)[b] == ("unchanged", 0)
        assert rows(trusted)[f"{target.address}/c"][0] == "done"
        assert [row["images"] for row in trusted.json["sites"]] == [1, 1, 1]
        journals = list((tmp_path / ".local/state/syncer/fleets").iterdir())
        assert [path.stat().st_mode & 0o777 for path in journals] == [0o600]


async def test_what_workers_of_a_cluster_brought_is_in_the_journal_of_the_command(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """They have none; and where no site needs a visit, no cluster is needed."""
    async with two_versions(debian_registry, tmp_path) as (target, file, _):
        site = f"{target.address}/a"
        pushed = await push(file, [site], "--dask", "local:1", home=tmp_path)

        again = await push(file, [site], TRUST, "--dask", "tcp://127.0.0.1:9", home=tmp_path)

        assert pushed[site][0] == "done"
        assert again == {site: ("unchanged", 0)}
        (journal,) = (tmp_path / ".local/state/syncer/fleets").iterdir()
        assert journal.read_bytes().count(site.encode()) == 2  # when it began, and when it had everything


async def test_another_bundle_or_other_names_are_not_in_the_journal(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with two_versions(debian_registry, tmp_path) as (target, first, second):
        site = f"{target.address}/a"
        await push(first, [site], TRUST, home=tmp_path)

        assert (await push(first, [site], TRUST, "--map", "127.0.0.1=there", home=tmp_path))[site][1] > 0
        assert (await push(second, [site], TRUST, home=tmp_path))[site][0] == "done"


async def test_going_back_to_an_earlier_bundle_is_no_matter_of_trust(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The site had all of the first bundle once, and another one has moved its tags since."""
    async with two_versions(debian_registry, tmp_path) as (target, first, second):
        site = f"{target.address}/a"
        await push(first, [site], TRUST, home=tmp_path)
        await push(second, [site], TRUST, home=tmp_path)

        assert (await push(first, [site], TRUST, home=tmp_path))[site][0] == "done"

        assert await push(first, [site], TRUST, home=tmp_path) == {site: ("unchanged", 0)}


async def test_bundles_that_have_nothing_against_each_other_are_both_in_the_journal(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        for name in ("base", "app"):
            await client.push(source, name, images.image(name), "1")
        files = [await build(source, tmp_path, "base:1", f"{name}:1", file=name) for name in ("base", "app")]
        for file in files:
            await push(file, [target.address], TRUST, home=tmp_path)

        for file in files:
            assert await push(file, [target.address], TRUST, home=tmp_path) == {target.address: ("unchanged", 0)}


async def test_a_run_that_was_killed_leaves_what_is_finished_in_the_journal(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """And the site at which it was is asked again, also when the last line of the journal was torn."""
    async with AsyncExitStack() as stack:
        target, file, _ = await stack.enter_async_context(two_versions(debian_registry, tmp_path))
        proxy = await stack.enter_async_context(fault_proxy(target))
        proxy.on("PUT", "/manifests/", Stall("answer"), times=None)
        finished, stuck = target.address, f"{proxy.registry.address}/b"  # where nothing is yet
        named = ["-r", finished, "-r", stuck, "--at-once", "1", TRUST]
        process = await anyio.open_process(
            [sys.executable, "-m", "syncer", "push", "--file", str(file), *named],
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
        )
        assert process.stderr
        assert b"1 of 2" in await process.stderr.receive()
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        proxy.rules.clear()
        (journal,) = (tmp_path / ".local/state/syncer/fleets").iterdir()
        with journal.open("ab") as torn:
            torn.write(b'\n00000000 ["')

        again = await push(file, [finished, stuck], TRUST, home=tmp_path)

        assert again[finished] == ("unchanged", 0)
        assert again[stuck][1] > 0
        assert set((await push(file, [finished, stuck], TRUST, home=tmp_path)).values()) == {("unchanged", 0)}


async def test_fleets_that_run_at_once_share_a_journal(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with two_versions(debian_registry, tmp_path) as (target, file, _):
        sites = [f"{target.address}/{number}" for number in range(12)]
        async with anyio.create_task_group() as tasks:
            for share in (sites[:6], sites[6:]):
                tasks.start_soon(lambda share: push(file, share, home=tmp_path), share)

        assert set((await push(file, sites, TRUST, home=tmp_path)).values()) == {("unchanged", 0)}


async def test_without_a_place_for_it_a_run_goes_without_a_journal(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    async with two_versions(debian_registry, tmp_path) as (target, file, _):
        pushed = await run(file, [target.address], TRUST, "--state-dir", str(tmp_path / "file"), home=tmp_path)

        assert (pushed.code, rows(pushed)[target.address][0]) == (0, "done")
        assert pushed.stderr.count("--state-dir names another directory") == 1


async def test_trust_and_recheck_contradict_each_other(tmp_path: Path) -> None:
    ran = await syncer("push", "--file", tmp_path / "absent.tar", "-r", "a.io", TRUST, "--recheck", home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert "--trust-journal asks nothing" in ran.stderr
