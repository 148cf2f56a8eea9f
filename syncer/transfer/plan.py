"""What must exist at the target, and what may be done next.  Plain functions: they decide, ``run`` acts."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from syncer.content import Item
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.transfer.memory import Memory

LARGE = 1024 * 1024
"""Bytes from which on a blob is large: it goes early, and never into the lane that is kept for small ones."""

_MAX_LARGE_AT_ONCE = 8  # more large blobs at once cost memory and gain nothing (speed.md §6.6)
Ask: TypeAlias = Callable[[Reference], float]


@dataclass(frozen=True, slots=True)
class Tree:
    """An image as discovery found it: its root first, then the rest in the order of its documents."""

    item: Item
    root: Descriptor
    manifests: dict[Digest, AnyManifest]
    content: tuple[Descriptor, ...]


class State(Enum):
    WAITING = auto()
    READY = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True, eq=False)
class Node:
    """One piece of content in one space, once however many images want it."""

    descriptor: Descriptor
    space: str
    origin: Reference  # an image at the source that has it
    manifest: AnyManifest | None
    state: State = State.WAITING
    waiting_for: int = 0  # children that are not done
    parents: list[Node] = field(default_factory=list)
    followers: list[Node] = field(default_factory=list)  # the same blob in other spaces
    mount_from: str | None = None
    names: list[Item] = field(default_factory=list)  # images whose root this is, not committed yet
    committing: list[Item] = field(default_factory=list)  # those that a worker has in hand
    error: SyncerError | None = None
    is_under_way: bool = False  # a worker has it from its registry
    is_new: bool = False  # it, or something below it, was not at the target before

    @property
    def is_large(self) -> bool:
        return self.manifest is None and self.mount_from is None and self.descriptor.size >= LARGE


def _never(_: Reference) -> float:
    return 0.0


def _any_number(_: Reference) -> float:
    return math.inf


@dataclass(frozen=True, slots=True)
class Added:
    """What an image adds to a plan: new content in the order of its documents, and what others bring along."""

    new: tuple[Node, ...]
    blobs: int
    bytes: int
    deduplicated: int


@dataclass(slots=True)
class Plan:
    """The graph of nodes: children come before parents, a blob's first space before its mounts."""

    workers: int
    can_mount: bool
    memory: Memory = field(default_factory=Memory)
    complete: bool = False  # discovery has nothing more to add
    unfinished: int = 0
    _nodes: dict[tuple[str, Digest], Node] = field(default_factory=dict)
    _leaders: dict[Digest, Node] = field(default_factory=dict)
    _ready: Ready = field(init=False)

    def __post_init__(self) -> None:
        self._ready = Ready(self.workers)

    @property
    def finished(self) -> bool:
        return self.complete and self.unfinished == 0

    def add(self, tree: Tree, space: str) -> Added:
        """Enter an image; its new nodes wait until ``start`` is told that they have a place."""
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
        return Added(tuple(new), blobs, size, deduplicated)

    def start(self, tree: Tree, added: Added, space: str) -> SyncerError | None:
        """Let the work on an image begin; returns the error if its root has failed already."""
        for node in added.new:
            if node.manifest is None:
                self._lead_or_follow(node)
            elif node.waiting_for == 0 and node.state is State.WAITING:
                self._make_ready(node)
        root = self._nodes[space, tree.root.digest]
        if root.state is State.DONE:
            self._name_again(root)
        return root.error if root.state is State.FAILED else None

    def take(self, pause: Ask = _never, lanes: Ask = _any_number) -> Node | None:
        """The node to work on next; see ``Ready.take``."""
        return self._ready.take(pause, lanes)

    def shortest_pause(self, pause: Ask) -> float:
        """Seconds until something that is passed over now may be taken; infinite when nothing is."""
        return self._ready.shortest_pause(pause)

    def done(self, node: Node) -> None:
        """``node`` is at the target: what waited for it may go on."""
        if self.can_mount and node.manifest is None:
            self.memory.saw(node.descriptor.digest, node.space)
        self._leave(node, State.DONE)
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
        """``node`` cannot be had; returns the images that fail with it, directly or through its parents."""
        self._leave(node, State.FAILED)
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
        for child in node.manifest.children():
            below = self._nodes[node.space, child.digest]
            if below.state is State.FAILED:
                node.error = below.error
            elif below.state is State.DONE:
                node.is_new |= below.is_new
            else:
                below.parents.append(node)
                node.waiting_for += 1

    def _name_again(self, root: Node) -> None:
        """The same content under one more name, asked for when the content was there already."""
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

    def _leave(self, node: Node, state: State) -> None:
        self._ready.left(node)
        node.state = state
        self.unfinished -= 1


@dataclass(slots=True)
class _Queue:
    """The blobs that wait for one registry, and how many are on their way from it."""

    origin: Reference  # any image in it
    large: list[tuple[int, int, Node]] = field(default_factory=list)  # a heap: the largest first
    small: deque[tuple[int, Node]] = field(default_factory=deque)
    under_way: int = 0

    def __bool__(self) -> bool:
        return bool(self.large or self.small)


@dataclass(slots=True)
class Ready:
    """The nodes that wait for nothing but their turn.

    Commits come first, then large blobs, then small ones and mounts in the order in which they became ready, with
    some workers left to the small ones.
    """

    workers: int
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
            heapq.heappush(self._queue(node).large, (-node.descriptor.size, self._tickets, node))
        else:
            self._queue(node).small.append((self._tickets, node))

    def take(self, pause: Ask, lanes: Ask) -> Node | None:
        """The node to work on next; None while there is none that may be begun.

        Passed over is what would have to wait for a registry that ``pause`` says is paused, or of which no more than
        ``lanes`` pieces may be on their way: no worker waits for it.
        """
        if self._commits:
            return self._commits.popleft()
        queues = [queue for queue in self._queues.values() if queue and _may_be_asked(queue, pause, lanes)]
        if self._large_at_work < self._large_lanes():
            large = min((queue for queue in queues if queue.large), key=lambda queue: queue.large[0], default=None)
            if large is not None:
                self._large_at_work += 1
                return _under_way(large, heapq.heappop(large.large)[2])
        small = min((queue for queue in queues if queue.small), key=lambda queue: queue.small[0][0], default=None)
        if self._mounts and (small is None or self._mounts[0] < small.small[0]):
            return self._mounts.popleft()[1]
        return None if small is None else _under_way(small, small.small.popleft()[1])

    def left(self, node: Node) -> None:
        """``node``, which was taken, is done or has failed."""
        if node.is_under_way:
            self._queues[node.origin.registry].under_way -= 1
            self._large_at_work -= node.is_large
            node.is_under_way = False

    def shortest_pause(self, pause: Ask) -> float:
        """Seconds until something that is passed over now may be begun; infinite when nothing is."""
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

    def _large_lanes(self) -> int:
        return max(1, min(self.workers - self.workers // 4, max(_MAX_LARGE_AT_ONCE, self.workers // 4)))


def _may_be_asked(queue: _Queue, pause: Ask, lanes: Ask) -> bool:
    return pause(queue.origin) <= 0 and queue.under_way < lanes(queue.origin)


def _under_way(queue: _Queue, node: Node) -> Node:
    queue.under_way += 1
    node.is_under_way = True
    return node
