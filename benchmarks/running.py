"""One whole run: what is found here does all works, and its results are kept as they come."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.certificates import make_certificates
from benchmarks.floors import floors, machine
from benchmarks.generate import prepare
from benchmarks.installed import make_bytecode
from benchmarks.report import markdown
from benchmarks.results import refusal_to_json, rows_of, sample_to_json
from benchmarks.rounds import Bench, Sample
from benchmarks.servers import PROGRAMS
from benchmarks.tools import Tool
from benchmarks.works import Work

_MEMORY = Path("/dev/shm")  # memory-backed where Linux has it
_ROOM = 12_000_000_000  # bytes: what the largest corpus needs as bundles, layouts and registry at once


@dataclass(frozen=True, slots=True)
class Places:
    """Where corpora are kept, and where results are written."""

    cache: Path
    output: Path


def run(name: str, works: Sequence[Work], tools: Sequence[Tool], places: Places, *, rounds: int) -> Path:
    """Do all ``works``; returns the report's path.  What has been measured is written after each of them."""
    make_bytecode()
    places.output.mkdir(parents=True, exist_ok=True)
    with work_directory() as scratch:
        document = _head(name, works, tools, places, scratch, rounds=rounds)
        bench = Bench(places.cache, scratch, make_certificates(scratch / "tls"), rounds, _tell)
        for work in works:
            document["corpora"].setdefault(work.corpus, prepare(work.corpus, places.cache).figures())
            for outcome in bench.run(work, tools):
                if isinstance(outcome, Sample):
                    document["samples"].append(sample_to_json(outcome))
                else:
                    document["refusals"].append(refusal_to_json(outcome))
            write(document, places.output)
    return places.output / "report.md"


@contextmanager
def work_directory() -> Iterator[Path]:
    """A directory in memory where there is room for it, else on disk."""
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    with tempfile.TemporaryDirectory(prefix="syncer-benchmarks-", dir=_MEMORY if in_memory else None) as path:
        yield Path(path)


def write(document: Mapping[str, Any], output: Path) -> None:
    """The document, the report and the plots that follow from it."""
    (output / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (output / "report.md").write_text(markdown(document))
    (output / "ratios.svg").write_text(_ratios(document))
    growth = _growth(document)
    if growth:
        (output / "growth.svg").write_text(plot.lines("Time by number of images", "images", "seconds", growth))


def _head(
    name: str, works: Sequence[Work], tools: Sequence[Tool], places: Places, scratch: Path, *, rounds: int
) -> dict[str, Any]:
    servers = [PROGRAMS[server] for server in dict.fromkeys(work.server for work in works)]
    return {
        "set": name,
        "rounds": rounds,
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "machine": machine(),
        "floors": floors(scratch),
        "storage": {"work": _file_system(scratch), "corpora": _file_system(places.cache)},
        "servers": {server.name: server.version() for server in servers},
        "tools": {tool.name: tool.version() for tool in tools},
        "corpora": {},
        "samples": [],
        "refusals": [],
    }


def _ratios(document: Mapping[str, Any]) -> str:
    """How long each peer takes where syncer takes 1."""
    rows = rows_of(document)
    groups: dict[str, dict[str, float]] = {}
    for ours in (row for row in rows if row.tool == "syncer"):
        others = [row for row in rows if row.key == ours.key and row is not ours]
        ratios = {row.tool: ratio.median for row in others if (ratio := row.ratio_to(ours, "wall"))}
        if ratios:
            groups[f"{ours.step}: {ours.work}"] = ratios
    return plot.bars("Wall time, where syncer takes 1", groups)


def _growth(document: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Seconds by number of images, for each step of syncer over the corpora that grow."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows_of(document):
        wall = row.spread("wall")
        if row.tool == "syncer" and row.corpus.startswith("many") and wall:
            series.setdefault(row.step, []).append((document["corpora"][row.corpus]["images"], wall.median))
    return {step: sorted(points) for step, points in series.items()}


def _file_system(path: Path) -> str:
    """The directory and the kind of its file system, where /proc tells it."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return str(path)
    inside = [mount for mount in mounts if path.resolve().is_relative_to(mount[1])]
    return max(inside, key=lambda mount: len(mount[1]))[2]


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
