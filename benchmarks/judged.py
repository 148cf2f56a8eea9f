"""The first two tables of a report: what was to be reached, and how far above the floor it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.goals import GOALS, Verdict, verdicts
from benchmarks.results import Row
from benchmarks.tables import spread, table

_BOUNDS = (
    "Where the cores are all but busy, CPU bounds the work: the registry's, and of syncer's own what the floor needs "
    "too (hashing, the kernel) and what is Python. benchmarks/results/profile.md has the shares, and says what bounds "
    "each goal that is not met."
)


def goals(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """The table of goals, and which of them this run has not measured."""
    found = list(verdicts(document, rows))
    yield table(("goal", "at", "bound", "found", "the floor itself", ""), map(_verdict, found))
    judged = {verdict.goal for verdict in found}
    others = [f"{goal.name} {goal.limit}" for goal in GOALS if goal not in judged]
    if others:
        yield f"Not measured in this run: {'; '.join(others)}."


def _verdict(verdict: Verdict) -> tuple[str, ...]:
    goal = verdict.goal
    judgement = "met" if verdict.is_met else "**not met**"
    if not verdict.is_met and not verdict.is_possible:
        assert verdict.floor
        judgement += f": the floor itself is at {verdict.floor.median:.2f}"
    return goal.name, verdict.server, goal.limit, spread(verdict.found), spread(verdict.floor), judgement


def above_floor(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """What syncer costs, divided by the least that the work can cost on this machine; nothing without a floor."""
    heads = ("work", "floor, wall s", "syncer, wall s", "syncer ÷ floor: wall", "client CPU", "cores busy", "by syncer")
    if costs := table(heads, _above_floor(document["machine"]["cores"], rows)):
        yield from ("## How far above the floor", costs, _BOUNDS)


def _above_floor(cores: int, rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for ours in (row for row in rows if row.tool == "syncer"):
        lean = next((row for row in rows if row.key == ours.key and row.tool == "floor"), None)
        if lean:
            yield (
                f"{ours.step}: {ours.work}",
                spread(lean.spread("wall")),
                spread(ours.spread("wall")),
                spread(ours.ratio_to(lean, "wall")),
                spread(ours.ratio_to(lean, "client_cpu")),
                f"{_busy(ours, cores, 'client_cpu', 'server_cpu', 'other_cpu'):.0%}",
                f"{_busy(ours, cores, 'client_cpu'):.0%}",
            )


def _busy(row: Row, cores: int, *whose: str) -> float:
    """The part of all cores' time that was used, by medians."""
    used = sum(found.median for name in whose if (found := row.spread(name)))
    wall = row.spread("wall")
    return used / (wall.median * cores) if wall else 0.0
