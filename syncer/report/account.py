"""The account, which counts the events of a run while they happen; and the reports of several runs as one."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Protocol

from msgspec import Struct, structs

from syncer.content import Item
from syncer.errors import Exit
from syncer.oci import Descriptor, Digest, Reference
from syncer.report.figures import (
    ImageAccount,
    RegistryAccount,
    Report,
    Status,
    Totals,
    UnknownReferrers,
    common,
    count_images,
    seconds_of,
)
from syncer.report.timeline import (
    BUCKETS,
    MOST_BLOBS,
    MOST_BLOBS_OF_SITES,
    MOST_WAITS,
    WIDTH,
    Measured,
    Timeline,
    TimelineRecorder,
    spread,
)
from syncer.transfer.events import (
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
)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class _Count(Struct):
    """The number of blobs with one result, and their bytes."""

    blobs: int = 0
    bytes: int = 0

    def add(self, descriptor: Descriptor) -> None:
        self.blobs += 1
        self.bytes += descriptor.size


@dataclasses.dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Account:
    """An ``Emit`` that counts events; ``report`` may be called at any time.

    ``fetches`` and ``sends`` say whether the source and the target are registries.  An image that fails
    and is tried again counts once, with its last result.
    """

    run_id: str
    fetches: bool
    sends: bool
    workers: int = 0
    targets: tuple[str, ...] = ()  # registries, as they were named
    recorder: TimelineRecorder = dataclasses.field(init=False)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _utc_now
    _started: datetime = dataclasses.field(init=False)
    _began: float = dataclasses.field(init=False)
    _copied: _Count = dataclasses.field(default_factory=_Count)
    _mounted: _Count = dataclasses.field(default_factory=_Count)
    _skipped: _Count = dataclasses.field(default_factory=_Count)
    _failed: _Count = dataclasses.field(default_factory=_Count)
    _resumed: int = 0
    _fetched: int = 0
    _deduplicated: int = 0
    _foreign: dict[Digest, int] = dataclasses.field(default_factory=dict)  # layers left out, and their bytes
    _cpu: tuple[float, float] = dataclasses.field(init=False)  # seconds of the process, and of this thread
    _images: dict[Item, ImageAccount] = dataclasses.field(default_factory=dict)
    _found_at: dict[Item, float] = dataclasses.field(default_factory=dict)
    _unknown: dict[str, UnknownReferrers] = dataclasses.field(default_factory=dict)  # by repository

    def __post_init__(self) -> None:
        self._started, self._began = self.now(), self.clock()
        self._cpu = time.process_time(), time.thread_time()
        self.recorder = TimelineRecorder(clock=self.clock)

    def __call__(self, event: Event) -> None:
        self.recorder(event)
        match event:
            case Copied() | Fetched():
                self._move(event)
            case Mounted(descriptor):
                self._mounted.add(descriptor)
            case Skipped(descriptor):
                self._skipped.add(descriptor)
            case Failed(descriptor):
                self._failed.add(descriptor)
            case Found():
                self._find(event)
            case ImageCopied(item, root):
                self._end(item, Status.COPIED, root)
            case ImageSkipped(item, root):
                self._end(item, Status.SKIPPED, root)
            case ImageFailed(item, error):
                self._end(item, Status.FAILED)
                self._images[item] = structs.replace(self._images[item], error=error)
            case ReferrersUnknown(item, error):
                known = self._unknown.get(item.source.name)
                self._unknown[item.source.name] = UnknownReferrers(
                    repository=item.source.name,
                    error=known.error if known else error,
                    is_required=item.requires_referrers or (known is not None and known.is_required),
                )
            case _:
                pass  # only the display needs the others

    @property
    def source_hosts(self) -> set[str]:
        """The registries that images come from, as references write them."""
        return {image.source.registry for image in self._images.values()}

    def expect(self, items: Iterable[Item]) -> None:
        """Announce the items of the run: those that it does not reach are in the report as unfinished."""
        for item in items:
            self._images.setdefault(
                item,
                ImageAccount(source=item.source, target=item.target, subject=item.subject, status=Status.UNFINISHED),
            )

    def report(self, registries: Iterable[RegistryAccount] = (), *, warnings: Iterable[str] = ()) -> Report:
        """The report of all events so far; ``registries`` are the counts of the transport, ``warnings`` its doubts."""
        accounts = tuple(sorted(registries, key=lambda account: account.registry))
        images = tuple(self._images.values())
        return Report(
            run_id=self.run_id,
            started=self._started,
            ended=self.now(),
            totals=self._totals(images, accounts),
            images=images,
            registries=accounts,
            referrers_unknown=tuple(self._unknown.values()),
            warnings=tuple(warnings),
            targets=self.targets,
            timeline=self.recorder.timeline(),
            measured=self._measured(),
        )

    def _measured(self) -> Measured:
        process, thread = self._cpu
        return Measured(
            workers=self.workers,
            elapsed=self.clock() - self._began,
            cpu=time.process_time() - process,
            loop=max(0.0, time.thread_time() - thread),
            cores=available_cores(),
            disk=self.recorder.disk_seconds,
            hashing=self.recorder.hashing_seconds,
        )

    def _move(self, event: Copied | Fetched) -> None:
        if isinstance(event, Copied):
            self._copied.add(event.descriptor)
            self._resumed += event.resumed
        if isinstance(event, Fetched):
            self._fetched += event.descriptor.size
        elif not event.is_shared:
            self._fetched += event.descriptor.size - event.resumed

    def _find(self, found: Found) -> None:
        self._deduplicated += found.deduplicated
        self._foreign |= {layer.digest: layer.size for layer in found.left_out}
        self._found_at[found.item] = self.clock()
        self._images[found.item] = ImageAccount(
            source=found.item.source,
            target=found.item.target,
            subject=found.item.subject,
            status=Status.UNFINISHED,
            digest=found.root.digest,
            platforms=found.platforms,
            bytes=found.bytes,
        )

    def _end(self, item: Item, status: Status, root: Descriptor | None = None) -> None:
        now = self.clock()
        known = self._images.get(item) or ImageAccount(
            source=item.source, target=item.target, subject=item.subject, status=status
        )
        self._images[item] = structs.replace(
            known,
            status=status,
            error=None,
            digest=root.digest if root else known.digest,
            seconds=now - self._found_at.get(item, now),
        )

    def _totals(self, images: tuple[ImageAccount, ...], registries: tuple[RegistryAccount, ...]) -> Totals:
        under_way = [(blob.done - blob.resumed, blob) for blob in self.recorder.under_way if blob.done > blob.resumed]
        unfinished = sum(size for size, _ in under_way)
        fetched = self._fetched + sum(size for size, blob in under_way if not blob.is_shared)
        copied = self._copied.bytes - self._resumed + unfinished
        return Totals(
            **count_images(images),
            blobs_copied=self._copied.blobs,
            blobs_mounted=self._mounted.blobs,
            blobs_skipped=self._skipped.blobs,
            blobs_failed=self._failed.blobs,
            bytes_copied=copied,
            bytes_fetched=fetched if self.fetches else 0,
            bytes_sent=copied if self.sends else 0,
            bytes_unfinished=unfinished,
            bytes_resumed=self._resumed,
            bytes_mounted=self._mounted.bytes,
            bytes_skipped=self._skipped.bytes,
            bytes_deduplicated=self._deduplicated,
            foreign_layers=len(self._foreign),
            bytes_foreign=sum(self._foreign.values()),
            requests=sum(registry.requests for registry in registries),
            retries=sum(registry.retries for registry in registries),
            too_many_requests=sum(registry.too_many_requests for registry in registries),
            seconds=self.clock() - self._began,
        )


def join_reports(reports: Sequence[Report]) -> tuple[Report, tuple[str, ...]]:
    """The report of several runs as of one, and the targets of the images that were in more than one of them.

    Of an image that two runs brought to one target the entry of the later run counts, unless that one did not come
    to it.  The id is that of the run that ended last.
    """
    if len(reports) == 1:
        return reports[0], ()
    by_end = sorted(reports, key=lambda report: report.ended)
    images: dict[tuple[Reference, Reference], ImageAccount] = {}
    order = {(image.source, image.target): None for report in reports for image in report.images}
    repeated: dict[str, None] = {}
    totals = by_end[0].totals
    registries: dict[str, RegistryAccount] = {}
    for report in by_end:
        totals = totals.plus(report.totals) if report is not by_end[0] else totals
        for image in report.images:
            key = image.source, image.target
            if key in images:
                repeated[str(image.target)] = None
            if key not in images or image.status is not Status.UNFINISHED:
                images[key] = image
        for registry in report.registries:
            known = registries.get(registry.registry)
            registries[registry.registry] = known.plus(registry) if known else registry
    joined = tuple(images[key] for key in order)
    parts = tuple(part for report in reports for part in report.runs)
    pruned = {tag.name: tag for report in by_end for tag in report.pruned or ()}
    result = Report(
        run_id=by_end[-1].run_id,
        started=min(report.started for report in reports),
        ended=by_end[-1].ended,
        totals=structs.replace(totals, **count_images(joined), seconds=seconds_of(parts)),
        images=joined,
        registries=tuple(registries[name] for name in sorted(registries)),
        referrers_unknown=tuple(
            {unknown.repository: unknown for report in by_end for unknown in report.referrers_unknown}.values()
        ),
        pruned=tuple(pruned.values()) if any(report.pruned is not None for report in reports) else None,
        prune_refused=tuple({str(error): error for report in by_end for error in report.prune_refused}.values()),
        warnings=tuple(dict.fromkeys(text for report in reports for text in report.warnings)),
        parts=parts,
        version=by_end[-1].version,
        command=common(report.command for report in reports),
        name=common(report.name for report in reports),
        targets=tuple(dict.fromkeys(target for report in reports for target in report.targets)),
        timeline=join_courses(reports),
        measured=reduce(Measured.plus, measured) if (measured := [r.measured for r in reports if r.measured]) else None,
    )
    return structs.replace(result, exit_code=join_codes(reports, result.exit)), tuple(repeated)


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Ended(Protocol):
    """A run with the exit code that its command ended with, and the one that its account explains."""

    @property
    def ended(self) -> datetime: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def exit(self) -> Exit: ...


def join_codes(runs: Sequence[Ended], code: Exit) -> int | None:
    """The exit code of several ``runs`` as of one, whose joined account explains ``code``.

    What failed in one of them and went well in a later one counts no more, nor that one was stopped before the last.  A
    code that the account of its run does not explain, as that of a definition which was refused, does.  None where none
    of them told.
    """
    last = max(runs, key=lambda run: run.ended)
    told = [run for run in runs if run.exit_code is not None]
    unexplained = [
        run.exit_code or 0 for run in told if not run.exit and (run is last or (run.exit_code or 0) < Exit.INTERRUPTED)
    ]
    return int(code) or max(unexplained, default=0) if told else None


class Timed(Protocol):
    """A run with a start, and a timeline that counts from there."""

    @property
    def started(self) -> datetime: ...
    @property
    def timeline(self) -> Timeline | None: ...


def join_courses(runs: Sequence[Timed]) -> Timeline | None:
    """One timeline of those of several runs, from the start of the first on; None where none has any."""
    first = min(run.started for run in runs)
    own = [((run.started - first).total_seconds(), run.timeline) for run in runs if run.timeline]
    return join_timelines(own) if own else None


def join_timelines(parts: Sequence[tuple[float, Timeline]]) -> Timeline:
    """One timeline of several, each of which began so many seconds after the first."""
    width = max((timeline.bucket_seconds for _, timeline in parts), default=WIDTH)
    ends = [offset + timeline.bucket_seconds * len(timeline.in_flight) for offset, timeline in parts]
    while max(ends, default=0.0) / width > BUCKETS:
        width *= 2
    count = math.ceil(max(ends, default=0.0) / width)
    series = {name: [0.0] * count for name in ("bytes_received", "bytes_sent", "in_flight")}
    for offset, timeline in parts:
        for name, buckets in series.items():
            own = timeline.bucket_seconds
            per_second = own if name == "in_flight" else 1.0  # an average is one of seconds of blobs
            for number, figure in enumerate(getattr(timeline, name)):
                spread(buckets, offset + number * own, own, figure * per_second, width)
    is_of_sites = any(blob.site for _, timeline in parts for blob in timeline.blobs)
    most_blobs = MOST_BLOBS_OF_SITES if is_of_sites else MOST_BLOBS
    blobs, blobs_left_out = _largest(parts, "blobs", most_blobs, lambda blob: blob.bytes)
    waits, waits_left_out = _largest(parts, "waits", MOST_WAITS, lambda wait: wait.seconds)
    return Timeline(
        bucket_seconds=width,
        bytes_received=tuple(map(round, series["bytes_received"])),
        bytes_sent=tuple(map(round, series["bytes_sent"])),
        in_flight=tuple(round(figure / width, 2) for figure in series["in_flight"]),
        blobs=blobs,
        blobs_left_out=blobs_left_out,
        waits=waits,
        waits_left_out=waits_left_out,
    )


def _largest(
    parts: Sequence[tuple[float, Timeline]], kind: str, most: int, size: Callable[[Any], float]
) -> tuple[tuple[Any, ...], int]:
    """The largest spans of a ``kind`` of several timelines as they began, and the number of those left out."""
    spans = [
        structs.replace(span, at=round(span.at + offset, 3))
        for offset, timeline in parts
        for span in getattr(timeline, kind)
    ]
    kept = sorted(spans, key=size, reverse=True)[:most]
    left_out = sum(getattr(timeline, f"{kind}_left_out") for _, timeline in parts) + len(spans) - len(kept)
    return tuple(sorted(kept, key=lambda span: span.at)), left_out
