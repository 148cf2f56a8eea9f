"""What refers to images in a sync: what it costs to look for it, and that no answer to that decides about an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import validate

from syncer import Mirroring, sync
from syncer.api.sync import SyncResult
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.faults import Reply, redirect
from tests.support.images import Image
from tests.support.registries import Registry
from tests.support.registry_end import settings_for

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/report.schema.json").read_bytes())
IMAGE = images.image("app")
SIGNED, SIGNATURE = images.cosign_signature(IMAGE)
SEVERAL = images.multi_platform("several")  # an index of three


async def mirror(home: Path, source: Registry, target: Registry, *options: str, tags: str = "1") -> Ran:
    """Mirror the tags of ``app`` by name."""
    names = [word for tag in tags.split() for word in ("--image", f"{source.address}/app:{tag}")]
    ran = await syncer("sync", *names, "--registry", f"{target.address}/m", "--json", *options, home=home)
    validate(ran.json, SCHEMA)
    return ran


async def mirror_quickly(
    home: Path, source: Registry, target: Registry, *, tags: str = "12", **more: Any
) -> SyncResult:
    """Mirror some tags of ``app`` by a program that waits little before it asks again, one image after the other."""
    document = {
        "sources": [{"image": f"{source.address}/app:{tag}"} for tag in tags],
        "targets": [{"registry": f"{target.address}/m"}],
    }
    (home / "sync.yaml").write_text(yaml.safe_dump(document | more))
    settings, how = settings_for(source, target), Mirroring(concurrency=1)
    return await sync(home / "sync.yaml", how, settings=settings)


LONGER = Reply(200, {"Link": '</v2/app/tags/list?last=1&n=1000>; rel="next"'}, b'{"tags": ["1"]}')
"""A list of tags that has more than one page."""


async def assert_arrived(source: Registry, target: Registry, image: Image, *tags: str) -> None:
    await client.assert_holds(target, f"m/{source.address.replace(':', '_')}/app", image, *tags)


async def night(home: Path, proxy: FaultProxy, target: Registry, *options: str, tags: str = "1") -> dict[str, int]:
    """The requests that a second run makes at the source, by their kinds."""
    first = await mirror(home, proxy.registry, target, *options, tags=tags)
    proxy.exchanges.log.clear()
    second = await mirror(home, proxy.registry, target, *options, tags=tags)

    assert (first.code, second.code) == (0, 0)
    assert second.json["totals"]["images_skipped"] == len(tags.split())
    return dict(proxy.exchanges.kinds())


async def test_an_image_by_name_costs_one_page_of_tags(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    """Where there is no referrers API, where there is one, and where nobody wants referrers."""
    async with debian_registry("without") as without, serve_disk("with") as with_api, serve_disk("target") as target:
        for registry in (without, with_api):
            await client.push(registry, "app", IMAGE, "1")
        async with fault_proxy(without) as proxy:
            assert await night(tmp_path, proxy, target) == {"HEAD manifest": 1, "GET tags": 1, "GET referrers": 1}
            assert await night(tmp_path, proxy, target, "--no-referrers") == {"HEAD manifest": 1}
        async with fault_proxy(with_api) as proxy:
            assert await night(tmp_path, proxy, target) == {"HEAD manifest": 1, "GET tags": 1, "GET referrers": 1}


async def test_many_images_by_name_cost_one_page_of_tags(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A list is cheaper than a question for each tag from the start; it is not read on if one page does not hold it."""
    tags = [str(number) for number in range(1, 10)]
    async with debian_registry("source") as source, debian_registry("target") as target:
        for tag in tags:
            await client.push(source, "app", images.image(f"app {tag}"), tag)
        async with fault_proxy(source) as proxy:
            assert await night(tmp_path, proxy, target, tags=" ".join(tags)) == {
                "HEAD manifest": 9,
                "GET tags": 1,
                "GET referrers": 1,
            }
            proxy.on("GET", "/tags/list", LONGER, times=None)
            assert await night(tmp_path, proxy, target, tags=" ".join(tags)) == {
                "HEAD manifest": 9 + 9 * 4,
                "GET tags": 1,
                "GET referrers": 1,
            }


async def test_a_night_needs_no_manifest_of_an_index_again(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Though its platforms may have been signed since."""
    async with serve_disk("source") as source, serve_disk("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", SEVERAL, "1")
        asked = await night(tmp_path, proxy, target)
        signature = images.referrer(SEVERAL.children[2])
        tag, other = images.cosign_signature(SEVERAL.children[0])
        await client.push(source, "app", signature)
        await client.push(source, "app", other, tag)

        ran = await mirror(tmp_path, proxy.registry, target)

        assert asked == {"HEAD manifest": 1, "GET tags": 1, "GET referrers": 4}  # sixteen tags are too many
        assert ran.code == 0
        await assert_arrived(proxy.registry, target, signature)
        await assert_arrived(proxy.registry, target, other, tag)


HERE = "http://{host}/-/v2/packages/container/package/app%2Freferrers%2Fsha256"  # as GHCR sends us to its web site
NOT_THERE = [Reply(status) for status in (400, 401, 404, 405, 406, 501)]
NOT_THERE += [Reply(200, {"Content-Type": "text/html"}, b"<html>"), Reply(200, body=b"{}")]
UNCLEAR = [Reply(status) for status in (403, 429, 500, 418)]
UNCLEAR += [Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})]
BROKEN = Reply(200, {"Content-Type": images.OCI_INDEX}, b"{}")


@pytest.mark.parametrize("answer", NOT_THERE, ids=lambda answer: f"{answer.status}")
async def test_a_registry_without_a_referrers_api_is_mirrored_in_silence(
    debian_registry: OpenRegistry, tmp_path: Path, answer: Reply
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        await client.push(source, "app", SIGNATURE, SIGNED)
        proxy.on("GET", "/referrers/", answer, times=None)

        ran = await mirror(tmp_path, proxy.registry, target, "--require-referrers")

        assert ran.code == 0, ran.stderr
        assert ran.json["referrers_unknown"] == []
        await assert_arrived(proxy.registry, target, IMAGE, "1")
        await assert_arrived(proxy.registry, target, SIGNATURE, SIGNED)


@pytest.mark.parametrize("page", [200, 404, 429, 500])
async def test_a_page_of_a_web_site_is_no_referrers_api(
    debian_registry: OpenRegistry, tmp_path: Path, page: int
) -> None:
    """It is not even asked: it may want us to wait, and is somebody else's."""
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        proxy.on("GET", r"^/v2/.*/referrers/", redirect(HERE.format(host=proxy.registry.address), 303), times=None)
        asked = proxy.on("GET", "/-/v2/", Reply(page, {"Content-Type": "text/html"}, b"<html>"), times=None)

        ran = await mirror(tmp_path, proxy.registry, target)

        assert (ran.code, ran.json["referrers_unknown"]) == (0, [])
        assert asked.fired == 0


async def test_a_registry_that_moved_is_asked_for_referrers_where_it_is_now(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with serve_disk("source") as source, serve_disk("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        referrer = images.referrer(IMAGE)
        await client.push(source, "app", referrer)
        there = f"{source.url}/v2/app/referrers/{IMAGE.digest}"
        proxy.on("GET", f"/referrers/{IMAGE.digest}", redirect(there, 307), times=None)

        ran = await mirror(tmp_path, proxy.registry, target)

        assert (ran.code, ran.json["referrers_unknown"]) == (0, [])
        await assert_arrived(proxy.registry, target, referrer)


@pytest.mark.parametrize(
    ("place", "answer"),
    [
        *(("/referrers/", answer) for answer in (*UNCLEAR, BROKEN)),
        *((r"/manifests/sha256-[0-9a-f]+$", answer) for answer in UNCLEAR),
    ],
    ids=lambda part: f"{part.status}" if isinstance(part, Reply) else part.split("/")[1],
)
async def test_what_cannot_be_told_is_said_and_fails_nothing_unless_it_must(
    debian_registry: OpenRegistry, tmp_path: Path, place: str, answer: Reply
) -> None:
    """By the referrers API, and by its tag and cosign's; once, and what took all patience is not asked again."""
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        await client.push(source, "app", images.image("second"), "2")
        proxy.on("GET", "/tags/list", LONGER, times=None)
        rule = proxy.on("HEAD" if "manifests" in place else "GET", place, answer, times=None)

        ran = await mirror_quickly(tmp_path, proxy.registry, target)
        asked = rule.fired
        required = await mirror_quickly(tmp_path, proxy.registry, target, referrers="require")

        (unknown,) = ran.report.referrers_unknown
        assert (ran.exit, required.exit) == (0, 1)
        assert (unknown.repository, unknown.is_required) == (f"{proxy.registry.address}/app", False)
        assert answer.status == 200 or str(answer.status) in str(unknown.error)
        assert required.report.referrers_unknown[0].is_required
        assert asked == (6 if answer.status in (429, 500) else 2)
        await assert_arrived(proxy.registry, target, IMAGE, "1")
        await assert_arrived(proxy.registry, target, images.image("second"), "2")


async def test_an_api_that_fails_later_on_is_asked_no_more_in_that_repository(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with serve_disk("source") as source, serve_disk("target") as target, fault_proxy(source) as proxy:
        for tag in "123":
            await client.push(source, "app", images.image(tag), tag)
        rule = proxy.on("GET", "/referrers/", Reply(500), first=2, times=None)

        ran = await mirror_quickly(tmp_path, proxy.registry, target, tags="123")

        assert (ran.exit, len(ran.report.referrers_unknown)) == (0, 1)
        assert ran.report.totals.images_copied == 3
        assert rule.fired == 6


async def test_what_cannot_be_told_stops_a_prune_there(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A tag at the target may belong to a referrer that nobody could find."""
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        await client.push(target, "m/app", SIGNATURE, "gone")
        proxy.on("GET", "/referrers/", Reply(403), times=None)
        document: dict[str, Any] = {
            "sources": [{"repository": f"{proxy.registry.address}/app", "tags": ["1"], "as": "app"}],
            "targets": [{"registry": f"{target.address}/m"}],
            "referrers": "require",
        }
        (tmp_path / "sync.yaml").write_text(yaml.safe_dump(document))

        ran = await syncer("sync", "-c", tmp_path / "sync.yaml", "--prune", "--yes", "--json", home=tmp_path)

        assert ran.code == 1
        assert ran.json["pruned"] == []
        assert "nothing is pruned in" in ran.stderr
        assert "gone" in await client.tags(target, "m/app")


async def test_the_summary_says_what_cannot_be_told(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        proxy.on("GET", "/referrers/", Reply(403), times=None)
        command = ("sync", "--image", f"{proxy.registry.address}/app:1", "--registry", target.address)

        planned = await syncer(*command, "--dry-run", home=tmp_path)
        ran = await syncer(*command, home=tmp_path)
        logged = await syncer(*command, "--log-format", "json", home=tmp_path)

        said = f"warning: what refers to the images of {proxy.registry.address}/app cannot be told: GET http"
        assert said in planned.stdout
        assert said in ran.stdout
        assert "referrers_unknown" in logged.stderr


async def test_flags_about_referrers_that_contradict_each_other_are_a_mistake(tmp_path: Path) -> None:
    for command in (("sync", "--registry", "localhost:9"), ("build",)):
        ran = await syncer(*command, "--image", "a", "--require-referrers", "--no-referrers", home=tmp_path)

        assert ran.code == 2
        assert "contradict" in ran.stderr


async def test_two_builds_are_the_same_whatever_the_order_of_referrers(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    referrers = [images.referrer(IMAGE, f"application/vnd.example.{number}") for number in range(5)]
    built = []
    async with serve_disk("source") as source, fault_proxy(source) as proxy:
        await client.push(source, "app", IMAGE, "1")
        for referrer in referrers:
            await client.push(source, "app", referrer)
        for order in (1, -1):
            entries = [referrer.descriptor() for referrer in referrers[::order]]
            index = json.dumps({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": entries}).encode()
            proxy.rules.clear()
            proxy.on("GET", f"/referrers/{IMAGE.digest}", Reply(200, {"Content-Type": images.OCI_INDEX}, index))
            output = tmp_path / f"out{order}"
            name = f"{proxy.registry.address}/app:1"
            ran = await syncer("build", "--image", name, "--name", "demo", "--output", output, home=tmp_path)
            assert ran.code == 0, ran.stderr
            built.append((output / "demo.tar.zst").read_bytes())

    assert built[0] == built[1]


SBOM = images.referrer(IMAGE)
LIST = IMAGE.digest.replace(":", "-")  # the tag that lists its referrers where there is no API for them


@pytest.mark.parametrize("way", ["sync", "push", "sync of the referrer alone"])
async def test_a_referrer_that_its_subject_does_not_list_is_not_there(
    serve_disk: OpenRegistry, debian_registry: OpenRegistry, tmp_path: Path, way: str
) -> None:
    """Its manifest is, but the list, the second step of its commit, was refused: nobody would ever find it."""
    async with serve_disk("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        await client.push(source, "app", IMAGE, "1")
        await client.push(source, "app", SBOM)
        bundle = tmp_path / "demo.tar.zst"
        name = f"{source.address}/app:1"
        built = await syncer("build", "--image", name, "--name", "demo", "--output", tmp_path, home=tmp_path)
        proxy.on("PUT", f"/manifests/{LIST}$", Reply(403), times=2)
        address = proxy.registry.address
        if way == "push":
            command: tuple[str | Path, ...] = ("push", "--file", bundle, "--registry", address)
        else:
            alone = f"{source.address}/app@{SBOM.digest}"
            command = ("sync", "--image", name if way == "sync" else alone, "--registry", address)

        first = await syncer(*command, home=tmp_path)
        first = await syncer(*command, home=tmp_path) if way == "push" else first  # it tries only once
        proxy.exchanges.log.clear()
        lacking = await syncer("verify", "--file", bundle, "--registry", address, "--json", home=tmp_path)
        planned = await syncer(*command, "--dry-run", "--json", home=tmp_path)
        mended = await syncer(*command, "--json", home=tmp_path)
        verified = await syncer("verify", "--file", bundle, "--registry", address, "--json", home=tmp_path)
        again = await syncer(*command, "--json", home=tmp_path)

        assert built.code == 0
        assert first.code == 3, first.stdout
        assert f"it is not among the referrers of {IMAGE.digest}" in {
            each["problem"] for each in lacking.json["lacking"]
        }
        assert lacking.code == 6
        assert "copy" in {image["action"] for image in planned.json["images"]}
        assert mended.code == 0
        if way != "sync of the referrer alone":  # without the image there is more that lacks
            assert (verified.code, verified.json["lacking"]) == (0, [])
        assert {image["status"] for image in again.json["images"]} == {"skipped"}
        repository = f"{source.address.replace(':', '_')}/app"
        answer = await client.manifest(target, repository, LIST)
        assert [entry["digest"] for entry in json.loads(answer.content)["manifests"]] == [SBOM.digest]
