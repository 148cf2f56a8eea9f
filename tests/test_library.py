"""``import syncer`` offers to a program what the command line offers to a person."""

from __future__ import annotations

import importlib
from pathlib import Path

import anyio
import pytest

import syncer
from syncer.api.plan import plan_push_to
from syncer.api.push import Delivery, push_to
from syncer.api.result import PushResult
from syncer.api.verify import verify_at
from syncer.bundle import open_bundle, verify_bundle
from syncer.errors import UsageError
from syncer.registry import RegistryAddress, RegistrySettings, open_registries
from syncer.report.summary import Reported
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.registries import LOGIN


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(syncer, name) for name in syncer.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        importlib.import_module("syncer").nonsense  # noqa: B018


async def test_a_program_builds_pushes_and_verifies(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.multi_platform("a")
    events: list[object] = []
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "team/app", image, "1")

        built = await syncer.build([f"{source.address}/team/app:1"], name="edge", output=tmp_path, emit=events.append)
        assert built.path is not None
        pushed = await syncer.push(built.path, f"{target.address}/mirror")
        verified = await syncer.verify(built.path, f"{target.address}/mirror")

        repository = f"mirror/{source.address.replace(':', '_')}/team/app"
        await client.assert_holds(target, repository, image, "1")
    assert (built.exit, pushed.exit, verified.exit) == (0, 0, 0)
    assert built.report.totals.images_copied == 1
    assert events


@pytest.mark.parametrize("platform", ["linux/arm64", syncer.Platform("linux", "arm64")])
async def test_a_platform_is_a_text_or_a_value_in_each_call(
    debian_registry: OpenRegistry, tmp_path: Path, platform: str | syncer.Platform
) -> None:
    image = images.multi_platform("a")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", image, "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path

        foreseen = await syncer.plan(built.path, f"{target.address}/alone", platform=platform)
        pushed = await syncer.push(built.path, f"{target.address}/alone", platform=platform)
        deployed = await syncer.deploy(built.path, [f"{target.address}/many"], platform=platform)

        assert (pushed.exit, deployed.exit) == (0, 0)
        assert foreseen.totals.bytes_to_send == pushed.report.totals.bytes_sent
        for base in ("alone", "many"):
            there = await client.manifest(target, f"{base}/{source.address.replace(':', '_')}/app", "1")
            assert there.content == image.children[1].content


async def test_a_program_sees_how_far_a_push_is(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    meter = syncer.ProgressMeter()
    seen: list[syncer.events.Event] = []

    def hear(event: syncer.events.Event) -> None:
        seen.append(event)
        meter(event)

    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", images.image("a", layers=[images.layer("a", 300_000)]), "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path
        began = meter.measure(0.0)
        pushed = await syncer.push(built.path, target.address, emit=hear)
        meter.measure(1.0)  # three seconds pass before it is said how long it takes
        ended = meter.measure(5.0)

    assert (began.images_done, began.rate, began.seconds_left) == (0, None, None)
    assert (ended.images_done, ended.bytes_done) == (1, pushed.report.totals.bytes_sent)
    assert ended.rate == pytest.approx(ended.bytes_moved / 5)
    assert ended.seconds_left == 0
    assert [type(event) for event in seen[:1]] == [syncer.events.Found]
    assert isinstance(seen[-1], syncer.events.ImageCopied)


async def test_a_verification_lists_what_a_registry_lacks(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", images.image("a"), "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path is not None

        verified = await syncer.verify(built.path, target.address)

    assert verified.exit == 6
    assert next(lacking.name.tag for lacking in verified.lacking) == "1"
    assert len(verified.lacking) == verified.checked


async def test_a_wrong_call_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image"):
        await syncer.build([], output=tmp_path)
    with pytest.raises(UsageError, match="named twice"):
        await syncer.deploy(tmp_path / "absent", ["a.io/x", "http://A.io/x/"])
    with pytest.raises(UsageError, match="no registry is named"):
        await syncer.deploy(tmp_path / "absent", [])
    with pytest.raises(UsageError, match="not a platform"):
        await syncer.build(["busybox"], output=tmp_path, platform="a/b/c/d")


async def test_an_open_bundle_serves_many_calls(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """It is opened and checked once, and its file may be gone by then."""
    image = images.image("a")
    ends: list[tuple[str, str, bool]] = []

    class Listening:
        def begin(self, site: syncer.Site) -> None:
            return None

        def end(self, result: syncer.SiteResult, report: Reported | None, *, is_last: bool) -> None:
            ends.append((result.name, result.state, is_last))

    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", image, "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path is not None

        async with syncer.open_bundle(built.path) as bundle:
            planned = await syncer.plan(bundle, f"{target.address}/a")
            pushed = await syncer.push(bundle, f"{target.address}/a")
            verified = await syncer.verify(bundle, f"{target.address}/a")
            mine = syncer.NameMapping.parse([f"{source.address}=mine"])
            sites: list[str | syncer.Site] = [f"{target.address}/a"]
            sites.append(syncer.Site(name="b", registry=f"{target.address}/b", mapping=mine))
            deployed = await syncer.deploy(bundle, sites, at_once=1, watcher=Listening())
        await client.assert_holds(target, "b/mine/app", image, "1")

    assert planned.has_work
    assert (pushed.exit, verified.exit, deployed.exit) == (0, 0, 0)
    assert [site.state for site in deployed.sites] == ["unchanged", "done"]
    assert ends == [(f"{target.address}/a", "unchanged", True), ("b", "done", True)]


async def test_a_program_deploys_to_the_sites_of_a_file(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target", login=LOGIN) as target:
        await client.push(source, "app", images.image("a"), "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path is not None
        targets = tmp_path / "sites.yaml"
        targets.write_text(
            f"targets:\n"
            f"  - registry: '{target.address}/{{1..2}}'\n"
            f"  - {{registry: '{target.address}/x', enabled: false}}\n"
            f"registries:\n"
            f"  '{target.address}': {{credentials: {{username: {LOGIN.username}, password: '${{PASSWORD}}'}}}}\n"
        )

        deployed = await syncer.deploy(built.path, targets, environment={"PASSWORD": LOGIN.password})

    assert {site.name: site.state for site in deployed.sites} == {
        f"{target.address}/1": "done",
        f"{target.address}/2": "done",
    }


async def test_an_open_bundle_goes_to_several_registries_each_with_an_account_of_its_own(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("a")
    results: dict[str, PushResult] = {}
    async with debian_registry("source") as source, debian_registry("full") as full, debian_registry("empty") as empty:
        await client.push(source, "app", image, "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path)
        assert built.path is not None
        await syncer.push(built.path, full.address)

        with open_bundle(built.path) as bundle:
            check = await verify_bundle(bundle)
            async with open_registries(RegistrySettings()) as registries, anyio.create_task_group() as tasks:

                async def push(address: str) -> None:
                    delivery = Delivery(address=RegistryAddress.parse(address))
                    results[address] = await push_to(registries, delivery, bundle)

                for address in (full.address, empty.address, "127.0.0.1:1"):
                    tasks.start_soon(push, address)
            async with open_registries(RegistrySettings()) as registries:
                delivery = Delivery(address=RegistryAddress.parse(empty.address))
                verified = await verify_at(registries, delivery, bundle, check)
                planned = await plan_push_to(registries, delivery, bundle)
        await client.assert_holds(empty, f"{source.address.replace(':', '_')}/app", image, "1")

    ends = {
        address: (result.exit, result.report.totals.images_copied, result.report.totals.images_skipped)
        for address, result in results.items()
    }
    assert ends == {full.address: (0, 0, 1), empty.address: (0, 1, 0), "127.0.0.1:1": (5, 0, 0)}
    assert len({result.report.run_id for result in results.values()}) == 3
    assert (verified.exit, verified.lacking) == (0, ())
    assert not planned.has_work
