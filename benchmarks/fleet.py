"""The scenario ``fleet-push``: one bundle for many sites in one run, beside loops of pushes, and failing sites."""

from __future__ import annotations

import http.server
import importlib.util
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import lean
from benchmarks.checks import WrongResult
from benchmarks.corpus import Corpus
from benchmarks.generate import prepare
from benchmarks.installed import SYNCER
from benchmarks.jobs import Job, Step, make_layouts
from benchmarks.peers import TOOLS
from benchmarks.resources import Command, CommandFailed, Cost, measure
from benchmarks.results import Spread
from benchmarks.servers import Program, run_server
from benchmarks.sites import Sites, loopback, run_sites
from benchmarks.tables import number, spread, table
from benchmarks.tools import Syncer, Tool, for_each_image

NAME = "fleet-push"
_CONNECT_SECONDS = 15.0  # syncer's own timeout for a connection
BASE = "edge"
_ALL = "0.0.0.0"  # a registry listens at one address or at all; it lives as long as a measurement
SIMULATED = ", simulated"
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """The size of the scenario: sites at one registry, how many of them fail, and numbers of simulated sites."""

    registries: int = 20
    dead: int = 3
    simulated: tuple[int, ...] = (250, 1000)
    rounds: int = 3
    corpus: str = "edge"
    small: str = "site"


SMOKE = Scenario(registries=5, dead=1, simulated=(5, 10), rounds=1, corpus="tiny", small="tiny")


@dataclass(frozen=True, slots=True)
class Place:
    """The directories of a run, and the registry that is used."""

    cache: Path
    scratch: Path
    program: Program
    tell: Callable[[str], None]


def run(scenario: Scenario, place: Place) -> dict[str, Any]:
    """Measure all parts; returns what ``section`` makes a part of the report of."""
    samples: list[dict[str, Any]] = []
    with ExitStack() as stack:
        directory = place.scratch / NAME
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        corpus = prepare(scenario.corpus, place.cache)
        bench = _Bench(scenario, place, directory, corpus, samples)
        with run_server(place.program, prepared_store(corpus, place.program, directory)) as source:
            bench.build(source.address, place.program)
            for count in range(1, scenario.rounds + 1):
                place.tell(f"{NAME}: round {count} of {scenario.rounds}")
                bench.beside_loops(count)
                bench.beside_failures(count)
                bench.synced(count)
                bench.on_a_cluster(count)
        bench.simulated()
    return {
        "registries": scenario.registries,
        "dead": scenario.dead,
        "corpus": corpus.figures(),
        "small": prepare(scenario.small, place.cache).figures(),
        "samples": samples,
    }


def prepared_store(corpus: Corpus, program: Program, directory: Path) -> Path:
    """The storage of a registry that serves ``corpus``."""
    directory.mkdir(parents=True, exist_ok=True)
    if program.distribution_store:
        return corpus.store.root
    with run_server(program, directory / "source") as empty:
        lean.push(corpus, empty.address)
    return directory / "source"


class _Bench:
    def __init__(
        self, scenario: Scenario, place: Place, directory: Path, corpus: Corpus, samples: list[dict[str, Any]]
    ) -> None:
        self._scenario = scenario
        self._place = place
        self._directory = directory
        self._corpus = corpus
        self._samples = samples
        self._jobs: dict[str, Job] = {}
        self._dropped: set[tuple[str, str]] = set()  # peers, each with the part in which it failed

    def build(self, source: str, program: Program) -> None:
        """Make each tool's bundle of what ``source`` serves."""
        for name in ("syncer", "imgpkg", "crane"):
            tool = TOOLS[name]
            if not tool.found:
                continue
            self._place.tell(f"{NAME}: {name} builds, from {program.name}")
            (directory := self._directory / name).mkdir()
            job = self._jobs[name] = Job(self._corpus, directory, source)
            if tool.pushes_layouts:
                make_layouts(self._corpus)
            else:
                measure(tool.build(job), [], self._directory / "log")

    def beside_loops(self, count: int) -> None:
        """All sites in one run, and one after the other by each tool; each begins with an empty registry.

        Likewise simulated sites, which leave the time of the cores to what pushes.
        """
        ways: list[tuple[str, str, Callable[[Sequence[str]], Command]]] = [
            ("syncer, one run", "syncer", self._fleet),
            ("syncer push, a loop", "syncer", self._loop),
            ("imgpkg copy, a loop", "imgpkg", self._imgpkg),
            ("crane push, a loop", "crane", self._crane),
        ]
        ways = [way for way in ways if way[1] in self._jobs]
        start = count % len(ways)
        for title, name, command in (*ways[start:], *ways[:start]):
            for part, beside in (("", self._beside), (SIMULATED, self._beside_simulated)):
                if (part, name) in self._dropped:
                    continue
                try:
                    beside(title, name, command, count)
                except (CommandFailed, WrongResult) as error:
                    if name == "syncer":
                        raise
                    self._dropped.add((part, name))  # a peer drops out; it does not end a run of hours
                    self._place.tell(f"{NAME}: {title} failed{part}: {error}")
                self._forget()

    def _beside(self, title: str, name: str, command: Callable[[Sequence[str]], Command], count: int) -> None:
        with self._sites(self._scenario.registries) as (sites, pids):
            cost = self._measure(command(sites), pids)
            self._check(TOOLS[name], self._jobs[name], sites)
            self._note("push", title, count, cost)
            if name == "syncer":
                self._note("nothing to do", title, count, self._measure(command(sites), pids))

    def _beside_simulated(self, title: str, name: str, command: Callable[[Sequence[str]], Command], count: int) -> None:
        with run_sites(self._scenario.registries) as simulated:
            sites = [f"{address}/{BASE}" for address in simulated.addresses]
            cost = self._measure(command(sites), [simulated.pid])
            _check_counts(simulated, len(self._corpus.images))
            self._note(f"push{SIMULATED}", title, count, cost)
            if name == "syncer":
                self._note(f"nothing to do{SIMULATED}", title, count, self._measure(command(sites), [simulated.pid]))

    def beside_failures(self, count: int) -> None:
        """The good sites alone, and then beside dead ones, one that takes no connection, and one that answers 503."""
        good = self._scenario.registries - self._scenario.dead - 2
        ends: dict[str, float] = {}
        for title in ("good alone", "beside failures"):
            with ExitStack() as stack:
                sites, pids = stack.enter_context(self._sites(good))
                failing: list[str] = []
                if title == "beside failures":
                    failing = [_nobody(good + number) for number in range(self._scenario.dead)]
                    failing.append(stack.enter_context(black_hole(loopback(good + self._scenario.dead))))
                    failing.append(stack.enter_context(out_of_order(loopback(good + self._scenario.dead + 1))))
                    failing = [f"{address}/{BASE}" for address in failing]
                reports = self._directory / "reports"
                reports.mkdir()
                command = self._fleet([*failing, *sites], "--report-dir", str(reports))
                cost = self._measure(command, pids, fails=bool(failing))
                self._check(TOOLS["syncer"], self._jobs["syncer"], sites)
                ends[title] = _last_end(reports)
                self._note("failures", title, count, cost, last_good=ends[title])
            self._forget()

    def synced(self, count: int) -> None:
        """A sync from registry to registry: each blob is fetched once for all targets."""
        job = self._jobs["syncer"]
        report = self._directory / "sync.json"
        with self._sites(self._scenario.registries) as (sites, pids):
            named = [word for site in sites for word in ("--registry", site)]
            images = job.write("sync.txt", "".join(f"{job.at_source(image)}\n" for image in self._corpus.images))
            argv = (*SYNCER, "sync", "--images-file", images, *named, "--no-progress", "--report", str(report))
            cost = self._measure(Command(argv, self._environment), pids)
            self._check(TOOLS["syncer"], job, sites)
        fetched = json.loads(report.read_text())["totals"]["bytes_fetched"]
        self._note("sync", "syncer, one run", count, cost, fetched=fetched / sum(self._corpus.blobs.values()))
        self._forget()

    def on_a_cluster(self, count: int) -> None:
        """A few sites by two processes of a Dask cluster on this machine, beside one process."""
        if importlib.util.find_spec("distributed") is None:
            return
        for title, more in (("one process", ()), ("--dask local:2", ("--dask", "local:2"))):
            with self._sites(min(4, self._scenario.registries)) as (sites, pids):
                cost = self._measure(self._fleet(sites, *more), pids)
                self._check(TOOLS["syncer"], self._jobs["syncer"], sites)
                self._note("a cluster", title, count, cost)
            self._forget()

    def simulated(self) -> None:
        """Many simulated sites in one process; the second run finds everything there."""
        (directory := self._directory / "small").mkdir()
        corpus = prepare(self._scenario.small, self._place.cache)
        program = self._place.program
        with run_server(program, prepared_store(corpus, program, directory / "store")) as source:
            job = Job(corpus, directory, source.address)
            measure(Syncer().build(job), [], self._directory / "log")
        for count in self._scenario.simulated:
            self._place.tell(f"{NAME}: {count} simulated sites")
            with run_sites(count) as sites:
                targets = job.write("sites.yaml", _targets(sites.addresses))
                file = str(Syncer().bundled(job))
                argv = (*SYNCER, "push", "--file", file, "--targets-file", targets, "--no-progress", "--json")
                for part in ("simulated", "simulated, nothing to do"):
                    cost = self._measure(Command(argv, self._environment), [sites.pid])
                    _check_counts(sites, len(corpus.images) + 1)
                    self._note(part, f"{count:,} sites", 1, cost, sites=count)
            self._forget()

    def _measure(self, command: Command, pids: Sequence[int], *, fails: bool = False) -> Cost:
        if fails:  # exit 1 is what is right then
            command = Command(("sh", "-c", '"$@" || test $? = 1', "sh", *command.argv), command.environment)
        return measure(command, pids, self._directory / "log")

    def _note(self, part: str, title: str, count: int, cost: Cost, **more: float) -> None:
        self._samples.append(
            {
                "part": part,
                "title": title,
                "round": count,
                "wall": round(cost.wall, 3),
                "client_cpu": round(cost.client_cpu, 3),
                "server_cpu": cost.server_cpu and round(cost.server_cpu, 3),
                "other_cpu": cost.other_cpu and round(cost.other_cpu, 3),
                "peak_memory": cost.peak_memory,
                **more,
            }
        )

    @property
    def _environment(self) -> Mapping[str, str]:
        """A home of the scenario's own, so that nothing is remembered from part to part."""
        (home := self._directory / "home").mkdir(exist_ok=True)
        return {**self._jobs["syncer"].environment, "HOME": str(home), "XDG_STATE_HOME": str(home)}

    def _forget(self) -> None:
        for name in ("home", "reports", "targets"):
            shutil.rmtree(self._directory / name, ignore_errors=True)

    @contextmanager
    def _sites(self, count: int) -> Iterator[tuple[list[str], list[int]]]:
        """So many places at one empty registry, each with a loopback address and a base path of its own."""
        with run_server(self._place.program, self._directory / "targets", host=_ALL) as server:
            port = server.address.rpartition(":")[2]
            yield [f"{loopback(number)}:{port}/{BASE}-{number}" for number in range(count)], [server.pid]

    def _fleet(self, sites: Sequence[str], *more: str) -> Command:
        named = [word for site in sites for word in ("--registry", site)]
        return Command((*self._push, *named, *more), self._environment)

    def _loop(self, sites: Sequence[str]) -> Command:
        lines = "".join(f"{site}\n" for site in sites)
        return Command(("xargs", "-L", "1", *self._push, "--registry"), self._environment, lines)

    @property
    def _push(self) -> tuple[str, ...]:
        file = str(TOOLS["syncer"].bundled(self._jobs["syncer"]))
        return (*SYNCER, "push", "--file", file, "--no-progress")

    def _imgpkg(self, sites: Sequence[str]) -> Command:
        job = self._jobs["imgpkg"]
        copy = ("imgpkg", "copy", "--tar", str(TOOLS["imgpkg"].bundled(job)), "--concurrency", "16")
        lines = "".join(f"{site}/everything\n" for site in sites)
        return Command(("xargs", "-L", "1", *copy, "--registry-insecure", "--to-repo"), job.environment, lines)

    def _crane(self, sites: Sequence[str]) -> Command:
        job = self._jobs["crane"]
        first, *others = (
            for_each_image(
                job,
                ("crane", "push", "--insecure"),  # it takes no loopback address but 127.0.0.1 for plain HTTP
                lambda image, site=site: (str(job.layout(image)), f"{site}/{image.name}"),  # type: ignore[misc]
            )
            for site in sites
        )
        return Command(first.argv, first.environment, "".join(command.lines for command in (first, *others)))

    def _check(self, tool: Tool, job: Job, sites: Sequence[str]) -> None:
        for site in sites:
            address, _, base = site.partition("/")
            places = ((*tool.at_target(Step.PUSH, image, job), image) for image in self._corpus.images)
            if wrong := lean.missing(((f"{base}/{at}", tag, image) for at, tag, image in places), address):
                raise WrongResult(f"{tool.name}: {len(wrong)} images are not at {site}, such as {wrong[0]}")


def _check_counts(sites: Sites, least: int) -> None:
    """Raise ``WrongResult`` unless all simulated sites have as many manifests, and the ``least`` that there must be."""
    have = set(sites.manifests())
    if len(have) != 1 or min(have) < least:
        raise WrongResult(f"simulated sites have {have} manifests")


def _targets(addresses: Sequence[str]) -> str:
    return "targets:\n" + "".join(f"  - registry: {address}/{BASE}\n" for address in addresses)


def _last_end(reports: Path) -> float:
    """Seconds from the first beginning of a good site to the last end of one."""
    documents = [json.loads(path.read_text()) for path in reports.iterdir()]
    good = [document for document in documents if not document["totals"]["images_failed"]]
    begins = min(datetime.fromisoformat(document["started"]) for document in documents)
    return (max(datetime.fromisoformat(document["ended"]) for document in good) - begins).total_seconds()


def _nobody(number: int) -> str:
    """An address at which nobody listens."""
    with socket.create_server((loopback(number), 0)) as probe:
        return f"{loopback(number)}:{probe.getsockname()[1]}"


@contextmanager
def black_hole(host: str) -> Iterator[str]:
    """An address that swallows what wants to connect: its queue is full, and nobody empties it."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((host, 0), backlog=0))
        address = listening.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(address)
        yield f"{host}:{address[1]}"


class _Unavailable(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _refuse(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = _refuse  # noqa: N815  the names are http.server's

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def out_of_order(host: str) -> Iterator[str]:
    """An address that answers 503 to everything."""
    server = http.server.ThreadingHTTPServer((host, 0), _Unavailable)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def section(found: Mapping[str, Any]) -> str:
    """The part of the report: what was to be reached, and what each way cost."""
    samples = found["samples"]
    corpus, small = found["corpus"], found["small"]
    intro = (
        f"{found['registries']} sites at one registry, each with a loopback address and a base path of its own, "
        f"{corpus['images']} images of {corpus['bytes'] / _MB:,.0f} MB for each; simulated sites are one process of "
        f"the benchmarks', with {small['images']} images of {small['bytes'] / _MB:,.1f} MB for each."
    )
    heads = ("part", "", "wall s", "client CPU s", "server CPU s", "others' CPU s", "peak MB", "last good site, s")
    rows = dict.fromkeys((sample["part"], sample["title"]) for sample in samples)
    costs = table(heads, (_costs(part, title, samples) for part, title in rows))
    bounds = table(("goal", "bound", "found", ""), _bounds(found))
    return "\n\n".join((f"## {NAME}: one bundle, many sites", intro, bounds, costs))


def _costs(part: str, title: str, samples: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    own = [sample for sample in samples if (sample["part"], sample["title"]) == (part, title)]

    def of(name: str) -> str:
        return spread(Spread.of(sample.get(name) for sample in own))

    peak = max((sample["peak_memory"] or 0 for sample in own), default=0)
    figures = (of(name) for name in ("wall", "client_cpu", "server_cpu", "other_cpu"))
    return part, title, *figures, number(peak, _MB, 0), of("last_good")


def _bounds(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    samples = found["samples"]
    fleet, loop = "syncer, one run", "syncer push, a loop"
    for where in ("", SIMULATED):
        for other in (loop, "imgpkg copy, a loop", "crane push, a loop"):
            yield from judged(
                f"wall, beside {other}{where}", 0.5, _ratio(samples, f"push{where}", fleet, other, "wall")
            )
        cpu = _ratio(samples, f"push{where}", fleet, loop, "client_cpu")
        yield from judged(f"client CPU, beside {loop}{where}", 0.45, cpu)
        idle = _figure(samples, f"nothing to do{where}", fleet, "client_cpu")
        yield from judged(f"nothing to do{where}, client CPU s", 0.5, idle)
    yield from judged("sync, bytes fetched ÷ distinct", 1.02, _figure(samples, "sync", fleet, "fetched"))
    last = _ratio(samples, "failures", "beside failures", "good alone", "last_good")
    yield from judged("last good site beside failures, ÷ good alone", 1.3, last)
    alone = {sample["round"]: sample["wall"] for sample in _of(samples, "good alone")}
    rest = (
        (sample["wall"] - 2 * _CONNECT_SECONDS) / alone[sample["round"]] for sample in _of(samples, "beside failures")
    )
    yield from judged("that run without two connect timeouts, ÷ good alone", 1.3, Spread.of(rest))
    simulated = [sample for sample in samples if sample["part"] == "simulated"]
    if len(simulated) > 1:
        each = [sample["client_cpu"] / sample["sites"] for sample in simulated]
        growth = Spread.of([each[-1] / each[0]])
        yield from judged("client CPU a simulated site, among the most ÷ among the fewest", 1.1, growth)
        peak = max(sample["peak_memory"] or 0 for sample in simulated)
        yield from judged("simulated sites, peak MB", 250, Spread.of([peak / _MB]))


def judged(goal: str, bound: float, value: Spread | None) -> Iterator[tuple[str, ...]]:
    """A row of the table of bounds; none for what was not measured."""
    if value is not None:
        yield goal, f"≤ {bound:g}", spread(value), "met" if value.median <= bound else "**not met**"


def _of(samples: Sequence[Mapping[str, Any]], title: str, part: str | None = None) -> list[Mapping[str, Any]]:
    return [sample for sample in samples if sample["title"] == title and part in (None, sample["part"])]


def _figure(samples: Sequence[Mapping[str, Any]], part: str, title: str, name: str) -> Spread | None:
    return Spread.of(sample[name] for sample in _of(samples, title, part))


def _ratio(samples: Sequence[Mapping[str, Any]], part: str, ours: str, other: str, name: str) -> Spread | None:
    theirs = {sample["round"]: sample[name] for sample in _of(samples, other, part)}
    return Spread.of(
        sample[name] / theirs[sample["round"]] for sample in _of(samples, ours, part) if theirs.get(sample["round"])
    )
