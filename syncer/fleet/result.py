"""The account of a fleet: what became of each site, and of the whole; docs/report.md describes its JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import reduce
from pathlib import Path
from typing import Any, Self, TypeAlias

import orjson
from msgspec import Struct, field, structs

from syncer import errors
from syncer.errors import (
    Exit,
    NetworkError,
    OutOfFiles,
    SyncerError,
    UsageError,
    VerificationError,
    common_exit,
    refusal_in,
)
from syncer.profiles.syncfile.site import registry_key
from syncer.report.account import join_codes, join_courses
from syncer.report.figures import (
    Part,
    Report,
    Told,
    instant,
    moment,
    number,
    origin_of,
    parts_of,
    parts_to_json,
    reason,
    seconds_of,
)
from syncer.report.timeline import Bound, HostTime, Measured, Timeline, find_bound

NOTHING_FORESEEN: Mapping[str, int] = dict.fromkeys(
    ("images_to_copy", "images_to_skip", "blobs_to_copy", "blobs_to_mount", "bytes_to_send", "bytes_to_mount"), 0
)
"""The figures of a plan for a site that did not tell, as the document names them."""


GO_ON = "run the same command again to go on"


class SiteState(StrEnum):
    """The end of a site."""

    DONE = "done"  # it has all of the bundle now
    UNCHANGED = "unchanged"  # it had all of the bundle before
    BEHIND = "behind"  # of a plan: it lacks some, and a push would bring that
    PARTIAL = "partial"  # it lacks some; the same command goes on
    DOWN = "down"  # nobody answers there, or only that it is out of order
    REFUSED = "refused"  # it does not let us in, or what was asked of it cannot be done there
    NOT_BEGUN = "not begun"

    @property
    def is_good(self) -> bool:
        """True when the site has what it should have, or a plan says that a push would bring it."""
        return self in (SiteState.DONE, SiteState.UNCHANGED, SiteState.BEHIND)


class Visited(Struct, frozen=True, kw_only=True):
    """A visit to a site: when it began, in seconds after the run did, and how many it took."""

    at: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {"at": round(self.at, 3), "seconds": round(self.seconds, 3)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` made, as ``FleetResult.from_json`` does."""
        return cls(at=number(document["at"]), seconds=number(document["seconds"]))


class SiteResult(Struct, frozen=True, kw_only=True):
    """The end of one site, and its figures; sizes are in bytes."""

    name: str
    registry: str
    state: SiteState
    images: int = 0
    images_failed: int = 0
    bytes_sent: int = 0
    bytes_mounted: int = 0
    bytes_resumed: int = 0  # of blobs that arrived now, which an earlier run had sent already
    requests: int = 0
    seconds: float = 0.0
    error: SyncerError | None = None  # the first one
    report: str | None = None  # the name of the file that has the report of its own run
    foreseen: Mapping[str, int] = field(default_factory=lambda: NOTHING_FORESEEN)  # of a plan
    waited: Mapping[str, float] = field(default_factory=dict)  # seconds of requests, by what they waited for
    visits: tuple[Visited, ...] = ()

    @property
    def exit(self) -> Exit:
        """The exit code that the site alone would give."""
        if self.state.is_good:
            return Exit.OK
        return self.error.exit if self.error else Exit.INCOMPLETE

    def after(self, before: SiteResult) -> Self:
        """This end of a site together with the visit ``before``: what both of them did is added up."""
        figures = {name: getattr(before, name) + getattr(self, name) for name in (*_SUMS, "seconds", "visits")}
        has_changed = self.state is SiteState.UNCHANGED and (before.state is SiteState.DONE or before.bytes_sent)
        return structs.replace(self, state=SiteState.DONE if has_changed else self.state, **figures)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "registry": self.registry,
            "state": self.state.value,
            "images": self.images,
            "images_failed": self.images_failed,
            "bytes_sent": self.bytes_sent,
            "bytes_mounted": self.bytes_mounted,
            "bytes_resumed": self.bytes_resumed,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "reason": reason(self.error) if self.error else None,
            "error": str(self.error) if self.error else None,
            "report": self.report,
            "visits": [visit.to_json() for visit in self.visits],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], cause: str | None) -> Self:
        """Read what ``to_json`` made, as ``FleetResult.from_json`` does; ``cause`` is why the site failed."""
        error = None
        if document["error"] is not None:
            error = Told(document["error"], document["reason"] or "failed", cause)
        known = {"bytes_resumed": 0, **document}  # which reports of the version before do not have
        figures = {name: number(known[name]) for name in ("images", "images_failed", "seconds", *_SUMS)}
        return cls(
            name=str(document["name"]),
            registry=str(document["registry"]),
            state=SiteState(document["state"]),
            error=error,
            report=document.get("report"),
            foreseen={name: number(document.get(name, 0)) for name in NOTHING_FORESEEN},
            visits=tuple(map(Visited.from_json, document.get("visits", ()))),
            **figures,
        )


_SUMS = ("bytes_sent", "bytes_mounted", "bytes_resumed", "requests")


class FleetResult(Struct, frozen=True, kw_only=True):
    """The outcome of a run over many sites."""

    run_id: str
    command: str  # push, plan or verify
    bundle: str
    started: datetime
    ended: datetime
    sites: tuple[SiteResult, ...]  # in the order of the file
    parts: tuple[Part, ...] = ()  # the runs, where this is the account of several
    version: str | None = None  # of syncer
    exit_code: int | None = None  # of the command
    measured: Measured | None = None
    waited: Mapping[str, float] = field(default_factory=dict)  # seconds of requests to all sites
    timeline: Timeline | None = None

    @property
    def bound(self) -> Bound | None:
        """The bound of the run; None where too little was measured."""
        times = [HostTime(host="the sites", role="target", waited=self.waited)]
        return find_bound(self.measured, times, self.command) if self.measured else None

    @property
    def runs(self) -> tuple[Part, ...]:
        """The runs that this is the account of."""
        return self.parts or (Part(run_id=self.run_id, started=self.started, ended=self.ended),)

    @property
    def seconds(self) -> float:
        """The seconds during which at least one of the runs was going on."""
        return seconds_of(self.runs)

    @property
    def states(self) -> Mapping[SiteState, int]:
        """The number of sites that ended in each state, but for those in which none did."""
        counted = Counter(site.state for site in self.sites)
        return {state: counted[state] for state in SiteState if counted[state]}

    @property
    def whole(self) -> int:
        """The number of sites that have all of the bundle."""
        return self.states.get(SiteState.DONE, 0) + self.states.get(SiteState.UNCHANGED, 0)

    @property
    def has_work(self) -> bool:
        """True when a plan found a site that lacks some of the bundle."""
        return SiteState.BEHIND in self.states

    @property
    def foreseen(self) -> dict[str, int]:
        """The sums of what a plan foresees at the sites."""
        return {name: sum(site.foreseen[name] for site in self.sites) for name in NOTHING_FORESEEN}

    @property
    def exit(self) -> Exit:
        """0; the common code when no site ended well and all for one reason; else 1."""
        codes = [site.exit for site in self.sites]
        if all(codes):
            return common_exit(codes)
        return Exit.INCOMPLETE if any(codes) else Exit.OK

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why sites did not end well, the most frequent cause first."""
        return causes_of(self.sites)

    def to_json(self) -> dict[str, Any]:
        """The document of docs/report.schema.json, of kind ``fleet``."""
        is_plan = self.command == "plan"
        return {
            "kind": "fleet",
            "version": self.version,
            "exit_code": self.exit_code,
            "run_id": self.run_id,
            "command": self.command,
            "bundle": self.bundle,
            "started": instant(self.started),
            "ended": instant(self.ended),
            "totals": {
                "sites": len(self.sites),
                **{f"sites_{state.value.replace(' ', '_')}": self.states.get(state, 0) for state in SiteState},
                **{
                    name: sum(getattr(site, name) for site in self.sites)
                    for name in ("images", "images_failed", *_SUMS)
                },
                **(self.foreseen if is_plan else {}),
                "seconds": round(self.seconds, 3),
            },
            "causes": [{"cause": cause.text, "sites": list(cause.sites)} for cause in self.causes],
            "sites": [site.to_json() | (dict(site.foreseen) if is_plan else {}) for site in self.sites],
            "measured": self.measured.to_json() if self.measured else None,
            "waited": {state: round(seconds, 3) for state, seconds in self.waited.items()},
            "bound": bound.to_json() if (bound := self.bound) else None,
            "timeline": self.timeline.to_json() if self.timeline else None,
            **parts_to_json(self.parts),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read a document of kind ``fleet``.

        Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` for another one.
        """
        causes = {name: str(cause["cause"]) for cause in document["causes"] for name in cause["sites"]}
        origin = origin_of(document)
        return cls(
            run_id=str(document["run_id"]),
            command=str(document["command"]),
            bundle=str(document["bundle"]),
            started=moment(document["started"]),
            ended=moment(document["ended"]),
            sites=tuple(SiteResult.from_json(row, causes.get(row["name"])) for row in document["sites"]),
            parts=parts_of(document),
            version=origin["version"],
            exit_code=origin["exit_code"],
            measured=Measured.from_json(measured) if (measured := document.get("measured")) else None,
            waited={str(state): number(seconds) for state, seconds in document.get("waited", {}).items()},
            timeline=Timeline.from_json(timeline) if (timeline := document.get("timeline")) else None,
        )


class Cause(Struct, frozen=True):
    """One cause for which sites did not end well."""

    text: str
    sites: tuple[str, ...]  # their names
    hint: str | None = None


def join_fleets(fleets: Sequence[FleetResult]) -> tuple[FleetResult, tuple[str, ...]]:
    """The account of several runs as of one, and the names of the sites that were in more than one of them.

    Of such a site the end of the later run counts, unless that one did not begin it, and what both of them brought.
    The id is that of the run that ended last.  Raises ``UsageError`` for runs of several commands or bundles.
    """
    for what in ("command", "bundle"):
        found = sorted({getattr(fleet, what) for fleet in fleets})
        if len(found) > 1:
            raise UsageError(f"the reports are of more than one {what}: {', '.join(found)}")
    if len(fleets) == 1:
        return fleets[0], ()
    rows: dict[str, SiteResult] = {}
    repeated: dict[str, None] = {}
    started = min(fleet.started for fleet in fleets)
    for fleet in sorted(fleets, key=lambda fleet: fleet.ended):
        later = (fleet.started - started).total_seconds()
        for row in fleet.sites:
            visits = tuple(structs.replace(visit, at=visit.at + later) for visit in row.visits)
            site = structs.replace(row, visits=visits)
            key = registry_key(site.registry)
            if key in rows:
                repeated[site.name] = None
            if key not in rows:
                rows[key] = site
            elif site.state is not SiteState.NOT_BEGUN:
                rows[key] = site.after(rows[key])
    order = dict.fromkeys(registry_key(site.registry) for fleet in fleets for site in fleet.sites)
    last = max(fleets, key=lambda fleet: fleet.ended)
    joined = FleetResult(
        run_id=last.run_id,
        command=last.command,
        bundle=last.bundle,
        started=started,
        ended=last.ended,
        sites=tuple(rows[key] for key in order),
        parts=tuple(part for fleet in fleets for part in fleet.runs),
        version=last.version,
        measured=reduce(Measured.plus, measured) if (measured := [f.measured for f in fleets if f.measured]) else None,
        waited=sum_up(fleet.waited for fleet in fleets),
        timeline=join_courses(fleets),
    )
    return structs.replace(joined, exit_code=join_codes(fleets, joined.exit)), tuple(repeated)


def sum_up(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sums of figures of one name."""
    sums: dict[str, float] = {}
    for each in figures:
        for name, figure in each.items():
            sums[name] = round(sums.get(name, 0.0) + figure, 3)
    return sums


class Lacking(VerificationError):
    """A site lacks some of a bundle."""

    def __init__(self, lacking: int, checked: int) -> None:
        super().__init__(
            f"it lacks {lacking:,} of {checked:,} names and pieces of content",
            hint="push with --recheck sends what is lost, also below tags that are right",
        )


class OutOfTime(SyncerError):
    """The window of a site, or the time of a run, was over before all was there."""

    def __init__(self) -> None:
        super().__init__("its time was over before all was there", hint=GO_ON)


class NotBegun(SyncerError):
    """The reason why a run did not begin a site."""


class Stopped(SyncerError):
    """A run was stopped, as by Ctrl-C, before all was at a site."""

    def __init__(self) -> None:
        super().__init__("it was stopped before all was there", hint=GO_ON)


def causes_of(sites: Iterable[SiteResult]) -> tuple[Cause, ...]:
    """Why some of ``sites`` did not end well, the most frequent cause first."""
    told = ((cause_of(site.error, site.registry), site) for site in sites if site.error is not None)
    return tuple(
        Cause(text, tuple(site.name for site in alike), alike[0].error.hint if alike[0].error else None)
        for text, alike in errors.by_cause(told)
    )


def cause_of(error: SyncerError, registry: str) -> str:
    """The cause that ``error`` tells, without the names of the site and of what was asked of it.

    >>> from syncer.errors import RegistryError
    >>> cause_of(RegistryError("HEAD http://10.0.0.1:5000/v2/a/manifests/1", 507, ["no space left"]), "10.0.0.1:5000")
    '507 no space left'
    """
    if isinstance(error, Told) and error.cause:
        return error.cause
    host = registry.rpartition("://")[2].partition("/")[0]
    text = errors.cause_of(error)
    starts = (f"{host}: ", f"{host} ") if isinstance(error, NetworkError) else (f"{host}: ",)
    if start := next(filter(text.startswith, starts), None):
        return text.removeprefix(start)
    return text.replace(host, "the site")


def outcome(failures: Iterable[SyncerError], *, has_changed: bool) -> SiteState:
    """The state of a site at which there were ``failures``; ``has_changed`` says that something was brought there."""
    failures = tuple(failures)
    if not failures:
        return SiteState.DONE if has_changed else SiteState.UNCHANGED
    if has_changed:
        return SiteState.PARTIAL
    if all(map(_is_outage, failures)):
        return SiteState.DOWN
    is_refused = all(error.exit in (Exit.DENIED, Exit.USAGE) for error in failures)
    return SiteState.REFUSED if is_refused else SiteState.PARTIAL


def _is_outage(error: SyncerError) -> bool:
    if answered := refusal_in(error):
        return answered.status in (502, 503, 504)
    return isinstance(error, NetworkError) and not isinstance(error, OutOfFiles)  # which is this machine's trouble


Account: TypeAlias = Report | FleetResult

_OF_VERIFICATION = frozenset({"bundle", "manifests", "bytes_file", "lacking"})
"""Keys that together are in the report of a verification alone, which had no kind in the version before."""


def read_account(path: Path) -> Account:
    """The account in the report at ``path``, of this version or the one before.

    Raises ``UsageError`` for a file that is not there, or no report.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except orjson.JSONDecodeError:
        raise _no_report(path, "it is no JSON document") from None
    kind = document.get("kind", "run") if isinstance(document, Mapping) else None
    if kind == "verify" or (isinstance(document, Mapping) and document.keys() >= _OF_VERIFICATION):
        raise UsageError(
            f"{path} is the report of a verification, which is neither shown nor joined",
            hint="its `missing`, `lacking` and `unknown` name what was not found; give reports of build, push or sync",
        )
    if kind not in ("run", "fleet"):
        raise _no_report(path, "it has another kind" if kind is not None else "it is no JSON object")
    try:
        return FleetResult.from_json(document) if kind == "fleet" else Report.from_json(document)
    except KeyError as lacking:
        raise _no_report(path, f"it has no {lacking}") from None
    except (TypeError, ValueError, AttributeError, SyncerError):
        raise _no_report(path, "some of it is no figure or no name where one belongs") from None


def _no_report(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is no report of a run: {why}", hint="give files that --report wrote, or --json printed")
