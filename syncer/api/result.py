"""What the jobs give back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from syncer.errors import Exit, SyncerError
from syncer.oci import Reference
from syncer.report import RegistryAccount, Report
from syncer.transfer.events import Emit, Event
from syncer.transport import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made.  ``path`` is None when images failed and nothing was published: run again to go on."""

    path: Path | None
    partial: Path | None
    report: Report

    @property
    def exit(self) -> Exit:
        """The common code of all failures, else 1; 1 also for a bundle that was published without some images."""
        return Exit.INCOMPLETE if self.path and self.report.failures else self.report.exit


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push did.

    ``definition`` is where the bundle's definition is now; None when anything failed before it, or when it could
    not be pushed itself, for which ``problem`` is the reason.
    """

    bundle: str
    registry: str
    report: Report
    definition: Reference | None = None
    problem: SyncerError | None = None

    @property
    def exit(self) -> Exit:
        return self.report.exit or (self.problem.exit if self.problem else Exit.OK)


def new_run_id() -> str:
    """What tells one run from all others."""
    return uuid.uuid4().hex[:12]


def to_all(*listeners: Callable[[Event], None] | None) -> Emit:
    """One ``Emit`` for several listeners."""
    present = [listener for listener in listeners if listener is not None]

    def emit(event: Event) -> None:
        for listener in present:
            listener(event)

    return emit


def accounts(traffic: Mapping[str, Traffic]) -> list[RegistryAccount]:
    """The transport's counters as a report has them."""
    return [
        RegistryAccount(
            registry=host,
            requests=counted.requests.total(),
            requests_by_method=dict(counted.requests),
            retries=counted.retries,
            too_many_requests=counted.throttled,
            pauses=counted.pauses,
            paused_seconds=counted.paused_seconds,
            errors=counted.errors,
            bytes_received=counted.bytes_in,
            bytes_sent=counted.bytes_out,
        )
        for host, counted in traffic.items()
    ]
