"""The values of a report; docs/report.md and docs/report.schema.json describe their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct, field, structs

from syncer.errors import Exit, SyncerError, common_exit
from syncer.oci import Digest, Platform, Reference


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

    def to_json(self) -> dict[str, Any]:
        return structs.asdict(self) | {
            "requests_by_method": dict(sorted(self.requests_by_method.items())),
            "paused_seconds": round(self.paused_seconds, 3),
        }


class UnknownReferrers(Struct, frozen=True, kw_only=True):
    """A repository of which it could not be told what refers to its images; these were copied all the same."""

    repository: str  # at the source
    error: SyncerError
    is_required: bool = False  # so that this is a failure

    def to_json(self) -> dict[str, Any]:
        return {"repository": self.repository, "message": str(self.error), "required": self.is_required}


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
    bytes_fetched: int  # from a registry
    bytes_sent: int  # to a registry
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
            "totals": self.totals.to_json(),
            "images": [image.to_json() for image in self.images],
            "registries": [registry.to_json() for registry in self.registries],
            "referrers_unknown": [unknown.to_json() for unknown in self.referrers_unknown],
            "warnings": list(self.warnings),
        } | ({} if self.pruned is None else self._prune_to_json(self.pruned))

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


def reason(error: SyncerError) -> str:
    """One word for the kind of an error; errors with the same exit code have the same word."""
    return _REASONS.get(error.exit, "failed")


def instant(moment: datetime) -> str:
    """``moment`` as reports write it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
