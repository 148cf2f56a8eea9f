"""The values of a report, and their joining; docs/report.md and docs/report.schema.json describe their JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from msgspec import Struct, field, structs

from syncer.errors import Exit, SyncerError, common_exit
from syncer.oci import Digest, Platform, Reference
from syncer.report.timeline import Bound, HostTime, Measured, Timeline, find_bound


class Status(StrEnum):
    """The result for an image."""

    COPIED = "copied"
    SKIPPED = "skipped"  # the target's name pointed to this content already
    FAILED = "failed"
    UNFINISHED = "unfinished"  # the run ended first


class ImageAccount(Struct, frozen=True, kw_only=True):
    """The result for one image at one target."""

    source: Reference
    target: Reference
    status: Status
    subject: Reference | None = None  # the image that this one, a signature or the like, speaks about
    digest: Digest | None = None  # None when it was not found
    platforms: tuple[Platform, ...] = ()  # of an index that was read
    error: SyncerError | None = None
    bytes: int = 0  # of blobs that no earlier image of this run has
    seconds: float = 0.0  # after all its content was found

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "target": str(self.target),
            "digest": str(self.digest) if self.digest else None,
            "platforms": [str(platform) for platform in self.platforms],
            "subject": str(self.subject) if self.subject else None,
            "status": self.status.value,
            "reason": reason(self.error) if self.error else None,
            "message": str(self.error) if self.error else None,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``Report.from_json`` does."""
        return cls(
            source=Reference.parse(document["source"]),
            target=Reference.parse(document["target"]),
            status=Status(document["status"]),
            subject=Reference.parse(document["subject"]) if document["subject"] else None,
            digest=Digest.parse(document["digest"]) if document["digest"] else None,
            platforms=tuple(Platform(*text.split("/")) for text in document["platforms"]),
            error=Told.of(document["message"], document["reason"]),
            bytes=number(document["bytes"]),
            seconds=number(document["seconds"]),
        )


class RegistryAccount(Struct, frozen=True, kw_only=True):
    """The requests to one registry, and its answers."""

    registry: str
    requests: int = 0
    requests_by_method: Mapping[str, int] = field(default_factory=dict)
    retries: int = 0
    too_many_requests: int = 0  # answers with status 429
    pauses: int = 0
    paused_seconds: float = 0.0
    errors: int = 0  # requests that failed for good
    bytes_received: int = 0
    bytes_sent: int = 0
    role: str = "registry"  # source, target, or registry for one that is both
    waited: Mapping[str, float] = field(default_factory=dict)  # seconds of requests, by what they waited for
    concurrency: Mapping[str, int] = field(default_factory=dict)  # most requests at a time: by kind, or one for all

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self) | {
            "requests_by_method": dict(sorted(self.requests_by_method.items())),
            "paused_seconds": round(self.paused_seconds, 3),
            "waited": {state: round(seconds, 3) for state, seconds in self.waited.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``Report.from_json`` does."""
        figures = {name: number(document[name]) for name in _OF_REGISTRIES}
        by_method = {method: number(count) for method, count in document["requests_by_method"].items()}
        return cls(
            registry=document["registry"],
            requests_by_method=by_method,
            role=str(document.get("role", "registry")),
            waited={str(state): number(seconds) for state, seconds in document.get("waited", {}).items()},
            concurrency={str(kind): number(most) for kind, most in document.get("concurrency", {}).items()},
            **figures,
        )

    @property
    def time(self) -> HostTime:
        """The time of the requests."""
        return HostTime(host=self.registry, role=self.role, waited=self.waited)

    def plus(self, other: RegistryAccount) -> RegistryAccount:
        """The account of both runs."""
        figures = {name: getattr(self, name) + getattr(other, name) for name in _OF_REGISTRIES}
        by_method = Counter(self.requests_by_method) + Counter(other.requests_by_method)
        waited = {
            state: self.waited.get(state, 0.0) + other.waited.get(state, 0.0)
            for state in {**self.waited, **other.waited}
        }
        role = self.role if self.role == other.role else "registry"
        most = {
            kind: max(self.concurrency.get(kind, 0), other.concurrency.get(kind, 0))
            for kind in {**self.concurrency, **other.concurrency}
        }
        return structs.replace(
            self, requests_by_method=dict(by_method), role=role, waited=waited, concurrency=most, **figures
        )


_OF_REGISTRIES = (
    *("requests", "retries", "too_many_requests", "pauses", "paused_seconds", "errors"),
    *("bytes_received", "bytes_sent"),
)


class UnknownReferrers(Struct, frozen=True, kw_only=True):
    """A repository of which it could not be told what refers to its images; these were copied all the same."""

    repository: str  # at the source
    error: SyncerError
    is_required: bool = False  # so that this is a failure

    def to_json(self) -> dict[str, Any]:
        return {"repository": self.repository, "message": str(self.error), "required": self.is_required}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``Report.from_json`` does."""
        return cls(
            repository=document["repository"],
            error=Told(document["message"], "failed"),
            is_required=document["required"],
        )


class PruneStatus(StrEnum):
    """The result for a tag that its sync file no longer names."""

    LISTED = "listed"
    DELETED = "deleted"
    KEPT = "kept"  # it moved meanwhile, or the registry deletes by digest only, and something else needs that
    FAILED = "failed"


class PrunedTag(Struct, frozen=True, kw_only=True):
    """A tag at a target that its sync file no longer names."""

    name: Reference
    digest: Digest
    status: PruneStatus
    error: SyncerError | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": str(self.name),
            "digest": str(self.digest),
            "status": self.status.value,
            "message": str(self.error) if self.error else None,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``Report.from_json`` does."""
        return cls(
            name=Reference.parse(document["name"]),
            digest=Digest.parse(document["digest"]),
            status=PruneStatus(document["status"]),
            error=Told.of(document["message"], "failed"),
        )


class Totals(Struct, frozen=True, kw_only=True):
    """The sums of a run.  Bytes are those of blobs; bytes that a retry sent twice count once.

    Signatures and other referrers do not count as images, but their blobs and bytes count.
    """

    images: int
    images_copied: int
    images_skipped: int
    images_failed: int
    images_unfinished: int
    referrers: int
    referrers_copied: int
    referrers_failed: int
    blobs_copied: int
    blobs_mounted: int
    blobs_skipped: int
    blobs_failed: int
    bytes_copied: int  # of blobs that were copied, also from file to file; without ``bytes_resumed``
    bytes_fetched: int  # from a registry
    bytes_sent: int  # to a registry
    bytes_unfinished: int  # of ``bytes_copied``, those of blobs that were under way as the run ended
    bytes_resumed: int  # of blobs that were copied now, which an earlier run had brought already
    bytes_mounted: int
    bytes_skipped: int  # of blobs that the target had
    bytes_deduplicated: int  # of blobs that an earlier image has too
    foreign_layers: int  # that stay where their vendors keep them
    bytes_foreign: int  # of these
    requests: int
    retries: int
    too_many_requests: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self) | {"seconds": round(self.seconds, 3)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``Report.from_json`` does."""
        figures = {**dict.fromkeys(_SINCE_LAST_VERSION, 0), **document}
        return cls(**{name: number(figures[name]) for name in cls.__struct_fields__})

    @property
    def bytes_moved(self) -> int:
        """The bytes of blobs that came or went, whichever are more."""
        return max(self.bytes_fetched, self.bytes_sent, self.bytes_copied)

    def plus(self, other: Totals) -> Totals:
        """The sums of both runs."""
        return structs.replace(
            self, **{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        )


_SINCE_LAST_VERSION = ("bytes_copied", "bytes_unfinished", "bytes_resumed", "foreign_layers", "bytes_foreign")


class Part(Struct, frozen=True, kw_only=True):
    """One of several runs whose reports were joined."""

    run_id: str
    started: datetime
    ended: datetime

    def to_json(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "started": instant(self.started), "ended": instant(self.ended)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``Report.from_json`` does."""
        return cls(run_id=str(document["run_id"]), started=moment(document["started"]), ended=moment(document["ended"]))


class Report(Struct, frozen=True, kw_only=True):
    """The report of one run; it holds no secrets."""

    run_id: str
    started: datetime
    ended: datetime
    totals: Totals
    images: tuple[ImageAccount, ...]  # in the order of the profile, as far as the run allowed
    registries: tuple[RegistryAccount, ...]
    referrers_unknown: tuple[UnknownReferrers, ...] = ()
    pruned: tuple[PrunedTag, ...] | None = None  # None without --prune
    prune_refused: tuple[SyncerError, ...] = ()  # targets at which more would have gone than may
    warnings: tuple[str, ...] = ()  # what was odd, and did no harm
    parts: tuple[Part, ...] = ()  # the runs, where this is the report of several
    version: str | None = None  # of syncer
    command: str | None = None
    name: str | None = None  # of the bundle or the file
    exit_code: int | None = None  # of the command
    targets: tuple[str, ...] = ()  # registries, as they were named
    timeline: Timeline | None = None
    measured: Measured | None = None

    @property
    def bound(self) -> Bound | None:
        """The bound of the run; None where too little was measured."""
        times = (registry.time for registry in self.registries)
        return find_bound(self.measured, times, self.command) if self.measured else None

    def after_publishing(self, seconds: float) -> Self:
        """The report once so many more ``seconds`` were spent on bringing a file to its disk."""
        measured = self.measured and structs.replace(
            self.measured, elapsed=self.measured.elapsed + seconds, publishing=self.measured.publishing + seconds
        )
        return structs.replace(
            self,
            ended=self.ended + timedelta(seconds=seconds),
            totals=structs.replace(self.totals, seconds=self.totals.seconds + seconds),
            measured=measured,
        )

    @property
    def failures(self) -> tuple[ImageAccount, ...]:
        return tuple(image for image in self.images if image.status is Status.FAILED)

    @property
    def exit(self) -> Exit:
        """The exit code of the run: the one that all failures share, else 1; 0 without failures."""
        codes = [image.error.exit for image in self.images if image.error]
        codes += [pruned.error.exit for pruned in self.pruned or () if pruned.error]
        codes += [Exit.INCOMPLETE for unknown in self.referrers_unknown if unknown.is_required]
        codes += [refused.exit for refused in self.prune_refused]
        codes += [Exit.INCOMPLETE for image in self.images if image.status is Status.UNFINISHED]
        return common_exit(codes)

    def to_json(self) -> dict[str, Any]:
        """The document of docs/report.schema.json."""
        return {
            "kind": "run",
            "run_id": self.run_id,
            "started": instant(self.started),
            "ended": instant(self.ended),
            "version": self.version,
            "command": self.command,
            "name": self.name,
            "exit_code": self.exit_code,
            "targets": list(self.targets),
            "totals": self.totals.to_json(),
            "images": [image.to_json() for image in self.images],
            "registries": [registry.to_json() for registry in self.registries],
            "referrers_unknown": [unknown.to_json() for unknown in self.referrers_unknown],
            "warnings": list(self.warnings),
            **({} if self.pruned is None else self._prune_to_json(self.pruned)),
            "measured": self.measured.to_json() if self.measured else None,
            "bound": bound.to_json() if (bound := self.bound) else None,
            "timeline": self.timeline.to_json() if self.timeline else None,
            **parts_to_json(self.parts),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read a document of kind ``run``, of this version or the one before, whose reports had no kind.

        Raises ``KeyError``, ``TypeError``, ``ValueError``, ``AttributeError`` or ``SyncerError`` for another one.
        """
        pruned = document.get("pruned")
        return cls(
            run_id=str(document["run_id"]),
            started=moment(document["started"]),
            ended=moment(document["ended"]),
            totals=Totals.from_json(document["totals"]),
            images=tuple(map(ImageAccount.from_json, document["images"])),
            registries=tuple(map(RegistryAccount.from_json, document["registries"])),
            referrers_unknown=tuple(map(UnknownReferrers.from_json, document.get("referrers_unknown", ()))),
            pruned=None if pruned is None else tuple(map(PrunedTag.from_json, pruned)),
            prune_refused=tuple(Told(text, "failed") for text in document.get("prune_refused", ())),
            warnings=tuple(map(str, document.get("warnings", ()))),
            parts=parts_of(document),
            **origin_of(document),
            targets=tuple(map(str, document.get("targets", ()))),
            timeline=Timeline.from_json(timeline) if (timeline := document.get("timeline")) else None,
            measured=Measured.from_json(measured) if (measured := document.get("measured")) else None,
        )

    @property
    def runs(self) -> tuple[Part, ...]:
        """The runs that this is the report of."""
        return self.parts or (Part(run_id=self.run_id, started=self.started, ended=self.ended),)

    def _prune_to_json(self, pruned: tuple[PrunedTag, ...]) -> dict[str, Any]:
        return {
            "pruned": [each.to_json() for each in pruned],
            "prune_refused": [str(refused) for refused in self.prune_refused],
        }


_REASONS = {
    Exit.USAGE: "usage",
    Exit.DENIED: "denied",
    Exit.MISSING: "missing",
    Exit.TARGET: "target",
    Exit.UNVERIFIED: "unverified",
    Exit.LOCKED: "locked",
}


class Told(SyncerError):
    """An error as a report tells it: its sentence, and the word for its kind."""

    def __init__(self, message: str, reason: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.cause = cause  # in the account of a fleet: what failed alike at several sites

    @classmethod
    def of(cls, message: str | None, reason: str | None) -> Self | None:
        """The error of an entry, if it has one."""
        return None if message is None else cls(message, reason or "failed")

    @property
    def exit(self) -> Exit:  # type: ignore[override]  # other errors have one for their class
        """The exit code of its kind."""
        return next((code for code, word in _REASONS.items() if word == self.reason), Exit.INCOMPLETE)


def reason(error: SyncerError) -> str:
    """One word for the kind of an error; errors with the same exit code have the same word."""
    return _REASONS.get(error.exit, "failed")


def instant(moment: datetime, timespec: str = "milliseconds") -> str:
    """``moment`` as reports write it, and with ``seconds`` as lists do."""
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def moment(text: str) -> datetime:
    """The time that ``instant`` wrote; raises ``ValueError`` for one without a zone."""
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError(text)
    return read.astimezone(UTC)


def number(value: Any) -> Any:
    """``value``, which must be a number and not below zero, or else ``ValueError`` is raised."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(value)
    return value


def parts_to_json(parts: Sequence[Part]) -> dict[str, Any]:
    """The runs of a joined report as its document has them; nothing for a report of one run."""
    return {"parts": [part.to_json() for part in parts]} if parts else {}


def parts_of(document: Mapping[str, Any]) -> tuple[Part, ...]:
    """The runs of which a document is the joined report; none for a report of one run."""
    return tuple(map(Part.from_json, document.get("parts", ())))


def origin_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The version, the command, the name and the exit code in a document, None for those that it does not have."""
    code = document.get("exit_code")
    texts = {key: None if (text := document.get(key)) is None else str(text) for key in ("version", "command", "name")}
    return {**texts, "exit_code": None if code is None else number(code)}


def seconds_of(parts: Iterable[Part]) -> float:
    """The seconds during which at least one of several runs was going on."""
    seconds, until = 0.0, None
    for part in sorted(parts, key=lambda part: part.started):
        began = part.started if until is None else max(part.started, until)
        seconds += max(0.0, (part.ended - began).total_seconds())
        until = part.ended if until is None else max(until, part.ended)
    return seconds


def common(values: Iterable[str | None]) -> str | None:
    """The one value that all have; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def count_images(images: Iterable[ImageAccount]) -> dict[str, int]:
    """The totals of a report that count images and referrers."""
    images = tuple(images)
    ends = Counter(image.status for image in images if image.subject is None)
    referrers = Counter(image.status for image in images if image.subject is not None)
    return {
        "images": ends.total(),
        "images_copied": ends[Status.COPIED],
        "images_skipped": ends[Status.SKIPPED],
        "images_failed": ends[Status.FAILED],
        "images_unfinished": ends[Status.UNFINISHED],
        "referrers": referrers.total(),
        "referrers_copied": referrers[Status.COPIED],
        "referrers_failed": referrers[Status.FAILED],
    }
