"""The shards of a sync: several machines share one file, and together they do all of it once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncer.api.prune import prune
from syncer.api.sources import open_sources
from syncer.api.state import hold_lock
from syncer.api.sync import sync
from syncer.errors import UsageError
from syncer.formats.units import Shard
from syncer.profiles.syncfile.sync_file import read_sync_file
from syncer.registry import RegistrySettings
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.chart_repository import chart_repository
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.registries import Registry
from tests.test_sync_imgpkg import at, bundle, lock

SHARDS = ("1/3", "2/3", "3/3")


def write_file(home: Path, target: str, *sources: dict[str, Any], **more: Any) -> Path:
    path = home / "sync.yaml"
    path.write_text(yaml.safe_dump({"sources": list(sources), "targets": [{"registry": target}], **more}))
    return path


async def fill(source: Registry, home: Path) -> list[dict[str, Any]]:
    """Images in eight repositories, and sources of several kinds that name 13 of them; one is signed."""
    for number in range(6):
        await client.push(source, f"team/app-{number}", images.image(f"app {number}"), "1", "2")
    signed, signature = images.cosign_signature(images.image("app 0"))
    await client.push(source, "team/app-0", signature, signed)
    await client.push(source, "tool", images.multi_platform("tool"), "1")
    listed = bundle(lock(*(at(source, f"team/app-{number}", images.image(f"app {number}")) for number in (1, 2))))
    await client.push(source, "outer", listed, "1")
    (home / "images.txt").write_text("".join(f"{source.address}/team/app-{number}:1\n" for number in (3, 4, 5)))
    address = source.address
    return [
        *({"repository": f"{address}/team/app-{number}", "tags": "all"} for number in range(3)),
        {"images_file": "images.txt"},
        {"image": f"{address}/tool:1"},
        {"image": f"{address}/outer:1", "imgpkg": True},
    ]


async def test_the_shards_of_a_sync_are_all_of_it_once(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Sources of another shard are not even asked; signatures, and what a bundle of imgpkg's lists, stay together."""
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        debian_registry("other") as other,
        fault_proxy(source) as proxy,
        chart_repository() as charts,
    ):
        charts.add_chart("web", "1.2.0")
        charts.index()
        sources = await fill(proxy.registry, tmp_path)
        sources.append({"chart": {"repository": str(charts.url), "name": "web", "version": "^1"}})
        whole = await sync(write_file(tmp_path, f"{other.address}/m", *sources))
        file = write_file(tmp_path, f"{target.address}/m", *sources)
        proxy.exchanges.log.clear()
        charts.requests.clear()

        planned = [await syncer("plan", "-c", file, "--shard", shard, "--json", home=tmp_path) for shard in SHARDS]
        untouched = await client.repositories(target)
        listings = Counter(one.path for one in proxy.exchanges.log if one.path.endswith("/tags/list"))
        synced = [await sync(file, shard=Shard(number, 3)) for number in (1, 2, 3)]

        assert [ran.exit for ran in (whole, *synced)] == [0] * 4
        done = [[str(image.target) for image in ran.report.images if image.subject is None] for ran in synced]
        foreseen = [[image["target"] for image in ran.json["images"] if image["subject"] is None] for ran in planned]
        together = Counter(name for part in done for name in part)
        assert (foreseen, untouched) == (done, [])
        assert together.total() == len(together) == sum(image.subject is None for image in whole.report.images) == 14
        for name in await client.repositories(other):
            assert await client.tags(target, name) == await client.tags(other, name)
        assert listings["/v2/team/app-0/tags/list"] == 1
        assert {listings[f"/v2/team/app-{number}/tags/list"] for number in (1, 2)} <= {1, 2}  # the bundle's shard, too
        assert sum(path.endswith(".tgz") for path in charts.requests) == 2  # for the plan, and for the sync
        assert sorted(sum("/outer" in name for name in part) for part in done) == [0, 0, 3]


async def test_a_shard_prunes_nothing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """What the other shards bring is named by the file, and would be taken for what nobody names."""
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(source) as proxy,
    ):
        await client.push(source, "app", images.image("app"), "1")
        await client.push(target, "m/app", images.image("old"), "0")
        sources = [{"repository": f"{proxy.registry.address}/app", "tags": "all", "as": "app"}]
        file = write_file(tmp_path, f"{target.address}/m", *sources)
        words = ["sync", "-c", str(file), "--shard", "1/2", "--prune"]

        listed = await syncer(*words, home=tmp_path)
        deleted = await syncer(*words, "--yes", "--max-delete", "100%", home=tmp_path)
        foreseen = await syncer(*words, "--dry-run", home=tmp_path)
        async with open_sources(read_sync_file(file), RegistrySettings(), pytest.fail, shard=Shard(1, 2)) as shard:
            with pytest.raises(UsageError, match="it prunes nothing"):
                await prune(shard, [], delete=True)

        assert [ran.code for ran in (listed, deleted, foreseen)] == [2, 2, 2]
        assert "prune in a run without --shard" in deleted.stderr
        assert await client.tags(target, "m/app") == ["0"]
        assert not proxy.exchanges.log


async def test_a_source_that_fails_fails_in_its_own_shard(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", images.image("app"), "1")
        sources = ({"repository": f"{source.address}/{name}", "tags": "all"} for name in ("app", "lost"))
        file = write_file(tmp_path, target.address, *sources)

        ran = [await syncer("sync", "-c", file, "--shard", shard, home=tmp_path) for shard in SHARDS]

        assert sorted(each.code for each in ran) == [0, 0, 4]
        assert [f"this is shard {shard} of" in each.stdout for shard, each in zip(SHARDS, ran, strict=True)] == [
            True
        ] * 3
        await client.assert_holds(target, f"{source.address.replace(':', '_')}/app", images.image("app"), "1")


async def test_images_of_two_shards_that_would_get_one_name_are_refused_by_both(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("quay.io/b/app:1\n")
    file = write_file(
        tmp_path, "127.0.0.1:9", {"image": "quay.io/a/app:1"}, {"images_file": "images.txt"},
        map={"quay.io/a": "m", "quay.io/b": "m"},
    )  # fmt: skip

    for shard in SHARDS:
        ran = await syncer("sync", "-c", file, "--shard", shard, home=tmp_path)
        assert ran.code == 2
        assert "127.0.0.1:9/m/app:1" in ran.stderr


async def test_shards_of_one_file_run_side_by_side_and_each_alone(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", images.image("app"), "1")
        file = write_file(tmp_path, target.address, {"image": f"{source.address}/app:1"})
        words = ["sync", "-c", str(file), "--state-dir", str(tmp_path / "state"), "--shard"]
        with hold_lock(tmp_path / "state", f"{file}, shard 2/2", pytest.fail):
            codes = [(await syncer(*words, shard, home=tmp_path)).code for shard in ("1/2", "2/2")]
            in_a_job = await syncer(*words, "auto/2", home=tmp_path, JOB_COMPLETION_INDEX="1")

    assert codes == [0, 75]
    assert in_a_job.code == 75


@pytest.mark.parametrize("command", ["sync", "plan"])
@pytest.mark.parametrize(
    ("shard", "said"), [("17/16", "there is no shard 17/16"), ("0/2", "no shard 0/2"), ("auto", "nothing here tells")]
)
async def test_a_shard_that_is_none_is_refused(command: str, shard: str, said: str, tmp_path: Path) -> None:
    ran = await syncer(command, "--image", "a/b:1", "-r", "127.0.0.1:9", "--shard", shard, home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr
