"""The plan of a push to several registries: what each of them lacks, and which of them cannot be asked."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from jsonschema import Draft202012Validator

from syncer.errors import Exit
from syncer.fleet.deploy import plan_fleet
from syncer.fleet.result import SiteState
from tests.conftest import OpenRegistry
from tests.support import client
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.registries import LOGIN
from tests.support.registry_end import QUICK, settings_for
from tests.test_fleet import MADE, NOBODY, SCHEMA, bundle, push, rows, sites


@pytest.mark.parametrize("command", [["plan"], ["push", "--dry-run"]], ids=["plan", "dry run"])
async def test_a_plan_of_several_registries_comes_true(
    debian_registry: OpenRegistry, tmp_path: Path, command: list[str]
) -> None:
    """One has all of it, one has one image, and one has nothing; nothing is sent to any of them."""
    async with AsyncExitStack() as stack:
        names = ("source", "whole", "half", "empty")
        source, whole, half, empty = [await stack.enter_async_context(debian_registry(name)) for name in names]
        file = await bundle(source, tmp_path)
        assert (await push(file, [whole.address], home=tmp_path)).code == 0
        await client.push(half, f"{source.address.replace(':', '_')}/app-1", MADE["app-1"], "1")
        proxies = [await stack.enter_async_context(fault_proxy(registry)) for registry in (whole, half, empty)]
        named = [proxy.registry.address for proxy in proxies]
        words: list[str | Path] = ["--file", file, *(word for site in named for word in ("--registry", site))]

        planned = await syncer(*command, *words, "--json", "--exit-code", home=tmp_path)
        methods = {exchange.method for proxy in proxies for exchange in proxy.exchanges.log}
        told = await syncer(*command, *words, home=tmp_path)
        pushed = await syncer("push", *words, "--json", home=tmp_path)
        again = await syncer(*command, *words, "--json", "--exit-code", home=tmp_path)

        plan, report = planned.json, pushed.json
        Draft202012Validator(orjson.loads(SCHEMA.read_bytes())).validate(plan)
        assert (planned.code, told.code, pushed.code, again.code) == (10, 0, 0, 0), planned.stderr
        assert (plan["kind"], plan["command"]) == ("fleet", "plan")
        assert (plan["exit_code"], again.json["exit_code"]) == (10, 0)
        assert methods <= {"GET", "HEAD"}
        assert [row["state"] for row in plan["sites"]] == ["unchanged", "behind", "behind"]
        assert [row["images_to_copy"] for row in plan["sites"]] == [0, 1, 2]
        assert [row["images_to_skip"] for row in plan["sites"]] == [2, 1, 0]
        assert [row["bytes_to_send"] for row in plan["sites"]] == [row["bytes_sent"] for row in report["sites"]]
        assert plan["totals"]["bytes_to_send"] == report["totals"]["bytes_sent"] > 0
        assert (plan["totals"]["sites_behind"], plan["totals"]["bytes_sent"]) == (2, 0)
        assert "bundle edge is at 1 of 3 sites" in told.stdout
        assert f"site:    {named[0]}: unchanged\n" in told.stdout
        assert f"site:    {named[1]}: behind, 1 image to copy, 1" in told.stdout
        assert (told.stderr, again.json["totals"]["sites_unchanged"]) == ("", 3)


async def test_a_site_that_cannot_be_asked_is_told_and_is_no_success(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        source, good = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "good")]
        shut = await stack.enter_async_context(debian_registry("shut", login=LOGIN))
        file = await bundle(source, tmp_path)
        odd = await stack.enter_async_context(fault_proxy(good))
        odd.on(None, "/app-2/", Reply(403), times=None)
        named = [f"{NOBODY}/a", f"{NOBODY}/b", shut.address, odd.registry.address, good.address]
        words: list[str | Path] = [
            "plan",
            "--file",
            file,
            *(word for site in named for word in ("-r", site)),
            "--report-dir",
            tmp_path,
        ]

        planned = await syncer(*words, "--exit-code", "--json", home=tmp_path)
        told = await syncer(*words, home=tmp_path)
        all_shut = await syncer("plan", "--file", file, "-r", shut.address, "-r", f"{shut.address}/m", home=tmp_path)

        states = [row["state"] for row in planned.json["sites"]]
        own = orjson.loads((tmp_path / f"{good.address.replace(':', '_')}.json").read_bytes())
        assert (planned.code, told.code, all_shut.code) == (1, 1, Exit.DENIED)
        assert states == ["down", "down", "refused", "partial", "behind"]
        assert told.stdout.count("refused the connection") == 1
        assert f": 2 sites: {NOBODY}/a, {NOBODY}/b\n" in told.stdout
        assert [image["action"] for image in own["images"]] == ["copy", "copy"]
        assert await client.repositories(good) == []


@pytest.mark.parametrize(
    ("status", "state"), [(503, SiteState.DOWN), (500, SiteState.PARTIAL), (404, SiteState.BEHIND)]
)
async def test_only_a_registry_that_says_so_lacks_an_image(
    debian_registry: OpenRegistry, tmp_path: Path, status: int, state: SiteState
) -> None:
    """One in trouble may have it."""
    async with debian_registry("source") as source, fault_proxy(source) as proxy:
        file = await bundle(source, tmp_path)
        proxy.on("HEAD", "", Reply(status), times=None)

        planned = await plan_fleet(file, sites(proxy.registry.address), settings=settings_for(limits=QUICK))

        assert [site.state for site in planned.sites] == [state]


async def test_the_sites_of_a_targets_file_are_foreseen_at_any_time(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """A window says when a site may be pushed to, and a plan pushes nothing."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        now = datetime.now(UTC)
        targets = tmp_path / "sites.yaml"
        targets.write_text(
            f"targets:\n"
            f"  - registry: '{target.address}/edge-{{1..6}}'\n"
            f"    labels: {{region: eu}}\n"
            f"    windows: '{now + timedelta(hours=6):%H:%M}-{now + timedelta(hours=7):%H:%M} UTC'\n"
            f"  - registry: '{target.address}/lab'\n"
            f"    labels: {{region: us}}\n"
        )
        words: list[str | Path] = ["plan", "--file", file, "--targets-file", targets, "--except", "region=us", "--json"]

        shards = [await syncer(*words, "--shard", shard, home=tmp_path) for shard in ("1/2", "2/2")]

        found = [{row["name"]: row["state"] for row in ran.json["sites"]} for ran in shards]
        assert [ran.code for ran in shards] == [0, 0]
        assert not found[0].keys() & found[1].keys()
        assert found[0] | found[1] == {f"{target.address}/edge-{number}": "behind" for number in range(1, 7)}


async def test_a_plan_leaves_the_metrics_of_pushes_alone(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source:
        file = await bundle(source, tmp_path)
        report, metrics = tmp_path / "plan.json", tmp_path / "syncer.prom"

        planned = await push(
            file, [NOBODY, "127.0.0.2:9"], "--dry-run", "--report", report, "--metrics-file", metrics, home=tmp_path
        )

        assert planned.code == 5
        assert {row["state"] for row in rows(report).values()} == {"down"}
        assert not metrics.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--image a/b:1 --targets-file sites.yaml", "no --file is given"),
        ("--config sync.yaml --only x", "no --file is given"),
        ("--image a/b:1 --shard 1/2", "here a build would be foreseen"),
        ("--file x.tar.zst -r a.io -r A.io/", "named twice"),
        ("--file x.tar.zst -r a.io -r b.io --username me --password-stdin", "are for one registry"),
        ("--file x.tar.zst -r a.io -r b.io --shard 17/16", "there is no shard 17/16"),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused(words: str, said: str, tmp_path: Path) -> None:
    ran = await syncer("plan", *words.split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr
