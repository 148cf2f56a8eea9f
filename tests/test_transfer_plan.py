"""The plan of a transfer: what may be worked on next, and what the end of one piece means for the others; and the
memory that one run leaves for the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import pytest

from syncer.content import Item
from syncer.errors import TargetError
from syncer.oci import Descriptor, Digest, Platform, Reference, parse_manifest
from syncer.oci.manifest import AnyManifest, Takes, never
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Addition, Node, Plan, State, Tree, any_number, no_pause
from tests.support import images
from tests.support.images import Image

LARGE = 1024 * 1024  # bytes
LOST = TargetError("lost")


def sized(*blobs: tuple[str, int]) -> Image:
    """An image of blobs that have a name and a size in bytes, and no content; the first is its config."""
    config, *layers = (
        {"mediaType": images.OCI_LAYER, "digest": images.digest_of(name.encode()), "size": size} for name, size in blobs
    )
    document = {"schemaVersion": 2, "mediaType": images.OCI_MANIFEST, "config": config, "layers": layers}
    return Image(json.dumps(document).encode(), images.OCI_MANIFEST)


def tree_of(name: str, image: Image, *, takes: Takes = never) -> Tree:
    """``image`` as discovery finds it, with the foreign layers that ``takes`` says come along."""
    reference = Reference.parse(name)
    parsed = [parse_manifest(each.content, each.media_type) for each in image.manifests()]
    manifests = {manifest.descriptor.digest: manifest for manifest in parsed}
    content: dict[Digest, Descriptor] = {}

    def walk(manifest: AnyManifest) -> None:
        content[manifest.descriptor.digest] = manifest.descriptor
        for child in manifest.children(takes):
            if child.digest in manifests:
                walk(manifests[child.digest])
            else:
                content[child.digest] = child

    walk(parsed[-1])
    return Tree(Item(reference, reference), parsed[-1].descriptor, manifests, tuple(content.values()))


def enter(plan: Plan, name: str, *blobs: tuple[str, int], image: Image | None = None) -> Addition:
    """Add an image, none of whose content has failed, and let the work on it begin."""
    tree = tree_of(name, image or sized(*blobs))
    space = tree.item.target.name
    added = plan.add(tree, space)
    assert plan.start(tree, added, space) is None
    return added


def taken(
    plan: Plan, pause: Callable[[Reference], float] = no_pause, capacity: Callable[[Reference], float] = any_number
) -> list[Node]:
    """All that may be begun now, while nothing of it ends."""
    nodes: list[Node] = []
    while node := plan.take(pause, capacity):
        nodes.append(node)
    return nodes


def done(plan: Plan, *nodes: Node) -> None:
    """What a worker does that has brought these to the target, the names of images among them."""
    for node in nodes:
        node.committing, node.names = node.names, []
        plan.done(node)


def called(nodes: Sequence[Node], *names: str) -> list[str]:
    """What each node is: a blob's name, or the size of what has none."""
    known = {images.digest_of(name.encode()): name for name in names}
    return [known.get(str(node.descriptor.digest), "a manifest") for node in nodes]


def finish(plan: Plan) -> list[Node]:
    """Bring all that is left to the target, one piece at a time."""
    nodes: list[Node] = []
    while node := plan.take():
        nodes.append(node)
        done(plan, node)
    return nodes


def test_a_manifest_is_committed_when_all_below_it_is_there_and_not_before() -> None:
    plan = Plan(workers=4, can_mount=False)
    one, two = sized(("a", 1), ("b", 2)), sized(("c", 3), ("b", 2))
    enter(plan, "example.com/app:1", image=images.index(one, two))
    plan.complete = True

    blobs = taken(plan)
    assert called(blobs, *"abc") == ["a", "b", "c"]
    done(plan, blobs[0])
    assert taken(plan) == []
    done(plan, blobs[1])
    (first,) = taken(plan)
    done(plan, blobs[2])
    (second,) = taken(plan)
    assert [str(node.descriptor.digest) for node in (first, second)] == [one.digest, two.digest]
    done(plan, first)
    assert taken(plan) == []
    done(plan, second)
    (root,) = taken(plan)
    assert [str(item.source) for item in root.names] == ["example.com/app:1"]
    assert not plan.finished
    done(plan, root)
    assert plan.finished


def test_a_plan_ends_when_nothing_more_will_be_found_and_nothing_is_left() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1))
    finish(plan)

    assert not plan.finished
    plan.complete = True
    assert plan.finished


def test_what_an_image_adds_is_what_no_other_brought_to_its_repository() -> None:
    plan = Plan(workers=4, can_mount=False)

    first = enter(plan, "example.com/app:1", ("a", 10), ("base", 1000))
    second = enter(plan, "example.com/app:2", ("b", 20), ("base", 1000), ("c", 300))
    elsewhere = enter(plan, "example.com/other:1", ("b", 20), ("base", 1000))

    assert (first.blobs, first.bytes, first.deduplicated) == (2, 1010, 0)
    assert (second.blobs, second.bytes, second.deduplicated) == (2, 320, 1000)
    assert (elsewhere.blobs, elsewhere.bytes, elsewhere.deduplicated) == (2, 1020, 0)
    assert called(second.new, *"abc", "base") == ["a manifest", "b", "c"]


def test_an_index_that_shares_manifests_with_another_counts_their_blobs_only() -> None:
    plan = Plan(workers=4, can_mount=False)
    one, two = sized(("a", 10)), sized(("b", 20))

    enter(plan, "example.com/app:1", image=images.index(one))
    both = enter(plan, "example.com/app:2", image=images.index(one, two))

    assert (both.blobs, both.bytes, both.deduplicated) == (1, 20, 10)


def test_blobs_that_are_there_are_waited_for_no_more() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1), ("base", 2))
    finish(plan)

    enter(plan, "example.com/app:2", ("base", 2), ("a", 1))

    assert called(finish(plan), "a", "base") == ["a manifest"]


def fail(plan: Plan, name: str) -> list[str]:
    """Let the blob of that name fail, and all else that can be had arrive; returns the images that fail with it."""
    failed: list[str] = []
    while node := plan.take():
        if str(node.descriptor.digest) == images.digest_of(name.encode()):
            failed += [str(item.source) for item in plan.fail(node, LOST)]
        else:
            done(plan, node)
    return failed


def test_what_fails_takes_all_above_it_along_and_nothing_else() -> None:
    plan = Plan(workers=4, can_mount=False)
    bad = sized(("a", 1), ("lost", 2))
    enter(plan, "example.com/app:bad", image=bad)
    enter(plan, "example.com/app:good", ("b", 1), ("a", 1))
    enter(plan, "example.com/app:index", image=images.index(images.index(bad), sized(("a", 1))))
    plan.complete = True

    assert sorted(fail(plan, "lost")) == ["example.com/app:bad", "example.com/app:index"]
    assert plan.finished


def test_an_image_of_which_nothing_is_left_to_wait_for_is_not_committed_when_a_part_has_failed() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:bad", ("a", 1), ("lost", 2))
    fail(plan, "lost")
    tree = tree_of("example.com/app:late", sized(("lost", 2)))
    plan.complete = True

    assert plan.start(tree, plan.add(tree, "example.com/app"), "example.com/app") is LOST
    assert plan.take() is None
    assert plan.finished


def test_what_is_below_several_indexes_fails_once_in_each_of_them() -> None:
    plan = Plan(workers=4, can_mount=False)
    bad = sized(("lost", 2))
    enter(plan, "example.com/app:bad", image=bad)
    fail(plan, "lost")
    inner = images.index(bad)
    tree = tree_of("example.com/app:late", images.index(inner, images.index(inner)))
    plan.complete = True

    assert plan.start(tree, plan.add(tree, "example.com/app"), "example.com/app") is LOST
    assert plan.finished


def test_a_foreign_layer_that_comes_along_is_waited_for_and_another_is_not() -> None:
    foreign = images.foreign_layer("foreign", "https://vendor.example/layer")
    image = images.image("windows", layers=[foreign])
    for takes, count in ((never, 1), (lambda layer: not layer.is_distributable, 2)):
        plan = Plan(workers=4, can_mount=False)
        tree = tree_of("example.com/app:1", image, takes=takes)
        plan.start(tree, plan.add(tree, "example.com/app"), "example.com/app")

        blobs = taken(plan)
        assert [node.manifest for node in blobs] == [None] * count
        done(plan, blobs[0])
        roots = taken(plan)
        assert len(roots) == (1 if count == 1 else 0)
        done(plan, *blobs[1:])
        assert [str(node.descriptor.digest) for node in (*roots, *taken(plan))] == [image.digest]


@pytest.mark.parametrize("new", ["", "a", "b"])
def test_an_image_is_new_at_the_target_when_anything_below_it_is(new: str) -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1), ("b", 2))
    blobs = taken(plan)
    for name, blob in zip("ab", blobs, strict=True):
        blob.is_new |= name == new
    done(plan, *blobs)
    (root,) = taken(plan)
    assert root.is_new is bool(new)
    done(plan, root)

    enter(plan, "example.com/app:2", ("c", 3), ("b", 2))
    done(plan, *[node for node in taken(plan) if node.manifest is None])
    (second,) = taken(plan)
    assert second.is_new is (new == "b")


def test_an_image_of_which_two_parts_fail_fails_once() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("one", 1), ("two", 2))
    plan.complete = True
    one, two = taken(plan)

    assert [str(item.source) for item in plan.fail(one, LOST)] == ["example.com/app:1"]
    assert plan.fail(two, LOST) == []
    assert plan.finished


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_image_whose_content_has_failed_already_fails_at_once(depth: int) -> None:
    """Its parents neither wait for what will never come, nor are committed without it."""
    plan = Plan(workers=4, can_mount=False)
    bad = sized(("a", 1), ("lost", 2))
    enter(plan, "example.com/app:bad", image=bad)
    assert fail(plan, "lost") == ["example.com/app:bad"]
    plan.complete = True

    late = sized(("b", 1), ("lost", 2)) if depth == 0 else bad
    for _ in range(depth):
        late = images.index(sized(("c", 3)), late)
    tree = tree_of("example.com/app:late", late)
    added = plan.add(tree, "example.com/app")

    assert plan.start(tree, added, "example.com/app") is LOST
    assert late.digest not in {str(node.descriptor.digest) for node in finish(plan)}
    assert plan.finished


def test_an_image_that_has_failed_already_fails_under_its_next_name_too() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("lost", 2))
    fail(plan, "lost")
    tree = tree_of("example.com/app:2", sized(("lost", 2)))
    plan.complete = True

    assert plan.start(tree, plan.add(tree, "example.com/app"), "example.com/app") is LOST
    assert plan.take() is None
    assert plan.finished


def test_all_names_of_an_image_fail_with_it_those_in_hand_too() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1))
    (blob,) = taken(plan)
    done(plan, blob)
    (root,) = taken(plan)
    root.committing, root.names = root.names, []
    enter(plan, "example.com/app:2", ("a", 1))

    assert [str(item.source) for item in plan.fail(root, LOST)] == ["example.com/app:1", "example.com/app:2"]


def test_an_image_that_is_there_is_committed_once_more_for_each_later_name() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1))
    finish(plan)

    enter(plan, "example.com/app:2", ("a", 1))
    plan.complete = True
    assert not plan.finished
    (root,) = taken(plan)
    assert root.manifest is not None
    assert [str(item.target) for item in root.names] == ["example.com/app:2"]
    done(plan, root)
    assert plan.finished


def test_several_names_of_an_image_that_is_there_are_given_together() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1))
    finish(plan)

    enter(plan, "example.com/app:2", ("a", 1))
    enter(plan, "example.com/app:3", ("a", 1))
    plan.complete = True
    (root,) = taken(plan)
    assert [str(item.target) for item in root.names] == ["example.com/app:2", "example.com/app:3"]
    done(plan, root)
    assert plan.finished


def test_a_name_that_is_asked_for_while_its_image_is_committed_is_given_afterwards() -> None:
    plan = Plan(workers=4, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1))
    (blob,) = taken(plan)
    done(plan, blob)
    (root,) = taken(plan)
    root.committing, root.names = root.names, []

    enter(plan, "example.com/app:2", ("a", 1))
    plan.complete = True
    assert taken(plan) == []
    plan.done(root)

    assert not plan.finished
    assert [str(item.target) for node in taken(plan) for item in node.names] == ["example.com/app:2"]


@pytest.mark.parametrize(
    ("workers", "lanes"), [(1, 1), (2, 2), (3, 3), (4, 3), (7, 6), (8, 6), (16, 8), (32, 8), (64, 16)]
)
def test_large_blobs_leave_workers_to_small_ones(workers: int, lanes: int) -> None:
    """A quarter of the workers, and all that more than eight large blobs at once would take."""
    plan = Plan(workers, can_mount=False)
    large = [(f"large{number}", LARGE + number) for number in range(20)]
    small = [(f"small{number}", LARGE - 1) for number in range(5)]
    enter(plan, "example.com/app:1", *small, *large)
    names = [name for name, _ in (*small, *large)]
    largest = [f"large{number}" for number in reversed(range(20))]

    begun = taken(plan)
    assert called(begun, *names) == [*largest[:lanes], *(name for name, _ in small)]
    done(plan, *begun[lanes:])
    assert taken(plan) == []
    done(plan, *begun[:1])
    assert called(taken(plan), *names) == largest[lanes : lanes + 1]


def test_the_largest_blob_of_all_registries_comes_first() -> None:
    plan = Plan(workers=8, can_mount=False)
    enter(plan, "one.example.com/app:1", ("a", LARGE + 30), ("b", LARGE + 10))
    enter(plan, "two.example.com/app:1", ("c", LARGE + 20), ("d", LARGE))

    assert called(taken(plan), *"abcd") == ["a", "c", "b", "d"]


def test_a_large_blob_that_fails_gives_its_lane_to_the_next() -> None:
    plan = Plan(workers=1, can_mount=False)
    enter(plan, "example.com/app:1", ("one", LARGE), ("two", LARGE))
    (first,) = taken(plan)

    plan.fail(first, LOST)

    assert called(taken(plan), "one", "two") == ["two"]


def test_commits_come_before_blobs_and_small_blobs_in_the_order_they_were_found() -> None:
    plan = Plan(workers=1, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 3))
    (blob,) = taken(plan)
    enter(plan, "one.example.com/app:1", ("b", 1))
    enter(plan, "two.example.com/app:1", ("c", 9), ("d", LARGE))
    enter(plan, "one.example.com/app:2", ("e", 5))
    done(plan, blob)

    assert called(taken(plan), *"abcde") == ["a manifest", "d", "b", "c", "e"]


def test_no_more_is_begun_of_a_registry_than_it_has_lanes() -> None:
    plan = Plan(workers=8, can_mount=False)
    enter(plan, "narrow.example.com/app:1", ("a", LARGE), ("b", 1), ("c", LARGE + 1))
    enter(plan, "wide.example.com/app:1", ("d", 1), ("e", LARGE), ("f", 1))

    def lanes(reference: Reference) -> float:
        return 2 if reference.registry == "narrow.example.com" else math.inf

    begun = taken(plan, capacity=lanes)
    assert called(begun, *"abcdef") == ["c", "a", "e", "d", "f"]
    done(plan, begun[1])
    assert called(taken(plan, capacity=lanes), *"abcdef") == ["b"]


def test_a_commit_gives_back_no_lane_of_the_source() -> None:
    plan = Plan(workers=8, can_mount=False)
    enter(plan, "example.com/app:1", ("a", 1))
    finish(plan)
    enter(plan, "example.com/app:2", ("b", 1), ("c", 1))

    assert called(taken(plan, capacity=lambda _: 1), "b", "c") == ["b"]


def test_a_registry_that_is_paused_is_passed_over_until_its_pause_ends() -> None:
    plan = Plan(workers=8, can_mount=False)
    enter(plan, "paused.example.com/app:1", ("a", LARGE), ("b", 1))
    enter(plan, "later.example.com/app:1", ("c", 1))
    enter(plan, "open.example.com/app:1", ("d", 1), ("e", LARGE))
    pauses = {"paused.example.com": 0.5, "later.example.com": 2.0, "open.example.com": 0.0}

    def pause(reference: Reference) -> float:
        return pauses[reference.registry]

    assert called(taken(plan, pause=pause), *"abcde") == ["e", "d"]
    assert plan.shortest_pause(pause) == 0.5
    pauses["paused.example.com"] = -0.1
    assert plan.shortest_pause(pause) == 2.0
    assert called(taken(plan, pause=pause), *"abcde") == ["a", "b"]
    assert plan.shortest_pause(pause) == 2.0
    pauses["later.example.com"] = 0.0
    assert called(taken(plan, pause=pause), *"abcde") == ["c"]
    pauses["paused.example.com"] = 7.0  # of which nothing is left
    assert plan.shortest_pause(pause) == math.inf


def test_a_blob_goes_to_one_repository_and_is_mounted_by_the_others_after_it() -> None:
    plan = Plan(workers=4, can_mount=True)
    for name in ("one", "two", "three"):
        enter(plan, f"example.com/{name}:1", ("base", LARGE))

    (base,) = taken(plan)
    assert (base.space, base.mount_from) == ("example.com/one", None)
    done(plan, base)
    mounts = [node for node in taken(plan) if node.manifest is None]
    enter(plan, "example.com/four:1", ("base", LARGE))
    mounts += taken(plan)

    assert [node.space for node in mounts] == [f"example.com/{name}" for name in ("two", "three", "four")]
    assert {node.mount_from for node in mounts} == {"example.com/one"}
    assert not any(node.is_large for node in mounts)
    assert plan.memory.location(base.descriptor.digest) == "example.com/one"
    done(plan, *mounts)
    finish(plan)
    assert list(plan.memory.blobs) == [str(base.descriptor.digest)]


def test_without_mounts_each_repository_gets_the_blob() -> None:
    plan = Plan(workers=4, can_mount=False, memory=Memory({images.digest_of(b"base"): ["example.com/known"]}))
    for name in ("one", "two"):
        enter(plan, f"example.com/{name}:1", ("base", 1))

    blobs = taken(plan)
    done(plan, *blobs)

    assert [(node.space, node.mount_from) for node in blobs] == [("example.com/one", None), ("example.com/two", None)]
    assert plan.memory.blobs == {images.digest_of(b"base"): ["example.com/known"]}


def test_when_a_blob_fails_the_next_repository_sends_it_for_those_that_are_left() -> None:
    plan = Plan(workers=4, can_mount=True)
    for name in ("one", "two", "three"):
        enter(plan, f"example.com/{name}:1", ("base", 1))
    (first,) = taken(plan)

    assert [str(item.source) for item in plan.fail(first, LOST)] == ["example.com/one:1"]
    enter(plan, "example.com/four:1", ("base", 1))
    (heir,) = taken(plan)
    assert (heir.space, heir.mount_from) == ("example.com/two", None)
    done(plan, heir)

    mounts = [node for node in taken(plan) if node.manifest is None]
    assert [(node.space, node.mount_from) for node in mounts] == [
        ("example.com/three", "example.com/two"),
        ("example.com/four", "example.com/two"),
    ]


def test_a_blob_that_has_failed_is_sent_to_the_repository_that_asks_next() -> None:
    plan = Plan(workers=4, can_mount=True)
    enter(plan, "example.com/one:1", ("base", 1))
    (first,) = taken(plan)
    plan.fail(first, LOST)

    for name in ("two", "three"):
        enter(plan, f"example.com/{name}:1", ("base", 1))

    (second,) = taken(plan)
    assert (second.space, second.mount_from) == ("example.com/two", None)
    done(plan, second)
    assert [node.mount_from for node in taken(plan) if node.manifest is None] == ["example.com/two"]


def test_a_blob_that_an_earlier_run_saw_is_mounted_from_there_but_not_onto_itself() -> None:
    seen = {images.digest_of(b"a"): ["example.com/earlier"], images.digest_of(b"b"): ["example.com/app"]}
    plan = Plan(workers=4, can_mount=True, memory=Memory(seen))
    enter(plan, "example.com/app:1", ("a", 1), ("b", 1))

    blobs = {name: node.mount_from for node in taken(plan) for name in called([node], "a", "b")}

    assert blobs == {"a": "example.com/earlier", "b": None}


def test_mounts_and_small_blobs_take_turns_as_they_became_ready() -> None:
    seen = {images.digest_of(name.encode()): ["example.com/earlier"] for name in ("b", "d")}
    plan = Plan(workers=4, can_mount=True, memory=Memory(seen))
    enter(plan, "example.com/app:1", *((name, 1) for name in "abcde"))

    assert called(taken(plan), *"abcde") == list("abcde")


def test_mounts_need_no_lane_of_the_source() -> None:
    plan = Plan(workers=4, can_mount=True, memory=Memory({images.digest_of(b"b"): ["example.com/earlier"]}))
    enter(plan, "example.com/app:1", ("a", 1), ("b", 1))

    assert called(taken(plan, capacity=lambda _: 0), "a", "b") == ["b"]
    assert called(taken(plan, pause=lambda _: 1.0), "a", "b") == []


def test_a_manifest_is_let_go_of_when_it_is_there() -> None:
    """A run of thousands of images holds no more documents than it is at work on."""
    plan = Plan(workers=4, can_mount=True)
    for space in ("one", "two"):
        enter(plan, f"example.com/{space}:1", image=images.index(sized(("a", 1))))

    nodes = finish(plan)

    assert {node.state for node in nodes} == {State.DONE}
    assert [each for node in nodes for each in (*node.parents, *node.followers, *node.committing)] == []
    assert [node.manifest for node in nodes] == [None] * 6


A, B, C, D = (Digest.of(letter.encode()) for letter in "abcd")
ARM, AMD = Platform.parse("linux/arm64"), Platform.parse("linux/amd64")
MEMORY = {
    "version": 2,
    "blobs": {str(A): ["example.com/app"]},
    "reductions": {f"{A} linux/arm64 linux/amd64": str(B)},
    "children": {str(A): [str(B), str(C)]},
    "subjects": {str(C): str(D)},
}


def told_of(memory: Memory) -> list[object]:
    """All that a memory is asked about."""
    return [memory.location(A), memory.reduction(A, [ARM, AMD]), memory.manifests_below(A), memory.subject(C)]


def test_a_memory_is_read_as_it_was_written() -> None:
    memory = Memory()
    assert told_of(memory) == [None] * 4
    memory.remember_location(A, "example.com/app")
    memory.remember_reduction(A, [ARM, AMD], B)
    memory.remember_below(A, [B, C])
    memory.remember_subject(C, D)

    assert memory.to_json() == MEMORY
    assert told_of(Memory.from_json(MEMORY)) == told_of(memory) == ["example.com/app", B, (B, C), D]
    assert memory.reduction(A, [AMD, ARM]) is None
    memory.forget(B)
    memory.forget(A)
    assert told_of(memory) == [None, B, (B, C), D]


def test_a_memory_of_the_version_before_is_read() -> None:
    """Each blob had one space in it, under another name."""
    before = {name: value for name, value in MEMORY.items() if name != "blobs"}
    before |= {"version": 1, "locations": {str(A): "example.com/app"}}

    assert Memory.from_json(before) == Memory.from_json(MEMORY)
    assert Memory.from_json(before).location(A) == "example.com/app"


@pytest.mark.parametrize(
    "document", [None, [], "text", {}, MEMORY | {"version": 3}, [["version", 1]], {"version": 1, "locations": []}]
)
def test_what_is_no_memory_is_an_empty_one(document: object) -> None:
    assert Memory.from_json(document) == Memory()


def test_what_is_wrong_in_a_memory_is_not_known() -> None:
    wrong = {
        "version": 2,
        "blobs": {str(A): [1], str(B): ["example.com/app"], str(C): "text", str(D): []},
        "reductions": {f"{A} linux/arm64 linux/amd64": "no digest"},
        "children": {str(A): ["no digest"], str(B): [1], str(C): "text", str(D): []},
        "subjects": {str(C): "no digest"},
    }
    memory = Memory.from_json(wrong)

    assert told_of(memory) == [None] * 4
    assert memory.location(B) == "example.com/app"
    assert [memory.manifests_below(each) for each in (B, C, D)] == [None, None, ()]
