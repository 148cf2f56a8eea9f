"""What a plan says before a build, a push or a sync is what then happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from syncer.api.build import BundleFile, make_definition
from syncer.api.plan import plan_build
from syncer.report.forecast import plan_summary
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build
from tests.support.cli import run_until, syncer
from tests.support.fault_proxy import Link, fault_proxy
from tests.support.images import Image
from tests.support.memory import MemorySource
from tests.support.registries import Registry

MIB = 1024 * 1024

BASE = images.layer("base", 700_000)
SOME = {
    "team/plain:1": images.image("plain", layers=[BASE, images.layer("plain")]),
    "team/other:1": images.image("other", layers=[BASE, images.layer("other", 1_500_000)]),
    "several:1": images.multi_platform("several", base=BASE),
}


async def publish(registry: Registry, made: dict[str, Image] = SOME) -> list[str]:
    for name, image in made.items():
        repository, _, tag = name.partition(":")
        await client.push(registry, repository, image, tag)
    return [f"{registry.address}/{name}" for name in made]


def named(references: list[str]) -> list[str]:
    return [word for reference in references for word in ("--image", reference)]


@pytest.mark.parametrize("form", ["tar.zst", "tar"])
async def test_a_plan_of_a_build_knows_the_size_of_the_bundle(
    debian_registry: OpenRegistry, tmp_path: Path, form: str
) -> None:
    async with debian_registry() as source:
        references = named(await publish(source))
        planned = await syncer("plan", *references, "--format", form, "--json", home=tmp_path)
        built = await syncer(
            "build", *references, "--format", form, "--output", tmp_path, "--json", home=tmp_path
        )  # fmt: skip

    plan, report = planned.json["totals"], built.json["totals"]
    assert (planned.code, plan["images_to_copy"]) == (0, 3)
    assert plan["bytes_to_fetch"] == report["bytes_fetched"]
    assert plan["bytes_deduplicated"] == report["bytes_deduplicated"]
    assert plan["disk_bytes"] == pytest.approx((tmp_path / f"bundle.{form}").stat().st_size, abs=2048)


async def test_a_dry_run_of_a_build_writes_nothing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as source:
        references = named(await publish(source))
        ran = await syncer(
            "build", *references, "--output", tmp_path / "out", "--dry-run", "--exit-code", home=tmp_path
        )  # fmt: skip

    assert ran.code == 10
    assert "Plan Summary" in ran.stdout
    assert "disk:" in ran.stdout
    assert ran.stdout.partition("largest: ")[2].splitlines()[0].endswith(f"  {source.address}/team/other:1")
    assert not (tmp_path / "out").exists()


async def test_a_plan_of_a_build_warns_of_a_disk_without_room(
    serve_disk: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_disk() as source:
        definition = make_definition("edge", await publish(source))
        free = os.statvfs_result((4096, 4096, 4096, 500, 500, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "fstatvfs", lambda _: free)
        planned = await plan_build(definition, BundleFile(output=tmp_path / "not" / "there"))
        monkeypatch.undo()
        fits = await plan_build(definition, BundleFile(output=tmp_path / "not" / "there"))

    needed = f"{tmp_path}/not/there/edge.tar.zst needs 2.27 MB, and 2.05 MB are free"
    assert planned.warnings == (needed,)
    assert f"warning: {needed}" in plan_summary(planned)
    assert fits.warnings == ()


@pytest.mark.parametrize("command", [["plan"], ["push", "--dry-run"]])
async def test_a_plan_of_a_push_comes_true(debian_registry: OpenRegistry, tmp_path: Path, command: list[str]) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await syncer("build", *named(await publish(source)), "--output", tmp_path, home=tmp_path)
        where: list[str | Path] = ["--file", tmp_path / "bundle.tar.zst", "--registry", target.address]

        planned = await syncer(*command, *where, "--exit-code", "--json", home=tmp_path)
        untouched = await client.repositories(target)
        pushed = await syncer("push", *where, "--json", home=tmp_path)
        again = await syncer(*command, *where, "--exit-code", "--json", home=tmp_path)

    plan, report = planned.json["totals"], pushed.json["totals"]
    assert (planned.code, pushed.code, again.code) == (10, 0, 0)
    assert untouched == []
    assert (plan["bytes_to_send"], plan["bytes_to_mount"]) == (report["bytes_sent"], report["bytes_mounted"])
    assert again.json["totals"]["images_to_skip"] == 3


@pytest.mark.parametrize("command", [["plan"], ["sync", "--dry-run"]])
async def test_a_plan_of_a_sync_comes_true(debian_registry: OpenRegistry, tmp_path: Path, command: list[str]) -> None:
    async with debian_registry("source") as source, debian_registry("one") as one, debian_registry("two") as two:
        await publish(source)
        (tmp_path / "sync.yaml").write_text(
            yaml.safe_dump(
                {
                    "sources": [
                        {"repository": f"{source.address}/team/{name}", "tags": "all"} for name in ("plain", "other")
                    ]
                    + [{"image": f"{source.address}/several:1"}],
                    "targets": [{"registry": f"{registry.address}/m"} for registry in (one, two)],
                }
            )
        )
        file: list[str | Path] = ["-c", tmp_path / "sync.yaml"]

        planned = await syncer(*command, *file, "--exit-code", "--json", home=tmp_path)
        untouched = await client.repositories(one)
        synced = await syncer("sync", *file, "--json", home=tmp_path)
        again = await syncer(*command, *file, "--exit-code", home=tmp_path)

    plan, report = planned.json["totals"], synced.json["totals"]
    assert (planned.code, synced.code, again.code) == (10, 0, 0), planned.stderr + synced.stderr + again.stderr
    assert untouched == []
    assert (plan["images_to_copy"], plan["blobs_to_copy"]) == (6, report["blobs_copied"])
    assert (plan["bytes_to_send"], plan["bytes_to_mount"]) == (report["bytes_sent"], report["bytes_mounted"])
    assert sum(registry["bytes_sent"] for registry in planned.json["registries"]) == plan["bytes_to_send"]
    assert "images:  6 (6 unchanged)" in again.stdout


async def test_what_earlier_runs_saw_elsewhere_is_foreseen_as_a_mount(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        first, second, _ = await publish(source)
        where: list[str | Path] = ["--registry", f"{target.address}/m"]
        await syncer("sync", "--image", first, *where, home=tmp_path)

        planned = await syncer("plan", "--image", second, *where, "--json", home=tmp_path)
        synced = await syncer("sync", "--image", second, *where, "--json", home=tmp_path)

    assert planned.json["totals"]["bytes_to_mount"] == len(BASE.content)
    assert synced.json["totals"]["bytes_mounted"] == len(BASE.content)


async def test_an_image_that_is_not_there_is_foreseen(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as source:
        ran = await syncer("plan", "--image", f"{source.address}/lost:1", "--exit-code", home=tmp_path)

    assert ran.code == 4
    assert f"failed:  {source.address} has no repository lost\n" in ran.stdout


async def test_a_plan_needs_something_to_plan(tmp_path: Path) -> None:
    for options, problem in (
        ([], "there is nothing to plan"),
        (["--file", "x.tar.zst"], "the plan of a push needs a registry"),
        (["--registry", "localhost:1"], "there is nothing to mirror"),
        (["--config", "x.yaml", "--image", "busybox"], "not by both"),
    ):
        ran = await syncer("plan", *options, home=tmp_path)
        assert (ran.code, ran.stdout) == (2, "")
        assert problem in ran.stderr


CHUNKS = ["--chunk-size", "512KiB"]
ONE_BY_ONE = ["--concurrency", "1"]


@pytest.mark.parametrize(("plan", "options"), [(["plan"], []), (["push", "--dry-run"], CHUNKS)])
async def test_a_plan_after_a_push_that_was_killed_comes_true(
    any_registry: OpenRegistry, tmp_path: Path, plan: list[str], options: list[str]
) -> None:
    """What has arrived is not to be sent again: whole blobs, and the beginning of one where the registry keeps it."""
    large = MemorySource()
    for number in range(3):
        layers = [images.layer(f"{number}-{size}", size * MIB) for size in (1, 3)]
        large.add(f"app{number}", images.image(f"{number}", layers=layers))
    await build(bundle := tmp_path / "bundle.tar.zst", large)
    async with any_registry("target") as target, fault_proxy(target, link=Link(bytes_per_second=16 * MIB)) as proxy:
        where: list[str | Path] = ["--file", bundle, "--registry", proxy.registry.address]
        where += ["--state-dir", tmp_path / "state"]
        push = run_until(tmp_path, lambda: proxy.exchanges.uploaded > 7 * MIB, "push", *where, *CHUNKS, *ONE_BY_ONE)
        assert await push is None
        before = len(proxy.exchanges.log)

        planned = await syncer(*plan, *where, *options, "--json", home=tmp_path)
        asked = {exchange.method for exchange in proxy.exchanges.log[before:]}
        pushed = await syncer("push", *where, *options, "--json", home=tmp_path)

    foreseen, report = planned.json["totals"], pushed.json["totals"]
    assert asked <= {"GET", "HEAD"}
    assert foreseen["bytes_to_send"] == report["bytes_sent"] < 6.1 * MIB
    assert foreseen["bytes_resumed"] == report["bytes_resumed"]
    if target.pid is None and options:  # ours keeps what arrived of an upload that was cut, Debian's does not
        assert foreseen["bytes_resumed"] >= MIB // 2
