"""The progress of a transfer, and of a fleet, while it runs: bytes, rate and time left.  A display measures it."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import assert_never

from msgspec import Struct, field

from syncer.content import Item
from syncer.errors import by_cause, human_bytes
from syncer.oci import Descriptor, Digest
from syncer.transfer.events import (
    CameBack,
    Committed,
    Compacted,
    Compacting,
    Copied,
    Event,
    Failed,
    Fetched,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    Paused,
    Postponed,
    ReferrersUnknown,
    Retried,
    Skipped,
    Stalled,
    Started,
    WentAway,
)

WINDOW = 10.0
"""The seconds over which the rate is measured."""


LEAST = 3.0
"""The seconds before which it is not said how long a run still takes: nobody knows."""

_STALL = 5.0  # seconds without a byte from which on that is said
_AFTER_RETRY = 3.0  # seconds for which a retry is shown after it was made


class InFlight(Struct, frozen=True):
    """One blob that is transferred now."""

    descriptor: Descriptor
    done: int  # bytes
    name: str = ""  # of an image that has it
    still: float | None = None  # seconds for which no byte has come or gone, if that is worth telling


class TargetUnderWay(Struct, frozen=True):
    """One of several targets of a run, with the images that are known to go there."""

    name: str
    images: int
    images_done: int  # failed ones among them
    images_failed: int


class Measurement(Struct, frozen=True, kw_only=True):
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
    bytes_moved: int = 0  # of ``bytes_done``, those that this run brought
    seconds: float = 0.0  # since the first measurement
    waits: tuple[str, ...] = ()  # what holds requests up now, a sentence each
    targets: tuple[TargetUnderWay, ...] = ()  # where there are several
    step: str | None = None  # what is done with the file once all is there, a sentence


class _Rate(Struct):
    """Bytes a second over the last ``WINDOW``, from the sums at the times of earlier measurements."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def measure(self, now: float, moved: int) -> float | None:
        samples = self._samples
        samples.append((now, moved))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW:
            samples.popleft()
        then, before = samples[0]
        if now <= then:
            return None
        return max(0.0, (moved - before) / (now - then))


class _Active(Struct):
    """A blob that is under way."""

    event: Started
    done: int = -1  # bytes at the last measurement
    moved: float = 0.0  # when that was another number for the last time

    def measure(self, now: float) -> InFlight:
        progress, image = self.event.progress, self.event.image
        if progress.done != self.done:
            self.done, self.moved = progress.done, now
        still = now - self.moved
        name = str(image).partition("@")[0] if image else progress.descriptor.digest.short
        return InFlight(progress.descriptor, progress.done, name, still if still >= _STALL else None)


class _Wait(Struct):
    """Something that holds requests to a host up."""

    event: Paused | Retried | WentAway
    since: float | None = None  # the first measurement after it began

    def text(self, now: float) -> str | None:
        """The sentence about it; None when it is over."""
        self.since = now if self.since is None else self.since
        match self.event:
            case Paused(host, seconds, reason):
                left = self.since + seconds - now
                return f"{host} asks to wait ({reason}): {math.ceil(left)} s left" if left > 0 else None
            case Retried(host, number, most, seconds, reason):
                is_shown = now < self.since + seconds + _AFTER_RETRY
                return f"{host}: retry {number} of {most}: {short_reason(reason)}" if is_shown else None
            case WentAway(host, reason):
                return f"{host} is away for {now - self.since:.0f} s, and is asked again: {short_reason(reason)}"


def short_reason(reason: str) -> str:
    """A reason without the request that it tells of, where it begins with one."""
    return reason.rpartition(": ")[2] if "://" in reason else reason


class ProgressMeter(Struct):
    """An ``Emit`` that measures the progress of a transfer.

    ``measure`` may be called from another thread than the one of the events.
    """

    _expected: int = 0
    _sends: bool = False  # whether content goes to registries, which are rows where there are several
    _found: set[Item] = field(default_factory=set)
    _done: dict[Item, bool] = field(default_factory=dict)  # whether it failed
    _total: int = 0
    _finished: int = 0  # bytes of blobs that are at the target: copied, mounted or there before
    _moved: int = 0  # bytes of those that were copied
    _active: dict[Digest, list[_Active]] = field(default_factory=dict)
    _waits: dict[tuple[str, type], _Wait] = field(default_factory=dict)  # the newest of a kind at a host
    _compacting: Compacting | None = None
    _began: float | None = None
    _first: float | None = None  # when bytes had moved for the first time
    _rate: _Rate = field(default_factory=_Rate)
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
            self._began = now if self._began is None else self._began
            active = [each.measure(now) for group in self._active.values() for each in group]
            on_their_way = sum(each.done for each in active)
            images = max(self._expected, len(self._found | self._done.keys()))
            seen = len(self._found | self._done.keys())
            moved = self._moved + on_their_way
            rate = self._rate.measure(now, moved)
            done = min(self._total, self._finished + on_their_way)
            return Measurement(
                images=images,
                images_done=len(self._done),
                images_failed=sum(self._done.values()),
                bytes=self._total,
                bytes_done=done,
                growing=seen < images or not images,
                rate=rate,
                seconds_left=(self._total - done) / rate if rate and self._may_tell(now, moved) else None,
                in_flight=tuple(sorted(active, key=lambda each: each.done - each.descriptor.size)),
                bytes_moved=moved,
                seconds=now - self._began,
                waits=self._waits_at(now),
                targets=self._targets(),
                step=self._step(),
            )

    def _step(self) -> str | None:
        if self._compacting is None:
            return None
        name, progress = self._compacting.path.name, self._compacting.progress
        share = 100 * progress.done // max(1, progress.size)
        done = f"{human_bytes(progress.done)} of {human_bytes(progress.size)}, {share} %"
        return f"{name} is copied without what is not wanted of it: {done}"

    def _may_tell(self, now: float, moved: int) -> bool:
        """Whether bytes have moved for long enough to say how long the rest takes."""
        if moved and self._first is None:
            self._first = now
        return self._first is not None and now - self._first >= LEAST

    def _waits_at(self, now: float) -> tuple[str, ...]:
        """A sentence for each thing that holds requests up now; a pause or an outage speaks for the retries as well."""
        texts = {key: wait.text(now) for key, wait in self._waits.items()}
        self._waits = {key: wait for key, wait in self._waits.items() if texts[key] is not None}
        held = {host for host, kind in self._waits if kind is not Retried}
        return tuple(text for (host, kind), text in texts.items() if text and (kind is not Retried or host not in held))

    def _targets(self) -> tuple[TargetUnderWay, ...]:
        counts: dict[str, list[int]] = {}
        for item in self._found | self._done.keys():
            count = counts.setdefault(item.target.registry, [0, 0, 0])
            count[0] += 1
            count[1] += item in self._done
            count[2] += self._done.get(item, False)
        several = len(counts) > 1 and self._sends
        return tuple(TargetUnderWay(name, *counts[name]) for name in sorted(counts)) if several else ()

    def _take(self, event: Event) -> None:
        match event:
            case ReferrersUnknown() | Postponed():
                pass  # the image is on its way all the same
            case Found() | ImageCopied() | ImageSkipped() | ImageFailed():
                self._take_image(event)
            case Started(progress):
                self._active.setdefault(progress.descriptor.digest, []).append(_Active(event))
                self._sends = self._sends or bool(event.space)
            case Copied() | Skipped() | Mounted() | Failed():
                self._take_blob(event)
            case Paused(host) | Retried(host) | WentAway(host):
                self._waits[host, type(event)] = _Wait(event)
            case CameBack(host):
                self._waits.pop((host, WentAway), None)
            case Compacting():
                self._compacting = event
            case Compacted():
                self._compacting = None
            case Committed() | Fetched() | Stalled():
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
        group.remove(max(group, key=lambda active: active.event.progress.done))
        if not group:
            del self._active[descriptor.digest]


class SiteUnderWay(Struct, frozen=True):
    """One site of a fleet at one moment."""

    name: str
    seconds: float  # since it began
    transfer: Measurement


class FleetMeasurement(Struct, frozen=True, kw_only=True):
    """The progress of a fleet at one moment."""

    sites: int
    ended: int  # failed ones among them
    failed: int
    bytes_moved: int
    rate: float | None  # bytes a second at all sites together; None until it can be measured
    seconds_left: float | None
    under_way: tuple[SiteUnderWay, ...]  # as they began
    causes: tuple[tuple[str, tuple[str, ...]], ...]  # why sites failed, and their names; the most frequent first


class _Begun(Struct):
    at: float
    meter: ProgressMeter = field(default_factory=ProgressMeter)


class FleetMeter:
    """The meter of each site of a fleet of so many ``sites``, and their sums.

    ``measure`` may be called from another thread than the rest.
    """

    def __init__(self, sites: int, now: float) -> None:
        self._sites = sites
        self._began = now
        self._under_way: dict[str, _Begun] = {}
        self._ended: dict[str, str | None] = {}  # the cause for which a site failed
        self._moved = 0  # bytes at the sites that have ended
        self._rate = _Rate()
        self._lock = threading.Lock()

    @property
    def ended(self) -> int:
        """The number of sites that have ended."""
        return len(self._ended)

    def begin(self, name: str, now: float) -> ProgressMeter:
        """Note that the site ``name`` begins; returns the meter of its transfer."""
        with self._lock:
            begun = self._under_way[name] = _Begun(now)
            return begun.meter

    def end(self, name: str, now: float, cause: str | None) -> None:
        """Note that a site has ended, and the cause for which it failed; a site that ends again counts once."""
        with self._lock:
            if begun := self._under_way.pop(name, None):
                self._moved += begun.meter.measure(now).bytes_moved
            self._ended[name] = cause

    def measure(self, now: float) -> FleetMeasurement:
        """The progress at ``now``, in seconds of a monotonic clock."""
        with self._lock:
            under_way = tuple(
                SiteUnderWay(name, now - begun.at, begun.meter.measure(now)) for name, begun in self._under_way.items()
            )
            ended = {name: cause for name, cause in self._ended.items() if name not in self._under_way}
            told = ((cause, name) for name, cause in ended.items() if cause is not None)
            moved = self._moved + sum(site.transfer.bytes_moved for site in under_way)
            return FleetMeasurement(
                sites=self._sites,
                ended=len(ended),
                failed=sum(cause is not None for cause in ended.values()),
                bytes_moved=moved,
                rate=self._rate.measure(now, moved),
                seconds_left=self._seconds_left(now, len(ended), under_way),
                under_way=under_way,
                causes=tuple((cause, tuple(names)) for cause, names in by_cause(told)),
            )

    def _seconds_left(self, now: float, ended: int, under_way: Sequence[SiteUnderWay]) -> float | None:
        """Seconds that the fleet takes if it goes on as so far, and at least as many as its slowest site."""
        seconds = now - self._began
        done = ended + sum(_share(site.transfer) for site in under_way)
        if seconds < LEAST or not done:
            return None
        slowest = max((site.transfer.seconds_left or 0.0 for site in under_way), default=0.0)
        return max(seconds * (self._sites - done) / done, slowest)


def _share(transfer: Measurement) -> float:
    return transfer.bytes_done / transfer.bytes if transfer.bytes else 0.0
