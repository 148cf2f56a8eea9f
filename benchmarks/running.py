"""One whole run: what is found here does all works, and its results are kept as they come."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import delta, fleet, sweep
from benchmarks.certificates import make_certificates
from benchmarks.document import merge, refusal_to_json, sample_to_json, to_text, work_to_json
from benchmarks.floors import floors, machine
from benchmarks.generate import prepare
from benchmarks.installed import make_bytecode
from benchmarks.plot import CAN_DRAW
from benchmarks.plots import plots
from benchmarks.report import markdown
from benchmarks.rounds import Bench, Sample
from benchmarks.servers import PROGRAMS
from benchmarks.tools import Tool
from benchmarks.works import Sweep, Work

_MEMORY = Path("/dev/shm")  # memory-backed where Linux has it
_ROOM = 12_000_000_000  # bytes: what the largest corpus needs as bundles, layouts and registry at once


@dataclass(frozen=True, slots=True)
class Places:
    """Where corpora are kept, and where results are written."""

    cache: Path
    output: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is to do; ``sweeps`` are made against the first server."""

    name: str
    works: Sequence[Work]
    sweeps: Sequence[Sweep]
    tools: Sequence[Tool]
    rounds: int
    fleet: fleet.Scenario | None = None  # at the first of its servers
    delta: delta.Scenario | None = None  # likewise
    servers: Sequence[str] = ()


def run(plan: Plan, places: Places, earlier: Mapping[str, Any] | None = None) -> Path:
    """Do all works; returns the report's path.

    What has been measured is written after each of them, with what ``earlier`` has of the others.
    """
    make_bytecode()
    places.output.mkdir(parents=True, exist_ok=True)
    with work_directory() as scratch:
        document = _head(plan, places, scratch)
        places.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="cold-", dir=places.cache) as disk:
            bench = Bench(places.cache, scratch, Path(disk), make_certificates(scratch / "tls"), plan.rounds, _tell)
            for _ in _progress(plan, bench, document):
                write(merge(earlier, document) if earlier else document, places.output)
    return places.output / "report.md"


def _progress(plan: Plan, bench: Bench, document: dict[str, Any]) -> Iterator[None]:
    """Add to ``document``, a work or sweep at a time."""
    for work in plan.works:
        document["corpora"].setdefault(work.corpus, prepare(work.corpus, bench.cache).figures())
        document["works"][work.name] = work_to_json(work)
        for outcome in bench.run(work, plan.tools):
            if isinstance(outcome, Sample):
                document["samples"].append(sample_to_json(outcome))
            elif (refusal := refusal_to_json(outcome)) not in document["refusals"]:
                document["refusals"].append(refusal)
        yield
    place = fleet.Place(bench.cache, bench.scratch, PROGRAMS[plan.servers[0]], _tell) if plan.servers else None
    if plan.fleet is not None and place:
        document["fleet_push"] = fleet.run(plan.fleet, place)
        yield
    if plan.delta is not None and place:
        document["delta"] = delta.run(plan.delta, place)
        yield
    for number, settings in enumerate(plan.sweeps):
        program = PROGRAMS[plan.servers[0]]
        title = ", ".join(map(str, filter(None, (f"Push of {settings.corpus} into {program.name}", settings.link))))
        _tell(f"sweep: {title}")
        directory = bench.scratch / f"sweep-{number}"
        directory.mkdir()
        trials = sweep.sweep_here(settings, prepare(settings.corpus, bench.cache), program, directory)
        shutil.rmtree(directory)
        document["sweeps"].append({"corpus": settings.corpus, "title": title, "trials": sweep.to_json(trials)})
        yield


@contextmanager
def work_directory() -> Iterator[Path]:
    """A directory in memory where there is room for it, else on disk."""
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    with tempfile.TemporaryDirectory(prefix="syncer-benchmarks-", dir=_MEMORY if in_memory else None) as path:
        yield Path(path)


def write(document: Mapping[str, Any], output: Path) -> None:
    """The document, the report and the plots that follow from it, which need matplotlib."""
    (output / "results.json").write_text(to_text(document))
    if not CAN_DRAW:
        (output / "report.md").write_text(markdown(document))
        return
    drawn = dict(plots(document))
    for name, svg in drawn.items():
        (output / name).write_text(svg)
    shown = "".join(f"\n![]({name})\n" for name in drawn)
    (output / "report.md").write_text(f"{markdown(document)}\n## Plots\n{shown}")


def _head(plan: Plan, places: Places, scratch: Path) -> dict[str, Any]:
    used = (*(work.server for work in plan.works), *plan.servers[:1])
    servers = [PROGRAMS[server] for server in dict.fromkeys(used)]
    return {
        "set": plan.name,
        "rounds": plan.rounds,
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "machine": machine(),
        "floors": floors(scratch),
        "storage": {"work": _file_system(scratch), "corpora": _file_system(places.cache)},
        "servers": {server.name: server.version() for server in servers},
        "tools": {tool.name: tool.version() for tool in plan.tools},
        "corpora": {},
        "works": {},
        "samples": [],
        "refusals": [],
        "sweeps": [],
    }


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
