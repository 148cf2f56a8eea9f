"""The first two tables of a report: what was to be reached, and how far above the floor it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks.bounds import bounds_of
from benchmarks.goals import GOALS, Verdict, verdicts
from benchmarks.results import Row, rows_of
from benchmarks.tables import spread, table

_HEADS = ("goal", "at", "bound", "found", "the floor itself", "")

_BOUNDS = (
    "Where the cores are all but busy, CPU bounds the work: the registry's, and of syncer's own what the floor needs "
    "too (hashing, the kernel) and what is Python. benchmarks/results/profile.md has the shares, and says what bounds "
    "each goal that is not met."
)


def goals(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """The table of goals, and which of them this run has not measured."""
    found = list(verdicts(document, rows))
    cores = document["machine"]["cores"]
    yield table(_HEADS, (_verdict(verdict, cores) for verdict in found))
    judged = {verdict.goal for verdict in found}
    others = [f"{goal.name} {goal.limit}" for goal in GOALS if goal not in judged]
    if others:
        yield f"Not measured in this run: {'; '.join(others)}."


def shown(document: Mapping[str, Any]) -> Table:
    """The table of goals for a terminal, those that are not met last, each with what bounds it."""
    made = Table(box=box.SIMPLE_HEAD, title="What it must reach", title_justify="left", title_style="bold")
    for head in _HEADS:
        made.add_column(head, overflow="fold")
    found = sorted(verdicts(document, rows_of(document)), key=lambda verdict: not verdict.is_met)
    for verdict in found:
        *cells, judgement = _verdict(verdict, document["machine"]["cores"])
        style = "green" if verdict.is_met else "red"
        made.add_row(*map(escape, cells), f"[{style}]{escape(judgement.replace('**', ''))}[/]")
    made.caption = f"{sum(verdict.is_met for verdict in found)} of {len(found)} met"
    made.caption_justify = "left"
    return made


def _verdict(verdict: Verdict, cores: int) -> tuple[str, ...]:
    goal = verdict.goal
    judgement = "met" if verdict.is_met else f"**not met**{_reason(verdict, cores)}"
    return goal.name, verdict.server, goal.limit, spread(verdict.found), spread(verdict.floor), judgement


def _reason(verdict: Verdict, cores: int) -> str:
    """What bounds a work whose goal is about time: the floor where that misses it too, and what took the time."""
    reasons = []
    if verdict.floor and not verdict.is_possible:
        reasons.append(f"the floor itself is at {verdict.floor.median:.2f}")
    if verdict.row and verdict.goal.is_of_time and (bounds := bounds_of(verdict.row, cores)):
        reasons.append(str(bounds))
    return "".join((": ", "; ".join(reasons))) if reasons else ""


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
