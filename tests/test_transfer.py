"""The engine between two ends: what arrives, in which order, and what one failure does to the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

from syncer.content import Blob, Item, Pieces, Referral, Referrals
from syncer.errors import (
    ChildrenUnknown,
    InvalidContent,
    NotFound,
    PlatformMissing,
    SyncerError,
    TargetError,
    TargetFull,
)
from syncer.oci import Descriptor, Digest, Platform, Reference, parse_manifest
from syncer.oci.manifest import AnyManifest
from syncer.transfer.discovery import Discovery, DiscoveryFailure, DiscoveryResult
from syncer.transfer.events import (
    Committed,
    Copied,
    Event,
    Failed,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    ReferrersUnknown,
    Skipped,
    Started,
)
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree
from syncer.transfer.run import Options, transfer
from tests.support import images
from tests.support.images import Image
from tests.support.memory import MemoryBlob, MemorySource, MemoryTarget, MountingTarget
from tests.support.watchdog import watchdog


async def carry(
    references: Sequence[Reference],
    source: MemorySource,
    target: MemoryTarget,
    *,
    workers: int = 4,
    platforms: Sequence[str] = (),
    memory: Memory | None = None,
    recheck: bool = False,
) -> list[Event]:
    events: list[Event] = []
    wanted = tuple(map(Platform.parse, platforms))
    items = [Item(reference, reference, platforms=wanted) for reference in references]
    options = Options(workers=workers, memory=memory or Memory(), recheck=recheck)
    await transfer(items, source, target, options=options, emit=events.append)
    return events


async def test_an_index_arrives_whole_with_its_name_last() -> None:
    source, target = MemorySource(), MemoryTarget()
    image = images.index(images.multi_platform("a"), images.image("b"))
    reference = source.add("example.com/app:1", image)

    events = await carry([reference], source, target)

    assert target.names == {str(reference): image.digest}
    assert target.content[reference.name] == {m.digest for m in image.manifests()} | set(image.all_blobs())
    item, root = Item(reference, reference), parse_manifest(image.content).descriptor
    assert events[-1] == ImageCopied(item, root)
    (found,) = [event for event in events if isinstance(event, Found)]
    assert (found.item, found.root, found.blobs) == (item, root, len(image.all_blobs()))


async def test_content_that_images_share_is_read_and_written_once() -> None:
    source, target = MemorySource(), MemoryTarget()
    base = images.layer("base")
    references = [
        source.add(f"example.com/app:{n}", images.image(f"{n}", layers=[base, images.layer(f"{n}")])) for n in range(9)
    ]

    events = await carry(references, source, target)

    assert set(source.reads.values()) == {1}
    assert set(target.received.values()) == {1}
    assert sum(event.deduplicated for event in events if isinstance(event, Found)) == 8 * len(base.content)


async def test_one_missing_blob_fails_its_images_only_and_leaves_no_name() -> None:
    source, target = MemorySource(), MemoryTarget()
    base, lost = images.layer("base"), images.layer("lost")
    good = [source.add(f"example.com/good:{n}", images.image(f"good{n}", layers=[base])) for n in range(5)]
    bad = [source.add(f"example.com/bad:{n}", images.image(f"bad{n}", layers=[base, lost])) for n in range(3)]
    nested = source.add("example.com/nested:1", images.index(images.image("bad0", layers=[base, lost])))
    del source.blobs[images.digest_of(lost.content)]

    events = await carry([bad[0], *good, *bad[1:], nested], source, target)

    assert set(target.names) == set(map(str, good))
    assert {str(e.item.source) for e in events if isinstance(e, ImageFailed)} == set(map(str, [*bad, nested]))
    assert all(isinstance(event.error, NotFound) for event in events if isinstance(event, ImageFailed))


async def test_an_image_that_comes_after_its_content_has_failed_fails_too() -> None:
    source, target = MemorySource(), MemoryTarget()
    lost = images.layer("lost")
    reference = [source.add(f"example.com/bad:{n}", images.image(f"bad{n}", layers=[lost])) for n in range(40)]
    del source.blobs[images.digest_of(lost.content)]

    events = await carry(reference, source, target, workers=1)

    assert sum(isinstance(event, ImageFailed) for event in events) == 40
    assert sum(isinstance(e, Failed) and str(e.descriptor.digest) not in source.manifests for e in events) == 1
    assert not target.names


async def test_an_image_whose_manifest_is_missing_fails_alone() -> None:
    """§3 row 37."""
    source, target = MemorySource(), MemoryTarget()
    index = images.multi_platform("a")
    broken, whole = source.add("example.com/a:1", index), source.add("example.com/b:1", images.image("b"))
    del source.manifests[index.children[1].digest]

    events = await carry([broken, Reference.parse("example.com/none:1"), whole], source, target)

    assert set(target.names) == {str(whole)}
    assert sum(isinstance(event, ImageFailed) for event in events) == 2


async def test_a_second_repository_mounts_what_the_first_one_has() -> None:
    source, target = MemorySource(), MountingTarget()
    base = images.layer("base", 2_000_000)
    references = [source.add(f"example.com/{n}:1", images.image(n, layers=[base])) for n in "abc"]

    events = await carry(references, source, target)

    digest = images.digest_of(base.content)
    assert target.received[digest] == 1
    assert [mounted[1] for mounted in target.mounted] == [digest, digest]
    assert sum(isinstance(event, Mounted) for event in events) == 2
    assert set(target.names) == set(map(str, references))


async def test_when_the_first_upload_fails_the_next_repository_takes_its_part() -> None:
    source, target = MemorySource(), MountingTarget()
    base = images.layer("base")
    references = [source.add(f"example.com/{n}:1", images.image(n, layers=[base])) for n in "abc"]
    target.refuses[f"example.com/a {images.digest_of(base.content)}"] = TargetError("no space for a")

    await carry(references, source, target)

    assert set(target.names) == {"example.com/b:1", "example.com/c:1"}
    assert target.received[images.digest_of(base.content)] == 1


async def test_the_same_content_under_two_names_is_sent_once_and_named_twice() -> None:
    source, target = MemorySource(), MemoryTarget()
    image = images.image("a")
    references = [source.add(f"example.com/app:{tag}", image) for tag in ("1", "1.0", "latest")]

    events = await carry(references, source, target)

    assert target.names == dict.fromkeys(map(str, references), image.digest)
    assert set(target.received.values()) == {1}
    assert sum(isinstance(event, ImageCopied) for event in events) == 3


async def test_an_image_that_the_target_names_already_is_skipped_without_reading_it() -> None:
    source, target = MemorySource(), MemoryTarget()
    reference = source.add("example.com/app:1", images.multi_platform("a"))
    await carry([reference], source, target)
    source.reads.clear()

    events = await carry([reference], source, target)

    root = await source.resolve(reference)
    assert events == [ImageSkipped(Item(reference, reference), root)]
    assert not source.reads


async def test_a_moved_tag_is_brought_up_to_date() -> None:
    source, target = MemorySource(), MemoryTarget()
    await carry([source.add("example.com/app:1", images.image("old"))], source, target)
    moved = images.image("new")

    await carry([source.add("example.com/app:1", moved)], source, target)

    assert target.names == {"example.com/app:1": moved.digest}


async def test_a_platform_resolves_every_index_and_says_what_is_there_instead() -> None:
    source, target = MemorySource(), MemoryTarget()
    several = images.multi_platform("several", attested=True)
    resolved = source.add("example.com/several:1", several)
    single = source.add("example.com/single:1", images.image("single", architecture="arm64"))
    missing = source.add("example.com/missing:1", images.image("missing"))
    lacking = source.add(
        "example.com/lacking:1", images.index(images.image("x"), images.image("y", architecture="s390x"))
    )
    chart = source.add("example.com/chart:1", images.chart("chart"))

    events = await carry([resolved, single, missing, lacking, chart], source, target, platforms=["arm64"])

    assert set(target.names) == {str(resolved), str(single), str(chart)}
    assert target.names[str(resolved)] == several.children[1].digest
    failures = {str(e.item.source): e.error for e in events if isinstance(e, ImageFailed)}
    assert all(isinstance(error, PlatformMissing) for error in failures.values())
    assert "linux/amd64" in str(failures[str(missing)])
    assert "linux/amd64, linux/s390x" in str(failures[str(lacking)])


async def test_an_image_that_names_no_platform_is_for_any_and_an_index_that_names_none_for_none() -> None:
    source, target = MemorySource(), MemoryTarget()
    silent = images.manifest(b"{}", [images.layer("silent")], config_type=images.OCI_CONFIG)
    nameless = source.add("example.com/nameless:1", images.index(silent))
    partly = source.add("example.com/partly:1", images.index(silent, images.image("x", architecture="s390x")))
    single = source.add("example.com/silent:1", silent)

    events = await carry([nameless, partly, single], source, target, platforms=["arm64"])

    assert set(target.names) == {str(single)}
    failures = {e.item.source: str(e.error) for e in events if isinstance(e, ImageFailed)}
    assert failures[nameless].endswith(" has no linux/arm64, and names no platform at all")
    assert failures[partly].endswith(" has no linux/arm64, only linux/s390x")


async def test_places_are_given_in_the_order_of_the_profile_whatever_order_answers_come_in() -> None:
    made = {f"example.com/{n:02}:1": images.image(f"{n}") for n in range(20)}
    source = Reversed(anyio.Event())
    references = [source.add(name, image) for name, image in made.items()]
    source.last = references[-1]
    target = MemoryTarget()

    await carry(references, source, target, workers=20)

    wanted = [image.digest for image in made.values()]
    assert [digest for digest in target.reserved if digest in wanted] == wanted


async def test_what_a_target_only_claims_to_have_is_sent_once_it_says_so() -> None:
    """§3 rows 38 and 39: the target says that it has a blob, and then that it has not."""
    source, target = MemorySource(), MemoryTarget()
    image = images.image("a")
    forgotten = next(iter(image.blobs))
    target.forgets = {forgotten}

    events = await carry([source.add("example.com/app:1", image)], source, target)

    assert target.received == dict.fromkeys(image.blobs, 1)
    assert sum(isinstance(event, Skipped) for event in events) == 1
    assert any(isinstance(event, ImageCopied) for event in events)


async def test_a_full_target_ends_the_run() -> None:
    source, target = MemorySource(), MemoryTarget()
    image = images.image("a")
    target.refuses[f"example.com/app {next(iter(image.blobs))}"] = TargetFull("the disk is full")

    with pytest.raises(TargetFull, match="the disk is full"):
        await carry([source.add("example.com/app:1", image)], source, target)

    assert not target.names


@pytest.mark.parametrize(("depth", "is_refused"), [(8, False), (9, True)])
async def test_indexes_nested_too_deep_are_refused(depth: int, *, is_refused: bool) -> None:
    source, target = MemorySource(), MemoryTarget()
    nested = images.image("a")
    for _ in range(depth):
        nested = images.index(nested)

    events = await carry([source.add("example.com/deep:1", nested)], source, target)

    failures = [type(event.error) for event in events if isinstance(event, ImageFailed)]
    assert failures == ([InvalidContent] if is_refused else [])


async def discovered(source: MemorySource, *items: Item) -> list[DiscoveryResult]:
    """What discovery finds of ``items``, for a target that has nothing."""
    found: list[DiscoveryResult] = []

    async def deliver(one: DiscoveryResult) -> None:
        found.append(one)

    await Discovery(source, MemoryTarget()).run(items, deliver)
    return found


async def test_an_image_of_more_manifests_than_anybody_needs_is_refused() -> None:
    """Ten thousand are taken, the index among them; one more is not."""
    config = {"mediaType": images.OCI_CONFIG, "digest": images.digest_of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": images.OCI_MANIFEST, "config": config, "layers": []}
    children = [
        Image(json.dumps(document | {"annotations": {"n": f"{n}"}}).encode(), images.OCI_MANIFEST)
        for n in range(10_000)
    ]
    source = MemorySource()
    most = source.add("example.com/most:1", images.index(*children[1:]))
    many = source.add("example.com/many:1", images.index(*children))

    taken, refused = await discovered(source, Item(most, most), Item(many, many))

    assert isinstance(taken, Tree)
    assert len(taken.manifests) == 10_000
    assert isinstance(refused, DiscoveryFailure)
    assert "more than 10000 manifests" in str(refused.error)


@pytest.mark.parametrize(("size", "is_refused"), [(8 * 1024 * 1024, False), (8 * 1024 * 1024 + 1, True)])
async def test_a_config_that_is_too_large_to_be_one_is_not_read(size: int, *, is_refused: bool) -> None:
    content = b'{"os": "linux", "architecture": "amd64"'
    config = content + b" " * (size - len(content) - 1) + b"}"
    source = MemorySource()
    made = images.manifest(config, [images.layer("a")], config_type=images.OCI_CONFIG)
    reference = source.add("example.com/app:1", made)

    (found,) = await discovered(source, Item(reference, reference, platforms=(Platform("linux", "amd64"),)))

    assert isinstance(found, DiscoveryFailure) is is_refused
    assert source.reads[images.digest_of(config)] == (0 if is_refused else 1)


async def test_a_manifest_that_several_indexes_list_is_asked_for_once() -> None:
    source, target = MemorySource(), MemoryTarget()
    shared = images.image("shared")
    references = [source.add(f"example.com/{n}:1", images.index(shared, images.image(n))) for n in "abc"]

    await carry(references, source, target, workers=1)

    assert source.reads[shared.digest] == 1
    assert set(target.names) == set(map(str, references))


@dataclass(slots=True)
class Slow(MemorySource):
    """Tells of no image tagged ``slow`` before it may."""

    released: anyio.Event = field(default_factory=anyio.Event)

    async def manifest(self, reference: Reference) -> AnyManifest:
        if reference.tag == "slow":
            await self.released.wait()
        return await MemorySource.manifest(self, reference)


async def test_an_image_that_keeps_others_waiting_gives_up_its_turn_and_no_other_does() -> None:
    source = Slow()
    names = ["a:slow", "b:1", "c:slow"]
    references = [source.add(f"{n}.example.com/{name}", images.image(name)) for n, name in enumerate(names)]
    order: list[str] = []

    async def deliver(found: DiscoveryResult) -> None:
        order.append(found.item.source.repository)
        source.released.set()

    discovery = Discovery(source, MemoryTarget(), patience=0.01)
    await discovery.run([Item(reference, reference) for reference in references], deliver)

    assert order == ["b", "c", "a"]


async def test_images_that_all_keep_waiting_keep_their_turns() -> None:
    source = Slow()
    references = [source.add(f"{n}.example.com/{n}:slow", images.image(n)) for n in "abc"]
    order: list[str] = []

    async def deliver(found: DiscoveryResult) -> None:
        order.append(found.item.source.repository)

    async def release() -> None:
        await anyio.wait_all_tasks_blocked()
        for _ in range(1000):  # the patience of nothing at all has ended by then
            await anyio.lowlevel.checkpoint()
        source.released.set()

    discovery = Discovery(source, MemoryTarget(), patience=0.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release)
        await discovery.run([Item(reference, reference) for reference in references], deliver)

    assert order == ["a", "b", "c"]


@pytest.mark.parametrize("platforms", [[], ["linux/amd64"]])
@pytest.mark.parametrize(("field_", "lie"), [("size", 1), ("mediaType", images.DOCKER_MANIFEST)])
async def test_an_index_that_says_something_else_of_a_manifest_than_it_is_is_refused(
    field_: str, lie: int | str, platforms: list[str]
) -> None:
    """Nothing of it gets a name, and an image beside it, which lists the same manifest rightly, is copied."""
    source, target = MemorySource(), MemoryTarget()
    child = images.image("a")
    right = images.index(child, images.image("b", architecture="arm64"))
    document = right.document
    document["manifests"][0][field_] = lie
    lying = Image(json.dumps(document).encode(), images.OCI_INDEX, children=right.children)
    good, bad = source.add("example.com/app:1", child), source.add("example.com/app:2", lying)

    events = await carry([good, bad], source, target, platforms=platforms)

    failures = [event for event in events if isinstance(event, ImageFailed)]
    assert [(event.item.source, type(event.error)) for event in failures] == [(bad, InvalidContent)]
    assert f"its index lists {document['manifests'][0]['mediaType']} of " in str(failures[0].error)
    assert set(target.names) == {str(good)}


async def test_two_images_that_list_one_digest_with_two_sizes_are_not_both_right() -> None:
    """One of them lies; the sizes of what is there are those of the one that was found first."""
    source, target = MemorySource(), MemoryTarget()
    layer = images.layer("shared")
    honest = images.image("a", layers=[layer])
    other = images.image("b", layers=[layer])
    document = other.document
    document["layers"][0]["size"] += 1
    lying = Image(json.dumps(document).encode(), other.media_type, other.blobs)
    good, bad = source.add("example.com/good:1", honest), source.add("example.com/bad:1", lying)

    events = await carry([good, bad], source, target, workers=1)

    failures = [event for event in events if isinstance(event, ImageFailed)]
    assert [(event.item.source, type(event.error)) for event in failures] == [(bad, InvalidContent)]
    assert f"with {len(layer.content) + 1} bytes, and another image with {len(layer.content)}" in str(failures[0].error)
    assert set(target.names) == {str(good)}


async def test_nothing_to_do_is_nothing_done() -> None:
    assert await carry([], MemorySource(), MemoryTarget()) == []


@dataclass(slots=True)
class Reversed(MemorySource):
    """Answers for the last image first; the others wait for it."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    last: Reference | None = None

    def __init__(self, answered: anyio.Event) -> None:
        MemorySource.__init__(self)
        self.answered = answered
        self.last = None

    async def manifest(self, reference: Reference) -> AnyManifest:
        if reference == self.last:
            self.answered.set()
        elif int(reference.repository) > 4:  # the last one is looked at once some of the first are done
            await self.answered.wait()
        return await MemorySource.manifest(self, reference)


def test_descriptors_are_values() -> None:
    descriptor = Descriptor("text/plain", Digest.of(b""), 0)

    assert descriptor == Descriptor.from_json(descriptor.to_json())


@dataclass(slots=True)
class Referred(MemorySource):
    """A source that knows what refers to its images, or does not."""

    known: dict[str, list[Referral]] = field(default_factory=dict)  # by subject
    doubt: SyncerError | None = None
    asked: list[str] = field(default_factory=list)
    fails: SyncerError | None = None

    def sign(self, subject: Image, signature: Image, tag: str | None = None) -> None:
        """Let ``signature`` refer to ``subject`` in the repository of all tests, by itself or by a tag."""
        name = self.add(f"example.com/app:{tag}" if tag else f"example.com/app@{signature.digest}", signature)
        about = None if tag else Digest.parse(subject.digest)
        self.known.setdefault(subject.digest, []).append(Referral(name, about))

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Referrals:
        assert subjects
        self.asked += map(str, subjects)
        if self.fails:
            raise self.fails
        found = [referral for subject in subjects for referral in self.known.get(str(subject), [])]
        return Referrals(tuple(found), self.doubt)


async def test_signatures_of_an_image_and_of_what_is_inside_travel_along() -> None:
    source, target = Referred(), MemoryTarget()
    index = images.multi_platform("signed")
    reference = source.add("example.com/app:1", index)
    tag, signature = images.cosign_signature(index)
    sbom = images.referrer(index.children[1])
    source.sign(index, signature, tag)
    source.sign(index.children[1], sbom)

    await carry([reference], source, target)

    assert target.names["example.com/app:1"] == index.digest
    assert target.names[f"example.com/app:{tag}"] == signature.digest
    assert sbom.digest in target.content["example.com/app"]


async def test_referrers_go_where_their_image_goes() -> None:
    source, target = Referred(), MemoryTarget()
    image = images.image("signed")
    reference = source.add("example.com/app:1", image)
    tag, signature = images.cosign_signature(image)
    sbom = images.referrer(image)
    source.sign(image, signature, tag)
    source.sign(image, sbom)

    items = [Item(reference, Reference.parse("mirror.example.com/else:2"))]
    await transfer(items, source, target, options=Options(), emit=lambda _: None)

    assert target.names == {
        "mirror.example.com/else:2": image.digest,
        f"mirror.example.com/else:{tag}": signature.digest,
        f"mirror.example.com/else@{sbom.digest}": sbom.digest,
    }


async def test_what_refers_to_a_referrer_travels_along_to_the_end() -> None:
    """A signature of an SBOM, by its digest and by a tag; and what refers to both of two is asked about once."""
    source, target = Referred(), MemoryTarget()
    image = images.image("signed")
    reference = source.add("example.com/app:1", image)
    sbom = images.referrer(image)
    signature = images.referrer(sbom, "application/vnd.example.signature")
    tag, last = images.cosign_signature(signature)
    source.sign(image, sbom)
    source.sign(sbom, signature)
    source.sign(image, signature)
    source.sign(signature, last, tag)

    events = await carry([reference], source, target)

    assert target.names[f"example.com/app:{tag}"] == last.digest
    assert {sbom.digest, signature.digest} <= target.content["example.com/app"]
    assert sorted(source.asked) == sorted([image.digest, sbom.digest, signature.digest, last.digest])
    copied = [event.item for event in events if isinstance(event, ImageCopied)]
    assert len(copied) == len(set(copied)) == 4
    assert {item.subject for item in copied} == {None, reference}


async def test_referrers_that_go_round_in_a_circle_end() -> None:
    source, target = Referred(), MemoryTarget()
    image, other = images.image("one"), images.image("other")
    reference = source.add("example.com/app:1", image)
    source.sign(image, other)
    source.sign(other, image)

    events = await carry([reference], source, target)

    assert not any(isinstance(event, ReferrersUnknown) for event in events)
    assert source.asked == [image.digest, other.digest]
    assert other.digest in target.content["example.com/app"]


async def test_referrers_without_end_are_a_doubt_and_no_failure() -> None:
    source, target = Referred(), MemoryTarget()
    chain = [images.image(f"link {number}") for number in range(20)]
    reference = source.add("example.com/app:1", chain[0])
    for subject, signature in pairwise(chain):
        source.sign(subject, signature)

    events = await carry([reference], source, target)

    (doubt,) = [event for event in events if isinstance(event, ReferrersUnknown)]
    assert "8 steps" in str(doubt.error)
    assert target.names["example.com/app:1"] == chain[0].digest
    assert chain[8].digest in target.content["example.com/app"]
    assert chain[9].digest not in target.content["example.com/app"]


@pytest.mark.parametrize(("steps", "is_doubt"), [(7, False), (8, True)])
async def test_referrers_are_followed_so_many_steps(steps: int, *, is_doubt: bool) -> None:
    source, target = Referred(), MemoryTarget()
    image = images.image("first")
    reference = source.add("example.com/app:1", image)
    for _ in range(steps):
        signature = images.referrer(image)
        source.sign(image, signature)
        image = signature

    events = await carry([reference], source, target)

    assert any(isinstance(event, ReferrersUnknown) for event in events) is is_doubt
    assert image.digest in target.content["example.com/app"]


async def test_only_the_manifests_of_an_unchanged_index_are_asked_for_and_remembered() -> None:
    """A cache of BuildKit's lists blobs beside them."""
    source, target, memory = Referred(), MemoryTarget(), Memory()
    image, layer = images.image("a"), images.layer("cached")
    entry = {"mediaType": images.OCI_LAYER, "digest": images.digest_of(layer.content), "size": len(layer.content)}
    document = json.loads(images.index(image).content)
    document["manifests"].append(entry)
    index = Image(json.dumps(document).encode(), images.OCI_INDEX, children=(image,))
    source.blobs[images.digest_of(layer.content)] = layer.content
    reference = source.add("example.com/app:1", index)
    await carry([reference], source, target)
    source.asked.clear()

    events = await carry([reference], source, target, memory=memory)

    assert [type(event) for event in events] == [ImageSkipped]
    assert source.asked == [index.digest, image.digest]
    assert memory.children == {index.digest: [image.digest]}


async def test_a_new_signature_of_an_unchanged_image_is_found() -> None:
    source, target = Referred(), MemoryTarget()
    image = images.image("signed")
    reference = source.add("example.com/app:1", image)
    await carry([reference], source, target)
    tag, signature = images.cosign_signature(image)
    source.sign(image, signature, tag)

    events = await carry([reference], source, target)

    assert sum(isinstance(event, ImageSkipped) for event in events) == 1
    assert target.names[f"example.com/app:{tag}"] == signature.digest


@pytest.mark.parametrize("platforms", [[], ["linux/arm64"], ["linux/amd64", "linux/arm64"]])
@pytest.mark.parametrize("remembered", [True, False])
async def test_a_new_signature_of_a_platform_of_an_unchanged_index_is_found(
    platforms: list[str], remembered: bool
) -> None:
    """From memory, without a manifest; without it the indexes, and what a platform needs, are read once."""
    source, target, memory = Referred(), MemoryTarget(), Memory()
    deep = images.index(images.multi_platform("deep"), images.image("beside"))
    index = images.multi_platform("signed") if platforms else deep
    reference = source.add("example.com/app:1", index)
    await carry([reference], source, target, platforms=platforms, memory=memory)
    if not remembered:
        memory = Memory.from_json({"version": 1, "locations": {}, "reductions": memory.reductions})
    signed = (index if platforms else index.children[0]).children[1]
    tag, signature = images.cosign_signature(signed)
    source.sign(signed, signature, tag)
    source.reads.clear()

    await carry([reference], source, target, platforms=platforms, memory=Memory.from_json(memory.to_json()))
    again = Memory.from_json(memory.to_json())

    assert target.names[f"example.com/app:{tag}"] == signature.digest
    indexes = {index.digest} | ({index.children[0].digest} if not platforms else set())
    signature_reads = {signature.digest, *signature.blobs}
    read = set(source.reads) - signature_reads - set(signed.blobs)
    assert read == (set() if remembered else indexes | ({signed.digest} if len(platforms) == 1 else set()))
    assert again == memory


async def test_what_refers_to_an_image_is_not_looked_for_where_nobody_wants_it() -> None:
    source, target = Referred(), MemoryTarget()
    reference = source.add("example.com/app:1", images.image("signed"))
    item = Item(reference, reference, referrers=False)

    await transfer([item], source, target, options=Options(), emit=lambda _: None)

    assert source.asked == []
    assert set(target.names) == {str(reference)}


async def test_a_look_up_that_fails_is_said_and_copies_the_image_all_the_same() -> None:
    """Once for a repository, and again only where it is required."""
    source, target = Referred(doubt=NotFound("GET referrers", 500)), MemoryTarget()
    image = images.image("signed")
    references = [source.add(f"example.com/app:{tag}", image) for tag in ("1", "2")]
    references.append(source.add("example.com/other:1", image))

    events = await carry(references, source, target)

    assert len(target.names) == 3
    doubts = [event for event in events if isinstance(event, ReferrersUnknown)]
    assert [doubt.item.source.name for doubt in doubts] == ["example.com/app", "example.com/other"]
    assert not any(isinstance(event, ImageFailed) for event in events)


async def test_several_platforms_make_a_smaller_index_with_its_attestations() -> None:
    source, target = MemorySource(), MemoryTarget()
    index = images.multi_platform("several", attested=True)
    reference = source.add("example.com/app:1", index)
    whole = source.add("example.com/whole:1", images.index(*index.children[:2]))

    await carry([reference, whole], source, target, platforms=["linux/amd64", "linux/arm64"])
    first = target.names[str(reference)]
    again = await carry([reference], source, target, platforms=["linux/amd64", "linux/arm64"])

    assert first != index.digest
    held = {child.digest for child in index.children} & target.content["example.com/app"]
    assert held == {index.children[0].digest, index.children[1].digest, *(c.digest for c in index.children[3:5])}
    assert target.names[str(whole)] == images.index(*index.children[:2]).digest
    assert [type(event) for event in again] == [ImageSkipped]


@dataclass(slots=True)
class Paused(MemorySource):
    """One registry is paused until another one's images are there."""

    target: MemoryTarget = field(default_factory=MemoryTarget)

    def pause(self, reference: Reference) -> float:
        waits = reference.registry == "paused.example.com" and len(self.target.names) < 10
        return 0.001 if waits else 0.0


async def test_a_paused_registry_keeps_no_worker_from_the_others() -> None:
    source = Paused()
    paused = [source.add(f"paused.example.com/app:{n}", images.image(f"p{n}")) for n in range(10)]
    others = [source.add(f"example.com/app:{n}", images.image(f"o{n}")) for n in range(10)]

    await carry([*paused, *others], source, source.target, workers=2)

    assert list(source.target.names)[:10] == list(map(str, others))
    assert set(source.target.names) == set(map(str, [*paused, *others]))


async def test_a_blob_seen_by_an_earlier_run_is_mounted_and_a_wrong_memory_does_no_harm() -> None:
    source, target, memory = MemorySource(), MountingTarget(), Memory()
    base, other = images.layer("base"), images.layer("other")
    references = [
        source.add("example.com/a:1", images.image("a", layers=[base])),
        source.add("example.com/b:1", images.image("b", layers=[base, other])),
    ]
    memory.remember_location(Digest.parse(images.digest_of(other.content)), "example.com/gone")

    for reference in references:
        await transfer(
            [Item(reference, reference)], source, target, options=Options(memory=memory), emit=lambda _: None
        )

    assert target.mounted == [("example.com/b", images.digest_of(base.content), "example.com/a")]
    assert set(target.names) == set(map(str, references))
    assert Memory.from_json(memory.to_json()) == memory
    assert memory.location(Digest.parse(images.digest_of(other.content))) == "example.com/b"


async def test_an_index_reduced_before_is_known_without_reading_it() -> None:
    source, target, memory = MemorySource(), MemoryTarget(), Memory()
    reference = source.add("example.com/app:1", images.multi_platform("several"))
    items, options = [Item(reference, reference, platforms=(Platform.parse("arm64"),))], Options(memory=memory)
    await transfer(items, source, target, options=options, emit=lambda _: None)
    source.reads.clear()
    events: list[Event] = []

    await transfer(items, source, target, options=options, emit=events.append)

    assert [type(event) for event in events] == [ImageSkipped]
    assert not source.reads


@dataclass(slots=True)
class Truthful(MountingTarget):
    """Can be asked for what it has."""

    commits: list[str] = field(default_factory=list)

    async def holds(self, space: str, descriptor: Descriptor) -> bool:
        return str(descriptor.digest) in self.content.get(space, ())

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        await MountingTarget.commit(self, space, manifest, names)
        self.commits.append(str(manifest.descriptor.digest))


@pytest.mark.parametrize("lost", [(True, True), (True, False), (False, True)])
async def test_a_look_at_everything_sends_what_was_lost_and_no_more(lost: tuple[bool, bool]) -> None:
    """A blob, a manifest, or both; all above what was lost is stored anew."""
    source, target = MemorySource(), Truthful()
    whole, broken = images.image("whole"), images.multi_platform("broken")
    references = [source.add("example.com/whole:1", whole), source.add("example.com/broken:1", broken)]
    await carry(references, source, target)
    platform, *_ = broken.manifests()
    blob = next(iter(platform.all_blobs()))
    gone = {digest for digest, is_lost in zip((platform.digest, blob), lost, strict=True) if is_lost}
    target.content["example.com/broken"] -= gone
    target.received.clear()
    target.commits.clear()

    assert {type(event) for event in await carry(references, source, target)} == {ImageSkipped}
    target.forgets = gone  # it would say that it has them
    events = await carry(references, source, target, recheck=True)

    assert target.received == ({blob: 1} if blob in gone else {})
    assert target.commits == [platform.digest, broken.digest]
    assert {blob, platform.digest} <= target.content["example.com/broken"]
    skipped = [str(event.descriptor.digest) for event in events if isinstance(event, Skipped)]
    assert sorted(skipped) == sorted({*whole.all_blobs(), *broken.all_blobs()} - gone)
    ends = {str(e.item.source): type(e) for e in events if isinstance(e, ImageSkipped | ImageCopied | ImageFailed)}
    assert ends == {"example.com/whole:1": ImageSkipped, "example.com/broken:1": ImageCopied}


async def test_a_blob_that_was_lost_is_mounted_where_another_repository_has_it() -> None:
    source, target = MemorySource(), Truthful()
    base = images.layer("base")
    digest = images.digest_of(base.content)
    references = [source.add(f"example.com/{n}:1", images.image(n, layers=[base])) for n in "ab"]
    await carry(references, source, target)
    target.content["example.com/b"].remove(digest)
    target.mounted.clear()
    target.commits.clear()

    events = await carry(references, source, target, recheck=True)

    assert target.mounted == [("example.com/b", digest, "example.com/a")]
    (mounted,) = [event for event in events if isinstance(event, Mounted)]
    assert (str(mounted.descriptor.digest), mounted.space, mounted.origin) == (digest, "example.com/b", "example.com/a")
    assert target.commits == [source.names["example.com/b:1"]]


async def test_a_look_at_everything_gives_the_names_that_are_wrong() -> None:
    source, target = MemorySource(), Truthful()
    image = images.image("a")
    references = [source.add(f"example.com/app:{tag}", image) for tag in ("1", "2")]
    await carry(references, source, target)
    target.names["example.com/app:2"] = images.image("other").digest

    events = await carry(references, source, target, recheck=True)

    assert target.names == dict.fromkeys(map(str, references), image.digest)
    ends = {str(e.item.source): type(e) for e in events if isinstance(e, ImageSkipped | ImageCopied)}
    assert ends == {"example.com/app:1": ImageSkipped, "example.com/app:2": ImageCopied}


async def test_a_mount_that_brought_nothing_is_found_by_a_look_at_everything() -> None:
    """The target believes of another repository what is not so."""

    @dataclass(slots=True)
    class Believing(Truthful):
        attempts: int = 0

        async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
            self.attempts += 1
            await Truthful.commit(self, space, manifest, names)

        async def mount(self, space: str, descriptor: Descriptor, origin: str) -> bool:
            return True

    source, target = MemorySource(), Believing()
    base = images.layer("base")
    references = [source.add(f"example.com/{n}:1", images.image(n, layers=[base])) for n in "ab"]

    events = await carry(references, source, target, recheck=True)

    assert target.received[images.digest_of(base.content)] == 2
    assert target.attempts == 2
    assert not any(isinstance(event, Mounted) for event in events)
    assert set(target.names) == set(map(str, references))


async def test_a_target_that_cannot_be_asked_for_the_truth_is_pushed_to() -> None:
    source, target = MemorySource(), MemoryTarget()
    reference = source.add("example.com/app:1", images.image("a"))

    await carry([reference], source, target, recheck=True)

    assert set(target.names) == {str(reference)}


@dataclass(slots=True)
class Busy(MemorySource):
    """Counts what is asked of it at once; a registry delivers one blob at a time."""

    now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    def capacity(self, reference: Reference) -> float:
        return 1

    async def manifest(self, reference: Reference) -> AnyManifest:
        with self._at_work("manifest"):
            await many_turns()
            return await MemorySource.manifest(self, reference)

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        return BusyBlob(descriptor, self.blobs[str(descriptor.digest)], self)

    @contextmanager
    def _at_work(self, kind: str) -> Iterator[None]:
        self.now[kind] += 1
        self.most[kind] = max(self.most[kind], self.now[kind])
        yield
        self.now[kind] -= 1


@dataclass(slots=True)
class BusyBlob(MemoryBlob):
    source: Busy

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        with self.source._at_work("blob"):
            await many_turns()
            async with MemoryBlob.open(self, offset) as pieces:
                yield pieces


async def many_turns() -> None:
    """Let all others run until they wait."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(("workers", "questions"), [(3, 3), (16, 16), (40, 20)])
async def test_a_source_is_asked_so_much_at_once_and_no_more(workers: int, questions: int) -> None:
    source, target = Busy(), MemoryTarget()
    references = [source.add(f"example.com/app{n}:1", images.image(str(n))) for n in range(40)]

    await carry(references, source, target, workers=workers)

    assert source.most == {"manifest": questions, "blob": 1}
    assert len(target.names) == 40


@dataclass(slots=True)
class Waiting(MemorySource):
    """The second image is found when something has happened to the first."""

    happened: anyio.Event = field(default_factory=anyio.Event)

    async def manifest(self, reference: Reference) -> AnyManifest:
        if reference.repository == "second":
            await self.happened.wait()
        return await MemorySource.manifest(self, reference)


async def test_an_image_that_is_found_after_its_content_has_failed_fails_at_once() -> None:
    """And the work on the first one does not wait for the second one to be found."""
    source, target = Waiting(), MemoryTarget()
    lost = images.layer("lost")
    first = source.add("example.com/first:1", images.image("first", layers=[lost]))
    second = source.add("example.com/second:1", images.image("second", layers=[lost]))
    del source.blobs[images.digest_of(lost.content)]
    items = [Item(reference, Reference.parse(f"example.com/app:{n}")) for n, reference in enumerate((first, second))]
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Failed):
            source.happened.set()

    async with watchdog():
        await transfer(items, source, target, options=Options(), emit=emit)

    failed = [event for event in events if isinstance(event, ImageFailed)]
    assert [event.item for event in failed] == items
    assert {type(event.error) for event in failed} == {NotFound}
    assert not target.names


@dataclass(slots=True)
class Moving(MemorySource):
    """A tag is pushed anew, and what it meant before is deleted, as soon as somebody has looked at it."""

    newer: Image | None = None

    async def manifest(self, reference: Reference) -> AnyManifest:
        found = await MemorySource.manifest(self, reference)
        if self.newer is not None and reference.tag:
            newer, self.newer = self.newer, None
            self.blobs.clear()
            self.manifests.clear()
            self.add(str(reference), newer)
        return found


@pytest.mark.parametrize("old", [images.image("old"), images.multi_platform("old")])
async def test_an_image_whose_tag_moves_on_under_us_is_started_again(old: Image) -> None:
    """§3 rows 35 and 36: its first digest holds, until its content is gone; then the tag is asked once more."""
    new = images.image("new")
    source, target = Moving(newer=new), MemoryTarget()
    reference = source.add("example.com/app:1", old)

    events = await carry([reference], source, target)

    assert target.names == {str(reference): new.digest}
    assert not any(isinstance(event, ImageFailed) for event in events)


async def test_a_digest_that_is_gone_stays_gone() -> None:
    """§3 rows 36 and 37."""
    source, target = MemorySource(), MemoryTarget()
    index = images.multi_platform("a")
    tagged = source.add("example.com/app:1", index)
    bound = source.add(f"example.com/app@{index.digest}", index)
    del source.manifests[index.children[0].digest]

    events = await carry([tagged, bound], source, target)

    assert [type(event.error) for event in events if isinstance(event, ImageFailed)] == [NotFound, NotFound]
    assert not target.names


@pytest.mark.parametrize("is_there", [True, False])
async def test_an_image_whose_tag_moves_to_something_that_is_not_there_either_fails_once(*, is_there: bool) -> None:
    """Nor is anything there when the tag is gone altogether."""

    @dataclass(slots=True)
    class Gone(Moving):
        async def manifest(self, reference: Reference) -> AnyManifest:
            found = await Moving.manifest(self, reference)
            self.blobs.clear()
            if not is_there:
                self.names.clear()
            return found

    source, target = Gone(newer=images.image("new")), MemoryTarget()
    reference = source.add("example.com/app:1", images.image("old"))

    events = await carry([reference], source, target)

    assert [type(event.error) for event in events if isinstance(event, ImageFailed)] == [NotFound]
    assert not target.names


async def test_an_image_that_the_target_refuses_is_not_started_again_because_its_tag_moved() -> None:
    @dataclass(slots=True)
    class Renamed(MemorySource):
        async def manifest(self, reference: Reference) -> AnyManifest:
            found = await MemorySource.manifest(self, reference)
            self.add(str(reference), images.image("new"))
            return found

    source, target = Renamed(), MemoryTarget()
    old = images.image("old")
    reference = source.add("example.com/app:1", old)
    target.refuses = {f"{reference.name} {digest}": TargetError("no") for digest in old.all_blobs()}

    events = await carry([reference], source, target)

    assert TargetError in [type(event.error) for event in events if isinstance(event, Failed)]
    assert not target.names


async def test_each_piece_of_an_image_is_told_of() -> None:
    source, target = MemorySource(), MemoryTarget()
    image = images.multi_platform("told")
    reference = source.add("example.com/app:1", image)
    target.forgets = {next(iter(image.all_blobs()))}

    events = await carry([reference], source, target, platforms=())

    blobs = sorted(image.all_blobs())
    (skipped,) = [event for event in events if isinstance(event, Skipped)]
    assert {str(skipped.descriptor.digest)} == target.forgets
    begun = [event.progress for event in events if isinstance(event, Started)]
    assert sorted({str(progress.descriptor.digest) for progress in begun}) == blobs
    copied = [event for event in events if isinstance(event, Copied)]
    assert sorted(str(event.descriptor.digest) for event in copied) == blobs  # that which it had not, in the end
    assert all(0 <= event.seconds < 60 for event in copied)
    stored = [event for event in events if isinstance(event, Committed)]
    assert {str(event.descriptor.digest) for event in stored} == {each.digest for each in image.manifests()}
    spaces = [skipped.space, *(event.space for event in copied), *(event.space for event in stored)]
    assert set(spaces) == {"example.com/app"}
    (found,) = [event for event in events if isinstance(event, Found)]
    assert [str(platform) for platform in found.platforms] == ["linux/amd64", "linux/arm64", "linux/arm/v7"]


@dataclass(slots=True)
class Forgetful(MemoryTarget):
    """Loses some content when a manifest is stored for the first time, and says so with or without its digest."""

    loses: set[str] = field(default_factory=set)
    names_it: bool = True

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        if self.loses & {str(child.digest) for child in (*manifest.children(), *manifest.foreign())}:
            lost, self.loses = self.loses, set()
            self.content[space] -= lost
            raise ChildrenUnknown(f"PUT {space}", 400, ["unknown"], sorted(lost) if self.names_it else [])
        await MemoryTarget.commit(self, space, manifest, names)


async def test_manifests_are_stored_where_all_that_they_name_was_there_before() -> None:
    @dataclass(slots=True)
    class Counting(MemoryTarget):
        attempts: int = 0

        async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
            self.attempts += 1
            await MemoryTarget.commit(self, space, manifest, names)

    source, target = MemorySource(), Counting()
    image = images.multi_platform("there")
    reference = source.add("example.com/app:1", image)
    target.content["example.com/app"] = set(image.all_blobs())
    target.forgets = set(image.all_blobs())

    await carry([reference], source, target)

    assert target.attempts == len(list(image.manifests()))
    assert target.names == {str(reference): image.digest}
    assert not target.received


@pytest.mark.parametrize("names_it", [True, False])
@pytest.mark.parametrize("is_manifest", [True, False])
async def test_what_a_target_lost_on_the_way_is_sent_again_before_the_name_is_given(
    *, names_it: bool, is_manifest: bool
) -> None:
    """§3 row 38: all that the manifest names, where the target does not say what is missing."""
    source, target = MemorySource(), Forgetful(names_it=names_it)
    image = images.multi_platform("forgotten")
    reference = source.add("example.com/app:1", image)
    platform = image.children[0]
    blob = next(iter(platform.blobs))
    target.loses = {platform.digest if is_manifest else blob}

    events = await carry([reference], source, target)

    assert target.names == {str(reference): image.digest}
    assert not any(isinstance(event, Failed) for event in events)
    again = {digest for digest, times in target.received.items() if times == 2}
    assert again == (set() if is_manifest else {blob} if names_it else set(platform.blobs))


async def test_a_target_that_names_something_else_as_missing_gets_all_that_a_manifest_names() -> None:
    @dataclass(slots=True)
    class Confused(MemoryTarget):
        is_confused: bool = True

        async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
            if self.is_confused:
                self.is_confused = False
                raise ChildrenUnknown(f"PUT {space}", 400, ["unknown"], [images.digest_of(b"another")])
            await MemoryTarget.commit(self, space, manifest, names)

    source, target = MemorySource(), Confused()
    image = images.image("a")
    reference = source.add("example.com/app:1", image)

    await carry([reference], source, target)

    assert target.received == dict.fromkeys(image.blobs, 2)
    assert target.names == {str(reference): image.digest}


@pytest.mark.parametrize("comes_along", [True, False])
async def test_what_a_target_lost_beside_a_foreign_layer_is_sent_again(*, comes_along: bool) -> None:
    """And the layer itself, if it came along."""

    @dataclass(slots=True)
    class Brings(MemorySource):
        def brings(self, layer: Descriptor) -> bool:
            return comes_along

    source, target = Brings(), Forgetful()
    foreign = images.foreign_layer("foreign", "https://vendor.example/layer")
    image = images.image("windows", layers=[images.layer("own"), foreign])
    reference = source.add("example.com/app:1", image)
    digest, blob = images.digest_of(foreign.content), next(iter(image.blobs))
    source.blobs[digest] = foreign.content
    target.loses = {digest, blob}

    await carry([reference], source, target)

    assert target.names == {str(reference): image.digest}
    again = {each for each, times in target.received.items() if times == 2}
    assert again == ({digest, blob} if comes_along else {blob})


async def test_a_target_that_wants_foreign_layers_is_told_of_the_flag_that_brings_them() -> None:
    source, target = MemorySource(), Forgetful()
    foreign = images.foreign_layer("foreign", "https://vendor.example/layer")
    reference = source.add("example.com/app:1", images.image("windows", layers=[foreign]))
    target.loses = {images.digest_of(foreign.content)}

    events = await carry([reference], source, target)

    (failed,) = [event for event in events if isinstance(event, ImageFailed)]
    assert "--include-foreign" in (failed.error.hint or "")
    assert not target.names


async def test_a_target_that_has_no_place_left_ends_the_run() -> None:
    @dataclass(slots=True)
    class Full(MemoryTarget):
        async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
            raise TargetFull("the disk is full")

    source, target = MemorySource(), Full()
    with pytest.raises(TargetFull, match="the disk is full"):
        await carry([source.add("example.com/app:1", images.image("a"))], source, target)


@dataclass(slots=True)
class NarrowTarget(MemoryTarget):
    """A target with room for ``room`` bytes, which knows how much it needs for what it was told of."""

    room: int = 0
    needed: int = 0

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        self.needed += descriptor.size
        if self.needed > self.room:
            raise TargetFull(f"{self.needed} bytes are needed")


async def test_a_target_without_room_is_told_what_all_images_need() -> None:
    """The first image that does not fit is not the last one: the message counts them all."""
    source, made = MemorySource(), [images.image(f"{number}") for number in range(6)]
    references = [source.add(f"example.com/{number}:1", image) for number, image in enumerate(made)]
    size = sum(image.size + len(image.content) for image in made)
    target = NarrowTarget(room=made[0].size)

    with pytest.raises(TargetFull, match=f"^{size} bytes are needed$"):
        await carry(references, source, target)

    assert not target.names


async def test_a_blob_is_mounted_from_where_it_was_seen_only() -> None:
    """What is not there after all is forgotten, and sent."""

    @dataclass(slots=True)
    class Asked(MountingTarget):
        asked: list[tuple[str, str]] = field(default_factory=list)
        attempts: int = 0

        async def mount(self, space: str, descriptor: Descriptor, origin: str) -> bool:
            self.asked.append((str(descriptor.digest), origin))
            return await MountingTarget.mount(self, space, descriptor, origin)

        async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
            self.attempts += 1
            await MountingTarget.commit(self, space, manifest, names)

    source, target, memory = MemorySource(), Asked(), Memory()
    base, lost = images.layer("base"), images.layer("lost")
    reference = source.add("example.com/a:1", images.image("a", layers=[base]))
    bad = source.add("example.com/b:1", images.image("b", layers=[lost]))
    del source.blobs[images.digest_of(lost.content)]
    for layer in (base, lost):
        memory.remember_location(Digest.parse(images.digest_of(layer.content)), "example.com/gone")

    events = await carry([reference, bad], source, target, memory=memory)

    assert sorted(target.asked) == sorted((images.digest_of(each.content), "example.com/gone") for each in (base, lost))
    assert target.attempts == 1
    assert set(target.names) == {str(reference)}
    assert not any(isinstance(event, Mounted) for event in events)
    assert memory.location(Digest.parse(images.digest_of(lost.content))) is None


async def test_a_question_for_referrers_that_fails_is_a_doubt() -> None:
    error = NotFound("GET referrers", 500)
    source, target = Referred(fails=error), MemoryTarget()
    reference = source.add("example.com/app:1", images.image("a"))

    events = await carry([reference], source, target)

    doubts = [event for event in events if isinstance(event, ReferrersUnknown)]
    assert doubts == [ReferrersUnknown(Item(reference, reference), error)]
    assert set(target.names) == {str(reference)}


async def test_more_referrers_than_an_image_may_have_manifests_are_a_doubt() -> None:
    source, target = Referred(), MemoryTarget()
    image = images.image("popular")
    reference = source.add("example.com/app:1", image)
    digests = [Digest("sha256", f"{number:064x}") for number in range(10_000)]
    source.known[image.digest] = [Referral(reference.at(digest), None) for digest in digests]

    events = await carry([reference], source, target)

    (doubt,) = [event for event in events if isinstance(event, ReferrersUnknown)]
    assert "more than 10,000 manifests refer to it" in str(doubt.error)
    assert set(target.names) == {str(reference)}


@dataclass(slots=True)
class ListingTarget(MemoryTarget):
    listed: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)

    async def lists(self, name: Reference, subject: Digest, referrer: Digest) -> bool:
        self.asked.append((name.name, str(subject), str(referrer)))
        return self.listed

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        await MemoryTarget.commit(self, space, manifest, names)
        self.commits.append(str(manifest.descriptor.digest))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_referrer_is_there_when_its_subject_lists_it(*, listed: bool, by_itself: bool) -> None:
    """It was found by its subject, or named by itself and known from an earlier run."""
    source, target, memory = Referred(), ListingTarget(), Memory()
    image = images.image("signed")
    reference = source.add("example.com/app:1", image)
    signature = images.referrer(image)
    source.sign(image, signature)
    if by_itself:
        source.known.clear()
        reference = source.add("example.com/app:signature", signature)
        target.content["example.com/app"] = {image.digest}
    await carry([reference], source, target, memory=memory)
    target.names[f"example.com/app@{signature.digest}"] = signature.digest
    target.commits.clear()
    target.listed = listed

    events = await carry([reference], source, target, memory=memory if by_itself else Memory())

    assert set(target.asked) == {("example.com/app", image.digest, signature.digest)}
    assert target.commits == ([] if listed else [signature.digest])
    kinds = [type(event) for event in events if isinstance(event, ImageSkipped | ImageCopied)]
    assert sorted(kinds, key=str) == sorted(
        [*([] if by_itself else [ImageSkipped]), ImageSkipped if listed else ImageCopied], key=str
    )


@pytest.mark.parametrize("listed", [True, False])
async def test_a_referrer_that_is_reduced_to_some_platforms_is_there_when_its_subject_lists_it(*, listed: bool) -> None:
    """No earlier run is remembered, so that it must be read before it is known."""
    source, target = MemorySource(), ListingTarget()
    image = images.image("signed")
    reference = source.add("example.com/app:1", images.index(*images.multi_platform("about").children, subject=image))
    await carry([reference], source, target, platforms=["amd64", "arm64"])
    target.commits.clear()
    target.listed = listed

    events = await carry([reference], source, target, platforms=["amd64", "arm64"])

    assert isinstance(events[-1], ImageSkipped if listed else ImageCopied)
    assert target.asked == [("example.com/app", image.digest, target.names[str(reference)])]


async def test_an_index_is_remembered_with_the_manifests_below_it_and_an_image_is_not() -> None:
    source, target, memory = MemorySource(), MemoryTarget(), Memory()
    index = images.multi_platform("below")
    references = [source.add("example.com/app:1", index), source.add("example.com/app:2", images.image("a"))]

    await carry(references, source, target, memory=memory)

    assert memory.children == {index.digest: [child.digest for child in index.children]}
    assert memory.blobs == {}  # of no use at a target without mounts


async def test_what_one_manifest_calls_a_layer_may_be_a_manifest_of_the_next() -> None:
    source, target = MemorySource(), MemoryTarget()
    inner = images.image("inner")
    outer = images.image("outer", layers=[images.Layer(inner.content, images.OCI_LAYER, "")])
    reference = source.add("example.com/app:1", images.index(outer, inner))

    await carry([reference], source, target)

    assert set(inner.blobs) <= target.content["example.com/app"]
    assert set(target.names) == {str(reference)}


async def test_the_platforms_of_an_index_are_told_where_it_names_them() -> None:
    source, target = MemorySource(), MemoryTarget()
    image = images.image("a")
    reference = source.add("example.com/app:1", images.index(images.referrer(image), image))

    events = await carry([reference], source, target)

    (found,) = [event for event in events if isinstance(event, Found)]
    assert list(map(str, found.platforms)) == ["linux/amd64"]


async def test_a_foreign_layer_that_does_not_come_along_is_told_of() -> None:
    source, target = MemorySource(), MemoryTarget()
    foreign = images.foreign_layer("foreign", "https://vendor.example/layer")
    reference = source.add("example.com/app:1", images.image("windows", layers=[images.layer("own"), foreign]))

    events = await carry([reference], source, target)

    (found,) = [event for event in events if isinstance(event, Found)]
    assert [str(layer.digest) for layer in found.left_out] == [images.digest_of(foreign.content)]


@pytest.mark.parametrize("platforms", [["s390x"], ["s390x", "ppc64le"]])
@pytest.mark.parametrize(
    "image",
    [images.multi_platform("x"), images.image("x"), images.image("x", docker=True)],
    ids=["an index", "an image", "an image of Docker's"],
)
async def test_an_image_that_is_there_for_other_platforms_only_is_refused(image: Image, platforms: list[str]) -> None:
    source, target = MemorySource(), MemoryTarget()
    reference = source.add("example.com/app:1", image)

    (event,) = await carry([reference], source, target, platforms=platforms)

    assert isinstance(event, ImageFailed)
    wanted = " or ".join(f"linux/{each}" for each in platforms)
    has = "linux/amd64, linux/arm64, linux/arm/v7" if image.children else "linux/amd64"
    assert str(event.error) == f"example.com/app:1 has no {wanted}, only {has}"
    assert "ask for a platform that the image has" in (event.error.hint or "")


async def test_the_first_manifest_that_fits_a_platform_is_taken_whatever_indexes_it_lies_in() -> None:
    source, target = MemorySource(), MemoryTarget()
    first, second = (images.image(name, architecture="arm64") for name in ("first", "second"))
    inner = images.index(images.image("amd"), first, second)
    document = json.loads(images.index(inner, images.image("third", architecture="arm64")).content)
    document["manifests"][0]["platform"] = {"os": "linux", "architecture": "arm64"}
    outer = Image(json.dumps(document).encode(), images.OCI_INDEX, children=(inner,))
    references = [source.add("example.com/app:flat", inner), source.add("example.com/app:nested", outer)]

    await carry(references, source, target, platforms=["arm64"])

    assert target.names == dict.fromkeys(map(str, references), first.digest)


async def test_what_runs_nowhere_comes_whole_whatever_platform_is_asked_for() -> None:
    """A chart or another artifact, and a cache of BuildKit, which is an index of blobs."""
    source, target = MemorySource(), MemoryTarget()
    config = b'{"os": "linux", "architecture": "amd64"}'  # in words of its own
    artifact = images.manifest(config, [images.layer("chart")], config_type="application/vnd.example.config")
    layer = images.layer("cached")
    entry = {"mediaType": images.OCI_LAYER, "digest": images.digest_of(layer.content), "size": len(layer.content)}
    document = {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [entry]}
    cache = Image(json.dumps(document).encode(), images.OCI_INDEX)
    source.blobs[images.digest_of(layer.content)] = layer.content
    references = [source.add("example.com/app:artifact", artifact), source.add("example.com/app:cache", cache)]

    await carry(references, source, target, platforms=["arm64"])

    assert target.names == {"example.com/app:artifact": artifact.digest, "example.com/app:cache": cache.digest}
