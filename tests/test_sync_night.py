"""A night, and the nights after it: what a mirror of 60 images costs, and what it makes of trouble.

Real registries, each behind a proxy that counts.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import syncer
from syncer.api.sources import sync_settings
from syncer.api.sync import SyncResult
from syncer.profiles.syncfile.sync_file import parse_sync_file
from syncer.registry import RegistrySettings
from syncer.report import Report, Status
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.faults import Reply
from tests.support.images import Image
from tests.support.registries import Registry
from tests.support.registry_end import settings_for

BASE = images.layer("base", 20_000)
VERSIONS = [f"1.{minor}.0" for minor in range(9)]


def an_image(seed: str) -> Image:
    return images.image(seed, layers=[BASE, images.layer(seed, 1_000)])


def app(name: str, version: str) -> Image:
    return an_image(f"{name} {version}")


@dataclass(slots=True)
class Night:
    """Two sources, two targets, a file, and what crossed each proxy in the last run."""

    home: Path
    main: FaultProxy
    hub: FaultProxy
    one: FaultProxy
    two: FaultProxy
    stack: AsyncExitStack
    warnings: list[str] = field(default_factory=list)

    @property
    def proxies(self) -> list[FaultProxy]:
        return [self.main, self.hub, self.one, self.two]

    def write(self, **more: Any) -> Path:
        main, hub = self.main.registry.address, self.hub.registry.address
        path = self.home / "sync.yaml"
        document = {
            "sources": [
                *({"repository": f"{main}/team/{name}", "tags": {"semver": ">=1"}} for name in ("a", "b", "c", "d")),
                {"repository": f"{main}/tools/pinned", "tags": VERSIONS},
                *({"image": f"{hub}/library/{name}:latest"} for name in HUB),
            ],
            "targets": [
                {"registry": f"{self.one.registry.address}/mirror", "name": "one"},
                {"registry": f"{self.two.registry.address}/mirror", "name": "two"},
            ],
        }
        path.write_text(yaml.safe_dump(document | more))
        return path

    async def run(self, **how: Any) -> SyncResult:
        for proxy in self.proxies:
            proxy.exchanges.log.clear()
        self.warnings.clear()
        settings = settings_for(*(proxy.registry for proxy in self.proxies))
        mirroring = syncer.Mirroring(state=self.home / "state", **how)
        return await syncer.sync(self.home / "sync.yaml", mirroring, settings=settings, warn=self.warnings.append)

    def asked(self, proxy: FaultProxy) -> Counter[str]:
        return proxy.exchanges.kinds()


HUB = [f"app{number}" for number in range(15)]


@asynccontextmanager
async def a_night(debian_registry: OpenRegistry, serve_disk: OpenRegistry, home: Path) -> AsyncIterator[Night]:
    """60 images: four repositories with nine versions each, one with nine pinned tags, fifteen of a public hub's."""
    async with AsyncExitStack() as stack:
        main, hub = [await stack.enter_async_context(debian_registry(name)) for name in ("main", "hub")]
        one = await stack.enter_async_context(debian_registry("one"))
        two = await stack.enter_async_context(serve_disk("two"))
        for name in ("team/a", "team/b", "team/c", "team/d", "tools/pinned"):
            for version in VERSIONS:
                await client.push(main, name, app(name, version), version)
        for name in HUB:
            await client.push(hub, f"library/{name}", an_image(name), "latest")
        ending = AsyncExitStack()
        night = Night(
            home,
            main=await stack.enter_async_context(fault_proxy(main)),
            hub=await stack.enter_async_context(fault_proxy(hub)),
            one=await stack.enter_async_context(fault_proxy(one)),
            two=await ending.enter_async_context(fault_proxy(two)),
            stack=await stack.enter_async_context(ending),
        )
        yield night


def ends(report: Report) -> Counter[Status]:
    return Counter(image.status for image in report.images)


def landed(source: FaultProxy, repository: str) -> str:
    return f"mirror/{source.registry.address.replace(':', '_')}/{repository}"


async def assert_mirrored(source: FaultProxy, target: FaultProxy, name: str, image: Image) -> None:
    repository, _, tag = name.partition(":")
    await client.assert_holds(target.upstream, landed(source, repository), image, tag)


async def test_the_first_night_brings_everything_and_the_next_one_asks_once(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        night.write()

        first = await night.run()
        fetched = night.asked(night.main) + night.asked(night.hub)
        sent = [night.asked(target) for target in (night.one, night.two)]
        second = await night.run()
        asked = [night.asked(proxy) for proxy in night.proxies]

        assert (first.exit, ends(first.report)) == (0, {Status.COPIED: 120})
        assert (second.exit, ends(second.report)) == (0, {Status.SKIPPED: 120})
        await assert_mirrored(night.main, night.one, "team/a:1.8.0", app("team/a", "1.8.0"))
        await assert_mirrored(night.hub, night.two, "library/app3:latest", an_image("app3"))

        # the first night: everything is fetched once for both targets, the base layer sent once to each
        assert fetched["GET manifest"] == 60
        assert fetched["GET blob"] == 1 + 60 + 60  # the base, a layer and a config each
        assert [each["PUT manifest"] for each in sent] == [60, 60]
        assert [proxy.registry.address for proxy in night.proxies if night.asked(proxy)["GET blob"]] == []
        # the next one: one HEAD at the source and one at each target, and what may refer to an image
        main, hub, one, two = asked
        assert main + hub == {
            "HEAD manifest": 60,
            "GET tags": 20,  # for each repository: cosign's tags, and the one that lists referrers, are there or not
            "GET referrers": 2,  # which tells that Debian's registry has no such API
        }
        assert one == two == {"HEAD manifest": 60}
        assert second.report.totals.requests == 60 + 20 + 2 + 120
        assert second.report.totals.bytes_fetched == second.report.totals.bytes_sent == 0


async def test_without_referrers_a_night_with_nothing_to_do_costs_heads_alone(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        names = [f"{night.main.registry.address}/team/a:{version}" for version in VERSIONS]
        sources = [{"image": name} for name in names]
        night.write(referrers="false", sources=sources)
        await night.run()

        again = await night.run()

        assert ends(again.report) == {Status.SKIPPED: 18}
        assert [night.asked(proxy) for proxy in night.proxies] == [
            {"HEAD manifest": 9}, {}, {"HEAD manifest": 9}, {"HEAD manifest": 9}
        ]  # fmt: skip


async def test_a_registry_with_the_api_is_asked_for_referrers_once_an_image(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with serve_disk("source") as source, serve_disk("target") as target, fault_proxy(source) as proxy:
        signed = an_image("signed")
        await client.push(source, "app", signed, "1")
        await client.push(source, "app", an_image("plain"), "2")
        await client.push(source, "app", images.referrer(signed))
        document = {
            "sources": [{"repository": f"{proxy.registry.address}/app", "tags": "all"}],
            "targets": [{"registry": f"{target.address}/m"}],
            "platforms": ["linux/amd64"],
        }
        (tmp_path / "sync.yaml").write_text(yaml.safe_dump(document))
        settings, how = settings_for(proxy.registry, target), syncer.Mirroring(state=tmp_path / "state")
        await syncer.sync(tmp_path / "sync.yaml", how, settings=settings)
        proxy.exchanges.log.clear()

        again = await syncer.sync(tmp_path / "sync.yaml", how, settings=settings)

        assert ends(again.report) == {Status.SKIPPED: 3}
        assert proxy.exchanges.kinds() == {"HEAD manifest": 3, "GET tags": 1, "GET referrers": 3}


async def test_a_night_with_trouble(debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Three tags moved, one was deleted, one target is down, one source counts our requests."""
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        night.write()
        await night.run()
        moved = {version: an_image(f"moved {version}") for version in VERSIONS[:3]}
        for version, image in moved.items():
            await client.push(night.main.upstream, "team/b", image, version)
        lost = app("tools/pinned", "1.4.0")
        deleted = await client.ask(
            night.main.upstream, "DELETE", f"/v2/tools/pinned/manifests/{lost.digest}"
        )  # fmt: skip
        night.hub.on("HEAD", "/manifests/", Reply(429, {"Retry-After": "1"}), first=5, times=2)
        await night.stack.aclose()  # the second target

        began = time.monotonic()
        ran = await night.run()
        seconds = time.monotonic() - began

        assert deleted.status == 202
        assert ran.exit == 1
        at_one = [image for image in ran.report.images if image.target.registry == night.one.registry.address]
        at_two = [image for image in ran.report.images if image.target.registry != night.one.registry.address]
        assert Counter(image.status for image in at_one) == {Status.SKIPPED: 56, Status.COPIED: 3, Status.FAILED: 1}
        assert Counter(image.status for image in at_two) == {Status.FAILED: 60}
        for version, image in moved.items():
            await assert_mirrored(night.main, night.one, f"team/b:{version}", image)
        await assert_mirrored(night.main, night.one, "tools/pinned:1.4.0", lost)  # it is not taken away

        (failure,) = [image for image in at_one if image.error]
        assert str(failure.source).endswith("tools/pinned:1.4.0")
        assert failure.to_json()["reason"] == "missing"
        assert all("refused the connection" in str(image.error) for image in at_two)
        accounts = {account.registry: account for account in ran.report.registries}
        hub = accounts[night.hub.registry.address]
        assert (hub.too_many_requests, hub.errors) == (2, 0)
        assert hub.paused_seconds >= 1
        assert accounts[night.two.registry.address].errors >= 60
        # the dead target cost its patience twice, for those who were on the way, and not once an image
        assert accounts[night.two.registry.address].retries <= 2 * 32 * 5
        assert night.asked(night.main)["GET manifest"] == 3 + 1 + 1  # what moved, and what is missing, twice
        assert seconds < 20


async def test_a_spent_quota_stops_that_source_and_not_the_run(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    """As Docker Hub says it: the pulls of six hours are used up after five of them."""
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        night.write(sources=[
            {"repository": f"{night.main.registry.address}/team/a", "tags": VERSIONS},
            *({"image": f"{night.hub.registry.address}/library/{name}:latest"} for name in HUB),
        ], referrers="false")  # fmt: skip
        refused = Reply(429, {"ratelimit-limit": "5;w=21600", "ratelimit-remaining": "0;w=21600"})
        night.hub.on("GET", "/manifests/", refused, first=6, times=None)

        ran = await night.run()
        asked = night.asked(night.hub)["GET manifest"]
        night.hub.rules.clear()
        later = await night.run()

        by_source = Counter(
            (image.source.registry == night.hub.registry.address, image.status) for image in ran.report.images
        )
        assert by_source == {(False, Status.COPIED): 18, (True, Status.COPIED): 10, (True, Status.FAILED): 20}
        assert all(re.search(r"asks to wait 21[56]\d\d s", str(image.error)) for image in ran.report.failures)
        assert asked < 5 + 16 + 1  # whoever was on the way when it became known, and nobody after
        assert (later.exit, ends(later.report)) == (0, {Status.SKIPPED: 28, Status.COPIED: 20})


async def test_a_repository_that_vanished_overnight_stops_nothing_else(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        night.write()
        night.main.on(
            "GET", "/team/c/tags/list", Reply(404, body=b'{"errors": [{"code": "NAME_UNKNOWN"}]}'), times=None
        )

        ran = await night.run()

        assert ran.exit == 4
        assert ends(ran.report) == {Status.COPIED: 2 * 51, Status.FAILED: 2}
        assert {str(image.source) for image in ran.report.failures} == {f"{night.main.registry.address}/team/c"}
        assert len(night.main.exchanges.of("GET tags")) == 4 + 1 + 1  # the lost one is asked once more at the end


@pytest.mark.parametrize("trouble", ["list", "blob"])
async def test_what_failed_is_tried_once_more_at_the_end(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path, trouble: str
) -> None:
    """A registry that is in trouble for as long as a request is tried, and well again later."""
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        night.write(
            sources=[{"repository": f"{night.main.registry.address}/team/{name}", "tags": "all"} for name in "ab"]
        )
        path = "/team/b/tags/list" if trouble == "list" else "/team/b/blobs/"
        night.main.on("GET", path, Reply(500), times=6)

        ran = await night.run()

        assert (ran.exit, ends(ran.report)) == (0, {Status.COPIED: 36})


async def test_names_that_only_show_at_the_second_look_cannot_take_others_places(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with a_night(debian_registry, serve_disk, tmp_path) as night:
        main = night.main.registry.address
        night.write(
            sources=[
                {"repository": f"{main}/team/a", "tags": "all", "as": "app"},
                {"repository": f"{main}/team/b", "tags": "all", "as": "app"},
            ]
        )
        night.main.on("GET", "/team/b/tags/list", Reply(500), times=6)

        ran = await night.run()

        assert ends(ran.report) == {Status.COPIED: 18, Status.FAILED: 2}
        assert all("are both mapped to" in str(image.error) for image in ran.report.failures)
        await client.assert_holds(night.one.upstream, "mirror/app", app("team/a", "1.0.0"), "1.0.0")


async def test_what_is_remembered_of_a_target_is_doubted(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """The target lost everything; the next run would mount what is not there."""
    async with serve_disk("source") as source:
        for name in ("a", "b"):
            await client.push(source, name, an_image(name), "1")
        how = syncer.Mirroring(state=tmp_path / "state")

        async def mirror(target: Registry, *names: str) -> Report:
            document = {
                "sources": [{"image": f"{source.address}/{name}:1"} for name in names],
                "targets": [{"registry": f"{target.address}/m"}],
            }
            (tmp_path / "sync.yaml").write_text(yaml.safe_dump(document))
            settings = settings_for(source, target)
            return (await syncer.sync(tmp_path / "sync.yaml", how, settings=settings)).report

        async with serve_disk("before") as target:
            await mirror(target, "a")
            port = int(target.address.rpartition(":")[2])
        async with serve_disk("after", port=port) as target:
            report = await mirror(target, "b")
            again = await mirror(target, "a", "b")

            repository = f"m/{source.address.replace(':', '_')}/b"
            await client.assert_holds(target, repository, an_image("b"), "1")
        assert (report.totals.blobs_mounted, report.totals.blobs_copied) == (0, 3)
        assert (again.totals.blobs_mounted, again.totals.blobs_copied) == (1, 2)


def test_limits_for_docker_hub_are_kept_where_its_api_is() -> None:
    file = parse_sync_file(
        "{sources: [{image: busybox}], targets: [{registry: t.io}], registries: {docker.io: {concurrency: 2}}}",
        Path("sync.yaml"),
    )
    settings = sync_settings(file, RegistrySettings(), {})

    assert settings.transport.host("registry-1.docker.io").concurrency == 2
    assert settings.transport.host("quay.io").concurrency is None
