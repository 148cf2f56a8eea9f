"""The plan: the content that must be at the target, and the order of the work.

The plan only decides, in plain functions; ``run`` acts on it.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from typing import TypeAlias

from msgspec import Struct, field

from syncer.content import Item
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.transfer.memory import Memory

LARGE = 1024 * 1024
"""Bytes.  A blob of this size or more is large: it begins early, and leaves some workers to the small ones."""

_MAX_LARGE_AT_ONCE = 8  # more large blobs at once cost memory and gain nothing (speed.md §6.6)

Rank: TypeAlias = Callable[[Descriptor], int]
"""The place of a large blob in the order in which they are sent: the lowest comes first."""

Ask: TypeAlias = Callable[[Reference], float]
"""A question about the registry of a reference: its pause in seconds, or the number of blobs that it may deliver."""


class Tree(Struct, frozen=True):
    """An image and all its content: its root first, then the rest in the order of the documents."""

    item: Item
    root: Descriptor
    manifests: dict[Digest, AnyManifest]
    content: tuple[Descriptor, ...]
    left_out: tuple[Descriptor, ...] = ()  # foreign layers that do not come along

    @property
    def blobs(self) -> list[Digest]:
        return [descriptor.digest for descriptor in self.content if descriptor.digest not in self.manifests]


class State(Enum):
    """The state of a node; it waits for its children, for a mount, or for ``Plan.start``."""

    WAITING = auto()
    READY = auto()
    DONE = auto()
    FAILED = auto()


class Node(Struct, eq=False):
    """One piece of content in one space, however many images want it."""

    descriptor: Descriptor
    space: str
    origin: Reference  # an image at the source that has it
    manifest: AnyManifest | None
    state: State = State.WAITING
    waiting_for: int = 0  # children that are not done
    parents: list[Node] = field(default_factory=list)
    followers: list[Node] = field(default_factory=list)  # the same blob in other spaces
    mount_from: str | None = None
    names: list[Item] = field(default_factory=list)  # images with this root that are not committed yet
    committing: list[Item] = field(default_factory=list)  # images that a worker commits now
    error: SyncerError | None = None
    is_under_way: bool = False  # a worker fetches it from its registry now
    is_new: bool = False  # it, or something below it, was not at the target before

    @property
    def is_large(self) -> bool:
        return self.manifest is None and self.mount_from is None and self.descriptor.size >= LARGE


def no_pause(_: Reference) -> float:
    """The pause of a registry at a source that knows none, in seconds."""
    return 0.0


def largest_first(descriptor: Descriptor) -> int:
    """The place of a large blob where its source has no order of its own."""
    return -descriptor.size


def any_number(_: Reference) -> float:
    """The number of blobs that a registry may deliver at once at a source without a limit."""
    return math.inf


class Addition(Struct, frozen=True):
    """The new content that an image adds to a plan, in the order of its documents; sizes are in bytes of blobs.

    ``deduplicated`` counts the bytes that the plan had already.
    """

    new: tuple[Node, ...]
    blobs: int
    bytes: int
    deduplicated: int


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Plan:
    """The graph of nodes: children come before their parents, and the first copy of a blob before its mounts."""

    workers: int
    can_mount: bool
    memory: Memory = dataclasses.field(default_factory=Memory)
    rank: Rank = largest_first
    complete: bool = False  # discovery has nothing more to add
    unfinished: int = 0
    _nodes: dict[tuple[str, Digest], Node] = dataclasses.field(default_factory=dict)
    _leaders: dict[Digest, Node] = dataclasses.field(default_factory=dict)
    _ready: ReadyQueue = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._ready = ReadyQueue(self.rank)

    @property
    def finished(self) -> bool:
        return self.complete and self.unfinished == 0

    def has(self, space: str, digest: Digest) -> bool:
        """Return whether some content is a part of the plan."""
        return (space, digest) in self._nodes

    def add(self, tree: Tree, space: str) -> Addition:
        """Add an image; its new nodes wait until the target has reserved places for them and ``start`` is called."""
        new: list[Node] = []
        deduplicated = size = blobs = 0
        for descriptor in tree.content:
            node = self._nodes.get((space, descriptor.digest))
            is_blob = descriptor.digest not in tree.manifests
            if node is None:
                node = Node(descriptor, space, tree.item.source, tree.manifests.get(descriptor.digest))
                self._nodes[space, descriptor.digest] = node
                new.append(node)
                if is_blob:
                    blobs += 1
                    size += descriptor.size
            elif is_blob:
                deduplicated += descriptor.size
        self.unfinished += len(new)
        for node in new:
            self._await_children(node)
        for node in new:
            if node.error is not None and node.state is State.WAITING:
                self.fail(node, node.error)
        root = self._nodes[space, tree.root.digest]
        root.manifest = tree.manifests[tree.root.digest]
        root.names.append(tree.item)
        return Addition(tuple(new), blobs, size, deduplicated)

    def start(self, tree: Tree, added: Addition, space: str) -> SyncerError | None:
        """Make the nodes of an added image ready; returns the error if its root has failed already."""
        for node in added.new:
            if node.manifest is None:
                self._lead_or_follow(node)
            elif node.waiting_for == 0 and node.state is State.WAITING:
                self._make_ready(node)
        root = self._nodes[space, tree.root.digest]
        if root.state is State.DONE:
            self._name_again(root)
        return root.error

    def take(self, pause: Ask = no_pause, capacity: Ask = any_number, lanes: int | None = None) -> Node | None:
        """Take the node to work on next; see ``ReadyQueue.take``."""
        return self._ready.take(pause, capacity, lanes or self.workers)

    def shortest_pause(self, pause: Ask) -> float:
        """Seconds until a node that is passed over now may be taken; infinite when there is none."""
        return self._ready.shortest_pause(pause)

    def done(self, node: Node) -> None:
        """Note that ``node`` is at the target, and make ready the nodes that waited for it."""
        if self.can_mount and node.manifest is None:
            self.memory.remember_location(node.descriptor.digest, node.space)
        self._settle(node, State.DONE)
        for follower in node.followers:
            follower.mount_from = node.space
            self._make_ready(follower)
        for parent in node.parents:
            parent.waiting_for -= 1
            parent.is_new |= node.is_new
            if parent.waiting_for == 0 and parent.state is State.WAITING:
                self._make_ready(parent)
        node.parents, node.followers, node.committing = [], [], []
        if node.names:
            self._name_again(node)
        else:
            node.manifest = None

    def fail(self, node: Node, error: SyncerError) -> list[Item]:
        """Note that ``node`` has failed; returns the images that fail with it, directly or through its parents."""
        self._settle(node, State.FAILED)
        node.error = error
        self._pass_on_lead(node)
        failed = node.committing + node.names
        node.committing, node.names = [], []
        for parent in node.parents:
            if parent.state is State.WAITING:
                failed += self.fail(parent, error)
        return failed

    def _await_children(self, node: Node) -> None:
        if node.manifest is None:
            return
        for child in node.manifest.children(lambda layer: self.has(node.space, layer.digest)):
            below = self._nodes[node.space, child.digest]
            if below.state is State.FAILED:
                node.error = below.error
            elif below.state is State.DONE:
                node.is_new |= below.is_new
            else:
                below.parents.append(node)
                node.waiting_for += 1

    def _name_again(self, root: Node) -> None:
        """Make the root ready again, to store it under one more name: its content is at the target already."""
        self.unfinished += 1
        self._make_ready(root)

    def _lead_or_follow(self, node: Node) -> None:
        leader = self._leaders.setdefault(node.descriptor.digest, node)
        if leader is node or not self.can_mount:
            location = self.memory.location(node.descriptor.digest)
            if self.can_mount and location != node.space:
                node.mount_from = location
            self._make_ready(node)
        elif leader.state is State.DONE:
            node.mount_from = leader.space
            self._make_ready(node)
        elif leader.state is State.FAILED:
            self._leaders[node.descriptor.digest] = node
            self._make_ready(node)
        else:
            leader.followers.append(node)

    def _pass_on_lead(self, node: Node) -> None:
        if node.followers:
            heir, *rest = node.followers
            self._leaders[node.descriptor.digest] = heir
            heir.followers += rest
            node.followers = []
            self._make_ready(heir)

    def _make_ready(self, node: Node) -> None:
        node.state = State.READY
        self._ready.add(node)

    def _settle(self, node: Node, state: State) -> None:
        self._ready.release(node)
        node.state = state
        self.unfinished -= 1


class Needs:
    """The numbers of times that each target will read each blob, or may; ``forsaken`` hears of blobs that none will."""

    def __init__(self, items: Iterable[tuple[str, Item]], forsaken: Callable[[Digest], None]) -> None:
        self._forsaken = forsaken
        self._of: dict[Digest, Counter[str]] = {}
        self._awaited: dict[Reference, Counter[str]] = {}  # images, and the targets that have not come to them
        self._foreseen: dict[Reference, set[Digest]] = {}  # the blobs of these, as far as they are known
        for target, item in items:
            self._awaited.setdefault(item.source, Counter())[target] += 1

    def __contains__(self, digest: object) -> bool:
        return digest in self._of

    def of(self, digest: Digest) -> Counter[str]:
        """The numbers for one blob, by target."""
        return self._of.get(digest, Counter())

    def foresee(self, image: Reference, blobs: Iterable[Digest]) -> None:
        """Note that ``image`` has ``blobs``: each target that has not come to it may need them."""
        targets = self._awaited.get(image)
        if targets:
            new = set(blobs) - self._foreseen.setdefault(image, set())
            self._foreseen[image] |= new
            for target in targets:
                self.add(target, new)

    def come_to(self, target: str, image: Reference) -> None:
        """Note that ``target`` knows now which blobs of ``image`` it needs."""
        targets = self._awaited.get(image, Counter())
        if not targets[target]:
            return
        targets[target] -= 1
        if targets[target]:
            return  # it has the image in two places
        del targets[target]
        foreseen = self._foreseen.get(image, set())
        if not targets:
            del self._awaited[image]
            self._foreseen.pop(image, None)
        for digest in foreseen:
            self.remove(target, digest)

    def add(self, target: str, blobs: Iterable[Digest]) -> None:
        for digest in blobs:
            self._of.setdefault(digest, Counter())[target] += 1

    def remove(self, target: str, digest: Digest) -> None:
        targets = self.of(digest)
        if not targets[target]:
            return
        targets[target] -= 1
        if not targets[target]:
            del targets[target]
        if not targets:
            del self._of[digest]
            self._forsaken(digest)

    def leave(self, target: str) -> None:
        """Note that ``target`` needs nothing more."""
        for image in [image for image, targets in self._awaited.items() if targets[target]]:
            self._awaited[image][target] = 1
            self.come_to(target, image)
        for digest in [digest for digest, targets in self._of.items() if targets[target]]:
            self._of[digest][target] = 1
            self.remove(target, digest)


class _Queue(Struct):
    """The blobs that wait for one registry, and the number of those that workers fetch from it now."""

    origin: Reference  # any image in it
    large: list[tuple[int, int, Node]] = field(default_factory=list)  # a heap by rank
    small: deque[tuple[int, Node]] = field(default_factory=deque)
    under_way: int = 0

    def __bool__(self) -> bool:
        return bool(self.large or self.small)


class ReadyQueue(Struct):
    """The nodes that are ready to be worked on.

    Commits come first, then large blobs, then small ones and mounts in the order in which they became ready.  Large
    blobs leave some workers to the small ones.
    """

    rank: Rank = largest_first
    _commits: deque[Node] = field(default_factory=deque)
    _mounts: deque[tuple[int, Node]] = field(default_factory=deque)
    _queues: dict[str, _Queue] = field(default_factory=dict)  # by registry
    _large_at_work: int = 0
    _tickets: int = 0

    def add(self, node: Node) -> None:
        self._tickets += 1
        if node.manifest is not None:
            self._commits.append(node)
        elif node.mount_from is not None:
            self._mounts.append((self._tickets, node))
        elif node.is_large:
            heapq.heappush(self._queue(node).large, (self.rank(node.descriptor), self._tickets, node))
        else:
            self._queue(node).small.append((self._tickets, node))

    def take(self, pause: Ask, capacity: Ask, lanes: int) -> Node | None:
        """Take the node to work on next, where ``lanes`` may be under way together; None when there is none.

        Blobs of a registry are passed over while ``pause`` says that it is paused, and while it delivers as many as
        ``capacity`` says: no worker waits for it.
        """
        if self._commits:
            return self._commits.popleft()
        queues = [queue for queue in self._queues.values() if queue and _may_be_asked(queue, pause, capacity)]
        if self._large_at_work < _large_capacity(lanes, (capacity(queue.origin) for queue in queues)):
            large = min((queue for queue in queues if queue.large), key=lambda queue: queue.large[0], default=None)
            if large is not None:
                self._large_at_work += 1
                return _begin(large, heapq.heappop(large.large)[2])
        small = min((queue for queue in queues if queue.small), key=lambda queue: queue.small[0][0], default=None)
        if self._mounts and (small is None or self._mounts[0] < small.small[0]):
            return self._mounts.popleft()[1]
        return None if small is None else _begin(small, small.small.popleft()[1])

    def release(self, node: Node) -> None:
        """Note that ``node``, which was taken, is done or has failed."""
        if node.is_under_way:
            self._queues[node.origin.registry].under_way -= 1
            self._large_at_work -= node.is_large
            node.is_under_way = False

    def shortest_pause(self, pause: Ask) -> float:
        """Seconds until a node that is passed over now may be taken; infinite when there is none."""
        return min(filter(None, self._pauses(pause)), default=math.inf)

    def _pauses(self, pause: Ask) -> Iterator[float]:
        for queue in self._queues.values():
            if queue:
                yield max(0.0, pause(queue.origin))

    def _queue(self, node: Node) -> _Queue:
        queue = self._queues.get(node.origin.registry)
        if queue is None:
            queue = self._queues[node.origin.registry] = _Queue(node.origin)
        return queue


def _large_capacity(lanes: int, capacities: Iterable[float]) -> int:
    most = int(min(lanes, max(capacities, default=lanes)))
    return max(1, min(most - most // 4, max(_MAX_LARGE_AT_ONCE, most // 4)))


def _may_be_asked(queue: _Queue, pause: Ask, capacity: Ask) -> bool:
    return pause(queue.origin) <= 0 and queue.under_way < capacity(queue.origin)


def _begin(queue: _Queue, node: Node) -> Node:
    queue.under_way += 1
    node.is_under_way = True
    return node
