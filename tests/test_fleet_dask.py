"""A fleet on the workers of dask.distributed: on local processes, and by a scheduler that has workers of its own."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import distributed
import orjson
import psutil
import pytest
from anyio.abc import Process

import syncer as library
from syncer.errors import Unreachable, UsageError
from syncer.fleet.dask import DaskRunner
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Rule, Stall
from tests.support.file_server import file_server
from tests.support.registries import LOGIN, Registry

pytestmark = pytest.mark.cluster

NOBODY = "127.0.0.1:9"  # the discard port: nothing listens
CHUNK = 2**20


async def bundle(source: Registry, home: Path, *, size: int = 100_000, name: str = "edge") -> Path:
    """A bundle of one image of ``source``, with one layer of ``size`` bytes."""
    await client.push(source, name, images.image(name, layers=[images.layer(name, size)]), "1")
    words = ("--image", f"{source.address}/{name}:1", "--name", name, "--output", home)
    built = await syncer("build", *words, home=home)
    assert built.code == 0, built.stderr
    return home / f"{name}.tar.zst"


async def assert_whole(registry: Registry, source: Registry, base: str, *, size: int = 100_000) -> None:
    image = images.image("edge", layers=[images.layer("edge", size)])
    await client.assert_holds(registry, f"{base}{source.address.replace(':', '_')}/edge", image, "1")


@asynccontextmanager
async def scheduler_with_workers(home: Path, *homes: Path, preload: str = "") -> AsyncIterator[distributed.Scheduler]:
    """A scheduler in this process, and a worker of its own home for each of ``homes``; ``preload`` is code they run."""
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False, dashboard_address="127.0.0.1:0")
        )
        for number, its_home in enumerate(homes):
            await stack.enter_async_context(worker(scheduler, home / f"worker-{number}", its_home, preload=preload))
        with anyio.fail_after(20):
            while len(scheduler.workers) < len(homes):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        yield scheduler


@asynccontextmanager
async def worker(
    scheduler: distributed.Scheduler, place: Path, home: Path, *, preload: str = ""
) -> AsyncIterator[Process]:
    """A worker of ``scheduler``, a process that keeps its files and its log, ``PLACE.log``, at ``place``."""
    words = ["--nthreads", "4", "--no-nanny", "--no-dashboard", "--local-directory", str(place)]
    if preload:
        code = place.with_suffix(".py")
        code.write_text(preload)
        words += ["--preload", str(code)]
    home.mkdir(exist_ok=True)
    with place.with_suffix(".log").open("wb") as log:
        async with await anyio.open_process(
            [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.address, *words],
            stdout=log,
            stderr=log,
            env=environment(home),
        ) as process:
            try:
                yield process
            finally:
                _kill(process)


def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()


@asynccontextmanager
async def running(home: Path, *words: str | Path, **variables: str) -> AsyncIterator[Process]:
    """A command while it runs, in a group of processes of its own."""
    process = await anyio.open_process(
        [sys.executable, "-m", "syncer", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home) | variables,
        start_new_session=True,
    )
    async with process:
        try:
            yield process
        finally:
            _kill(process)


async def ended(process: Process) -> tuple[int, str]:
    """The exit code of a process, and its standard error."""
    assert process.stderr is not None
    stderr = b"".join([piece async for piece in process.stderr]).decode()
    return await process.wait(), stderr


async def struck(rule: Rule) -> None:
    with anyio.fail_after(30):
        while not rule.fired:  # noqa: ASYNC110  (the proxy that knows tells nobody)
            await anyio.sleep(0.01)


def who_speaks_to(registry: Registry, below: int | None = None) -> Iterator[psutil.Process]:
    """The processes below one, or else below this one, that are connected to ``registry``."""
    port = int(registry.address.rpartition(":")[2])
    for child in psutil.Process(below).children(recursive=True):
        if any(connection.raddr[1:] == (port,) for connection in child.net_connections()):
            yield child


async def test_two_processes_bring_a_bundle_to_four_sites(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Each site ends with a line, a row and a report of its own, and all of them together keep to the limit.

    Another cluster of this machine is no trouble: it has the port that Dask's schedulers take.
    """
    async with AsyncExitStack() as stack:
        other = stack.enter_context(socket.socket())
        with suppress(OSError):  # then somebody has it
            other.bind(("127.0.0.1", 8787))
            other.listen()
        source, one, two = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "one", "two")]
        file = await bundle(source, tmp_path, size=400_000)
        sites = [f"{registry.address}/{base}" for registry in (one, two) for base in ("a", "b")]
        named = [word for site in sites for word in ("-r", site)]
        report = tmp_path / "fleet.json"
        (tmp_path / "sites").mkdir()

        pushed = await syncer(
            "push",
            *named,
            *("--file", file),
            *("--dask", "local:2", "--limit-rate", "400000"),
            *("--report", report, "--report-dir", tmp_path / "sites"),
            home=tmp_path,
        )

        assert pushed.code == 0, pushed.stderr
        for registry in (one, two):
            for base in ("a/", "b/"):
                await assert_whole(registry, source, base, size=400_000)
    rows = orjson.loads(report.read_bytes())["sites"]
    assert {row["name"]: row["state"] for row in rows} == dict.fromkeys(sites, "done")
    assert [len(list((tmp_path / "sites").iterdir())), len(pushed.stderr.splitlines())] == [4, 4]
    sending = [row["seconds"] for row in rows if row["bytes_sent"] > 400_000]
    assert len(sending) == 2  # the other base of each gets its blobs mounted
    assert min(sending) > 1.5  # two sites at a time have half of the limit each


async def test_a_worker_that_is_killed_in_mid_blob_costs_one_chunk(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Another worker does its task, and goes on with the upload where it stands."""
    size = 6 * CHUNK
    async with serve_disk("source") as source, serve_disk("target") as target:
        file = await bundle(source, tmp_path, size=size)
        async with fault_proxy(target) as proxy:
            stalled = proxy.on("PATCH", "/blobs/uploads/", Stall("request", at=CHUNK // 2), first=4)
            sites = [word for base in ("a", "b") for word in ("-r", f"{proxy.registry.address}/{base}")]
            words = ("--file", file, "--dask", "local:2", "--chunk-size", "1MiB")
            async with running(tmp_path, "push", *sites, *words) as process:
                await struck(stalled)
                (worker,) = who_speaks_to(proxy.registry, process.pid)
                worker.kill()
                code, stderr = await ended(process)

        assert code == 0, stderr
        assert "Traceback" not in stderr
        await assert_whole(target, source, "a/", size=size)
        await assert_whole(target, source, "b/", size=size)
    on_the_wire = sum(each.offered for each in proxy.exchanges.log if each.kind.endswith(" upload"))
    assert size < on_the_wire <= file.stat().st_size + CHUNK


async def test_a_worker_that_is_told_to_end_leaves_its_task_to_another(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """As Kubernetes tells it before a node goes."""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(debian_registry("source"))
        target = await stack.enter_async_context(debian_registry("target"))
        file = await bundle(source, tmp_path)
        proxy = await stack.enter_async_context(fault_proxy(target))
        scheduler = await stack.enter_async_context(scheduler_with_workers(tmp_path, tmp_path, tmp_path))
        stalled = proxy.on("PUT", "/manifests/", Stall("request"))
        words = ("push", "--file", file, "-r", proxy.registry.address, "--dask", scheduler.address)
        process = await stack.enter_async_context(running(tmp_path, *words))
        await struck(stalled)

        (its_worker,) = who_speaks_to(proxy.registry)
        its_worker.terminate()
        code, stderr = await ended(process)

        assert code == 0, stderr
        await assert_whole(target, source, "")


async def test_a_run_that_is_stopped_leaves_nobody_behind(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A terminal tells all processes of Ctrl-C, and the workers leave it to the command."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path, size=3 * CHUNK)
        async with fault_proxy(target) as proxy:
            stalled = proxy.on("PATCH", "/blobs/uploads/", Stall("request", at=100_000), first=2)
            report = tmp_path / "fleet.json"
            words = ("push", "--file", file, "-r", proxy.registry.address, "--dask", "local:1", "--chunk-size", "1MiB")
            async with running(tmp_path, *words, "--report", report) as process:
                await struck(stalled)
                children = psutil.Process(process.pid).children(recursive=True)
                began = time.monotonic()
                os.killpg(process.pid, signal.SIGINT)
                code, stderr = await ended(process)
                seconds = time.monotonic() - began
            gone, left = psutil.wait_procs(children, timeout=3)

        (row,) = orjson.loads(report.read_bytes())["sites"]
        assert code == 130
        assert (row["state"], row["error"]) == ("partial", "it was stopped before all was there")
        assert seconds < 10  # the request stands still for good
        assert "run the same command again to go on" in stderr
        assert "Traceback" not in stderr
        assert gone
        assert not left


@pytest.mark.parametrize("lost", ["the command", "the scheduler"])
async def test_workers_stop_when_nobody_waits_for_them(
    debian_registry: OpenRegistry, tmp_path: Path, lost: str
) -> None:
    """Whoever began the run is killed, or the scheduler is: then the command says so, and ends."""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(debian_registry("source"))
        target = await stack.enter_async_context(debian_registry("target"))
        file = await bundle(source, tmp_path)
        proxy = await stack.enter_async_context(fault_proxy(target))
        scheduler = await stack.enter_async_context(scheduler_with_workers(tmp_path, tmp_path))
        stalled = proxy.on("PUT", "/manifests/", Stall("request"))
        sites = [word for base in ("a", "b") for word in ("-r", f"{proxy.registry.address}/{base}")]
        words = ("push", "--file", str(file), *sites, "--dask", scheduler.address)
        process = await stack.enter_async_context(
            running(tmp_path, *words, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="500ms")
        )
        await struck(stalled)

        if lost == "the command":
            process.kill()
        else:
            await scheduler.close()
            code, stderr = await ended(process)
            assert code == 1, stderr
            assert "the Dask cluster gave the task up" in stderr
            assert "Traceback" not in stderr
        with anyio.fail_after(10):
            while list(who_speaks_to(proxy.registry)):  # noqa: ASYNC110
                await anyio.sleep(0.05)


async def test_no_login_is_in_the_graph_or_in_a_log(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """The workers look it up themselves: in the targets file's variable, which is in their environment alone."""
    theirs = tmp_path / "theirs"
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(debian_registry("source"))
        target = await stack.enter_async_context(debian_registry("target", login=LOGIN))
        file = await bundle(source, tmp_path)
        proxy = await stack.enter_async_context(fault_proxy(target))
        scheduler = await stack.enter_async_context(scheduler_with_workers(tmp_path, theirs, theirs))
        stalled = proxy.on("PUT", "/manifests/", wait := Stall("request", until=anyio.Event()))
        (theirs / "password").write_text(LOGIN.password)
        targets = tmp_path / "sites.yaml"
        targets.write_text(
            f"targets: [{{registry: '{proxy.registry.address}/{{1..2}}'}}]\n"
            f"registries:\n"
            f"  '{proxy.registry.address}':\n"
            f"    credentials: {{username: {LOGIN.username}, password_file: '{theirs}/password'}}\n"
        )
        words = ("push", "--file", file, "--targets-file", targets, "--dask", scheduler.address)
        process = await stack.enter_async_context(running(tmp_path, *words))
        await struck(stalled)

        kept: list[Any] = [pickle.dumps(task.run_spec) for task in scheduler.tasks.values()]
        kept += [pickle.dumps(dict(scheduler._broker._topics)), repr(scheduler.get_logs()).encode()]  # type: ignore[no-untyped-call]
        assert wait.until is not None
        wait.until.set()
        code, stderr = await ended(process)
        verified = await syncer("verify", *words[1:], home=tmp_path)
        kept += [(tmp_path / f"worker-{number}.log").read_bytes() for number in (0, 1)]

    assert (code, verified.code) == (0, 0), stderr + verified.stderr
    assert "is whole at 2 of 2 sites" in verified.stdout
    assert len(kept) >= 5
    assert any(b"visit_site" in each and b"sites.yaml" in each for each in kept)
    encoded = base64.b64encode(f"{LOGIN.username}:{LOGIN.password}".encode())
    for each in [*kept, stderr.encode()]:
        assert LOGIN.password.encode() not in each
        assert encoded not in each


async def test_each_worker_reads_a_bundle_on_a_web_server_with_its_own_login(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """A plan foresees the push from there too; nobody stores the bundle."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    async with AsyncExitStack() as stack:
        source, one, two = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "one", "two")]
        file = await bundle(source, tmp_path)
        server = await stack.enter_async_context(file_server(file.read_bytes(), login=LOGIN))
        scheduler = await stack.enter_async_context(scheduler_with_workers(tmp_path, theirs, theirs))
        for home in (ours, theirs):
            (home / ".docker").mkdir()
            encoded = base64.b64encode(f"{LOGIN.username}:{LOGIN.password}".encode()).decode()
            (home / ".docker" / "config.json").write_bytes(orjson.dumps({"auths": {server.address: {"auth": encoded}}}))
        words = ["--file", server.url, "-r", one.address, "-r", two.address, "--dask", scheduler.address]

        foreseen = await syncer("plan", *words, "--exit-code", "--json", home=ours)
        pushed = await syncer("push", *words, home=ours)
        (ours / ".docker" / "config.json").unlink()
        refused = await syncer("push", *words, home=ours)

        assert foreseen.code == 10, foreseen.stderr
        assert pushed.code == 0, pushed.stderr
        await assert_whole(one, source, "")
        await assert_whole(two, source, "")
    rows = orjson.loads(foreseen.stdout)["sites"]
    assert [(row["state"], row["images_to_copy"]) for row in rows] == [("behind", 1)] * 2
    assert refused.code == 3
    assert LOGIN.password not in foreseen.stderr + pushed.stderr + refused.stderr


async def test_workers_with_another_syncer_are_told_before_anything_is_sent(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source:
        file = await bundle(source, tmp_path)
        preload = "import syncer\nsyncer.__version__ = '0.0.9'\n"
        async with scheduler_with_workers(tmp_path, tmp_path, preload=preload) as scheduler:
            words = ("push", "--file", file, "-r", NOBODY, "--dask", scheduler.address)

            ran = await syncer(*words, home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.count("it has syncer 0.0.9") == 1
    assert "refused the connection" not in ran.stderr


@pytest.mark.parametrize("version", [None, "0.0.9"])
async def test_a_cluster_may_get_its_first_worker_when_there_is_work(
    debian_registry: OpenRegistry, tmp_path: Path, version: str | None
) -> None:
    """As clusters do that grow when they are used; then a worker is asked at its first task."""
    preload = f"import syncer\nsyncer.__version__ = {version!r}\n" if version else ""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(debian_registry("source"))
        target = await stack.enter_async_context(debian_registry("target"))
        file = await bundle(source, tmp_path)
        scheduler = await stack.enter_async_context(scheduler_with_workers(tmp_path))
        words = ("push", "--file", file, "-r", target.address, "--dask", scheduler.address)
        process = await stack.enter_async_context(running(tmp_path, *words))
        with anyio.fail_after(20):
            while not scheduler.tasks:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await stack.enter_async_context(worker(scheduler, tmp_path / "late", tmp_path, preload=preload))

        code, stderr = await ended(process)

        assert "the Dask cluster has no worker yet" in stderr
        if version is None:
            assert code == 0, stderr
            await assert_whole(target, source, "")
        else:
            assert code == 2, stderr
            assert "has syncer 0.0.9, and not" in stderr
            assert not await client.repositories(target)


async def test_a_bundle_that_is_another_one_at_the_workers_is_told(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """A path may lead to another file there; here it is replaced once it is open."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        other = await bundle(source, tmp_path, name="other")
        async with scheduler_with_workers(tmp_path, tmp_path) as scheduler:
            runner = DaskRunner(cluster=scheduler.address)
            async with library.open_bundle(file) as opened:
                done = await library.deploy(opened, [f"{target.address}/a"], runner=runner)
                other.replace(file)
                with pytest.raises(UsageError, match="is another bundle there than here"):
                    await library.deploy(opened, [f"{target.address}/b"], runner=runner)

        assert done.exit == 0
        assert {name.partition("/")[0] for name in await client.repositories(target)} == {"a"}


async def test_without_the_extra_one_sentence_says_so(tmp_path: Path) -> None:
    program = "import sys; sys.modules['distributed'] = None; from syncer.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["push", "--file", str(tmp_path / "absent"), "-r", NOBODY, "--dask", "local:2"]

    ran = await anyio.run_process([sys.executable, "-c", program, *words], env=environment(tmp_path), check=False)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(b"error: --dask needs dask.distributed, which is not installed\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--dask nowhere", "names no Dask cluster"),
        ("--dask local:0", "names no Dask cluster"),
        ("--dask local:2 --username me --password-stdin", "stay on this machine"),
    ],
)
async def test_what_makes_no_sense_is_told(words: str, said: str, tmp_path: Path) -> None:
    ran = await syncer("push", "--file", tmp_path / "absent", "-r", NOBODY, *words.split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr


@pytest.mark.parametrize(("scheme", "why"), [("tcp", ""), ("tls", "Dask has no certificates for TLS\n")])
async def test_a_scheduler_that_is_not_there_is_told(
    debian_registry: OpenRegistry, tmp_path: Path, scheme: str, why: str
) -> None:
    async with debian_registry("source") as source:
        file = await bundle(source, tmp_path)
    words = ("push", "--file", file, "-r", NOBODY, "--dask", f"{scheme}://{NOBODY}")

    ran = await syncer(*words, home=tmp_path, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="300ms")

    assert (ran.code, ran.stdout) == (Unreachable.exit, "")
    assert f"the Dask scheduler {scheme}://{NOBODY} cannot be reached: {why}" in ran.stderr


async def test_settings_with_a_runner_are_refused(tmp_path: Path) -> None:
    runner = DaskRunner(cluster="local:1")

    with pytest.raises(UsageError, match="settings stay in this process"):
        await library.deploy(tmp_path / "absent", [NOBODY], runner=runner, settings=library.RegistrySettings())
