"""The timeline of a run: bytes and blobs in flight by time, the spans of its largest blobs, and what held it up.

Also what bounded the run, by the figures that it measured about itself.

However long a run is, its timeline has a bounded size: the buckets of time double in width when there would be too
many of them, the smaller blobs are left out, and waits of one kind at one host that are near each other are one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from msgspec import Struct, field, structs

from syncer.content import Progress
from syncer.transfer.events import Copied, Event, Failed, Mounted, Paused, Retried, Skipped, Stalled, Started, WentAway

BUCKETS = 512
"""The number of buckets, at most."""

WIDTH = 0.125
"""The width of a bucket in the beginning, in seconds."""

MOST_BLOBS = 1000
"""The blobs with a span, at most: the largest ones."""

MOST_BLOBS_OF_SITES = 500
"""Likewise, of a run over several sites, whose names are told too."""

MOST_WAITS = 500
"""The waits that are told, at most."""

STALL = 10.0
"""Seconds without a byte of a blob after which that is said."""

_LONGEST_TEXT = 200  # characters
_LONGEST_NAME = 80  # of a site, of which there are many
_DIGITS = 3  # of seconds, after the point


class BlobSpan(Struct, frozen=True, kw_only=True):
    """The transfer of one blob: when it began, in seconds after the run did, and how long it took."""

    digest: str
    bytes: int
    at: float
    seconds: float
    outcome: str  # copied, failed, or unfinished where the run ended first
    image: str = ""  # one that has it, at the source
    space: str = ""  # its repository at the target
    resumed: int = 0  # bytes that an earlier run had brought
    site: str = ""  # where the run goes to several

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in structs.asdict(self).items() if name != "site" or value}


class WaitSpan(Struct, frozen=True, kw_only=True):
    """Something that held requests to a host up, ``count`` times from ``at`` on, for ``seconds`` together."""

    host: str
    kind: str  # pause, retry, away or stall
    at: float
    seconds: float
    count: int = 1
    reason: str = ""  # of the first of them

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self)


class Timeline(Struct, frozen=True, kw_only=True):
    """The course of a run in time; each series has a figure for each bucket of ``bucket_seconds``."""

    bucket_seconds: float = WIDTH
    bytes_received: tuple[int, ...] = ()
    bytes_sent: tuple[int, ...] = ()
    in_flight: tuple[float, ...] = ()  # blobs at a time, on average
    blobs: tuple[BlobSpan, ...] = ()  # as they began
    blobs_left_out: int = 0  # smaller ones
    waits: tuple[WaitSpan, ...] = ()  # as they began
    waits_left_out: int = 0  # shorter ones

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self) | {
            **{name: list(getattr(self, name)) for name in ("bytes_received", "bytes_sent", "in_flight")},
            **{name: [span.to_json() for span in getattr(self, name)] for name in ("blobs", "waits")},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made; raises ``KeyError``, ``TypeError`` or ``ValueError`` for something else."""
        width = _figure(document["bucket_seconds"])
        if not width:
            raise ValueError(width)
        return cls(
            bucket_seconds=width,
            bytes_received=tuple(map(_figure, document["bytes_received"])),
            bytes_sent=tuple(map(_figure, document["bytes_sent"])),
            in_flight=tuple(map(_figure, document["in_flight"])),
            blobs=tuple(_read(BlobSpan, blob) for blob in document["blobs"]),
            blobs_left_out=_figure(document["blobs_left_out"]),
            waits=tuple(_read(WaitSpan, wait) for wait in document["waits"]),
            waits_left_out=_figure(document["waits_left_out"]),
        )


_TEXTS = frozenset({"digest", "outcome", "image", "space", "host", "kind", "reason", "site"})


def _figure(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(value)
    return value


def _read(kind: Any, document: Mapping[str, Any]) -> Any:
    known = {"site": "", **document}
    return kind(**{
        name: str(known[name]) if name in _TEXTS else _figure(known[name]) for name in kind.__struct_fields__
    })  # fmt: skip


def spread(buckets: list[float], at: float, seconds: float, figure: float, width: float) -> None:
    """Add ``figure``, which is of the ``seconds`` from ``at`` on, to the buckets that these are in."""
    first, last = int(at / width), int((at + seconds) / width)
    for number in range(first, min(last, len(buckets) - 1) + 1):
        share = (min(at + seconds, (number + 1) * width) - max(at, number * width)) / seconds
        buckets[number] += figure * max(0.0, share)


class _Active(Struct):
    """A blob that is under way."""

    event: Started
    began: float
    done: int = 0  # bytes, when it was looked at last
    moved: float = 0.0  # when that was another number
    told: float = STALL  # seconds of standing still at which it is said next


class _Ended(Struct, frozen=True):
    """A blob that is no longer under way."""

    size: int
    at: float
    seconds: float
    event: Started
    outcome: str
    site: str

    def span(self) -> BlobSpan:
        image = self.event.image
        return BlobSpan(
            digest=str(self.event.progress.descriptor.digest),
            bytes=self.size,
            at=round(self.at, _DIGITS),
            seconds=round(self.seconds, _DIGITS),
            outcome=self.outcome,
            image="" if image is None else str(image)[:_LONGEST_TEXT],
            space=self.event.space[:_LONGEST_TEXT],
            resumed=self.event.progress.resumed,
            site=self.site[:_LONGEST_NAME],
        )


_LANDING: Mapping[type, str | None] = {Copied: "copied", Failed: "failed", Skipped: None, Mounted: None}
_WAITING = frozenset({Paused, Retried, WentAway, Stalled})


class TimelineRecorder(Struct):
    """Takes the events of a run, and looks at its bytes now and then, as ``look`` is called.

    An event costs about a microsecond, and a piece of a blob nothing.
    """

    clock: Callable[[], float] = time.monotonic
    most_blobs: int = MOST_BLOBS  # with a span
    width: float = WIDTH
    disk_seconds: float = 0.0  # that blobs took to be written
    hashing_seconds: float = 0.0
    _began: float = 0.0
    _looked: float = 0.0
    _received: int = 0  # bytes, when that was looked at
    _sent: int = 0
    _series: tuple[list[float], list[float], list[float]] = field(default_factory=lambda: ([], [], []))
    _active: dict[tuple[str, str], list[_Active]] = field(default_factory=dict)  # by site and digest
    _flying: int = 0
    _blobs: list[_Ended] = field(default_factory=list)
    _left_out: int = 0
    _waits: dict[tuple[str, str, int], WaitSpan] = field(default_factory=dict)
    _waits_width: float = 1.0
    _waits_left_out: int = 0

    def __post_init__(self) -> None:
        self._began = self._looked = self.clock()

    def __call__(self, event: Event, site: str = "") -> None:
        kind = type(event)  # several times as fast as patterns, of which each is tried
        if kind is Started:
            self._begin(event, site)  # type: ignore[arg-type]
        elif kind in _LANDING:
            self._land(event, site)  # type: ignore[arg-type]
        elif kind in _WAITING:
            self._note_wait(event)

    def at(self, site: str) -> Callable[[Event], None]:
        """The listener to the events of a visit to ``site``, where the run goes to several."""
        return lambda event: self(event, site)

    def left(self, site: str, at: float, sent: int) -> None:
        """Note that a visit to ``site``, which began at ``at``, has ended: what it left under way is so no more.

        ``sent`` are its bytes that no ``look`` sees, since they came from another machine.
        """
        for key in [key for key in self._active if key[0] == site]:
            group = self._active.pop(key)
            self._flying -= len(group)
            self._blobs += [self._end(active, "unfinished", site) for active in group]
        end = self.clock() - self._began
        if sent and end > at:
            self._reach(end)
            spread(self._series[1], at, end - at, sent, self.width)

    @property
    def under_way(self) -> list[Progress]:
        """The progress of each blob that has begun and not ended."""
        return [active.event.progress for group in self._active.values() for active in group]

    def _begin(self, event: Started, site: str) -> None:
        now = self.clock()
        self._active.setdefault((site, event.progress.descriptor.digest.hex), []).append(_Active(event, now, moved=now))
        self._flying += 1

    def _note_wait(self, event: Event) -> None:
        match event:
            case Paused(host, seconds, reason):
                self._wait(host, "pause", seconds, reason)
            case Retried(host, _, _, seconds, reason):
                self._wait(host, "retry", seconds, reason)
            case WentAway(host, reason):
                self._wait(host, "away", 0.0, reason)
            case Stalled(_, image, seconds):
                self._wait(image.registry if image else "", "stall", seconds, str(image or ""))

    def _land(self, event: Copied | Failed | Skipped | Mounted, site: str) -> None:
        descriptor = event.descriptor
        key = site, descriptor.digest.hex
        group = self._active.get(key)
        if group is None:
            return
        if len(group) == 1:
            active = group[0]
            del self._active[key]
        else:
            active = next((each for each in group if each.event.space == event.space), group[-1])
            group.remove(active)
        self._flying -= 1
        progress = active.event.progress
        self.disk_seconds += progress.writing
        self.hashing_seconds += progress.hashing
        outcome = _LANDING[type(event)]
        if outcome is None:
            return
        self._blobs.append(self._end(active, outcome, site))
        if len(self._blobs) >= 2 * self.most_blobs:
            self._keep_largest()

    def _end(self, active: _Active, outcome: str, site: str) -> _Ended:
        size, at = active.event.progress.descriptor.size, active.began - self._began
        return _Ended(size, at, self.clock() - active.began, active.event, outcome, site)

    def _keep_largest(self) -> None:
        self._blobs.sort(key=lambda blob: -blob.size)
        self._left_out += max(0, len(self._blobs) - self.most_blobs)
        del self._blobs[self.most_blobs :]

    def _wait(self, host: str, kind: str, seconds: float, reason: str) -> None:
        span = WaitSpan(
            host=host[:_LONGEST_TEXT],
            kind=kind,
            at=self.clock() - self._began,
            seconds=seconds,
            reason=reason[:_LONGEST_TEXT],
        )
        self._add(span)
        while len(self._waits) > MOST_WAITS and self._waits_width < 1e6:
            self._waits_width *= 2
            spans = list(self._waits.values())
            self._waits.clear()
            for each in spans:
                self._add(each)
        if len(self._waits) > MOST_WAITS:
            shortest = min(self._waits, key=lambda key: self._waits[key].seconds)
            self._waits_left_out += self._waits.pop(shortest).count

    def _add(self, span: WaitSpan) -> None:
        key = span.host, span.kind, int(span.at / self._waits_width)
        if (known := self._waits.get(key)) is not None:
            span = structs.replace(known, seconds=known.seconds + span.seconds, count=known.count + span.count)
        self._waits[key] = span

    def look(self, received: int, sent: int) -> list[Stalled]:
        """Note the bytes so far of all bodies; returns the blobs that stand still, if that is to be said now."""
        now = self.clock()
        figures = received - self._received, sent - self._sent, self._flying * (now - self._looked)
        seconds = now - self._looked
        if seconds <= 0:
            return []
        self._reach(now - self._began)
        for series, figure in zip(self._series, figures, strict=True):
            spread(series, self._looked - self._began, seconds, max(0.0, figure), self.width)
        self._received, self._sent, self._looked = received, sent, now
        return [stalled for group in self._active.values() for active in group for stalled in _stalled(active, now)]

    def _reach(self, end: float) -> None:
        """Have buckets until ``end``, which are twice as wide where there would be too many."""
        while end / self.width > BUCKETS:
            self.width *= 2
            for series in self._series:
                series[:] = [sum(series[number : number + 2]) for number in range(0, len(series), 2)]
        count = math.ceil(end / self.width)
        for series in self._series:
            series.extend([0.0] * (count - len(series)))

    def timeline(self) -> Timeline:
        """The timeline so far, as of the last look."""
        under_way = [
            self._end(active, "unfinished", site) for (site, _), group in self._active.items() for active in group
        ]
        known = sorted([*self._blobs, *under_way], key=lambda blob: -blob.size)
        blobs = sorted(known[: self.most_blobs], key=lambda blob: blob.at)
        received, sent, flying = self._series
        return Timeline(
            bucket_seconds=self.width,
            bytes_received=tuple(map(round, received)),
            bytes_sent=tuple(map(round, sent)),
            in_flight=tuple(round(figure / self.width, 2) for figure in flying),
            blobs=tuple(blob.span() for blob in blobs),
            blobs_left_out=self._left_out + len(known) - len(blobs),
            waits=tuple(
                structs.replace(wait, at=round(wait.at, _DIGITS), seconds=round(wait.seconds, _DIGITS))
                for wait in sorted(self._waits.values(), key=lambda wait: wait.at)
            ),
            waits_left_out=self._waits_left_out,
        )


def _stalled(active: _Active, now: float) -> Iterable[Stalled]:
    """A blob that stands still, at the first look after each of the times at which that is said."""
    progress: Progress = active.event.progress
    if progress.done != active.done:
        active.done, active.moved, active.told = progress.done, now, STALL
        return
    seconds = now - active.moved
    if seconds >= active.told and progress.done < progress.descriptor.size:
        active.told *= 2
        yield Stalled(progress.descriptor, active.event.image, seconds)


class Measured(Struct, frozen=True, kw_only=True):
    """The figures that a run measured about itself, in seconds; or the sums of several runs."""

    workers: int = 0  # pieces of content that may be in flight
    elapsed: float = 0.0
    runs: float = 1.0  # beside each other, on average
    cpu: float = 0.0  # of the whole process
    loop: float = 0.0  # of that, the thread of the event loop
    cores: int = 1
    disk: float = 0.0  # that blobs took to be written, added up over workers
    hashing: float = 0.0  # likewise
    publishing: float = 0.0  # for which the whole run waited until a file was on its disk

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:  # as it is written, so that who reads a report finds the same bound
            structs.force_setattr(self, name, round(getattr(self, name), _DIGITS))

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made; raises ``KeyError``, ``TypeError`` or ``ValueError`` for something else."""
        return cls(**{name: _figure(document[name]) for name in cls.__struct_fields__})

    def plus(self, other: Measured) -> Measured:
        """The sums of both runs."""
        sums = {name: value + getattr(other, name) for name, value in structs.asdict(self).items()}
        largest = {name: max(getattr(self, name), getattr(other, name)) for name in ("workers", "cores", "runs")}
        return Measured(**sums | largest)


class Bound(Struct, frozen=True, kw_only=True):
    """The cause that a run took so long.

    ``by`` is its key in a report, and ``share`` that of the time of workers; of a pause or the CPU that of the run.
    """

    by: str
    share: float
    text: str  # a sentence without its subject: ``bounded by …``
    hint: str | None = None  # what to try
    worker_seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        seconds = {name: round(value, _DIGITS) for name, value in self.worker_seconds.items()}
        return structs.asdict(self) | {"share": round(self.share, _DIGITS), "worker_seconds": seconds}

    @property
    def line(self) -> str:
        """The line of a summary."""
        return f"{self.text}; try {self.hint}" if self.hint else self.text


_BUSY = 0.85  # the share of a core, or of all of them, from which on it is the CPU that bounds
_MEASURED = 0.5  # the least number of workers that something is known of, on average; else nothing is said
_FULL = 0.6  # the share of workers in flight from which on more of them may help
_MOST_WORKERS = 256
_WORDS = {
    "answers": "the {role}'s answers",
    "receiving": "the bytes that come from the {role}",
    "sending": "the bytes that go to the {role}",
    "quota": "the {role}'s own limit of requests a second",
    "retries": "failed requests to the {role}, which are sent again",
}
_CAPS = {"bytes_cap": "the bandwidth cap", "requests_cap": "the cap of requests a second"}
_LOCAL = {"disk": "the disk", "hashing": "hashing on this machine"}


class HostTime(Struct, frozen=True, kw_only=True):
    """The time of requests to one host, by what they waited for, in seconds."""

    host: str
    role: str = "registry"  # source, target, or registry for one that is both
    waited: Mapping[str, float] = field(default_factory=dict)


def find_bound(measured: Measured, hosts: Iterable[HostTime], command: str | None = None) -> Bound | None:
    """Find what bounded a run; None where too little of its time is known.

    The time of workers counts by what they waited for; that for which a whole run stood still, since a host asked for
    a pause or a file was brought to its disk, counts before it.  ``command`` is the one whose flag helps.
    """
    hosts, elapsed = tuple(hosts), measured.elapsed * measured.runs
    if elapsed <= 0:  # a run over sites all of which were left alone
        return None
    pauses = {each.host: min(1.0, each.waited.get("pauses", 0.0) / elapsed) for each in hosts}
    seconds: dict[str, float] = {name: getattr(measured, name) for name in _LOCAL if getattr(measured, name)}
    words = dict(_LOCAL)
    for each in hosts:
        for state, waited in each.waited.items():
            what = _CAPS.get(state) or _WORDS.get(state)
            key = state if state in _CAPS else f"{each.role}_{state}"
            if what and waited > 0:
                seconds[key] = seconds.get(key, 0.0) + waited
                words[key] = what.format(role=each.role)
    total, limit = sum(seconds.values()), max(pauses.values(), default=0.0)
    on_disk = min(1.0 - limit, measured.publishing / measured.elapsed)
    in_flight = total / elapsed
    if busy := _busy(measured):
        text = f"bounded by the CPU of this machine, {100 * busy:.0f} % of it busy"
        shards = "--shard I/N on several machines" if command == "sync" else None
        return Bound(by="cpu", share=busy, text=text, hint=shards, worker_seconds=seconds)
    if in_flight + limit + on_disk < _MEASURED:
        return None
    shares = {key: (1 - limit - on_disk) * value / total for key, value in seconds.items()}
    shares["disk"] = shares.get("disk", 0.0) + on_disk
    by, share = max(shares.items(), key=lambda each: each[1])
    # with less than one in flight, nothing was for some of the time
    if limit > 0 and limit >= (share if by == "disk" else min(share, in_flight * share)):
        host = max(pauses, key=lambda host: pauses[host])
        text = f"bounded by the limit of {host}, which asked to wait for {100 * limit:.0f} % of the time"
        login = "a login, which may have a higher limit"
        return Bound(by="limit", share=limit, text=text, hint=login, worker_seconds=seconds)
    text = f"bounded by {words[by]}, {100 * share:.0f} % of worker time"
    is_full = in_flight >= _FULL * measured.workers
    hint = _hint(by, command, measured.workers if is_full else None)
    return Bound(by=by, share=share, text=text, hint=hint, worker_seconds=seconds)


def _busy(measured: Measured) -> float | None:
    """The share of one core, or of all, that was busy, if that is so much that nothing else can bound."""
    one, every = measured.loop / measured.elapsed, measured.cpu / measured.elapsed / max(1, measured.cores)
    return min(1.0, max(one, every)) if max(one, every) >= _BUSY else None


def _hint(by: str, command: str | None, workers: int | None) -> str | None:
    """What to try; ``workers`` are those in flight where nearly all of them were."""
    if by.endswith("_answers") and workers and workers < _MOST_WORKERS:
        return f"--concurrency {min(_MOST_WORKERS, 2 * workers)}"
    if by == "bytes_cap":
        return "a higher --limit-rate" if command == "push" else "a higher bytes_per_second"
    if by == "requests_cap":
        return "a higher requests_per_second"
    return "--output on a faster disk" if by == "disk" and command == "build" else None
