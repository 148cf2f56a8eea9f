"""Which --concurrency and --chunk-size suit a registry: the same bundle pushed with each pair of them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
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
        return f"--concurrency {self.concurrency} --chunk-size {self.chunk_mib}MiB"


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
            settings = ("--concurrency", str(parallel), "--chunk-size", str(chunk * _MIB))
            forgetful = ("--state-dir", str(directory / f"state-{parallel}-{chunk}"))  # else it mounts what it pushed
            command = ("push", "--file", str(bundle), "--registry", place, *settings, *forgetful, *options)
            cost = measure(Command((*SYNCER, *command)), [], directory / "log")
            yield Trial(parallel, chunk, cost.wall, cost.client_cpu, corpus.size / cost.wall / 1e6)


def sweep_here(settings: Sweep, corpus: Corpus, program: Program, directory: Path) -> Iterator[Trial]:
    """The same against a registry that is started for it, over the link that the settings name."""
    with ExitStack() as stack:
        address = stack.enter_context(run_server(program, directory / "registry")).address
        if settings.link:
            address = stack.enter_context(run_relay(address, Traffic(), settings.link))
        yield from sweep(
            corpus,
            address,
            concurrency=settings.concurrency,
            chunk_mib=settings.chunk_mib,
            options=(),
            directory=directory,
        )


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
            (float(trial.concurrency), trial.megabytes_per_second) for trial in trials if trial.chunk_mib == chunk
        ]
        for chunk in dict.fromkeys(trial.chunk_mib for trial in trials)
    }
    return lines(title, "concurrency", "MB/s", series, axis=math.log)


def _bundle(corpus: Corpus, directory: Path) -> Path:
    program = next((program for program in PROGRAMS.values() if program.found and program.distribution_store), None)
    if program is None:
        raise ServerFailed("docker-registry or registry must be on PATH, for the bundle to be built from")
    syncer = Syncer()
    with run_server(program, corpus.store.root) as source:
        job = Job(corpus, directory, source.address)
        measure(syncer.build(job), [], directory / "log")
    return syncer.bundled(job)
