"""Which --concurrency and --chunk-size suit a registry: the same bundle pushed with each pair of them."""

from __future__ import annotations

import math
import secrets
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.installed import SYNCER
from benchmarks.jobs import Job
from benchmarks.link import Traffic, run_relay
from benchmarks.plot import lines
from benchmarks.resources import Command, measure
from benchmarks.servers import PROGRAMS, Program, ServerFailed, run_server
from benchmarks.tools import Syncer
from benchmarks.works import Sweep

_MIB = 1024 * 1024

FOUND_OUT = 0
"""Stands for no ``--concurrency``: each host finds out how many requests it is good for."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One push: how it was set, and what it brought."""

    concurrency: int
    chunk_mib: int
    seconds: float
    cpu: float
    megabytes_per_second: float

    @property
    def flags(self) -> str:
        return " ".join((*_concurrency(self.concurrency), "--chunk-size", f"{self.chunk_mib}MiB"))


def _concurrency(number: int) -> tuple[str, ...]:
    return () if number == FOUND_OUT else ("--concurrency", str(number))


def sweep(
    corpus: Corpus,
    registry: str,
    *,
    concurrency: Sequence[int],
    chunk_mib: Sequence[int],
    options: Sequence[str],
    directory: Path,
) -> Iterator[Trial]:
    """Push ``corpus`` once for each pair of settings, each time below a path of its own, so that nothing is there yet.

    ``options`` are passed on to ``syncer push``.  What was pushed stays at the registry.  Raises
    ``CommandFailed`` and ``ServerFailed``.
    """
    bundle = _bundle(corpus, directory)
    run = secrets.token_hex(4)
    for chunk in chunk_mib:
        for parallel in concurrency:
            place = f"{registry}/syncer-sweep/{run}/{parallel}-{chunk}"
            settings = (*_concurrency(parallel), "--chunk-size", str(chunk * _MIB))
            forgetful = ("--state-dir", str(directory / f"state-{parallel}-{chunk}"))  # else it mounts what it pushed
            command = ("push", "--file", str(bundle), "--registry", place, *settings, *forgetful, *options)
            cost = measure(Command((*SYNCER, *command)), [], directory / "log")
            yield Trial(parallel, chunk, cost.wall, cost.client_cpu, corpus.size / cost.wall / 1e6)


def sweep_here(settings: Sweep, corpus: Corpus, program: Program, directory: Path) -> Iterator[Trial]:
    """The same against a registry that is started for it, over the link that the settings name.

    Of several rounds, each of which begins with another setting, the median is what counts.
    """
    trials: list[Trial] = []
    for number in range(settings.rounds):
        start = number % len(settings.concurrency)
        with ExitStack() as stack:
            place = directory / f"round-{number}"
            place.mkdir()
            stack.callback(shutil.rmtree, place)
            address = stack.enter_context(run_server(program, place / "registry")).address
            if settings.link:
                address = stack.enter_context(run_relay(address, Traffic(), settings.link))
            trials += sweep(
                corpus,
                address,
                concurrency=(*settings.concurrency[start:], *settings.concurrency[:start]),
                chunk_mib=settings.chunk_mib,
                options=(),
                directory=place,
            )
    for chunk in settings.chunk_mib:
        for parallel in settings.concurrency:
            same = [trial for trial in trials if (trial.concurrency, trial.chunk_mib) == (parallel, chunk)]
            seconds, cpu = (statistics.median(getattr(trial, name) for trial in same) for name in ("seconds", "cpu"))
            yield replace(same[0], seconds=seconds, cpu=cpu, megabytes_per_second=corpus.size / seconds / 1e6)


def default_to_best(trials: Sequence[Mapping[str, Any]]) -> float | None:
    """The seconds without any flag, divided by those of the quickest setting; None where that was not tried."""
    others = [trial["seconds"] for trial in trials if trial["concurrency"] != FOUND_OUT]
    without = [trial["seconds"] for trial in trials if trial["concurrency"] == FOUND_OUT]
    return min(without) / min(others) if without and others else None


def best(trials: Sequence[Trial]) -> Trial:
    """The gentlest of those that come within 5 % of the quickest: fewer connections, then larger chunks."""
    quickest = min(trial.seconds for trial in trials)
    good = [trial for trial in trials if trial.seconds <= 1.05 * quickest]
    return min(good, key=lambda trial: (trial.concurrency, -trial.chunk_mib))


def to_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [asdict(trial) for trial in trials]


def plot(trials: Sequence[Trial], title: str) -> str:
    """Throughput by concurrency, a line for each chunk size."""
    series = {
        f"{chunk} MiB chunks": [
            (float(trial.concurrency), trial.megabytes_per_second)
            for trial in trials
            if trial.chunk_mib == chunk and trial.concurrency != FOUND_OUT
        ]
        for chunk in dict.fromkeys(trial.chunk_mib for trial in trials)
    }
    without = [trial.megabytes_per_second for trial in trials if trial.concurrency == FOUND_OUT]
    return lines(title, "concurrency", "MB/s", series, axis=math.log, default=max(without, default=None))


def _bundle(corpus: Corpus, directory: Path) -> Path:
    program = next((program for program in PROGRAMS.values() if program.found and program.distribution_store), None)
    if program is None:
        raise ServerFailed("docker-registry or registry must be on PATH, for the bundle to be built from")
    syncer = Syncer()
    with run_server(program, corpus.store.root) as source:
        job = Job(corpus, directory, source.address)
        measure(syncer.build(job), [], directory / "log")
    return syncer.bundled(job)
