from msgspec import structs

from syncer.content import Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.report import ProgressMeter
from syncer.report.progress_meter import FleetMeter
from syncer.transfer.events import (
    CameBack,
    Copied,
    Failed,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    Paused,
    Retried,
    Skipped,
    Started,
    WentAway,
)

ROOT = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"root"), 400)


def item(name: str) -> Item:
    return Item(Reference.parse(name), Reference.parse(f"t.io/{name}"))


def blob(name: str, size: int) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(name.encode()), size)


def test_bytes_on_their_way_count_and_the_rate_is_that_between_two_looks() -> None:
    meter = ProgressMeter()
    progress = Progress(blob("a", 1000))
    meter(Found(item("a"), ROOT, 1, 1000, 0))
    meter(Started(progress))
    meter.measure(0.0)
    progress.done = 400

    assert meter.measure(1.0).seconds_left is None  # nobody knows so early
    measurement = meter.measure(4.0)

    assert (measurement.bytes_done, measurement.bytes) == (400, 1000)
    assert measurement.rate == 100
    assert measurement.seconds_left == 6
    assert [(look.descriptor.size, look.done) for look in measurement.in_flight] == [(1000, 400)]


def test_the_rate_forgets_what_is_longer_ago_than_the_window() -> None:
    meter = ProgressMeter()
    meter(Found(item("a"), ROOT, 2, 10_000, 0))
    for second in range(20):
        meter.measure(float(second))
    meter(Copied(blob("a", 5000), "a", 1.0))
    rates = [meter.measure(float(second)).rate for second in range(20, 31)]

    assert rates[0] == 500
    assert rates[-1] == 0


def test_what_is_mounted_or_there_already_is_done_but_tells_nothing_about_the_rate() -> None:
    meter = ProgressMeter()
    meter(Found(item("a"), ROOT, 2, 3000, 0))
    meter.measure(0.0)
    meter(Mounted(blob("a", 1000), "a", "b"))
    meter(Skipped(blob("b", 1500), "a"))

    measurement = meter.measure(1.0)

    assert measurement.bytes_done == 2500
    assert measurement.rate == 0
    assert measurement.seconds_left is None


def test_totals_grow_until_every_announced_image_is_found_or_done() -> None:
    meter = ProgressMeter()
    assert meter.measure(0.0).growing
    meter.expect(3)
    meter(Found(item("a"), ROOT, 1, 10, 0))
    meter(ImageSkipped(item("b"), ROOT))
    assert meter.measure(0.0).growing
    meter(ImageFailed(item("c"), SyncerError("gone")))

    measurement = meter.measure(0.0)

    assert not measurement.growing
    assert (measurement.images, measurement.images_done, measurement.images_failed) == (3, 2, 1)


def test_a_failed_blob_is_waited_for_no_longer() -> None:
    meter = ProgressMeter()
    meter(Found(item("a"), ROOT, 2, 3000, 0))
    meter(Started(Progress(blob("a", 1000), 700)))
    meter(Failed(blob("a", 1000), "a", SyncerError("cut")))
    meter(Failed(ROOT, "a", SyncerError("cut")))

    measurement = meter.measure(0.0)

    assert (measurement.bytes_done, measurement.bytes) == (0, 2000)
    assert measurement.in_flight == ()


def test_an_image_that_is_tried_again_and_arrives_has_not_failed() -> None:
    meter = ProgressMeter()
    meter(ImageFailed(item("a"), SyncerError("cut")))
    meter(ImageCopied(item("a"), ROOT))

    measurement = meter.measure(0.0)

    assert (measurement.images, measurement.images_done, measurement.images_failed) == (1, 1, 0)


def test_one_digest_on_its_way_to_two_repositories_is_two_blobs() -> None:
    meter = ProgressMeter()
    first, second = Progress(blob("a", 100)), Progress(blob("a", 100))
    meter(Found(item("a"), ROOT, 1, 200, 0))
    meter(Started(first))
    meter(Started(second))
    first.done = 100
    meter(Copied(blob("a", 100), "one", 1.0))

    measurement = meter.measure(0.0)

    assert measurement.bytes_done == 100
    assert [look.done for look in measurement.in_flight] == [0]


def test_a_fleet_is_as_far_as_its_sites_together() -> None:
    fleet = FleetMeter(4, now=0.0)
    gone, slow, quick = (fleet.begin(name, now=0.0) for name in ("gone", "slow", "quick"))
    for meter in (slow, quick):
        meter(Found(item("a"), ROOT, 1, 1000, 0))
    progress = Progress(blob("a", 1000))
    slow(Started(progress))
    fleet.measure(0.0)
    quick(Copied(blob("a", 1000), "a", 1.0))
    quick(ImageCopied(item("a"), ROOT))
    gone(ImageFailed(item("a"), SyncerError("gone")))
    fleet.end("quick", 5.0, None)
    fleet.end("gone", 5.0, "connection refused")
    progress.done = 500
    fleet.measure(2.0)

    measurement = fleet.measure(5.0)

    assert (measurement.ended, measurement.failed, measurement.sites) == (2, 1, 4)
    assert (measurement.bytes_moved, measurement.rate) == (1500, 300)
    assert measurement.seconds_left == 5  # of its slowest site; by what is done it were 3
    assert [(site.name, site.seconds) for site in measurement.under_way] == [("slow", 5.0)]
    assert measurement.causes == (("connection refused", ("gone",)),)


def test_a_fleet_takes_as_long_as_its_slowest_site() -> None:
    fleet = FleetMeter(100, now=0.0)
    meter = fleet.begin("slow", now=0.0)
    progress = Progress(blob("a", 10_000))
    meter(Found(item("a"), ROOT, 1, 10_000, 0))
    meter(Started(progress))
    for number in range(99):
        fleet.end(f"{number}", 1.0, None)
    fleet.measure(0.0)
    progress.done = 100

    assert fleet.measure(2.0).seconds_left is None  # nobody knows so early
    assert fleet.measure(10.0).seconds_left == 990


def test_a_site_that_is_visited_again_counts_once_and_what_it_moved_counts_on() -> None:
    fleet = FleetMeter(2, now=0.0)
    for number, cause in enumerate(("busy", None)):
        meter = fleet.begin("a", now=float(number))
        assert fleet.measure(float(number)).causes == ()
        meter(Found(item("a"), ROOT, 1, 1000, 0))
        meter(Copied(blob(f"{number}", 1000), "a", 1.0))
        fleet.end("a", number + 0.5, cause)

    measurement = fleet.measure(2.0)

    assert (measurement.ended, measurement.failed, measurement.bytes_moved) == (1, 0, 2000)


def test_a_pause_and_an_outage_are_told_while_they_last_and_a_retry_for_a_moment() -> None:
    meter = ProgressMeter()

    def told(now: float) -> tuple[str, ...]:
        return meter.measure(now).waits

    assert told(0.0) == ()
    meter(Paused("hub.io", 12.5, "429 Too Many Requests"))
    meter(Retried("hub.io", 1, 5, 0.5, "429 Too Many Requests"))
    meter(Retried("quay.io", 3, 5, 0.5, "GET https://quay.io/v2/: the answer was cut off"))
    pause = "hub.io asks to wait (429 Too Many Requests): {} s left"
    assert told(10.0) == (pause.format(13), "quay.io: retry 3 of 5: the answer was cut off")
    assert told(20.0) == (pause.format(3),)
    assert told(23.0) == ()
    meter(WentAway("quay.io", "quay.io cannot be reached: connection refused"))
    assert told(30.0) == ("quay.io is away for 0 s, and is asked again: quay.io cannot be reached: connection refused",)
    meter(CameBack("quay.io"))
    assert told(31.0) == ()


def test_a_blob_says_for_how_long_it_stands_still() -> None:
    meter, progress = ProgressMeter(), Progress(blob("a", 1000))
    meter(Started(progress, item("a").source, "a"))

    def still(now: float) -> float | None:
        (look,) = meter.measure(now).in_flight
        assert look.name == str(item("a").source)
        return look.still

    assert (still(0.0), still(4.0), still(40.0)) == (None, None, 40.0)
    progress.done = 1
    assert (still(41.0), still(45.0), still(46.0)) == (None, None, 5.0)


def test_each_of_several_targets_has_its_images() -> None:
    meter = ProgressMeter()
    for host, ended in (("b.io", True), ("a.io", False)):
        to = structs.replace(item("x"), target=Reference.parse(f"{host}/x:1"))
        meter(Found(to, ROOT, 1, 1000, 0))
        meter(Started(Progress(blob("x", 1000)), to.source, "x"))
        if ended:
            meter(ImageFailed(to, SyncerError("gone")))

    targets = meter.measure(0.0).targets

    assert [(each.name, each.images, each.images_done, each.images_failed) for each in targets] == [
        ("a.io", 1, 0, 0),
        ("b.io", 1, 1, 1),
    ]
