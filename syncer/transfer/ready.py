"""What may be begun next: a queue for each registry that content comes from."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from syncer.oci import Reference

if TYPE_CHECKING:
    from syncer.transfer.plan import Node

_MAX_LARGE_AT_ONCE = 8  # more large blobs at once cost memory and gain nothing (speed.md §6.6)

Ask: TypeAlias = Callable[[Reference], float]


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
