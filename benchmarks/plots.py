"""The plots that follow from a run's document: ratios to peers, growth, and what settings bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import plot, sweep
from benchmarks.results import rows_of


def plots(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each file, and the SVG that is in it."""
    yield "ratios.svg", plot.bars("Wall time, where syncer takes 1", _ratios(document))
    growth = _growth(document)
    if growth:
        yield "growth.svg", plot.lines("Time by number of images", "images", "seconds", growth)
    for tried in document["sweeps"]:
        trials = [sweep.Trial(**trial) for trial in tried["trials"]]
        yield f"sweep-{tried['corpus']}.svg", sweep.plot(trials, tried["title"])


def _ratios(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How long each peer takes where syncer takes 1."""
    rows = rows_of(document)
    groups: dict[str, dict[str, float]] = {}
    for ours in (row for row in rows if row.tool == "syncer"):
        others = [row for row in rows if row.key == ours.key and row is not ours]
        ratios = {row.tool: ratio.median for row in others if (ratio := row.ratio_to(ours, "wall"))}
        if ratios:
            groups[f"{ours.step}: {ours.work}"] = ratios
    return groups


def _growth(document: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Seconds by number of images, for each step of syncer over the corpora that grow."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows_of(document):
        wall = row.spread("wall")
        if row.tool == "syncer" and row.corpus.startswith("many") and wall:
            series.setdefault(row.step, []).append((document["corpora"][row.corpus]["images"], wall.median))
    return {step: sorted(points) for step, points in series.items()}
