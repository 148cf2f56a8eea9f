"""What syncer must reach, and whether a run shows that it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Row, Spread
from benchmarks.sweep import default_to_best
from benchmarks.works import CAPPED, ONE_RANGE, THROTTLED, WIDE_AREA

_MB = 1_000_000
_LINK = str(WIDE_AREA)


@dataclass(frozen=True, slots=True)
class Goal:
    """One bound: of what, against whom, and how much it may be (or must, where ``at_least``)."""

    corpus: str
    step: str
    measure: str  # one of _MEASURES
    bound: float
    against: str = ""  # a tool whose cost ours is divided by; for growth, a smaller corpus
    tls: bool = False
    link: str | None = None
    cold: bool = False
    at_least: bool = False

    @property
    def name(self) -> str:
        ways = (("TLS", self.tls), (self.link, self.link), ("cold", self.cold))
        where = "".join(f", {way}" for way, is_so in ways if is_so)
        return f"{self.corpus} {self.step}{where}: {_MEASURES[self.measure]}".strip()

    @property
    def limit(self) -> str:
        against = f" × {self.against}" if self.against else ""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{against}"

    @property
    def is_of_time(self) -> bool:
        """Whether what bounds the work bounds this too."""
        return self.measure not in ("requests", "wire", "memory", "refused")

    def allows(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def covers(self, row: Row) -> bool:
        ours = (self.corpus, self.step, self.tls, self.link, self.cold)
        return (row.corpus, row.step, row.tls, row.link, row.cold) == ours


_MEASURES = {
    "wall": "wall time",
    "client_cpu": "CPU time",
    "cpu_seconds": "CPU seconds",
    "requests": "requests per image",
    "wire": "bytes on the wire ÷ distinct bytes",
    "memory": "peak memory, MB",
    "growth": "wall time per image",
    "link": "payload ÷ what the link carries",
    "refused": "answers of 429 ÷ requests",
    "paced": "wall time ÷ what the limit allows",
    "default": "seconds without flags ÷ with the best",
    "start": "seconds",
}

GOALS = (
    *(Goal("huge", "build", "wall", 0.15, peer, link=str(CAPPED)) for peer in ("crane", "imgpkg")),
    Goal("huge", "build", "wall", 1.03, ONE_RANGE),
    Goal("night", "sync", "wall", 0.90, "ocync", tls=True),
    Goal("night", "sync", "client_cpu", 1.20, "ocync", tls=True),
    Goal("night", "no-op sync", "cpu_seconds", 0.20, tls=True),
    Goal("night", "no-op sync", "wall", 2.0, "ocync", tls=True),
    Goal("fleet", "no-op push", "wall", 0.45, "crane"),
    Goal("fleet", "no-op push", "wall", 2.5, "imgpkg"),
    Goal("fleet", "build", "wall", 1.10, "floor"),
    Goal("fleet", "build", "client_cpu", 1.20, "floor"),
    Goal("fleet", "build", "wall", 0.80, "imgpkg"),
    Goal("fleet", "build", "wall", 1.00, "imgpkg", cold=True),
    Goal("fleet", "push", "wall", 1.20, "floor"),
    Goal("fleet", "push", "client_cpu", 1.60, "floor"),
    Goal("fleet", "sync", "wall", 0.70, "imgpkg"),
    Goal("big", "build", "wall", 0.80, "imgpkg"),
    Goal("big", "push", "wall", 1.10, "crane"),
    Goal("big", "build", "wall", 1.10, "imgpkg", tls=True),
    Goal("small", "build", "wall", 0.70, "imgpkg"),
    Goal("small", "push", "wall", 0.50, "imgpkg"),
    Goal("small", "push", "wall", 0.60, "imgpkg", link=_LINK),
    Goal("fleet", "push", "link", 0.90, link=_LINK, at_least=True),
    *(
        Goal("small", step, measure, bound, link=str(throttle))
        for throttle in THROTTLED
        for step in (("build", "push") if throttle.told else ("push",))  # a build ends before it can make up for a 429
        for measure, bound in (("refused", 0.01), ("paced", 1.10))
    ),
    Goal("fleet", "push", "requests", 16),
    Goal("fleet", "no-op push", "requests", 1.1),
    Goal("fleet", "build", "requests", 7.5),
    Goal("fleet", "push", "wire", 1.02),
    *(Goal("fleet", step, "memory", 100) for step in ("build", "push", "sync")),
    *(Goal(corpus, step, "memory", 100) for corpus in ("big", "small") for step in ("build", "push")),
    *(Goal("many", step, "memory", 300) for step in ("build", "push")),
    *(Goal("many", step, "growth", 1.1, "many-3000") for step in ("build", "push")),
    Goal("small", "push", "default", 1.05, link=_LINK),
    Goal("", "syncer version", "start", 0.2),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says about one goal, at one server; ``floor`` is the same of the leanest client.

    ``row`` is what was judged, where it was a step of a work.
    """

    goal: Goal
    server: str
    found: Spread
    floor: Spread | None
    row: Row | None = None

    @property
    def is_met(self) -> bool:
        return self.goal.allows(self.found.median)

    @property
    def is_possible(self) -> bool:
        """False when even the leanest client misses the bound."""
        return self.floor is None or self.goal.allows(self.floor.median)


def verdicts(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Verdict]:
    """One for each goal and server that the run has measured."""
    for goal in GOALS:
        if goal.measure == "start":
            floors = document["floors"]
            if ours := Spread.of(floors["syncer_version_seconds"]):
                yield Verdict(goal, "–", ours, Spread.of(floors["python_start_seconds"]))
        for swept in document.get("sweeps", ()) if goal.measure == "default" else ():
            if swept["corpus"] == goal.corpus and (ratio := default_to_best(swept["trials"])) is not None:
                yield Verdict(goal, "–", Spread(ratio, ratio, ratio), None)
        for row in rows if goal.measure != "default" else ():
            if row.tool == "syncer" and goal.covers(row) and (found := _found(goal, row, rows, document)):
                lean = next((other for other in rows if other.key == row.key and other.tool == "floor"), None)
                floor = _found(goal, lean, rows, document) if lean else None
                yield Verdict(goal, row.server, found, floor, row)


def _found(goal: Goal, row: Row, rows: Sequence[Row], document: Mapping[str, Any]) -> Spread | None:
    corpus = document["corpora"][row.corpus]
    match goal.measure:
        case "wall" | "client_cpu":
            peer = next((other for other in rows if other.key == row.key and other.tool == goal.against), None)
            return row.ratio_to(peer, goal.measure) if peer else None
        case "cpu_seconds":
            return row.spread("client_cpu")
        case "growth":
            smaller = next((other for other in rows if _is_smaller(other, row, goal.against)), None)
            ratio = row.ratio_to(smaller, "wall") if smaller else None
            return ratio.times(document["corpora"][goal.against]["images"] / corpus["images"]) if ratio else None
        case "requests" | "wire" | "memory":
            amount, unit = {
                "requests": (sum(row.requests().values()), corpus["images"]),
                "wire": (row.bytes_moved(), corpus["bytes"]),
                "memory": (row.peak_memory(), _MB),
            }[goal.measure]
            return Spread.of([amount / unit]) if amount else None
        case "refused" | "paced":
            per_second = next(throttle.per_second for throttle in THROTTLED if str(throttle) == row.link)
            return Spread.of(row.paces(per_second) if goal.measure == "paced" else row.refused())
        case _:
            wall = row.spread("wall")
            ideal = corpus["bytes"] * 8 / WIDE_AREA.bits_per_second
            return Spread(ideal / wall.median, ideal / wall.high, ideal / wall.low) if wall else None


def _is_smaller(other: Row, row: Row, corpus: str) -> bool:
    return other.corpus == corpus and (other.server, other.step, other.tool) == (row.server, row.step, row.tool)
