"""The progress of a transfer while it runs: images, bytes, rate and time left.  The display measures it regularly."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from syncer.content import Item, Progress
from syncer.oci import Descriptor, Digest
from syncer.transfer.events import (
    Committed,
    Copied,
    Event,
    Failed,
    Fetched,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    ReferrersUnknown,
    Skipped,
    Started,
)

WINDOW = 10.0
"""The seconds over which the rate is measured."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """One blob that is transferred now."""

    descriptor: Descriptor
    done: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The progress of a transfer at one moment."""

    images: int  # as many as were announced or found
    images_done: int  # failed ones among them
    images_failed: int
    bytes: int  # in blobs of all images found so far
    bytes_done: int
    growing: bool  # discovery is not finished: ``bytes`` will grow
    rate: float | None  # bytes a second; None until it can be measured
    seconds_left: float | None
    in_flight: tuple[InFlight, ...]  # largest remainder first


@dataclass(slots=True)
class ProgressMeter:
    """An ``Emit`` that measures the progress of a transfer.

    ``measure`` may be called from another thread than the one of the events.
    """

    _expected: int = 0
    _found: set[Item] = field(default_factory=set)
    _done: dict[Item, bool] = field(default_factory=dict)  # whether it failed
    _total: int = 0
    _finished: int = 0  # bytes of blobs that are at the target: copied, mounted or there before
    _moved: int = 0  # bytes of those that were copied
    _active: dict[Digest, list[Progress]] = field(default_factory=dict)
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, images: int) -> None:
        """Announce more images."""
        with self._lock:
            self._expected += images

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._take(event)

    def measure(self, now: float) -> Measurement:
        """The progress at ``now``, in seconds of a monotonic clock; the rate is the one since earlier measurements."""
        with self._lock:
            active = [progress for group in self._active.values() for progress in group]
            on_their_way = sum(progress.done for progress in active)
            images = max(self._expected, len(self._found | self._done.keys()))
            seen = len(self._found | self._done.keys())
            rate = self._rate(now, self._moved + on_their_way)
            done = min(self._total, self._finished + on_their_way)
            return Measurement(
                images=images,
                images_done=len(self._done),
                images_failed=sum(self._done.values()),
                bytes=self._total,
                bytes_done=done,
                growing=seen < images or not images,
                rate=rate,
                seconds_left=(self._total - done) / rate if rate else None,
                in_flight=_largest_remainder_first(active),
            )

    def _take(self, event: Event) -> None:
        match event:
            case ReferrersUnknown():
                pass  # the image is on its way all the same
            case Found() | ImageCopied() | ImageSkipped() | ImageFailed():
                self._take_image(event)
            case Started(progress):
                self._active.setdefault(progress.descriptor.digest, []).append(progress)
            case Copied() | Skipped() | Mounted() | Failed():
                self._take_blob(event)
            case Committed() | Fetched():
                pass
            case _:
                assert_never(event)

    def _take_image(self, event: Found | ImageCopied | ImageSkipped | ImageFailed) -> None:
        if isinstance(event, Found):
            self._total += event.bytes
        if event.item.subject is not None:
            return  # a signature is no image
        if isinstance(event, Found):
            self._found.add(event.item)
        else:
            self._done[event.item] = isinstance(event, ImageFailed)

    def _take_blob(self, event: Copied | Skipped | Mounted | Failed) -> None:
        descriptor = event.descriptor
        self._land(descriptor)
        if not isinstance(event, Failed):
            self._finished += descriptor.size
            self._moved += descriptor.size if isinstance(event, Copied) else 0
        elif not descriptor.is_manifest:
            self._total -= descriptor.size

    def _land(self, descriptor: Descriptor) -> None:
        """Forget the progress of a blob; when several have its digest, the one that is furthest."""
        group = self._active.get(descriptor.digest)
        if not group:
            return
        group.remove(max(group, key=lambda progress: progress.done))
        if not group:
            del self._active[descriptor.digest]

    def _rate(self, now: float, moved: int) -> float | None:
        samples = self._samples
        samples.append((now, moved))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW:
            samples.popleft()
        then, before = samples[0]
        if now <= then:
            return None
        return max(0.0, (moved - before) / (now - then))


def _largest_remainder_first(active: Sequence[Progress]) -> tuple[InFlight, ...]:
    looks = [InFlight(progress.descriptor, progress.done) for progress in active]
    return tuple(sorted(looks, key=lambda look: look.done - look.descriptor.size))
