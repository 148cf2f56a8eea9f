"""A sync to several targets reads each blob once, whatever becomes of a target, the source or the disk."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
import yaml
from anyio.abc import Process

from syncer.content import Item
from syncer.files import BlockFile
from syncer.oci import Digest, Reference
from syncer.transfer.plan import Needs
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, environment, syncer
from tests.support.fault_proxy import FaultProxy, Link, fault_proxy
from tests.support.faults import Flip, Reply, Reset, Stall
from tests.support.images import Image
from tests.support.registries import LOGIN, Registry
from tests.support.tls import Authority

SHARED = images.layer("shared", 60_000)
LARGE = images.layer("large", 900_000)
MADE = {
    "app": images.image("app", layers=[SHARED, LARGE]),
    "tool": images.image("tool", layers=[SHARED, images.layer("tool", 300_000)]),
}
LARGE_DIGEST = images.digest_of(LARGE.content)
SHARED_DIGEST = images.digest_of(SHARED.content)
WARNING = "warning: the spool in {state} cannot be written ({reason})"


async def publish(registry: Registry, made: Mapping[str, Image] = MADE) -> None:
    for repository, image in made.items():
        await client.push(registry, repository, image, "1")


def write_file(
    home: Path, source: Registry, targets: Iterable[Registry], made: Iterable[str] = MADE, **more: Any
) -> Path:
    path = home / "sync.yaml"
    document = {
        "sources": [{"image": f"{source.address}/{repository}:1"} for repository in made],
        "targets": [{"registry": f"http://{target.address}/m"} for target in targets],
    }
    path.write_text(yaml.safe_dump(document | more))
    return path


def landed(source: Registry, repository: str) -> str:
    return f"m/{source.address.replace(':', '_')}/{repository}"


async def assert_mirrored(target: Registry, source: Registry, made: Mapping[str, Image] = MADE) -> None:
    for repository, image in made.items():
        await client.assert_holds(target, landed(source, repository), image, "1")


async def sync(home: Path, *options: str | Path) -> Ran:
    return await syncer("sync", "-c", home / "sync.yaml", *options, "--no-progress", home=home)


def distinct(made: Iterable[Image]) -> dict[str, int]:
    """The sizes of all blobs, by digest."""
    return {digest: len(content) for image in made for digest, content in image.all_blobs().items()}


def reads(proxy: FaultProxy) -> Counter[str]:
    """How often each blob was asked for."""
    return Counter(exchange.path.rpartition("/")[2] for exchange in proxy.exchanges.of("GET blob"))


def received(proxy: FaultProxy) -> int:
    """The bytes of bodies that came from the source."""
    return sum(exchange.received for exchange in proxy.exchanges.log)


@asynccontextmanager
async def several(open_registry: OpenRegistry, names: Sequence[str]) -> AsyncIterator[list[Registry]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_registry(name)) for name in names]


@asynccontextmanager
async def running(home: Path, *options: str | Path, file: str = "sync.yaml") -> AsyncIterator[Process]:
    """The command while it runs; it is killed at the end if it still does."""
    words = ["sync", "-c", str(home / file), "--no-progress", *map(str, options)]
    process = await anyio.open_process(
        [sys.executable, "-W", "error", "-m", "syncer", *words],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def spools(process: Process) -> list[Path]:
    """The open files without a name that the process has."""
    found = []
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if entry.readlink().name.endswith("(deleted)"):
                found.append(entry)
    return found


async def until(condition: Any) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # no event tells
            await anyio.sleep(0.01)


async def until_there(registry: Registry, repository: str) -> None:
    with anyio.fail_after(20):
        while (await client.manifest(registry, repository, "1")).status != 200:  # noqa: ASYNC110  # no event tells
            await anyio.sleep(0.02)


async def test_twenty_targets_cost_their_source_no_more_than_one(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    index = images.multi_platform("index", base=SHARED, attested=True)
    tag, signature = images.cosign_signature(MADE["app"])
    made = {**MADE, "index": index}
    report = tmp_path / "report.json"
    async with debian_registry("source") as upstream, fault_proxy(upstream) as source:
        await publish(upstream, made)
        await client.push(upstream, "app", signature, tag)
        async with several(serve_disk, [f"target-{number}" for number in range(20)]) as targets:
            write_file(tmp_path, source.registry, targets, made)

            ran = await sync(tmp_path, "--report", report)

            assert ran.code == 0, ran.stderr
            for target in targets:
                await assert_mirrored(target, source.registry, made)
                await client.assert_holds(target, landed(source.registry, "app"), signature, tag)

    sizes = distinct([*made.values(), signature])
    manifests = {image.digest: len(image.content) for each in [*made.values(), signature] for image in each.manifests()}
    assert reads(source) == dict.fromkeys(sizes, 1)
    assert received(source) <= 1.02 * (sum(sizes.values()) + sum(manifests.values())) + 100 * len(source.exchanges.log)
    assert orjson.loads(report.read_bytes())["totals"]["bytes_fetched"] == sum(sizes.values())
    assert source.exchanges.kinds()["GET manifest"] == len(manifests)


async def test_a_manifest_is_fetched_once_by_those_that_have_the_tag_and_those_that_do_not(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """A target that has an older image under the tag asks first what the tag means now; another fetches at once."""
    new = {name: images.image(f"{name} 2") for name in MADE}
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
    ):
        await publish(upstream)
        write_file(tmp_path, source.registry, targets[:1])
        before = await sync(tmp_path)
        await publish(upstream, new)
        source.exchanges.log.clear()
        write_file(tmp_path, source.registry, targets)

        ran = await sync(tmp_path)

        assert (before.code, ran.code) == (0, 0), before.stderr + ran.stderr
        for target in targets:
            await assert_mirrored(target, source.registry, new)

    assert source.exchanges.kinds()["GET manifest"] == len(new)


async def test_a_source_that_breaks_off_in_mid_blob_goes_on_where_it_broke(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
    ):
        await publish(upstream)
        source.on("GET", f"/blobs/{images.digest_of(LARGE.content)}", Reset("answer", at=400_000))
        write_file(tmp_path, source.registry, targets)

        ran = await sync(tmp_path)

        assert ran.code == 0, ran.stderr
        for target in targets:
            await assert_mirrored(target, source.registry)

    asked = [exchange for exchange in source.exchanges.of("GET blob") if exchange.path.endswith(LARGE_DIGEST)]
    assert [exchange.headers.get("range") for exchange in asked] == [None, f"bytes={asked[0].received}-"]
    assert received(source) <= 1.02 * (sum(distinct(MADE.values()).values()) + 10_000)


async def test_bytes_that_were_altered_on_their_way_are_fetched_once_more(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Neither a large blob, which the targets read while it comes, nor a small one may be wrong."""
    small = SHARED_DIGEST
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
    ):
        await publish(upstream)
        for digest in (LARGE_DIGEST, small):
            source.on("GET", f"/blobs/{digest}", Flip(at=1000))
        write_file(tmp_path, source.registry, targets)

        ran = await sync(tmp_path)

        assert ran.code == 0, ran.stderr
        for target in targets:
            await assert_mirrored(target, source.registry)

    assert reads(source) == dict.fromkeys(distinct(MADE.values()), 1) | {LARGE_DIGEST: 2, small: 2}


async def test_bytes_that_stay_wrong_are_a_whole_blob_for_nobody(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """The registries of the targets would refuse them; they never get the last byte."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(debian_registry("source"))
        source = await stack.enter_async_context(fault_proxy(upstream))
        targets = [
            await stack.enter_async_context(fault_proxy(await stack.enter_async_context(debian_registry(name))))
            for name in ("one", "two")
        ]
        await publish(upstream)
        source.on("GET", f"/blobs/{LARGE_DIGEST}", Flip(at=1000), times=None)
        write_file(tmp_path, source.registry, [target.registry for target in targets])

        ran = await sync(tmp_path)

        assert ran.code == 6
        assert "at its source is not what its digest says" in ran.stdout + ran.stderr
        for target in targets:
            await assert_mirrored(target.registry, source.registry, {"tool": MADE["tool"]})
            assert (await client.manifest(target.registry, landed(source.registry, "app"), "1")).status == 404
            whole = [exchange for exchange in target.exchanges.log if exchange.sent >= len(LARGE.content)]
            assert not whole

    assert reads(source)[LARGE_DIGEST] <= 4  # twice in each of two passes


async def test_a_source_that_is_a_target_too_and_takes_one_request_at_a_time_waits_for_nobody(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """An upload to it must not hold the only request that the fetch of its blob needs, or needs again."""
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        debian_registry("target") as target,
    ):
        await publish(upstream)
        targets = [source.registry, target]
        source.on("GET", f"/blobs/{LARGE_DIGEST}", Reset("answer", at=200_000), times=4)
        limits = {registry.address: {"concurrency": 1} for registry in targets}
        write_file(tmp_path, source.registry, targets, registries=limits)

        with anyio.fail_after(30):
            ran = await sync(tmp_path, "--chunk-size", "100KB")

        assert ran.code == 0, ran.stderr
        for each in targets:
            await assert_mirrored(each, source.registry)


async def test_targets_with_tls_read_while_a_blob_comes(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    """The kernel cannot encrypt, so the file is read, as fast as the source delivers it."""
    identity = authority.server()
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream, link=Link(bytes_per_second=2_000_000)) as source,
        debian_registry("one", tls=identity, authority=authority.certificate) as one,
        debian_registry("two", tls=identity, authority=authority.certificate) as two,
    ):
        await publish(upstream)
        trusted = {target.address: {"ca_cert": str(authority.certificate)} for target in (one, two)}
        write_file(tmp_path, source.registry, [one, two], registries=trusted)
        text = (tmp_path / "sync.yaml").read_text().replace("http://", "https://")
        (tmp_path / "sync.yaml").write_text(text)

        ran = await sync(tmp_path)

        assert ran.code == 0, ran.stderr
        for target in (one, two):
            await assert_mirrored(target, source.registry)

    assert reads(source) == dict.fromkeys(distinct(MADE.values()), 1)


async def test_a_target_that_dies_leaves_the_others_their_one_read(
    debian_registry: OpenRegistry, serve_process: OpenRegistry, tmp_path: Path
) -> None:
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
        serve_process("dying") as dying,
    ):
        await publish(upstream)
        held = anyio.Event()
        source.on("GET", f"/blobs/{LARGE_DIGEST}", Stall("answer", at=300_000, until=held))
        write_file(tmp_path, source.registry, [dying, *targets])
        async with running(tmp_path, "--outage", "0") as process:
            await until(lambda: any(exchange.received >= 300_000 for exchange in source.exchanges.of("GET blob")))
            assert dying.pid is not None
            os.kill(dying.pid, signal.SIGKILL)
            held.set()
            code = await process.wait()

        for target in targets:
            await assert_mirrored(target, source.registry)

    assert code == 5
    assert reads(source) == dict.fromkeys(distinct(MADE.values()), 1)


async def test_a_target_that_stands_still_holds_up_no_other_when_the_spool_is_full(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    """It keeps what it has begun to read, and the others go on without the spool."""
    made = {
        f"app-{number}": images.image(f"{number}", layers=[images.layer(f"{number}", 400_000)]) for number in range(6)
    }
    async with (
        debian_registry("source") as source,
        serve_disk("slow") as behind,
        fault_proxy(behind) as slow,
        several(serve_disk, ["one", "two"]) as targets,
    ):
        await publish(source, made)
        let_go = anyio.Event()
        slow.on("PUT", "/blobs/uploads/", Stall("request", at=1, until=let_go), times=None)
        write_file(tmp_path, source, [slow.registry, *targets], made)
        async with running(tmp_path, "--spool-size", "1MB") as process:
            for target in targets:
                for repository in made:
                    await until_there(target, landed(source, repository))
            sizes = [spool.stat().st_size for spool in spools(process)]
            assert process.returncode is None
            let_go.set()
            code = await process.wait()

        assert code == 0
        for target in [slow.registry, *targets]:
            await assert_mirrored(target, source, made)

    assert [0 < size <= 1_000_000 for size in sizes] == [True]


@pytest.mark.parametrize("kilobytes", [256, 0])
async def test_a_spool_that_cannot_grow_is_gone_without(
    debian_registry: OpenRegistry, tmp_path: Path, kilobytes: int
) -> None:
    """As on a full disk; what fits is read from the spool all the same."""
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
    ):
        await publish(upstream)
        file = write_file(tmp_path, source.registry, targets)
        command = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$0" -m syncer sync -c "$@"', sys.executable, str(file)]
        state = tmp_path / "state"

        done = await anyio.run_process(
            [*command, "--no-progress", "--state-dir", str(state)], check=False, env=environment(tmp_path)
        )

        said = done.stderr.decode()
        assert done.returncode == 0, said
        for target in targets:
            await assert_mirrored(target, source.registry)

    assert said.count(WARNING.format(state=state, reason="File too large")) == 1, said
    counts = reads(source)
    assert 2 <= counts[LARGE_DIGEST] <= 3
    assert kilobytes == 0 or counts[SHARED_DIGEST] == 1


async def test_a_state_directory_that_cannot_be_written_is_gone_without(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
    ):
        await publish(upstream)
        write_file(tmp_path, source.registry, targets)

        ran = await sync(tmp_path, "--state-dir", tmp_path / "file" / "below")

        assert ran.code == 0, ran.stderr
        for target in targets:
            await assert_mirrored(target, source.registry)

    assert reads(source) == dict.fromkeys(distinct(MADE.values()), 2)


async def test_a_full_disk_is_gone_without(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mounted = await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(state)], check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    try:
        async with (
            debian_registry("source") as source,
            several(debian_registry, ["one", "two"]) as targets,
        ):
            await publish(source)
            write_file(tmp_path, source, targets)

            ran = await sync(tmp_path, "--state-dir", state, "--spool-size", "10MB")

            assert ran.code == 0, ran.stderr
            for target in targets:
                await assert_mirrored(target, source)
    finally:
        await anyio.run_process(["umount", str(state)])

    said = f"warning: the spool in {state} has room for 524 kB and not 10.0 MB: what does not fit is read from its"
    assert ran.stderr.count(said) == 1, ran.stderr


async def test_nothing_of_a_killed_run_is_left_and_a_running_one_is_let_be(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The file of the spool has no name, can be read by its owner alone, and holds content and nothing else."""
    state = tmp_path / "state"
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(debian_registry("source", login=LOGIN))
        source = await stack.enter_async_context(fault_proxy(upstream))
        targets = await stack.enter_async_context(several(debian_registry, ["one", "two"]))
        await publish(upstream)
        (tmp_path / "secret").write_text(LOGIN.password)
        credentials = {"username": LOGIN.username, "password_file": "secret"}
        logins = {source.registry.address: {"credentials": credentials}}
        write_file(tmp_path, source.registry, targets, registries=logins)
        shutil.copy(tmp_path / "sync.yaml", tmp_path / "again.yaml")
        source.on("GET", f"/blobs/{LARGE_DIGEST}", Stall("answer", at=700_000))
        async with running(tmp_path, "--state-dir", state) as first:
            await until(lambda: any(LARGE.content[:100_000] in spool.read_bytes() for spool in spools(first)))
            (spool,) = spools(first)
            place, status, content = spool.readlink(), spool.stat(), spool.read_bytes()

            beside = await syncer(
                *("sync", "-c", tmp_path / "again.yaml", "--state-dir", state, "--no-progress"), home=tmp_path
            )

            assert beside.code == 0, beside.stderr
            assert first.returncode is None
            first.kill()
            await first.wait()
        left = [path for path in state.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
        again = await sync(tmp_path, "--state-dir", state)

        assert again.code == 0, again.stderr
        for target in targets:
            await assert_mirrored(target, source.registry)

    assert place.parent == state
    assert (status.st_mode & 0o777, status.st_nlink) == (0o600, 0)
    for secret in (LOGIN.password.encode(), base64.b64encode(f"{LOGIN.username}:{LOGIN.password}".encode())):
        assert secret not in content
    assert not left


@pytest.mark.parametrize("count", [1, 2])
async def test_what_cannot_be_mounted_is_read_once_for_all_repositories(
    debian_registry: OpenRegistry, tmp_path: Path, count: int
) -> None:
    """A lone target is found out by its first refusal, and the blob that this was about is read twice."""
    base = images.layer("base", 200_000)
    made = {f"app-{number}": images.image(f"{number}", layers=[SHARED, base]) for number in range(5)}
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(debian_registry("source"))
        source = await stack.enter_async_context(fault_proxy(upstream))
        targets = []
        for number in range(count):
            registry = await stack.enter_async_context(debian_registry(f"target-{number}"))
            proxy = await stack.enter_async_context(fault_proxy(registry))
            proxy.on("POST", "mount=", Reply(405), times=None)
            targets.append(proxy.registry)
        await publish(upstream, made)
        write_file(tmp_path, source.registry, targets, made)

        ran = await sync(tmp_path)

        assert ran.code == 0, ran.stderr
        for target in targets:
            await assert_mirrored(target, source.registry, made)

    counts = reads(source)
    most = 1 if count > 1 else 2
    assert max(counts[images.digest_of(base.content)], counts[SHARED_DIGEST]) <= most
    assert sum(counts.values()) <= len(distinct(made.values())) + 2 * (count == 1)


async def test_a_config_that_tells_the_platform_is_read_once(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two", "three"]) as targets,
    ):
        await publish(upstream)
        write_file(tmp_path, source.registry, targets, platforms=["linux/amd64"])

        ran = await sync(tmp_path)

        assert ran.code == 0, ran.stderr

    assert reads(source) == dict.fromkeys(distinct(MADE.values()), 1)


async def test_without_a_spool_each_target_reads_from_the_source(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    size = sum(distinct(MADE.values()).values())
    async with (
        debian_registry("source") as upstream,
        fault_proxy(upstream) as source,
        several(debian_registry, ["one", "two"]) as targets,
    ):
        await publish(upstream)
        write_file(tmp_path, source.registry, targets)

        foreseen = await sync(tmp_path, "--dry-run", "--json")
        foreseen_without = await sync(tmp_path, "--dry-run", "--json", "--spool-size", "0")
        ran = await sync(tmp_path, "--spool-size", "0", "--json")
        wrong = await sync(tmp_path, "--spool-size", "much")

    assert foreseen.json["totals"]["bytes_to_fetch"] == size
    assert foreseen_without.json["totals"]["bytes_to_fetch"] == 2 * size
    assert ran.code == 0, ran.stderr
    assert ran.json["totals"]["bytes_fetched"] == 2 * size
    assert reads(source) == dict.fromkeys(distinct(MADE.values()), 2)
    assert wrong.code == 2
    assert "'much' is not a number of bytes" in wrong.stderr


def test_a_blob_is_needed_until_every_target_has_it_or_knows_that_it_has_it() -> None:
    forsaken: list[Digest] = []
    image, other, blob = Reference("r.io", "app", "1"), Reference("r.io", "tool", "1"), Digest.of(b"blob")
    items = [(target, Item(source, source)) for target in ("one", "two") for source in (image, other)]
    needs = Needs(items, forsaken.append)

    needs.foresee(image, [blob])
    needs.add("one", [blob, blob])
    needs.come_to("one", image)
    needs.remove("one", blob)
    needs.remove("one", blob)
    assert needs.of(blob) == {"two": 1}
    needs.foresee(other, [blob])
    needs.come_to("two", image)
    assert needs.of(blob) == {"one": 1, "two": 1}
    needs.leave("two")
    assert not forsaken
    needs.come_to("one", other)

    assert forsaken == [blob]
    assert blob not in needs


def test_blocks_are_used_again_and_the_disk_has_its_room_back(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as opened:
        file = BlockFile(opened.fileno(), 10 * BlockFile.BLOCK)
        content = os.urandom(3 * BlockFile.BLOCK + 5)
        first = file.take(4)
        assert first is not None
        second = file.take(file.count(len(content)))
        assert second is not None
        assert file.take(3) is None
        file.give(first)
        third = file.take(5)
        assert third is not None

        file.write(second, 0, memoryview(content)[:100])
        file.write(second, 100, memoryview(content)[100:])
        file.write(third, 0, memoryview(bytes(5 * BlockFile.BLOCK)))
        found = bytearray(len(content) - 7)
        file.read(second, 7, memoryview(found))
        size = os.fstat(file.file).st_size
        file.give([*second, *third])

        assert found == content[7:]
        assert size <= 10 * BlockFile.BLOCK
        assert os.fstat(file.file).st_size == 0


def test_a_file_that_its_disk_lets_not_grow_keeps_to_what_it_has(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as opened:
        file = BlockFile(opened.fileno(), 10 * BlockFile.BLOCK)
        blocks = file.take(3)
        assert blocks is not None
        file.write(blocks, 0, memoryview(os.urandom(3 * BlockFile.BLOCK)))

        file.shrink()
        file.give(blocks)

        assert file.limit == 3
        assert file.take(4) is None
