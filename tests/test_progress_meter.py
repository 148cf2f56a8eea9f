from syncer.content import Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.report import ProgressMeter
from syncer.transfer.events import (
    Copied,
    Failed,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    Skipped,
    Started,
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

    measurement = meter.measure(2.0)

    assert (measurement.bytes_done, measurement.bytes) == (400, 1000)
    assert measurement.rate == 200
    assert measurement.seconds_left == 3
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
