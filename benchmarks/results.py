"""What a run found out, by tool and step: medians, spreads and ratios of its samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

OWN = ("syncer", "syncer-one-range", "floor")
"""The tools that are no peers: syncer, a variant of it, and the least that the work can cost."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds brought: the median, and how far apart they lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """None when there is nothing to tell."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def times(self, factor: float) -> Self:
        return type(self)(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One tool at one step of one work, over all its rounds."""

    work: str
    corpus: str
    server: str
    tls: bool
    link: str | None
    cold: bool
    step: str
    tool: str
    samples: tuple[Mapping[str, Any], ...]

    @property
    def key(self) -> tuple[str, str]:
        """What rows that can be compared have in common."""
        return self.work, self.step

    def spread(self, measure: str) -> Spread | None:
        """Of ``wall``, or of ``client_cpu``, ``server_cpu``, ``other_cpu`` or ``own_cpu``, over the timed rounds."""
        return Spread.of(sample.get(measure) for sample in self._timed())

    def median(self, measure: str) -> float:
        """The middle of ``spread``; 0 where nothing was timed."""
        spread = self.spread(measure)
        return spread.median if spread else 0.0

    def account(self) -> Mapping[str, Any] | None:
        """The figures that the tool measured about itself, of the round whose wall time is nearest to the median."""
        wall = self.spread("wall")
        told = [sample for sample in self._timed() if sample.get("account")]
        if not wall or not told:
            return None
        nearest = min(told, key=lambda sample: abs(sample["wall"] - wall.median))
        return cast("Mapping[str, Any]", nearest["account"])

    def peak_memory(self) -> int | None:
        peaks = [sample["peak_memory"] for sample in self.samples if sample["peak_memory"]]
        return max(peaks, default=None)

    def counted(self) -> Mapping[str, Any] | None:
        """The sample whose traffic was counted."""
        return next((sample for sample in self.samples if "requests" in sample), None)

    def bytes_moved(self) -> int | None:
        counted = self.counted()
        return counted["bytes_up"] + counted["bytes_down"] if counted else None

    def requests(self) -> Mapping[str, int]:
        counted = self.counted()
        return counted["requests"] if counted else {}

    def refused(self) -> list[float]:
        """The part of its requests that was answered by 429, in each round that was counted."""
        counted = [sample for sample in self._timed() if sample.get("requests")]
        return [sample.get("refused", 0) / sum(sample["requests"].values()) for sample in counted]

    def paces(self, per_second: int) -> list[float]:
        """The wall time, divided by that of so many requests a second, in each round that was counted."""
        counted = [sample for sample in self._timed() if sample.get("requests")]
        taken = (sum(sample["requests"].values()) - sample.get("refused", 0) for sample in counted)
        return [sample["wall"] * per_second / number for sample, number in zip(counted, taken, strict=True)]

    def ratio_to(self, other: Row, measure: str) -> Spread | None:
        """Ours divided by the other's, round by round, so that what slowed both does not count."""
        theirs = {sample["round"]: sample[measure] for sample in other._timed()}
        return Spread.of(
            sample[measure] / theirs[sample["round"]]
            for sample in self._timed()
            if sample[measure] is not None and theirs.get(sample["round"])
        )

    def _timed(self) -> list[Mapping[str, Any]]:
        return [sample for sample in self.samples if sample["round"] > 0]


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The samples of a document by work, step and tool, in the order in which they were first measured."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for sample in document["samples"]:
        groups.setdefault((sample["work"], sample["step"], sample["tool"]), []).append(sample)
    works = document["works"]
    return [
        Row(work=work, **works[work], step=step, tool=tool, samples=tuple(samples))
        for (work, step, tool), samples in groups.items()
    ]


def fastest(rows: Iterable[Row], is_eligible: Callable[[Row], bool]) -> Row | None:
    """The row of the least median wall time."""
    walls = {row: spread.median for row in rows if is_eligible(row) and (spread := row.spread("wall"))}
    return min(walls, key=walls.__getitem__, default=None)
