import itertools
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from msgspec import structs

from syncer.content import Item, Progress
from syncer.errors import Denied, Exit, NotFound, SyncerError, TargetError
from syncer.oci import Descriptor, Digest, Platform, Reference
from syncer.report import Account, RegistryAccount, human_bytes, human_seconds, summary
from syncer.transfer.events import (
    Copied,
    Event,
    Failed,
    Fetched,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    Skipped,
    Started,
)

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Clock:
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


def item(name: str) -> Item:
    source = Reference.parse(f"quay.io/{name}")
    return Item(source, Reference.parse(f"t.io/quay.io/{name}"))


def blob(text: str, size: int) -> Descriptor:
    return Descriptor(LAYER, Digest.of(text.encode()), size)


def root(text: str) -> Descriptor:
    return Descriptor(INDEX, Digest.of(text.encode()), 500)


def missing() -> NotFound:
    return NotFound("GET quay.io/v2/a/manifests/1", 404)


def account(*events: Event, fetches: bool = True, sends: bool = True) -> Account:
    clock = Clock()
    collected = Account(run_id="r1", fetches=fetches, sends=sends, clock=clock, now=clock.now)
    for event in events:
        collected(event)
        clock.seconds += 1
    return collected


ALPHA, BETA, GAMMA = item("alpha:1"), item("beta:1"), item("gamma:1")
A_NIGHT: list[Event] = [
    Found(ALPHA, root("alpha"), 3, 3000, 0, (Platform("linux", "amd64"), Platform("linux", "arm64"))),
    Copied(blob("one", 1000), "alpha", 0.1),
    Mounted(blob("two", 700), "alpha", "other"),
    Skipped(blob("three", 300), "alpha"),
    ImageCopied(ALPHA, root("alpha")),
    ImageSkipped(BETA, root("beta")),
    ImageFailed(GAMMA, missing()),
]


def test_totals_add_up_what_happened() -> None:
    totals = account(*A_NIGHT).report().totals

    assert (totals.images, totals.images_copied, totals.images_skipped, totals.images_failed) == (3, 1, 1, 1)
    assert (totals.bytes_fetched, totals.bytes_sent) == (1000, 1000)
    assert (totals.bytes_mounted, totals.bytes_skipped) == (700, 300)
    assert totals.seconds == 7


def test_a_build_fetches_and_a_push_sends() -> None:
    build = account(*A_NIGHT, sends=False).report().totals
    push = account(*A_NIGHT, fetches=False).report().totals

    assert (build.bytes_fetched, build.bytes_sent) == (1000, 0)
    assert (push.bytes_fetched, push.bytes_sent) == (0, 1000)


def test_the_report_names_each_image_and_what_became_of_it() -> None:
    images = account(*A_NIGHT).report().to_json()["images"]

    assert images[0] == {
        "source": "quay.io/alpha:1",
        "target": "t.io/quay.io/alpha:1",
        "digest": str(root("alpha").digest),
        "platforms": ["linux/amd64", "linux/arm64"],
        "subject": None,
        "status": "copied",
        "reason": None,
        "message": None,
        "bytes": 3000,
        "seconds": 4.0,
    }
    assert [image["status"] for image in images] == ["copied", "skipped", "failed"]
    assert images[2]["reason"] == "missing"
    assert images[2]["message"] == "GET quay.io/v2/a/manifests/1: 404 Not Found"


def test_a_signature_is_no_image_but_its_failure_counts() -> None:
    signature = structs.replace(item("alpha:sha256-0.sig"), subject=ALPHA.source)
    report = account(ImageCopied(ALPHA, root("alpha")), ImageFailed(signature, missing())).report()

    assert (report.totals.images, report.totals.referrers, report.totals.referrers_failed) == (1, 1, 1)
    assert report.to_json()["images"][1]["subject"] == "quay.io/alpha:1"
    assert report.exit is Exit.MISSING
    assert "with:    1 signature or referrer, 1 failed" in summary("Sync Summary", [], report)


def test_an_image_that_is_tried_again_counts_once_as_it_ended() -> None:
    report = account(
        ImageFailed(ALPHA, SyncerError("the line was cut")),
        Found(ALPHA, root("alpha"), 0, 0, 0),
        ImageCopied(ALPHA, root("alpha")),
    ).report()

    assert report.totals.images == report.totals.images_copied == 1
    assert report.images[0].error is None
    assert report.exit is Exit.OK


def test_an_image_that_the_end_of_the_run_overtook_is_unfinished() -> None:
    report = account(Found(ALPHA, root("alpha"), 1, 1000, 0)).report()

    assert report.images[0].status == "unfinished"
    assert report.exit is Exit.INCOMPLETE


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], Exit.OK),
        ([missing(), missing()], Exit.MISSING),
        ([missing(), Denied("GET x", 401)], Exit.INCOMPLETE),
        ([Denied("GET x", 401)], Exit.DENIED),
        ([TargetError("the disk is full")], Exit.TARGET),
        ([SyncerError("anything")], Exit.INCOMPLETE),
    ],
)
def test_the_exit_code_is_that_of_all_failures_or_1(errors: list[SyncerError], code: Exit) -> None:
    events = [ImageFailed(item(f"image:{number}"), error) for number, error in enumerate(errors)]
    assert account(ImageSkipped(BETA, root("beta")), *events).report().exit is code


def test_requests_are_added_up_over_registries() -> None:
    report = account(*A_NIGHT).report(
        [
            RegistryAccount(registry="t.io", requests=7, retries=1),
            RegistryAccount(registry="quay.io", requests=3, too_many_requests=2, pauses=1, paused_seconds=1.23456),
        ]
    )

    assert (report.totals.requests, report.totals.retries, report.totals.too_many_requests) == (10, 1, 2)
    assert [registry["registry"] for registry in report.to_json()["registries"]] == ["quay.io", "t.io"]
    assert report.to_json()["registries"][0]["paused_seconds"] == 1.235


@pytest.mark.parametrize(("shared", "fetched"), [(False, 3000), (True, 1000)])
def test_bytes_of_blobs_that_are_under_way_as_a_run_ends_are_counted(*, shared: bool, fetched: int) -> None:
    """But for those that an earlier run had brought; of what is read for several targets the spool tells."""
    run = account(*A_NIGHT)
    big = Progress(blob("big", 9000), done=3000, resumed=1000, is_shared=shared)
    run(Started(big, ALPHA.source, "alpha"))

    totals = run.report().totals

    assert (totals.bytes_sent, totals.bytes_copied, totals.bytes_fetched) == (3000, 3000, fetched)
    assert (totals.bytes_unfinished, totals.blobs_copied) == (2000, 1)
    assert "moved:   3.00 kB: 1.00 kB in 1 blob, 2.00 kB of others that are not whole yet" in summary(
        "Summary", [], run.report()
    )


def test_the_summary_reads_like_palettes() -> None:
    collected = account(*A_NIGHT, Found(item("delta:1"), root("delta"), 1, 10, 8_000_000_000))
    report = collected.report([RegistryAccount(registry="t.io", requests=1234, retries=1, too_many_requests=2)])

    assert summary("Sync Summary", ["3 images mirrored to t.io"], report).splitlines() == [
        "-----------------------------",
        "Sync Summary",
        "-----------------------------",
        "3 images mirrored to t.io",
        "images:  4 (1 copied, 1 unchanged, 1 failed, 1 unfinished)",
        "moved:   1.00 kB in 1 blob",
        "saved:   8.00 GB shared between images, 700 B mounted, 300 B there already",
        "requests: 1,234 (1 retry, 2 × 429)",
        "time:    8.0 s, 125 B/s",
        "failed:  quay.io/gamma:1: GET quay.io/v2/a/manifests/1: 404 Not Found",
    ]


def test_a_run_that_moved_no_blob_has_no_line_of_blobs() -> None:
    report = account(Fetched(blob("one", 321)), Skipped(blob("three", 300), "alpha")).report()

    said = summary("Sync Summary", [], report)
    assert "moved:" not in said
    assert "300 B there already" in said


def test_a_failed_blob_is_counted() -> None:
    assert account(Failed(blob("one", 5), "alpha", missing())).report().totals.blobs_failed == 1


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_999, "10.0 kB"),
        (999_600, "1.00 MB"),
        (1_840_000_000, "1.84 GB"),
        (2e18, "2000 PB"),
    ],
)
def test_bytes_are_said_in_decimal_units(count: float, said: str) -> None:
    assert human_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert human_seconds(seconds) == said


def test_an_image_that_fails_before_it_is_found_takes_no_time() -> None:
    """Nor less than none, which no reader of reports would take for a figure."""
    ticks = itertools.count()
    collected = Account(run_id="r1", fetches=True, sends=True, clock=lambda: float(next(ticks)))

    collected(ImageFailed(ALPHA, missing()))

    (failed,) = collected.report().images
    assert failed.seconds == 0
