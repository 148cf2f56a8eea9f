from syncer.content import Item, Progress
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.report import Pace
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
    pace = Pace()
    progress = Progress(blob("a", 1000))
    pace(Found(item("a"), ROOT, 1, 1000, 0))
    pace(Started(progress))
    pace.look(0.0)
    progress.done = 400

    standing = pace.look(2.0)

    assert (standing.bytes_done, standing.bytes) == (400, 1000)
    assert standing.rate == 200
    assert standing.seconds_left == 3
    assert [(look.descriptor.size, look.done) for look in standing.in_flight] == [(1000, 400)]


def test_the_rate_forgets_what_is_longer_ago_than_the_window() -> None:
    pace = Pace()
    pace(Found(item("a"), ROOT, 2, 10_000, 0))
    for second in range(20):
        pace.look(float(second))
    pace(Copied(blob("a", 5000), "a", 1.0))
    rates = [pace.look(float(second)).rate for second in range(20, 31)]

    assert rates[0] == 500
    assert rates[-1] == 0


def test_what_is_mounted_or_there_already_is_done_but_tells_nothing_about_the_rate() -> None:
    pace = Pace()
    pace(Found(item("a"), ROOT, 2, 3000, 0))
    pace.look(0.0)
    pace(Mounted(blob("a", 1000), "a", "b"))
    pace(Skipped(blob("b", 1500), "a"))

    standing = pace.look(1.0)

    assert standing.bytes_done == 2500
    assert standing.rate == 0
    assert standing.seconds_left is None


def test_totals_grow_until_every_announced_image_is_found_or_done() -> None:
    pace = Pace()
    assert pace.look(0.0).growing
    pace.expect(3)
    pace(Found(item("a"), ROOT, 1, 10, 0))
    pace(ImageSkipped(item("b"), ROOT))
    assert pace.look(0.0).growing
    pace(ImageFailed(item("c"), SyncerError("gone")))

    standing = pace.look(0.0)

    assert not standing.growing
    assert (standing.images, standing.images_done, standing.images_failed) == (3, 2, 1)


def test_a_failed_blob_is_waited_for_no_longer() -> None:
    pace = Pace()
    pace(Found(item("a"), ROOT, 2, 3000, 0))
    pace(Started(Progress(blob("a", 1000), 700)))
    pace(Failed(blob("a", 1000), "a", SyncerError("cut")))
    pace(Failed(ROOT, "a", SyncerError("cut")))

    standing = pace.look(0.0)

    assert (standing.bytes_done, standing.bytes) == (0, 2000)
    assert standing.in_flight == ()


def test_an_image_that_is_tried_again_and_arrives_has_not_failed() -> None:
    pace = Pace()
    pace(ImageFailed(item("a"), SyncerError("cut")))
    pace(ImageCopied(item("a"), ROOT))

    standing = pace.look(0.0)

    assert (standing.images, standing.images_done, standing.images_failed) == (1, 1, 0)


def test_one_digest_on_its_way_to_two_repositories_is_two_blobs() -> None:
    pace = Pace()
    first, second = Progress(blob("a", 100)), Progress(blob("a", 100))
    pace(Found(item("a"), ROOT, 1, 200, 0))
    pace(Started(first))
    pace(Started(second))
    first.done = 100
    pace(Copied(blob("a", 100), "one", 1.0))

    standing = pace.look(0.0)

    assert standing.bytes_done == 100
    assert [look.done for look in standing.in_flight] == [0]
