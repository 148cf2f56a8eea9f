"""A sync on the workers of dask.distributed: on local processes, and by a scheduler that has workers of its own."""

from __future__ import annotations

import base64
import os
import pickle
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
import yaml

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply, Stall
from tests.support.registries import LOGIN, Registry
from tests.test_fleet_dask import CHUNK, NOBODY, ended, running, scheduler_with_workers, struck, who_speaks_to

pytestmark = pytest.mark.cluster


def write_file(home: Path, sources: list[dict[str, Any]], targets: list[str], **more: Any) -> Path:
    path = home / "sync.yaml"
    path.write_text(yaml.safe_dump({"sources": sources, "targets": [{"registry": each} for each in targets], **more}))
    return path


async def fill(registry: Registry, name: str, *tags: str, size: int = 100_000) -> None:
    await client.push(registry, name, images.image(name, layers=[images.layer(name, size)]), *tags)


async def assert_holds(target: Registry, source: Registry, name: str, *tags: str, size: int = 100_000) -> None:
    image = images.image(name, layers=[images.layer(name, size)])
    for tag in tags:
        await client.assert_holds(target, f"{source.address.replace(':', '_')}/{name}", image, tag)


async def test_two_processes_mirror_two_sources_to_two_targets(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """There is one account of the whole, as of a sync in one process, which finds nothing more to do afterwards."""
    async with AsyncExitStack() as stack:
        names = ("one", "two", "here", "there")
        one, two, here, there = [await stack.enter_async_context(debian_registry(name)) for name in names]
        await fill(one, "app", "1", "2")
        await fill(two, "tool", "1")
        await fill(two, "listed", "1")
        await fill(two, "pod", "1")
        (tmp_path / "pod.yaml").write_text(
            f"{{apiVersion: v1, kind: Pod, spec: {{containers: [{{image: '{two.address}/pod:1'}}]}}}}"
        )
        (tmp_path / "images.txt").write_text(f"{two.address}/listed:1\n{one.address}/absent:1\n")
        sources = [{"repository": f"{one.address}/app", "tags": "all"}, {"image": f"{two.address}/tool:1"}]
        sources += [{"images_file": "images.txt"}, {"profile_file": "pod.yaml"}]
        file = write_file(tmp_path, sources, [here.address, there.address])
        report = tmp_path / "report.json"

        ran = await syncer("sync", "-c", file, "--dask", "local:2", "--report", report, home=tmp_path)
        again = await syncer("sync", "-c", file, "--json", home=tmp_path)

        for target in (here, there):
            await assert_holds(target, one, "app", "1", "2")
            await assert_holds(target, two, "tool", "1")
            await assert_holds(target, two, "listed", "1")
            await assert_holds(target, two, "pod", "1")
    document = orjson.loads(report.read_bytes())
    assert ran.code == again.code == 4, ran.stderr
    assert (document["kind"], document.get("parts")) == ("run", None)
    assert {(image["source"], image["target"]) for image in document["images"]} == {
        (image["source"], image["target"]) for image in again.json["images"]
    }
    totals = document["totals"]
    assert [totals[f"images{end}"] for end in ("", "_copied", "_failed")] == [12, 10, 2]
    assert {account["registry"] for account in document["registries"]} == {
        registry.address for registry in (one, two, here, there)
    }
    assert again.json["totals"]["images_skipped"] == 10
    assert f"{here.address} has 5 of 6 images" in ran.stdout
    assert ran.stderr.count("has no repository absent") == 1  # one cause, said once


async def test_a_worker_that_is_killed_in_mid_blob_costs_one_chunk(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Another worker does its task, and goes on with the upload where it stands."""
    size = 6 * CHUNK
    async with serve_disk("source") as source, serve_disk("target") as target, fault_proxy(target) as proxy:
        await fill(source, "app", "1", size=size)
        stalled = proxy.on("PATCH", "/blobs/uploads/", Stall("request", at=CHUNK // 2), first=4)
        file = write_file(tmp_path, [{"image": f"{source.address}/app:1"}], [proxy.registry.address])
        async with running(tmp_path, "sync", "-c", file, "--dask", "local:2", "--chunk-size", "1MiB") as process:
            await struck(stalled)
            (worker,) = who_speaks_to(proxy.registry, process.pid)
            worker.kill()
            code, stderr = await ended(process)

        assert code == 0, stderr
        assert "Traceback" not in stderr
        await assert_holds(target, source, "app", "1", size=size)
    on_the_wire = sum(each.offered for each in proxy.exchanges.log if each.kind.endswith(" upload"))
    assert size < on_the_wire <= size + 2 * CHUNK  # the small blobs of the image are in it


async def test_a_limited_registry_serves_one_task_at_a_time_and_no_task_has_a_login(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """While one task reads it, and is held up, the other target gets what comes from elsewhere, and then waits.

    The registry repeats the login in a refusal, and no worker tells of that either.
    """
    theirs = tmp_path / "theirs"
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(debian_registry("one", login=LOGIN))
        two, here, there = [await stack.enter_async_context(debian_registry(name)) for name in ("two", "here", "there")]
        await fill(one, "app", "1")
        await fill(two, "tool", "1")
        proxy = await stack.enter_async_context(fault_proxy(one))
        host = proxy.registry.address
        scheduler = await stack.enter_async_context(scheduler_with_workers(tmp_path, theirs))
        refused = orjson.dumps({"errors": [{"code": "DENIED", "message": f"not with {LOGIN.password}"}]})
        proxy.on(None, "/denied/manifests/", Reply(403, body=refused), times=None)
        stalled = proxy.on(None, "/app/manifests/", wait := Stall("request", until=anyio.Event()), times=None)
        (theirs / "password").write_text(LOGIN.password)
        credentials = {"username": LOGIN.username, "password_file": str(theirs / "password")}
        file = write_file(
            tmp_path,
            [{"image": f"{address}:1"} for address in (f"{host}/app", f"{host}/denied", f"{two.address}/tool")],
            [here.address, there.address],
            registries={host: {"credentials": credentials, "requests_per_second": 500}},
        )
        words = ("sync", "-c", file, "--dask", scheduler.address, "--log-format", "json")
        process = await stack.enter_async_context(running(tmp_path, *words))
        await struck(stalled)
        with anyio.fail_after(20):
            while not await client.repositories(there):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        meanwhile = await client.repositories(here)
        kept: list[Any] = [pickle.dumps(task.run_spec) for task in scheduler.tasks.values()]
        kept += [pickle.dumps(dict(scheduler._broker._topics)), repr(scheduler.get_logs()).encode()]  # type: ignore[no-untyped-call]
        assert wait.until is not None
        wait.until.set()
        code, stderr = await ended(process)
        kept.append((tmp_path / "worker-0.log").read_bytes())

        assert code == 3, stderr
        assert "not with " in stderr
        for target in (here, there):
            await assert_holds(target, proxy.registry, "app", "1")
            await assert_holds(target, two, "tool", "1")
    assert not meanwhile
    assert any(b"bring_leg" in each and b"sync.yaml" in each for each in kept)
    encoded = base64.b64encode(f"{LOGIN.username}:{LOGIN.password}".encode())
    for each in [*kept, stderr.encode()]:
        assert LOGIN.password.encode() not in each
        assert encoded not in each


async def test_a_run_that_is_stopped_tells_how_far_it_came(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("here") as here, debian_registry("there") as there:
        await fill(source, "app", "1")
        async with fault_proxy(there) as proxy:
            stalled = proxy.on("PUT", "/manifests/", Stall("request"))
            targets = [here.address, proxy.registry.address]
            registries = {source.address: {"concurrency": 8}}  # so that one target comes after the other
            file = write_file(tmp_path, [{"image": f"{source.address}/app:1"}], targets, registries=registries)
            report = tmp_path / "report.json"
            words = ("sync", "-c", file, "--dask", "local:1", "--report", report)
            async with running(tmp_path, *words) as process:
                await struck(stalled)
                os.killpg(process.pid, signal.SIGINT)
                code, stderr = await ended(process)

    images = orjson.loads(report.read_bytes())["images"]
    assert code == 130, stderr
    assert [image["status"] for image in images] == ["copied", "unfinished"]
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("other", ["syncer", "file"])
async def test_workers_with_something_else_are_told_before_anything_is_sent(other: str, tmp_path: Path) -> None:
    """The file is the same one, and a variable in it has another value there."""
    file = write_file(tmp_path, [{"image": f"{NOBODY}/app:${{TAG:-1}}"}], [NOBODY])
    preload = "import syncer\nsyncer.__version__ = '0.0.9'\n" if other == "syncer" else ""
    async with scheduler_with_workers(tmp_path, tmp_path, preload=preload) as scheduler:
        variables = {"TAG": "2"} if other == "file" else {}

        ran = await syncer("sync", "-c", file, "--dask", scheduler.address, home=tmp_path, **variables)

    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.count("it has syncer 0.0.9" if other == "syncer" else "is another one there than here") == 1
    assert "refused the connection" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--dask nowhere", "names no Dask cluster"),
        ("--dask local:2 --dry-run", "--dry-run sends nothing"),
        ("--dask local:2 --prune", "prunes nothing"),
        ("--dask local:2 --username me --password-stdin", "stay on this machine"),
    ],
)
async def test_what_makes_no_sense_is_told(words: str, said: str, tmp_path: Path) -> None:
    file = write_file(tmp_path, [{"image": f"{NOBODY}/app:1"}], [NOBODY])

    ran = await syncer("sync", "-c", file, *words.split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr
