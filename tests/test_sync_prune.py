"""``--prune``: what the file no longer names is listed, and deleted on demand; nothing else ever is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import validate

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.chart_repository import chart_repository
from tests.support.cli import Ran, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.images import Image
from tests.support.registries import Registry

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/report.schema.json").read_bytes())
APP, OLD, SEVERAL = images.image("app"), images.image("old"), images.multi_platform("several")
SIGNED, SIGNATURE = images.cosign_signature(APP)
OLD_SIGNED, OLD_SIGNATURE = images.cosign_signature(OLD)


async def prune(home: Path, source: Registry, target: str, tags: Any, *options: str) -> Ran:
    """Mirror those tags of ``app`` and prune."""
    file = home / "sync.yaml"
    document = {
        "sources": [{"repository": f"{source.address}/app", "tags": tags, "as": "app"}],
        "targets": [{"registry": target}],
    }
    file.write_text(yaml.safe_dump(document))
    return await syncer("sync", "-c", file, *options, home=home)


async def fill(source: Registry) -> None:
    """Two versions, one under two tags; an index, of which one image has a tag of its own; signatures."""
    made: list[tuple[Image, list[str]]] = [
        (APP, ["v2", "latest"]),
        (OLD, ["v1"]),
        (SEVERAL, ["several"]),
        (SEVERAL.children[0], ["amd64"]),
        (SIGNATURE, [SIGNED]),
        (OLD_SIGNATURE, [OLD_SIGNED]),
    ]
    for image, tags in made:
        await client.push(source, "app", image, *tags)


def ends(ran: Ran) -> dict[str, str]:
    """What became of each tag that was found."""
    validate(ran.json, SCHEMA)
    return {each["name"].rpartition(":")[2]: each["status"] for each in ran.json["pruned"]}


async def test_what_nobody_names_is_listed_and_deleted_and_nothing_else(
    any_registry: OpenRegistry, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, any_registry("target") as target:
        await fill(source)
        await client.push(target, "mirrored/app", OLD, "v1")  # others' images, whose path starts alike
        await client.push(target, "m/old/tool", OLD, "v1")  # what the file named last year
        everything = await prune(tmp_path, source, f"{target.address}/m", "all")
        before = await client.tags(target, "m/app")

        listed = await prune(tmp_path, source, f"{target.address}/m", ["latest", "several"], "--prune", "--json")
        untouched = await client.tags(target, "m/app")
        deleted = await prune(
            tmp_path, source, f"{target.address}/m", ["latest", "several"], "--prune", "--yes", "--json"
        )  # fmt: skip
        again = await prune(tmp_path, source, f"{target.address}/m", ["latest", "several"], "--prune", "--json")

        by_digest_only = target.log is not None  # Debian's
        shared = "kept" if by_digest_only else "deleted"
        assert (everything.code, listed.code, deleted.code, again.code) == (0, 0, 0, 0), deleted.stderr
        assert set(before) == set(untouched) == {"v1", "v2", "latest", "several", "amd64", SIGNED, OLD_SIGNED}
        assert set(ends(listed).values()) == {"listed"}
        assert ends(deleted).keys() == ends(listed).keys() == {"v1", "v2", "amd64", OLD_SIGNED}
        assert ends(deleted) == {"v1": "deleted", OLD_SIGNED: "deleted", "v2": shared, "amd64": shared}
        kept = {"latest", "several", SIGNED} | ({"v2", "amd64"} if by_digest_only else set())
        assert set(await client.tags(target, "m/app")) == kept
        assert ends(again).keys() == kept - {"latest", "several", SIGNED}
        await client.assert_holds(target, "m/app", APP, "latest")
        await client.assert_holds(target, "m/app", SEVERAL, "several")
        await client.assert_holds(target, "m/app", SIGNATURE, SIGNED)
        await client.assert_holds(target, "mirrored/app", OLD, "v1")
        assert await client.tags(target, "m/old/tool") == []


async def test_a_target_without_a_base_path_is_not_pruned(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await fill(source)
        await client.push(target, "others", OLD, "v1")
        ran = await prune(tmp_path, source, target.address, ["latest"], "--prune", "--yes", "--json")

        assert (ran.code, ends(ran)) == (0, {})
        assert f"nothing is pruned at the root of {target.address}" in ran.stderr
        assert await client.tags(target, "others") == ["v1"]


@pytest.mark.parametrize("answer", [404, 501, None])
async def test_a_source_that_is_gone_does_not_empty_its_mirror(
    debian_registry: OpenRegistry, tmp_path: Path, answer: int | None
) -> None:
    """Neither when its tags cannot be listed, nor when there are none all of a sudden."""
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(source) as proxy,
    ):
        await fill(source)
        await client.push(target, "m/dropped", OLD, "v1")
        await prune(tmp_path, proxy.registry, f"{target.address}/m", ["v1", "v2"])
        listing = Reply(answer, body=b"{}") if answer else Reply(200, body=b'{"name": "app", "tags": null}')
        proxy.on("GET", "/tags/list", listing, times=None)

        ran = await prune(
            tmp_path, proxy.registry, f"{target.address}/m", {"glob": "v*"}, "--prune", "--yes", "--json"
        )  # fmt: skip

        assert ran.code == {404: 4, 501: 1, None: 0}[answer]
        assert ends(ran) == {"v1": "deleted"}
        assert {"v1", "v2"} <= set(await client.tags(target, "m/app"))
        assert await client.tags(target, "m/dropped") == []


async def test_a_registry_without_a_list_of_repositories_is_pruned_where_the_file_leads(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(target) as proxy,
    ):
        await fill(source)
        await client.push(target, "m/elsewhere", OLD, "v1")
        proxy.on("GET", "/_catalog", Reply(401), times=None)
        await prune(tmp_path, source, f"{proxy.registry.address}/m", ["v1", "v2"])

        ran = await prune(tmp_path, source, f"{proxy.registry.address}/m", ["v2"], "--prune")

        assert ran.code == 0
        assert f"prune:   {proxy.registry.address}/m/app:v1: not named any more" in ran.stdout
        assert "nothing was deleted; --prune --yes does that" in ran.stdout
        assert "elsewhere" not in ran.stdout
        assert "does not list its repositories" in ran.stderr


async def test_a_registry_that_does_not_delete_says_so(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target", delete=False) as target:
        await fill(source)
        await prune(tmp_path, source, f"{target.address}/m", ["v1", "v2"])

        ran = await prune(tmp_path, source, f"{target.address}/m", ["v2"], "--prune", "--yes", "--json")

        assert ran.code == 1
        assert ends(ran) == {OLD_SIGNED: "failed", "v1": "listed"}
        assert "405" in ran.json["pruned"][0]["message"]
        assert set(await client.tags(target, "m/app")) == {"v1", "v2", SIGNED, OLD_SIGNED}


async def test_a_dry_run_lists_what_a_prune_would_find(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await fill(source)
        await prune(tmp_path, source, f"{target.address}/m", ["v1", "v2"])

        ran = await prune(
            tmp_path, source, f"{target.address}/m", ["v2"], "--prune", "--yes", "--dry-run", "--exit-code", "--json"
        )  # fmt: skip

        assert ran.code == 10
        assert {each["name"].rpartition(":")[2] for each in ran.json["pruned"]} == {"v1", OLD_SIGNED}
        assert "v1" in await client.tags(target, "m/app")


async def test_yes_alone_is_a_mistake(tmp_path: Path) -> None:
    ran = await syncer("sync", "--image", "a", "--registry", "localhost:9", "--yes", home=tmp_path)

    assert ran.code == 2
    assert "--prune" in ran.stderr


async def test_a_list_of_repositories_is_read_to_its_end(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(target) as proxy,
    ):
        await fill(source)
        await client.push(target, "m/first", OLD, "v1")
        await client.push(target, "m/last", OLD, "v1")
        link = {"Link": '</v2/_catalog?n=1000&last=m%2Ffirst>; rel="next"'}
        proxy.on("GET", r"/_catalog\?n=1000$", Reply(200, link, b'{"repositories": ["m/first"]}'))

        ran = await prune(tmp_path, source, f"{proxy.registry.address}/m", ["v1"], "--prune", "--json")

        assert {each["name"].partition("/")[2] for each in ran.json["pruned"]} == {"m/first:v1", "m/last:v1"}


def cut_off(link: str) -> Reply:
    """A list of tags that ends after one of them, and says that more follow."""
    return Reply(200, {"Link": f'<{link}>; rel="next"'}, b'{"name": "app", "tags": ["v2"]}')


@pytest.mark.parametrize(
    "link", ["http://inner.invalid:5000/other/tags/list?last=v2", "/v2/app/tags/list?n=1000", "/nowhere?last=v2"]
)
@pytest.mark.parametrize("reading", ["both", "second"])
async def test_a_list_of_tags_that_is_not_whole_takes_nothing_away(
    debian_registry: OpenRegistry, tmp_path: Path, link: str, reading: str
) -> None:
    """Neither the list by which a sync goes, nor the one that is read before anything is deleted."""
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(source) as proxy,
    ):
        await fill(source)
        await prune(tmp_path, proxy.registry, f"{target.address}/m", "all")
        await client.push(target, "m/app", OLD, "gone")
        before = await client.tags(target, "m/app")
        proxy.on("GET", r"/tags/list\?n=1000$", cut_off(link), first=1 if reading == "both" else 2, times=None)

        ran = await prune(tmp_path, proxy.registry, f"{target.address}/m", "all", "--prune", "--yes", "--json")

        assert ran.code == (1 if reading == "both" else 0)
        assert ends(ran) == {}
        assert await client.tags(target, "m/app") == before


async def test_charts_are_looked_for_anew_before_anything_is_deleted(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with serve_disk("target") as target, chart_repository() as charts:
        charts.add_chart("nginx", "1.0.0")
        charts.index()
        document = {
            "sources": [{"chart": {"repository": str(charts.url), "name": "nginx"}}],
            "targets": [{"registry": f"{target.address}/m"}],
        }
        (tmp_path / "sync.yaml").write_text(yaml.safe_dump(document))
        command = ("sync", "-c", tmp_path / "sync.yaml", "--json")
        await client.push(target, "m/old", OLD, "v1")

        mirrored = await syncer(*command, home=tmp_path)
        asked = charts.requests.count("/index.yaml")
        pruned = await syncer(*command, "--prune", "--yes", home=tmp_path)
        asked_by_prune = charts.requests.count("/index.yaml") - asked

        assert (mirrored.code, pruned.code) == (0, 0)
        assert asked_by_prune == 2
        assert ends(pruned) == {"v1": "deleted"}
        (chart,) = mirrored.json["images"]
        repository, _, tag = chart["target"].partition("/")[2].rpartition(":")
        assert await client.tags(target, repository) == [tag]


async def test_what_a_source_has_again_before_the_deletion_stays(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A list that lost a tag for a moment: a registry that is being cleaned up, or restored."""
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(source) as proxy,
    ):
        await fill(source)
        await prune(tmp_path, proxy.registry, f"{target.address}/m", {"glob": "v*"})
        await client.push(target, "m/app", OLD, "gone")
        proxy.on("GET", "/tags/list", Reply(200, body=b'{"name": "app", "tags": ["v2"]}'))

        ran = await prune(
            tmp_path, proxy.registry, f"{target.address}/m", {"glob": "v*"}, "--prune", "--yes", "--json"
        )  # fmt: skip

        assert ran.code == 0
        assert ends(ran).keys() == {"gone"}
        assert {"v1", "v2"} <= set(await client.tags(target, "m/app"))


@pytest.mark.parametrize(
    ("kept", "limit", "goes"),
    [
        (10, (), True),  # ten of twenty: few enough, whatever their share is
        (9, (), False),
        (9, ("--max-delete", "11"), True),
        (9, ("--max-delete", "10"), False),
        (9, ("--max-delete", "55%"), True),
        (9, ("--max-delete", "54%"), False),
        (18, ("--max-delete", "1"), False),
    ],
)
async def test_more_deletions_than_are_usual_need_to_be_allowed(
    serve_disk: OpenRegistry, tmp_path: Path, kept: int, limit: tuple[str, ...], goes: bool
) -> None:
    every = [f"v{number}" for number in range(20)]
    async with serve_disk("source") as source, serve_disk("target") as target:
        await client.push(source, "app", APP, *every)
        await prune(tmp_path, source, f"{target.address}/m", every)

        ran = await prune(
            tmp_path, source, f"{target.address}/m", every[:kept], "--prune", "--yes", *limit, "--json"
        )  # fmt: skip
        told = await prune(tmp_path, source, f"{target.address}/m", every[:kept], "--prune", "--yes", *limit)

        gone = 20 - kept
        assert (ran.code, told.code) == ((0, 0) if goes else (1, 1))
        assert set(ends(ran).values()) == {"deleted" if goes else "listed"}
        assert len(ends(ran)) == gone
        assert len(await client.tags(target, "m/app")) == (kept if goes else 20)
        assert ("nothing was deleted" in told.stdout) != goes
        if not goes:
            (refused,) = ran.json["prune_refused"]
            assert f"{gone} of its 20 tags" in refused
            assert f"--max-delete {gone}" in refused


@pytest.mark.parametrize("limit", ["many", "-1", "101%", "5 tags", ""])
async def test_a_limit_that_cannot_be_read_is_a_mistake(tmp_path: Path, limit: str) -> None:
    ran = await syncer(
        "sync", "--image", "a", "--registry", "localhost:9", "--prune", "--yes", f"--max-delete={limit}", home=tmp_path
    )

    assert ran.code == 2
    assert "neither a number nor a share" in ran.stderr


async def test_a_registry_that_takes_content_along_with_a_tag_is_left_alone_at_once(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with (
        debian_registry("source") as source,
        serve_disk("target") as target,
        fault_proxy(target) as proxy,
    ):
        await fill(source)
        await prune(tmp_path, source, f"{proxy.registry.address}/m", "all")
        for method in ("HEAD", "GET"):
            proxy.on(method, f"/manifests/{APP.digest}", Reply(404), times=None)

        ran = await prune(
            tmp_path, source, f"{proxy.registry.address}/m", ["latest", "several", "v1", "amd64"], "--prune", "--yes",
            "--json",
        )  # fmt: skip

        assert ran.code == 5
        assert ends(ran) == {"v2": "failed"}
        assert "and other tags need it" in ran.json["pruned"][0]["message"]


PAGE = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("method", "reply", "code", "told"),
    [
        ("DELETE", Reply(200, PAGE, b"<html>log in</html>"), 1, "a web page came, and what was asked for is not done"),
        ("DELETE", Reply(204), 1, "what was asked for is not done"),
        ("HEAD", Reply(401), 3, "401"),
        ("HEAD", Reply(200, PAGE, b"<html>log in</html>"), 1, "a web page came"),
    ],
)
async def test_a_tag_counts_as_deleted_when_it_is_gone(
    method: str,
    reply: Reply,
    code: int,
    told: str,
    *,
    debian_registry: OpenRegistry,
    serve_disk: OpenRegistry,
    tmp_path: Path,
) -> None:
    """A success that is not 202 proves nothing, and neither does a tag that we may not look at."""
    async with debian_registry("source") as source, serve_disk("target") as target, fault_proxy(target) as proxy:
        await fill(source)
        await prune(tmp_path, source, f"{proxy.registry.address}/m", "all")
        proxy.on(method, "/manifests/v2$", reply, first=2 if method == "HEAD" else 1, times=None)
        if method == "HEAD":  # after the list of what is there was made
            proxy.on("GET", "/manifests/v2$", reply, times=None)

        ran = await prune(
            tmp_path, source, f"{proxy.registry.address}/m", ["latest", "several", "v1", "amd64"], "--prune", "--yes",
            "--json",
        )  # fmt: skip

        assert ran.code == code
        assert ends(ran) == {"v2": "failed"}
        assert told in ran.json["pruned"][0]["message"]
