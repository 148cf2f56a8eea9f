"""The summary of a run for people, in the form of Palette's summaries, and files with reports."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import orjson
from msgspec import Struct

from syncer.errors import (
    NameMissing,
    NetworkError,
    SyncerError,
    UsageError,
    by_cause,
    cause_of,
    is_anything_hidden,
    no_repository,
    without_secrets,
)
from syncer.errors import human_bytes as human_bytes  # noqa: PLC0414  here are all figures for people
from syncer.errors import printable as printable  # noqa: PLC0414
from syncer.files import is_stream, require_no_other, saving, write_whole
from syncer.oci import Reference
from syncer.oci.docker_hub import api_host
from syncer.report.figures import PrunedTag, PruneStatus, Report
from syncer.report.timeline import BlobSpan, Bound, Timeline, WaitSpan

_RULE = "-" * 29
_FAILURES_SHOWN = 20  # causes
_NAMES_SHOWN = 5  # of the images with one cause
_NOT_FETCHED = "not fetched"
_WORTH_TELLING = 1.0  # seconds of a run, from which on it is said what bounded it


NO_NAMES: Mapping[str, str] = MappingProxyType({})


def summary(title: str, outcome: Sequence[str], report: Report, names: Mapping[str, str] = NO_NAMES) -> str:
    """A block of plain lines under ``title``, such as ``Build Summary``.

    ``outcome`` are the command's own lines, such as the path of the bundle; ``names`` are what the user calls hosts.
    """
    lines = [*outcome, *_figures(report), *failure_lines(report, names), *_warnings(report)]
    return block(title, [*lines, *prune_lines(report.pruned, report.prune_refused)])


def trouble(report: Report, names: Mapping[str, str] = NO_NAMES) -> list[str]:
    """The lines of a summary about what went wrong; ``names`` are what the user calls hosts."""
    return [*failure_lines(report, names), *_warnings(report)]


def block(title: str, lines: Sequence[str]) -> str:
    """``lines`` under a title between rules."""
    return "\n".join([_RULE, title, _RULE, *lines])


def heading(command: str | None, name: str | None, targets: Sequence[str] = ()) -> str:
    """The title of an account, such as ``Push of edge to a.io/images and 2 more``, as far as it is known."""
    more = f" and {len(targets) - 1:,} more" if len(targets) > 1 else ""
    place = f" to {targets[0]}{more}" if targets else ""
    return printable(f"{(command or 'summary').capitalize()}{f' of {name}' if name else ''}{place}")


def human_seconds(seconds: float) -> str:
    """``seconds`` in units for people: ``0.8 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def quantity(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 blob``, ``1,234 blobs``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def foreign_layers(number: int, size: int) -> str:
    """Say how many foreign layers did not come along; ``size`` is in bytes."""
    return f"{quantity(number, 'layer')} of {human_bytes(size)} that only the vendor may distribute (--include-foreign)"


_PRUNE_WORDS = {
    PruneStatus.LISTED: "not named any more",
    PruneStatus.DELETED: "deleted",
    PruneStatus.KEPT: "kept, since its digest is needed or has changed",
}


def prune_lines(pruned: Sequence[PrunedTag] | None, refused: Sequence[SyncerError] = ()) -> list[str]:
    """One line for each tag that a prune found, so that people can check them before they are deleted.

    ``refused`` says at which targets nothing was deleted, and why.
    """
    if pruned is None:
        return []
    found = [
        f"prune:   {each.name}: {printable(str(each.error)) if each.error else _PRUNE_WORDS[each.status]}"
        for each in pruned
    ]
    found += [f"prune:   {printable(str(error))}" for error in refused]
    if pruned and not refused and all(each.status is PruneStatus.LISTED for each in pruned):
        found.append("prune:   nothing was deleted; --prune --yes does that")
    return found or ["prune:   nothing to delete"]


def _figures(report: Report) -> list[str]:
    totals = report.totals
    copied = totals.bytes_moved if totals.blobs_copied or totals.bytes_unfinished else 0
    lines = [f"images:  {_ends(report)}"]
    if totals.referrers:
        failed = f", {totals.referrers_failed} failed" if totals.referrers_failed else ""
        lines.append(
            f"with:    {quantity(totals.referrers, 'signature or referrer', 'signatures and referrers')}{failed}"
        )
    if copied:
        lines.append(f"moved:   {moved(copied, totals.blobs_copied, totals.bytes_unfinished)}")
    saved = {
        "shared between images": totals.bytes_deduplicated,
        "mounted": totals.bytes_mounted,
        "there already": totals.bytes_skipped,
        "brought by an earlier run": totals.bytes_resumed,
    }
    lines += saved_lines(saved)
    if totals.foreign_layers:
        lines.append(f"foreign: {foreign_layers(totals.foreign_layers, totals.bytes_foreign)}, left out")
    if totals.requests:
        extra = [quantity(totals.retries, "retry", "retries")] if totals.retries else []
        if totals.too_many_requests:
            extra.append(f"{totals.too_many_requests} × 429")
        lines.append(f"requests: {totals.requests:,}" + (f" ({', '.join(extra)})" if extra else ""))
    rate = f", {human_bytes(copied / totals.seconds)}/s" if copied and totals.seconds > 0 else ""
    lines.append(f"time:    {human_seconds(totals.seconds)}{rate}")
    return [*lines, *bound_lines(report.bound, totals.seconds)]


def saved_lines(saved: Mapping[str, int]) -> Iterator[str]:
    """The line about bytes that did not have to move, by what saved them."""
    if any(saved.values()):
        yield "saved:   " + ", ".join(f"{human_bytes(size)} {how}" for how, size in saved.items() if size)


def moved(size: int, blobs: int, unfinished: int) -> str:
    """Say that ``size`` bytes of so many whole ``blobs`` came or went; ``unfinished`` are those of others.

    >>> moved(0, 0, 0), moved(3_000_000, 2, 0), moved(1_000_000, 0, 1_000_000)
    ('nothing', '3.00 MB in 2 blobs', '1.00 MB of blobs that are not whole yet')
    >>> moved(3_000_000, 2, 1_000_000)
    '3.00 MB: 2.00 MB in 2 blobs, 1.00 MB of others that are not whole yet'
    """
    if not size:
        return "nothing"
    if not unfinished:
        return f"{human_bytes(size)} in {quantity(blobs, 'blob')}"
    if not blobs:
        return f"{human_bytes(size)} of blobs that are not whole yet"
    whole = f"{human_bytes(size - unfinished)} in {quantity(blobs, 'blob')}"
    return f"{human_bytes(size)}: {whole}, {human_bytes(unfinished)} of others that are not whole yet"


def bound_lines(bound: Bound | None, seconds: float) -> list[str]:
    """The line that says what bounded a run of so many seconds; none for one that was over at once."""
    return [f"         {printable(bound.line)}"] if bound and seconds >= _WORTH_TELLING else []


def _ends(report: Report) -> str:
    totals = report.totals
    ends = {
        "copied": totals.images_copied,
        "unchanged": totals.images_skipped,
        "failed": totals.images_failed,
        "unfinished": totals.images_unfinished,
    }
    said = ", ".join(f"{number} {end}" for end, number in ends.items() if number)
    return f"{totals.images} ({said})" if said else "none"


def _warnings(report: Report) -> list[str]:
    unknown = [
        f"what refers to the images of {each.repository} cannot be told: {each.error}"
        for each in report.referrers_unknown
    ]
    return [f"warning: {printable(text)}" for text in (*unknown, *report.warnings)]


def failure_lines(report: Report, names: Mapping[str, str] = NO_NAMES, *, least: int = 1) -> list[str]:
    """One line for each cause for which ``least`` images failed or more, the first twenty of them."""
    causes = [cause for cause in causes_of(report.failures) if len(cause.images) >= least]
    return _cause_lines(causes, [with_names(cause.line, names) for cause in causes[:_FAILURES_SHOWN]])


def doubt_lines(images: Iterable[Failed], lost: str) -> list[str]:
    """One line for each cause for which ``images`` are not foreseen, as ``failure_lines`` has them.

    ``lost`` are the words for what a server did not let happen.
    """
    causes = causes_of(images)
    return _cause_lines(causes, [cause.without(lost) for cause in causes[:_FAILURES_SHOWN]])


def _cause_lines(causes: Sequence[Cause], said: Sequence[str]) -> list[str]:
    lines = [f"failed:  {text}" for text in said]
    if left := causes[_FAILURES_SHOWN:]:
        lines.append(f"         and {sum(len(cause.images) for cause in left)} more")
    return lines


class Failed(Protocol):
    """An image with the error for which it failed, in a report or in a forecast."""

    @property
    def source(self) -> Reference: ...
    @property
    def target(self) -> Reference: ...
    @property
    def subject(self) -> Reference | None: ...
    @property
    def error(self) -> SyncerError | None: ...


class Cause(Struct, frozen=True):
    """One cause for which images failed, and those images."""

    text: str  # as ``errors.cause_of`` has it
    images: tuple[Failed, ...]

    @property
    def line(self) -> str:
        """The cause and its images in one line: of a single one, whatever its targets, in the words of its error."""
        first, sources = self.images[0], self.sources
        if len(sources) == 1 or self._is_repository:
            return failure_line(first.source, first.error)
        if lost := self._lost:
            return printable(f"{self.text}: {self._count} {lost}")
        names = ", ".join(sources[:_NAMES_SHOWN])
        more = f" and {len(sources) - _NAMES_SHOWN:,} more" if len(sources) > _NAMES_SHOWN else ""
        return printable(f"{names}{more}: {self.said}")

    @property
    def sources(self) -> list[str]:
        """The names of the images at their source, each once however many targets it goes to."""
        return list(dict.fromkeys(str(image.source) for image in self.images))

    @property
    def said(self) -> str:
        """The cause in words that stand for themselves: of a single image those of its error."""
        error = self.images[0].error
        return str(error) if error and len(self.sources) == 1 else self.text.removeprefix("…").lstrip(": ")

    def without(self, lost: str) -> str:
        """The cause as ``line`` has it; of a server without the images, which are ``lost``, even of a single one."""
        if self._lost and (len(self.images) > 1 or isinstance(self.images[0].error, NetworkError)):
            return printable(f"{self.text}: {self._count} {lost}")
        return self.line

    @property
    def _is_repository(self) -> bool:
        """Whether the cause is that there is no such repository: how many names were sought in it says nothing."""
        source = self.images[0].source
        return self.text == no_repository(source.registry, source.repository)

    @property
    def _count(self) -> str:
        """What was lost: of what was not fetched each image once, however many targets want it."""
        lost = list(self.images)
        if self._lost == _NOT_FETCHED:
            lost = list({image.source: image for image in lost}.values())
        referrers = sum(image.subject is not None for image in lost)
        counts = [quantity(len(lost) - referrers, "image")] if len(lost) > referrers else []
        if referrers:
            counts.append(quantity(referrers, "signature or referrer", "signatures and referrers"))
        return " and ".join(counts)

    @property
    def _lost(self) -> str | None:
        """The words for what did not happen because of a server; None where the images themselves are the cause."""
        image = self.images[0]
        if self._is_repository:
            return None
        if _speaks_of(self.text, image.source.registry):
            return _NOT_FETCHED
        return "not sent" if _speaks_of(self.text, image.target.registry) else None


def _speaks_of(text: str, host: str) -> bool:
    return any(word in text.split() for name in (host, api_host(host)) for word in (name, f"{name}:", f"{name},"))


def causes_of(failed: Iterable[Failed]) -> list[Cause]:
    """The causes of images that failed, the most frequent one first."""
    told = ((cause_in(each.error, each.source, each.target), each) for each in failed if each.error is not None)
    return [Cause(text, tuple(images)) for text, images in by_cause(told)]


def cause_in(error: SyncerError, source: Reference, target: Reference) -> str:
    """The cause of the ``error`` of an image that was on its way from ``source`` to ``target``."""
    if str(error) == no_repository(source.registry, source.repository):
        return str(error)
    return cause_of(error, {part for name in (source, target) for part in (str(name), name.name, name.repository)})


def with_names(text: str, names: Mapping[str, str]) -> str:
    """``text`` with each host as the user calls it: ``edge3 (10.0.0.3:5000) refused the connection``."""
    for host, name in names.items():
        called = f"{name} ({host})".replace("\\", r"\\")
        text = re.sub(rf"(?<![\w./:-]){re.escape(host)}(?![\w/-]|:\d|\.\w)", called, text)
    return text


def first_line(error: SyncerError, source: Reference, target: Reference) -> str:
    """The failure of the first image of a cause, said as it happens: of a server without the image."""
    if any(_speaks_of(str(error), name.registry) for name in (source, target)) and isinstance(error, NetworkError):
        return printable(str(error))
    return failure_line(source, error)


def failure_line(source: Reference, error: SyncerError | None) -> str:
    """An image, and why it failed; its name is said once."""
    text = printable(str(error))
    is_named = isinstance(error, NameMissing) or source.name in text.partition(" has no ")[0]
    return text if is_named else f"{source}: {text}"


def require_writable(path: Path) -> None:
    """Raise ``UsageError`` when ``path`` cannot be written, so that a long run does not end without its report."""
    parent = path.parent
    if is_stream(path):
        return
    require_no_other(path)
    require_directory(parent, f"{path} cannot be written")


def require_directory(directory: Path, otherwise: str) -> None:
    """Raise ``UsageError``, which begins with ``otherwise``, when no file can be made in ``directory``."""
    if not directory.is_dir():
        raise UsageError(f"{otherwise}: the directory {directory} does not exist")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"{otherwise}: no permission to create files in {directory}")


class Reported(Protocol):
    """A value with a JSON document."""

    def to_json(self) -> dict[str, Any]: ...


def shown(document: Any) -> Any:
    """The JSON ``document`` without known secrets in its texts (``errors.hide``)."""
    if not is_anything_hidden():
        return document
    match document:
        case str():
            return without_secrets(document)
        case dict():
            return {key: shown(value) for key, value in document.items()}
        case list() | tuple():
            return [shown(value) for value in document]
        case _:
            return document


def write_report(path: Path, report: Reported) -> None:
    """Write the JSON document of ``report`` to ``path``; raises ``TargetError``."""
    write_account(path, orjson.dumps(shown(report.to_json()), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_account(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all, with mode 0644; raises ``TargetError``."""
    with saving(path):
        write_whole(path, content, mode=0o644)


class Visit(Struct, frozen=True):
    """A visit to a site of a run, as its trace shows it; times are in seconds after the run began."""

    site: str
    at: float
    seconds: float
    state: str  # of the site, in the end


def write_trace(
    path: Path, timeline: Timeline, command: str | None, name: str | None, visits: Iterable[Visit] = ()
) -> None:
    """Write the ``timeline`` of a run to ``path``, in Chrome's trace format; raises ``TargetError``."""
    title = " ".join(filter(None, ("syncer", command, name)))
    write_account(path, orjson.dumps(shown(trace(timeline, title, visits))))


def trace(timeline: Timeline, name: str, visits: Iterable[Visit] = ()) -> dict[str, Any]:
    """``timeline`` in Chrome's trace format, which Perfetto opens; ``name`` is what the run is called.

    Blobs that are under way at one time are beside each other, in as few rows as that takes; each site has a row.
    """
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": name}},
        {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "waits"}},
    ]
    rows: list[float] = []  # when each is free again
    for blob in sorted(timeline.blobs, key=lambda blob: blob.at):
        row = next((number for number, free in enumerate(rows) if free <= blob.at), len(rows))
        rows[row : row + 1] = [blob.at + blob.seconds]
        events.append(
            _slice(1, row + 1, blob.image or blob.digest, blob)
            | {"args": {key: value for key, value in blob.to_json().items() if key not in ("at", "seconds")}}
        )
    hosts: dict[str, int] = {}
    for wait in timeline.waits:
        row = hosts.setdefault(wait.host, len(hosts) + 1)
        named = f"{wait.kind}: {wait.reason}" if wait.reason else wait.kind
        events.append(_slice(2, row, named, wait) | {"args": {"host": wait.host, "count": wait.count}})
    sites: dict[str, int] = {}
    for visit in visits:
        row = sites.setdefault(visit.site, len(sites) + 1)
        events.append(_slice(3, row, visit.state, visit) | {"args": {"site": visit.site}})
    if sites:
        events.append({"ph": "M", "pid": 3, "name": "process_name", "args": {"name": "sites"}})
    events += [
        {"ph": "M", "pid": process, "tid": row, "name": "thread_name", "args": {"name": named}}
        for process, rows_of in ((2, hosts), (3, sites))
        for named, row in rows_of.items()
    ]
    for number, (received, sent, flying) in enumerate(
        zip(timeline.bytes_received, timeline.bytes_sent, timeline.in_flight, strict=True)
    ):
        at = round(number * timeline.bucket_seconds * 1e6)
        rates = {"received": received / timeline.bucket_seconds, "sent": sent / timeline.bucket_seconds}
        events.append({"ph": "C", "pid": 1, "name": "bytes a second", "ts": at, "args": rates})
        events.append({"ph": "C", "pid": 1, "name": "blobs in flight", "ts": at, "args": {"blobs": flying}})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _slice(process: int, row: int, name: str, span: BlobSpan | WaitSpan | Visit) -> dict[str, Any]:
    """One bar of a trace; times are in microseconds."""
    times = {"ts": round(span.at * 1e6), "dur": round(span.seconds * 1e6)}
    kind = {BlobSpan: "blob", WaitSpan: "wait"}.get(type(span), "site")
    return {"ph": "X", "pid": process, "tid": row, "name": name, "cat": kind, **times}
