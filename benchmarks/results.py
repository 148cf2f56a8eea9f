"""What a run found out, as the JSON document that everything else is made from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.rounds import Refusal, Sample
from benchmarks.works import Work


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """One line of ``samples``: seconds and bytes."""
    cost = sample.cost
    document = {
        **_where(sample.work),
        "step": sample.step.value,
        "tool": sample.tool,
        "round": sample.round,
        "is_timed": sample.round > 0,
        "wall": cost.wall,
        "client_cpu": cost.client_cpu,
        "server_cpu": cost.server_cpu,
        "peak_memory": cost.peak_memory,
    }
    if sample.traffic:
        document |= {
            "bytes_up": sample.traffic.up,
            "bytes_down": sample.traffic.down,
            "connections": sample.traffic.connections,
            "requests": dict(sample.traffic.requests),
        }
    return document


def refusal_to_json(refusal: Refusal) -> dict[str, Any]:
    return {
        **_where(refusal.work),
        "step": refusal.step.value,
        "tool": refusal.tool,
        "reason": refusal.reason,
    }


def _where(work: Work) -> dict[str, Any]:
    return {
        "work": work.name,
        "corpus": work.corpus,
        "server": work.server,
        "tls": work.tls,
        "link": str(work.link) if work.link else None,
    }


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


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One tool at one step of one work, over all its rounds."""

    work: str
    corpus: str
    server: str
    tls: bool
    link: str | None
    step: str
    tool: str
    samples: tuple[Mapping[str, Any], ...]

    @property
    def key(self) -> tuple[str, str]:
        """What rows that can be compared have in common."""
        return self.work, self.step

    def spread(self, measure: str) -> Spread | None:
        """Of ``wall``, ``client_cpu`` or ``server_cpu``, over the timed rounds."""
        return Spread.of(sample[measure] for sample in self._timed())

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

    def ratio_to(self, other: Row, measure: str) -> Spread | None:
        """Ours divided by the other's, round by round, so that what slowed both does not count."""
        theirs = {sample["round"]: sample[measure] for sample in other._timed()}
        return Spread.of(
            sample[measure] / theirs[sample["round"]]
            for sample in self._timed()
            if sample[measure] is not None and theirs.get(sample["round"])
        )

    def _timed(self) -> list[Mapping[str, Any]]:
        return [sample for sample in self.samples if sample["is_timed"]]


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The samples of a document by work, step and tool, in the order in which they were first measured."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for sample in document["samples"]:
        groups.setdefault((sample["work"], sample["step"], sample["tool"]), []).append(sample)
    return [_row(samples) for samples in groups.values()]


def _row(samples: Sequence[Mapping[str, Any]]) -> Row:
    first = samples[0]
    return Row(
        work=first["work"],
        corpus=first["corpus"],
        server=first["server"],
        tls=first["tls"],
        link=first["link"],
        step=first["step"],
        tool=first["tool"],
        samples=tuple(samples),
    )


def fastest(rows: Iterable[Row], is_eligible: Callable[[Row], bool]) -> Row | None:
    """The row of the least median wall time."""
    walls = {row: spread.median for row in rows if is_eligible(row) and (spread := row.spread("wall"))}
    return min(walls, key=walls.__getitem__, default=None)
