"""The scenario ``delta``: a tenth of a fleet's images is new, and the bundle carries only what the registry lacks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import lean
from benchmarks.checks import WrongResult
from benchmarks.corpus import Corpus, Image
from benchmarks.fleet import BASE, Place, judged, prepared_store
from benchmarks.generate import prepare
from benchmarks.installed import SYNCER
from benchmarks.jobs import Job
from benchmarks.link import Traffic, run_relay
from benchmarks.resources import Command, Cost, measure
from benchmarks.results import Spread
from benchmarks.servers import run_server
from benchmarks.tables import number, spread, table

NAME = "delta"
_MB = 1_000_000
_ASKED = re.compile(r"to ask took ([0-9.]+) s")


@dataclass(frozen=True, slots=True)
class Scenario:
    """The size of the scenario: ``new`` is the part of the images that the older bundle lacks."""

    rounds: int = 3
    corpus: str = "fleet"
    new: float = 0.1


SMOKE = Scenario(rounds=1, corpus="tiny", new=0.34)


def run(scenario: Scenario, place: Place) -> dict[str, Any]:
    """Measure all parts; returns what ``section`` makes a part of the report of."""
    corpus = prepare(scenario.corpus, place.cache)
    (directory := place.scratch / NAME).mkdir()
    try:
        with run_server(place.program, prepared_store(corpus, place.program, directory)) as source:
            bench = _Bench(scenario, place, directory, corpus, Job(corpus, directory, source.address))
            bench.make()
            for count in range(1, scenario.rounds + 1):
                place.tell(f"{NAME}: round {count} of {scenario.rounds}")
                bench.pushes(count)
            bench.merged()
        return {"corpus": corpus.figures(), "figures": bench.figures, "samples": bench.samples}
    finally:
        shutil.rmtree(directory)


class _Bench:
    def __init__(self, scenario: Scenario, place: Place, directory: Path, corpus: Corpus, job: Job) -> None:
        self._place = place
        self._directory = directory
        self._job = job
        self._images = corpus.images
        self._old = corpus.images[: round(len(corpus.images) * (1 - scenario.new))]
        self._new = corpus.images[len(self._old) :]
        self.figures: dict[str, float] = {}
        self.samples: list[dict[str, Any]] = []

    def make(self) -> None:
        """Build the bundles: the older one, all, all without what the registry has, and the new images alone."""
        self._build("old", self._old)
        self._build("all", self._images)
        self._build("new", self._new)
        with self._registry() as address:
            traffic = Traffic()
            with run_relay(address, traffic) as relay:
                listed = f"{self._directory}/have.json"
                cost = self._measure("have", "--registry", f"{relay}/{BASE}", "--output", listed)
            self._note("have", 0, cost)
            self.figures["have_requests"] = sum(traffic.requests.values()) / len(self._old)
            self.figures["have_bytes"] = Path(listed).stat().st_size
        self._build("all", self._images, "--have", listed)
        before = {digest for image in self._old for digest in image.blobs}
        fresh = {digest: size for image in self._new for digest, size in image.blobs.items() if digest not in before}
        self.figures["new_bytes"] = sum(fresh.values())
        self.figures["delta_bytes"] = self._bundle("delta").stat().st_size
        self.figures["full_bytes"] = self._bundle("all").stat().st_size

    def pushes(self, count: int) -> None:
        """The delta, the whole bundle and the new images alone, each to a registry that has the older bundle."""
        ways = ("delta", "all", "new")
        start = count % len(ways)
        for way in (*ways[start:], *ways[:start]):
            with self._registry() as address:
                target = f"{address}/{BASE}"
                cost = self._measure("push", "--file", self._bundle(way), "--registry", target, "--no-progress")
                asked = _ASKED.search((self._directory / "log").read_text())
                self._note(f"push of {way}", count, cost, asked=float(asked[1]) if asked else None)
                there = (
                    (f"{BASE}/{self._job.source.replace(':', '_')}/{image.repository}", image.tag, image)
                    for image in (self._old if way == "new" else self._images)
                )
                if wrong := lean.missing(there, address):
                    raise WrongResult(f"{way}: {len(wrong)} images are not there, such as {wrong[0]}")

    def merged(self) -> None:
        """Make the whole bundle of the older one and the delta, and hold it against the one that was built."""
        made = self._directory / "merged.tar.zst"
        old, delta = self._bundle("old"), self._bundle("delta")
        self._note("merge", 0, self._measure("merge", "--base", old, "--delta", delta, "--output", made))
        if made.read_bytes() != self._bundle("all").read_bytes():
            raise WrongResult("the merged bundle is not the one that was built")

    def _build(self, name: str, images: Sequence[Image], *more: str | Path) -> None:
        self._place.tell(f"{NAME}: {name} is built{', without what is there' if more else ''}")
        listed = self._job.write(f"{name}.txt", "".join(f"{self._job.at_source(image)}\n" for image in images))
        self._measure("build", "--images-file", listed, "--name", name, "--output", self._directory, *more)

    def _bundle(self, way: str) -> Path:
        return self._directory / ("all.delta.tar.zst" if way == "delta" else f"{way}.tar.zst")

    @contextmanager
    def _registry(self) -> Iterator[str]:
        """A registry that has the older bundle, and nothing remembered of it."""
        for name in ("home", "target"):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        with run_server(self._place.program, self._directory / "target") as server:
            self._pids = [server.pid]
            self._measure("push", "--file", self._bundle("old"), "--registry", f"{server.address}/{BASE}")
            shutil.rmtree(self._directory / "home", ignore_errors=True)
            yield server.address
        self._pids = []

    _pids: Sequence[int] = ()

    def _measure(self, *words: str | Path) -> Cost:
        (home := self._directory / "home").mkdir(exist_ok=True)
        environment = {**self._job.environment, "HOME": str(home), "XDG_STATE_HOME": str(home)}
        command = Command((*SYNCER, *map(str, words)), environment)
        return measure(command, self._pids, self._directory / "log")

    def _note(self, part: str, count: int, cost: Cost, *, asked: float | None = None) -> None:
        self.samples.append(
            {
                "part": part,
                "round": count,
                "wall": round(cost.wall, 3),
                "client_cpu": round(cost.client_cpu, 3),
                "server_cpu": cost.server_cpu and round(cost.server_cpu, 3),
                "peak_memory": cost.peak_memory,
                "asked": asked,
            }
        )


def section(found: Mapping[str, Any]) -> str:
    """The part of the report: what was to be reached, and what each step cost."""
    figures, samples, corpus = found["figures"], found["samples"], found["corpus"]
    intro = (
        f"{corpus['images']} images of {corpus['bytes'] / _MB:,.0f} MB, of which the registry has the older ones: "
        f"{figures['new_bytes'] / _MB:,.1f} MB are new; the whole bundle has {figures['full_bytes'] / _MB:,.1f} MB, "
        f"the delta {figures['delta_bytes'] / _MB:,.1f} MB, the list {figures['have_bytes'] / 1000:,.0f} kB."
    )
    heads = ("part", "wall s", "of it to ask, s", "client CPU s", "server CPU s", "peak MB")
    costs = table(heads, (_costs(part, samples) for part in dict.fromkeys(sample["part"] for sample in samples)))
    bounds = table(("goal", "bound", "found", ""), _bounds(figures, samples))
    return "\n\n".join((f"## {NAME}: a tenth of the images is new", intro, bounds, costs))


def _costs(part: str, samples: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    own = [sample for sample in samples if sample["part"] == part]
    figures = (
        spread(Spread.of(sample[name] for sample in own)) for name in ("wall", "asked", "client_cpu", "server_cpu")
    )
    return part, *figures, number(max(sample["peak_memory"] or 0 for sample in own), _MB, 0)


def _bounds(figures: Mapping[str, float], samples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield from judged(
        "size of the delta ÷ new content", 1.02, Spread.of([figures["delta_bytes"] / figures["new_bytes"]])
    )
    alone = {sample["round"]: sample["wall"] for sample in samples if sample["part"] == "push of new"}
    rest = (
        (sample["wall"] - (sample["asked"] or 0)) / alone[sample["round"]]
        for sample in samples
        if sample["part"] == "push of delta"
    )
    yield from judged("push without the questions, ÷ push of the new images alone", 1.1, Spread.of(rest))
    yield from judged("requests of have, an image", 1.1, Spread.of([figures["have_requests"]]))
