"""What a dry run says before a transfer is what the transfer then does."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from syncer.content import Item
from syncer.errors import Exit
from syncer.oci import Reference
from syncer.report import Account
from syncer.report.forecast import Forecast, ForecastReport, plan_summary
from syncer.transfer.discovery import Discovery, DiscoveryResult
from syncer.transfer.run import Options, transfer
from tests.support import images
from tests.support.memory import MemorySource, MemoryTarget, MountingTarget

BASE = images.layer("base", 9000)


def at_target(reference: Reference) -> Item:
    return Item(reference, replace(reference, registry="t.io"))


def seeded() -> tuple[MemorySource, list[Item]]:
    """Two repositories whose images share a layer; one has two tags that share all but one layer."""
    source = MemorySource()
    first = images.image("a", layers=[BASE, images.layer("a", 5000)])
    second = images.image("b", layers=[BASE, images.layer("b", 3000)])
    third = images.image("c", layers=[BASE, images.layer("c", 2000)])
    references = [
        source.add("quay.io/app:1", first),
        source.add("quay.io/app:2", second),
        source.add("ghcr.io/tool:1", third),
    ]
    return source, [at_target(reference) for reference in references]


async def foreseen(
    items: Sequence[Item], source: MemorySource, target: MemoryTarget, *, can_mount: bool = True
) -> ForecastReport:
    forecast = Forecast(fetches=True, sends=True, can_mount=can_mount)

    async def deliver(found: DiscoveryResult) -> None:
        forecast.add(found, target.space(found.item.target))

    await Discovery(source, target).run(items, deliver)
    return forecast.report()


async def carried(items: Sequence[Item], source: MemorySource, target: MemoryTarget) -> Account:
    account = Account(run_id="r", fetches=True, sends=True)
    await transfer(items, source, target, options=Options(workers=4), emit=account)
    return account


async def test_a_forecast_comes_true() -> None:
    source, items = seeded()
    target = MountingTarget()
    plan = (await foreseen(items, source, target)).totals

    done = (await carried(items, source, target)).report().totals

    assert (plan.images_to_copy, plan.blobs_to_copy, plan.blobs_to_mount) == (
        done.images_copied,
        done.blobs_copied,
        done.blobs_mounted,
    )
    assert (plan.bytes_to_fetch, plan.bytes_to_send, plan.bytes_to_mount, plan.bytes_deduplicated) == (
        done.bytes_fetched,
        done.bytes_sent,
        done.bytes_mounted,
        done.bytes_deduplicated,
    )
    assert plan.bytes_to_mount >= len(BASE.content)


async def test_a_target_that_cannot_mount_is_sent_everything() -> None:
    source, items = seeded()
    plan = (await foreseen(items, source, MemoryTarget(), can_mount=False)).totals

    assert plan.bytes_to_mount == 0
    assert plan.bytes_to_send == (await carried(items, source, MemoryTarget())).report().totals.bytes_sent


async def test_nothing_to_do_is_no_work() -> None:
    source, items = seeded()
    target = MountingTarget()
    assert (await foreseen(items, source, target)).exit(tell_work=True) is Exit.WORK_TO_DO
    await carried(items, source, target)

    report = await foreseen(items, source, target)

    assert (report.totals.images_to_skip, report.has_work) == (3, False)
    assert report.exit(tell_work=True) is Exit.OK


async def test_an_image_that_is_not_there_is_foreseen() -> None:
    source, items = seeded()
    lost = at_target(Reference.parse("quay.io/lost:1"))
    report = await foreseen([*items, lost], source, MountingTarget())

    assert report.totals.images_failed == 1
    assert report.exit(tell_work=True) is Exit.MISSING
    assert report.to_json()["images"][-1]["reason"] == "missing"


async def test_the_plan_says_bytes_by_registry_and_the_largest_images() -> None:
    source, items = seeded()
    report = await foreseen(items, source, MountingTarget())
    document = report.to_json()

    assert [registry["registry"] for registry in document["registries"]] == ["ghcr.io", "quay.io", "t.io"]
    assert sum(registry["bytes_fetched"] for registry in document["registries"]) == report.totals.bytes_to_fetch
    assert document["largest"][0]["source"] == "quay.io/app:1"
    lines = plan_summary(report).splitlines()
    assert lines[1] == "Plan Summary"
    assert lines[3] == "images:  3 (3 to copy)"
    assert any(line.startswith("t.io: ") and "to send" in line and "to mount" in line for line in lines)
    assert any(line.startswith("largest: ") and line.endswith("quay.io/app:1") for line in lines)


async def test_an_image_that_goes_to_several_targets_is_among_the_largest_once() -> None:
    source, items = seeded()
    elsewhere = [Item(item.source, replace(item.source, registry="u.io")) for item in items]

    report = await foreseen([*items, *elsewhere], source, MountingTarget())

    assert [str(image.source) for image in report.largest] == ["quay.io/app:1", "quay.io/app:2", "ghcr.io/tool:1"]
    assert plan_summary(report).count("largest: ") == 3
